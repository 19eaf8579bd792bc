//! The guest's clock: its time-stamp counter, the same on all vCPUs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Reads and converts the guest's time-stamp counter, which is this host's plus an offset that all vCPUs share. In
/// another process on the same host it goes on; another host's counter needs another offset.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct GuestClock {
    offset: u64,
    khz: u32,
}

impl GuestClock {
    /// A clock that starts near zero now, at `khz` thousand ticks a second, which must be this host's rate.
    #[must_use]
    pub fn start(khz: u32) -> Self {
        Self { offset: host_ticks().wrapping_neg(), khz }
    }

    /// The clock that is this host's counter plus `offset`, at `khz` thousand ticks a second.
    #[must_use]
    pub(crate) fn with(offset: u64, khz: u32) -> Self {
        Self { offset, khz }
    }

    /// The same clock with the offset that KVM applies in fact.
    #[must_use]
    pub(crate) fn with_offset(self, offset: u64) -> Self {
        Self { offset, ..self }
    }

    /// The counter's value now.
    #[must_use]
    pub fn now(&self) -> u64 {
        host_ticks().wrapping_add(self.offset)
    }

    /// What is added to the host's counter, as KVM_VCPU_TSC_OFFSET wants it.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The counter was found to be at `ticks` now. It should be where this clock has it; but where the host's counter
    /// is not stable KVM holds the guest's back, each vCPU's by itself, and the guest goes by what it reads.
    pub fn resync(&mut self, ticks: u64) {
        self.offset = ticks.wrapping_sub(host_ticks());
    }

    /// Thousand ticks a second.
    #[must_use]
    pub fn khz(&self) -> u32 {
        self.khz
    }

    /// How long it takes from now until the counter reaches `tick`.
    #[must_use]
    pub fn until(&self, tick: u64) -> Duration {
        self.duration(tick.saturating_sub(self.now()))
    }

    /// How long ago the counter was at `tick`; nothing for a tick that is still to come, as clocks of two hosts may differ a little.
    #[must_use]
    pub fn since(&self, tick: u64) -> Duration {
        self.duration(self.now().saturating_sub(tick))
    }

    fn duration(&self, ticks: u64) -> Duration {
        let nanoseconds = u128::from(ticks) * 1_000_000 / u128::from(self.khz.max(1));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

/// This host's time-stamp counter.
pub(crate) fn host_ticks() -> u64 {
    // SAFETY: RDTSC has no preconditions; every x86-64 processor has it, and Linux does not disable it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_near_zero_and_goes_on() {
        let clock = GuestClock::start(2_000_000);
        let first = clock.now();
        assert!(first < 2_000_000_000, "{first}");
        assert!(clock.now() >= first);
    }

    #[test]
    fn it_follows_a_counter_that_was_held_back() {
        let mut clock = GuestClock::start(2_000_000);
        clock.resync(5);
        assert!((5..2_000_000_000).contains(&clock.now()));
    }

    #[test]
    fn the_past_is_now_and_the_far_future_does_not_overflow() {
        let clock = GuestClock::start(1);
        assert_eq!(clock.until(0), Duration::ZERO);
        assert!(clock.until(u64::MAX) > Duration::from_secs(1 << 30));
        assert_eq!(clock.since(u64::MAX), Duration::ZERO);
        let rate = GuestClock::start(2_000_000);
        let (past, bound) = (rate.now(), Duration::from_secs(60));
        assert!(rate.since(past) < bound && rate.since(past.saturating_sub(240_000_000_000)) <= 2 * bound);
    }
}
