//! How much of the rank's cache each shard has.

use vincs_coherence::home::HomeMap;
use vincs_coherence::id::{Page, Rank};
use vincs_coherence::node::MIN_CACHE_PAGES;

use super::frames::Shard;

/// Each shard's part of a cache of so many pages: as much of it as the shard has of the pages of other homes, so that nothing is evicted
/// when all of them fit; but what the protocol needs at least.
pub(super) fn caches(homes: &HomeMap, rank: Rank, shards: u16, cache: u32) -> Vec<u32> {
    let mut foreign = vec![0_u64; shards.into()];
    let mut at = Page(0);
    while let (Some(home), Some(end)) = (homes.home(at), homes.segment_end(at)) {
        let end = Page(Shard::stripe_end(at).min(end.0));
        if let Some(pages) = foreign.get_mut(usize::from(Shard::of(at, shards))).filter(|_| home != rank) {
            *pages += u64::from(end.0 - at.0);
        }
        at = end;
    }
    let all = foreign.iter().sum::<u64>().max(1);
    let part = |pages: u64| u32::try_from(u64::from(cache) * pages / all).unwrap_or(u32::MAX).max(MIN_CACHE_PAGES);
    foreign.into_iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use vincs_coherence::id::STRIPE_PAGES;

    use super::*;

    /// The parts of rank 0, where others are the home of so many pages after one stripe of its own.
    fn parts(foreign: u32, shards: u16, cache: u32) -> Vec<u32> {
        let homes = HomeMap::new([(STRIPE_PAGES, Rank(0)), (foreign, Rank(1))]).unwrap();
        caches(&homes, Rank(0), shards, cache)
    }

    #[test]
    fn a_cache_is_divided_as_the_pages_of_other_homes_are() {
        assert_eq!(parts(4 * STRIPE_PAGES, 1, 5000), [5000]);
        assert_eq!(parts(4 * STRIPE_PAGES, 2, 5000), [2500, 2500]);
        assert_eq!(parts(3 * STRIPE_PAGES, 2, 6000), [2000, 4000]);
        let foreign = 2 * STRIPE_PAGES + 1000;
        assert_eq!(parts(foreign, 2, foreign), [STRIPE_PAGES, STRIPE_PAGES + 1000], "all of them fit");
    }

    #[test]
    fn no_part_is_smaller_than_the_protocol_takes() {
        assert_eq!(parts(4 * STRIPE_PAGES, 4, 256), [MIN_CACHE_PAGES; 4]);
        assert_eq!(parts(1000, 2, 5000), [MIN_CACHE_PAGES, 5000], "the first shard has no foreign page");
        assert_eq!(parts(0, 1, 5000), [MIN_CACHE_PAGES]);
    }
}
