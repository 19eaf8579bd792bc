//! A home's window: memory in which it shows pages that are clean, for other ranks to read without its processor.
//!
//! A window has slots. The slot of a page follows from its number, so a reader knows where to look; several pages share a slot, and one of them
//! at a time is shown in it. All ranks of a machine have windows with the same number of slots.
//!
//! | bytes of a slot | what | who writes it |
//! |---|---|---|
//! | 0–7 | directory word: which version of which page is shown, or that none is | the home's processor |
//! | 64–127 | marks: one byte for each rank, not zero once the rank may have read from the slot | that rank, by put |
//! | 128–4223 | the page | the home's processor |
//!
//! So no byte is written by both a NIC and a processor, and no NIC writes next to a word that a processor writes.

use crate::id::{MAX_RANKS, PAGE_BYTES, Page, Rank, RankSet, Version};

/// Where the directory word of a slot is in it.
const WORD: usize = 0;
/// Where the marks of a slot are in it: in a cache line that is theirs.
const MARKS: usize = 64;
/// Where the page of a slot is in it.
const PAGE: usize = 128;

/// Bytes of the marks of a slot.
pub const MARKS_BYTES: usize = MAX_RANKS as usize;

/// Bytes of a slot.
pub const SLOT_BYTES: usize = PAGE + PAGE_BYTES;

/// What a rank puts as its mark.
pub const MARK: u8 = 1;

/// Most slots of a window: 64 MiB, which a NIC keeps locked in memory for each shard of a rank.
pub const MAX_SLOTS: u32 = 15_887;

const _: () = assert!(WORD + size_of::<Word>() <= MARKS && MARKS + MARKS_BYTES <= PAGE && PAGE.is_multiple_of(64));
const _: () = assert!(SLOT_BYTES.is_multiple_of(64) && MARK != 0);
const _: () = assert!(MAX_SLOTS as usize == (64 << 20) / SLOT_BYTES);

/// Where things are in a window of so many slots.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Layout {
    slots: u32,
}

impl Layout {
    /// Of a window with so many slots, 1 to [`MAX_SLOTS`].
    #[must_use]
    pub fn new(slots: u32) -> Option<Self> {
        (1..=MAX_SLOTS).contains(&slots).then_some(Self { slots })
    }

    /// Of a window that has so many bytes, if some window has.
    #[must_use]
    pub fn of_bytes(bytes: u64) -> Option<Self> {
        let slot = SLOT_BYTES as u64;
        let slots = u32::try_from(bytes / slot).ok().filter(|_| bytes.is_multiple_of(slot))?;
        Self::new(slots)
    }

    /// How many slots.
    #[must_use]
    pub fn slots(self) -> u32 {
        self.slots
    }

    /// Length of the window in words of 8 bytes.
    #[must_use]
    pub fn words(self) -> usize {
        self.slots as usize * (SLOT_BYTES / size_of::<Word>())
    }

    /// The slot of a page.
    #[must_use]
    pub fn slot(self, page: Page) -> u32 {
        page.0 % self.slots
    }

    /// Where the directory word of the page's slot is, in bytes.
    #[must_use]
    pub fn word(self, page: Page) -> u64 {
        self.at(page, WORD)
    }

    /// Where the marks of the page's slot are, in bytes.
    #[must_use]
    pub fn marks(self, page: Page) -> u64 {
        self.at(page, MARKS)
    }

    /// Where a rank's mark of the page's slot is, in bytes.
    #[must_use]
    pub fn mark(self, page: Page, rank: Rank) -> u64 {
        self.marks(page) + u64::from(rank.0)
    }

    /// Where the bytes of the page are, in bytes.
    #[must_use]
    pub fn page(self, page: Page) -> u64 {
        self.at(page, PAGE)
    }

    fn at(self, page: Page, within: usize) -> u64 {
        u64::from(self.slot(page)) * SLOT_BYTES as u64 + within as u64
    }
}

/// A directory word: the page in its upper half, its version in the lower one. A version of a page is shown once at most, so a slot never
/// has the same word again, and who reads it twice knows that nothing else was shown in between.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Word(pub u64);

impl Word {
    /// Nothing is shown; so is it at the start.
    pub const BUSY: Self = Self(0);

    /// That of a page in this version; nothing for a version that does not fit, which is never shown.
    #[must_use]
    pub fn shown(page: Page, version: Version) -> Option<Self> {
        let version = u32::try_from(version.0).ok().filter(|version| *version != 0)?;
        Some(Self(u64::from(page.0) << u32::BITS | u64::from(version)))
    }

    /// The version of this page that is shown, if it is.
    #[must_use]
    pub fn version_of(self, page: Page) -> Option<Version> {
        let version = Version(self.0 & u64::from(u32::MAX));
        (Self::shown(page, version) == Some(self)).then_some(version)
    }
}

/// What a guarded read has brought of a page, beside its bytes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Seen {
    /// The directory word before the bytes were read.
    pub first: Word,
    /// The same after that.
    pub second: Word,
}

impl Seen {
    /// Of a read that has come to nothing.
    pub const NOTHING: Self = Self { first: Word::BUSY, second: Word::BUSY };

    /// The version of the page that the bytes are of; nothing if they are of no use.
    #[must_use]
    pub fn version_of(self, page: Page) -> Option<Version> {
        self.first.version_of(page).filter(|_| self.first == self.second)
    }
}

/// The ranks whose marks are set.
#[must_use]
pub fn marked(marks: &[u8; MARKS_BYTES]) -> RankSet {
    let mut ranks = RankSet::EMPTY;
    for (rank, _) in (0..).map(Rank).zip(marks).filter(|(_, mark)| **mark != 0) {
        ranks.insert(rank);
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_do_not_overlap_and_fill_the_window() {
        let layout = Layout::new(3).expect("a layout");
        assert_eq!([0, 1, 2, 3].map(|page| layout.slot(Page(page))), [0, 1, 2, 0]);
        let last = Page(5);
        assert_eq!(layout.page(last) + PAGE_BYTES as u64, layout.words() as u64 * 8);
        assert_eq!(layout.word(last), 2 * SLOT_BYTES as u64);
        assert_eq!(layout.mark(last, Rank(MAX_RANKS - 1)) + 1, layout.page(last));
        assert_eq!(Layout::of_bytes(layout.words() as u64 * 8), Some(layout));
        assert_eq!([0, SLOT_BYTES as u64 - 8, SLOT_BYTES as u64 + 8].map(Layout::of_bytes), [None; 3]);
        assert_eq!((Layout::new(0), Layout::new(MAX_SLOTS + 1)), (None, None));
        assert!(Layout::new(MAX_SLOTS).is_some());
    }

    #[test]
    fn a_word_is_of_one_version_of_one_page() {
        let word = Word::shown(Page(7), Version(9)).expect("a word");
        assert_eq!(word.version_of(Page(7)), Some(Version(9)));
        assert_eq!(word.version_of(Page(8)), None);
        assert_eq!(Word::BUSY.version_of(Page(0)), None);
        assert_eq!(Word::shown(Page(0), Version::NONE), None);
        let most = u64::from(u32::MAX);
        assert!(Word::shown(Page(u32::MAX), Version(most)).is_some());
        assert_eq!(Word::shown(Page(1), Version(most + 1)), None, "it would be taken for a low one");
        let other = Word::shown(Page(7), Version(10)).expect("a word");
        assert_eq!(Seen { first: word, second: word }.version_of(Page(7)), Some(Version(9)));
        assert_eq!(Seen { first: word, second: other }.version_of(Page(7)), None);
        assert_eq!(Seen::NOTHING.version_of(Page(0)), None);
    }

    #[test]
    fn every_mark_is_a_rank() {
        let mut marks = [0; MARKS_BYTES];
        marks[0] = MARK;
        marks[63] = 0x80;
        assert_eq!(marked(&marks).iter().collect::<Vec<_>>(), [Rank(0), Rank(63)]);
    }
}
