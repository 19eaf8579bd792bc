//! Which pages fault most, in bounded memory.
//!
//! The space-saving algorithm (Metwally, Agrawal, El Abbadi: Efficient computation of frequent and top-k elements in data
//! streams, 2005): a page that is not counted yet takes the place and the count of the least counted one. Every page
//! with more than 1/[`HOT_PAGES`] of all faults is among the counted, its count too high by at most `over`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vincs_coherence::id::Page;

/// Pages that a shard counts at a time, and most pages that a shard or rank tells of. It tells of all, and those that add up leave none away:
/// a page that is not among the hottest of any rank may be the hottest of the machine.
pub const HOT_PAGES: usize = 256;
/// Threads remembered for a page.
const THREADS: usize = 8;

/// A page with many faults.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HotPage {
    /// Its number: its place in guest RAM, in pages.
    pub page: u32,
    /// Its faults, at most. A sum is without those on ranks that do not tell of it.
    pub faults: u64,
    /// How many fewer there may be: it was counted in the place of another page.
    pub over: u64,
    /// Linux ids of threads that ran into it, some of them if they are many.
    pub threads: Vec<i32>,
}

impl HotPage {
    /// The pages of two lists, the hottest first, counts of the same page added up.
    pub(super) fn merge(some: &[Self], others: &[Self]) -> Vec<Self> {
        let mut pages: BTreeMap<u32, Self> = BTreeMap::new();
        for hot in some.iter().chain(others) {
            let sum = pages.entry(hot.page).or_insert_with(|| Self { faults: 0, over: 0, threads: Vec::new(), ..*hot });
            sum.faults += hot.faults;
            sum.over += hot.over;
            hot.threads.iter().for_each(|thread| remember(&mut sum.threads, *thread));
        }
        sorted(pages.into_values().collect())
    }
}

/// The counted pages of one shard, in no order: at each fault all of them may be looked at, which takes less time than the rest of it by far.
#[derive(Debug, Default)]
pub(super) struct HotPages {
    counted: Vec<HotPage>,
}

impl HotPages {
    /// A thread ran into a page.
    pub(super) fn count(&mut self, page: Page, thread: i32) {
        let known = self.counted.iter().position(|hot| hot.page == page.0);
        let at = known.unwrap_or_else(|| self.place_for(page.0));
        if let Some(hot) = self.counted.get_mut(at) {
            hot.faults += 1;
            remember(&mut hot.threads, thread);
        }
    }

    /// Makes a place for another page.
    fn place_for(&mut self, page: u32) -> usize {
        if self.counted.len() < HOT_PAGES {
            self.counted.push(HotPage { page, faults: 0, over: 0, threads: Vec::with_capacity(THREADS) });
            return self.counted.len() - 1;
        }
        let least = self.counted.iter().enumerate().min_by_key(|(_, hot)| hot.faults).map_or(0, |(at, _)| at);
        if let Some(hot) = self.counted.get_mut(least) {
            (hot.page, hot.over) = (page, hot.faults);
            hot.threads.clear();
        }
        least
    }

    /// All pages that are counted, the hottest first.
    pub(super) fn hottest(&self) -> Vec<HotPage> {
        sorted(self.counted.clone())
    }
}

fn remember(threads: &mut Vec<i32>, thread: i32) {
    if threads.len() < THREADS && !threads.contains(&thread) {
        threads.push(thread);
    }
}

fn sorted(mut pages: Vec<HotPage>) -> Vec<HotPage> {
    pages.sort_by_key(|hot| (std::cmp::Reverse(hot.faults), hot.page));
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hot_pages_stand_out_of_many_cold_ones_and_memory_is_bounded() {
        let mut hot = HotPages::default();
        for round in 0..20_000_u32 {
            hot.count(Page(1_000_000 + round), 1);
            if round % 4 == 0 {
                hot.count(Page(7), 2);
            }
            if round % 5 == 0 {
                hot.count(Page(8), i32::try_from(round).unwrap());
            }
        }
        assert_eq!(hot.counted.len(), HOT_PAGES);
        let hottest = hot.hottest();
        assert_eq!(hottest.len(), HOT_PAGES);
        assert_eq!(hottest.iter().take(2).map(|hot| hot.page).collect::<Vec<_>>(), [7, 8]);
        assert!((hottest[0].faults - hottest[0].over..=hottest[0].faults).contains(&5000), "{hottest:?}");
        assert_eq!((hottest[0].threads.len(), hottest[1].threads.len()), (1, THREADS));
    }

    #[test]
    fn lists_of_ranks_become_one() {
        let hot = |page, faults, thread| HotPage { page, faults, over: 0, threads: vec![thread] };
        let merged = HotPage::merge(&[hot(1, 10, 1), hot(2, 9, 1)], &[hot(2, 5, 1), hot(3, 1, 4)]);
        assert_eq!(merged, [hot(2, 14, 1), hot(1, 10, 1), hot(3, 1, 4)]);
    }
}
