//! The TCP transport against bare sockets between two processes on this machine: round trips of 64 B to 4 KiB, gets of 4 KiB, and streams
//! of 1 MiB bodies.

use std::env::{args, current_exe};
use std::error::Error;
use std::io::{Write, stdout};
use std::process::Command;

use vincs_benchmarks::median;
use vincs_benchmarks::transport::{Pair, Phase, STREAMED, serve};

/// Rounds of each phase.
const ROUNDS: usize = 9;
/// Round trips or gets of a round.
const TRIPS: usize = 5_000;
/// Bodies of a round.
const BODIES: usize = 256;
/// What the second process is called with.
const SERVE: &str = "serve";

fn main() -> Result<(), Box<dyn Error>> {
    if args().nth(1).as_deref() == Some(SERVE) {
        return serve();
    }
    let mut second = Command::new(current_exe()?);
    second.arg(SERVE);
    let mut pair = Pair::start(second)?;
    let mut out = stdout().lock();
    let phases = [
        Phase::BareTrips(TRIPS),
        Phase::Trips(TRIPS),
        Phase::Gets(TRIPS),
        Phase::BareStream(BODIES),
        Phase::Stream(BODIES),
    ];
    let mut times = phases.map(|_| Vec::new());
    for round in 1..=ROUNDS {
        write!(out, "round {round} of {ROUNDS}:")?;
        for (phase, times) in phases.into_iter().zip(&mut times) {
            let time = pair.run(phase)?;
            write!(out, " {phase:?} {time} ns;")?;
            times.push(time);
        }
        writeln!(out)?;
    }
    pair.end()?;
    let [bare_trip, trip, get, bare_stream, stream] = times.map(|times| median(times).max(1));
    let rate = |time: u64| (BODIES * STREAMED) as u64 * 1000 / time;
    let ratio = |time: u64, floor: u64| format!("{}.{:02}", time / floor, time % floor * 100 / floor);
    writeln!(out, "medians of {ROUNDS} rounds, both ends spinning:")?;
    writeln!(out, "64 B to 4 KiB and back over a bare socket: {bare_trip} ns")?;
    writeln!(out, "the same as messages: {trip} ns, ratio {}", ratio(trip, bare_trip))?;
    writeln!(out, "get of 4 KiB: {get} ns, ratio {}", ratio(get, bare_trip))?;
    writeln!(out, "1 MiB after the other over a bare socket: {} MB/s", rate(bare_stream))?;
    writeln!(out, "the same as messages: {} MB/s, time ratio {}", rate(stream), ratio(stream, bare_stream))?;
    Ok(())
}
