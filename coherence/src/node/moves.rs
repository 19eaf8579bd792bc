//! Pages that are on their way to another home, as far as this rank has to do with them.
//!
//! The order of messages about a page depends on the two channels between each cacher and its home. So a home moves when nothing is on any of
//! them: the home has everybody *freeze* the pages, who says so after the last that it has sent about them, and has seen all that the home has sent
//! by then. From there until the new home says that it is, nobody sends anything about them: what would be sent waits here, and pages that are to be
//! given up stay until then. Copies that are there are used all the while.

use std::collections::BTreeMap;

use super::directory::Request;
use super::{Node, ProtocolError};
use crate::home::HomeMap;
use crate::id::{Access, Page, Rank, RankSet, Run, Version};
use crate::message::{Message, Urgency};

/// Most pages that are handed over together: 512 KiB, so that nobody waits for long for what comes behind them on a channel.
pub const MAX_HAND_OVER_PAGES: u16 = 128;

/// Most hand-overs under way at once in a machine, each of other pages: enough that one's bytes travel while others freeze.
pub const MAX_HAND_OVERS: usize = 16;

/// How far a hand-over is here.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Stage {
    /// At the home: the pages leave the window. All else goes on.
    Hiding,
    /// At the home: these ranks have not frozen the pages yet. What they have sent before is taken in, and waits for the new home.
    Freezing {
        /// Who.
        waiting: RankSet,
    },
    /// At all others, and at the old home when it has handed them over: this rank is to send nothing about the pages.
    Frozen {
        /// Whether it has said so.
        told: bool,
    },
}

/// A request that waits for the new home.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Ask {
    pub(super) page: Page,
    pub(super) access: Access,
    pub(super) urgency: Urgency,
    pub(super) have: Version,
}

/// Requests that came with a page.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Brought {
    /// Whether the first is under way.
    pub(super) is_begun: bool,
    pub(super) requests: Vec<Request>,
}

/// A hand-over.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Move {
    pub(super) run: Run,
    /// The new home.
    pub(super) to: Rank,
    /// The ranks of the machine.
    pub(super) members: RankSet,
    pub(super) stage: Stage,
    /// What this rank will ask the new home for, in order; one request a page at most.
    pub(super) held: Vec<Ask>,
    /// At the new home: requests that have come before the pages they are for.
    pub(super) brought: BTreeMap<Page, Brought>,
}

/// All hand-overs that this rank knows of.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Moves {
    /// By their first pages; no two have a page in common.
    pub(super) by_first: BTreeMap<Page, Move>,
    /// At rank 0: those that were ordered and are not over, by their first pages, with the new home.
    pub(super) ordered: BTreeMap<Page, (Run, Rank)>,
}

impl Moves {
    /// The hand-over of a page.
    pub(super) fn of(&self, page: Page) -> Option<&Move> {
        if self.by_first.is_empty() {
            return None;
        }
        self.by_first.range(..=page).next_back().map(|(_, moving)| moving).filter(|moving| moving.run.contains(page))
    }

    /// The same, to be changed.
    pub(super) fn of_mut(&mut self, page: Page) -> Option<&mut Move> {
        let before = self.by_first.range_mut(..=page).next_back();
        before.map(|(_, moving)| moving).filter(|moving| moving.run.contains(page))
    }

    /// Whether this rank knows of any that is not over.
    pub(super) fn is_any(&self) -> bool {
        !self.by_first.is_empty()
    }

    /// At a home: the first page of those that it is to hand over, and has not.
    pub(super) fn begun_here(&self) -> Option<Page> {
        let is_begun = |moving: &&Move| !matches!(moving.stage, Stage::Frozen { .. });
        self.by_first.values().find(is_begun).map(|moving| moving.run.first)
    }

    /// Hand-overs with pages of this run.
    pub(super) fn overlapping(&self, run: Run) -> impl Iterator<Item = &Move> {
        let before = self.by_first.range(..run.end()).rev().map(|(_, moving)| moving);
        before.take_while(move |moving| moving.run.end() > run.first)
    }

    /// Whether some hand-over that rank 0 has ordered has pages of this run.
    pub(super) fn is_ordered(&self, run: Run) -> bool {
        self.ordered.range(..run.end()).next_back().is_some_and(|(_, (other, _))| other.end() > run.first)
    }
}

/// A rank that comes cannot be told these homes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HomesError {
    /// They are another machine's.
    #[error("homes of {told} pages for a machine of {pages}")]
    Pages {
        /// Of so many pages it was told.
        told: u32,
        /// It has so many.
        pages: u32,
    },
    /// A home that there is not, or that has just come.
    #[error("rank {0} as a home, which there is not, or which has just come")]
    Home(u16),
    /// Something has gone on here already.
    #[error("the homes of pages after something has been done with them")]
    Late,
}

impl Node {
    /// This rank comes to a machine whose homes have moved since it began: they are as they are told here. Nothing has gone on here yet; no
    /// hand-over is under way, and the next is one that this rank takes part in.
    ///
    /// # Errors
    /// [`HomesError`]; nothing has changed then.
    pub fn handle_homes(&mut self, homes: &HomeMap) -> Result<(), HomesError> {
        let pages = self.config.homes.pages();
        if homes.pages() != pages {
            return Err(HomesError::Pages { told: homes.pages(), pages });
        }
        let is_none = |home: &Rank| home.0 >= self.config.ranks || *home == self.config.rank;
        if let Some((_, none)) = homes.segments().find(|(_, home)| is_none(home)) {
            return Err(HomesError::Home(none.0));
        }
        let is_used = self.cache.table.is_used() || self.directory.table.is_used();
        if is_used || self.moves.is_any() || self.leaving.has_begun() {
            return Err(HomesError::Late);
        }
        self.config.homes = self.config.homes.with_segments_of(homes);
        Ok(())
    }

    /// The ranks that are homes once those hand-overs are over for which this rank has frozen pages. A rank that was a home before, and is
    /// none then, may have left before this rank hears that they are over: only its own channels and the new home's tell that, in no order.
    #[must_use]
    pub fn homes_to_be(&self) -> RankSet {
        let mut homes = self.config.homes.clone();
        let frozen = self.moves.by_first.values().filter(|moving| matches!(moving.stage, Stage::Frozen { .. }));
        frozen.for_each(|moving| homes.hand_over(moving.run, moving.to));
        homes.ranks().collect()
    }

    /// The home of a page now, by what this rank has been told; while it moves, the old one or the new one.
    #[must_use]
    pub fn home(&self, page: Page) -> Option<Rank> {
        self.config.homes.home(page)
    }

    /// The home of all of these pages, if they have one.
    #[must_use]
    pub fn home_of_run(&self, run: Run) -> Option<Rank> {
        self.config.homes.home_of_run(run)
    }

    /// Whether a page is on its way to another home and this rank sends nothing about it: to others as their home, or to its home.
    #[must_use]
    pub fn is_frozen(&self, page: Page) -> bool {
        self.moves.of(page).is_some_and(|moving| moving.stage != Stage::Hiding)
    }

    /// Whether a page is about to move, or moves: it is not put into the window then.
    pub(super) fn is_moving(&self, page: Page) -> bool {
        self.moves.of(page).is_some()
    }

    /// Sends a request to the page's home, or keeps it for the new one.
    pub(super) fn acquire(&mut self, home: Rank, ask: Ask) {
        let Ask { page, access, urgency, have } = ask;
        if self.is_frozen(page)
            && let Some(moving) = self.moves.of_mut(page)
        {
            moving.held.push(ask);
            return;
        }
        self.out.acquire(home, page, access, urgency, have);
    }

    /// Whether a message about a page's copies may be, as to the pages that move: whoever has frozen them sends nothing about them, and to whoever
    /// has frozen them nobody does.
    pub(super) fn check_still(&self, from: Rank, message: &Message) -> Result<(), ProtocolError> {
        if self.moves.by_first.is_empty() {
            return Ok(());
        }
        match message {
            Message::Acquire { .. }
            | Message::Grant { .. }
            | Message::Refuse { .. }
            | Message::Invalidate { .. }
            | Message::InvalidateAck { .. }
            | Message::Recall { .. }
            | Message::WriteBack { .. } => {}
            // They are what it moves by.
            Message::HandOver { .. }
            | Message::Freeze { .. }
            | Message::Frozen { .. }
            | Message::Requests { .. }
            | Message::Entries { .. }
            | Message::Moved { .. }
            // They are about ranks.
            | Message::Leave
            | Message::LeaveAck => return Ok(()),
        }
        let is_wrong = |moving: &&Move| match moving.stage {
            Stage::Hiding => false,
            Stage::Freezing { waiting } => !waiting.contains(from),
            Stage::Frozen { .. } => true,
        };
        let Some(moving) = self.moves.overlapping(message.run()).find(is_wrong) else { return Ok(()) };
        let what =
            format!("a message about pages from {} on, which are on their way to another home", moving.run.first.0);
        Err(ProtocolError::new(from, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moves(runs: &[(u32, u16)]) -> Moves {
        let mut moves = Moves::default();
        for (first, count) in runs {
            let (run, to) = (Run { first: Page(*first), count: *count }, Rank(1));
            let (members, stage) = (RankSet::below(2), Stage::Hiding);
            let moving = Move { run, to, members, stage, held: Vec::new(), brought: BTreeMap::new() };
            moves.by_first.insert(run.first, moving);
            moves.ordered.insert(run.first, (run, to));
        }
        moves
    }

    #[test]
    fn a_page_has_the_hand_over_that_it_is_in() {
        let mut moves = moves(&[(2, 3), (5, 1), (8, 2)]);
        let first = |page| moves.of(Page(page)).map(|moving| moving.run.first.0);
        let firsts: Vec<Option<u32>> = (0..11).map(first).collect();
        let (two, five, eight) = (Some(2), Some(5), Some(8));
        assert_eq!(firsts, [None, None, two, two, two, five, None, None, eight, eight, None]);
        for page in 0..11 {
            let first = moves.of(Page(page)).map(|moving| moving.run.first);
            assert_eq!(moves.of_mut(Page(page)).map(|moving| moving.run.first), first);
        }
    }

    #[test]
    fn runs_overlap_where_they_have_a_page_in_common() {
        let moves = moves(&[(2, 3), (5, 1), (8, 2)]);
        for (first, count, found) in [(0, 2, 0), (0, 3, 1), (4, 1, 1), (4, 2, 2), (0, 20, 3), (6, 2, 0), (10, 5, 0)] {
            let run = Run { first: Page(first), count };
            assert_eq!(moves.overlapping(run).count(), found, "{run:?}");
            assert_eq!(moves.is_ordered(run), found > 0, "{run:?}");
        }
    }
}
