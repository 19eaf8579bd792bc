//! A simulated machine to prove the protocol on: real [`Node`](crate::node::Node)s, everything else made up, all chance
//! from one seed.
//!
//! - [`scenario`]: what a simulation is about; [`workload`] makes random ones, [`litmus`] those of x86-TSO's tests.
//! - [`machine`]: the events in the order of their time; [`network`], [`rank`], [`memory`], [`window`], [`guest`]: its parts.
//! - [`checkers`]: what must hold after every step.
//! - [`mutants`]: planted bugs that the checkers have to find.
//! - [`rng`], [`trace`]: chance, and how a failure explains itself.
//! - [`timing`]: given times instead of random ones, to predict how long faults take.
//!
//! A failure names its seed; [`simulate`] with that seed fails in the same way.

pub mod checkers;
pub mod guest;
pub mod litmus;
pub mod machine;
pub mod memory;
pub mod mutants;
pub mod network;
pub mod rank;
pub mod rng;
pub mod scenario;
pub mod timing;
pub mod trace;
pub mod window;
pub mod workload;

use std::fmt;

use checkers::{Checker, Violation};
use litmus::Litmus;
use machine::{Machine, Outcome};
use mutants::{Mutant, Planted};
use rng::Rng;
use scenario::Scenario;
use timing::Costs;
use trace::Trace;
use workload::Mishaps;

/// A simulation that broke a rule.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// When, in microseconds of the simulation.
    pub at: u64,
    /// Which rule.
    pub violation: Violation,
    /// The last things that happened.
    pub trace: Trace,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.trace.lines() {
            writeln!(f, "{line}")?;
        }
        write!(f, "seed {:#x} after {} us: {}", self.seed, self.at, self.violation)
    }
}

/// Runs a random scenario.
///
/// # Errors
/// [`Failure`] with the first rule that was broken.
pub fn simulate(seed: u64, mishaps: Mishaps) -> Result<Outcome, Box<Failure>> {
    let (scenario, rng) = random_scenario(seed, mishaps)?;
    run(seed, &scenario, &rng, None, None)
}

/// Runs the same scenario without windows.
///
/// # Errors
/// [`Failure`] with the first rule that was broken.
pub fn simulate_without_windows(seed: u64, mishaps: Mishaps) -> Result<Outcome, Box<Failure>> {
    let (scenario, rng) = random_scenario(seed, mishaps)?;
    run(seed, &Scenario { window: None, ..scenario }, &rng, None, None)
}

/// Runs a random scenario in which one rank has a bug.
///
/// # Errors
/// [`Failure`] when a checker has found it.
pub fn simulate_mutant(seed: u64, mutant: &Mutant) -> Result<Outcome, Box<Failure>> {
    let mut rng = Rng::new(seed);
    let scenario = (mutant.scenario)(&mut rng).map_err(|error| impossible(seed, &error))?;
    run(seed, &scenario, &rng, Some(mutant), None)
}

/// Runs a scenario of [`workload::leavers`].
///
/// # Errors
/// [`Failure`] with the first rule that was broken.
pub fn simulate_leavers(seed: u64, mishaps: Mishaps) -> Result<Outcome, Box<Failure>> {
    let mut rng = Rng::new(seed);
    let scenario = workload::leavers(&mut rng, mishaps).map_err(|error| impossible(seed, &error))?;
    run(seed, &scenario, &rng, None, None)
}

/// Runs a scenario of [`workload::leavers`] in which homes move.
///
/// # Errors
/// [`Failure`] with the first rule that was broken.
pub fn simulate_leavers_with_hand_overs(seed: u64, mishaps: Mishaps) -> Result<Outcome, Box<Failure>> {
    let mut rng = Rng::new(seed);
    let scenario = workload::leavers(&mut rng, mishaps).map_err(|error| impossible(seed, &error))?;
    let scenario = workload::with_hand_overs(&mut rng, scenario);
    run(seed, &scenario, &rng, None, None)
}

/// Runs a scenario of [`workload::leavers`] in which those that leave are homes as well, and homes move.
///
/// # Errors
/// [`Failure`] with the first rule that was broken.
pub fn simulate_homes_that_leave(seed: u64, mishaps: Mishaps) -> Result<Outcome, Box<Failure>> {
    let mut rng = Rng::new(seed);
    let scenario = workload::leavers(&mut rng, mishaps).map_err(|error| impossible(seed, &error))?;
    let scenario = workload::of_many_homes(&mut rng, scenario);
    let scenario = workload::with_hand_overs(&mut rng, scenario);
    run(seed, &scenario, &rng, None, None)
}

/// Runs a scenario of [`workload::readers`] in which ranks leave and homes move.
///
/// # Errors
/// [`Failure`] with the first rule that was broken.
pub fn simulate_leaving_readers_with_hand_overs(seed: u64) -> Result<Outcome, Box<Failure>> {
    let mut rng = Rng::new(seed);
    let scenario = workload::readers(&mut rng).map_err(|error| impossible(seed, &error))?;
    let mut scenario = workload::with_leavers(&mut rng, scenario);
    if rng.one_in(2) {
        scenario = workload::of_many_homes(&mut rng, scenario);
    }
    let scenario = workload::with_hand_overs(&mut rng, scenario);
    run(seed, &scenario, &rng, None, None)
}

/// Runs a scenario of [`workload::readers`].
///
/// # Errors
/// [`Failure`] with the first rule that was broken.
pub fn simulate_readers(seed: u64) -> Result<Outcome, Box<Failure>> {
    let mut rng = Rng::new(seed);
    let scenario = workload::readers(&mut rng).map_err(|error| impossible(seed, &error))?;
    run(seed, &scenario, &rng, None, None)
}

/// Runs a given scenario.
///
/// # Errors
/// [`Failure`] with the first rule that was broken.
pub fn run_scenario(seed: u64, scenario: &Scenario) -> Result<Outcome, Box<Failure>> {
    run(seed, scenario, &Rng::new(seed), None, None)
}

/// Runs a given scenario in which faults, service threads and messages take these times, and the steps of processors 1 each;
/// [`Outcome::faults`] has how long each fault took. Who comes first at the same time is still chance.
///
/// # Errors
/// [`Failure`] with the first rule that was broken.
pub fn run_timed(seed: u64, scenario: &Scenario, costs: Costs) -> Result<Outcome, Box<Failure>> {
    run(seed, scenario, &Rng::new(seed), None, Some(costs))
}

/// Runs a litmus test; gives how often the outcome that it is about appeared.
///
/// # Errors
/// [`Failure`] with the first rule that was broken.
pub fn simulate_litmus(seed: u64, litmus: &Litmus) -> Result<usize, Box<Failure>> {
    let mut rng = Rng::new(seed);
    let arranged = litmus.arrange(&mut rng).map_err(|error| impossible(seed, &error))?;
    let outcome = run(seed, &arranged.scenario, &rng, None, None)?;
    let failure = |violation| Box::new(Failure { seed, at: 0, violation, trace: Trace::off() });
    litmus.judge(&arranged, &outcome).map_err(failure)
}

/// Runs a litmus test while the homes of its variables move.
///
/// # Errors
/// [`Failure`] with the first rule that was broken.
pub fn simulate_litmus_with_hand_overs(seed: u64, litmus: &Litmus) -> Result<usize, Box<Failure>> {
    let mut rng = Rng::new(seed);
    let mut arranged = litmus.arrange(&mut rng).map_err(|error| impossible(seed, &error))?;
    arranged.scenario = workload::with_hand_overs(&mut rng, arranged.scenario);
    let outcome = run(seed, &arranged.scenario, &rng, None, None)?;
    let failure = |violation| Box::new(Failure { seed, at: 0, violation, trace: Trace::off() });
    litmus.judge(&arranged, &outcome).map_err(failure)
}

/// Runs a random scenario in which homes move.
///
/// # Errors
/// [`Failure`] with the first rule that was broken.
pub fn simulate_hand_overs(seed: u64, mishaps: Mishaps) -> Result<Outcome, Box<Failure>> {
    let (scenario, mut rng) = random_scenario(seed, mishaps)?;
    let scenario = workload::with_hand_overs(&mut rng, scenario);
    run(seed, &scenario, &rng, None, None)
}

/// Runs a scenario of [`workload::readers`] in which homes move.
///
/// # Errors
/// [`Failure`] with the first rule that was broken.
pub fn simulate_readers_with_hand_overs(seed: u64) -> Result<Outcome, Box<Failure>> {
    let mut rng = Rng::new(seed);
    let scenario = workload::readers(&mut rng).map_err(|error| impossible(seed, &error))?;
    let scenario = workload::with_hand_overs(&mut rng, scenario);
    run(seed, &scenario, &rng, None, None)
}

fn random_scenario(seed: u64, mishaps: Mishaps) -> Result<(Scenario, Rng), Box<Failure>> {
    let mut rng = Rng::new(seed);
    let scenario = workload::random(&mut rng, mishaps).map_err(|error| impossible(seed, &error))?;
    Ok((scenario, rng))
}

/// A scenario that cannot be.
fn impossible(seed: u64, error: &dyn fmt::Display) -> Box<Failure> {
    let violation = Violation { checker: Checker::Protocol, page: None, what: error.to_string() };
    Box::new(Failure { seed, at: 0, violation, trace: Trace::off() })
}

fn run(
    seed: u64,
    scenario: &Scenario,
    rng: &Rng,
    mutant: Option<&Mutant>,
    costs: Option<Costs>,
) -> Result<Outcome, Box<Failure>> {
    let attempt = |trace: Trace| {
        let rank = crate::id::Rank(u16::try_from(seed % u64::from(scenario.ranks.max(1))).unwrap_or(0));
        let planted = mutant.map(|mutant| Planted { rank, mutation: (mutant.plant)() });
        let machine = Machine::new(scenario, rng.clone(), planted, costs, trace);
        machine.map_err(|violation| (0, violation, Trace::off())).and_then(Machine::run)
    };
    // Equal seeds do the same, so what happened is written down only when somebody wants to know.
    attempt(Trace::off())
        .or_else(|_| attempt(Trace::on()))
        .map_err(|(at, violation, trace)| Box::new(Failure { seed, at, violation, trace }))
}
