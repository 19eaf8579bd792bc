//! A simulated machine to prove the relaxed protocol on: real [`Node`](crate::hlrc::Node)s, everything else made up, all chance from one seed.
//!
//! - [`program`]: programs without data races, and what they see in a sequential run; [`litmus`]: small ones about what is promised and what is not.
//! - [`scenario`]: what a simulation is about; [`machine`]: the events in the order of their time; [`memory`], [`flight`]: pages, words, and operations whose parts take effect in any order.
//! - [`races`]: who looks for races, and bugs in that.
//! - [`checks`]: what must hold after every event; [`mutants`]: planted bugs that they have to find.
//!
//! A failure names its seed; [`simulate`] with that seed fails in the same way.

pub mod checks;
pub mod flight;
pub mod lending;
pub mod litmus;
pub mod machine;
pub mod memory;
pub mod mutants;
pub mod program;
pub mod races;
pub mod scenario;

use std::fmt;

use crate::home::HomeMap;
use crate::id::Rank;
use crate::sim::rng::Rng;
use crate::sim::trace::Trace;

use checks::{Check, Violation};
use litmus::Litmus;
use machine::Machine;
use mutants::Mutant;
use program::Size;
use races::NoteMutant;
use scenario::{Outcomes, Scenario};

/// A simulation that broke a rule.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Its seed.
    pub seed: u64,
    /// When, in microseconds of the simulation.
    pub at: u64,
    /// Which rule.
    pub violation: Violation,
    /// The last things that happened.
    pub trace: Trace,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.trace.lines() {
            writeln!(f, "{line}")?;
        }
        write!(f, "seed {:#x} after {} us: {}", self.seed, self.at, self.violation)
    }
}

/// Runs random programs, on a machine that loses a rank if asked.
///
/// # Errors
/// [`Failed`] with the first rule that was broken.
pub fn simulate(seed: u64, loss: bool) -> Result<Outcomes, Box<Failed>> {
    let (scenario, rng) = random(seed, loss)?;
    run(seed, &scenario, &rng, None)
}

/// Runs random programs on a machine of which one rank has a bug.
///
/// # Errors
/// [`Failed`] when a check has found it.
pub fn simulate_mutant(seed: u64, mutant: &Mutant) -> Result<Outcomes, Box<Failed>> {
    let (scenario, rng) = random(seed, false)?;
    run(seed, &scenario, &rng, Some(mutant))
}

/// Runs random programs with races looked for: they have none, or such that were planted, and each of these is reported and nothing else.
/// `mutant`: a bug in that.
///
/// # Errors
/// [`Failed`] with the first rule that was broken.
pub fn simulate_races(seed: u64, planted: bool, mutant: Option<&'static NoteMutant>) -> Result<Outcomes, Box<Failed>> {
    let (mut scenario, mut rng) = random(seed, false)?;
    scenario.check_races = true;
    if planted {
        // Races are those of ranks with one thread: of others the threads order each other's writes.
        scenario.team.iter_mut().take(2).for_each(|threads| *threads = 1);
        let size =
            Size { pages: scenario.homes.pages(), locks: scenario.locks, phases: 1 + rng.below_u32(4), steps: 6 };
        let races = usize::from(1 + rng.below_u16(3));
        (scenario.programs, scenario.planted) = program::racy(&mut rng, &scenario.team, size, races);
        scenario.locks += u32::try_from(scenario.planted.len()).unwrap_or(0) * program::MAX_RACING;
        scenario.check_reads = false;
    }
    run_observed(seed, &scenario, &rng, None, mutant)
}

/// Runs a given scenario.
///
/// # Errors
/// [`Failed`] with the first rule that was broken.
pub fn run_scenario(seed: u64, scenario: &Scenario) -> Result<Outcomes, Box<Failed>> {
    run(seed, scenario, &Rng::new(seed), None)
}

/// Runs a litmus test; says whether the outcome that it is about has appeared.
///
/// # Errors
/// [`Failed`] with the first rule that was broken, which one that is promised is.
pub fn simulate_litmus(seed: u64, litmus: &Litmus) -> Result<bool, Box<Failed>> {
    let mut rng = Rng::new(seed);
    let failed = |what: String| {
        let violation = Violation::new(Check::Litmus, what);
        Box::new(Failed { seed, at: 0, violation, trace: Trace::off() })
    };
    let scenario = litmus.arrange(&mut rng).map_err(|error| failed(error.to_string()))?;
    let outcomes = run(seed, &scenario, &rng, None)?;
    let appeared = (litmus.outcome)(&outcomes.reads);
    if appeared && !litmus.allowed {
        return Err(failed(format!("{}: {:?} is promised never to appear", litmus.name, outcomes.reads)));
    }
    Ok(appeared)
}

fn random(seed: u64, loss: bool) -> Result<(Scenario, Rng), Box<Failed>> {
    let mut rng = Rng::new(seed);
    let ranks = 2 + rng.below_u16(4);
    let team: Vec<u16> = (0..ranks).map(|_| if rng.one_in(3) { 2 + rng.below_u16(3) } else { 1 }).collect();
    let pages = 1 + rng.below_u32(6);
    let segments: Vec<(u32, Rank)> = (0..pages).map(|_| (1, Rank(rng.below_u16(ranks)))).collect();
    let homes = HomeMap::new(segments).map_err(|error| {
        let violation = Violation::new(Check::Protocol, error.to_string());
        Box::new(Failed { seed, at: 0, violation, trace: Trace::off() })
    })?;
    let size = Size { pages, locks: 1 + rng.below_u32(3), phases: 1 + rng.below_u32(5), steps: rng.between(1, 10) };
    let programs = program::random(&mut rng, &team, size);
    let scenario = Scenario {
        homes,
        programs,
        locks: size.locks,
        log_words: rng.pick(&[1, 2, 3, 8, 64]).unwrap_or(8),
        single_writer: !rng.one_in(5),
        check_races: false,
        keep_after: rng.pick(&[0, 1, u32::MAX]).unwrap_or(0),
        lends: rng.one_in(2),
        planted: Vec::new(),
        cache_pages: if rng.one_in(3) { Some(1 + rng.below_u32(2)) } else { None },
        // One for each thread at least: what a thread has just been allowed would be taken for the other one's sake for ever.
        written_pages: if rng.one_in(3) { 4 + rng.below_u32(2) } else { 64 },
        delay: rng.pick(&[2, 10, 100]).unwrap_or(10),
        late_pages: rng.one_in(3),
        hints: rng.one_in(2),
        loss: loss.then(|| (Rank(rng.below_u16(ranks)), rng.below(3000))),
        check_reads: true,
        team,
    };
    Ok((scenario, rng))
}

fn run(seed: u64, scenario: &Scenario, rng: &Rng, mutant: Option<&Mutant>) -> Result<Outcomes, Box<Failed>> {
    run_observed(seed, scenario, rng, mutant, None)
}

fn run_observed(
    seed: u64,
    scenario: &Scenario,
    rng: &Rng,
    mutant: Option<&Mutant>,
    of_notes: Option<&'static NoteMutant>,
) -> Result<Outcomes, Box<Failed>> {
    let attempt = |trace: Trace| {
        let rank = Rank(u16::try_from(seed % (scenario.team.len() as u64).max(1)).unwrap_or(0));
        let planted = mutant.map(|mutant| (rank, (mutant.plant)()));
        let machine = Machine::new(scenario, rng.clone(), planted, trace);
        let machine = machine.map_err(|violation| (0, violation, Trace::off()))?;
        machine.observed(of_notes).run()
    };
    // Equal seeds do the same, so what happened is written down only when somebody wants to know.
    attempt(Trace::off())
        .or_else(|_| attempt(Trace::on()))
        .map_err(|(at, violation, trace)| Box::new(Failed { seed, at, violation, trace }))
}
