//! Windows of simulated homes, and how they are used step by step: by the home's driver, and by the NICs of other ranks, between whose
//! steps anything may happen.

use std::collections::{BTreeMap, VecDeque};

use crate::id::{Page, Rank, RankSet, Version};
use crate::window::{BUSY, Seen, Word, hash};

use super::memory::{WORDS, Words, ZEROS};

/// The hash of a word and the bytes of a simulated page.
fn hash_of(word: Word, words: &Words) -> u64 {
    hash(word, words.map(u64::to_le_bytes).as_flattened())
}

/// A slot.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Slot {
    /// The directory word.
    pub word: Word,
    /// The hash of that and the bytes.
    pub hash: u64,
    /// Who has marked it.
    pub marks: RankSet,
    /// The bytes.
    pub words: Words,
}

/// A window; slots without an entry have never been used.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Window {
    slots: BTreeMap<u32, Slot>,
}

impl Window {
    /// What is in a slot.
    #[must_use]
    pub fn slot(&self, slot: u32) -> Slot {
        self.slots.get(&slot).copied().unwrap_or_default()
    }

    fn change(&mut self, slot: u32) -> &mut Slot {
        self.slots.entry(slot).or_default()
    }
}

/// What a home's driver does to a slot, one after the other.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum HomeStep {
    /// Copies a word of the page into it.
    Copy(usize),
    /// Sets the directory word to that of the page.
    Name,
    /// Sets the hash.
    Publish,
    /// Clears the hash.
    Busy,
    /// Looks whether a rank has marked it.
    Look(Rank),
}

impl HomeStep {
    /// To show a page.
    #[must_use]
    pub fn to_show() -> Vec<Self> {
        (0..WORDS).map(Self::Copy).chain([Self::Name, Self::Publish]).collect()
    }

    /// To hide a page of this home, on a machine of so many ranks.
    #[must_use]
    pub fn to_hide(home: Rank, ranks: u16) -> Vec<Self> {
        let others = (0..ranks).map(Rank).filter(|rank| *rank != home);
        [Self::Busy].into_iter().chain(others.map(Self::Look)).collect()
    }
}

/// A home's driver at a slot.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct HomeWork {
    /// The page.
    pub page: Page,
    /// Its version and its bytes, when it is to be shown.
    pub shows: Option<(Version, Words)>,
    /// What is left to do.
    pub steps: VecDeque<HomeStep>,
    /// Marks seen so far.
    pub marks: RankSet,
}

impl HomeWork {
    /// Takes the next step on its slot; false when there is none left.
    pub fn step(&mut self, window: &mut Window, slot: u32) -> bool {
        let Some(step) = self.steps.pop_front() else { return false };
        let place = window.change(slot);
        let shown = |version| Word::shown(self.page, version).unwrap_or(Word::NONE);
        match (step, self.shows) {
            (HomeStep::Copy(index), Some((_, words))) => {
                if let (Some(to), Some(from)) = (place.words.get_mut(index), words.get(index)) {
                    *to = *from;
                }
            }
            (HomeStep::Name, Some((version, _))) => place.word = shown(version),
            (HomeStep::Publish, Some((version, words))) => place.hash = hash_of(shown(version), &words),
            (HomeStep::Copy(_) | HomeStep::Name | HomeStep::Publish, None) => {}
            (HomeStep::Busy, _) => place.hash = BUSY,
            (HomeStep::Look(rank), _) => {
                if place.marks.contains(rank) {
                    self.marks.insert(rank);
                }
            }
        }
        true
    }
}

/// What a reader's NIC does at a slot: puts the mark, and then fetches the rest in any order.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum NicStep {
    /// Puts the reader's mark.
    Mark,
    /// Gets the lower half of the directory word.
    Low,
    /// Gets the upper half of the directory word.
    High,
    /// Gets the hash.
    Hash,
    /// Gets a word of the page.
    Get(usize),
}

impl NicStep {
    /// A guarded read. What comes after the mark may be put into any order.
    #[must_use]
    pub fn guarded_read() -> Vec<Self> {
        [Self::Mark, Self::Low, Self::High, Self::Hash].into_iter().chain((0..WORDS).map(Self::Get)).collect()
    }
}

/// The lower half of a word.
const LOW: u64 = u32::MAX as u64;

/// A guarded read under way.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct GuardedRead {
    /// Whose NIC.
    pub reader: Rank,
    /// Where.
    pub home: Rank,
    /// The page.
    pub page: Page,
    /// What is left to do.
    pub steps: VecDeque<NicStep>,
    /// The directory word, as far as it has come.
    pub word: Word,
    /// The hash, once it has come.
    pub hash: u64,
    /// The bytes so far.
    pub words: Words,
}

impl GuardedRead {
    /// One that begins.
    #[must_use]
    pub fn new(reader: Rank, home: Rank, page: Page, steps: Vec<NicStep>) -> Self {
        Self { reader, home, page, steps: steps.into(), word: Word::NONE, hash: BUSY, words: ZEROS }
    }

    /// What it has brought beside the bytes.
    #[must_use]
    pub fn seen(&self) -> Seen {
        Seen { word: self.word, is_whole: self.hash == hash_of(self.word, &self.words) }
    }

    /// Takes the next step on its slot; false when there is none left.
    pub fn step(&mut self, window: &mut Window, slot: u32) -> bool {
        self.take(0, window, slot)
    }

    /// Takes this one of the steps that are left; false when there is none.
    pub fn take(&mut self, at: usize, window: &mut Window, slot: u32) -> bool {
        let Some(step) = self.steps.remove(at) else { return false };
        let place = window.change(slot);
        match step {
            NicStep::Mark => _ = place.marks.insert(self.reader),
            NicStep::Low => self.word.0 |= place.word.0 & LOW,
            NicStep::High => self.word.0 |= place.word.0 & !LOW,
            NicStep::Hash => self.hash = place.hash,
            NicStep::Get(index) => {
                if let (Some(to), Some(from)) = (self.words.get_mut(index), place.words.get(index)) {
                    *to = *from;
                }
            }
        }
        true
    }
}
