//! Reductions: what all threads give is made one word, which all of them get.

/// How words are made one. Contributions are taken in the order of ranks and, within a rank, of threads, so all ranks get the same bits, also of floats.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Reduction {
    /// Sum of integers, modulo 2^64.
    Sum,
    /// The least of signed integers.
    Min,
    /// The greatest of signed integers.
    Max,
    /// Sum of doubles.
    SumFloat,
    /// The least of doubles, in the total order of IEEE 754.
    MinFloat,
    /// The greatest of doubles, in the total order of IEEE 754.
    MaxFloat,
    /// Bits that are set in all.
    And,
    /// Bits that are set in any.
    Or,
    /// Bits that are set in an odd number.
    Xor,
}

impl Reduction {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Sum,
        Self::Min,
        Self::Max,
        Self::SumFloat,
        Self::MinFloat,
        Self::MaxFloat,
        Self::And,
        Self::Or,
        Self::Xor,
    ];

    /// Its number on the way between ranks; 0 is a barrier.
    pub(super) fn code(this: Option<Self>) -> u64 {
        this.map_or(0, |this| 1 + Self::ALL.iter().position(|other| *other == this).unwrap_or(0) as u64)
    }

    /// Two words made one.
    #[must_use]
    pub fn join(self, one: u64, other: u64) -> u64 {
        let (signed, signed_other) = (one.cast_signed(), other.cast_signed());
        let (float, float_other) = (f64::from_bits(one), f64::from_bits(other));
        match self {
            Self::Sum => one.wrapping_add(other),
            Self::Min => signed.min(signed_other).cast_unsigned(),
            Self::Max => signed.max(signed_other).cast_unsigned(),
            Self::SumFloat => (float + float_other).to_bits(),
            Self::MinFloat => {
                if float.total_cmp(&float_other).is_le() {
                    one
                } else {
                    other
                }
            }
            Self::MaxFloat => {
                if float.total_cmp(&float_other).is_ge() {
                    one
                } else {
                    other
                }
            }
            Self::And => one & other,
            Self::Or => one | other,
            Self::Xor => one ^ other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_joins_as_it_says() {
        let join = |reduction: Reduction, one: i64, other: i64| {
            reduction.join(one.cast_unsigned(), other.cast_unsigned()).cast_signed()
        };
        assert_eq!(join(Reduction::Sum, i64::MAX, 1), i64::MIN);
        assert_eq!([join(Reduction::Min, -1, 1), join(Reduction::Max, -1, 1)], [-1, 1]);
        assert_eq!([Reduction::And, Reduction::Or, Reduction::Xor].map(|bits| join(bits, 6, 3)), [2, 7, 5]);
        let float =
            |reduction: Reduction, one: f64, other: f64| f64::from_bits(reduction.join(one.to_bits(), other.to_bits()));
        assert_eq!(
            [Reduction::SumFloat, Reduction::MinFloat, Reduction::MaxFloat].map(|of| float(of, -1.5, 0.5)),
            [-1.0, -1.5, 0.5]
        );
    }

    #[test]
    fn codes_differ() {
        let codes: std::collections::BTreeSet<u64> =
            Reduction::ALL.into_iter().map(Some).chain([None]).map(Reduction::code).collect();
        assert_eq!(codes.len(), 10);
    }
}
