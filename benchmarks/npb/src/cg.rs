//! CG: the smallest eigenvalue of a sparse matrix by inverse power iteration, each step solved by conjugate gradients
//! (RNR-94-007, section 2.2.3).
//!
//! A member has the rows of its part, and of all vectors its part. Of the two that are multiplied with the matrix all members
//! read everything, so these are the team's.

pub mod matrix;

use crate::class::Class;
use crate::kernel::{Check, Outcome, Size, timed};
use crate::team::shared::Shared;
use crate::team::{NoMemory, Team};
use matrix::Rows;

/// Steps of one solution.
const STEPS: usize = 25;

const TOLERANCE: f64 = 1e-10;

/// A class's problem.
#[derive(Clone, Copy, Debug)]
struct Problem {
    /// Rows of the matrix.
    order: usize,
    /// Elements of each of the vectors that it is made of, but for one.
    elements: usize,
    iterations: usize,
    shift: f64,
    /// The published eigenvalue.
    zeta: f64,
}

impl Problem {
    fn of(class: Class) -> Self {
        let problem = |order, elements, iterations, shift, zeta| Self { order, elements, iterations, shift, zeta };
        class.pick([
            problem(1400, 7, 15, 10.0, 8.597_177_507_864_8),
            problem(7000, 8, 15, 12.0, 10.362_595_087_124),
            problem(14000, 11, 15, 20.0, 17.130_235_054_029),
            problem(75000, 13, 75, 60.0, 22.712_745_482_631),
        ])
    }

    /// The benchmark's own count.
    fn million_operations(&self) -> f64 {
        let nonzeros = (self.elements * (self.elements + 1)) as f64;
        let step = 5.0 + nonzeros;
        (2 * self.iterations * self.order) as f64 * (3.0 + nonzeros + STEPS as f64 * step + 3.0) / 1e6
    }
}

/// The vectors as one member has them.
#[derive(Debug)]
struct Vectors {
    /// The present approximation of the eigenvector, this member's part as with all that is not shared.
    x: Vec<f64>,
    residual: Vec<f64>,
    product: Vec<f64>,
    /// The direction of search.
    direction: Shared<f64>,
    solution: Shared<f64>,
}

/// Runs it.
///
/// # Errors
///
/// No memory for its arrays.
pub fn run(team: &dyn Team, class: Class) -> Result<Outcome, NoMemory> {
    let problem = Problem::of(class);
    let mine = team.share(problem.order);
    let matrix = Rows::new(problem.order, problem.elements, problem.shift, mine.clone());
    let mut vectors = Vectors {
        x: vec![1.0; mine.len()],
        residual: vec![0.0; mine.len()],
        product: vec![0.0; mine.len()],
        direction: team.array(problem.order)?,
        solution: team.array(problem.order)?,
    };
    // Once for nothing, so that all memory is there.
    power_step(team, &matrix, &mut vectors);
    vectors.x.fill(1.0);
    let mut results = vec!["iteration           ||r||                 zeta".to_owned()];
    let (zeta, seconds) = timed(team, || {
        let mut zeta = 0.0;
        for iteration in 1..=problem.iterations {
            let step = power_step(team, &matrix, &mut vectors);
            zeta = problem.shift + step.inverse;
            results.push(format!("{iteration:9} {:15.8e} {zeta:20.13}", step.error));
        }
        zeta
    });
    let check = Check { name: "Zeta", computed: zeta, published: problem.zeta, tolerance: TOLERANCE };
    results.push(check.to_string());
    Ok(Outcome {
        size: Size::Count(problem.order),
        iterations: problem.iterations,
        seconds,
        million_operations: problem.million_operations(),
        operation: "floating point",
        verified: check.passed(),
        results,
    })
}

/// What a step of the power iteration gives.
#[derive(Clone, Copy, Debug)]
struct PowerStep {
    /// 1 / x·z.
    inverse: f64,
    /// How far A z is from x.
    error: f64,
}

/// Solves A z = x, and makes x the unit vector along z.
fn power_step(team: &dyn Team, matrix: &Rows, vectors: &mut Vectors) -> PowerStep {
    let error = solve(team, matrix, vectors);
    let solution = vectors.solution.read(team.share(vectors.solution.len()));
    let mut sums = [dot(&vectors.x, &solution), dot(&solution, &solution)];
    team.sum(&mut sums);
    let length = 1.0 / sums[1].sqrt();
    for (x, z) in vectors.x.iter_mut().zip(solution.iter()) {
        *x = length * z;
    }
    PowerStep { inverse: 1.0 / sums[0], error }
}

/// Conjugate gradients from zero. Gives the distance of A z from x.
fn solve(team: &dyn Team, matrix: &Rows, vectors: &mut Vectors) -> f64 {
    let Vectors { x, residual, product, direction, solution } = vectors;
    let mine = team.share(direction.len());
    residual.copy_from_slice(x);
    direction.write(mine.clone()).copy_from_slice(x);
    solution.write(mine.clone()).fill(0.0);
    // A barrier, after which all of the direction may be read.
    let mut square = team.sum_one(dot(residual, residual));
    for _ in 0..STEPS {
        matrix.times(&direction.read_all(), product);
        let curvature = team.sum_one(dot(&direction.read(mine.clone()), product));
        let step = square / curvature;
        add_scaled(&mut solution.write(mine.clone()), step, &direction.read(mine.clone()));
        add_scaled(residual, -step, product);
        let before = square;
        square = team.sum_one(dot(residual, residual));
        let keep = square / before;
        for (direction, residual) in direction.write(mine.clone()).iter_mut().zip(residual.iter()) {
            *direction = residual + keep * *direction;
        }
        team.barrier();
    }
    matrix.times(&solution.read_all(), product);
    team.sum_one(x.iter().zip(product.iter()).map(|(x, product)| (x - product).powi(2)).sum()).sqrt()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(to: &mut [f64], factor: f64, what: &[f64]) {
    for (to, what) in to.iter_mut().zip(what) {
        *to += factor * what;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::team::threads;

    #[test]
    fn conjugate_gradients_solve_the_system() {
        // The benchmark's matrices are positive definite without their shift.
        let error = threads::run(3, |team| {
            let mine = team.share(200);
            let matrix = Rows::new(200, 5, 0.0, mine.clone());
            let mut vectors = Vectors {
                x: mine.clone().map(|at| (at as f64).sin()).collect(),
                residual: vec![0.0; mine.len()],
                product: vec![0.0; mine.len()],
                direction: team.array(200).unwrap(),
                solution: team.array(200).unwrap(),
            };
            let error = solve(team, &matrix, &mut vectors);
            assert!(vectors.solution.read(mine).iter().any(|z| z.abs() > 0.1));
            error
        });
        // The right-hand side's length is 10.
        let error = error.unwrap();
        assert!(error < 0.02, "{error}");
    }
}
