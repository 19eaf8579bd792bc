//! What a node counts.

use serde::Serialize;

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Stats {
    /// Pages got from their homes.
    pub fetches: u64,
    /// Of these, got again because a notice came meanwhile.
    pub stale_fetches: u64,
    /// Pages had ready for a thread that is expected to want them.
    pub hints: u64,
    /// Twins made by copying a page.
    pub twins: u64,
    /// Twins got as the shadow that a second writer had left.
    pub shadows_got: u64,
    /// Shadows left for a first writer.
    pub shadows_left: u64,
    /// Writes to a page that this rank alone writes, which need no twin, once for each interval.
    pub writes_alone: u64,
    /// Writes to a page homed here, in place, once for each interval.
    pub writes_in_place: u64,
    /// Pages brought home by their changes.
    pub diffs: u64,
    /// Pages brought home whole.
    pub whole_pages: u64,
    /// Pages brought home before the end of an interval, for room or because a notice named them.
    pub early_flushes: u64,
    /// Intervals that changed something.
    pub intervals: u64,
    /// Notices written.
    pub notices: u64,
    /// Notices of others read.
    pub notices_read: u64,
    /// Pages dropped because a notice named them.
    pub invalidations: u64,
    /// Times that everything was dropped because a ring had gone round.
    pub log_overruns: u64,
    /// Pages dropped for room.
    pub evictions: u64,
    /// Locks taken that were free.
    pub locks_free: u64,
    /// Locks handed over by their last holder, on another rank.
    pub locks_handed: u64,
    /// Locks that were kept and asked for again here. Those that threads take among themselves are not counted.
    pub locks_kept: u64,
    /// Locks passed on within this rank.
    pub locks_local: u64,
    /// Compare-and-swaps on lock words.
    pub lock_swaps: u64,
    /// Locks recovered from threads that ended with them.
    pub locks_recovered: u64,
    /// Barriers passed.
    pub barriers: u64,
    /// Of these, reductions.
    pub reductions: u64,
}
