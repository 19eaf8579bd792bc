//! Machines that change while they run: the downtime of a virtual processor that moves, what a guest loses when a rank joins and leaves, and the
//! rate at which homes move, each beside a floor of the same run.

use std::env::current_exe;
use std::io::{self, Write};
use std::process::{Command, ExitCode};

use clap::Parser;
use vincs_benchmarks::coherence::cluster::{self, Failure, RANK_ARGUMENT};
use vincs_benchmarks::coherence::report::{HEADING, Row};
use vincs_benchmarks::elastic::{downtime, homes, throughput};
use vincs_benchmarks::ended;
use vincs_benchmarks::transport::{self, Pair};

/// What the other end of the raw transport is called with.
const TRANSPORT_ARGUMENT: &str = "--end-of-a-transport";

/// Fewest rounds, for medians, and most: each has a rank join, and a machine has seats for 64 in its life.
const ROUNDS: std::ops::RangeInclusive<i64> = 5..=31;

/// Measures machines that change while they run, natively
#[derive(Debug, Parser)]
#[command(name = "bench-elastic")]
struct Cli {
    /// Counted rounds of each measurement, after one that is not counted
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(ROUNDS))]
    rounds: u32,
}

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some(RANK_ARGUMENT) => cluster::serve(),
        Some(TRANSPORT_ARGUMENT) => transport::serve().map_err(|error| error.to_string().into()),
        _ => measure(&Cli::parse()),
    };
    ended("bench-elastic", done)
}

fn measure(cli: &Cli) -> Result<(), Failure> {
    let mut second = Command::new(current_exe()?);
    second.arg(TRANSPORT_ARGUMENT);
    let mut pair = Pair::start(second).map_err(|error| error.to_string())?;
    let mut out = io::stdout().lock();
    writeln!(out, "{HEADING}")?;
    let mut tell = |rows: Vec<Row>| rows.iter().try_for_each(|row| writeln!(out, "{row}"));
    tell(downtime::measure(&mut pair, cli.rounds)?)?;
    tell(homes::measure(&mut pair, cli.rounds)?)?;
    tell(throughput::measure(cli.rounds)?)?;
    pair.end().map_err(|error| error.to_string())?;
    Ok(())
}
