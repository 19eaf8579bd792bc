//! What is told of the times of two sides that took turns.

use super::Boot;
use super::guest::Form;

/// The goal: at most this many times QEMU's boot time.
pub const GOAL: f64 = 1.5;

/// Smallest, middle and largest of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// The middle one, the upper of two.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of these values; nothing if there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Some(Self { min: *values.first()?, median: *values.get(values.len() / 2)?, max: *values.last()? })
    }
}

/// Boots of one kernel form and number of vCPUs, in pairs of one with vincs and one with QEMU right after it.
#[derive(Clone, Debug)]
pub struct Series {
    /// The kernel's form.
    pub form: Form,
    /// Virtual processors.
    pub vcpus: u32,
    /// The pairs: vincs, QEMU.
    pub pairs: Vec<(Boot, Boot)>,
    /// Exits of the last boot with vincs, by kind.
    pub exits: Vec<(String, u64)>,
}

impl Series {
    /// The spread of the pairs' ratios, vincs to QEMU. What slows the whole machine down slows both of a pair.
    #[must_use]
    pub fn ratio(&self) -> Option<Spread> {
        Spread::of(self.pairs.iter().map(|(vincs, qemu)| vincs.boot / qemu.boot))
    }

    /// Whether the goal is met.
    #[must_use]
    pub fn meets_goal(&self) -> bool {
        self.ratio().is_some_and(|ratio| ratio.median <= GOAL)
    }

    /// Its lines of the report, without the heading.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let side = |name: &str, pick: fn(&(Boot, Boot)) -> Boot| {
            let boot = Spread::of(self.pairs.iter().map(|pair| pick(pair).boot))?;
            let set_up = Spread::of(self.pairs.iter().map(|pair| pick(pair).set_up))?;
            let head = format!("{:<8} {:>5}  {name:<7}", self.form.to_string(), self.vcpus);
            let line =
                format!("{head} {:>7.2} {:>7.2} {:>7.2}   {:>7.2}", boot.min, boot.median, boot.max, set_up.median);
            Some((line, boot.median))
        };
        let sides = (side("vincs", |pair| pair.0), side("microvm", |pair| pair.1), self.ratio());
        let (Some((vincs, vincs_median)), Some((qemu, qemu_median)), Some(ratio)) = sides else { return Vec::new() };
        let verdict = if self.meets_goal() { "met" } else { "missed" };
        let exits: Vec<_> = self.exits.iter().map(|(name, count)| format!("{name} {count}")).collect();
        vec![
            vincs,
            qemu,
            format!(
                "         ratio of {} pairs: median {:.2} (min {:.2}, max {:.2}), of the medians {:.2}; goal {GOAL}: {verdict}",
                self.pairs.len(),
                ratio.median,
                ratio.min,
                ratio.max,
                vincs_median / qemu_median,
            ),
            format!("         vincs's exits in the last boot: {}", exits.join(", ")),
        ]
    }
}

/// The heading of [`Series::lines`].
pub const HEADING: &str = "kernel   vcpus  side        min  median     max   set-up   (seconds)";

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(boot: f64) -> Boot {
        Boot { set_up: 0.1, boot }
    }

    fn series(pairs: &[(f64, f64)]) -> Series {
        let pairs = pairs.iter().map(|(vincs, qemu)| (boot(*vincs), boot(*qemu))).collect();
        Series { form: Form::Elf, vcpus: 4, pairs, exits: vec![("halts".into(), 3)] }
    }

    #[test]
    fn the_spread_is_that_of_the_values_in_any_order() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(Spread::of([2.0, 1.0]).unwrap().median, 2.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn each_pair_counts_by_its_own_ratio() {
        // The machine was ten times slower during the last pair.
        let series = series(&[(2.0, 1.0), (1.2, 1.0), (12.0, 10.0)]);
        let ratio = series.ratio().unwrap();
        assert!((ratio.median - 1.2).abs() < 1e-9 && (ratio.max - 2.0).abs() < 1e-9, "{ratio:?}");
        assert!(series.meets_goal());
    }

    #[test]
    fn the_goal_is_met_up_to_its_edge() {
        assert!(series(&[(1.5, 1.0)]).meets_goal());
        assert!(!series(&[(1.51, 1.0)]).meets_goal());
        assert!(!series(&[]).meets_goal());
    }

    #[test]
    fn the_lines_tell_both_sides_and_the_verdict() {
        let lines = series(&[(2.0, 1.0), (4.0, 2.0)]).lines();
        assert!(lines[0].contains("vincs") && lines[0].contains("4.00") && lines[1].contains("microvm"), "{lines:?}");
        assert!(lines[2].contains("2 pairs: median 2.00") && lines[2].ends_with("missed"), "{lines:?}");
        assert!(lines[3].ends_with("halts 3"));
        assert!(series(&[]).lines().is_empty());
    }
}
