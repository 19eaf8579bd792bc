//! Boot parameters: the "zero page", the memory map and the command line.

use std::ops::Range;

use linux_loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{ByteValued, GuestAddress};

use super::image::{KernelError, KernelImage, Loaded};
use super::paging::EntryState;
use crate::acpi::AREA_START;
use crate::layout::{DEVICE_GAP_START, HIGH_RAM_START, LOW_RAM_END, PAGE_SIZE, ram_regions};
use crate::memory::{Access, DeviceMemory, GuestRange, HoldError};

const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// Linux on x86 keeps 2048 bytes of its command line with the terminating zero.
const LINUX_COMMAND_LINE: usize = 2047;
/// The slowest tick a Linux kernel is built for, in Hz. Another kernel's delays are longer than asked for then, never shorter.
const SLOWEST_TICK_HZ: u64 = 100;
/// Longest text that [`clock_argument`] puts before a command line.
const CLOCK_ARGUMENT: usize = "tsc_early_khz=4294967295 lpj=42949672950 ".len();
/// Longest command line in bytes: what Linux keeps, less what tells it the clock's rate.
pub const MAX_COMMAND_LINE: usize = LINUX_COMMAND_LINE - CLOCK_ARGUMENT;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
/// Persistent memory, which the kernel leaves to the drivers for what the NFIT describes. Relaxed memory does not persist; nobody there asks.
const E820_PERSISTENT: u32 = 7;
/// "Undefined": no registered boot loader.
const LOADER_TYPE: u8 = 0xff;
/// Highest address of an initramfs when the kernel does not tell: boot protocol before 2.03.
const DEFAULT_INITRD_MAX: u32 = 0x37ff_ffff;

/// Why a kernel cannot be booted with what it was given.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The command line is too long.
    #[error("the kernel command line has {0} bytes, there is room for {MAX_COMMAND_LINE}; shorten --append")]
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
    Memory(#[from] HoldError),
}

/// A kernel and what it gets, checked to fit together before memory is touched.
#[derive(Debug)]
pub struct BootPlan<'a> {
    kernel: &'a KernelImage,
    initrd: &'a [u8],
    initrd_start: u64,
    command_line: &'a str,
    memory: u64,
    /// Start and length of the relaxed memory, if there is some.
    relaxed: Option<(GuestAddress, u64)>,
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
        let kernel_end = kernel.end();
        let initrd_len = initrd.len() as u64;
        let start = top.checked_sub(initrd_len).map(|start| start & !(PAGE_SIZE - 1));
        match start.filter(|start| *start >= kernel_end) {
            Some(initrd_start) => Ok(Self { kernel, initrd, initrd_start, command_line, memory, relaxed: None }),
            None => Err(BootError::NoRoom { kernel: kernel_end >> 20, initrd: initrd_len >> 20, memory: low >> 20 }),
        }
    }

    /// The same with relaxed memory, which the kernel is told of: start and length in bytes.
    #[must_use]
    pub fn with_relaxed(self, relaxed: Option<(GuestAddress, u64)>) -> Self {
        Self { relaxed, ..self }
    }

    /// Puts kernel, initramfs and boot parameters into guest memory; returns how the kernel is entered. `tsc_khz` is the
    /// rate of the guest's clock, which its command line tells it first.
    pub(crate) fn load(&self, memory: &DeviceMemory, tsc_khz: u32) -> Result<EntryState, BootError> {
        let loaded = {
            let Range { start, end } = self.kernel.loaded_range();
            let range = GuestRange { start: GuestAddress(start), len: end.saturating_sub(start) };
            self.kernel.load(&*memory.hold(&[(range, Access::Write)])?)?
        };
        debug_assert!(loaded.end <= self.initrd_start, "the plan left room");
        memory.write(GuestAddress(self.initrd_start), self.initrd)?;
        let command_line = clock_argument(tsc_khz) + self.command_line + "\0";
        memory.write(COMMAND_LINE, command_line.as_bytes())?;
        memory.write(ZERO_PAGE, self.zero_page(&loaded, command_line.len() as u64 - 1).as_slice())?;
        Ok(EntryState { rip: loaded.entry, rsi: ZERO_PAGE })
    }

    fn zero_page(&self, loaded: &Loaded, command_line: u64) -> boot_params {
        let mut params = boot_params { hdr: loaded.header, acpi_rsdp_addr: AREA_START, ..Default::default() };
        params.hdr.type_of_loader = LOADER_TYPE;
        params.hdr.cmd_line_ptr = low_half(COMMAND_LINE.0);
        params.hdr.cmdline_size = low_half(command_line);
        if !self.initrd.is_empty() {
            params.hdr.ramdisk_image = low_half(self.initrd_start);
            params.hdr.ramdisk_size = low_half(self.initrd.len() as u64);
        }
        let map = memory_map(self.memory, self.relaxed);
        params.e820_entries = map.len().to_le_bytes()[0];
        params.e820_table[..map.len()].copy_from_slice(&map);
        params
    }
}

/// The rate of the clock, and what a processor would measure of it by waiting for ticks that another one counts: loops per tick, each one
/// count of the clock.
fn clock_argument(tsc_khz: u32) -> String {
    let loops = u64::from(tsc_khz) * 1000 / SLOWEST_TICK_HZ;
    format!("tsc_early_khz={tsc_khz} lpj={loops} ")
}

/// What the boot protocol has 32 bits for; the plan keeps these addresses and sizes below 4 GiB.
fn low_half(value: u64) -> u32 {
    debug_assert!(value <= u64::from(u32::MAX), "{value:#x} was planned below 4 GiB");
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The memory map as firmware would report it (ACPI specification, section 15).
fn memory_map(memory: u64, relaxed: Option<(GuestAddress, u64)>) -> Vec<boot_e820_entry> {
    let entry = |addr, size, kind| boot_e820_entry { addr, size, r#type: kind };
    let mut map =
        vec![entry(0, LOW_RAM_END, E820_RAM), entry(LOW_RAM_END, HIGH_RAM_START - LOW_RAM_END, E820_RESERVED)];
    for (start, len) in ram_regions(memory) {
        let from = start.0.max(HIGH_RAM_START);
        map.push(entry(from, start.0 + len - from, E820_RAM));
    }
    map.extend(relaxed.map(|(start, len)| entry(start.0, len, E820_PERSISTENT)));
    map
}

#[cfg(test)]
mod tests {
    use super::super::elf;
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;
    use std::sync::Arc;
    use vm_memory::{Bytes, GuestMemoryMmap};

    const MEMORY: u64 = 64 << 20;

    fn image(bytes: Vec<u8>) -> Result<KernelImage, KernelError> {
        KernelImage::from_bytes(Path::new("kernel"), bytes)
    }

    /// A bzImage of a few KiB.
    fn bzimage() -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0x1f1, &[1]); // setup_sects
        put(0x202, b"HdrS\x0f\x02");
        put(0x211, &[1]); // loadflags
        put(0x22c, &[0xff, 0xff, 0xff, 0x7f]); // initrd_addr_max
        put(0x236, &[1]); // xloadflags
        put(0x25b, &[1]); // pref_address: 16 MiB
        put(0x262, &[1]); // init_size: 64 KiB
        bytes
    }

    #[test]
    fn the_memory_map_leaves_out_firmware_and_devices() {
        let map = |relaxed| -> Vec<_> {
            memory_map(5 << 30, relaxed).iter().map(|entry| (entry.addr, entry.size, entry.r#type)).collect()
        };
        let high = (3 << 30) - HIGH_RAM_START;
        let expected = vec![(0, 0xa_0000, 1), (0xa_0000, 0x6_0000, 2), (0x10_0000, high, 1), (4 << 30, 2 << 30, 1)];
        assert_eq!(map(None), expected);
        let with_relaxed = [expected, vec![(6 << 30, 66 << 20, 7)]].concat();
        assert_eq!(map(Some((GuestAddress(6 << 30), 66 << 20))), with_relaxed);
    }

    #[test]
    fn the_longest_command_line_fits_with_the_fastest_clock() {
        assert_eq!(clock_argument(u32::MAX).len(), CLOCK_ARGUMENT);
        let kernel = image(elf::tests::image(16)).unwrap();
        let longest = "x".repeat(MAX_COMMAND_LINE);
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap());
        let window = DeviceMemory::new(Arc::clone(&memory));
        BootPlan::new(&kernel, &[], &longest, 4 << 20).unwrap().load(&window, u32::MAX).unwrap();
        let mut line = [0; LINUX_COMMAND_LINE + 1];
        memory.read_slice(&mut line, COMMAND_LINE).unwrap();
        assert_eq!(line, *format!("tsc_early_khz=4294967295 lpj=42949672950 {longest}\0").as_bytes());
        let params: boot_params = memory.read_obj(ZERO_PAGE).unwrap();
        let size = params.hdr.cmdline_size;
        assert_eq!(size as usize, LINUX_COMMAND_LINE);

        let longer = longest + "x";
        assert!(matches!(BootPlan::new(&kernel, &[], &longer, 4 << 20), Err(BootError::CommandLine(_))));
        assert!(matches!(BootPlan::new(&kernel, &[], "a\0b", 4 << 20), Err(BootError::ZeroByte)));
    }

    #[test]
    fn the_initramfs_is_high_in_memory_and_above_the_kernel() {
        let kernel = image(bzimage()).unwrap();
        let kernel_end = (16 << 20) + (64 << 10);
        let fits = vec![0; usize::try_from(MEMORY - kernel_end).unwrap()];
        assert_eq!(BootPlan::new(&kernel, &fits, "", MEMORY).unwrap().initrd_start, kernel_end);
        let larger = vec![0; fits.len() + 1];
        let error = BootPlan::new(&kernel, &larger, "", MEMORY).unwrap_err().to_string();
        assert!(error.contains("do not fit into 64 MiB"), "{error}");
        let high = BootPlan::new(&kernel, &[0; 4097], "", 8 << 30).unwrap().initrd_start;
        assert_eq!(high, (2 << 30) - 8192, "the kernel's own limit");
    }

    fn damaged(whole: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
        let len = whole.len();
        let change = (0..0x280.min(len), prop_oneof![any::<u8>(), Just(0), Just(0xff)]);
        (prop::collection::vec(change, 0..12), 0..=len).prop_map(move |(changes, cut)| {
            let mut bytes = whole.clone();
            changes.into_iter().for_each(|(at, value)| bytes[at] = value);
            // Most images keep their length, or little else than its checks would be tested.
            if cut % 4 == 0 {
                bytes.truncate(cut);
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn a_damaged_image_is_refused_or_loaded(
            bytes in prop_oneof![damaged(bzimage()), damaged(elf::tests::image(0x100))],
            initrd in 0usize..100_000,
        ) {
            let Ok(kernel) = image(bytes) else { return Ok(()) };
            let initrd = vec![0; initrd];
            let Ok(plan) = BootPlan::new(&kernel, &initrd, "", MEMORY) else { return Ok(()) };
            let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap());
            let entry = plan.load(&DeviceMemory::new(memory), 1).unwrap();
            prop_assert!((HIGH_RAM_START..plan.initrd_start).contains(&entry.rip.0));
        }
    }
}
