//! What a guest loses when something happens to it, told from the rounds that it does.

use std::time::Duration;

/// Over which time a rate is one: some rounds of each processor.
pub const WINDOW: Duration = Duration::from_millis(500);

/// Over which time at the end it is seen where the rate comes to.
pub const AFTER: Duration = Duration::from_secs(2);

/// It is back when it does so many of what it does in the end, or did before, whichever is less.
const BACK: f64 = 0.9;

/// How many rounds were done by a time since the start.
pub type Sample = (Duration, u64);

/// What came of it. Rates are rounds in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dip {
    /// Before.
    pub before: f64,
    /// In the last [`AFTER`].
    pub after: f64,
    /// The least of any [`WINDOW`] from then on.
    pub lowest: f64,
    /// How long it took until the rate was back; none if it was never far off.
    pub recovery: Duration,
}

impl Dip {
    /// What samples tell, the earliest first, of something that was ordered at this time.
    #[must_use]
    pub fn of(samples: &[Sample], ordered: Duration) -> Self {
        let [Some(first), Some(last)] = [samples.first(), samples.last()] else { return Self::default() };
        let until = |time: Duration| samples.iter().rev().find(|sample| sample.0 <= time).unwrap_or(first);
        let before = rate(first, until(ordered));
        let after = rate(until(last.0.saturating_sub(AFTER)), last);
        let level = BACK * before.min(after);
        let windows: Vec<(Duration, f64)> = samples
            .iter()
            .filter(|end| end.0 >= ordered + WINDOW)
            .map(|end| (end.0, rate(until(end.0.saturating_sub(WINDOW)), end)))
            .collect();
        let lowest = windows.iter().copied().min_by(|(_, rate), (_, other)| rate.total_cmp(other));
        let Some((lowest_at, lowest)) = lowest else { return Self { before, after, ..Self::default() } };
        let back =
            windows.iter().find(|(end, rate)| *end >= lowest_at && *rate >= level).map_or(last.0, |(end, _)| *end);
        let recovery = if lowest < level { back.saturating_sub(ordered) } else { Duration::ZERO };
        Self { before, after, lowest, recovery }
    }

    /// How much of the lower one of both rates was missing at worst, in hundredths.
    #[must_use]
    pub fn depth(&self) -> f64 {
        let level = self.before.min(self.after);
        if level > 0.0 { (100.0 * (1.0 - self.lowest / level)).max(0.0) } else { 0.0 }
    }
}

#[expect(clippy::cast_precision_loss, reason = "rounds of some seconds are far below 2^53")]
fn rate(from: &Sample, to: &Sample) -> f64 {
    let seconds = to.0.saturating_sub(from.0).as_secs_f64();
    if seconds > 0.0 { to.1.saturating_sub(from.1) as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples each 10 ms of a guest that does so many rounds in each hundredth of a second.
    fn samples(seconds: u64, rounds: impl Fn(u64) -> u64) -> Vec<Sample> {
        let mut done = 0;
        let sample = |hundredth| {
            done += rounds(hundredth);
            (Duration::from_millis(10 * hundredth), done)
        };
        (0..=seconds * 100).map(sample).collect()
    }

    #[test]
    fn nothing_is_missing_of_a_steady_rate() {
        let dip = Dip::of(&samples(6, |_| 2), Duration::from_secs(2));
        assert!((dip.before - 200.0).abs() < 1.0 && (dip.after - 200.0).abs() < 1.0 && dip.depth() < 1.0, "{dip:?}");
        assert_eq!(dip.recovery, Duration::ZERO);
    }

    #[test]
    fn a_stop_of_half_a_second_is_found_and_so_is_its_end() {
        let dip = Dip::of(&samples(6, |at| if (230..280).contains(&at) { 0 } else { 4 }), Duration::from_secs(2));
        assert!((dip.depth() - 100.0).abs() < 0.1, "{dip:?}");
        // It ends 0.8 s after the order; a window that has nine tenths of the rate ends 450 ms later.
        assert!((1230..=1260).contains(&dip.recovery.as_millis()), "{dip:?}");
    }

    #[test]
    fn a_rate_that_stays_lower_is_held_against_where_it_comes_to() {
        let dip = Dip::of(&samples(8, |at| if at < 200 { 8 } else { 4 }), Duration::from_secs(2));
        assert!(dip.depth() < 1.0 && (dip.after - 400.0).abs() < 2.0, "{dip:?}");
        assert_eq!(dip.recovery, Duration::ZERO);
    }

    #[test]
    fn one_that_never_comes_back_takes_until_the_end_and_no_samples_tell_nothing() {
        let dip = Dip::of(&samples(5, |at| if at < 450 { 4 } else { 0 }), Duration::from_secs(2));
        assert_eq!(dip.recovery, Duration::from_secs(3));
        assert_eq!(Dip::of(&[], Duration::ZERO), Dip::default());
        assert_eq!(Dip::of(&[(Duration::ZERO, 1)], Duration::ZERO).depth(), 0.0);
    }
}
