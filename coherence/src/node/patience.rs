//! Keeping pages for longer than the minimum hold time, while a processor waits for others that it needs at the same time.
//!
//! An instruction needs several pages at once: its own, those it touches, and where page walks count as writes the page tables. With a
//! hold time for each page alone, ranks that need the same pages take them from each other one by one, for ever: each gets one, waits
//! for the next in the queue at its home, and loses the first meanwhile. A longer hold time for all makes the wait longer too.
//!
//! So a page stays while a *higher* one is waited for, which no two ranks can do to each other, and then for one hold time after the
//! last one came; but never for more than [`MAX_PATIENCE`] hold times after it came itself. Of the ranks that need the same pages, the one
//! that has the lowest keeps it until it has the next, and so on up to the highest.
//!
//! A rank whose processors all sleep keeps no page for them: none is at an instruction that needs it.
//!
//! An instruction's pages may belong to different nodes of a rank. So each node tells what its processors wait for ([`Awaited`]), and is told that
//! of the others.

use super::Node;
use super::deferral::Stamp;
use crate::id::{Page, Tick};

/// A page is kept for so many hold times at most: longer than a queue of some ranks takes for the page that is waited for.
pub(super) const MAX_PATIENCE: u32 = 16;

/// What a node's processors wait for, as far as the rank's other nodes have to know: they keep lower pages for its sake.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Awaited {
    /// The highest page that is waited for. The first page of all stands for none, as there is no lower one to keep.
    highest: Page,
    /// The highest of those that came last, or the first page of all.
    last: Page,
    /// When they came.
    came: Stamp,
}

impl Awaited {
    /// Nothing.
    pub const NOTHING: Self = Self { highest: Page(0), last: Page(0), came: Stamp::START };

    /// As two words, for a place that other threads read while it changes. A page that comes goes from the first to the second: who writes the
    /// second first, and reads it last, never misses the page.
    #[must_use]
    pub fn to_words(self) -> [u64; 2] {
        [self.highest.0.into(), u64::from(self.last.0) << u32::BITS | u64::from(self.came.to_bits())]
    }

    /// What was made words of.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "each half is taken by itself")]
    pub fn from_words([highest, last]: [u64; 2]) -> Self {
        let came = Stamp::from_bits(last as u32);
        Self { highest: Page(highest as u32), last: Page((last >> u32::BITS) as u32), came }
    }

    /// Microseconds for which a page is kept for its sake, before it is looked at again.
    fn keeps(self, now: Tick, page: Page, hold: u32) -> u32 {
        match self {
            Self { highest, .. } if highest > page => hold,
            Self { last, came, .. } if last > page => came.left(now, hold),
            Self { .. } => 0,
        }
    }
}

/// What this rank's processors wait for.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Patience {
    /// Pages of this node that processors wait for; no more than processors.
    waiting: Vec<Page>,
    /// The last of them that came, and when.
    last: Option<(Page, Stamp)>,
    /// What is waited for at the rank's other nodes.
    others: Vec<Awaited>,
    /// None of the rank's processors executes anything.
    asleep: bool,
}

impl Node {
    /// What processors wait for at this node. The driver tells it to the rank's other nodes after each input.
    #[must_use]
    pub fn awaited(&self) -> Awaited {
        let Patience { waiting, last, others: _, asleep: _ } = &self.patience;
        let highest = waiting.iter().copied().max().unwrap_or(Awaited::NOTHING.highest);
        let (last, came) = last.unwrap_or((Awaited::NOTHING.last, Awaited::NOTHING.came));
        Awaited { highest, last, came }
    }

    /// What processors wait for at the rank's other nodes, of which the driver tells before each input. Their clock has to be this node's, and the
    /// time of the input not before they were looked at.
    pub fn handle_awaited(&mut self, others: impl IntoIterator<Item = Awaited>) {
        self.patience.others.clear();
        self.patience.others.extend(others);
    }

    /// All of this rank's processors sleep (halted, or not started), or one of them does not any more. While they sleep, no page is kept for
    /// its hold time, and what was to be given up at the end of one is given up now.
    pub fn handle_sleep(&mut self, now: Tick, asleep: bool) {
        self.patience.asleep = asleep;
        if asleep {
            self.hold_times_end(now, Tick(u64::MAX));
            self.settle(now);
        }
    }

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
        if self.patience.asleep {
            return 0;
        }
        let awaited = self.patience.others.iter().copied().chain([self.awaited()]);
        let more = awaited.map(|awaited| awaited.keeps(now, page, self.hold)).max().unwrap_or(0);
        let at_most = came.left(now, self.longest_hold());
        came.left(now, self.hold).max(more.min(at_most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_awaited_survives_its_way_as_words() {
        let (highest, last) = (Page(u32::MAX), Page(1 << 31));
        let awaited = Awaited { highest, last, came: Stamp::at(Tick(u64::MAX - 1)) };
        assert_eq!(Awaited::from_words(awaited.to_words()), awaited);
        assert_eq!(Awaited::NOTHING.to_words(), [0, 0]);
    }

    #[test]
    fn a_page_is_kept_while_a_higher_one_is_awaited_and_for_a_hold_time_after_that() {
        let awaited = Awaited { highest: Page(5), last: Page(9), came: Stamp::at(Tick(100)) };
        let keeps = |page, now| awaited.keeps(Tick(now), Page(page), 50);
        assert_eq!([keeps(4, 100), keeps(4, 200)], [50, 50]);
        assert_eq!([keeps(5, 100), keeps(8, 120), keeps(8, 150), keeps(9, 100)], [50, 30, 0, 0]);
        assert_eq!(Awaited::NOTHING.keeps(Tick(0), Page(0), 50), 0);
    }
}
