//! Windows of simulated homes, and how they are used step by step: by the home's driver, and by the NICs of other ranks, between whose
//! steps anything may happen.

use std::collections::{BTreeMap, VecDeque};

use crate::id::{Page, Rank, RankSet, Version};
use crate::window::{Seen, Word};

use super::memory::{WORDS, Words, ZEROS};

/// A slot.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Slot {
    /// The directory word.
    pub word: Word,
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
    Publish,
    /// Sets the directory word to busy.
    Busy,
    /// Looks whether a rank has marked it.
    Look(Rank),
}

impl HomeStep {
    /// To show a page.
    #[must_use]
    pub fn to_show() -> Vec<Self> {
        (0..WORDS).map(Self::Copy).chain([Self::Publish]).collect()
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
        match (step, self.shows) {
            (HomeStep::Copy(index), Some((_, words))) => {
                if let (Some(to), Some(from)) = (place.words.get_mut(index), words.get(index)) {
                    *to = *from;
                }
            }
            (HomeStep::Publish, Some((version, _))) => {
                place.word = Word::shown(self.page, version).unwrap_or(Word::BUSY);
            }
            (HomeStep::Copy(_) | HomeStep::Publish, None) => {}
            (HomeStep::Busy, _) => place.word = Word::BUSY,
            (HomeStep::Look(rank), _) => {
                if place.marks.contains(rank) {
                    self.marks.insert(rank);
                }
            }
        }
        true
    }
}

/// What a reader's NIC does at a slot, one after the other.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum NicStep {
    /// Puts the reader's mark.
    Mark,
    /// Gets the directory word.
    First,
    /// Gets a word of the page.
    Get(usize),
    /// Gets the directory word again.
    Second,
}

impl NicStep {
    /// A guarded read.
    #[must_use]
    pub fn guarded_read() -> Vec<Self> {
        let page = (0..WORDS).map(Self::Get);
        [Self::Mark, Self::First].into_iter().chain(page).chain([Self::Second]).collect()
    }
}

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
    /// The words so far.
    pub seen: Seen,
    /// The bytes so far.
    pub words: Words,
}

impl GuardedRead {
    /// One that begins.
    #[must_use]
    pub fn new(reader: Rank, home: Rank, page: Page, steps: Vec<NicStep>) -> Self {
        Self { reader, home, page, steps: steps.into(), seen: Seen::NOTHING, words: ZEROS }
    }

    /// Takes the next step on its slot; false when there is none left.
    pub fn step(&mut self, window: &mut Window, slot: u32) -> bool {
        let Some(step) = self.steps.pop_front() else { return false };
        let place = window.change(slot);
        match step {
            NicStep::Mark => _ = place.marks.insert(self.reader),
            NicStep::First => self.seen.first = place.word,
            NicStep::Get(index) => {
                if let (Some(to), Some(from)) = (self.words.get_mut(index), place.words.get(index)) {
                    *to = *from;
                }
            }
            NicStep::Second => self.seen.second = place.word,
        }
        true
    }
}
