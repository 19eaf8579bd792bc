//! Keeping pages for longer than the minimum hold time, when that alone does not let an instruction have all its pages.
//!
//! Several ranks whose instructions need the same pages can take them from each other for ever: each gets one page, waits for the
//! next in the queue at its home, and loses the first meanwhile, as the wait is several hold times of others. A longer hold
//! time for all makes the wait longer too. So a rank that has lost a page while one of its processors waited for
//! another, and is asked for it again, draws how *patient* it is to be: for a while it keeps its pages up to that
//! many times the hold time, as long as a processor waits, and for one hold time after the last page came. It draws from a
//! range that doubles each time it happens again, as stations on an Ethernet back off; sooner or later one rank is
//! far more patient than all others, and its instruction ends.

use std::collections::VecDeque;

use super::Node;
use super::cache::CacheState;
use super::deferral::Stamp;
use crate::id::{Page, Rank, Tick};

/// Most patience, as a power of two: 64 times the hold time.
pub(super) const MAX_LEVEL: u32 = 6;

/// Lost pages that are remembered: more than an instruction needs.
const MAX_LOST: usize = 16;

/// After so many hold times without trouble, it begins anew with little patience.
const CALM_AFTER: u64 = 256;

/// How patient this rank is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Patience {
    /// Pages that processors wait for; no more than processors.
    waiting: Vec<Page>,
    /// When the last of them came.
    last_came: Stamp,
    /// Pages lost while a processor waited for another, the last one at the end.
    lost: VecDeque<Page>,
    /// It keeps pages for up to two to this power hold times.
    power: u32,
    /// Until then.
    until: Tick,
    /// The power is drawn from 0 to this.
    level: u32,
    /// Where it is in a stream of numbers that is different on each rank.
    stream: u64,
}

impl Patience {
    pub(super) fn new(rank: Rank) -> Self {
        Self {
            waiting: Vec::new(),
            last_came: Stamp::default(),
            lost: VecDeque::new(),
            power: 0,
            until: Tick(0),
            level: 0,
            stream: u64::from(rank.0),
        }
    }

    /// Whether a processor waits for a page.
    pub(super) fn is_anybody_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// An instruction has lost one of its pages before it had all.
    fn draw(&mut self, now: Tick, hold: u32) {
        if now < self.until {
            return;
        }
        let is_calm = now.0 - self.until.0 > CALM_AFTER * u64::from(hold);
        self.level = if is_calm { 1 } else { MAX_LEVEL.min(self.level + 1) };
        // The multiplier and increment of Knuth's MMIX; the upper bits are good.
        self.stream = self.stream.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.power = u32::try_from(self.stream >> 33).unwrap_or(0) % (self.level + 1);
        self.until = Tick(now.0.saturating_add(u64::from(hold) << (self.power + 1)));
    }
}

impl Node {
    /// A processor waits for this page.
    pub(super) fn is_waited_for(&mut self, now: Tick, page: Page) {
        // Without a hold time there is nothing to be patient with.
        if self.hold == 0 || self.patience.waiting.contains(&page) {
            return;
        }
        self.patience.waiting.push(page);
        if let Some(at) = self.patience.lost.iter().position(|lost| *lost == page) {
            self.patience.lost.remove(at);
            self.patience.draw(now, self.hold);
        }
    }

    /// Looks which of the pages that processors wait for have come.
    pub(super) fn look_who_waits(&mut self, now: Tick) {
        let mut waiting = std::mem::take(&mut self.patience.waiting);
        let before = waiting.len();
        waiting.retain(|page| self.is_asked_for(*page));
        if waiting.len() < before {
            self.patience.last_came = Stamp::at(now);
        }
        self.patience.waiting = waiting;
    }

    /// Whether this rank has asked for a page and has no answer.
    pub(super) fn is_asked_for(&self, page: Page) -> bool {
        if self.config.homes.home(page) == Some(self.rank()) {
            return self.directory.has_request(page, self.rank());
        }
        match self.cache.table.get(page).state {
            CacheState::Invalid | CacheState::Shared | CacheState::Modified => false,
            CacheState::ReadWait
            | CacheState::WriteWait
            | CacheState::UpgradeWait
            | CacheState::AheadWait
            | CacheState::AheadWanted => true,
        }
    }

    /// A page is given up because another rank wants it.
    pub(super) fn is_lost(&mut self, page: Page) {
        self.lost_to_others(page);
        let patience = &mut self.patience;
        if patience.waiting.is_empty() || patience.lost.contains(&page) {
            return;
        }
        if patience.lost.len() == MAX_LOST {
            patience.lost.pop_front();
        }
        patience.lost.push_back(page);
    }

    /// Microseconds until a page that came then may go, or is to be looked at again; devices aside.
    pub(super) fn left(&self, now: Tick, came: Stamp) -> u32 {
        let left = came.left(now, self.hold);
        if now >= self.patience.until {
            return left;
        }
        let most = self.hold.saturating_mul(1 << self.patience.power);
        let left_at_most = came.left(now, most);
        let more =
            if self.patience.is_anybody_waiting() { self.hold } else { self.patience.last_came.left(now, self.hold) };
        left.max(more.min(left_at_most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: u32 = 10;

    #[test]
    fn patience_grows_with_trouble_up_to_its_limit_and_is_lost_in_calm() {
        let mut patience = Patience::new(Rank(3));
        let mut powers = Vec::new();
        for _ in 0..1000 {
            let now = patience.until;
            patience.draw(now, HOLD);
            powers.push(patience.power);
            assert_eq!(patience.until.0 - now.0, u64::from(HOLD) << (patience.power + 1));
        }
        assert!((0..=MAX_LEVEL).all(|power| powers.contains(&power)));
        assert_eq!((patience.level, powers.iter().max()), (MAX_LEVEL, Some(&MAX_LEVEL)));
        let calm = Tick(patience.until.0 + CALM_AFTER * u64::from(HOLD));
        patience.draw(Tick(calm.0 + 1), HOLD);
        assert_eq!(patience.level, 1);
    }

    #[test]
    fn nothing_is_drawn_while_the_last_draw_lasts() {
        let mut patience = Patience::new(Rank(0));
        patience.draw(Tick(0), HOLD);
        let drawn = patience.clone();
        patience.draw(Tick(drawn.until.0 - 1), HOLD);
        assert_eq!(patience, drawn);
        patience.draw(drawn.until, HOLD);
        assert_ne!(patience, drawn);
    }
}
