//! Where members leave a word each for all to read.
//!
//! There are two sets of words, used in turn: one barrier between writing and reading is enough, as nobody can be two turns ahead of who still
//! reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// A word in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot(AtomicU64);

#[derive(Debug)]
pub(super) struct Slots([Vec<Slot>; 2]);

impl Slots {
    pub(super) fn new(members: u32) -> Self {
        Self([(), ()].map(|()| (0..members).map(|_| Slot::default()).collect()))
    }

    /// The barrier that follows orders it.
    pub(super) fn put(&self, member: u32, turn: u64, word: u64) {
        if let Some(slot) = self.set(turn).get(member as usize) {
            slot.0.store(word, Ordering::Relaxed);
        }
    }

    pub(super) fn of_turn(&self, turn: u64) -> impl Iterator<Item = u64> {
        self.set(turn).iter().map(|slot| slot.0.load(Ordering::Relaxed))
    }

    fn set(&self, turn: u64) -> &[Slot] {
        let [even, odd] = &self.0;
        if turn.is_multiple_of(2) { even } else { odd }
    }
}
