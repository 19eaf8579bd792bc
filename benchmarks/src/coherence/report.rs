//! How it is told: each measurement beside its floor.

use std::fmt;

/// What a measurement is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// At most so many times its floor.
    AtMost(f64),
    /// At least so many times its floor.
    AtLeast(f64),
    /// It is only told.
    None,
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// Its unit.
    pub unit: &'static str,
    /// One value for each round.
    pub values: Vec<f64>,
    /// What it is compared with, and one value for each round.
    pub floor: (&'static str, Vec<f64>),
    /// The goal.
    pub goal: Goal,
}

/// The names of a table's columns.
pub const HEADING: &str =
    "| what | unit | min, median, max | floor (median) | ratio | goal |\n|---|---|---|---|---|---|";

/// The middle one of the values, the upper of two; zero if there are none.
#[must_use]
pub fn middle(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

impl Row {
    /// The median in units of the floor's; nothing without a floor.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        let floor = middle(&self.floor.1);
        (floor > 0.0).then(|| middle(&self.values) / floor)
    }

    /// Whether the goal is met; nothing without a goal.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        match self.goal {
            Goal::AtMost(times) => self.ratio().map(|ratio| ratio <= times),
            Goal::AtLeast(times) => self.ratio().map(|ratio| ratio >= times),
            Goal::None => None,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = self
            .values
            .iter()
            .fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(*value), most.max(*value)));
        write!(f, "| {} | {} | {least:.1}, {:.1}, {most:.1} | ", self.what, self.unit, middle(&self.values))?;
        match self.ratio() {
            Some(ratio) => write!(f, "{} {:.1} | {ratio:.2} | ", self.floor.0, middle(&self.floor.1))?,
            None => write!(f, "| | ")?,
        }
        match (self.goal, self.met()) {
            (Goal::AtMost(times), Some(met)) => write!(f, "at most {times:.2}: {} |", verdict(met)),
            (Goal::AtLeast(times), Some(met)) => write!(f, "at least {times:.2}: {} |", verdict(met)),
            _ => write!(f, "|"),
        }
    }
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[f64], floor: &[f64], goal: Goal) -> Row {
        Row { what: "miss".into(), unit: "µs", values: values.into(), floor: ("floor", floor.into()), goal }
    }

    #[test]
    fn a_goal_is_met_or_missed_by_the_medians() {
        let met = row(&[100.0, 3.0, 1.0], &[2.0, 50.0, 1.0], Goal::AtMost(1.5));
        assert_eq!((met.ratio(), met.met()), (Some(1.5), Some(true)));
        assert_eq!(met.to_string(), "| miss | µs | 1.0, 3.0, 100.0 | floor 2.0 | 1.50 | at most 1.50: met |");
        assert_eq!(row(&[3.1], &[2.0], Goal::AtMost(1.5)).met(), Some(false));
        assert_eq!(row(&[1.0], &[2.0], Goal::AtLeast(0.5)).met(), Some(true));
        assert_eq!(row(&[0.9], &[2.0], Goal::AtLeast(0.5)).met(), Some(false));
    }

    #[test]
    fn what_has_no_floor_has_no_ratio() {
        let told = row(&[4.0], &[], Goal::None);
        assert_eq!((told.ratio(), told.met()), (None, None));
        assert_eq!(told.to_string(), "| miss | µs | 4.0, 4.0, 4.0 | | | |");
    }
}
