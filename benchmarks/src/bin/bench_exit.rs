//! The exit round trip of the micro-guest through the vmm's run loop against a bare KVM_RUN loop.
//!
//! Both write the same port from ring 3 again and again. Rounds of both alternate, so that a change of the machine's speed
//! meets both alike.

use std::error::Error;
use std::io::{Write, stdout};
use std::time::Duration;

use vincs_benchmarks::bare::BareGuest;
use vincs_benchmarks::median;
use vincs_micro_guest::{Program, Report, run};

/// Rounds of each.
const ROUNDS: usize = 9;
/// Exits of a round.
const EXITS: u64 = 20_000;
/// Time for a round.
const LIMIT: Duration = Duration::from_secs(60);
/// The goal: at most this many hundredths of the bare loop's ticks.
const GOAL_PERCENT: u64 = 150;

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = stdout().lock();
    let (mut vmm, mut bare) = (Vec::new(), Vec::new());
    let mut guest = BareGuest::new()?;
    guest.run(EXITS / 10)?;
    for round in 1..=ROUNDS {
        let ticks = guest.run(EXITS)? / EXITS;
        let Report::ExitLatency { total, .. } = run(Program::ExitLatency { exits: EXITS }, 1, LIMIT)? else {
            return Err("the micro-guest has run another program".into());
        };
        writeln!(out, "round {round} of {ROUNDS}: vmm {} ticks an exit, bare KVM_RUN loop {ticks}", total / EXITS)?;
        vmm.push(total / EXITS);
        bare.push(ticks);
    }
    let (vmm, bare) = (median(vmm), median(bare).max(1));
    let percent = vmm * 100 / bare;
    let verdict = if percent <= GOAL_PERCENT { "reached" } else { "missed" };
    writeln!(
        out,
        "exit round trip, medians of {ROUNDS} rounds of {EXITS}: vmm {vmm} ticks, bare {bare} ticks, ratio {}.{:02} (goal: at most \
         {}.{:02}, {verdict})",
        percent / 100,
        percent % 100,
        GOAL_PERCENT / 100,
        GOAL_PERCENT % 100,
    )?;
    Ok(())
}
