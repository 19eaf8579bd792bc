//! What the guest's processors see of memory on this rank.
//!
//! A page that the rank may not use is a hole in the memory file, so that touching it through the guest mapping faults
//! to user space. "In the page cache" therefore means "valid here", and the alias mapping may be used for such pages
//! only: touching a hole through it would make a page.
//!
//! | change | system call |
//! |---|---|
//! | map, to write | UFFDIO_COPY, or UFFDIO_ZEROPAGE for zeros |
//! | map, to read | UFFDIO_COPY with UFFDIO_COPY_MODE_WP: one step, so that nobody writes in between |
//! | protect | UFFDIO_WRITEPROTECT |
//! | allow | UFFDIO_WRITEPROTECT, clearing |
//! | unmap | fallocate(FALLOC_FL_PUNCH_HOLE): dropping the mapping alone would let the kernel map the page again without a fault |
//! | detach | protect, copy the bytes away, unmap |
//! | wake | UFFDIO_WAKE |
//!
//! Needs Linux 5.19, where shared memory can be write-protected.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use vincs_coherence::id::{Access, MAX_RUN, PAGE_BYTES, Page, Run};

use super::frames::{Frames, Shard};
use super::uffd::{Faults, Missing};

/// Buffers kept for detached pages.
const SPARE_BUFFERS: usize = MAX_RUN as usize;

/// Zeros to copy from.
static ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// Why the host does not do what the protocol wants of the guest's memory.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// There is no userfaultfd for us.
    #[error(
        "cannot handle faults of guest memory: {0}; needs Linux 5.19 or later, and root, CAP_SYS_PTRACE or access to /dev/userfaultfd"
    )]
    Open(userfaultfd::Error),
    /// A request failed.
    #[error("cannot {what} page {page} of guest memory: {source}", page = page.0)]
    Change {
        /// What was to be done.
        what: &'static str,
        /// The first page concerned.
        page: Page,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Faults cannot be read.
    #[error("cannot read faults of guest memory: {0}")]
    Read(userfaultfd::Error),
}

/// Where bytes of pages to map come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bytes<'a> {
    /// These, one page after the other.
    Given(&'a [u8]),
    /// They are all zeros.
    Zero,
}

/// A fault of the guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    /// The page.
    pub(super) page: Page,
    /// What is missing.
    pub(super) missing: Missing,
    /// The thread, by its Linux id.
    pub(super) thread: i32,
}

impl Fault {
    /// What the page is wanted for.
    pub(super) fn access(self) -> Access {
        match self.missing {
            Missing::Read => Access::Read,
            Missing::Write | Missing::Right => Access::Write,
        }
    }
}

/// The guest's view of one shard's pages.
#[derive(Debug)]
pub(super) struct View {
    frames: Arc<Frames>,
    shard: Shard,
    faults: Faults,
    /// One bit per page of the machine: the guest may write it.
    writable: Vec<u64>,
    /// Bytes of detached pages.
    detached: BTreeMap<Page, Box<[u8; PAGE_BYTES]>>,
    spare: Vec<Box<[u8; PAGE_BYTES]>>,
}

impl View {
    /// The view at the start: nothing is there. All pages have to be holes.
    pub(super) fn new(frames: Arc<Frames>, shard: Shard) -> Result<Self, ViewError> {
        let faults = Faults::new().map_err(ViewError::Open)?;
        for (address, len) in frames.guest_ranges(shard) {
            faults.register(address, len).map_err(ViewError::Open)?;
        }
        let words = (frames.pages() as usize).div_ceil(64);
        Ok(Self { frames, shard, faults, writable: vec![0; words], detached: BTreeMap::new(), spare: Vec::new() })
    }

    /// Readable when there are faults.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.faults.fd()
    }

    /// Takes the faults that are there, a bounded number.
    pub(super) fn read_faults(&mut self, faults: &mut Vec<Fault>) -> Result<(), ViewError> {
        let frames = &self.frames;
        let take = |raw: super::uffd::RawFault| {
            if let Some(page) = frames.page_at(raw.address) {
                faults.push(Fault { page, missing: raw.missing, thread: raw.thread });
            }
        };
        self.faults.read(take).map_err(ViewError::Read)
    }

    /// Puts pages that are not there into the view, and wakes who waits for them.
    pub(super) fn map(&mut self, run: Run, access: Access, bytes: Bytes<'_>) -> Result<(), ViewError> {
        let failed = |source| ViewError::Change { what: "map", page: run.first, source };
        let protected = access == Access::Read;
        for piece in self.frames.pieces(run) {
            match bytes {
                Bytes::Given(bytes) => {
                    let short = || failed(io::ErrorKind::UnexpectedEof.into());
                    let bytes = bytes.get(piece.offset..piece.offset + piece.len).ok_or_else(short)?;
                    self.faults.copy(piece.guest, bytes, protected).map_err(failed)?;
                }
                Bytes::Zero if protected => {
                    for at in (0..piece.len).step_by(PAGE_BYTES) {
                        self.faults.copy(piece.guest + at, &ZEROS, true).map_err(failed)?;
                    }
                }
                Bytes::Zero => self.faults.zero(piece.guest, piece.len).map_err(failed)?,
            }
        }
        self.set_writable(run, !protected);
        Ok(())
    }

    /// Makes pages that are there readable only.
    pub(super) fn protect(&mut self, run: Run) -> Result<(), ViewError> {
        self.each_piece(run, "write-protect", Faults::protect)?;
        self.set_writable(run, false);
        Ok(())
    }

    /// Makes pages that are there writable, and wakes who waits for that.
    pub(super) fn allow(&mut self, run: Run) -> Result<(), ViewError> {
        self.each_piece(run, "allow to write", Faults::allow)?;
        self.set_writable(run, true);
        Ok(())
    }

    /// Takes pages out of the view, keeping their bytes until they are unmapped.
    pub(super) fn detach(&mut self, run: Run) -> Result<(), ViewError> {
        if run.pages().any(|page| self.is_writable(page)) {
            self.protect(run)?;
        }
        for page in run.pages() {
            let mut bytes = self.spare.pop().unwrap_or_else(|| Box::new([0; PAGE_BYTES]));
            let read = self.frames.read_page(page, &mut bytes);
            read.map_err(|source| ViewError::Change { what: "read", page, source: source.into() })?;
            self.detached.insert(page, bytes);
        }
        self.drop_pages(run)
    }

    /// Takes pages out of the view; drops the bytes of detached ones.
    pub(super) fn unmap(&mut self, run: Run) -> Result<(), ViewError> {
        let mut there: Option<Run> = None;
        for page in run.pages() {
            if let Some(bytes) = self.detached.remove(&page) {
                if self.spare.len() < SPARE_BUFFERS {
                    self.spare.push(bytes);
                }
            } else if let Some(run) = there.as_mut().filter(|run| run.end() == page) {
                run.count += 1;
            } else if let Some(run) = there.replace(Run::one(page)) {
                self.drop_pages(run)?;
            }
        }
        there.map_or(Ok(()), |run| self.drop_pages(run))
    }

    /// Wakes who waits for these pages.
    pub(super) fn wake(&mut self, run: Run) -> Result<(), ViewError> {
        self.each_piece(run, "wake who waits for", Faults::wake)
    }

    /// The bytes of a page that is there and that nobody may write now, or that is detached.
    pub(super) fn bytes(&self, page: Page) -> Option<&[u8]> {
        if let Some(bytes) = self.detached.get(&page) {
            return Some(bytes.as_slice());
        }
        let piece = self.frames.pieces(Run::one(page)).next()?;
        // SAFETY: the piece is a page of the alias mapping, which `frames` keeps mapped. While the result is borrowed this
        // shard's thread changes nothing, and the protocol sends only pages that are write-protected for the guest and
        // pinned by no device that writes.
        Some(unsafe { std::slice::from_raw_parts(piece.alias as *const u8, piece.len) })
    }

    /// The bytes of pages, as [`Self::bytes`] gives them, adjacent ones together.
    pub(super) fn slices(&self, pages: &[Page]) -> Vec<&[u8]> {
        let mut slices = Vec::new();
        for group in pages.chunk_by(|page, next| page.0.checked_add(1) == Some(next.0)) {
            let (Some(&first), Ok(count)) = (group.first(), u16::try_from(group.len())) else { continue };
            if self.detached.is_empty() {
                for piece in self.frames.pieces(Run { first, count }) {
                    // SAFETY: as in `bytes`, for all of the pages.
                    slices.push(unsafe { std::slice::from_raw_parts(piece.alias as *const u8, piece.len) });
                }
            } else {
                slices.extend(group.iter().filter_map(|page| self.bytes(*page)));
            }
        }
        slices
    }

    /// Ends the telling of faults. Who waits goes on, and sees zeros where pages were not here.
    pub(super) fn close(&mut self) {
        for (address, len) in self.frames.guest_ranges(self.shard) {
            if let Err(error) = self.faults.unregister(address, len) {
                tracing::warn!(%error, "guest memory stays registered for faults until its process ends");
            }
        }
    }

    fn each_piece(
        &self,
        run: Run,
        what: &'static str,
        change: impl Fn(&Faults, usize, usize) -> Result<(), userfaultfd::Error>,
    ) -> Result<(), ViewError> {
        for piece in self.frames.pieces(run) {
            let failed = |error| ViewError::Change { what, page: run.first, source: io::Error::other(error) };
            change(&self.faults, piece.guest, piece.len).map_err(failed)?;
        }
        Ok(())
    }

    fn drop_pages(&mut self, run: Run) -> Result<(), ViewError> {
        self.set_writable(run, false);
        let failed =
            |source: rustix::io::Errno| ViewError::Change { what: "drop", page: run.first, source: source.into() };
        self.frames.drop_pages(run).map_err(failed)
    }

    fn is_writable(&self, page: Page) -> bool {
        self.writable.get(page.0 as usize / 64).is_some_and(|word| word & 1 << (page.0 % 64) != 0)
    }

    fn set_writable(&mut self, run: Run, writable: bool) {
        for page in run.pages() {
            if let Some(word) = self.writable.get_mut(page.0 as usize / 64) {
                let bit = 1 << (page.0 % 64);
                *word = if writable { *word | bit } else { *word & !bit };
            }
        }
    }
}

#[cfg(test)]
mod tests;
