//! How the changes of pages get home.

use std::collections::BTreeMap;

use crate::hlrc::action::{Action, Flush};
use crate::hlrc::notice;
use crate::id::{Access, Page, Rank};

use super::{Node, Pending};

/// Pages on their way home.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Flushing {
    /// Each with how it goes, once that is known.
    pages: BTreeMap<Page, Option<Flush>>,
    /// Homes that they are on the way to; nothing as long as they wait for each other.
    homes: Option<usize>,
}

impl Flushing {
    /// How many pages.
    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    fn is_known(&self) -> bool {
        self.pages.values().all(Option::is_some)
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
        self.jobs.flushing = Flushing { pages: away.iter().map(|page| (*page, None)).collect(), homes: None };
        for page in &away {
            self.take_turn(*page);
        }
        for page in here {
            self.go_on_with(page);
        }
    }

    /// It is known how a page goes.
    pub(super) fn ready(&mut self, page: Page, how: Flush) {
        self.jobs.flushing.pages.insert(page, Some(how));
    }

    /// Puts the pages once it is known how each goes, those of one home together; says whether all are home.
    pub(super) fn is_flushed(&mut self) -> bool {
        match self.jobs.flushing.homes {
            Some(homes) => homes == 0,
            None if self.jobs.flushing.is_known() => {
                self.put_pages();
                self.jobs.flushing.homes == Some(0)
            }
            None => false,
        }
    }

    fn put_pages(&mut self) {
        let mut homes: BTreeMap<Rank, Vec<(Page, Flush)>> = BTreeMap::new();
        for (page, how) in &self.jobs.flushing.pages {
            if let (Some(home), Some(how)) = (self.config.homes.home(*page), how) {
                homes.entry(home).or_default().push((*page, *how));
            }
        }
        self.jobs.flushing.homes = Some(homes.len());
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

    /// All pages of one home are there.
    pub(super) fn flushed(&mut self) {
        if let Some(homes) = &mut self.jobs.flushing.homes {
            *homes = homes.saturating_sub(1);
        }
    }

    /// All pages are home: they may be written again, and those that waited for room.
    pub(super) fn end_flush(&mut self) {
        let flushing = std::mem::take(&mut self.jobs.flushing);
        for (page, how) in &flushing.pages {
            if *how == Some(Flush::Whole) {
                self.end_turn(*page);
            }
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
