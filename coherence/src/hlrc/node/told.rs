//! Synchronisation that the driver arranges itself, by messages of its own: what a rank has written is published up to a clock, and whoever is told of that clock
//! sees it. It is what locks and barriers are made of, without the queue and without the meeting.

use crate::hlrc::ThreadId;
use crate::hlrc::clock::Clock;

use super::jobs::{Job, Then};
use super::threads::Thread;
use super::{Node, SeeError, ThreadError};

impl Node {
    /// A thread wants others to see what its rank has written. [`crate::hlrc::Outcome::Published`] tells that they will by the clock that
    /// [`Self::take_published`] then gives.
    ///
    /// # Errors
    /// [`ThreadError`]; nothing has happened then.
    pub fn handle_publish(&mut self, thread: ThreadId) -> Result<(), ThreadError> {
        self.check_thread(thread)?;
        if self.wait(thread, Thread::Publishing) {
            self.jobs.add(Job::Publish(thread));
            self.work();
        }
        Ok(())
    }

    /// The clock of what a thread has published, once.
    pub fn take_published(&mut self, thread: ThreadId) -> Option<Clock> {
        self.published.remove(&thread)
    }

    /// A thread has been told of a clock by which others have published. [`crate::hlrc::Outcome::Seen`] tells that its rank sees what they wrote.
    ///
    /// # Errors
    /// [`SeeError`]; nothing has happened then.
    pub fn handle_see(&mut self, thread: ThreadId, clock: Clock) -> Result<(), SeeError> {
        self.check_thread(thread)?;
        let (given, ranks) = (clock.positions().len(), usize::from(self.config.ranks()));
        if given != ranks {
            return Err(SeeError::Clock { given, ranks });
        }
        if self.wait(thread, Thread::Seeing) {
            self.jobs.add(Job::Apply(clock, Then::Thread(thread)));
            self.work();
        }
        Ok(())
    }
}
