//! EP: pairs of normal deviates by Marsaglia's polar method, counted by square annuli (RNR-94-007, section 2.2.1).
//!
//! Nothing is shared but the sums at the end.

use crate::class::Class;
use crate::kernel::{Check, Outcome, Size, timed};
use crate::random::Random;
use crate::team::Team;

const SEED: u64 = 271_828_183;

/// Pairs are made in batches of so many.
const BATCH: usize = 1 << 16;

/// Square annuli of width one, the first of which is a square.
const ANNULI: usize = 10;

const TOLERANCE: f64 = 1e-8;

/// What is counted.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    sum: [f64; 2],
    /// Pairs in each annulus. A double counts them exactly.
    counts: [f64; ANNULI],
}

/// Runs it.
#[must_use]
pub fn run(team: &dyn Team, class: Class) -> Outcome {
    let log_pairs = class.pick([24_u32, 25, 28, 30]);
    let published = class.pick([
        [-3.247_834_652_034_74e3, -6.958_407_078_382_297e3],
        [-2.863_319_731_645_753e3, -6.320_053_679_109_499e3],
        [-4.295_875_165_629_892e3, -1.580_732_573_678_431e4],
        [4.033_815_542_441_498e4, -2.660_669_192_809_235e4],
    ]);
    let (tally, seconds) = timed(team, || total(team, 1 << log_pairs));
    let check =
        |name, at: usize| Check { name, computed: tally.sum[at], published: published[at], tolerance: TOLERANCE };
    let checks = [check("sum of X", 0), check("sum of Y", 1)];
    let mut results = vec![format!("N = 2^{log_pairs}, Gaussian pairs = {}", tally.counts.iter().sum::<f64>())];
    results.extend(checks.iter().map(Check::to_string));
    results.extend(tally.counts.iter().enumerate().map(|(at, count)| format!("count {at}: {count:15}")));
    Outcome {
        size: Size::Count(1 << (log_pairs + 1)),
        iterations: 0,
        seconds,
        million_operations: (1_u64 << (log_pairs + 1)) as f64 / 1e6,
        operation: "Random numbers generated",
        verified: checks.iter().all(Check::passed),
        results,
    }
}

/// The tally of all members.
fn total(team: &dyn Team, pairs: usize) -> Tally {
    let mut mine = Tally::default();
    for batch in team.share(pairs / BATCH) {
        let mut random = Random::at(SEED, (batch * 2 * BATCH) as u64);
        for _ in 0..BATCH {
            let (x, y) = (2.0 * random.uniform() - 1.0, 2.0 * random.uniform() - 1.0);
            mine.add(x, y);
        }
    }
    let mut values = [0.0; 2 + ANNULI];
    values[..2].copy_from_slice(&mine.sum);
    values[2..].copy_from_slice(&mine.counts);
    team.sum(&mut values);
    mine.sum.copy_from_slice(&values[..2]);
    mine.counts.copy_from_slice(&values[2..]);
    mine
}

impl Tally {
    /// Counts the deviates that a point of the square from -1 to 1 gives, if it does.
    #[inline]
    fn add(&mut self, x: f64, y: f64) {
        let square = x * x + y * y;
        if square <= 1.0 {
            let factor = (-2.0 * square.ln() / square).sqrt();
            let (x, y) = (x * factor, y * factor);
            self.sum[0] += x;
            self.sum[1] += y;
            self.counts[annulus(x, y)] += 1.0;
        }
    }
}

/// The annulus of a point. As 2^-46 is the smallest step of a coordinate, no deviate gets to 10.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the integer part of a number from 0 to 10"
)]
fn annulus(x: f64, y: f64) -> usize {
    x.abs().max(y.abs()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::team::threads;

    #[test]
    fn a_point_outside_of_the_circle_gives_nothing() {
        let mut tally = Tally::default();
        tally.add(0.8, -0.7);
        assert_eq!(tally.counts, [0.0; ANNULI]);
        // At distance d the deviates are at distance sqrt(-2 ln d^2): here 2.
        let distance = (-1.0_f64).exp();
        tally.add(distance, 0.0);
        assert!((tally.sum[0] - 2.0).abs() < 1e-12 && tally.sum[1] == 0.0);
        assert_eq!(tally.counts.iter().sum::<f64>(), 1.0);
    }

    #[test]
    fn members_make_the_pairs_of_one() {
        let tally = |members| threads::run(members, |team| total(team, 1 << 20)).unwrap();
        let (one, three) = (tally(1), tally(3));
        assert_eq!(one.counts, three.counts);
        assert!((one.sum[0] - three.sum[0]).abs() < 1e-9 * one.sum[0].abs());
    }
}
