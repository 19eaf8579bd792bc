//! The bootstrap processor's first mode: 64-bit, paged, flat (Intel SDM volume 3, sections 4.5 and 10.8.5).

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::GuestAddress;

use crate::memory::{DeviceMemory, HoldError};

/// Where the global descriptor table is.
const GDT: u64 = 0x500;
/// Top of the page tables; the page directory pointers and the directories follow it.
const PAGE_MAP: u64 = 0x9000;
const DIRECTORY_POINTERS: u64 = 0xa000;
const DIRECTORIES: u64 = 0xb000;
/// Gibibytes mapped, one page directory each.
const MAPPED_GIB: u64 = 4;
const ENTRIES: u64 = 512;

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;

const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
/// Type of a segment: execute and read, or read and write; both accessed already.
const CODE_TYPE: u8 = 0xb;
const DATA_TYPE: u8 = 0x3;

const CR0_PROTECTED: u64 = 1;
const CR0_PAGED: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// Bit 1 of the flags is always set.
const RFLAGS: u64 = 2;

/// How a kernel is entered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryState {
    /// First instruction.
    pub(crate) rip: GuestAddress,
    /// Where the boot parameters are.
    pub(crate) rsi: GuestAddress,
}

/// Writes descriptor and page tables and returns the registers to enter the kernel with; `special` is the state
/// after power-up.
pub(crate) fn enter_long_mode(
    memory: &DeviceMemory,
    entry: EntryState,
    special: kvm_sregs,
) -> Result<(kvm_regs, kvm_sregs), HoldError> {
    let code = segment(CODE_SELECTOR, CODE_TYPE);
    let data = segment(DATA_SELECTOR, DATA_TYPE);
    let write = |at: u64, entries: &[u64]| {
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        memory.write(GuestAddress(at), &bytes)
    };
    write(GDT, &[0, 0, descriptor(&code), descriptor(&data)])?;
    write(PAGE_MAP, &[DIRECTORY_POINTERS | PRESENT_WRITABLE])?;
    let directories = (0..MAPPED_GIB).map(|gib| DIRECTORIES + gib * ENTRIES * 8);
    write(DIRECTORY_POINTERS, &directories.map(|directory| directory | PRESENT_WRITABLE).collect::<Vec<_>>())?;
    let pages = (0..MAPPED_GIB * ENTRIES).map(|index| index << 21);
    write(DIRECTORIES, &pages.map(|page| page | PRESENT_WRITABLE | LARGE_PAGE).collect::<Vec<_>>())?;
    let mut special =
        kvm_sregs { cs: code, ds: data, es: data, fs: data, gs: data, ss: data, cr3: PAGE_MAP, ..special };
    (special.gdt.base, special.gdt.limit) = (GDT, 4 * 8 - 1);
    special.cr0 |= CR0_PROTECTED | CR0_PAGED;
    special.cr4 |= CR4_PAE;
    special.efer |= EFER_LONG_MODE;
    let registers = kvm_regs { rip: entry.rip.0, rsi: entry.rsi.0, rflags: RFLAGS, ..Default::default() };
    Ok((registers, special))
}

/// A flat segment of 4 GiB: 64-bit code, or data.
fn segment(selector: u16, type_: u8) -> kvm_segment {
    let long = u8::from(type_ == CODE_TYPE);
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        ..Default::default()
    }
}

/// The segment as a descriptor in memory (SDM figure 3-8).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(segment.limit >> 12);
    let access = u64::from(segment.type_) | u64::from(segment.s) << 4 | u64::from(segment.present) << 7;
    let flags = u64::from(segment.l) << 1 | u64::from(segment.db) << 2 | u64::from(segment.g) << 3;
    (limit & 0xffff) | access << 40 | (limit >> 16) << 48 | flags << 52
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vm_memory::{Bytes, GuestMemoryMmap};

    use super::*;

    #[test]
    fn descriptors_are_those_of_flat_segments() {
        assert_eq!(descriptor(&segment(CODE_SELECTOR, CODE_TYPE)), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&segment(DATA_SELECTOR, DATA_TYPE)), 0x00cf_9300_0000_ffff);
    }

    #[test]
    fn every_address_below_four_gib_is_mapped_to_itself() {
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x20000)]).unwrap());
        let entry = EntryState { rip: GuestAddress(0x100_0000), rsi: GuestAddress(0x7000) };
        let (registers, special) =
            enter_long_mode(&DeviceMemory::new(Arc::clone(&memory)), entry, kvm_sregs::default()).unwrap();
        assert_eq!((registers.rip, registers.rsi), (0x100_0000, 0x7000));
        for address in [0u64, 0x10_0000, 0xd000_0000, 0xffff_f000] {
            let mut table = special.cr3;
            for level in [39, 30] {
                let index = address >> level & 511;
                let entry: u64 = memory.read_obj(GuestAddress(table + index * 8)).unwrap();
                assert_eq!(entry & PRESENT_WRITABLE, PRESENT_WRITABLE);
                table = entry & !0xfff;
            }
            let entry: u64 = memory.read_obj(GuestAddress(table + (address >> 21 & 511) * 8)).unwrap();
            assert_eq!(entry, (address & !0x1f_ffff) | LARGE_PAGE | PRESENT_WRITABLE);
        }
    }
}
