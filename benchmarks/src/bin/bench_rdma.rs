//! The RDMA transport between two processes of one host, beside perftest's tools: latencies, bandwidth, and what operations use up.

use std::io::{self, Write};
use std::net::IpAddr;
use std::process::ExitCode;

use clap::Parser;
use vincs_benchmarks::coherence::cluster::{self, RANK_ARGUMENT};
use vincs_benchmarks::coherence::report::HEADING;
use vincs_benchmarks::ended;
use vincs_benchmarks::rdma::costs;
use vincs_benchmarks::rdma::faults::Faults;
use vincs_benchmarks::rdma::measurements::rounds;
use vincs_benchmarks::rdma::pair::{Failure, HOME_ARGUMENT, Pair, serve};
use vincs_benchmarks::rdma::perftest::Place;

/// Most rounds: more only take time.
const MAX_ROUNDS: i64 = 50;

/// Measures the RDMA transport between two processes of this host
#[derive(Debug, Parser)]
#[command(name = "bench-rdma")]
struct Cli {
    /// The address of the device to use
    #[arg(long)]
    address: IpAddr,
    /// Counted rounds, after one that is not counted
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=MAX_ROUNDS))]
    rounds: u32,
}

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some(HOME_ARGUMENT) => serve(),
        Some(RANK_ARGUMENT) => cluster::serve(),
        _ => measure(&Cli::parse()),
    };
    ended("bench-rdma", done)
}

fn measure(cli: &Cli) -> Result<(), Failure> {
    let mut place = Place::new(cli.address)?;
    let mut pair = Pair::start(cli.address)?;
    let tell = |line: String| {
        // Nobody is there to be told when this fails.
        let _ = writeln!(io::stderr(), "bench-rdma: {line}");
    };
    let faults = Faults::start(cli.address)?;
    let (rows, used) = rounds(&mut pair, &mut place, faults, cli.rounds, tell)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{HEADING}")?;
    for row in rows {
        writeln!(out, "{row}")?;
    }
    writeln!(out, "\n{}", costs::HEADING)?;
    for cost in used {
        writeln!(out, "{cost}")?;
    }
    Ok(())
}
