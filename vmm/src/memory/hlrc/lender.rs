//! Lending locks that a rank keeps to threads that take them without asking.

use std::fmt::Debug;

use vincs_coherence::hlrc::LockId;

/// Who does that. Called by the thread that serves: it must not block.
pub(in crate::memory) trait Lender: Debug + Send + Sync {
    /// Threads may take a lock from now on and give it back, as often as they like. There may be no room for it: then they ask as ever.
    fn lend(&self, lock: LockId);

    /// Nobody may take it any more. Whether nobody has it; whoever has it gives it back by [`Ask::GiveBack`](super::command::Ask::GiveBack).
    fn recall(&self, lock: LockId) -> bool;

    /// A lock that somebody had when it was asked for is lent to nobody any more.
    fn forget(&self, lock: LockId);

    /// No lock is, whoever had some: a program begins.
    fn forget_all(&self);
}
