//! MG: V-cycles of multigrid for a Poisson problem with periodic boundaries (RNR-94-007, section 2.2.2).
//!
//! A member has adjacent planes of each grid and writes no others; it reads the planes next to them. The coarsest grids have fewer
//! planes than there may be members.

pub mod charges;
pub mod grid;

use crate::class::Class;
use crate::kernel::{Check, Outcome, Size, timed};
use crate::team::{NoMemory, Team};
use charges::set_charges;
use grid::{Grid, Stencil};

const TOLERANCE: f64 = 1e-8;

/// The Laplacian of the specification, negated: what is subtracted for a residual is added.
const NEGATED_LAPLACIAN: Stencil = Stencil { centre: 8.0 / 3.0, face: 0.0, edge: -1.0 / 6.0, corner: -1.0 / 12.0 };

/// A class's problem.
#[derive(Clone, Copy, Debug)]
struct Problem {
    /// The finest grid has two to this many points along each side.
    levels: u32,
    iterations: usize,
    smoother: Stencil,
    /// The published norm of the residual.
    norm: f64,
}

impl Problem {
    fn of(class: Class) -> Self {
        let small = Stencil { centre: -3.0 / 8.0, face: 1.0 / 32.0, edge: -1.0 / 64.0, corner: 0.0 };
        let large = Stencil { centre: -3.0 / 17.0, face: 1.0 / 33.0, edge: -1.0 / 61.0, corner: 0.0 };
        let problem = |levels, iterations, smoother, norm| Self { levels, iterations, smoother, norm };
        class.pick([
            problem(5, 4, small, 0.530_770_700_573_4e-4),
            problem(7, 4, small, 0.646_732_937_533_9e-5),
            problem(8, 4, small, 0.243_336_530_906_9e-5),
            problem(8, 20, large, 0.180_056_440_135_5e-5),
        ])
    }

    fn side(&self) -> usize {
        1 << self.levels
    }
}

/// The grids, of each kind the coarsest first: with two points along each side, then four, and so on.
#[derive(Debug)]
struct Grids {
    solution: Vec<Grid>,
    residual: Vec<Grid>,
    /// The right-hand side, on the finest.
    charges: Grid,
}

/// Runs it.
///
/// # Errors
///
/// No memory for its grids.
pub fn run(team: &dyn Team, class: Class) -> Result<Outcome, NoMemory> {
    let problem = Problem::of(class);
    let side = problem.side();
    let pyramid = || (1..=problem.levels).map(|level| Grid::new(team, 1 << level)).collect::<Result<Vec<_>, _>>();
    let grids = Grids { solution: pyramid()?, residual: pyramid()?, charges: Grid::new(team, side)? };
    set_charges(team, &grids.charges)?;
    team.barrier();
    // Once for nothing, so that all memory is there.
    multigrid(team, &grids, &problem, 1);
    let ((first, last), seconds) = timed(team, || multigrid(team, &grids, &problem, problem.iterations));
    let check = Check { name: "L2 norm", computed: last, published: problem.norm, tolerance: TOLERANCE };
    let million_points = side.pow(3) as f64 / 1e6;
    Ok(Outcome {
        size: Size::Grid([side; 3]),
        iterations: problem.iterations,
        seconds,
        million_operations: 58.0 * problem.iterations as f64 * million_points,
        operation: "floating point",
        verified: check.passed(),
        results: vec![format!("L2 norm at first {first:22.13e}"), check.to_string()],
    })
}

/// Solves from zero. Gives the norm of the residual before and after the V-cycles.
fn multigrid(team: &dyn Team, grids: &Grids, problem: &Problem, iterations: usize) -> (f64, f64) {
    let finest = problem.levels as usize - 1;
    let (solution, residual) = (&grids.solution[finest], &grids.residual[finest]);
    solution.clear(team);
    team.barrier();
    residual.set_residual(team, &grids.charges, solution, &NEGATED_LAPLACIAN);
    let first = residual.norm(team);
    for _ in 0..iterations {
        cycle(team, grids, &problem.smoother);
        residual.set_residual(team, &grids.charges, solution, &NEGATED_LAPLACIAN);
        team.barrier();
    }
    (first, residual.norm(team))
}

/// One V-cycle: improves the solution by its residual.
fn cycle(team: &dyn Team, grids: &Grids, smoother: &Stencil) {
    let Grids { solution, residual, charges } = grids;
    for level in (1..residual.len()).rev() {
        residual[level - 1].restrict(team, &residual[level]);
        team.barrier();
    }
    solution[0].clear(team);
    solution[0].add_stencil(team, &residual[0], smoother);
    team.barrier();
    for level in 1..residual.len() {
        let finest = level + 1 == residual.len();
        if !finest {
            solution[level].clear(team);
        }
        solution[level].add_interpolated(team, &solution[level - 1]);
        team.barrier();
        if finest {
            residual[level].set_residual(team, charges, &solution[level], &NEGATED_LAPLACIAN);
        } else {
            residual[level].add_stencil(team, &solution[level], &NEGATED_LAPLACIAN);
        }
        team.barrier();
        solution[level].add_stencil(team, &residual[level], smoother);
        team.barrier();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::team::threads;

    #[test]
    fn every_cycle_makes_the_residual_much_smaller() {
        let problem = Problem { levels: 4, iterations: 6, ..Problem::of(Class::S) };
        for members in [1, 3, 5] {
            let (first, last) = threads::run(members, |team| {
                let pyramid = || (1..=4).map(|level| Grid::new(team, 1 << level).unwrap()).collect();
                let grids = Grids { solution: pyramid(), residual: pyramid(), charges: Grid::new(team, 16).unwrap() };
                set_charges(team, &grids.charges).unwrap();
                team.barrier();
                multigrid(team, &grids, &problem, problem.iterations)
            })
            .unwrap();
            assert!(last < first * 1e-3, "{first} {last}");
        }
    }
}
