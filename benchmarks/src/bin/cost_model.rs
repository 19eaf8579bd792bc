//! What faults cost on machines that are not at hand, and how many there can be: docs/cost-model.md. No hardware, the same each time.

use std::io::{self, Write};
use std::process::ExitCode;

use vincs_benchmarks::cost_model::report::report;

fn main() -> ExitCode {
    // Nobody is there to be told when writing fails.
    match report() {
        Ok(tables) => {
            let _ = write!(io::stdout(), "{tables}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "cost-model: {error}");
            ExitCode::FAILURE
        }
    }
}
