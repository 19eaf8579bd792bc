//! Memory that is spread over ranks: what misses, upgrades, streams and synchronisation cost, each beside its floor.
//!
//! Ranks are processes of this machine, connected by TCP over loopback; threads of them touch the memory. Floors are
//! measured in the same rounds: plain TCP round trips and faults that another thread answers at once, both spinning.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use vincs_benchmarks::coherence::cluster::{Failure, RANK_ARGUMENT, serve};
use vincs_benchmarks::coherence::report::HEADING;
use vincs_benchmarks::coherence::scenarios::{Options, eight_ranks, two_ranks};
use vincs_benchmarks::ended;

/// Most rounds: more only take time, and pages that nobody has used yet.
const MAX_ROUNDS: i64 = 20;

/// Measures memory that is spread over ranks, natively
#[derive(Debug, Parser)]
#[command(name = "bench-coherence")]
struct Cli {
    /// Counted rounds, after one that is not counted
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=MAX_ROUNDS))]
    rounds: u32,
    /// Most pages asked for ahead of a sequential reader
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(0..=256))]
    read_ahead: u16,
    /// How long service threads look for work before they sleep, in microseconds
    #[arg(long, default_value_t = 100)]
    spin: u64,
    /// Leave out what needs eight ranks
    #[arg(long)]
    two_ranks: bool,
}

fn main() -> ExitCode {
    let is_rank = std::env::args().nth(1).is_some_and(|argument| argument == RANK_ARGUMENT);
    let done = if is_rank { serve() } else { measure(&Cli::parse()) };
    ended("bench-coherence", done)
}

fn measure(cli: &Cli) -> Result<(), Failure> {
    let options = Options { rounds: cli.rounds, read_ahead: cli.read_ahead, spin: cli.spin };
    let tell = |line: String| {
        // Nobody is there to be told when this fails.
        let _ = writeln!(io::stderr(), "{line}");
    };
    let mut rows = two_ranks(options, tell)?;
    if !cli.two_ranks {
        rows.extend(eight_ranks(options)?);
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{HEADING}")?;
    for row in rows {
        writeln!(out, "{row}")?;
    }
    Ok(())
}
