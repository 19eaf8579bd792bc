//! NFIT (ACPI section 5.2.26): relaxed memory, which Linux's drivers for persistent memory make a device of.
//!
//! Ranges alone: there are no memory modules behind them, so no labels, no flush hints and no methods for either.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::MemoryRange;
use super::topology::table;

/// NFIT revision of ACPI 6.5.
const NFIT_REVISION: u8 = 1;
/// The proximity domain counts.
const PROXIMITY_VALID: u16 = 1 << 1;
/// Range of byte-addressable persistent memory: GUID 66f0d379-b4f3-4074-ac43-0d3318b78cdb, its first three fields little-endian.
const PERSISTENT_MEMORY: [u8; 16] =
    [0x79, 0xd3, 0xf0, 0x66, 0xf3, 0xb4, 0x74, 0x40, 0xac, 0x43, 0x0d, 0x33, 0x18, 0xb7, 0x8c, 0xdb];
/// Cached, write-back (`EFI_MEMORY_WB`), persistent (`EFI_MEMORY_NV`).
const ATTRIBUTES: u64 = 0x8 | 0x8000;

/// System Physical Address Range structure (ACPI section 5.2.26.2), without the cookie that may end it.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct AddressRange {
    kind: U16,
    len: U16,
    index: U16,
    flags: U16,
    reserved: U32,
    proximity_domain: U32,
    guid: [u8; 16],
    start: U64,
    range_len: U64,
    attributes: U64,
}
const _: () = assert!(size_of::<AddressRange>() == 56);

/// The NFIT of these ranges.
pub(super) fn build(ranges: &[MemoryRange]) -> Vec<u8> {
    const RESERVED: u32 = 0;
    let mut body = RESERVED.to_le_bytes().to_vec();
    // An index of 0 would be that of a range without one.
    for (index, range) in (1..).zip(ranges) {
        let entry = AddressRange {
            kind: 0.into(),
            len: 56.into(),
            index: U16::new(index),
            flags: PROXIMITY_VALID.into(),
            reserved: 0.into(),
            proximity_domain: range.node.into(),
            guid: PERSISTENT_MEMORY,
            start: range.start.into(),
            range_len: range.len.into(),
            attributes: ATTRIBUTES.into(),
        };
        body.extend_from_slice(entry.as_bytes());
    }
    table(*b"NFIT", NFIT_REVISION, &body)
}
