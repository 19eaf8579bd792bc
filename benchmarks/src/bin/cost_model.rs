//! What faults cost on machines that are not at hand, and how many there can be: docs/cost-model.md. No hardware, the same each time.

use std::io::{self, Write};
use std::process::ExitCode;

use vincs_benchmarks::cost_model::report::report;
use vincs_benchmarks::ended;

fn main() -> ExitCode {
    // Nobody is there to be told when writing fails.
    ended("cost-model", report().map(|tables| _ = write!(io::stdout(), "{tables}")))
}
