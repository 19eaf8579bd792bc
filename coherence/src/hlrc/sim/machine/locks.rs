//! Locks that ranks keep and lend their threads, and who has which.

use crate::hlrc::LockId;
use crate::id::Rank;

use super::super::checks::{Check, Violation};
use super::super::program::Step;
use super::{Machine, Right, wrong};

impl Machine<'_> {
    /// At the end nobody keeps a lock.
    pub(super) fn let_go(&mut self) -> Right {
        for rank in (0..self.sites.len()).filter_map(|rank| u16::try_from(rank).ok()).map(Rank) {
            if !self.site(rank).lost {
                self.site(rank).node.handle_let_go();
                self.execute(rank)?;
            }
        }
        Ok(())
    }

    /// A lock that was asked for is back; what the node wants done is to be done after.
    pub(super) fn returned(&mut self, rank: Rank, lock: LockId) -> Right {
        let told = self.site(rank).node.handle_returned(lock);
        told.map_err(|error| Violation::new(Check::Protocol, format!("rank {}: {error}", rank.0)))
    }

    /// A thread has a lock.
    pub(super) fn hold(&mut self, index: usize, lock: LockId) -> Right {
        match self.holders.insert(lock, index) {
            None => Ok(()),
            Some(holder) => {
                wrong(Check::Exclusion, format!("{lock} has two holders: threads {holder} and {index} of all"))
            }
        }
    }

    /// A thread takes or gives back a lock that its rank has lent, if that is so; mostly it does not ask the node.
    pub(super) fn borrows(&mut self, index: usize, step: Step) -> Right<bool> {
        let rank = self.threads[index].rank;
        match step {
            Step::Acquire(lock) => {
                if !self.scenario.lends || self.rng.one_in(4) || !self.site(rank).lending.take(lock) {
                    return Ok(false);
                }
                self.hold(index, lock)?;
            }
            Step::Release(lock) => {
                let Some(is_wanted) = self.site(rank).lending.give_back(lock) else { return Ok(false) };
                self.holders.remove(&lock);
                if is_wanted {
                    self.returned(rank, lock)?;
                    self.execute(rank)?;
                }
            }
            Step::Read(_)
            | Step::Write(..)
            | Step::Add(_)
            | Step::Reduce(..)
            | Step::Tell(_)
            | Step::Hear(_)
            | Step::Barrier
            | Step::End => return Ok(false),
        }
        self.go_on(index);
        Ok(true)
    }
}
