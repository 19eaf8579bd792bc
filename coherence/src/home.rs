//! Which rank is the home of a page: guest RAM is split into segments, some ranks have several, each page one.

use crate::id::{MAX_RANKS, Page, Rank, Run};

/// The homes of all pages.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HomeMap {
    /// Ends of the segments in rising order, each with its home; the last is the number of pages.
    segments: Vec<(Page, Rank)>,
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
            let end = Page(start.checked_add(pages).ok_or(HomeMapError::TooManyPages)?);
            match ends.last_mut() {
                Some(last) if last.1 == home => last.0 = end,
                _ if pages > 0 => ends.push((end, home)),
                _ => {}
            }
        }
        if ends.is_empty() { Err(HomeMapError::Empty) } else { Ok(Self { segments: ends }) }
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.segments.last().map_or(0, |(end, _)| end.0)
    }

    /// The homes there are, in the order of their segments.
    pub fn ranks(&self) -> impl Iterator<Item = Rank> {
        self.segments.iter().map(|(_, home)| *home)
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
