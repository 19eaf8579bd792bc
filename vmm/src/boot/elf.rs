//! ELF kernels: what the file must be before any of it is loaded (System V ABI, chapters 4 and 5).

use std::ops::Range;

use crate::layout::HIGH_RAM_START;

const CLASS: usize = 4;
const CLASS_64: u8 = 2;
const ENCODING: usize = 5;
const LITTLE_ENDIAN: u8 = 1;
const TYPE: usize = 0x10;
const EXECUTABLE: u16 = 2;
const SHARED: u16 = 3;
const MACHINE: usize = 0x12;
const X86_64: u16 = 62;
const ENTRY: usize = 0x18;
const PROGRAM_HEADERS: usize = 0x20;
const ENTRY_SIZE: usize = 0x36;
const ENTRY_COUNT: usize = 0x38;
const HEADER_LEN: usize = 0x40;

/// A program header's length and fields.
const PROGRAM_HEADER_LEN: usize = 0x38;
const LOAD: u32 = 1;
const FILE_OFFSET: usize = 0x08;
const PHYSICAL_ADDRESS: usize = 0x18;
const FILE_SIZE: usize = 0x20;
const MEMORY_SIZE: usize = 0x28;

/// What is wrong with an image.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Fault {
    /// It is not a kernel for this machine.
    Unfit(String),
    /// It ends before this many bytes.
    Truncated(u64),
}

/// Checks that all segments lie in RAM from 1 MiB up and in the file; returns the addresses from the first to the last.
pub(super) fn check(image: &[u8]) -> Result<Range<u64>, Fault> {
    let Some(header) = image.first_chunk::<HEADER_LEN>() else { return Err(Fault::Truncated(HEADER_LEN as u64)) };
    let unfit = |what: &str| Err(Fault::Unfit(what.to_owned()));
    if header[CLASS] != CLASS_64 || header[ENCODING] != LITTLE_ENDIAN || half(header, MACHINE) != Some(X86_64) {
        return unfit("it is an ELF file of another architecture");
    }
    if !matches!(half(header, TYPE), Some(EXECUTABLE | SHARED)) {
        return unfit("it is an ELF file that is not executable");
    }
    let entry = double(header, ENTRY).unwrap_or(0);
    let (mut all, mut entered) = (None::<Range<u64>>, false);
    for header in program_headers(image)? {
        let field = |at| double(header, at).unwrap_or(0);
        let (start, len) = (field(PHYSICAL_ADDRESS), field(MEMORY_SIZE));
        if header.first_chunk().map(|kind| u32::from_le_bytes(*kind)) != Some(LOAD) || len == 0 {
            continue;
        }
        let Some(segment_end) = start.checked_add(len).filter(|_| start >= HIGH_RAM_START) else {
            return unfit(&format!("its segment at {start:#x}+{len:#x} is not in memory from 1 MiB up"));
        };
        let Some(file_end) = field(FILE_OFFSET).checked_add(field(FILE_SIZE)).filter(|_| field(FILE_SIZE) <= len)
        else {
            return unfit(&format!("its segment at {start:#x} has more bytes in the file than in memory"));
        };
        if file_end > image.len() as u64 {
            return Err(Fault::Truncated(file_end));
        }
        let so_far = all.unwrap_or(start..segment_end);
        all = Some(start.min(so_far.start)..segment_end.max(so_far.end));
        entered |= (start..segment_end).contains(&entry);
    }
    match all.filter(|_| entered) {
        Some(all) => Ok(all),
        None => unfit(&format!("its entry point {entry:#x} is in none of its segments")),
    }
}

fn program_headers(image: &[u8]) -> Result<impl Iterator<Item = &[u8]>, Fault> {
    let table = double(image, PROGRAM_HEADERS).unwrap_or(0);
    let (size, count) = (half(image, ENTRY_SIZE).unwrap_or(0), half(image, ENTRY_COUNT).unwrap_or(0));
    if usize::from(size) != PROGRAM_HEADER_LEN || table < HEADER_LEN as u64 {
        return Err(Fault::Unfit("its ELF program headers are not where and as long as they must be".to_owned()));
    }
    let end = table.saturating_add(u64::from(size) * u64::from(count));
    let range = usize::try_from(table).ok().zip(usize::try_from(end).ok());
    let bytes = range.and_then(|(start, end)| image.get(start..end)).ok_or(Fault::Truncated(end))?;
    Ok(bytes.chunks_exact(PROGRAM_HEADER_LEN))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn double(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An image with one segment of `len` bytes at 2 MiB, entered at its start, after a header that loads nothing.
    pub(in crate::boot) fn image(len: usize) -> Vec<u8> {
        const START: u64 = 0x20_0000;
        const SEGMENT: usize = HEADER_LEN + 2 * PROGRAM_HEADER_LEN;
        let mut image = vec![0; SEGMENT + len];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x02\x01\x01");
        put(TYPE, &EXECUTABLE.to_le_bytes());
        put(MACHINE, &X86_64.to_le_bytes());
        put(ENTRY, &START.to_le_bytes());
        put(PROGRAM_HEADERS, &[HEADER_LEN.to_le_bytes()[0]]);
        put(ENTRY_SIZE, &[PROGRAM_HEADER_LEN.to_le_bytes()[0]]);
        put(ENTRY_COUNT, &[2]);
        let second = HEADER_LEN + PROGRAM_HEADER_LEN;
        put(second, &LOAD.to_le_bytes());
        put(second + FILE_OFFSET, &SEGMENT.to_le_bytes());
        put(second + PHYSICAL_ADDRESS, &START.to_le_bytes());
        put(second + FILE_SIZE, &len.to_le_bytes());
        put(second + MEMORY_SIZE, &(len + 0x1000).to_le_bytes());
        image
    }

    #[test]
    fn an_image_reaches_from_its_first_to_after_its_last_segment() {
        assert_eq!(check(&image(0x100)), Ok(0x20_0000..0x20_1100));
    }

    #[test]
    fn each_way_of_being_unfit_is_named() {
        const SECOND: usize = HEADER_LEN + PROGRAM_HEADER_LEN;
        let changes: [(usize, u8, &str); 8] = [
            (CLASS, 1, "another architecture"),
            (MACHINE, 40, "another architecture"),
            (TYPE, 1, "not executable"),
            (ENTRY + 7, 1, "entry point 0x100000000200000 is in none"),
            (ENTRY_SIZE, 0x20, "program headers"),
            (SECOND + PHYSICAL_ADDRESS + 2, 0, "segment at 0x0+0x1100 is not in memory"),
            (SECOND + MEMORY_SIZE + 7, 0xff, "is not in memory"),
            (SECOND + MEMORY_SIZE + 1, 0, "more bytes in the file"),
        ];
        for (at, value, expected) in changes {
            let mut image = image(0x101);
            image[at] = value;
            if at == SECOND + MEMORY_SIZE + 7 {
                image[SECOND + PHYSICAL_ADDRESS + 7] = 0xff;
            }
            if expected.contains("0x1100") {
                image[SECOND + MEMORY_SIZE] = 0;
            }
            match check(&image) {
                Err(Fault::Unfit(what)) => assert!(what.contains(expected), "{what}"),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_truncated_image_tells_its_length() {
        let whole = image(0x100);
        for len in [8, HEADER_LEN, HEADER_LEN + PROGRAM_HEADER_LEN, whole.len() - 1] {
            assert!(matches!(check(&whole[..len]), Err(Fault::Truncated(expected)) if expected > len as u64), "{len}");
        }
    }
}
