//! Where the pages of guest RAM are in this process: in the guest mapping, in the alias mapping, in the memory file.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::mm::{Advice, madvise};
use vincs_coherence::id::{MAX_RUN, PAGE_BYTES, Page, Run, STRIPE_PAGES};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};

use crate::layout::PAGE_SIZE;
use crate::memory::{GuestRam, GuestRange};

const _: () = assert!(PAGE_BYTES as u64 == PAGE_SIZE);
const _: () = assert!(MAX_RUN as u32 <= STRIPE_PAGES);

/// Guest RAM whose regions are laid out one after the other in one file.
#[derive(Debug)]
pub(super) struct Frames {
    /// In rising order of their pages.
    spans: Vec<Span>,
    file: Arc<File>,
    /// Keep the mappings while there are addresses into them.
    guest: Arc<GuestMemoryMmap>,
    alias: Arc<GuestMemoryMmap>,
}

/// One region of guest RAM.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// Its first page and the one after its last.
    first: u32,
    end: u32,
    /// Its guest-physical address.
    physical: u64,
    /// Where it is mapped for the guest, and for everything else.
    guest: usize,
    alias: usize,
}

/// Part of a run that is in one region.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Piece {
    /// Where it is mapped for the guest.
    pub(super) guest: usize,
    /// Where it is mapped for everything else.
    pub(super) alias: usize,
    /// Its place in the run, in bytes.
    pub(super) offset: usize,
    /// Its length in bytes.
    pub(super) len: usize,
}

/// Why guest RAM cannot be spread over ranks.
#[derive(Debug, thiserror::Error)]
pub enum FramesError {
    /// It has no file, or more than one.
    #[error("guest memory is not one file")]
    NotOneFile,
    /// Its regions do not consist of whole pages, or are too large to number their pages.
    #[error("a region of guest memory at {0:#x} does not consist of pages that can be numbered")]
    NotPages(u64),
}

/// One of the shards that the pages of a machine are dealt out to, in stripes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Shard {
    /// Which.
    pub(super) index: u16,
    /// How many there are; at least one.
    pub(super) count: u16,
}

impl Shard {
    /// The index of the shard that a page belongs to.
    pub(super) fn of(page: Page, count: u16) -> u16 {
        let index = (page.0 / STRIPE_PAGES) % u32::from(count.max(1));
        u16::try_from(index).unwrap_or(0)
    }

    /// Whether all pages of a run belong to it.
    pub(super) fn has(self, run: Run) -> bool {
        let last = Page(run.end().0.saturating_sub(1));
        // A run is shorter than a stripe, so what is between the two is in the one or the other.
        [run.first, last].into_iter().all(|page| Self::of(page, self.count) == self.index)
    }

    /// Pages that follow `from` in the same stripe: up to this one, exclusively.
    pub(super) fn stripe_end(from: Page) -> u32 {
        (from.0 / STRIPE_PAGES + 1).saturating_mul(STRIPE_PAGES)
    }

    /// Its parts of a range of pages.
    fn parts(self, range: Range<u32>) -> Vec<Range<u32>> {
        if self.count <= 1 {
            return vec![range];
        }
        let mut parts = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let end = Self::stripe_end(Page(at)).min(range.end);
            if Self::of(Page(at), self.count) == self.index {
                parts.push(at..end);
            }
            at = end;
        }
        parts
    }
}

impl Frames {
    /// The frames of this RAM.
    ///
    /// # Errors
    /// [`FramesError`] when it is laid out otherwise than [`GuestRam::new`] does.
    pub(super) fn new(ram: &GuestRam) -> Result<Self, FramesError> {
        let (guest, alias) = (ram.guest_arc(), Arc::clone(ram.alias_mapping()));
        let mut spans = Vec::new();
        let mut files: Option<Arc<File>> = None;
        for (ours, theirs) in alias.iter().zip(guest.iter()) {
            let at = ours.file_offset().ok_or(FramesError::NotOneFile)?;
            if files.as_ref().is_some_and(|file| !Arc::ptr_eq(file, at.arc())) {
                return Err(FramesError::NotOneFile);
            }
            files = Some(Arc::clone(at.arc()));
            let physical = ours.start_addr().0;
            let not_pages = || FramesError::NotPages(physical);
            let end = at.start().checked_add(ours.len()).ok_or_else(not_pages)?;
            if !(at.start() | end).is_multiple_of(PAGE_SIZE) {
                return Err(not_pages());
            }
            let number = |offset: u64| u32::try_from(offset / PAGE_SIZE).map_err(|_| not_pages());
            let address = |address: Result<*mut u8, _>| address.map(|at| at as usize).map_err(|_| not_pages());
            let start = MemoryRegionAddress(0);
            spans.push(Span {
                first: number(at.start())?,
                end: number(end)?,
                physical,
                guest: address(theirs.get_host_address(start))?,
                alias: address(ours.get_host_address(start))?,
            });
        }
        spans.sort_by_key(|span| span.first);
        let file = files.ok_or(FramesError::NotOneFile)?;
        let frames = Self { spans, file, guest, alias };
        frames.refuse_large_pages();
        Ok(frames)
    }

    /// Keeps the host from filling holes with large pages: a hole means that a page is not here.
    fn refuse_large_pages(&self) {
        for mapping in [&self.guest, &self.alias] {
            for region in mapping.iter() {
                let len = usize::try_from(region.len()).unwrap_or(0);
                // SAFETY: the range is the region's own mapping, and the advice changes no byte of it.
                let advised = unsafe { madvise(region.as_ptr().cast(), len, Advice::LinuxNoHugepage) };
                if let Err(error) = advised {
                    tracing::debug!(%error, "the kernel takes no advice about large pages, so it has none");
                }
            }
        }
    }

    /// Number of pages.
    pub(super) fn pages(&self) -> u32 {
        self.spans.last().map_or(0, |span| span.end)
    }

    /// Whether there are pages in the file already.
    pub(super) fn in_use(&self) -> bool {
        rustix::fs::fstat(&self.file).is_ok_and(|status| status.st_blocks != 0)
    }

    /// The mapping that devices use.
    pub(super) fn alias(&self) -> &Arc<GuestMemoryMmap> {
        &self.alias
    }

    /// A run's parts by region, in order. Pages that do not exist are left out.
    pub(super) fn pieces(&self, run: Run) -> impl Iterator<Item = Piece> {
        let (first, end) = (run.first.0, run.end().0);
        self.spans.iter().filter_map(move |span| {
            let (start, end) = (first.max(span.first), end.min(span.end));
            let len = end.checked_sub(start).filter(|pages| *pages > 0)? as usize * PAGE_BYTES;
            let into = (start - span.first) as usize * PAGE_BYTES;
            let offset = (start - first) as usize * PAGE_BYTES;
            Some(Piece { guest: span.guest + into, alias: span.alias + into, offset, len })
        })
    }

    /// The page at an address of the guest mapping.
    pub(super) fn page_at(&self, address: usize) -> Option<Page> {
        self.spans.iter().find_map(|span| {
            let index = u32::try_from(address.checked_sub(span.guest)? / PAGE_BYTES).ok()?;
            let page = span.first.checked_add(index)?;
            (page < span.end).then_some(Page(page))
        })
    }

    /// The pages that guest-physical bytes are in, by region; nothing if some of them are not RAM. An empty range is in
    /// no page.
    pub(super) fn pages_of(&self, range: GuestRange) -> Option<Vec<Range<u32>>> {
        let (start, end) = (range.start.0, range.start.0.checked_add(range.len)?);
        let mut missing = range.len;
        let mut found = Vec::new();
        for span in &self.spans {
            let after = span.physical + u64::from(span.end - span.first) * PAGE_SIZE;
            let (from, to) = (start.max(span.physical), end.min(after));
            if from < to {
                missing -= to - from;
                let page = |offset: u64| u32::try_from(offset).ok().and_then(|offset| span.first.checked_add(offset));
                found.push(page((from - span.physical) / PAGE_SIZE)?..page((to - span.physical).div_ceil(PAGE_SIZE))?);
            }
        }
        (missing == 0).then_some(found)
    }

    /// The addresses at which the guest sees a shard's pages.
    pub(super) fn guest_ranges(&self, shard: Shard) -> Vec<(usize, usize)> {
        let of_span = |span: &Span| {
            let Span { first, guest, .. } = *span;
            let at = move |part: Range<u32>| {
                let into = (part.start - first) as usize * PAGE_BYTES;
                (guest + into, (part.end - part.start) as usize * PAGE_BYTES)
            };
            shard.parts(span.first..span.end).into_iter().map(at)
        };
        self.spans.iter().flat_map(of_span).collect()
    }

    /// Drops the pages of a run with their bytes, from the file and from all mappings.
    pub(super) fn drop_pages(&self, run: Run) -> Result<(), rustix::io::Errno> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let (offset, len) = (u64::from(run.first.0) * PAGE_SIZE, u64::from(run.count) * PAGE_SIZE);
        rustix::io::retry_on_intr(|| fallocate(&self.file, flags, offset, len))
    }

    /// Copies a page's bytes out of the file.
    pub(super) fn read_page(&self, page: Page, bytes: &mut [u8; PAGE_BYTES]) -> Result<(), rustix::io::Errno> {
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let offset = u64::from(page.0) * PAGE_SIZE + done as u64;
            match rustix::io::retry_on_intr(|| rustix::io::pread(&self.file, &mut *rest, offset))? {
                0 => return Err(rustix::io::Errno::IO),
                read => done += read,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;

    const MIB: usize = 1 << 20;

    fn frames() -> Frames {
        let ram = GuestRam::new(&[(GuestAddress(0), MIB), (GuestAddress(16 << 20), MIB)]).unwrap();
        Frames::new(&ram).unwrap()
    }

    #[test]
    fn pages_are_numbered_through_all_regions() {
        let frames = frames();
        assert_eq!(frames.pages(), 512);
        let pieces: Vec<_> = frames.pieces(Run { first: Page(254), count: 4 }).collect();
        assert_eq!(pieces.iter().map(|piece| (piece.offset, piece.len)).collect::<Vec<_>>(), [(0, 8192), (8192, 8192)]);
        assert_eq!(frames.page_at(pieces[0].guest + 4095), Some(Page(254)));
        assert_eq!(frames.page_at(pieces[1].guest + 4096), Some(Page(257)));
        assert_eq!(frames.page_at(pieces[0].alias), None, "the alias is another mapping");
        assert_eq!(frames.pieces(Run { first: Page(511), count: 9 }).map(|piece| piece.len).sum::<usize>(), 4096);
        assert_eq!(frames.pieces(Run { first: Page(u32::MAX), count: 9 }).count(), 0);
    }

    #[test]
    fn ranges_of_bytes_are_ranges_of_pages_where_there_is_ram() {
        let frames = frames();
        let of = |start, len| frames.pages_of(GuestRange { start: GuestAddress(start), len });
        let one = |pages: Range<u32>| Some(Vec::from([pages]));
        assert_eq!(of(4095, 2), one(0..2));
        assert_eq!(of((16 << 20) + 4096, 4096), one(257..258));
        assert_eq!(of(0, 0), Some(Vec::new()));
        assert_eq!(of(u64::MAX, 0), Some(Vec::new()));
        for (start, len) in [(MIB as u64, 1), ((MIB - 1) as u64, 2), (0, 17 << 20), (u64::MAX, 2), (0, u64::MAX)] {
            assert_eq!(of(start, len), None, "{start:#x}+{len:#x}");
        }
    }

    #[test]
    fn stripes_are_dealt_out_to_shards_and_none_is_left_out() {
        assert_eq!(Shard::of(Page(STRIPE_PAGES - 1), 4), 0);
        assert_eq!(Shard::of(Page(STRIPE_PAGES), 4), 1);
        assert_eq!(Shard::of(Page(4 * STRIPE_PAGES), 4), 0);
        let range = 100..5 * STRIPE_PAGES + 7;
        let parts: Vec<_> = (0..3).map(|index| Shard { index, count: 3 }.parts(range.clone())).collect();
        assert_eq!(parts[0], [100..STRIPE_PAGES, 3 * STRIPE_PAGES..4 * STRIPE_PAGES]);
        let total: u32 = parts.iter().flatten().map(|part| part.end - part.start).sum();
        assert_eq!(total, range.end - range.start);
        assert_eq!(Shard { index: 0, count: 1 }.parts(range.clone()), std::slice::from_ref(&range));
        let has = |index, first| Shard { index, count: 2 }.has(Run { first: Page(first), count: 2 });
        let at = STRIPE_PAGES;
        assert_eq!(
            [has(0, at - 2), has(0, at - 1), has(1, at - 1), has(1, at), has(0, at)],
            [true, false, false, true, false]
        );
    }

    #[test]
    fn dropped_pages_are_zero_again() {
        let frames = frames();
        let run = Run { first: Page(255), count: 2 };
        let mut bytes = [1; PAGE_BYTES];
        for piece in frames.pieces(run) {
            // SAFETY: the piece is within the alias mapping, which `frames` keeps.
            unsafe { std::ptr::write_bytes(piece.alias as *mut u8, 7, piece.len) };
        }
        frames.read_page(Page(256), &mut bytes).unwrap();
        assert_eq!(bytes, [7; PAGE_BYTES]);
        frames.drop_pages(run).unwrap();
        frames.read_page(Page(256), &mut bytes).unwrap();
        assert_eq!(bytes, [0; PAGE_BYTES]);
    }
}
