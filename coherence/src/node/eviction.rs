//! Keeping the cache within its limit.

use super::Node;
use super::cache::{CacheEntry, CacheState};
use crate::id::{Page, Tick};
use crate::message::Keep;

/// Most pages looked at in vain when room is made for one: beyond that the cache may grow for now, by pages that may not go yet.
pub(super) const MAX_SCAN: usize = 64;

impl Node {
    /// Gives up the oldest pages until so many more have room, as far as they may go: not before their hold time is over, not while
    /// a device has them, and not while something else is under way with them.
    pub(super) fn make_room(&mut self, now: Tick, more: u32) {
        let Some(limit) = self.config.cache_pages else { return };
        let mut left_to_scan = MAX_SCAN;
        while self.cache.used.saturating_add(more) > limit && left_to_scan > 0 {
            let Some(page) = self.cache.order.pop_front() else { return };
            if self.evict(now, page) {
                let entry = self.cache.table.get(page);
                self.cache.table.set(page, CacheEntry { is_listed: false, ..entry });
            } else {
                self.cache.order.push_back(page);
                left_to_scan -= 1;
            }
        }
    }

    /// Gives a page up if it may go. Whether it is gone, perhaps for long. What is to be written back waits for a home that moves.
    fn evict(&mut self, now: Tick, page: Page) -> bool {
        let entry = self.cache.table.get(page);
        // Patience is for others: a processor that goes through much memory would fill the cache beyond its limit with it.
        let is_held = entry.came.left(now, self.hold) > 0 || entry.pins > 0;
        let is_free = !is_held && !self.deferrals.contains(page);
        match entry.state {
            CacheState::Invalid => return true,
            // The home goes on to believe that there is a copy, and may invalidate it in vain.
            CacheState::Shared if is_free => self.drop_copy(page),
            CacheState::Modified if is_free && !self.is_frozen(page) => self.write_back(page, Keep::Nothing),
            CacheState::Shared
            | CacheState::Modified
            | CacheState::ReadWait
            | CacheState::WriteWait
            | CacheState::UpgradeWait
            | CacheState::AheadWait
            | CacheState::AheadWanted
            | CacheState::GuardedWait
            | CacheState::GuardedLost => return false,
        }
        self.stats.evictions += 1;
        true
    }

    /// How many pages of other homes fit beside those that are here or asked for.
    pub(super) fn room(&self) -> u32 {
        self.config.cache_pages.map_or(u32::MAX, |limit| limit.saturating_sub(self.cache.used))
    }
}
