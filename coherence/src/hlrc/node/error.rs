//! What a program must not do, and what its driver must not.

use crate::hlrc::action::Failure;
use crate::hlrc::config::MAX_LOCKS;

/// Why a thread cannot ask for anything.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ThreadError {
    /// This rank has no such thread.
    #[error("thread {0} is not one of this rank's")]
    None(u16),
    /// It waits for something already.
    #[error("thread {0} waits for something else already")]
    Busy(u16),
    /// It has ended.
    #[error("thread {0} has ended")]
    Ended(u16),
}

/// Why a fault has no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FaultError {
    /// The thread.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// There is no such page.
    #[error("page {0} is not relaxed memory")]
    NoPage(u32),
}

/// Why a page that is touched does not come.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TouchError {
    /// There is no such page.
    #[error("page {0} is not relaxed memory")]
    NoPage(u32),
    /// Nothing goes on any more.
    #[error(transparent)]
    Failed(Failure),
}

/// Why a clock is not seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SeeError {
    /// The thread.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// It is another machine's.
    #[error("a clock of {given} ranks in a machine of {ranks}")]
    Clock {
        /// Ranks that it has.
        given: usize,
        /// Ranks that there are.
        ranks: usize,
    },
}

/// Why a lock is not to be had.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AcquireError {
    /// The thread.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// There is no such lock.
    #[error("lock {lock} is beyond the {locks} there are; a machine can have up to {MAX_LOCKS}")]
    NoLock {
        /// The lock.
        lock: u32,
        /// How many there are.
        locks: u32,
    },
    /// The thread has it already: it would wait for itself.
    #[error("lock {0} is the thread's own already; release it first")]
    Held(u32),
}

/// Why a lock is not released.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReleaseError {
    /// The thread.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// The thread does not have it.
    #[error("lock {0} is not the thread's to release; only its holder may")]
    NotHeld(u32),
}

/// Why a barrier or reduction is not begun.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BarrierError {
    /// The thread.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// The team is another one.
    #[error("a barrier of {given} threads; all {team} of the machine have to take part")]
    Team {
        /// How many the thread says.
        given: u32,
        /// How many there are.
        team: u32,
    },
    /// Other threads of this rank are at another one.
    #[error("other threads are at another barrier or reduction; all have to go through the same ones")]
    Other,
}

/// Why a completion makes no sense: a mistake of the driver's.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CompletionError {
    /// There is no such operation.
    #[error("operation {0} is not under way")]
    Unknown(u32),
    /// It is of another kind.
    #[error("that cannot come of operation {0}")]
    Kind(u32),
}
