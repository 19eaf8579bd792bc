//! What other threads want of the one that serves.

use std::sync::Arc;

use vincs_coherence::hlrc::node::Reduction;
use vincs_coherence::hlrc::{LockId, ThreadId};

use super::member::{Answer, SyncError};
use super::places::Span;
use super::{ArrayError, JoinError, Statistics};
use crate::memory::engine::mailbox::{Refuse, Waiter};

/// What a thread asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    /// A lock.
    Acquire(LockId),
    /// To be rid of it.
    Release(LockId),
    /// To meet all others.
    Barrier(Option<(Reduction, u64)>),
}

/// What is wanted.
#[derive(Debug)]
pub(super) enum Command {
    /// A thread, by its Linux id, wants to be one of the team.
    Join(ThreadId, i32, Arc<Waiter<Result<(), JoinError>>>),
    /// A thread asks for something.
    Ask(ThreadId, Ask, Arc<Waiter<Answer>>),
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
    fn refuse(&self) {
        match self {
            Self::Join(_, _, waiter) => waiter.answer(Err(JoinError::Ended)),
            Self::Ask(_, _, waiter) => waiter.answer(Err(SyncError::Ended)),
            Self::Add(_, waiter) => waiter.answer(Err(ArrayError::Ended)),
            Self::Count(waiter) => waiter.answer(None),
            Self::Leave(waiter) => waiter.answer(()),
            Self::End(_) | Self::Stop => {}
        }
    }
}
