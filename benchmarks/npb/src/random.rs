//! The benchmarks' pseudo-random numbers: x' = 5^13 x mod 2^46, and x' 2^-46 is the number (RNR-94-007, section 2.3).

/// The multiplier.
const MULTIPLIER: u64 = 1_220_703_125;

/// Numbers are below 2 to this.
const BITS: u32 = 46;

const MASK: u64 = (1 << BITS) - 1;

/// The seed of all benchmarks but EP.
pub const SEED: u64 = 314_159_265;

/// A sequence of numbers.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The sequence of this seed, from its number `skip`, counted from 0.
    #[must_use]
    pub fn at(seed: u64, skip: u64) -> Self {
        Self { state: product(power(MULTIPLIER, skip), seed) }
    }

    /// The next number, above 0 and below 1.
    #[inline]
    pub fn uniform(&mut self) -> f64 {
        self.state = product(self.state, MULTIPLIER);
        // Exact: 46 bits fit into the 53 of a double, and the factor is a power of two.
        self.state as f64 * (1.0 / (1_u64 << BITS) as f64)
    }
}

/// A product modulo 2^46. What overflows 64 bits is a multiple of 2^64, so of 2^46.
const fn product(a: u64, b: u64) -> u64 {
    a.wrapping_mul(b) & MASK
}

/// A power modulo 2^46, by squares.
fn power(base: u64, exponent: u64) -> u64 {
    let (mut result, mut square, mut rest) = (1, base, exponent);
    while rest > 0 {
        if rest % 2 == 1 {
            result = product(result, square);
        }
        square = product(square, square);
        rest /= 2;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_numbers_are_those_of_the_rule() {
        let wide = |x: u64| u64::try_from(u128::from(x) * 1_220_703_125 % (1 << 46)).unwrap();
        let mut random = Random::at(SEED, 0);
        let mut state = SEED;
        for _ in 0..1000 {
            state = wide(state);
            assert_eq!(random.uniform(), state as f64 / 70_368_744_177_664.0);
        }
    }

    #[test]
    fn the_sequence_repeats_after_two_to_the_44th() {
        // Knuth's bound for a multiplier that is 5 modulo 8 and an odd seed; EP counts on it.
        assert_eq!(power(MULTIPLIER, 1 << 44), 1);
        assert_ne!(power(MULTIPLIER, 1 << 43), 1);
    }

    proptest! {
        #[test]
        fn skipping_is_as_good_as_drawing(seed in 1..MASK, skip in 0_u64..3000, draws in 1..20) {
            let mut drawn = Random::at(seed, 0);
            for _ in 0..skip {
                drawn.uniform();
            }
            let mut skipped = Random::at(seed, skip);
            for _ in 0..draws {
                prop_assert_eq!(drawn.uniform(), skipped.uniform());
            }
        }

        #[test]
        fn skips_add_up(seed in 1..MASK, first in 0..(1_u64 << 44), second in 0..(1_u64 << 44)) {
            let there = Random::at(seed, first).state;
            prop_assert_eq!(Random::at(there, second).state, Random::at(seed, first + second).state);
        }
    }
}
