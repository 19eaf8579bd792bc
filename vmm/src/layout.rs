//! Where everything is in the guest's physical address space.
//!
//! | from | to | what |
//! |---|---|---|
//! | 0 | 640 KiB | RAM: boot structures below, see [`crate::boot`] |
//! | 640 KiB | 1 MiB | reserved; the ACPI tables in its last 128 KiB |
//! | 1 MiB | 3 GiB | RAM: kernel first, initramfs last |
//! | 3 GiB | 4 GiB | devices: virtio at 3.25 GiB, IOAPIC and local APICs at their usual places |
//! | 4 GiB | | RAM that did not fit below 3 GiB |
//! | the next GiB | | relaxed memory, if the machine has some: its header, then what programs get |

use vm_memory::GuestAddress;

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;
/// First byte after the low RAM that a kernel may use: above it PCs have video memory and firmware.
pub const LOW_RAM_END: u64 = 0xa_0000;
/// Where RAM goes on after the firmware's area.
pub const HIGH_RAM_START: u64 = 0x10_0000;
/// Where RAM ends for the devices' sake.
pub const DEVICE_GAP_START: u64 = 3 << 30;
/// Where RAM that did not fit below the devices goes on.
pub const DEVICE_GAP_END: u64 = 4 << 30;
/// Least RAM of a machine: a distribution's kernel with its initramfs needs this much.
pub const MIN_MEMORY: u64 = 64 << 20;
/// Most bytes of one range of memory that KVM takes (`KVM_MEM_MAX_NR_PAGES` of Linux, include/linux/kvm_host.h).
const MAX_SLOT: u64 = ((1 << 31) - 1) * PAGE_SIZE;
/// Most RAM of a machine: what is above the devices is one range.
pub const MAX_MEMORY: u64 = 8 << 40;
const _: () = assert!(MAX_MEMORY - DEVICE_GAP_START <= MAX_SLOT);

/// Relaxed memory comes in multiples of this: what the guest's DAX driver maps with one entry.
pub const RELAXED_ALIGNMENT: u64 = 2 << 20;
/// Before the relaxed memory that programs get: the block that makes it a DAX device, and nothing else.
pub const RELAXED_HEADER: u64 = RELAXED_ALIGNMENT;
/// The first part of the relaxed memory that programs get, for what they and vincs tell each other: no array is in it.
pub const RELAXED_CONTROL: u64 = 2 << 20;
/// Relaxed memory starts at a multiple of this: in no section of memory (128 MiB) that has RAM, and mapped by the largest pages.
pub const RELAXED_START_ALIGNMENT: u64 = 1 << 30;
/// Most relaxed memory of a machine: with its header it is one range.
pub const MAX_RELAXED: u64 = (8 << 40) - (1 << 30);
const _: () = assert!(RELAXED_HEADER + MAX_RELAXED <= MAX_SLOT && MAX_RELAXED.is_multiple_of(RELAXED_ALIGNMENT));

/// Registers of the first virtio device; the others follow.
pub const VIRTIO_START: u64 = 0xd000_0000;
/// Global system interrupt of the first virtio device; below are those of the legacy devices.
pub const VIRTIO_FIRST_GSI: u32 = 16;
/// Most virtio devices: one pin of the IOAPIC each.
pub const MAX_VIRTIO_DEVICES: usize = crate::apic::IO_APIC_PINS - VIRTIO_FIRST_GSI as usize;
/// Registers of the IOAPIC.
pub const IO_APIC_START: u64 = 0xfec0_0000;
/// Bytes of the IOAPIC's registers.
pub const IO_APIC_SIZE: u64 = 0x1000;

/// First port of the serial console, COM1.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Global system interrupt of the serial console.
pub const SERIAL_GSI: u32 = 4;
/// Index port of the real-time clock; its data port follows.
pub const CLOCK_PORT: u16 = 0x70;
/// The power registers: ACPI sleep control, sleep status and reset, one port each.
pub const POWER_PORT: u16 = 0x600;

/// RAM as ranges of guest-physical memory, start and length in bytes. `bytes` is rounded down to whole pages.
#[must_use]
pub fn ram_regions(bytes: u64) -> Vec<(GuestAddress, u64)> {
    let bytes = bytes & !(PAGE_SIZE - 1);
    let below = bytes.min(DEVICE_GAP_START);
    let above = bytes - below;
    let mut regions = vec![(GuestAddress(0), below)];
    if above > 0 {
        regions.push((GuestAddress(DEVICE_GAP_END), above));
    }
    regions
}

/// First address after a machine's RAM.
fn ram_end(memory: u64) -> u64 {
    ram_regions(memory).last().map_or(0, |(start, len)| start.0 + len)
}

/// First guest-physical address after a machine's RAM, devices and relaxed memory: its processors have to reach all below.
#[must_use]
pub fn machine_end(memory: u64, relaxed: u64) -> u64 {
    relaxed_region(memory, relaxed).map_or(ram_end(memory).max(DEVICE_GAP_END), |(start, len)| start.0 + len)
}

/// Where relaxed memory is in a machine with so many bytes of RAM, with its header: start and length in bytes. `relaxed` is what programs
/// get of it; with 0 there is none.
#[must_use]
pub fn relaxed_region(memory: u64, relaxed: u64) -> Option<(GuestAddress, u64)> {
    let start = ram_end(memory).max(DEVICE_GAP_END).next_multiple_of(RELAXED_START_ALIGNMENT);
    (relaxed > 0).then_some((GuestAddress(start), RELAXED_HEADER + relaxed))
}

/// RAM split evenly over NUMA nodes in whole 2 MiB pages: start, length and node of each piece. The last node also
/// has what is left over.
#[must_use]
pub fn node_ranges(bytes: u64, nodes: u32) -> Vec<(u64, u64, u32)> {
    const LARGE_PAGE: u64 = 2 << 20;
    let share = (bytes / u64::from(nodes.max(1))) & !(LARGE_PAGE - 1);
    let mut pieces = Vec::new();
    let (mut node, mut left) = (0, share);
    for (start, len) in ram_regions(bytes) {
        let (mut at, end) = (start.0, start.0 + len);
        while at < end {
            let last = node + 1 >= nodes;
            let piece = if last { end - at } else { left.min(end - at) };
            pieces.push((at, piece, node));
            at += piece;
            left -= if last { 0 } else { piece };
            if left == 0 && !last {
                (node, left) = (node + 1, share);
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_goes_around_the_devices() {
        assert_eq!(ram_regions(1 << 30), [(GuestAddress(0), 1 << 30)]);
        assert_eq!(ram_regions(3 << 30), [(GuestAddress(0), 3 << 30)]);
        let split = [(GuestAddress(0), 3 << 30), (GuestAddress(4 << 30), PAGE_SIZE)];
        assert_eq!(ram_regions((3 << 30) + PAGE_SIZE + 1), split);
    }

    #[test]
    fn relaxed_memory_is_above_all_ram() {
        const MIB: u64 = 1 << 20;
        assert_eq!(relaxed_region(1 << 30, 0), None);
        assert_eq!(relaxed_region(1 << 30, 2 * MIB), Some((GuestAddress(4 << 30), 4 * MIB)));
        assert_eq!(relaxed_region(4 << 30, 64 * MIB), Some((GuestAddress(5 << 30), 66 * MIB)));
        assert_eq!(relaxed_region((4 << 30) + PAGE_SIZE, 64 * MIB), Some((GuestAddress(6 << 30), 66 * MIB)));
    }

    #[test]
    fn a_machine_ends_after_all_that_it_has() {
        let (gib, mib) = (1 << 30, 1 << 20);
        assert_eq!(machine_end(64 * mib, 0), 4 * gib, "the devices are there");
        assert_eq!(machine_end(3 * gib + PAGE_SIZE, 0), 4 * gib + PAGE_SIZE);
        assert_eq!(machine_end(64 * mib, 2 * mib), 4 * gib + 4 * mib);
        assert_eq!(machine_end(MAX_MEMORY, MAX_RELAXED), 2 * MAX_MEMORY + RELAXED_HEADER);
    }

    #[test]
    fn nodes_get_even_shares_and_all_of_the_ram() {
        assert_eq!(node_ranges(1 << 30, 1), [(0, 1 << 30, 0)]);
        let pieces = node_ranges(8 << 30, 4);
        let of = |node| pieces.iter().filter(|piece| piece.2 == node).map(|piece| piece.1).sum::<u64>();
        assert!((0..4).all(|node| of(node) == 2 << 30), "{pieces:?}");
        assert!(pieces.iter().all(|(start, len, _)| *start >= 4 << 30 || start + len <= 3 << 30));
        let odd = node_ranges((64 << 20) + 4096, 3);
        assert_eq!(odd.iter().map(|piece| piece.1).sum::<u64>(), (64 << 20) + 4096);
        assert_eq!(odd.last().map(|piece| piece.2), Some(2));
    }
}
