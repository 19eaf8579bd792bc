//! Distributions of times.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest time told apart from longer ones, in nanoseconds: a minute.
const LONGEST: u64 = 60_000_000_000;
/// Significant decimal digits kept of a time.
const DIGITS: u8 = 2;

/// How long something took, each time it was done; to two digits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latencies {
    /// Nothing as long as nothing was recorded: most engines have few kinds of waits, and each is some KiB.
    histogram: Option<Histogram<u64>>,
}

/// How it is written down, all times in nanoseconds.
#[derive(Deserialize, Serialize)]
struct Written {
    count: u64,
    min: u64,
    median: u64,
    p90: u64,
    p99: u64,
    max: u64,
    mean: f64,
    /// Times that occurred and how often each did, to put the distribution together again.
    times: Vec<(u64, u64)>,
}

impl Latencies {
    /// Adds one time.
    pub fn record(&mut self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.record_many(nanoseconds, 1);
    }

    fn record_many(&mut self, nanoseconds: u64, count: u64) {
        if self.histogram.is_none() {
            self.histogram = Histogram::new_with_bounds(1, LONGEST, DIGITS).ok();
        }
        if let Some(histogram) = &mut self.histogram {
            histogram.saturating_record_n(nanoseconds.max(1), count);
        }
    }

    /// Adds what another one has.
    pub fn add(&mut self, other: &Self) {
        for (nanoseconds, count) in other.times() {
            self.record_many(nanoseconds, count);
        }
    }

    /// How many times there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.as_ref().map_or(0, Histogram::len)
    }

    /// All of them together, to two digits each.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.times().into_iter().fold(Duration::ZERO, |sum, (nanoseconds, count)| {
            sum.saturating_add(Duration::from_nanos(nanoseconds.saturating_mul(count)))
        })
    }

    /// The time that so many percent did not exceed; zero when there is none.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.histogram.as_ref().map_or(0, |times| times.value_at_percentile(percent)))
    }

    fn times(&self) -> Vec<(u64, u64)> {
        let recorded = self.histogram.iter().flat_map(Histogram::iter_recorded);
        recorded.map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
    }
}

impl Serialize for Latencies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let at = |percent| self.histogram.as_ref().map_or(0, |times| times.value_at_percentile(percent));
        let written = Written {
            count: self.count(),
            min: at(0.0),
            median: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            max: at(100.0),
            mean: self.histogram.as_ref().map_or(0.0, Histogram::mean),
            times: self.times(),
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Latencies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        let mut latencies = Self::default();
        for (nanoseconds, count) in written.times {
            latencies.record_many(nanoseconds, count);
        }
        Ok(latencies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_to_two_digits_and_the_longest_are_cut() {
        let mut latencies = Latencies::default();
        for microseconds in [10, 20, 30] {
            latencies.record(Duration::from_micros(microseconds));
        }
        let median = latencies.percentile(50.0).as_nanos();
        assert!((19_900..=20_100).contains(&median), "{median}");
        latencies.record(Duration::from_secs(600));
        latencies.record(Duration::ZERO);
        assert_eq!(latencies.count(), 5);
        let longest = latencies.percentile(100.0).as_secs();
        assert!((59..=61).contains(&longest), "{longest}");
    }

    #[test]
    fn what_is_written_down_can_be_read_and_added() {
        let mut latencies = Latencies::default();
        (0..1000).for_each(|time| latencies.record(Duration::from_nanos(time * 977)));
        let mut back: Latencies = serde_json::from_str(&serde_json::to_string(&latencies).unwrap()).unwrap();
        assert_eq!(back, latencies);
        back.add(&latencies);
        assert_eq!((back.count(), back.percentile(90.0)), (2000, latencies.percentile(90.0)));
        assert_eq!(serde_json::to_value(Latencies::default()).unwrap()["max"], 0);
    }
}
