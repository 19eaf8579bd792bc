//! The local APIC's timer (SDM 12.5.4). All times are values of the guest's time-stamp counter.
//!
//! The timer's input clock is the time-stamp counter itself: CPUID leaf 15H reports a core crystal clock of the same
//! frequency. So the state needs no conversion when a vCPU moves, and one-shot and deadline modes share one clock.

use serde::{Deserialize, Serialize};

/// The timer's mode (SDM figure 12-8, bits 18:17 of the LVT entry).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TimerMode {
    /// Counts down once.
    OneShot,
    /// Counts down again and again.
    Periodic,
    /// Fires when the time-stamp counter passes `IA32_TSC_DEADLINE`.
    Deadline,
}

/// Shortest period accepted, in TSC ticks: a guest that asks for less would keep the host busy with nothing else.
pub(super) const MIN_PERIOD: u64 = 20_000;

/// The timer's count and deadline.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Timer {
    initial_count: u32,
    divide: u32,
    /// When it fires next; zero when it is not armed.
    expiry: u64,
}

impl Timer {
    /// Arms one-shot or periodic counting from `now`; a count of zero stops the timer.
    pub(super) fn set_initial_count(&mut self, count: u32, now: u64) {
        self.initial_count = count;
        self.expiry = if count == 0 { 0 } else { now.saturating_add(self.span()).max(1) };
    }

    /// The count last written.
    #[must_use]
    pub(super) fn initial_count(&self) -> u32 {
        self.initial_count
    }

    /// Sets the divide configuration register. A count under way keeps its end.
    pub(super) fn set_divide(&mut self, value: u32) {
        self.divide = value;
    }

    /// The divide configuration register.
    #[must_use]
    pub(super) fn divide(&self) -> u32 {
        self.divide
    }

    /// Arms the deadline; zero disarms.
    pub(super) fn set_deadline(&mut self, deadline: u64) {
        self.expiry = deadline;
    }

    /// The armed deadline, or zero.
    #[must_use]
    pub(super) fn deadline(&self) -> u64 {
        self.expiry
    }

    /// What is left of the count at `now`.
    #[must_use]
    pub(super) fn current_count(&self, now: u64) -> u32 {
        let left = self.expiry.saturating_sub(now) >> self.shift();
        u32::try_from(left).unwrap_or(u32::MAX).min(self.initial_count)
    }

    /// Stops it.
    pub(super) fn disarm(&mut self) {
        self.expiry = 0;
    }

    /// When it fires next, if it is armed.
    #[must_use]
    pub fn expiry(&self) -> Option<u64> {
        (self.expiry != 0).then_some(self.expiry)
    }

    /// Whether it fires by `now`; a periodic timer is armed again, without the periods that were missed.
    pub(super) fn fire(&mut self, now: u64, mode: TimerMode) -> bool {
        if self.expiry == 0 || now < self.expiry {
            return false;
        }
        self.expiry = match mode {
            TimerMode::OneShot | TimerMode::Deadline => 0,
            TimerMode::Periodic => {
                let period = self.span().max(MIN_PERIOD);
                let missed = (now - self.expiry) / period;
                self.expiry.saturating_add((missed + 1).saturating_mul(period))
            }
        };
        true
    }

    /// Ticks of a whole count.
    fn span(&self) -> u64 {
        u64::from(self.initial_count) << self.shift()
    }

    /// Binary logarithm of the divisor (SDM figure 12-10): bits 3, 1 and 0, where 7 stands for one.
    fn shift(&self) -> u32 {
        let code = (self.divide & 3) | ((self.divide >> 1) & 4);
        (code + 1) & 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divisor_is_as_in_figure_12_10() {
        for (register, divisor) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
            let mut timer = Timer::default();
            timer.set_divide(register);
            timer.set_initial_count(1000, 5);
            assert_eq!(timer.expiry(), Some(5 + 1000 * divisor), "register {register}");
        }
    }

    #[test]
    fn one_shot_counts_down_and_fires_once() {
        let mut timer = Timer::default();
        timer.set_divide(0xb);
        timer.set_initial_count(100_000, 1_000_000);
        assert_eq!(timer.current_count(1_040_000), 60_000);
        assert!(!timer.fire(1_099_999, TimerMode::OneShot));
        assert!(timer.fire(1_100_000, TimerMode::OneShot));
        assert_eq!((timer.expiry(), timer.current_count(1_200_000)), (None, 0));
    }

    #[test]
    fn periodic_skips_missed_periods_and_keeps_its_phase() {
        let mut timer = Timer::default();
        timer.set_divide(0xb);
        timer.set_initial_count(100_000, 0);
        assert!(timer.fire(350_000, TimerMode::Periodic));
        assert_eq!(timer.expiry(), Some(400_000));
    }

    #[test]
    fn a_tiny_period_is_stretched_to_the_limit() {
        let mut timer = Timer::default();
        timer.set_divide(0xb);
        timer.set_initial_count(1, 0);
        assert!(timer.fire(1, TimerMode::Periodic));
        assert_eq!(timer.expiry(), Some(1 + MIN_PERIOD));
    }

    #[test]
    fn nothing_overflows_at_the_end_of_time() {
        let mut timer = Timer::default();
        timer.set_divide(10);
        timer.set_initial_count(u32::MAX, u64::MAX - 1);
        assert!(timer.fire(u64::MAX, TimerMode::Periodic));
        timer.set_deadline(u64::MAX);
        assert!(!timer.fire(u64::MAX - 1, TimerMode::Deadline));
    }
}
