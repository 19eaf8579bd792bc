//! Keeping pages for longer than the minimum hold time, while a processor waits for others that it needs at the same time.
//!
//! An instruction needs several pages at once: its own, those it touches, and where page walks count as writes the page tables. With a
//! hold time for each page alone, ranks that need the same pages take them from each other one by one, for ever: each gets one, waits
//! for the next in the queue at its home, and loses the first meanwhile. A longer hold time for all makes the wait longer too.
//!
//! So a page stays while a *higher* one is waited for, which no two ranks can do to each other, and then for one hold time after the
//! last one came; but never for more than [`MAX_PATIENCE`] hold times after it came itself. Of the ranks that need the same pages, the one
//! that has the lowest keeps it until it has the next, and so on up to the highest.

use super::Node;
use super::deferral::Stamp;
use crate::id::{Page, Tick};

/// A page is kept for so many hold times at most: longer than a queue of some ranks takes for the page that is waited for.
pub(super) const MAX_PATIENCE: u32 = 16;

/// What this rank's processors wait for.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Patience {
    /// Pages that processors wait for; no more than processors.
    waiting: Vec<Page>,
    /// The last of them that came, and when.
    last: Option<(Page, Stamp)>,
}

impl Node {
    /// A processor waits for this page.
    pub(super) fn is_waited_for(&mut self, page: Page) {
        // Without a hold time there is nothing to be patient with.
        if self.hold > 0 && !self.patience.waiting.contains(&page) {
            self.patience.waiting.push(page);
        }
    }

    /// Looks which of the pages that processors wait for have come.
    pub(super) fn look_who_waits(&mut self, now: Tick) {
        let waiting = std::mem::take(&mut self.patience.waiting);
        let (waiting, came): (Vec<Page>, Vec<Page>) = waiting.into_iter().partition(|page| self.is_asked_for(*page));
        if let Some(highest) = came.into_iter().max() {
            self.patience.last = Some((highest, Stamp::at(now)));
        }
        self.patience.waiting = waiting;
    }

    /// Whether this rank has asked for a page and has no answer.
    pub(super) fn is_asked_for(&self, page: Page) -> bool {
        if self.config.homes.home(page) == Some(self.rank()) {
            return self.directory.has_request(page, self.rank());
        }
        self.cache.table.get(page).state.is_transient()
    }

    /// For so many microseconds a page is kept at most, devices aside.
    pub(super) fn longest_hold(&self) -> u32 {
        self.hold.saturating_mul(MAX_PATIENCE)
    }

    /// Microseconds until a page that came then may go, or is to be looked at again; devices aside.
    pub(super) fn left(&self, now: Tick, page: Page, came: Stamp) -> u32 {
        let waits_for_higher = self.patience.waiting.iter().any(|waiting| *waiting > page);
        let more = match self.patience.last {
            _ if waits_for_higher => self.hold,
            Some((last, came)) if last > page => came.left(now, self.hold),
            Some(_) | None => 0,
        };
        let at_most = came.left(now, self.longest_hold());
        came.left(now, self.hold).max(more.min(at_most))
    }
}
