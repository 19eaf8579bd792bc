//! Boot parameters: the "zero page", the memory map and the command line.

use linux_loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::image::{KernelError, KernelImage, Loaded};
use super::paging::EntryState;
use crate::acpi::AREA_START;
use crate::layout::{DEVICE_GAP_START, HIGH_RAM_START, LOW_RAM_END, PAGE_SIZE, ram_regions};

const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// Longest command line in bytes: Linux on x86 keeps 2048 with the terminating zero.
pub const MAX_COMMAND_LINE: usize = 2047;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
/// "Undefined": no registered boot loader.
const LOADER_TYPE: u8 = 0xff;
/// Highest address of an initramfs when the kernel does not tell: boot protocol before 2.03.
const DEFAULT_INITRD_MAX: u32 = 0x37ff_ffff;
/// Room that a kernel needs above itself while it starts, when its header does not tell.
const DEFAULT_KERNEL_ROOM: u64 = 32 << 20;

/// Why a kernel cannot be booted with what it was given.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The command line is too long.
    #[error("the kernel command line has {0} bytes, Linux takes {MAX_COMMAND_LINE}; shorten --append")]
    CommandLine(usize),
    /// The command line would end early.
    #[error("the kernel command line holds a zero byte; remove it from --append")]
    ZeroByte,
    /// Kernel and initramfs do not fit.
    #[error(
        "the kernel ({kernel} MiB) and its initramfs ({initrd} MiB) do not fit into {memory} MiB of memory below 3 GiB; give more with --mem"
    )]
    NoRoom {
        /// Memory the kernel needs to start, in MiB.
        kernel: u64,
        /// Size of the initramfs in MiB.
        initrd: u64,
        /// Memory there is, in MiB.
        memory: u64,
    },
    /// The image cannot be loaded.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A boot structure does not fit into memory.
    #[error("a boot structure cannot be written to guest memory: {0}")]
    Memory(#[from] GuestMemoryError),
}

/// A kernel and what it gets, checked to fit together before memory is touched.
#[derive(Debug)]
pub struct BootPlan<'a> {
    kernel: &'a KernelImage,
    initrd: &'a [u8],
    initrd_start: u64,
    command_line: &'a str,
    memory: u64,
}

impl<'a> BootPlan<'a> {
    /// Plans a boot in `memory` bytes of RAM. An empty `initrd` is none.
    ///
    /// # Errors
    /// [`BootError`] naming what does not fit.
    pub fn new(
        kernel: &'a KernelImage,
        initrd: &'a [u8],
        command_line: &'a str,
        memory: u64,
    ) -> Result<Self, BootError> {
        if command_line.len() > MAX_COMMAND_LINE {
            return Err(BootError::CommandLine(command_line.len()));
        }
        if command_line.bytes().any(|byte| byte == 0) {
            return Err(BootError::ZeroByte);
        }
        let low = memory.min(DEVICE_GAP_START) & !(PAGE_SIZE - 1);
        let top = low.min(u64::from(kernel.initrd_max().unwrap_or(DEFAULT_INITRD_MAX)) + 1);
        let room = match kernel.init_size() {
            0 => DEFAULT_KERNEL_ROOM,
            size => size,
        };
        // A relocatable kernel starts at its preferred address of 16 MiB or above, wherever it is loaded.
        let kernel_end = kernel.preferred_address().max(HIGH_RAM_START) + room;
        let initrd_len = initrd.len() as u64;
        let start = top.checked_sub(initrd_len).map(|start| start & !(PAGE_SIZE - 1));
        match start.filter(|start| *start >= kernel_end) {
            Some(initrd_start) => Ok(Self { kernel, initrd, initrd_start, command_line, memory }),
            None => Err(BootError::NoRoom { kernel: kernel_end >> 20, initrd: initrd_len >> 20, memory: low >> 20 }),
        }
    }

    /// Puts kernel, initramfs and boot parameters into guest memory; returns how the kernel is entered.
    pub(crate) fn load(&self, memory: &GuestMemoryMmap) -> Result<EntryState, BootError> {
        let loaded = self.kernel.load(memory)?;
        debug_assert!(loaded.end <= self.initrd_start, "the plan left room");
        memory.write_slice(self.initrd, GuestAddress(self.initrd_start))?;
        memory.write_slice(self.command_line.as_bytes(), COMMAND_LINE)?;
        memory.write_obj(0u8, GuestAddress(COMMAND_LINE.0 + self.command_line.len() as u64))?;
        memory.write_obj(self.zero_page(&loaded), ZERO_PAGE)?;
        Ok(EntryState { rip: loaded.entry, rsi: ZERO_PAGE })
    }

    fn zero_page(&self, loaded: &Loaded) -> boot_params {
        let mut params = boot_params { hdr: loaded.header, acpi_rsdp_addr: AREA_START, ..Default::default() };
        params.hdr.type_of_loader = LOADER_TYPE;
        params.hdr.cmd_line_ptr = low_half(COMMAND_LINE.0);
        params.hdr.cmdline_size = low_half(self.command_line.len() as u64);
        if !self.initrd.is_empty() {
            params.hdr.ramdisk_image = low_half(self.initrd_start);
            params.hdr.ramdisk_size = low_half(self.initrd.len() as u64);
        }
        let map = memory_map(self.memory);
        params.e820_entries = map.len().to_le_bytes()[0];
        params.e820_table[..map.len()].copy_from_slice(&map);
        params
    }
}

/// What the boot protocol has 32 bits for; the plan keeps these addresses and sizes below 4 GiB.
fn low_half(value: u64) -> u32 {
    debug_assert!(value <= u64::from(u32::MAX), "{value:#x} was planned below 4 GiB");
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The memory map as firmware would report it (ACPI specification, section 15).
fn memory_map(memory: u64) -> Vec<boot_e820_entry> {
    let entry = |addr, size, kind| boot_e820_entry { addr, size, r#type: kind };
    let mut map =
        vec![entry(0, LOW_RAM_END, E820_RAM), entry(LOW_RAM_END, HIGH_RAM_START - LOW_RAM_END, E820_RESERVED)];
    for (start, len) in ram_regions(memory) {
        let from = start.0.max(HIGH_RAM_START);
        map.push(entry(from, start.0 + len - from, E820_RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_map_leaves_out_firmware_and_devices() {
        let map: Vec<_> = memory_map(5 << 30).iter().map(|entry| (entry.addr, entry.size, entry.r#type)).collect();
        let high = (3 << 30) - HIGH_RAM_START;
        let expected = [(0, 0xa_0000, 1), (0xa_0000, 0x6_0000, 2), (0x10_0000, high, 1), (4 << 30, 2 << 30, 1)];
        assert_eq!(map, expected);
    }
}
