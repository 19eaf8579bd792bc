//! Locks that no thread has, as far as the node knows, and that stay at this rank all the same, as it is the one that uses them: to take one again costs nothing,
//! and nothing is brought home before another rank comes for it.
//!
//! A driver may lend them to threads ([`Action::Lend`]), who then take them and give them back among themselves. The node asks for one back
//! ([`Action::Recall`]) before it gives it to anybody.

use std::collections::VecDeque;

use crate::hlrc::LockId;
use crate::hlrc::action::Action;
use crate::hlrc::clock::Clock;

use super::{Node, ReleaseError};

/// Most locks that a rank keeps. When there are more, the one goes that a thread gave back longest ago; how often those that it is lent to take it is not known.
pub const KEPT_LOCKS: usize = 64;

/// What a rank keeps, and what it knows of locks that it has given back.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Kept {
    /// In the order in which threads gave them back.
    locks: VecDeque<LockId>,
    /// Locks that were free when this rank left them: the clock that it left there, and how many turns in a row it had had by then.
    turns: VecDeque<(LockId, Clock, u32)>,
    /// Something that was written before a kept lock was given back may not be home.
    changes: bool,
}

impl Node {
    /// Gives up all locks that no thread has. Those that were lent and not given back are taken for back: whoever had them is no more. What was written goes
    /// home first.
    pub fn handle_let_go(&mut self) {
        if self.failure.is_some() {
            return;
        }
        for lock in self.wanted() {
            self.returned(lock);
        }
        while let Some(lock) = self.kept.locks.front().copied() {
            self.recall(lock);
        }
        self.work();
    }

    /// A lock that was asked for is back: no thread has it.
    ///
    /// # Errors
    /// It was not asked for, or is back already; nothing has happened then.
    pub fn handle_returned(&mut self, lock: LockId) -> Result<(), ReleaseError> {
        if !self.is_wanted(lock) {
            return Err(ReleaseError::NotHeld(lock.0));
        }
        if self.failure.is_none() {
            // Whoever had it may have written since changes went home last.
            self.kept.changes = true;
            self.returned(lock);
            self.work();
        }
        Ok(())
    }

    /// Whether this rank has this lock, and none of its threads, but those that it was lent to.
    #[must_use]
    pub fn keeps(&self, lock: LockId) -> bool {
        self.kept.locks.contains(&lock)
    }

    /// How many locks it keeps.
    pub(super) fn kept_locks(&self) -> usize {
        self.kept.locks.len()
    }

    /// Whether something that was written before a kept lock was given back may not be home: it must not be lost with what a thread wrote later.
    pub(super) fn keeps_changes(&self) -> bool {
        self.kept.changes
    }

    /// All that has been written is on its way home. Threads may go on writing under kept locks.
    pub(super) fn changes_go_home(&mut self) {
        self.kept.changes = !self.kept.locks.is_empty();
    }

    /// A thread has given a lock back, which stays.
    pub(super) fn keep(&mut self, lock: LockId) {
        self.kept.changes = true;
        self.kept.locks.push_back(lock);
        self.do_next(Action::Lend { lock });
        if self.kept.locks.len() > KEPT_LOCKS
            && let Some(first) = self.kept.locks.front().copied()
        {
            self.recall(first);
        }
    }

    /// A kept lock is wanted, by a thread of this rank or another one, or is to go.
    pub(super) fn recall(&mut self, lock: LockId) {
        self.kept.locks.retain(|kept| *kept != lock);
        self.want(lock);
        self.do_next(Action::Recall { lock });
    }

    /// The turns in a row that this rank has had with a lock that was free with this clock.
    pub(super) fn turns_before(&self, lock: LockId, clock: &Clock) -> u32 {
        let turns = self.kept.turns.iter().find(|(other, left, _)| *other == lock && left == clock);
        turns.map_or(0, |(.., turns)| turns.saturating_add(1))
    }

    /// A lock will be free, with the clock that this rank has now.
    pub(super) fn leave_turns(&mut self, lock: LockId, turns: u32) {
        self.forget_turns(lock);
        self.kept.turns.push_back((lock, self.clock.clone(), turns));
        if self.kept.turns.len() > KEPT_LOCKS {
            self.kept.turns.pop_front();
        }
    }

    /// Another rank has a lock.
    pub(super) fn forget_turns(&mut self, lock: LockId) {
        self.kept.turns.retain(|(other, ..)| *other != lock);
    }
}
