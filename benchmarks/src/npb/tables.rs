//! How it is told: a line for each program, and each primitive beside its floor.

use std::fmt::Write as _;

use vincs_npb::team::ranks::Costs;

use crate::coherence::report::{HEADING, Row, middle};

/// One program's times in seconds, of each round.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// The program.
    pub what: String,
    /// On one thread.
    pub one_thread: Vec<f64>,
    /// On two threads.
    pub two_threads: Vec<f64>,
    /// On two ranks with relaxed memory.
    pub relaxed: Vec<f64>,
    /// On two ranks with strict memory, if that was run.
    pub strict: Vec<f64>,
    /// What relaxed memory cost rank 0 in the last round.
    pub costs: Costs,
}

/// A table of programs.
#[must_use]
pub fn programs(times: &[Times]) -> String {
    let mut table = "| program | 1 thread (s) | 2 threads (s) | relaxed, 2 ranks (s) | strict, 2 ranks (s) | 1 thread / relaxed | strict / relaxed | messages | MB | faults | synchronising (s) |\n".to_owned();
    table.push_str("|---|---|---|---|---|---|---|---|---|---|---|\n");
    for Times { what, one_thread, two_threads, relaxed, strict, costs } in times {
        let cell = |values: &[f64]| if values.is_empty() { "-".to_owned() } else { format!("{:.3}", middle(values)) };
        let ratio = |values: &[f64]| {
            if values.is_empty() { "-".to_owned() } else { format!("{:.2}", middle(values) / middle(relaxed)) }
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            table,
            "| {what} | {} | {} | {} | {} | {} | {} | {} | {:.1} | {} | {:.3} |",
            cell(one_thread),
            cell(two_threads),
            cell(relaxed),
            cell(strict),
            ratio(one_thread),
            ratio(strict),
            costs.messages,
            costs.bytes as f64 / 1e6,
            costs.faults,
            costs.synchronising,
        );
    }
    table
}

/// A table of primitives.
#[must_use]
pub fn primitives(rows: &[Row]) -> String {
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    format!("{HEADING}\n{}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_their_ratios_are_told() {
        let times = Times {
            what: "CG S".to_owned(),
            one_thread: vec![3.0, 1.0, 2.0],
            relaxed: vec![4.0],
            costs: Costs { messages: 7, bytes: 2_500_000, faults: 3, synchronising: 0.5 },
            ..Times::default()
        };
        let table = programs(&[times]);
        let line = "| CG S | 2.000 | - | 4.000 | - | 0.50 | - | 7 | 2.5 | 3 | 0.500 |";
        assert_eq!(table.lines().nth(2), Some(line));
    }
}
