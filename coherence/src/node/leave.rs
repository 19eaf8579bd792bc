//! Leaving: a rank that is nobody's home gives up all its copies, and then no home knows of it any more.
//!
//! At the rank that leaves, [`Node::handle_leave`] gives back what it owns and drops the rest, some pages at a time. Copies that it dropped earlier
//! to make room are known to their homes still. So when it has none left and waits for none, it tells all homes ([`Message::Leave`]). A home strikes it
//! off every entry, and answers ([`Message::LeaveAck`]) once it has also heard from it about each page that it was asked to give up before. Messages of two
//! ranks keep their order: after the answer nothing is on its way between the two, and nothing ever will be. A place is used once: who has left does not come back.

use std::collections::BTreeMap;

use super::action::Body;
use super::cache::CacheState;
use super::directory::DirectoryState;
use super::{Node, ProtocolError};
use crate::id::{Page, Rank, RankSet, Tick};
use crate::message::{Keep, Message};

/// Most pages that one call of [`Node::handle_leave`] looks at: so many may be written back, 4 MiB, before the driver looks at anything else.
pub const LEAVE_STEP: u32 = 1024;

/// How far leaving has got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Leave {
    /// There are more pages to look at: call again as soon as what was to be sent has been.
    GoesOn,
    /// Something has to come first: the end of hand-overs, a page that was asked for, the end of a hold time, the answer of a home. Call again after an input.
    Waits,
    /// No home knows of this rank any more.
    Left,
}

/// A rank cannot leave.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("rank {0} is the home of pages, which cannot be handed over")]
pub struct LeaveError(pub u16);

/// The part of this rank.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
enum Stage {
    /// It stays.
    #[default]
    Stays,
    /// It gives up its copies, and is at this page.
    At(Page),
    /// It has none, and these homes have not answered yet.
    Asked(RankSet),
}

/// Who leaves.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Leaving {
    stage: Stage,
    /// At a home: who has left, or is about to.
    gone: RankSet,
    /// At a home: those of them that have been asked to give up so many copies before, and have not answered yet.
    owing: BTreeMap<Rank, u32>,
}

impl Leaving {
    /// Whether something is under way.
    pub(super) fn is_under_way(&self) -> bool {
        let leaves = match self.stage {
            Stage::Stays => false,
            Stage::At(_) => true,
            Stage::Asked(waiting) => !waiting.is_empty(),
        };
        leaves || !self.owing.is_empty()
    }

    /// At the rank that leaves: whether it has told the homes that it has no pages.
    pub(super) fn has_told(&self) -> bool {
        matches!(self.stage, Stage::Asked(_))
    }

    /// At the rank that leaves: whether it has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.stage != Stage::Stays
    }

    /// At a home: who has left, or is about to.
    pub(super) fn gone(&self) -> RankSet {
        self.gone
    }

    /// At one that becomes a home: these have left before.
    pub(super) fn add_gone(&mut self, ranks: RankSet) {
        ranks.iter().for_each(|rank| _ = self.gone.insert(rank));
    }

    /// At a home: one of these ranks that has left, or one that is about to.
    pub(super) fn leaver(&self, ranks: RankSet) -> Option<Rank> {
        ranks.iter().find(|rank| self.gone.contains(*rank)).or(self.owing.keys().next().copied())
    }

    /// At a home: those of these ranks that have not left.
    pub(super) fn without_gone(&self, mut ranks: RankSet) -> RankSet {
        for rank in self.gone.iter() {
            ranks.remove(rank);
        }
        ranks
    }
}

impl Node {
    /// This rank is to leave: no processor executes anything here any more, and no device holds pages. Gives up what is here, page by page. To be called until
    /// [`Leave::Left`]. Hand-overs come first; while this rank leaves, rank 0 orders none.
    ///
    /// # Errors
    /// [`LeaveError`] when this rank is a home; it stays then.
    pub fn handle_leave(&mut self, now: Tick) -> Result<Leave, LeaveError> {
        if self.homes().contains(self.rank()) {
            return Err(LeaveError(self.rank().0));
        }
        let progress = match self.leaving.stage {
            // Its homes are others afterwards.
            Stage::Stays if self.moves.is_any() => Leave::Waits,
            Stage::Stays => self.give_up_from(now, Page(0)),
            Stage::At(page) => self.give_up_from(now, page),
            Stage::Asked(waiting) if waiting.is_empty() => Leave::Left,
            Stage::Asked(_) => Leave::Waits,
        };
        self.settle(now);
        Ok(progress)
    }

    /// Whether a rank has left, as far as this home knows: what becomes of it does not matter to pages homed here. A rank that has never been told of a page
    /// has not left.
    #[must_use]
    pub fn has_left(&self, rank: Rank) -> bool {
        self.leaving.gone.contains(rank) && !self.leaving.owing.contains_key(&rank)
    }

    /// Whether this rank has left: no home knows of it any more.
    #[must_use]
    pub fn is_out(&self) -> bool {
        matches!(self.leaving.stage, Stage::Asked(waiting) if waiting.is_empty())
    }

    /// Pages of other homes that are here, or asked for.
    #[must_use]
    pub fn pages_of_others(&self) -> u32 {
        self.cache.used
    }

    /// Gives up pages from this one on, as far as they may go now.
    fn give_up_from(&mut self, now: Tick, first: Page) -> Leave {
        let mut at = first;
        for _ in 0..LEAVE_STEP {
            let Some(page) = self.cache.table.used_from(at) else { return self.been_through() };
            at = Page(page.0.saturating_add(1));
            let entry = self.cache.table.get(page);
            if !self.is_free(now, page, entry.came, entry.pins) || self.deferrals.contains(page) {
                continue;
            }
            match entry.state {
                CacheState::Shared => self.drop_copy(page),
                CacheState::Modified => self.write_back(page, Keep::Nothing),
                CacheState::Invalid
                | CacheState::ReadWait
                | CacheState::WriteWait
                | CacheState::UpgradeWait
                | CacheState::AheadWait
                | CacheState::AheadWanted
                | CacheState::GuardedWait
                | CacheState::GuardedLost => {}
            }
        }
        self.leaving.stage = Stage::At(at);
        Leave::GoesOn
    }

    /// All pages have been looked at: if none is left, and none is asked for, the homes are told.
    fn been_through(&mut self) -> Leave {
        if self.cache.used > 0 {
            self.leaving.stage = Stage::At(Page(0));
            return Leave::Waits;
        }
        let homes = self.homes();
        for home in homes.iter() {
            self.out.send(home, Message::Leave, Body::None);
        }
        self.leaving.stage = Stage::Asked(homes);
        Leave::Waits
    }

    /// [`Message::LeaveAck`] at the rank that leaves.
    pub(super) fn handle_leave_ack(&mut self, from: Rank) -> Result<(), ProtocolError> {
        let lets_go = match &mut self.leaving.stage {
            Stage::Asked(waiting) => waiting.remove(from),
            Stage::Stays | Stage::At(_) => false,
        };
        if lets_go { Ok(()) } else { Err(ProtocolError::new(from, "it lets a rank go that has not asked for that")) }
    }

    /// Whether somebody who has left may say this.
    pub(super) fn check_gone(&self, from: Rank, message: &Message) -> Result<(), ProtocolError> {
        let owes = self.leaving.owing.contains_key(&from) && matches!(message, Message::InvalidateAck { .. });
        if self.leaving.gone.contains(from) && !owes {
            return Err(ProtocolError::new(from, "it speaks of pages after it has left"));
        }
        Ok(())
    }

    /// [`Message::Leave`] at a home.
    pub(super) fn handle_leave_of(&mut self, from: Rank) -> Result<(), ProtocolError> {
        let wrong =
            |page: Page, what: &str| Err(ProtocolError::new(from, format!("it leaves with page {}, {what}", page.0)));
        if let Some(page) = self.directory.asked_for_by(from) {
            return wrong(page, "which it has asked for");
        }
        if let Some(page) = self.moves.begun_here() {
            return wrong(page, "which is to move to another home");
        }
        let mut owes = 0;
        let mut known = Vec::new();
        let mut at = Page(0);
        while let Some(page) = self.directory.table.used_from(at) {
            at = Page(page.0.saturating_add(1));
            match self.directory.table.get(page).state {
                DirectoryState::Owned(owner) | DirectoryState::Recalling { owner } if owner == from => {
                    return wrong(page, "which it owns");
                }
                DirectoryState::Shared(sharers) | DirectoryState::Collecting { sharers } if sharers.contains(from) => {
                    known.push(page);
                }
                DirectoryState::Invalidating { waiting } if waiting.contains(from) => owes += 1,
                DirectoryState::Untouched
                | DirectoryState::Owned(_)
                | DirectoryState::Recalling { .. }
                | DirectoryState::Shared(_)
                | DirectoryState::Collecting { .. }
                | DirectoryState::Invalidating { .. } => {}
            }
        }
        for page in known {
            self.strike_off(page, from);
        }
        self.leaving.gone.insert(from);
        if owes > 0 {
            self.leaving.owing.insert(from, owes);
        } else {
            self.out.send(from, Message::LeaveAck, Body::None);
        }
        Ok(())
    }

    /// A rank has no copy of a page to read.
    fn strike_off(&mut self, page: Page, rank: Rank) {
        let mut entry = self.directory.table.get(page);
        if let DirectoryState::Shared(sharers) | DirectoryState::Collecting { sharers } = &mut entry.state {
            sharers.remove(rank);
        }
        self.directory.table.set(page, entry);
    }

    /// A rank has answered that it has no copy of a page: if it leaves and owes no further answer, it may go.
    pub(super) fn owes_one_less(&mut self, rank: Rank) {
        let Some(owes) = self.leaving.owing.get_mut(&rank) else { return };
        *owes = owes.saturating_sub(1);
        if *owes == 0 {
            self.leaving.owing.remove(&rank);
            self.out.send(rank, Message::LeaveAck, Body::None);
        }
    }
}
