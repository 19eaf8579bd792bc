//! What other threads want of the one that serves.

use std::fmt;
use std::sync::Arc;

use vincs_coherence::hlrc::node::Reduction;
use vincs_coherence::hlrc::{LockId, ThreadId};

use super::meeting::Attendance;
use super::member::{Answer, SyncError};
use super::places::Span;
use super::{ArrayError, JoinError, Statistics};
use crate::memory::engine::mailbox::{Mailbox, Refuse, Waiter};

/// What a thread asks for.
#[derive(Clone, Copy, Debug)]
pub(in crate::memory) enum Ask {
    /// A lock.
    Acquire(LockId),
    /// To be rid of it.
    Release(LockId),
    /// The same with one that was lent and is wanted.
    GiveBack(LockId),
    /// To meet all others.
    Barrier(Option<(Reduction, u64)>),
    /// That others who ask see what its rank has written.
    Tell,
    /// To see what others have told.
    Hear,
    /// To meet some others.
    Meet(Attendance),
    /// That nobody has anything of an earlier program's any more: locks, places at meetings, changes that are not home.
    Reset,
}

/// Who is told what has come of what a thread asked for.
#[derive(Clone)]
pub(in crate::memory) struct Reply(Arc<Told>);

/// What takes an answer, and the words of all who met.
type Told = dyn Fn(Answer, &[u64]) + Send + Sync;

impl Reply {
    /// Calls `told` on the thread that serves, which it must not block; with the words of all who met, if that was asked.
    pub(in crate::memory) fn new(told: impl Fn(Answer, &[u64]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    pub(super) fn answer(&self, answer: Answer) {
        (self.0)(answer, &[]);
    }

    pub(super) fn answer_with(&self, answer: Answer, words: &[u64]) {
        (self.0)(answer, words);
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// Asks on behalf of threads that wait in ways of their own.
#[derive(Clone, Debug)]
pub(in crate::memory) struct Asker(pub(super) Arc<Mailbox<Command>>);

impl Asker {
    /// A thread asks for something; `reply` is called once.
    pub(in crate::memory) fn ask(&self, thread: ThreadId, ask: Ask, reply: Reply) {
        self.0.push(Command::Ask(thread, ask, reply));
    }

    /// What has been counted; nothing once the memory was stopped.
    pub(in crate::memory) fn statistics(&self) -> Option<Statistics> {
        let waiter = Arc::new(Waiter::default());
        self.0.push(Command::Count(Arc::clone(&waiter)));
        waiter.wait()
    }
}

/// What is wanted.
#[derive(Debug)]
pub(super) enum Command {
    /// A thread, by its Linux id, wants to be one of the team.
    Join(ThreadId, i32, Arc<Waiter<Result<(), JoinError>>>),
    /// A thread asks for something.
    Ask(ThreadId, Ask, Reply),
    /// A thread has ended.
    End(ThreadId),
    /// There is an array.
    Add(Vec<Span>, Arc<Waiter<Result<(), ArrayError>>>),
    /// What has been counted.
    Count(Arc<Waiter<Option<Statistics>>>),
    /// This rank is done: to be told when all are.
    Leave(Arc<Waiter<()>>),
    /// The thread that serves is to end.
    Stop,
}

impl Refuse for Command {
    fn refuse(self) {
        match self {
            Self::Join(_, _, waiter) => waiter.answer(Err(JoinError::Ended)),
            Self::Ask(_, _, reply) => reply.answer(Err(SyncError::Ended)),
            Self::Add(_, waiter) => waiter.answer(Err(ArrayError::Ended)),
            Self::Count(waiter) => waiter.answer(None),
            Self::Leave(waiter) => waiter.answer(()),
            Self::End(_) | Self::Stop => {}
        }
    }
}
