//! Which ranks the machine's memory cannot do without.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vincs_coherence::id::{MAX_RANKS, Rank};

/// Ranks that may have pages of others, or are the homes of some: when one of them is lost, so is memory. A rank that has joined becomes one with the first
/// processor that is on its way there. A clone is the same set.
#[derive(Clone, Debug)]
pub struct Vitals(Arc<AtomicU64>);

const _: () = assert!(MAX_RANKS as u32 == u64::BITS);

impl Default for Vitals {
    /// All ranks.
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }
}

impl Vitals {
    /// The first ranks, so many.
    #[must_use]
    pub fn first(ranks: u16) -> Self {
        let none = u64::MAX.checked_shl(ranks.into()).unwrap_or(0);
        Self(Arc::new(AtomicU64::new(!none)))
    }

    /// A rank may have pages from now on.
    pub(crate) fn insert(&self, rank: Rank) {
        self.0.fetch_or(bit(rank), Ordering::SeqCst);
    }

    /// A rank has none any more, and will have none.
    pub(crate) fn remove(&self, rank: Rank) {
        self.0.fetch_and(!bit(rank), Ordering::SeqCst);
    }

    /// Whether a rank may have pages.
    pub(crate) fn contains(&self, rank: Rank) -> bool {
        self.0.load(Ordering::SeqCst) & bit(rank) != 0
    }
}

/// Of a rank that there cannot be none.
fn bit(rank: Rank) -> u64 {
    1_u64.checked_shl(rank.0.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_is_vital_from_when_it_may_have_pages_until_it_has_none() {
        let vitals = Vitals::first(2);
        let is_vital = |ranks: [u16; 4]| ranks.map(|rank| vitals.contains(Rank(rank)));
        assert_eq!(is_vital([0, 1, 2, 64]), [true, true, false, false]);
        vitals.clone().insert(Rank(63));
        vitals.remove(Rank(1));
        assert_eq!(is_vital([0, 1, 63, 62]), [true, false, true, false]);
        assert!(Vitals::first(MAX_RANKS).contains(Rank(63)) && Vitals::default().contains(Rank(63)));
    }
}
