//! A run of many steps, and its outcome.

use super::block::State;
use super::{Gas, checks};
use crate::kernel::{Check, Outcome, Size, timed};
use crate::team::{NoMemory, Team};

/// A class's problem, for kernels that solve for all changes of a step at once.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// Points along each side.
    pub side: usize,
    /// How many steps to make.
    pub steps: usize,
    /// The time of each.
    pub step: f64,
    /// The published norms of the residual and of the error.
    pub norms: [State; 2],
}

impl Problem {
    /// Runs it. `solve` makes changes of how the gas changes, and needs a barrier after it; `operations` is how many operations a step takes.
    ///
    /// # Errors
    ///
    /// No memory for its arrays.
    pub fn run(&self, team: &dyn Team, operations: f64, solve: impl Fn(&Gas)) -> Result<Outcome, NoMemory> {
        let gas = Gas::new(team, self.side)?;
        let step = || {
            gas.set_change(team, self.step);
            solve(&gas);
            team.barrier();
            gas.add_change(team, 1.0);
            team.barrier();
        };
        // Once for nothing, so that all memory is there.
        step();
        gas.reset(team);
        let ((), seconds) = timed(team, || (0..self.steps).for_each(|_| step()));
        let errors = gas.error_norm(team);
        gas.set_change(team, 1.0);
        let checks = checks(gas.change_norm(team), errors, &self.norms);
        Ok(outcome(self.side, self.steps, seconds, operations, &checks))
    }
}

/// What so many steps have come to, each of which takes so many operations.
#[must_use]
pub fn outcome(side: usize, steps: usize, seconds: f64, operations: f64, checks: &[Check]) -> Outcome {
    Outcome {
        size: Size::Grid([side; 3]),
        iterations: steps,
        seconds,
        million_operations: steps as f64 * operations / 1e6,
        operation: "floating point",
        verified: checks.iter().all(Check::passed),
        results: checks.iter().map(Check::to_string).collect(),
    }
}
