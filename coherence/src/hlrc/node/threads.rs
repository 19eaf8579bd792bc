//! The threads of this rank: what each waits for, and what is left of one that ends.

use crate::hlrc::action::{Action, Failure, Outcome};
use crate::hlrc::{LockId, ThreadId};
use crate::id::Page;

use super::{Node, ThreadError};

/// What a thread does.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Thread {
    /// It runs.
    Running,
    /// It waits for a page.
    Faulting,
    /// It waits for a lock.
    Acquiring,
    /// It waits until its lock is released.
    Releasing,
    /// It waits until what its rank has written is home.
    Publishing,
    /// It waits until its rank has taken over what others have changed.
    Seeing,
    /// It is at a barrier.
    AtBarrier,
    /// It has ended.
    Ended,
}

/// What was recovered from a thread that has ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ended {
    /// Locks that it held: they go to the next in their queues, who are told ([`Outcome::Acquired`]).
    pub locks: Vec<LockId>,
    /// Pages whose changes since this rank's last release are gone. Only where it was the last thread of its rank, had its locks from other ranks, and its rank
    /// has kept none since changes went home: else changes of others, or such that were released, would be lost with its own. Those of pages homed at this
    /// rank were made in place, and stay.
    pub discarded: Vec<Page>,
}

impl Node {
    /// A thread has ended, wherever it was: it waits for nothing any more, its locks go on, and barriers do without it. When no thread is left the rank
    /// takes part in no barrier either; it is for the driver to end it.
    ///
    /// # Errors
    /// [`ThreadError`] when there is no such thread or it has ended before.
    pub fn handle_thread_end(&mut self, thread: ThreadId) -> Result<Ended, ThreadError> {
        match self.check_thread(thread) {
            Ok(()) | Err(ThreadError::Busy(_)) => {}
            Err(error) => return Err(error),
        }
        self.set_thread(thread, Thread::Ended);
        self.published.remove(&thread);
        let mut ended = Ended::default();
        if self.failure.is_some() {
            return Ok(ended);
        }
        self.copies.values_mut().for_each(|copy| copy.waiting.retain(|(waiter, _)| *waiter != thread));
        ended.locks = self.locks_of(thread);
        let is_last = self.threads.iter().all(|thread| *thread == Thread::Ended);
        let discards =
            is_last && !ended.locks.is_empty() && !ended.locks.iter().any(|lock| self.was_handed_here(*lock));
        let discards = discards && !self.keeps_changes();
        if discards {
            ended.discarded = self.discard();
        }
        self.stats.locks_recovered += ended.locks.len() as u64;
        for lock in &ended.locks {
            self.abandon(*lock, !discards);
        }
        self.leave_queues(thread);
        self.come_to_barrier();
        self.work();
        Ok(ended)
    }

    /// A thread that waits for a lock does not want it any more: nothing is told of it. Other waits come to their ends by themselves.
    pub fn handle_withdraw(&mut self, thread: ThreadId) {
        if self.threads.get(usize::from(thread.0)) == Some(&Thread::Acquiring) {
            self.set_thread(thread, Thread::Running);
            self.leave_queues(thread);
            self.work();
        }
    }

    /// Drops what has been written to pages of other homes and is not on its way home.
    fn discard(&mut self) -> Vec<Page> {
        let pages: Vec<Page> = self.written.iter().copied().collect();
        for page in &pages {
            self.unmap(*page);
        }
        pages
    }

    pub(super) fn check_thread(&self, thread: ThreadId) -> Result<(), ThreadError> {
        match self.threads.get(usize::from(thread.0)) {
            None => Err(ThreadError::None(thread.0)),
            Some(Thread::Ended) => Err(ThreadError::Ended(thread.0)),
            Some(Thread::Running) => Ok(()),
            Some(_) => Err(ThreadError::Busy(thread.0)),
        }
    }

    fn set_thread(&mut self, thread: ThreadId, state: Thread) {
        if let Some(entry) = self.threads.get_mut(usize::from(thread.0)) {
            *entry = state;
        }
    }

    /// A thread waits from now on; false when there is nothing to wait for any more, which it is told.
    pub(super) fn wait(&mut self, thread: ThreadId, state: Thread) -> bool {
        if let Some(failure) = self.failure {
            self.do_next(Action::Wake { thread, outcome: Outcome::Failed(failure) });
            return false;
        }
        self.set_thread(thread, state);
        true
    }

    /// The wait of a thread is over, if it has not ended.
    pub(super) fn wake(&mut self, thread: ThreadId, outcome: Outcome) {
        if self.has_ended(thread) {
            return;
        }
        self.set_thread(thread, Thread::Running);
        self.do_next(Action::Wake { thread, outcome });
    }

    pub(super) fn has_ended(&self, thread: ThreadId) -> bool {
        self.threads.get(usize::from(thread.0)) == Some(&Thread::Ended)
    }

    /// Threads that are still there.
    pub(super) fn living(&self) -> impl Iterator<Item = ThreadId> {
        let threads = (0..).map(ThreadId).zip(&self.threads);
        threads.filter(|(_, state)| **state != Thread::Ended).map(|(thread, _)| thread)
    }

    pub(super) fn fail_threads(&mut self, failure: Failure) {
        for (thread, state) in (0..).map(ThreadId).zip(&mut self.threads) {
            if !matches!(state, Thread::Running | Thread::Ended) {
                *state = Thread::Running;
                self.out.push_back(Action::Wake { thread, outcome: Outcome::Failed(failure) });
            }
        }
    }
}
