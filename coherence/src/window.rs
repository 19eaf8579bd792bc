//! A home's window: memory in which it shows pages that are clean, for other ranks to read without its processor.
//!
//! A window has slots. The slot of a page follows from its number, so a reader knows where to look; several pages share a slot, and one of them
//! at a time is shown in it. All ranks of a machine have windows with the same number of slots.
//!
//! | bytes of a slot | what | who writes it |
//! |---|---|---|
//! | 0–7 | directory word: which version of which page is shown | the home's processor |
//! | 8–15 | [`hash`] of the word and the page, or [`BUSY`] when none is shown | the home's processor |
//! | 16–4111 | the page | the home's processor |
//! | 4160–4223 | marks: one byte for each rank, not zero once the rank may have read from the slot | that rank, by put |
//!
//! So no byte is written by both a NIC and a processor, and no NIC writes next to a word that a processor writes. What is read is in one place,
//! so one read brings it. In which order a NIC fetches its bytes, and whether they are all of the same time, nobody says: the hash does. A home
//! sets it when all else is there, and clears it before it looks for marks: who has read any part of it before that has marked the slot before.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::id::{MAX_RANKS, PAGE_BYTES, Page, Rank, RankSet, Version};

/// Where the directory word of a slot is in it.
const WORD: usize = 0;
/// Where the hash of a slot is in it.
const HASH: usize = 8;
/// Where the page of a slot is in it.
const PAGE: usize = 16;
/// Where the marks of a slot are in it: in a cache line that is theirs.
const MARKS: usize = 4160;

/// Bytes of the marks of a slot.
pub const MARKS_BYTES: usize = MAX_RANKS as usize;

/// Bytes of a slot.
pub const SLOT_BYTES: usize = MARKS + MARKS_BYTES;

/// Bytes that are read of a slot, from the directory word on.
pub const READ_BYTES: usize = PAGE + PAGE_BYTES;

/// What is in the place of the hash while nothing is shown; so is it at the start.
pub const BUSY: u64 = 0;

/// What a rank puts as its mark.
pub const MARK: u8 = 1;

/// Most slots of all windows of a rank: 64 MiB, which a NIC keeps locked in memory.
pub const MAX_SLOTS: u32 = 15_887;

const _: () = assert!(WORD == 0 && HASH == WORD + size_of::<Word>() && PAGE == HASH + size_of::<u64>());
const _: () = assert!(READ_BYTES <= MARKS && MARKS.is_multiple_of(64) && SLOT_BYTES.is_multiple_of(64) && MARK != 0);
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

    /// Where the directory word of the page's slot is, in bytes: from there on [`READ_BYTES`] are read.
    #[must_use]
    pub fn word(self, page: Page) -> u64 {
        self.at(page, WORD)
    }

    /// Where the hash of the page's slot is, in bytes.
    #[must_use]
    pub fn hash(self, page: Page) -> u64 {
        self.at(page, HASH)
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

/// A directory word: the page in its upper half, its version in the lower one.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Word(pub u64);

impl Word {
    /// That of no page; so is it at the start.
    pub const NONE: Self = Self(0);

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

/// What vouches for the bytes of a page that is shown with this word: XXH3 of the bytes with the word as its seed. Bytes and words that do not
/// belong together pass for such that do by chance only, one time in 2^64: it is no defence against who looks for some that do.
#[must_use]
pub fn hash(word: Word, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, word.0)
}

/// What a guarded read has brought of a page, beside its bytes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Seen {
    /// The directory word.
    pub word: Word,
    /// Whether the hash is that of this word and the bytes.
    pub is_whole: bool,
}

impl Seen {
    /// Of a read that has come to nothing.
    pub const NOTHING: Self = Self { word: Word::NONE, is_whole: false };

    /// Of the bytes of a slot from its word on, and the page among them; nothing if they are not [`READ_BYTES`].
    #[must_use]
    pub fn parse(read: &[u8]) -> (Self, &[u8]) {
        let parsed = read.split_first_chunk().and_then(|(word, rest)| Some((word, rest.split_first_chunk()?)));
        let Some((word, (summed, bytes))) = parsed.filter(|_| read.len() == READ_BYTES) else {
            return (Self::NOTHING, &[]);
        };
        let (word, summed) = (Word(u64::from_le_bytes(*word)), u64::from_le_bytes(*summed));
        // Most looks in vain find nothing shown.
        let is_whole = summed != BUSY && summed == hash(word, bytes);
        (Self { word, is_whole }, bytes)
    }

    /// The version of the page that the bytes are of; nothing if they are of no use.
    #[must_use]
    pub fn version_of(self, page: Page) -> Option<Version> {
        self.word.version_of(page).filter(|_| self.is_whole)
    }
}

/// The ranks whose marks are set.
#[must_use]
pub fn marked(marks: &[u8; MARKS_BYTES]) -> RankSet {
    (0..).map(Rank).zip(marks).filter(|(_, mark)| **mark != 0).map(|(rank, _)| rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_do_not_overlap_and_fill_the_window() {
        let layout = Layout::new(3).expect("a layout");
        assert_eq!([0, 1, 2, 3].map(|page| layout.slot(Page(page))), [0, 1, 2, 0]);
        let last = Page(5);
        assert_eq!(layout.mark(last, Rank(MAX_RANKS - 1)) + 1, layout.words() as u64 * 8);
        assert_eq!(layout.word(last), 2 * SLOT_BYTES as u64);
        assert_eq!((layout.hash(last), layout.page(last)), (layout.word(last) + 8, layout.word(last) + 16));
        assert_eq!(layout.word(last) + READ_BYTES as u64, layout.page(last) + PAGE_BYTES as u64);
        assert!(layout.word(last) + READ_BYTES as u64 <= layout.marks(last));
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
        assert_eq!(Word::NONE.version_of(Page(0)), None);
        assert_eq!(Word::shown(Page(0), Version::NONE), None);
        let most = u64::from(u32::MAX);
        assert!(Word::shown(Page(u32::MAX), Version(most)).is_some());
        assert_eq!(Word::shown(Page(1), Version(most + 1)), None, "it would be taken for a low one");
    }

    fn read(word: Word, of: Word, bytes: &[u8]) -> Vec<u8> {
        [&word.0.to_le_bytes()[..], &hash(of, bytes).to_le_bytes(), bytes].concat()
    }

    #[test]
    fn bytes_count_when_the_hash_is_theirs_and_the_words() {
        let [word, other] = [9, 10].map(|version| Word::shown(Page(7), Version(version)).expect("a word"));
        let mut bytes = vec![5; PAGE_BYTES];
        let right = read(word, word, &bytes);
        let (seen, page) = Seen::parse(&right);
        assert_eq!((seen.version_of(Page(7)), page), (Some(Version(9)), &bytes[..]));
        assert_eq!(seen.version_of(Page(8)), None);
        assert_eq!(Seen::parse(&read(word, other, &bytes)).0.version_of(Page(7)), None, "the hash is of another word");
        for at in 0..READ_BYTES {
            let mut torn = right.clone();
            torn[at] ^= 0x10;
            let (seen, _) = Seen::parse(&torn);
            assert!(!seen.is_whole && seen.version_of(Page(7)).is_none(), "byte {at} is another");
        }
        let busy = [&word.0.to_le_bytes()[..], &BUSY.to_le_bytes(), &bytes].concat();
        assert_eq!(Seen::parse(&busy).0.version_of(Page(7)), None);
        assert_eq!(Seen::parse(&read(Word::NONE, Word::NONE, &bytes)).0.version_of(Page(0)), None);
        assert_eq!(Seen::parse(&vec![0; READ_BYTES]).0, Seen::NOTHING, "as a slot is at the start");
        for len in [0, 8, 16, READ_BYTES - 1] {
            assert_eq!(Seen::parse(&right[..len]), (Seen::NOTHING, &[][..]), "{len} bytes");
        }
        bytes.push(5);
        assert_eq!(Seen::parse(&read(word, word, &bytes)).0, Seen::NOTHING);
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
