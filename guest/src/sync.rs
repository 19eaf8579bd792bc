//! What members of a team do together, behind one boundary: [`Group`].
//!
//! Here it is done by atomics in ordinary memory, for the threads of one process: every processor sees them at once. Nothing outside of this
//! folder knows that.

mod barrier;
mod lock;
mod reduction;

use barrier::Barrier;
use lock::Lock;
pub use lock::LockError;
use reduction::Slots;

/// Locks of a team, numbered from 0.
pub const LOCKS: u32 = 1024;

/// The barrier, the locks and the reductions of so many members, numbered from 0.
#[derive(Debug)]
pub(crate) struct Group {
    barrier: Barrier,
    locks: Vec<Lock>,
    slots: Slots,
}

impl Group {
    pub(crate) fn new(members: u32) -> Self {
        let locks = (0..LOCKS).map(|_| Lock::default()).collect();
        Self { barrier: Barrier::new(members), locks, slots: Slots::new(members) }
    }

    /// Waits until all members are here.
    pub(crate) fn barrier(&self) {
        self.barrier.wait();
    }

    /// Waits until nobody has the lock, and takes it, in the order of coming.
    pub(crate) fn lock(&self, member: u32, number: u32) -> Result<(), LockError> {
        self.numbered(number)?.lock(member, number)
    }

    /// Gives the lock back.
    pub(crate) fn unlock(&self, member: u32, number: u32) -> Result<(), LockError> {
        self.numbered(number)?.unlock(member, number)
    }

    fn numbered(&self, number: u32) -> Result<&Lock, LockError> {
        self.locks.get(number as usize).ok_or(LockError::NoSuchLock(number))
    }

    /// Every member's word, in the order of members, when all have given theirs. `turn` counts a member's calls.
    pub(crate) fn gather(&self, member: u32, turn: u64, word: u64) -> impl Iterator<Item = u64> {
        self.slots.put(member, turn, word);
        self.barrier.wait();
        self.slots.of_turn(turn)
    }
}
