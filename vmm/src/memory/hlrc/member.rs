//! What threads do: they take and give back locks, and meet.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vincs_coherence::hlrc::node::{AcquireError, BarrierError, Reduction, ReleaseError, ThreadError};
use vincs_coherence::hlrc::{Failure, LockId, Outcome, ThreadId};

use super::command::{Ask, Command, Reply};
use super::meeting::{Attendance, MeetingError};
use crate::memory::engine::mailbox::{Mailbox, Waiter, locked};

/// Why a thread has not got what it asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SyncError {
    /// A lock is not to be had; nothing has happened.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// A lock is not released; nothing has happened.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// A barrier or reduction is not begun; nothing has happened.
    #[error(transparent)]
    Barrier(#[from] BarrierError),
    /// The thread waits for something else already.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// A meeting cannot be; nothing has happened.
    #[error(transparent)]
    Meeting(#[from] MeetingError),
    /// Another program has begun.
    #[error("another program has taken over relaxed memory")]
    Reset,
    /// Nothing goes on any more. What the thread has written is where it wrote it; whether others have got it is not known.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The memory was stopped, or this host has failed it.
    #[error("relaxed memory is not served any more")]
    Ended,
}

/// What a thread gets.
pub(in crate::memory) type Answer = Result<Outcome, SyncError>;

/// A thread of this rank as relaxed memory knows it. It stays on the thread that has joined. Dropping it ends the thread's part: its locks go on,
/// and barriers do without it.
#[derive(Debug)]
pub struct Member {
    thread: ThreadId,
    mailbox: Arc<Mailbox<Command>>,
    waiter: Arc<Waiter<Answer>>,
    synchronising: Arc<AtomicU64>,
    on_its_thread: PhantomData<*const ()>,
}

impl Member {
    pub(super) fn new(thread: ThreadId, mailbox: Arc<Mailbox<Command>>, synchronising: Arc<AtomicU64>) -> Self {
        Self { thread, mailbox, waiter: Arc::default(), synchronising, on_its_thread: PhantomData }
    }

    /// Takes a lock, and sees what its last holder saw or wrote. Says whether that one ended with the lock: then what it wrote under it may be missing.
    ///
    /// # Errors
    /// [`SyncError`].
    pub fn acquire(&self, lock: LockId) -> Result<bool, SyncError> {
        Ok(matches!(self.ask(Ask::Acquire(lock))?, Outcome::Acquired { abandoned: true }))
    }

    /// Gives a lock back: who takes it next sees what this thread saw and wrote.
    ///
    /// # Errors
    /// [`SyncError`].
    pub fn release(&self, lock: LockId) -> Result<(), SyncError> {
        self.ask(Ask::Release(lock)).map(drop)
    }

    /// Waits until all threads of all ranks have come, and sees what they have written.
    ///
    /// # Errors
    /// [`SyncError`].
    pub fn barrier(&self) -> Result<(), SyncError> {
        self.ask(Ask::Barrier(None)).map(drop)
    }

    /// A barrier that makes one word of a word of each thread; all get the same.
    ///
    /// # Errors
    /// [`SyncError`].
    pub fn reduce(&self, reduction: Reduction, word: u64) -> Result<u64, SyncError> {
        match self.ask(Ask::Barrier(Some((reduction, word))))? {
            Outcome::Passed(result) => Ok(result.unwrap_or_default()),
            Outcome::Access(..)
            | Outcome::Acquired { .. }
            | Outcome::Released
            | Outcome::Published
            | Outcome::Seen
            | Outcome::Failed(_) => Err(SyncError::Ended),
        }
    }

    /// What this rank has written is seen by whoever hears after.
    ///
    /// # Errors
    /// [`SyncError`].
    pub fn tell(&self) -> Result<(), SyncError> {
        self.ask(Ask::Tell).map(drop)
    }

    /// Sees what others have told.
    ///
    /// # Errors
    /// [`SyncError`].
    pub fn hear(&self) -> Result<(), SyncError> {
        self.ask(Ask::Hear).map(drop)
    }

    /// Waits until all members of a team have come, and sees what they have written: the words of all, in their order.
    ///
    /// # Errors
    /// [`SyncError`].
    pub fn meet(&self, attendance: Attendance) -> Result<Vec<u64>, SyncError> {
        let all = Arc::new(Mutex::new(Vec::new()));
        let waiter = Arc::new(Waiter::default());
        let (told, words) = (Arc::clone(&waiter), Arc::clone(&all));
        let reply = Reply::new(move |answer: Answer, brought| {
            *locked(&words) = brought.to_vec();
            told.answer(answer);
        });
        self.mailbox.push(Command::Ask(self.thread, Ask::Meet(attendance), reply));
        waiter.wait()?;
        Ok(std::mem::take(&mut *locked(&all)))
    }

    /// Has all ranks give up what threads have: locks, places at meetings, changes that are not home. Others that wait get
    /// [`SyncError::Reset`]. Only the last thread of a rank may.
    ///
    /// # Errors
    /// [`SyncError`].
    pub fn begin(&self) -> Result<(), SyncError> {
        self.ask(Ask::Reset).map(drop)
    }

    fn ask(&self, ask: Ask) -> Answer {
        let started = Instant::now();
        let waiter = Arc::clone(&self.waiter);
        let reply = Reply::new(move |answer, _| waiter.answer(answer));
        self.mailbox.push(Command::Ask(self.thread, ask, reply));
        let answer = self.waiter.wait();
        self.synchronising.fetch_add(nanoseconds(started.elapsed()), Ordering::Relaxed);
        answer
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.mailbox.push(Command::End(self.thread));
    }
}

fn nanoseconds(time: Duration) -> u64 {
    // 584 years fit.
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
