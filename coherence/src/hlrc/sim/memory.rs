//! The memory of a simulated machine: what ranks reach in each other, and what each has for itself. Pages are small, so that states are.

use std::collections::BTreeMap;

use crate::hlrc::action::{Action, Flush, OpId, Outcome};
use crate::hlrc::{LockId, ThreadId, diff};
use crate::id::{Access, Page, Rank};

use super::flight::{Flight, Part, Purpose};

/// Bytes of a simulated page.
pub const CELLS: usize = 32;

/// A simulated page.
pub type Cells = [u8; CELLS];

/// What ranks reach in each other. What is not there is zero.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Segments {
    words: BTreeMap<(Rank, u64), u64>,
    pages: BTreeMap<Page, Cells>,
    shadows: BTreeMap<Page, Cells>,
}

impl Segments {
    /// A word of a rank's segment.
    #[must_use]
    pub fn word(&self, rank: Rank, offset: u64) -> u64 {
        self.words.get(&(rank, offset)).copied().unwrap_or(0)
    }

    /// Changes a word.
    pub fn set_word(&mut self, rank: Rank, offset: u64, word: u64) {
        if word == 0 {
            self.words.remove(&(rank, offset));
        } else {
            self.words.insert((rank, offset), word);
        }
    }

    /// So many words from an offset on.
    #[must_use]
    pub fn words(&self, rank: Rank, offset: u64, count: u32) -> Vec<u64> {
        (0..u64::from(count)).map(|index| self.word(rank, offset + 8 * index)).collect()
    }

    /// Whether any word is other than zero in the second half of what a rank keeps of a lock, or anywhere else that satisfies this.
    pub fn nonzero(&self) -> impl Iterator<Item = (Rank, u64, u64)> {
        self.words.iter().map(|((rank, offset), word)| (*rank, *offset, *word))
    }

    /// A page at its home.
    #[must_use]
    pub fn page(&self, page: Page) -> Cells {
        self.pages.get(&page).copied().unwrap_or([0; CELLS])
    }

    /// Changes bytes of a page at its home.
    pub fn write_page(&mut self, page: Page, at: usize, bytes: &[u8]) {
        let cells = self.pages.entry(page).or_insert([0; CELLS]);
        if let Some(to) = cells.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }

    /// The shadow of a page at its home.
    #[must_use]
    pub fn shadow(&self, page: Page) -> Cells {
        self.shadows.get(&page).copied().unwrap_or([0; CELLS])
    }

    /// Changes the shadow of a page.
    pub fn set_shadow(&mut self, page: Page, cells: Cells) {
        self.shadows.insert(page, cells);
    }
}

/// What a rank has for itself.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Memory {
    rank: Rank,
    /// Which pages are in its own segment.
    homed: Vec<Page>,
    /// Copies of others' pages.
    copies: BTreeMap<Page, Cells>,
    /// What its threads may do. Pages homed here can always be read.
    views: BTreeMap<Page, Access>,
    twins: BTreeMap<Page, Cells>,
    fetched: BTreeMap<Page, Cells>,
}

/// What came of an action.
#[derive(Clone, Debug)]
pub enum Effect {
    /// It is done.
    None,
    /// An operation is under way.
    Started(OpId, Flight),
    /// Threads may have a lock among themselves.
    Lent(LockId),
    /// It is asked for.
    Recalled(LockId),
    /// A thread goes on.
    Woken(ThreadId, Outcome),
}

impl Memory {
    /// That of a rank that is the home of these pages.
    #[must_use]
    pub fn new(rank: Rank, homed: Vec<Page>) -> Self {
        let (copies, views, twins, fetched) = Default::default();
        Self { rank, homed, copies, views, twins, fetched }
    }

    /// What threads may do with a page.
    #[must_use]
    pub fn access(&self, page: Page) -> Option<Access> {
        let view = self.views.get(&page).copied();
        if self.homed.contains(&page) { view.or(Some(Access::Read)) } else { view }
    }

    /// Whether a page has a twin.
    #[must_use]
    pub fn has_twin(&self, page: Page) -> bool {
        self.twins.contains_key(&page)
    }

    /// How many pages have one.
    #[must_use]
    pub fn twins(&self) -> usize {
        self.twins.len()
    }

    /// The bytes of a page that differ from its twin.
    #[must_use]
    pub fn changes(&self, page: Page) -> Vec<diff::Changed> {
        let (Some(twin), Some(cells)) = (self.twins.get(&page), self.copies.get(&page)) else { return Vec::new() };
        diff::between(twin, cells).puts().map(|(run, _)| run).collect()
    }

    /// A page as threads see it, if they may read it.
    #[must_use]
    pub fn read(&self, segments: &Segments, page: Page) -> Option<Cells> {
        self.access(page)?;
        if self.homed.contains(&page) { Some(segments.page(page)) } else { self.copies.get(&page).copied() }
    }

    /// A thread writes; false if it may not.
    pub fn write(&mut self, segments: &mut Segments, page: Page, at: usize, bytes: &[u8]) -> bool {
        if self.access(page) != Some(Access::Write) {
            return false;
        }
        if self.homed.contains(&page) {
            segments.write_page(page, at, bytes);
        } else if let Some(to) = self.copies.get_mut(&page).and_then(|cells| cells.get_mut(at..at + bytes.len())) {
            to.copy_from_slice(bytes);
        }
        true
    }

    /// A page has come for this purpose.
    pub fn receive(&mut self, purpose: Purpose, cells: Cells) {
        match purpose {
            Purpose::View(page) => {
                self.fetched.insert(page, cells);
            }
            Purpose::Twin(page) => {
                self.twins.insert(page, cells);
            }
            Purpose::Words | Purpose::None => {}
        }
    }

    /// Does what a node wants done.
    ///
    /// # Errors
    /// What is wrong when that cannot be done.
    pub fn execute(&mut self, segments: &mut Segments, action: Action) -> Result<Effect, String> {
        let started = |op, parts, purpose| Ok(Effect::Started(op, Flight::new(parts, purpose)));
        match action {
            Action::Get { op, target, offset, words } => {
                started(op, vec![Part::Get { target, offset, words }], Purpose::Words)
            }
            Action::Put { op, target, offset, words } => {
                let put = |(offset, word)| Part::Put { target, offset, word };
                started(op, (offset..).step_by(8).zip(words).map(put).collect(), Purpose::None)
            }
            Action::CompareAndSwap { op, target, offset, expected, new } => {
                started(op, vec![Part::Swap { target, offset, expected, new }], Purpose::Words)
            }
            Action::Fetch { op, page, home } => {
                let halves = [0, CELLS / 2].map(|at| Part::Read { home, page, at });
                started(op, halves.to_vec(), Purpose::View(page))
            }
            Action::FetchTwin { op, page, home } => {
                started(op, vec![Part::ReadShadow { home, page }], Purpose::Twin(page))
            }
            Action::Save { op, page, home } => started(op, vec![Part::Save { home, page }], Purpose::None),
            Action::Flush { op, home, pages } => {
                let parts = pages.into_iter().map(|(page, how)| self.puts(home, page, how));
                let parts = parts.collect::<Result<Vec<_>, _>>()?.concat();
                started(op, parts, Purpose::None)
            }
            Action::Lend { lock } => Ok(Effect::Lent(lock)),
            Action::Recall { lock } => Ok(Effect::Recalled(lock)),
            Action::Wake { thread, outcome } => Ok(Effect::Woken(thread, outcome)),
            local @ (Action::Store { .. }
            | Action::Map { .. }
            | Action::Twin { .. }
            | Action::Allow { .. }
            | Action::Protect { .. }
            | Action::Unmap { .. }) => self.change(segments, local).map(|()| Effect::None),
        }
    }

    /// What has to be put to bring a page home.
    fn puts(&mut self, home: Rank, page: Page, how: Flush) -> Result<Vec<Part>, String> {
        let cells = *self.copies.get(&page).ok_or_else(|| format!("page {} goes home and is not there", page.0))?;
        if self.access(page) == Some(Access::Write) {
            return Err(format!("page {} goes home while it can be written", page.0));
        }
        match how {
            Flush::Whole => {
                // Not at once: what others read or save meanwhile is half of it.
                let half = |at: usize| Part::Write { home, page, at, bytes: cells[at..at + CELLS / 2].to_vec() };
                Ok(vec![half(0), half(CELLS / 2)])
            }
            Flush::Changed => {
                let twin = self.twins.remove(&page).ok_or_else(|| format!("page {} has no twin", page.0))?;
                let diff = diff::between(&twin, &cells);
                let put = |(run, bytes): (diff::Changed, &[u8])| Part::Write {
                    home,
                    page,
                    at: run.start.into(),
                    bytes: bytes.to_vec(),
                };
                Ok(diff.puts().map(put).collect())
            }
        }
    }

    fn change(&mut self, segments: &mut Segments, action: Action) -> Result<(), String> {
        let set = |done: bool, what: &str, page: Page| {
            if done { Ok(()) } else { Err(format!("page {} {what}", page.0)) }
        };
        match action {
            Action::Store { offset, words } => {
                for (offset, word) in (offset..).step_by(8).zip(words) {
                    segments.set_word(self.rank, offset, word);
                }
                Ok(())
            }
            Action::Map { page } => {
                let cells = self.fetched.remove(&page).ok_or_else(|| format!("page {} has not come", page.0))?;
                let new = self.copies.insert(page, cells).is_none();
                self.views.insert(page, Access::Read);
                set(new, "is mapped and there already", page)
            }
            Action::Twin { page } => {
                let cells = *self.copies.get(&page).ok_or_else(|| format!("page {} is to have a twin", page.0))?;
                let fits = self.access(page) == Some(Access::Read) && self.twins.insert(page, cells).is_none();
                set(fits, "can be written or has a twin, and gets one", page)
            }
            Action::Allow { page } => {
                let was = self.access(page);
                self.views.insert(page, Access::Write);
                set(was == Some(Access::Read), "can be written from now on, and could not be read", page)
            }
            Action::Protect { run } => {
                for page in run.pages() {
                    let was = self.access(page);
                    self.views.insert(page, Access::Read);
                    set(was == Some(Access::Write), "is protected and could not be written", page)?;
                }
                Ok(())
            }
            Action::Unmap { page } => {
                self.twins.remove(&page);
                self.views.remove(&page);
                set(self.copies.remove(&page).is_some(), "is taken out of view and not in it", page)
            }
            Action::Lend { .. }
            | Action::Recall { .. }
            | Action::Get { .. }
            | Action::Put { .. }
            | Action::CompareAndSwap { .. }
            | Action::Fetch { .. }
            | Action::FetchTwin { .. }
            | Action::Save { .. }
            | Action::Flush { .. }
            | Action::Wake { .. } => Ok(()),
        }
    }
}
