//! Locks that a rank lends to the guest's threads, by entries in the header of its command pages ([`vincs_guest_commands`]).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vincs_coherence::hlrc::LockId;
use vincs_guest_commands::{LENT_LOCKS, LENT_TAKEN, LENT_WANTED, lent, lent_at};
use vm_memory::{GuestMemoryRegion as _, GuestRegionMmap, MemoryRegionAddress, VolatileMemory as _};

use crate::layout::RELAXED_HEADER;
use crate::memory::engine::mailbox::locked;
use crate::memory::hlrc::lender::Lender;

/// The entries of a rank's header. The guest can write anything there: what is lent is remembered here.
#[derive(Debug)]
pub(super) struct LentLocks {
    /// The control part as vincs sees it, from the start of relaxed memory on.
    memory: Arc<GuestRegionMmap>,
    /// By entry.
    lent: Mutex<[Option<LockId>; LENT_LOCKS as usize]>,
}

fn index(lock: LockId) -> usize {
    lock.0 as usize % usize::from(LENT_LOCKS)
}

impl LentLocks {
    pub(super) fn new(memory: Arc<GuestRegionMmap>) -> Self {
        Self { memory, lent: Mutex::new([None; LENT_LOCKS as usize]) }
    }

    /// Does something with a lock's entry.
    fn entry<T>(&self, lock: LockId, of: impl FnOnce(&AtomicU64) -> T) -> Option<T> {
        let at = MemoryRegionAddress(RELAXED_HEADER + lent_at(lock.0) as u64);
        // All entries are in it, and aligned.
        let slice = self.memory.get_slice(at, size_of::<u64>()).ok()?;
        slice.get_atomic_ref::<AtomicU64>(0).ok().map(of)
    }
}

impl Lender for LentLocks {
    fn lend(&self, lock: LockId) {
        let mut all = locked(&self.lent);
        let Some(place @ None) = all.get_mut(index(lock)) else { return };
        *place = Some(lock);
        drop(all);
        self.entry(lock, |entry| entry.store(lent(lock.0), Ordering::Release));
    }

    fn recall(&self, lock: LockId) -> bool {
        if locked(&self.lent).get(index(lock)) != Some(&Some(lock)) {
            return true;
        }
        // No thread takes it any more.
        let was = self.entry(lock, |entry| entry.fetch_or(LENT_WANTED, Ordering::AcqRel));
        if was.is_some_and(|was| was & LENT_TAKEN != 0) {
            return false;
        }
        self.forget(lock);
        true
    }

    fn forget(&self, lock: LockId) {
        let lent = locked(&self.lent).get_mut(index(lock)).and_then(|lent| lent.take_if(|lent| *lent == lock));
        if lent.is_some() {
            self.entry(lock, |entry| entry.store(0, Ordering::Release));
        }
    }

    fn forget_all(&self) {
        *locked(&self.lent) = [None; LENT_LOCKS as usize];
        // Also what programs have written where nothing was lent.
        for lock in (0..LENT_LOCKS).map(u32::from).map(LockId) {
            self.entry(lock, |entry| entry.store(0, Ordering::Release));
        }
    }
}
