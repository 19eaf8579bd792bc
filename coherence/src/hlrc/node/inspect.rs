//! What simulations and drivers may see of a node.

use crate::hlrc::ThreadId;
use crate::hlrc::action::Failure;
use crate::hlrc::clock::Clock;
use crate::id::{Access, Page, Rank};

use super::claim::Claim;
use super::{Node, ThreadError};

/// What a rank has of a page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CopyView {
    /// What it may do with it.
    pub access: Option<Access>,
    /// It has a twin.
    pub twin: bool,
    /// It is on its way home.
    pub flushing: bool,
    /// It takes itself for the only writer.
    pub alone: bool,
}

impl Node {
    /// What this rank has of a page.
    #[must_use]
    pub fn view(&self, page: Page) -> CopyView {
        let copy = self.copies.get(&page);
        CopyView {
            access: self.permitted(page),
            twin: copy.is_some_and(|copy| copy.twin),
            flushing: copy.is_some_and(|copy| copy.flushing),
            alone: copy.is_some_and(|copy| copy.claim == Claim::Alone),
        }
    }

    /// What this rank has seen of the others' notices, and how many it has written itself.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether a thread waits for something.
    #[must_use]
    pub fn waits(&self, thread: ThreadId) -> bool {
        matches!(self.check_thread(thread), Err(ThreadError::Busy(_)))
    }

    /// Whether nothing is under way and nobody waits: of locks there are none but those that it keeps.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.ops.is_empty() && self.out.is_empty() && self.locks.len() == self.kept_locks() && self.jobs.is_idle()
    }

    /// Why nothing goes on, if so.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.failure
    }

    /// The rank at which it is.
    #[must_use]
    pub fn at(&self) -> Rank {
        self.config.rank
    }

    /// How many pages it keeps of other homes, and how many of them are written or on their way home.
    #[must_use]
    pub fn kept(&self) -> (usize, usize) {
        (self.mapped, self.away_from_home())
    }
}
