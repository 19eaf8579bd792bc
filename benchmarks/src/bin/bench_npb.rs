//! Programs on two ranks that are processes, with relaxed memory over TCP, beside strict memory and threads; and what synchronisation costs by itself, beside its floor.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use vincs_benchmarks::coherence::floor::{self, Echo};
use vincs_benchmarks::coherence::report::{Goal, Row};
use vincs_benchmarks::ended;
use vincs_benchmarks::nanoseconds;
use vincs_benchmarks::npb::job::{Failure, Job};
use vincs_benchmarks::npb::primitives::DIRTY;
use vincs_benchmarks::npb::tables::{Times, primitives, programs};
use vincs_coherence::id::PAGE_BYTES;
use vincs_npb::apps::{self, SIDE, SWEEPS};
use vincs_npb::class::Class;
use vincs_npb::kernel::Kernel;
use vincs_npb::team::ranks::{RANK_ARGUMENT, Sharing};
use vincs_npb::team::threads;

/// Raw round trips that are timed.
const ROUND_TRIPS: u32 = 500;

/// Measures programs on relaxed memory
#[derive(Debug, Parser)]
#[command(name = "bench-npb")]
struct Cli {
    /// Rounds of each program, each of which runs it in every way once
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// The class of EP and MG; that of the others is S
    #[arg(long, default_value = "W")]
    class: Class,
    /// Leave strict memory out
    #[arg(long)]
    no_strict: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((first, job)) if first == RANK_ARGUMENT => {
            Job::from_arguments(job).and_then(|job| job.follow()).map(|_| ())
        }
        _ => measure(&Cli::parse()),
    };
    ended("bench-npb", done)
}

fn measure(cli: &Cli) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let rows = synchronisation()?;
    writeln!(out, "{}", primitives(&rows))?;
    let mut times = vec![jacobi(cli)?, counter(cli)?];
    for kernel in Kernel::ALL {
        let class = if matches!(kernel, Kernel::Ep | Kernel::Mg) { cli.class } else { Class::S };
        times.push(nas(cli, kernel, class)?);
    }
    writeln!(out, "{}", programs(&times))?;
    Ok(())
}

/// Each primitive beside a raw round trip and, where pages move, a copy of them.
fn synchronisation() -> Result<Vec<Row>, Failure> {
    let trips = round_trips()?;
    let copies: Vec<f64> = (0..9).map(|_| copy(DIRTY)).collect();
    let copy_and_trip: Vec<f64> = copies.iter().zip(&trips).map(|(copy, trip)| copy + trip).collect();
    let floors = [
        ("round trip", trips.clone(), Goal::AtMost(2.0)),
        ("round trip and copy of 1000 pages", copy_and_trip, Goal::None),
        ("round trip", trips.clone(), Goal::None),
        ("round trip", trips.clone(), Goal::None),
        ("round trip", trips, Goal::None),
    ];
    let measured = Job::Primitives.lead()?.primitives;
    Ok(measured
        .into_iter()
        .zip(floors)
        .map(|(one, (floor, values, goal))| Row {
            what: one.what.to_owned(),
            unit: "us",
            values: one.microseconds,
            floor: (floor, values),
            goal,
        })
        .collect())
}

/// Round trips of a plain connection, both ends spinning, in microseconds.
fn round_trips() -> Result<Vec<f64>, Failure> {
    let kind = Echo { rounds: ROUND_TRIPS, answer: floor::REQUEST };
    let (ports, port) = std::sync::mpsc::channel();
    let answers = std::thread::spawn(move || floor::echo(kind, &mut |port| ports.send(port).map_err(io::Error::other)));
    let times = floor::round_trips(port.recv()?, kind)?;
    answers.join().map_err(|_| "the other end has failed")??;
    Ok(times.into_iter().map(|time| time as f64 / 1000.0).collect())
}

/// The time of a copy of so many pages, in microseconds.
fn copy(pages: usize) -> f64 {
    let from = vec![7_u8; pages * PAGE_BYTES];
    let mut to = vec![1_u8; pages * PAGE_BYTES];
    let started = Instant::now();
    to.copy_from_slice(std::hint::black_box(&from));
    std::hint::black_box(&to);
    nanoseconds(started) as f64 / 1000.0
}

fn nas(cli: &Cli, kernel: Kernel, class: Class) -> Result<Times, Failure> {
    let mut times = Times { what: format!("{} {class}", kernel.name()), ..Times::default() };
    for _ in 0..cli.rounds {
        for (members, into) in [(1, &mut times.one_thread), (2, &mut times.two_threads)] {
            into.push(threads::run(members, |team| kernel.run(team, class))??.seconds);
        }
        let done = Job::Kernel(kernel, class, Sharing::Relaxed).lead()?;
        times.relaxed.push(done.seconds);
        times.costs = done.costs;
        if !cli.no_strict {
            times.strict.push(Job::Kernel(kernel, class, Sharing::Strict).lead()?.seconds);
        }
    }
    Ok(times)
}

fn jacobi(cli: &Cli) -> Result<Times, Failure> {
    let mut times = Times { what: "jacobi".to_owned(), ..Times::default() };
    for _ in 0..cli.rounds {
        let mut values = Vec::new();
        for (members, into) in [(1, &mut times.one_thread), (2, &mut times.two_threads)] {
            let computed = threads::run(members, |team| apps::jacobi(team, SIDE, SWEEPS))??;
            into.push(computed.seconds);
            values.push(computed.value);
        }
        let done = Job::Jacobi(Sharing::Relaxed).lead()?;
        times.relaxed.push(done.seconds);
        times.costs = done.costs;
        values.extend(done.value);
        if !cli.no_strict {
            let done = Job::Jacobi(Sharing::Strict).lead()?;
            times.strict.push(done.seconds);
            values.extend(done.value);
        }
        // Sums are added up in another order.
        let first = values.first().copied().unwrap_or_default();
        if values.iter().any(|value| (value - first).abs() > 1e-9 * first.abs()) {
            return Err(format!("the stencil's sums differ: {values:?}").into());
        }
    }
    Ok(times)
}

fn counter(cli: &Cli) -> Result<Times, Failure> {
    let mut times = Times { what: "counter".to_owned(), ..Times::default() };
    for _ in 0..cli.rounds {
        let done = Job::Counter.lead()?;
        times.relaxed.push(done.seconds);
        times.costs = done.costs;
    }
    Ok(times)
}
