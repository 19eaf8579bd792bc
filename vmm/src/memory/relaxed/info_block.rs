//! The block by which Linux's NVDIMM drivers know what a range of persistent memory is for.
//!
//! Facts from Linux 6.1: `drivers/nvdimm/pfn.h` has the layout, `pfn_devs.c` (`nd_pfn_validate`, `__nvdimm_setup_pfn`) how it is checked and
//! used. A range without one becomes a block device that is to be configured first. The block is read when the range is found; being valid,
//! it is not written.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::layout::{PAGE_SIZE, RELAXED_ALIGNMENT, RELAXED_HEADER};

/// Where the block is, from the start of the range.
pub(super) const OFFSET: u64 = 4096;
/// Its length in bytes.
pub(super) const LEN: usize = 4096;

/// Marks a range for a character device; other signatures are for block devices.
const SIGNATURE: [u8; 16] = *b"NVDIMM_DAX_INFO\0";
/// Any identity but none: a machine has one such range.
const UUID: [u8; 16] = *b"vincs relaxed\0\0\x01";
const VERSION: (u16, u16) = (1, 4);
/// The kernel's records of these pages (`struct page`) are in RAM, not in the range itself: there they would be written without coherence.
const RECORDS_IN_RAM: u32 = 1;
/// Bytes of such a record, which matter where they are in the range.
const RECORD_LEN: u16 = 64;

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct InfoBlock {
    signature: [u8; 16],
    uuid: [u8; 16],
    /// Of a namespace with labels; there are none here.
    parent_uuid: [u8; 16],
    flags: U32,
    version_major: U16,
    version_minor: U16,
    /// Where the device's memory starts, from the start of the range.
    data_offset: U64,
    /// Pages of the device's memory.
    pages: U64,
    /// Where the kernel's records are.
    mode: U32,
    /// Bytes left out at the start and the end of the range.
    start_pad: U32,
    end_trunc: U32,
    /// What the device's mappings are multiples of.
    align: U32,
    page_size: U32,
    record_len: U16,
    padding: [u8; 3994],
    checksum: U64,
}
const _: () = assert!(size_of::<InfoBlock>() == LEN);
// The block lies in the header, and the device's memory starts aligned behind it.
const _: () = assert!(OFFSET + LEN as u64 <= RELAXED_HEADER && RELAXED_HEADER.is_multiple_of(RELAXED_ALIGNMENT));
// `align` and `page_size` have 32 bits.
const ALIGN: u32 = 2 << 20;
const _: () = assert!(ALIGN as u64 == RELAXED_ALIGNMENT);
const PAGE: u32 = 4096;
const _: () = assert!(PAGE as u64 == PAGE_SIZE);

/// The block for a range of `len` bytes, its header included.
pub(super) fn build(len: u64) -> [u8; LEN] {
    let mut block = InfoBlock {
        signature: SIGNATURE,
        uuid: UUID,
        parent_uuid: [0; 16],
        flags: 0.into(),
        version_major: VERSION.0.into(),
        version_minor: VERSION.1.into(),
        data_offset: RELAXED_HEADER.into(),
        pages: (len.saturating_sub(RELAXED_HEADER) / PAGE_SIZE).into(),
        mode: RECORDS_IN_RAM.into(),
        start_pad: 0.into(),
        end_trunc: 0.into(),
        align: ALIGN.into(),
        page_size: PAGE.into(),
        record_len: RECORD_LEN.into(),
        padding: [0; 3994],
        checksum: 0.into(),
    };
    block.checksum = fletcher64(block.as_bytes()).into();
    let mut bytes = [0; LEN];
    bytes.copy_from_slice(block.as_bytes());
    bytes
}

/// Fletcher's checksum over little-endian 32-bit words: their sum modulo 2^32 in the low half, the sum of all sums so far in the high half.
fn fletcher64(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<4>();
    let (mut low, mut high) = (0u32, 0u32);
    for word in words {
        low = low.wrapping_add(u32::from_le_bytes(*word));
        high = high.wrapping_add(low);
    }
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MAX_RELAXED;

    /// The block as the kernel checks it: the checksum is over the block with a checksum of zero.
    fn checked(bytes: &[u8; LEN]) -> Option<InfoBlock> {
        let mut without = *bytes;
        without[LEN - 8..].fill(0);
        let block = InfoBlock::read_from_bytes(bytes).unwrap();
        (block.checksum.get() == fletcher64(&without)).then_some(block)
    }

    #[test]
    fn the_checksum_is_fletchers() {
        assert_eq!(fletcher64(&[]), 0);
        // Sums 1, 3, 6; sums of those 1, 4, 10.
        assert_eq!(fletcher64(&[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]), 10 << 32 | 6);
        // The order counts, and both halves wrap.
        assert_eq!(fletcher64(&[3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]), 14 << 32 | 6);
        assert_eq!(fletcher64(&[0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0]), 1);
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let block = build(66 << 20);
        assert!(checked(&block).is_some());
        for at in 0..LEN {
            let mut changed = block;
            changed[at] ^= 1;
            assert!(checked(&changed).is_none(), "byte {at}");
        }
    }

    #[test]
    fn fields_are_where_the_kernel_has_them() {
        let block = build(66 << 20);
        let u32_at = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
        assert_eq!(&block[..16], b"NVDIMM_DAX_INFO\0");
        assert_eq!(block[32..52], [0; 20], "no parent, no flags");
        assert_eq!(u32_at(52), 4 << 16 | 1, "version 1.4");
        assert_eq!((u32_at(56), u32_at(60)), (2 << 20, 0), "data offset");
        assert_eq!((u32_at(64), u32_at(68)), (64 << 20 >> 12, 0), "pages");
        assert_eq!((u32_at(72), u32_at(76), u32_at(80)), (1, 0, 0), "records in RAM, nothing left out");
        assert_eq!((u32_at(84), u32_at(88), u32_at(92)), (2 << 20, 4096, 64));
        assert_eq!(block[96..LEN - 8], [0; 3992]);
        let checksum = u64::from_le_bytes(block[LEN - 8..].try_into().unwrap());
        assert_eq!(
            checksum, 0xf08c_ca0d_06ef_7e25,
            "that of a block made by other means, of which Linux 6.1 made a device"
        );
    }

    #[test]
    fn the_smallest_and_the_largest_range_have_all_their_pages() {
        for size in [RELAXED_ALIGNMENT, MAX_RELAXED] {
            let block = checked(&build(RELAXED_HEADER + size)).unwrap();
            assert_eq!(block.pages.get() * PAGE_SIZE, size);
            assert!((RELAXED_HEADER + size).is_multiple_of(block.align.get().into()));
        }
    }
}
