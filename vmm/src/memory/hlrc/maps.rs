//! The memory of a rank: its segment, its copies of other ranks' pages, and arrays as threads see them.
//!
//! The segment and the copies are memfds, each mapped as a whole for the driver: the alias, which never faults to user space. An array is a range of
//! addresses whose pages are those of the segment where they are homed here, and copies elsewhere.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use vincs_coherence::id::{PAGE_BYTES, Page, Run};
use vincs_coherence::transport::{Segment as _, WordSegment};

/// Addresses of this process, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    address: usize,
    len: usize,
}

impl Mapping {
    /// All of a file.
    fn of(file: &File, len: usize) -> io::Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let address = unsafe { mmap(std::ptr::null_mut(), len, protection, flags, file, 0) }?;
        Ok(Self { address: address as usize, len })
    }

    /// Addresses without memory.
    pub(super) fn reserve(len: usize) -> io::Result<Self> {
        // SAFETY: as in `of`.
        let address = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), MapFlags::PRIVATE) }?;
        Ok(Self { address: address as usize, len })
    }

    /// Puts part of a file at `at` bytes from the start of the reserved addresses.
    pub(super) fn place(&self, at: usize, file: &File, offset: u64, len: usize) -> io::Result<()> {
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        let address = (self.address + at) as *mut _;
        // SAFETY: the range is within this mapping, in which nobody has been given an address yet.
        unsafe { mmap(address, len, protection, flags, file, offset) }?;
        Ok(())
    }

    /// Its first address.
    pub(super) fn address(&self) -> usize {
        self.address
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: whoever has an address in it keeps it.
        let unmapped = unsafe { munmap(self.address as *mut _, self.len) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can be unmapped");
    }
}

/// A file of zeros in memory. Nothing is resident until it is touched.
fn file(name: &str, bytes: u64) -> io::Result<File> {
    let memfd: OwnedFd = memfd_create(name, MemfdFlags::CLOEXEC)?;
    ftruncate(&memfd, bytes)?;
    Ok(File::from(memfd))
}

fn in_memory(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

/// The first words of a mapping.
#[derive(Debug)]
struct MappedWords {
    mapping: Mapping,
    words: usize,
}

impl AsRef<[AtomicU64]> for MappedWords {
    fn as_ref(&self) -> &[AtomicU64] {
        // SAFETY: so many words are within the mapping, which is on a whole page and kept as long as `self`. Other threads and processes change
        // them, by whole words or, where they are pages of arrays, as a program without data races does.
        unsafe { std::slice::from_raw_parts(self.mapping.address() as *const AtomicU64, self.words) }
    }
}

/// This rank's segment: what other ranks reach.
#[derive(Debug)]
pub(super) struct OwnSegment {
    file: File,
    words: Arc<WordSegment>,
}

impl OwnSegment {
    /// One of so many bytes, a multiple of 8, all zero.
    pub(super) fn new(bytes: u64) -> io::Result<Self> {
        let whole = bytes.next_multiple_of(PAGE_BYTES as u64);
        let file = file("vincs-relaxed-segment", whole)?;
        let mapping = Mapping::of(&file, in_memory(whole)?)?;
        let words = MappedWords { mapping, words: in_memory(bytes / 8)? };
        Ok(Self { file, words: Arc::new(WordSegment::over(words)) })
    }

    /// Its file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Its words, as the transport has them.
    pub(super) fn words(&self) -> &Arc<WordSegment> {
        &self.words
    }

    /// Whether so many words from an offset on are not all zero, as most are that are looked at.
    pub(super) fn has_something(&self, offset: u64, words: u32) -> bool {
        let first = usize::try_from(offset / 8).unwrap_or(usize::MAX);
        let stretch = self.words.words().get(first..first.saturating_add(words as usize));
        stretch.is_some_and(|words| words.iter().any(|word| word.load(Ordering::Acquire) != 0))
    }

    /// So many words from an offset on; nothing beyond its end.
    pub(super) fn read_words(&self, offset: u64, words: u32) -> Option<Vec<u64>> {
        let mut bytes = vec![0; words as usize * 8];
        self.words.read(offset, &mut bytes).then(|| words_of(&bytes))
    }

    /// Changes words; false beyond its end.
    pub(super) fn write_words(&self, offset: u64, words: &[u64]) -> bool {
        self.words.write(offset, &bytes_of(words))
    }
}

/// Words as bytes.
pub(super) fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Bytes as words, those that are whole.
pub(super) fn words_of(bytes: &[u8]) -> Vec<u64> {
    let (words, _) = bytes.as_chunks();
    words.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

/// A page's bytes.
pub(super) type Bytes = [u8; PAGE_BYTES];

/// Copies of pages of other homes, each at its own place in the file. What is not there is a hole.
#[derive(Debug)]
pub(super) struct Copies {
    file: File,
    alias: Mapping,
}

impl Copies {
    /// Room for so many pages.
    pub(super) fn new(pages: u32) -> io::Result<Self> {
        let bytes = u64::from(pages) * PAGE_BYTES as u64;
        let file = file("vincs-relaxed-copies", bytes)?;
        let alias = Mapping::of(&file, in_memory(bytes)?)?;
        Ok(Self { file, alias })
    }

    /// Its file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Where a page is in the file.
    pub(super) fn offset(page: Page) -> u64 {
        u64::from(page.0) * PAGE_BYTES as u64
    }

    /// The bytes of a page that is there and that no thread may write now.
    pub(super) fn page(&self, page: Page) -> Option<&Bytes> {
        let at = usize::try_from(Self::offset(page)).ok()?;
        if at.checked_add(PAGE_BYTES)? > self.alias.len() {
            return None;
        }
        // SAFETY: the page is within the alias mapping, which is kept as long as `self`. The protocol reads pages only while they are write-protected
        // for all threads, and the driver's own thread changes none while the result is borrowed.
        Some(unsafe { &*((self.alias.address() + at) as *const Bytes) })
    }

    /// Drops pages with their bytes, from the file and from all mappings.
    pub(super) fn drop_pages(&self, run: Run) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let len = u64::from(run.count) * PAGE_BYTES as u64;
        Ok(rustix::io::retry_on_intr(|| fallocate(&self.file, flags, Self::offset(run.first), len))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_ends_where_it_says() {
        let segment = OwnSegment::new(4096 + 16).unwrap();
        assert!(segment.write_words(4096, &[1, 2]) && !segment.write_words(4104, &[1, 2]));
        assert_eq!(segment.read_words(4096, 2), Some(vec![1, 2]));
        assert_eq!(segment.read_words(4096, 3), None);
        assert_eq!(segment.words().compare_and_swap(4096, 1, 7), Some(1));
        assert_eq!(
            segment.words().compare_and_swap(4096 + 16, 0, 1),
            None,
            "there is memory, but it is not the segment's"
        );
        assert_eq!((segment.words().words().len(), segment.words().len()), (514, 4096 + 16));
    }

    #[test]
    fn a_dropped_copy_is_a_hole() {
        let copies = Copies::new(4).unwrap();
        let array = Mapping::reserve(2 * PAGE_BYTES).unwrap();
        array.place(PAGE_BYTES, copies.file(), Copies::offset(Page(2)), PAGE_BYTES).unwrap();
        assert!(array.place(PAGE_BYTES, copies.file(), 0, 2 * PAGE_BYTES).is_err(), "beyond its end");
        // SAFETY: the page has just been placed there.
        unsafe { std::ptr::write_bytes((array.address() + PAGE_BYTES) as *mut u8, 7, PAGE_BYTES) };
        assert_eq!(copies.page(Page(2)), Some(&[7; PAGE_BYTES]));
        copies.drop_pages(Run::one(Page(2))).unwrap();
        assert_eq!(copies.page(Page(2)), Some(&[0; PAGE_BYTES]));
        assert_eq!(copies.page(Page(4)), None);
    }
}
