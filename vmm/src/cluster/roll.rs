//! Which ranks are there when rank 0 is not: the lowest of them speaks for all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vincs_coherence::id::{MAX_RANKS, Rank, RankSet};

/// The ranks that have said to be there without rank 0. Whoever misses rank 0, or hears of one that does, says so to all others once, and stays
/// for a second: so each knows of all that live, whichever hosts went with rank 0's. A clone is the same roll.
#[derive(Clone, Debug, Default)]
pub struct Roll(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Who has said so, once the roll is called.
    there: Option<RankSet>,
    /// Who has left the machine.
    left: RankSet,
}

impl Roll {
    /// Calls the roll, if nobody has; says whether that is so.
    pub(crate) fn open(&self) -> bool {
        let mut roll = self.lock();
        let first = roll.there.is_none();
        roll.there.get_or_insert_default();
        first
    }

    /// A rank has left the machine.
    pub(crate) fn leave(&self, rank: Rank) {
        if rank.0 < MAX_RANKS {
            self.lock().left.insert(rank);
        }
    }

    /// This rank is there.
    pub(crate) fn enter(&self, rank: Rank) {
        self.lock().there.get_or_insert_default().insert(rank);
    }

    /// Whether this rank, which is not 0, is the lowest that is there when this one is lost. As long as nobody was asked, all others but rank 0 are
    /// there.
    #[must_use]
    pub fn is_lowest(&self, rank: Rank, lost: Rank) -> bool {
        let Known { there, left } = &*self.lock();
        match there {
            Some(there) => !there.iter().any(|other| other < rank),
            None => (1..rank.0).map(Rank).all(|other| other == lost || left.contains(other)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_that_is_there_speaks() {
        let roll = Roll::default();
        let lowest = |rank| roll.is_lowest(Rank(rank), Rank(0));
        assert_eq!([1, 2, 3].map(lowest), [true, false, false], "nobody was asked");
        assert_eq!([2, 3].map(|rank| roll.is_lowest(Rank(rank), Rank(1))), [true, false], "and rank 1 is lost");
        assert!(roll.open() && !roll.open());
        assert_eq!([1, 2, 3].map(lowest), [true; 3], "nobody else is there");
        roll.enter(Rank(2));
        assert_eq!([1, 2, 3].map(lowest), [true, true, false]);
        roll.clone().enter(Rank(1));
        assert_eq!([1, 2, 3].map(lowest), [true, false, false]);
        let asked = Roll::default();
        asked.enter(Rank(3));
        assert!(!asked.open() && asked.is_lowest(Rank(2), Rank(0)));
        let without = Roll::default();
        without.leave(Rank(1));
        assert!(without.is_lowest(Rank(2), Rank(0)) && !without.is_lowest(Rank(3), Rank(0)), "rank 1 has left");
    }
}
