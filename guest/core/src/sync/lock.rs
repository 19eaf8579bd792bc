//! Locks that are given in the order of coming: each member draws a number and waits for its turn.

use std::sync::atomic::{AtomicU32, Ordering};

use super::LOCKS;
use crate::wait::{wait_while, wake_all};

/// What is wrong with a member's use of a lock.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LockError {
    /// There is no lock of this number.
    #[error("lock {0}: a team has locks 0 to {max}", max = LOCKS - 1)]
    NoSuchLock(u32),
    /// The member that asks for it has it already, and would wait for itself.
    #[error("lock {0} is locked by this member already: unlock it first")]
    Held(u32),
    /// The member does not have it.
    #[error("lock {0} is not this member's to unlock: lock it first")]
    NotHeld(u32),
}

/// Nobody has the lock; else the member's number and one.
const NOBODY: u32 = 0;

#[derive(Debug, Default)]
pub(super) struct Lock {
    next: AtomicU32,
    turn: AtomicU32,
    holder: AtomicU32,
}

impl Lock {
    pub(super) fn lock(&self, member: u32, number: u32) -> Result<(), LockError> {
        if self.holder.load(Ordering::Relaxed) == member + 1 {
            return Err(LockError::Held(number));
        }
        let drawn = self.next.fetch_add(1, Ordering::Relaxed);
        loop {
            let turn = self.turn.load(Ordering::Acquire);
            if turn == drawn {
                break;
            }
            wait_while(&self.turn, turn);
        }
        self.holder.store(member + 1, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn unlock(&self, member: u32, number: u32) -> Result<(), LockError> {
        // Only this member itself can make it its own.
        if self.holder.load(Ordering::Relaxed) != member + 1 {
            return Err(LockError::NotHeld(number));
        }
        self.holder.store(NOBODY, Ordering::Relaxed);
        self.turn.fetch_add(1, Ordering::Release);
        wake_all(&self.turn);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_member_at_a_time_and_numbers_wrap() {
        const ROUNDS: u32 = 1000;
        let last = u32::MAX - ROUNDS;
        let lock = Lock { next: AtomicU32::new(last), turn: AtomicU32::new(last), ..Lock::default() };
        // Two steps that others would come between.
        let count = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for member in 0..3 {
                let (lock, count) = (&lock, &count);
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        lock.lock(member, 0).unwrap();
                        let seen = count.load(Ordering::Relaxed);
                        std::thread::yield_now();
                        count.store(seen + 1, Ordering::Relaxed);
                        lock.unlock(member, 0).unwrap();
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 3 * ROUNDS);
    }

    #[test]
    fn misuse_is_told_and_changes_nothing() {
        let lock = Lock::default();
        assert_eq!(lock.unlock(0, 7), Err(LockError::NotHeld(7)));
        lock.lock(0, 7).unwrap();
        assert_eq!(lock.lock(0, 7), Err(LockError::Held(7)));
        assert_eq!(lock.unlock(1, 7), Err(LockError::NotHeld(7)));
        assert_eq!(lock.unlock(0, 7), Ok(()));
        assert_eq!(lock.unlock(0, 7), Err(LockError::NotHeld(7)));
        lock.lock(1, 7).unwrap();
    }
}
