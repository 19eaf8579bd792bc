//! Giving up a page later: when its minimum hold time is over and no device holds it.

use std::collections::{BTreeMap, BTreeSet};

use super::Node;
use crate::id::{Page, Tick};
use crate::message::Keep;

/// When a page came here, in microseconds, of which the lower half is kept: after 71 minutes it comes round again, and a page that old
/// may be held once more, never longer than a page that has just come.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Stamp(u32);

impl Stamp {
    /// The first of all.
    pub(super) const START: Self = Self(0);

    /// It as a number.
    pub(super) fn to_bits(self) -> u32 {
        self.0
    }

    /// What was made a number of.
    pub(super) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// A page that somebody waited for has come.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is kept")]
    pub(super) fn at(now: Tick) -> Self {
        Self(now.0 as u32)
    }

    /// A page has come that nobody waited for: its hold time is over already, and so is any that a rank is patient for.
    pub(super) fn free(now: Tick, longest: u32) -> Self {
        Self(Self::at(now).0.wrapping_sub(longest))
    }

    /// Microseconds until the page may go: at most `hold`.
    pub(super) fn left(self, now: Tick, hold: u32) -> u32 {
        hold.saturating_sub(Self::at(now).0.wrapping_sub(self.0))
    }
}

/// What is to be given up.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum GiveUp {
    /// The copy to read of a page of another home.
    Copy,
    /// The right to write a page of another home, or the page.
    Ownership {
        /// What stays here.
        keep: Keep,
    },
    /// What stands in the way of a transaction on a page homed here: this home's own copy.
    Own,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Deferral {
    what: GiveUp,
    /// End of the minimum hold time; None once it is over and a device alone is waited for.
    due: Option<Tick>,
}

/// All that is to be given up later. At most one thing per page: a home has one transaction per page.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Deferrals {
    by_page: BTreeMap<Page, Deferral>,
    timers: BTreeSet<(Tick, Page)>,
}

impl Deferrals {
    /// Whether the page is to be given up.
    pub(super) fn contains(&self, page: Page) -> bool {
        !self.by_page.is_empty() && self.by_page.contains_key(&page)
    }

    /// A page that is to be given up changes its home: what is to be given up has another name.
    pub(super) fn change(&mut self, page: Page, what: GiveUp) {
        if let Some(deferral) = self.by_page.get_mut(&page) {
            deferral.what = what;
        }
    }

    /// When the next minimum hold time is over.
    pub(super) fn next(&self) -> Option<Tick> {
        self.timers.first().map(|(due, _)| *due)
    }
}

impl Node {
    /// Whether a page may be given up at once.
    pub(super) fn is_free(&self, now: Tick, page: Page, came: Stamp, pins: u16) -> bool {
        pins == 0 && self.left(now, page, came) == 0
    }

    /// Gives a page up as soon as it may be.
    pub(super) fn give_up_when_free(&mut self, now: Tick, page: Page, came: Stamp, pins: u16, what: GiveUp) {
        let left = self.left(now, page, came);
        if left == 0 && pins == 0 {
            return self.give_up(now, page, what);
        }
        let due = (left > 0).then(|| Tick(now.0.saturating_add(left.into())));
        self.stats.hold_waits += u64::from(due.is_some());
        self.stats.device_waits += u64::from(pins > 0);
        self.deferrals.timers.extend(due.map(|due| (due, page)));
        self.deferrals.by_page.insert(page, Deferral { what, due });
    }

    /// Gives up every page whose hold time was to be over until then, if it is over now.
    pub(super) fn hold_times_end(&mut self, now: Tick, until: Tick) {
        while let Some((due, page)) = self.deferrals.timers.first().copied()
            && due <= until
        {
            self.deferrals.timers.pop_first();
            // A rank that has become patient meanwhile keeps it for longer, one that sleeps no longer at all.
            let left = self.left(now, page, self.came(page));
            let due = (left > 0).then(|| Tick(now.0.saturating_add(left.into())));
            self.deferrals.timers.extend(due.map(|due| (due, page)));
            if let Some(deferral) = self.deferrals.by_page.get_mut(&page) {
                deferral.due = due;
            }
            self.give_up_if_due(now, page);
        }
    }

    /// Gives up a page that only now is neither within its hold time nor held by a device, if it is to be; one that is on its way to
    /// another home, when that is over.
    pub(super) fn give_up_if_due(&mut self, now: Tick, page: Page) {
        if self.pins(page) > 0 || self.is_frozen(page) {
            return;
        }
        if let Some(Deferral { what, due: None }) = self.deferrals.by_page.get(&page).copied() {
            self.deferrals.by_page.remove(&page);
            self.give_up(now, page, what);
        }
    }

    /// When a page came here.
    fn came(&self, page: Page) -> Stamp {
        if self.config.homes.home(page) == Some(self.rank()) {
            self.directory.table.get(page).came
        } else {
            self.cache.table.get(page).came
        }
    }

    fn give_up(&mut self, now: Tick, page: Page, what: GiveUp) {
        match what {
            GiveUp::Copy => self.give_up_copy(page),
            GiveUp::Ownership { keep } => self.give_up_ownership(page, keep),
            GiveUp::Own => self.own_copy_is_free(now, page),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_held_for_the_rest_of_its_hold_time_and_never_longer() {
        let came = Stamp::at(Tick(1000));
        let left = [1000, 1001, 1049, 1050, 1051, 1 << 31].map(|now| came.left(Tick(now), 50));
        assert_eq!(left, [50, 49, 1, 0, 0, 0]);
        assert_eq!(Stamp::free(Tick(1000), 50).left(Tick(1000), 50), 0);
        assert_eq!(came.left(Tick(999), 50), 0, "a clock that goes back does not add to it");
    }

    #[test]
    fn hold_times_span_the_wrap_of_stamps() {
        let wrap = 1 << 32;
        let came = Stamp::at(Tick(wrap - 10));
        assert_eq!([wrap, wrap + 39, wrap + 40].map(|now| came.left(Tick(now), 50)), [40, 1, 0]);
        assert_eq!(came.left(Tick(2 * wrap), 50), 40, "a stamp that comes round holds again, within the hold time");
        assert_eq!(Stamp::free(Tick(10), 50).left(Tick(10), 50), 0);
    }
}
