//! How much of each rank's notices a rank has seen.

use crate::id::Rank;

/// A place in a rank's notice log, counted from its beginning in notices and never reused: how many came before.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position(pub u64);

impl Position {
    /// The end of the numbers: a position has so many bits, a million notices each second for 140 years.
    pub const LIMIT: u64 = 1 << 52;

    /// The position after so many more notices.
    #[must_use]
    pub fn after(self, notices: usize) -> Self {
        Self(self.0.saturating_add(notices as u64))
    }
}

/// A vector clock: for each rank the position up to which its notices are covered. An interval of a rank is the notices
/// between two of its synchronisations, so intervals need no numbers of their own: a position is the end of one.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Clock(Vec<Position>);

impl Clock {
    /// That of a machine in which nothing has been written.
    #[must_use]
    pub fn new(ranks: u16) -> Self {
        Self(vec![Position(0); ranks.into()])
    }

    /// One entry for each rank, in order.
    #[must_use]
    pub fn from_positions(positions: Vec<Position>) -> Self {
        Self(positions)
    }

    /// The entry of a rank.
    #[must_use]
    pub fn of(&self, rank: Rank) -> Position {
        self.0.get(usize::from(rank.0)).copied().unwrap_or_default()
    }

    /// The entries in the order of ranks.
    pub fn positions(&self) -> impl ExactSizeIterator<Item = Position> {
        self.0.iter().copied()
    }

    /// Sets the entry of a rank.
    pub fn set(&mut self, rank: Rank, position: Position) {
        if let Some(entry) = self.0.get_mut(usize::from(rank.0)) {
            *entry = position;
        }
    }

    /// Covers what either covers.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, other)| *mine = (*mine).max(*other));
    }

    /// Whether it covers all that the other covers.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(mine, other)| mine >= other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(positions: &[u64]) -> Clock {
        Clock::from_positions(positions.iter().copied().map(Position).collect())
    }

    #[test]
    fn merging_covers_both_and_no_more() {
        let mut merged = clock(&[3, 0, 7]);
        let other = clock(&[1, 5, 7]);
        assert!(!merged.covers(&other));
        merged.merge(&other);
        assert_eq!(merged, clock(&[3, 5, 7]));
        assert!(merged.covers(&other) && !other.covers(&merged));
    }

    #[test]
    fn a_rank_that_is_not_there_has_nothing() {
        let mut clock = Clock::new(2);
        clock.set(Rank(2), Position(9));
        assert_eq!(clock, Clock::new(2));
        assert_eq!(clock.of(Rank(2)), Position(0));
    }
}
