//! Which rank is the home of a page: guest RAM is split into segments, some ranks have several, each page one. Pages move from one home to
//! another (`node/hand_over.rs`).

use std::ops::Range;

use crate::id::{MAX_RANKS, Page, Rank, Run, STRIPE_PAGES};

/// The homes of all pages.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct HomeMap {
    /// Ends of the segments in rising order, each with its home; the last is the number of pages.
    segments: Vec<(Page, Rank)>,
    /// Whose map it is: a node's that has the stripes with this number, counted up to so many again and again.
    stripes: (u16, u16),
}

/// Why segments make no home map.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HomeMapError {
    /// There is no page.
    #[error("a machine without memory has no homes")]
    Empty,
    /// More pages than [`Page`] can number.
    #[error("more pages of memory than 2^32 - 1")]
    TooManyPages,
    /// A rank beyond the limit.
    #[error("rank {0}: a machine has ranks 0 to {last}", last = MAX_RANKS - 1)]
    Rank(u16),
}

impl HomeMap {
    /// Segments in the order of their pages: how many pages, and their home.
    ///
    /// # Errors
    /// [`HomeMapError`] naming what is wrong.
    pub fn new(segments: impl IntoIterator<Item = (u32, Rank)>) -> Result<Self, HomeMapError> {
        let mut ends: Vec<(Page, Rank)> = Vec::new();
        for (pages, home) in segments {
            if home.0 >= MAX_RANKS {
                return Err(HomeMapError::Rank(home.0));
            }
            let start = ends.last().map_or(0, |(end, _)| end.0);
            push(&mut ends, Page(start.checked_add(pages).ok_or(HomeMapError::TooManyPages)?), home);
        }
        if ends.is_empty() { Err(HomeMapError::Empty) } else { Ok(Self { segments: ends, stripes: (0, 1) }) }
    }

    /// The same for one of the `count` nodes of a rank, to which stripes of [`STRIPE_PAGES`] are dealt out. It hears of hand-overs of its
    /// own pages alone, so [`Self::ranks`] is about these.
    #[must_use]
    pub fn striped(self, index: u16, count: u16) -> Self {
        Self { stripes: (index, count.max(1)), ..self }
    }

    /// Other homes for the same node.
    #[must_use]
    pub fn with_segments_of(&self, other: &Self) -> Self {
        Self { segments: other.segments.clone(), stripes: self.stripes }
    }

    /// From now on these pages have this home. Those of them that do not exist have none.
    pub fn hand_over(&mut self, run: Run, to: Rank) {
        let mut ends = Vec::with_capacity(self.segments.len() + 2);
        let (first, last) = (run.first, run.end().min(Page(self.pages())));
        let mut start = Page(0);
        for (end, home) in self.segments.drain(..) {
            push(&mut ends, end.min(first), home);
            push(&mut ends, end.min(last), to);
            push(&mut ends, end, home);
            start = end;
        }
        debug_assert!(ends.last().is_none_or(|(end, _)| *end == start), "no page is lost");
        self.segments = ends;
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.segments.last().map_or(0, |(end, _)| end.0)
    }

    /// The homes of this node's pages, in the order of their segments.
    pub fn ranks(&self) -> impl Iterator<Item = Rank> {
        self.segments().filter(|(run, _)| self.has_stripe_of(run)).map(|(_, home)| home)
    }

    /// The segments in rising order of their pages, each with its home.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = (Range<u32>, Rank)> + Clone {
        (0..self.segments.len()).filter_map(|at| {
            let start = at.checked_sub(1).and_then(|before| self.segments.get(before)).map_or(0, |(end, _)| end.0);
            self.segments.get(at).map(|(end, home)| (start..end.0, *home))
        })
    }

    /// Whether one of the pages is this node's.
    fn has_stripe_of(&self, pages: &Range<u32>) -> bool {
        let (index, count) = (u32::from(self.stripes.0), u32::from(self.stripes.1));
        let (first, last) = (pages.start / STRIPE_PAGES, pages.end.saturating_sub(1) / STRIPE_PAGES);
        let next = first + (index + count - first % count) % count;
        !pages.is_empty() && next <= last
    }

    /// The home of a page, if there is such a page.
    #[must_use]
    pub fn home(&self, page: Page) -> Option<Rank> {
        let at = self.segments.partition_point(|(end, _)| *end <= page);
        self.segments.get(at).map(|(_, home)| *home)
    }

    /// The page after the last one of the segment that this page is in: pages up to there have one home.
    #[must_use]
    pub fn segment_end(&self, page: Page) -> Option<Page> {
        let at = self.segments.partition_point(|(end, _)| *end <= page);
        self.segments.get(at).map(|(end, _)| *end)
    }

    /// Whether all of the run's pages exist and have one home; gives it.
    #[must_use]
    pub fn home_of_run(&self, run: Run) -> Option<Rank> {
        let home = self.home(run.first)?;
        let end = run.first.0.checked_add(run.count.into())?;
        (run.count > 0 && end <= self.segment_end(run.first)?.0).then_some(home)
    }
}

/// Pages up to this one have this home, those before have theirs; segments side by side with one home are one.
fn push(ends: &mut Vec<(Page, Rank)>, end: Page, home: Rank) {
    if ends.last().map_or(Page(0), |(end, _)| *end) >= end {
        return;
    }
    match ends.last_mut() {
        Some(last) if last.1 == home => last.0 = end,
        _ => ends.push((end, home)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u32, count: u16) -> Run {
        Run { first: Page(first), count }
    }

    /// The homes of ten pages, by a map made of hand-overs and by a list.
    #[test]
    fn pages_that_are_handed_over_have_another_home_and_no_others() {
        let mut map = HomeMap::new([(4, Rank(0)), (0, Rank(3)), (3, Rank(1)), (3, Rank(0))]).expect("a home map");
        let mut list = [0, 0, 0, 0, 1, 1, 1, 0, 0, 0];
        let moves = [(run(1, 2), 2), (run(3, 1), 1), (run(0, 10), 0), (run(9, 1), 1), (run(2, 7), 1), (run(5, 1), 0)];
        for (run, to) in moves {
            map.hand_over(run, Rank(to));
            run.pages().for_each(|page| list[page.0 as usize] = to);
            let homes: Vec<u16> = (0..10).map(|page| map.home(Page(page)).expect("a home").0).collect();
            assert_eq!(homes, list, "{map:?}");
            let ends = |page: u32| (page..10).find(|at| list[*at as usize] != list[page as usize]).unwrap_or(10);
            assert!((0..10).all(|page| map.segment_end(Page(page)) == Some(Page(ends(page)))), "{map:?}");
            assert_eq!(map.pages(), 10);
        }
    }

    #[test]
    fn pages_beyond_the_last_stay_none() {
        let mut map = HomeMap::new([(4, Rank(0))]).expect("a home map");
        map.hand_over(run(3, 9), Rank(1));
        assert_eq!([3, 4].map(|page| map.home(Page(page))), [Some(Rank(1)), None]);
        map.hand_over(run(7, 9), Rank(2));
        assert_eq!((map.pages(), map.home(Page(3))), (4, Some(Rank(1))));
    }

    #[test]
    fn the_homes_of_one_node_are_those_of_its_stripes() {
        let pages = [STRIPE_PAGES + 1, STRIPE_PAGES - 1, STRIPE_PAGES, 2 * STRIPE_PAGES, 1];
        let map = HomeMap::new(pages.into_iter().zip((0..).map(Rank))).expect("a home map");
        let of = |index, count| map.clone().striped(index, count).ranks().map(|rank| rank.0).collect::<Vec<_>>();
        assert_eq!(of(0, 1), [0, 1, 2, 3, 4]);
        assert_eq!((of(0, 2), of(1, 2)), (vec![0, 2, 3], vec![0, 1, 3, 4]));
        assert_eq!((of(0, 3), of(1, 3), of(2, 3)), (vec![0, 3], vec![0, 1, 3], vec![2, 4]));
        assert_eq!((of(6, 7), of(5, 7)), (vec![], vec![4]), "there are six stripes");
        let mut moved = map.clone().striped(2, 3);
        moved.hand_over(run(2 * STRIPE_PAGES, 128), Rank(9));
        assert_eq!(moved.ranks().map(|rank| rank.0).collect::<Vec<_>>(), [9, 2, 4]);
        assert_eq!(map.striped(2, 3).with_segments_of(&moved), moved);
    }

    #[test]
    fn segments_are_what_a_map_is_made_of() {
        let map = HomeMap::new([(4, Rank(0)), (3, Rank(1)), (3, Rank(0))]).expect("a home map");
        let segments: Vec<_> = map.segments().collect();
        assert_eq!(segments, [(0..4, Rank(0)), (4..7, Rank(1)), (7..10, Rank(0))]);
        let again = HomeMap::new(segments.into_iter().map(|(pages, home)| (pages.end - pages.start, home)));
        assert_eq!(again, Ok(map));
    }

    #[test]
    fn a_map_that_comes_back_is_the_same() {
        let before = HomeMap::new([(4, Rank(0)), (4, Rank(1))]).expect("a home map");
        let mut map = before.clone();
        map.hand_over(run(2, 2), Rank(1));
        assert_ne!(map, before);
        map.hand_over(run(2, 2), Rank(0));
        assert_eq!(map, before);
    }
}
