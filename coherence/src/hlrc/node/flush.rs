//! How the changes of pages get home.

use std::collections::BTreeMap;

use crate::hlrc::action::{Action, Flush};
use crate::hlrc::notice;
use crate::id::{Access, Page, Rank};

use super::claim::Claim;
use super::{Node, Pending};

/// Where a flush is. Pages that this rank has its turn for go first, and nothing else is waited for while others wait for that turn: so no ranks
/// wait for each other in a circle. Leaving a shadow waits for nobody either.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
enum Wave {
    /// It is not known how all of this rank's own go.
    #[default]
    Asking,
    /// They are on their way.
    Own,
    /// They are home, and it is not known of all others that they may go.
    Waiting,
    /// The others are on their way.
    Others,
}

/// A page on its way home.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Going {
    /// Another rank may have to have its turn before.
    waits: bool,
    /// How it goes, once that is known.
    how: Option<Flush>,
}

/// Pages on their way home.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Flushing {
    pages: BTreeMap<Page, Going>,
    wave: Wave,
    /// Homes that pages are on the way to.
    homes: usize,
}

impl Flushing {
    /// How many pages.
    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    fn of(&self, waits: bool) -> impl Iterator<Item = (Page, Option<Flush>)> {
        { self.pages.iter() }.filter(move |(_, going)| going.waits == waits).map(|(page, going)| (*page, going.how))
    }

    fn is_known(&self, waits: bool) -> bool {
        self.of(waits).all(|(_, how)| how.is_some())
    }
}

impl Node {
    /// Takes the right to write these pages away, which all have been written, and begins to bring them home. [`Self::work`] goes on when they are.
    pub(super) fn begin_flush(&mut self, pages: Vec<Page>) {
        for run in notice::compact(pages.iter().copied(), usize::MAX) {
            self.do_next(Action::Protect { run });
        }
        let (here, away): (Vec<_>, Vec<_>) = pages.into_iter().partition(|page| self.is_home(*page));
        for page in &here {
            self.written_here.remove(page);
            self.copy(*page).view = None;
        }
        for page in &away {
            self.written.remove(page);
            let copy = self.copy(*page);
            copy.view = Some(Access::Read);
            copy.flushing = true;
        }
        let mut pages = BTreeMap::new();
        for page in &away {
            let waits = matches!(self.copy(*page).claim, Claim::Other(_));
            pages.insert(*page, Going { waits, how: None });
        }
        self.jobs.flushing = Flushing { pages, ..Flushing::default() };
        for page in &away {
            self.take_turn(*page);
        }
        for page in here {
            self.go_on_with(page);
        }
    }

    /// It is known how a page goes.
    pub(super) fn ready(&mut self, page: Page, how: Flush) {
        if let Some(going) = self.jobs.flushing.pages.get_mut(&page) {
            going.how = Some(how);
        }
    }

    /// Puts the pages once it is known how each goes, those of one home together; says whether all are home.
    pub(super) fn is_flushed(&mut self) -> bool {
        while self.jobs.flushing.homes == 0 {
            let next = match self.jobs.flushing.wave {
                Wave::Asking if self.jobs.flushing.is_known(false) => {
                    self.put_pages(false);
                    Wave::Own
                }
                Wave::Own => {
                    self.end_turns();
                    Wave::Waiting
                }
                Wave::Waiting if self.jobs.flushing.is_known(true) => {
                    self.put_pages(true);
                    Wave::Others
                }
                Wave::Asking | Wave::Waiting => return false,
                Wave::Others => return true,
            };
            self.jobs.flushing.wave = next;
        }
        false
    }

    fn put_pages(&mut self, waits: bool) {
        let mut homes: BTreeMap<Rank, Vec<(Page, Flush)>> = BTreeMap::new();
        for (page, how) in self.jobs.flushing.of(waits) {
            if let (Some(home), Some(how)) = (self.config.homes.home(page), how) {
                homes.entry(home).or_default().push((page, how));
            }
        }
        self.jobs.flushing.homes = homes.len();
        for (home, pages) in homes {
            for (_, how) in &pages {
                match how {
                    Flush::Changed => self.stats.diffs += 1,
                    Flush::Whole => self.stats.whole_pages += 1,
                }
            }
            let op = self.begin(Pending::Flush);
            self.do_next(Action::Flush { op, home, pages });
        }
    }

    /// Whole pages are home: others may write them now.
    fn end_turns(&mut self) {
        let whole = self.jobs.flushing.of(false).filter(|(_, how)| *how == Some(Flush::Whole));
        for (page, _) in whole.collect::<Vec<_>>() {
            self.end_turn(page);
        }
    }

    /// All pages of one home are there.
    pub(super) fn flushed(&mut self) {
        self.jobs.flushing.homes = self.jobs.flushing.homes.saturating_sub(1);
    }

    /// All pages are home: they may be written again, and those that waited for room.
    pub(super) fn end_flush(&mut self) {
        let flushing = std::mem::take(&mut self.jobs.flushing);
        for page in flushing.pages.keys() {
            let copy = self.copy(*page);
            copy.flushing = false;
            copy.twin = false;
        }
        let starved = std::mem::take(&mut self.jobs.starved);
        for page in starved.into_iter().chain(flushing.pages.into_keys()) {
            self.go_on_with(page);
        }
    }
}
