//! A barrier: a count of who has come, and a number of the round.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::wait::{wait_while, wake_all};

#[derive(Debug)]
pub(super) struct Barrier {
    members: u32,
    come: AtomicU32,
    round: AtomicU32,
}

impl Barrier {
    pub(super) fn new(members: u32) -> Self {
        Self { members, come: AtomicU32::new(0), round: AtomicU32::new(0) }
    }

    /// Waits until all members are here. What each did before, all see after.
    pub(super) fn wait(&self) {
        // Before coming: the last one may end the round right after.
        let round = self.round.load(Ordering::Relaxed);
        if self.come.fetch_add(1, Ordering::AcqRel) + 1 < self.members {
            return wait_while(&self.round, round);
        }
        // Nobody comes to the next round before this one has ended.
        self.come.store(0, Ordering::Relaxed);
        self.round.store(round.wrapping_add(1), Ordering::Release);
        wake_all(&self.round);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_a_round_ahead_and_rounds_wrap() {
        const MEMBERS: u32 = 3;
        let barrier = Barrier { round: AtomicU32::new(u32::MAX - 50), ..Barrier::new(MEMBERS) };
        let sum = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..MEMBERS {
                scope.spawn(|| {
                    for round in 1..=100 {
                        sum.fetch_add(1, Ordering::Relaxed);
                        barrier.wait();
                        assert_eq!(sum.load(Ordering::Relaxed), round * MEMBERS);
                        barrier.wait();
                    }
                });
            }
        });
    }

    #[test]
    fn one_member_never_waits() {
        let barrier = Barrier::new(1);
        (0..3).for_each(|_| barrier.wait());
    }
}
