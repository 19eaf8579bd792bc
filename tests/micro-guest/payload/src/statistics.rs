//! Summary of many latencies.

/// Number of histogram buckets; bucket n counts values v with 2^n <= v < 2^(n+1), and zero counts in the first.
pub const BUCKETS: usize = 64;
/// Words of a [`Summary`] in a report.
pub const SUMMARY_WORDS: usize = 4 + BUCKETS;

/// Summary of latencies in ticks of the time-stamp counter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// The smallest.
    pub min: u64,
    /// The one in the middle, the lower of two.
    pub median: u64,
    /// The largest.
    pub max: u64,
    /// How many in each power of two.
    pub histogram: [u64; BUCKETS],
}

impl Summary {
    /// Summary of these values, which are sorted on the way. All zero if there are none.
    #[must_use]
    pub fn of(values: &mut [u64]) -> Self {
        values.sort_unstable();
        let mut histogram = [0; BUCKETS];
        for bucket in values.iter().map(|value| value.max(&1).ilog2()) {
            if let Some(count) = histogram.get_mut(bucket as usize) {
                *count += 1;
            }
        }
        let at = |index: usize| values.get(index).copied().unwrap_or(0);
        let last = values.len().saturating_sub(1);
        Self { count: values.len() as u64, min: at(0), median: at(last / 2), max: at(last), histogram }
    }

    /// The words of a report.
    #[must_use]
    pub fn to_words(&self) -> [u64; SUMMARY_WORDS] {
        let mut words = [0; SUMMARY_WORDS];
        let fields = [self.count, self.min, self.median, self.max];
        for (word, value) in words.iter_mut().zip(fields.into_iter().chain(self.histogram)) {
            *word = value;
        }
        words
    }

    /// The summary in the words of a report; none if there are not [`SUMMARY_WORDS`] of them.
    #[must_use]
    pub fn from_words(words: &[u64]) -> Option<Self> {
        let (&[count, min, median, max], rest) = words.split_first_chunk()?;
        Some(Self { count, min, median, max, histogram: rest.try_into().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_says_where_the_values_are() {
        let summary = Summary::of(&mut [900, 0, 5, 4, 7, u64::MAX]);
        assert_eq!((summary.count, summary.min, summary.median, summary.max), (6, 0, 5, u64::MAX));
        assert_eq!(
            (summary.histogram[0], summary.histogram[2], summary.histogram[9], summary.histogram[63]),
            (1, 3, 1, 1)
        );
        assert_eq!(summary.histogram.iter().sum::<u64>(), 6);
    }

    #[test]
    fn nothing_and_one_value() {
        let none = Summary::of(&mut []);
        assert_eq!((none.count, none.min, none.median, none.max), (0, 0, 0, 0));
        let one = Summary::of(&mut [3]);
        assert_eq!((one.count, one.min, one.median, one.max), (1, 3, 3, 3));
    }

    #[test]
    fn words_are_read_back() {
        let summary = Summary::of(&mut [10, 20, 30]);
        assert_eq!(Summary::from_words(&summary.to_words()), Some(summary));
        assert_eq!(Summary::from_words(&summary.to_words()[1..]), None);
        assert_eq!(Summary::from_words(&[]), None);
    }
}
