//! Windows in which this rank shows clean pages to the others, and how the service thread of a shard uses its own.
//!
//! A window is a segment of a transport, so whoever connects the ranks makes it ([`windows`]), gives it to the shard's channel, and to the
//! engine with the settings.

use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use vincs_coherence::id::{PAGE_BYTES, Page, Rank, RankSet, Version};
use vincs_coherence::node::WindowConfig;
use vincs_coherence::transport::{GuardedRead, Segment, WordSegment};
use vincs_coherence::window::{BUSY, Layout, MARK, MARKS_BYTES, MAX_SLOTS, READ_BYTES, Word, hash, marked};
use vm_memory::MmapRegion;

/// A page is shown once so many other ranks have a copy: with one reader between two writes, a page is written too often to pay for it.
const READERS: u16 = 2;

/// So many pages around one that is read are shown with it: what a kernel reads by its neighbours, at the cost of a copy and a hash of each.
const NEAR: u16 = 16;

/// Most misses by message between two looks in vain.
const WAIT: u8 = 63;

/// So many of a rank's pages share a slot, where that is not more than [`MAX_SLOTS`] for all of its windows together: few of them are read by
/// others and not written at any time.
const PAGES_PER_SLOT: u64 = 16;

/// Slots of each window of a rank that is the home of so many bytes of memory in so many shards: for one page in 16, at most [`MAX_SLOTS`] in all
/// windows together, and at least one in each.
#[must_use]
pub fn window_slots(bytes: u64, shards: u16) -> NonZeroU32 {
    let all = (bytes / (PAGE_BYTES as u64 * PAGES_PER_SLOT)).min(MAX_SLOTS.into());
    let each = u32::try_from(all / u64::from(shards.max(1))).unwrap_or(MAX_SLOTS);
    NonZeroU32::new(each).unwrap_or(NonZeroU32::MIN)
}

/// Windows for so many shards with so many slots each, at most [`MAX_SLOTS`]: the segments of their channels, in order. All ranks have the same.
///
/// # Errors
/// There is no memory for them.
pub fn windows(shards: u16, slots: NonZeroU32) -> io::Result<Vec<Arc<WordSegment>>> {
    let words = Layout::new(slots.get().min(MAX_SLOTS / u32::from(shards.max(1)))).map_or(0, Layout::words);
    (0..shards).map(|_| Ok(Arc::new(WordSegment::over(Pages::new(words)?)))).collect()
}

/// Pages of their own, zero at first: slots begin at cache lines. They are shared with a forked child rather than copied when one of both writes,
/// so a NIC and this process always see the same.
#[derive(Debug)]
struct Pages {
    region: MmapRegion,
    words: usize,
}

impl Pages {
    fn new(words: usize) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        let length = words * size_of::<AtomicU64>();
        let region = MmapRegion::build(None, length, protection, flags).map_err(io::Error::other)?;
        Ok(Self { region, words })
    }
}

impl AsRef<[AtomicU64]> for Pages {
    fn as_ref(&self) -> &[AtomicU64] {
        // SAFETY: the region has so many words, from a page's start on, readable, writable and zero or what was stored as long as it is mapped,
        // which the slice does not outlive; who else reaches them, threads and NICs, reads and writes them as atomics or from outside of this program.
        unsafe { std::slice::from_raw_parts(self.region.as_ptr().cast(), self.words) }
    }
}

/// How the protocol uses windows like this one; nothing if it is none.
pub(super) fn config(window: &WordSegment) -> Option<WindowConfig> {
    let slots = Layout::of_bytes(window.len())?.slots();
    Some(WindowConfig { slots, readers: READERS, near: NEAR, wait: WAIT })
}

/// One shard's window, and where things are in those of the others.
#[derive(Debug)]
pub(super) struct Window {
    segment: Arc<WordSegment>,
    layout: Layout,
    rank: Rank,
}

impl Window {
    /// This rank's; nothing if the segment is none.
    pub(super) fn new(segment: Arc<WordSegment>, rank: Rank) -> Option<Self> {
        let layout = Layout::of_bytes(segment.len())?;
        Some(Self { segment, layout, rank })
    }

    /// Sets the word at this offset. Only this thread does.
    fn set(&self, offset: u64, value: u64, ordering: Ordering) {
        let index = usize::try_from(offset / size_of::<u64>() as u64).unwrap_or(usize::MAX);
        if let Some(place) = self.segment.words().get(index) {
            place.store(value, ordering);
        }
    }

    /// Shows a page.
    pub(super) fn show(&self, page: Page, version: Version, bytes: &[u8]) {
        let word = Word::shown(page, version).unwrap_or(Word::NONE);
        if bytes.len() == PAGE_BYTES && self.segment.write(self.layout.page(page), bytes) {
            self.set(self.layout.word(page), word.0, Ordering::Release);
            self.set(self.layout.hash(page), hash(word, bytes), Ordering::Release);
        }
    }

    /// Hides a page; gives who may have read it. Whoever has seen the hash before it was cleared had put its mark before that, and is seen.
    pub(super) fn hide(&self, page: Page) -> RankSet {
        self.set(self.layout.hash(page), BUSY, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let mut marks = [0; MARKS_BYTES];
        // They are within the window like the word.
        let _: bool = self.segment.read(self.layout.marks(page), &mut marks);
        marked(&marks)
    }

    /// What to ask of a page's home.
    pub(super) fn guarded_read(&self, page: Page) -> GuardedRead {
        GuardedRead {
            mark_at: self.layout.mark(page, self.rank),
            mark: MARK,
            at: self.layout.word(page),
            len: READ_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use vincs_coherence::window::Seen;

    use super::*;

    #[test]
    fn a_page_is_shown_where_readers_look_and_hidden_with_their_marks() {
        let segments = windows(1, NonZeroU32::new(4).unwrap()).unwrap();
        let window = Window::new(Arc::clone(&segments[0]), Rank(3)).unwrap();
        let (page, bytes) = (Page(9), [7; PAGE_BYTES]);
        window.show(page, Version(5), &bytes);
        let asked = window.guarded_read(page);
        let look = || {
            let mut there = vec![0; asked.len];
            assert!(segments[0].read(asked.at, &mut there));
            let (seen, shown) = Seen::parse(&there);
            (seen.version_of(page), shown == bytes)
        };
        assert_eq!(look(), (Some(Version(5)), true));
        assert!(segments[0].write(asked.mark_at, &[asked.mark]));
        assert_eq!(window.hide(page), RankSet::one(Rank(3)));
        assert_eq!(look(), (None, true));
    }

    #[test]
    fn windows_follow_the_memory_up_to_their_limit() {
        let slots = |bytes, shards| window_slots(bytes, shards).get();
        assert_eq!([slots(0, 1), slots(1 << 20, 1), slots(1 << 20, 17)], [1, 16, 1]);
        let most = u64::from(MAX_SLOTS) << 16;
        assert_eq!([slots(most - 1, 1), slots(most, 1), slots(u64::MAX, 1)], [MAX_SLOTS - 1, MAX_SLOTS, MAX_SLOTS]);
        assert_eq!((slots(u64::MAX, 2), slots(u64::MAX, 0)), (MAX_SLOTS / 2, MAX_SLOTS));
    }

    #[test]
    fn a_window_is_of_whole_cache_lines_and_has_the_slots_asked_for() {
        let real = windows(2, NonZeroU32::MAX).unwrap();
        assert_eq!((real.len(), config(&real[1]).unwrap().slots), (2, MAX_SLOTS / 2));
        assert!(real.iter().all(|window| window.words().as_ptr().addr().is_multiple_of(PAGE_BYTES)));
        assert!(real[0].words().iter().all(|word| word.load(Ordering::Relaxed) == 0));
        assert!(config(&WordSegment::new(7)).is_none());
    }
}
