//! Members of one process on one rank: every processor sees atomics in ordinary memory at once.

use super::LOCKS;
use super::barrier::Barrier;
use super::lock::{Lock, LockError};
use super::reduction::Slots;

/// The barrier, the locks and the reductions of so many members.
#[derive(Debug)]
pub(super) struct Local {
    barrier: Barrier,
    locks: Vec<Lock>,
    slots: Slots,
}

impl Local {
    pub(super) fn new(members: u32) -> Self {
        let locks = (0..LOCKS).map(|_| Lock::default()).collect();
        Self { barrier: Barrier::new(members), locks, slots: Slots::new(members) }
    }

    pub(super) fn barrier(&self) {
        self.barrier.wait();
    }

    pub(super) fn lock(&self, member: u32, number: u32) -> Result<(), LockError> {
        self.numbered(number)?.lock(member, number)
    }

    pub(super) fn unlock(&self, member: u32, number: u32) -> Result<(), LockError> {
        self.numbered(number)?.unlock(member, number)
    }

    fn numbered(&self, number: u32) -> Result<&Lock, LockError> {
        self.locks.get(number as usize).ok_or(LockError::NoSuchLock(number))
    }

    pub(super) fn gather(&self, member: u32, turn: u64, word: u64) -> Vec<u64> {
        self.slots.put(member, turn, word);
        self.barrier.wait();
        self.slots.of_turn(turn).collect()
    }
}
