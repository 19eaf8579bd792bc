//! Windows in which this rank shows clean pages to the others, and how the service thread of a shard uses its own.
//!
//! A window is a segment of a transport, so whoever connects the ranks makes it ([`windows`]), gives it to the shard's channel, and to the
//! engine with the settings.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vincs_coherence::id::{PAGE_BYTES, Page, Rank, RankSet, Version};
use vincs_coherence::node::WindowConfig;
use vincs_coherence::transport::{GuardedRead, Segment, WordSegment};
use vincs_coherence::window::{Layout, MARK, MARKS_BYTES, MAX_SLOTS, Word, marked};

/// A page is shown once so many other ranks have a copy: with one reader between two writes, a page is written too often to pay for it.
const READERS: u16 = 2;

/// Most misses by message between two looks in vain.
const WAIT: u8 = 63;

/// Windows for so many shards: the segments of their channels, in order. None where one-sided operations need the target's
/// attention, as there they are no faster than messages.
#[must_use]
pub fn windows(shards: u16, one_sided_by_nic: bool) -> Vec<Arc<WordSegment>> {
    if one_sided_by_nic { windows_with(shards, NonZeroU32::MIN.saturating_add(MAX_SLOTS - 1)) } else { Vec::new() }
}

/// Windows with so many slots each, at most [`MAX_SLOTS`], whatever the transport: the same at all ranks.
#[must_use]
pub fn windows_with(shards: u16, slots: NonZeroU32) -> Vec<Arc<WordSegment>> {
    let words = Layout::new(slots.get().min(MAX_SLOTS)).map_or(0, Layout::words);
    (0..shards).map(|_| Arc::new(WordSegment::new(words))).collect()
}

/// How the protocol uses windows like this one; nothing if it is none.
pub(super) fn config(window: &WordSegment) -> Option<WindowConfig> {
    let slots = Layout::of_bytes(window.len())?.slots();
    Some(WindowConfig { slots, readers: READERS, wait: WAIT })
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

    /// Sets the directory word of a page's slot. Only this thread does.
    fn set_word(&self, page: Page, word: Word, ordering: Ordering) {
        let index = usize::try_from(self.layout.word(page) / size_of::<Word>() as u64).unwrap_or(usize::MAX);
        if let Some(place) = self.segment.words().get(index) {
            place.store(word.0, ordering);
        }
    }

    /// Shows a page: whoever sees the word sees the bytes as well.
    pub(super) fn show(&self, page: Page, version: Version, bytes: &[u8]) {
        if bytes.len() == PAGE_BYTES && self.segment.write(self.layout.page(page), bytes) {
            self.set_word(page, Word::shown(page, version).unwrap_or(Word::BUSY), Ordering::Release);
        }
    }

    /// Hides a page; gives who may have read it. Whoever has seen the word before it was busy had put its mark before that, and is seen.
    pub(super) fn hide(&self, page: Page) -> RankSet {
        self.set_word(page, Word::BUSY, Ordering::SeqCst);
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
            word_at: self.layout.word(page),
            bytes_at: self.layout.page(page),
            len: PAGE_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_shown_where_readers_look_and_hidden_with_their_marks() {
        let segments = windows_with(1, NonZeroU32::new(4).unwrap());
        let window = Window::new(Arc::clone(&segments[0]), Rank(3)).unwrap();
        let (page, bytes) = (Page(9), [7; PAGE_BYTES]);
        window.show(page, Version(5), &bytes);
        let asked = window.guarded_read(page);
        let look = || {
            let (mut word, mut there) = ([0; 8], [0; PAGE_BYTES]);
            assert!(segments[0].read(asked.word_at, &mut word) && segments[0].read(asked.bytes_at, &mut there));
            (Word(u64::from_le_bytes(word)).version_of(page), there == bytes)
        };
        assert_eq!(look(), (Some(Version(5)), true));
        assert!(segments[0].write(asked.mark_at, &[asked.mark]));
        assert_eq!(window.hide(page), RankSet::one(Rank(3)));
        assert_eq!(look(), (None, true));
    }

    #[test]
    fn windows_are_for_transports_whose_nics_read_them() {
        assert_eq!(windows(2, false).len(), 0);
        let real = windows(2, true);
        let config = config(&real[1]).unwrap();
        assert_eq!((real.len(), config.slots), (2, MAX_SLOTS));
        assert!(super::config(&WordSegment::new(7)).is_none());
    }
}
