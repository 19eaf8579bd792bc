//! Operations under way, in parts that take effect at times of their own: the port promises order only by completions, and no more
//! than words that are whole.

use crate::hlrc::action::Completion;
use crate::id::{Page, Rank};

use super::memory::{CELLS, Cells, Segments};

/// What an operation is for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Purpose {
    /// A page to be mapped.
    View(Page),
    /// A page to be a twin.
    Twin(Page),
    /// Words or a word to be told.
    Words,
    /// Nothing comes.
    None,
}

/// What takes effect at once.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Part {
    /// Words are read.
    Get {
        /// Whose.
        target: Rank,
        /// Where.
        offset: u64,
        /// How many.
        words: u32,
    },
    /// A word is written.
    Put {
        /// Whose.
        target: Rank,
        /// Where.
        offset: u64,
        /// What.
        word: u64,
    },
    /// A word is exchanged.
    Swap {
        /// Whose.
        target: Rank,
        /// Where.
        offset: u64,
        /// What it has to be.
        expected: u64,
        /// What it becomes.
        new: u64,
    },
    /// Half of a page is read.
    Read {
        /// Its home.
        home: Rank,
        /// Which.
        page: Page,
        /// Where the half begins.
        at: usize,
    },
    /// A shadow is read.
    ReadShadow {
        /// Its home.
        home: Rank,
        /// Which.
        page: Page,
    },
    /// A page is read to be saved; [`Part::WriteShadow`] follows.
    Save {
        /// Its home.
        home: Rank,
        /// Which.
        page: Page,
    },
    /// A shadow is written.
    WriteShadow {
        /// Its home.
        home: Rank,
        /// Which.
        page: Page,
        /// With what.
        cells: Cells,
    },
    /// Bytes of a page are written.
    Write {
        /// Its home.
        home: Rank,
        /// Which.
        page: Page,
        /// Where.
        at: usize,
        /// What.
        bytes: Vec<u8>,
    },
}

impl Part {
    /// The rank in whose memory it takes effect.
    #[must_use]
    pub fn target(&self) -> Rank {
        match self {
            Self::Get { target, .. } | Self::Put { target, .. } | Self::Swap { target, .. } => *target,
            Self::Read { home, .. }
            | Self::ReadShadow { home, .. }
            | Self::Save { home, .. }
            | Self::WriteShadow { home, .. }
            | Self::Write { home, .. } => *home,
        }
    }
}

/// An operation under way.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Flight {
    /// What has not taken effect, in any order.
    pub parts: Vec<Part>,
    /// What it is for.
    pub purpose: Purpose,
    result: Option<Completion>,
    cells: Cells,
}

impl Flight {
    /// One that begins.
    #[must_use]
    pub fn new(parts: Vec<Part>, purpose: Purpose) -> Self {
        Self { parts, purpose, result: None, cells: [0; CELLS] }
    }

    /// One of the parts takes effect.
    pub fn take_effect(&mut self, part: usize, segments: &mut Segments) {
        if part >= self.parts.len() {
            return;
        }
        match self.parts.remove(part) {
            Part::Get { target, offset, words } => {
                self.result = Some(Completion::Words(segments.words(target, offset, words)));
            }
            Part::Put { target, offset, word } => segments.set_word(target, offset, word),
            Part::Swap { target, offset, expected, new } => {
                let old = segments.word(target, offset);
                if old == expected {
                    segments.set_word(target, offset, new);
                }
                self.result = Some(Completion::Old(old));
            }
            Part::Read { home: _, page, at } => {
                let half = at..at + CELLS / 2;
                self.cells[half.clone()].copy_from_slice(&segments.page(page)[half]);
            }
            Part::ReadShadow { home: _, page } => self.cells = segments.shadow(page),
            Part::Save { home, page } => {
                self.parts.push(Part::WriteShadow { home, page, cells: segments.page(page) });
            }
            Part::WriteShadow { home: _, page, cells } => segments.set_shadow(page, cells),
            Part::Write { home: _, page, at, bytes } => segments.write_page(page, at, &bytes),
        }
    }

    /// All of it takes effect at once.
    pub fn take_all_effect(&mut self, segments: &mut Segments) {
        while !self.parts.is_empty() {
            self.take_effect(0, segments);
        }
    }

    /// What comes of it, and the page that it brings.
    #[must_use]
    pub fn end(self) -> (Completion, Purpose, Cells) {
        (self.result.unwrap_or(Completion::Done), self.purpose, self.cells)
    }
}
