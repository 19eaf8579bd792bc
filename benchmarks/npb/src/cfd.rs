//! What BT, LU and SP have in common: the Navier-Stokes equations for a compressible gas in a cube, with a force such that a known
//! polynomial is the steady solution (RNR-94-007, section 3).
//!
//! A member has the planes of some z of each array; it reads those next to them. The innermost index is x.
//!
//! - [`solution`]: the polynomial;
//! - [`axis`]: what differences along one axis contribute, and their Jacobians;
//! - [`block`]: blocks of five by five;
//! - [`problem`]: a run, and its outcome.

pub mod axis;
pub mod block;
pub mod problem;
pub mod solution;

use std::ops::Range;

use crate::kernel::Check;
use crate::team::shared::{Shared, Writing};
use crate::team::{NoMemory, Team};
use axis::{Axis, Line};
use block::State;
use solution::{blended, exact};

/// The relative error that is allowed of each norm.
const TOLERANCE: f64 = 1e-8;

/// The gas in the cube.
#[derive(Debug)]
pub struct Gas {
    /// Points along each side, those on the boundary as well.
    side: usize,
    /// By axis: x, y, z.
    axes: [Axis; 3],
    /// The state of each point.
    pub state: Shared<State>,
    /// How it changes, then by how much. Zero on the boundary.
    pub change: Shared<State>,
    force: Shared<State>,
}

impl Gas {
    /// The gas as it is at first.
    ///
    /// # Errors
    ///
    /// No memory for its arrays.
    pub fn new(team: &dyn Team, side: usize) -> Result<Self, NoMemory> {
        let array = || team.array::<State>(side.pow(3));
        let axes = [0, 1, 2].map(|axis| Axis::new(axis, side));
        let gas = Self { side, axes, state: array()?, change: array()?, force: array()? };
        gas.fill(team, exact);
        team.barrier();
        // The force is what makes the known solution steady.
        gas.set_change(team, 1.0);
        gas.for_own(team, &gas.force, &gas.change, |force, change| *force = change.map(|value| -value));
        gas.reset(team);
        Ok(gas)
    }

    /// Makes it as it is at first. It begins and ends with a barrier.
    pub fn reset(&self, team: &dyn Team) {
        team.barrier();
        self.fill(team, |point| {
            let inside = point.iter().all(|at| *at > 0.0 && *at < 1.0);
            if inside { blended(point) } else { exact(point) }
        });
        team.barrier();
    }

    /// Points along each side.
    #[must_use]
    pub fn side(&self) -> usize {
        self.side
    }

    /// An axis: 0, 1 and 2 are x, y and z.
    #[must_use]
    pub fn axis(&self, axis: usize) -> &Axis {
        &self.axes[axis]
    }

    /// Where a point is in the arrays.
    #[must_use]
    pub fn place(&self, z: usize, y: usize, x: usize) -> usize {
        (z * self.side + y) * self.side + x
    }

    /// The indices of points that are not on the boundary.
    #[must_use]
    pub fn inner(&self) -> Range<usize> {
        1..self.side - 1
    }

    /// This member's planes, of those that have inner points.
    #[must_use]
    pub fn own_planes(&self, team: &dyn Team) -> Range<usize> {
        let mine = team.share(self.side - 2);
        mine.start + 1..mine.end + 1
    }

    fn points_of(&self, planes: Range<usize>) -> Range<usize> {
        self.place(planes.start, 0, 0)..self.place(planes.end, 0, 0)
    }

    /// This member's planes of an array, to be written.
    pub fn own<'a>(&self, team: &dyn Team, array: &'a Shared<State>) -> Writing<'a, State> {
        array.write(self.points_of(self.own_planes(team)))
    }

    /// Does something with each of this member's points of two arrays.
    fn for_own(
        &self,
        team: &dyn Team,
        to: &Shared<State>,
        from: &Shared<State>,
        mut with: impl FnMut(&mut State, &State),
    ) {
        let from = from.read(self.points_of(self.own_planes(team)));
        for (to, from) in self.own(team, to).iter_mut().zip(from.iter()) {
            with(to, from);
        }
    }

    fn coordinate(&self, at: usize) -> f64 {
        // Exactly 1 at the end.
        if at + 1 == self.side { 1.0 } else { at as f64 / (self.side - 1) as f64 }
    }

    /// Sets the states, on the boundary as well, from the coordinates.
    fn fill(&self, team: &dyn Team, with: impl Fn([f64; 3]) -> State) {
        // Here all planes are shared out, those of the boundary too.
        let planes = team.share(self.side);
        let mut states = self.state.write(self.points_of(planes.clone()));
        for (at, state) in (self.place(planes.start, 0, 0)..).zip(states.iter_mut()) {
            let place = [at % self.side, at / self.side % self.side, at / self.side / self.side];
            *state = with(place.map(|at| self.coordinate(at)));
        }
    }

    /// Sets the changes of this member's planes: `factor` times how the states change.
    pub fn set_change(&self, team: &dyn Team, factor: f64) {
        let planes = self.own_planes(team);
        let states = self.state.read_all();
        let mut changes = self.own(team, &self.change);
        changes.copy_from_slice(&self.force.read(self.points_of(planes.clone())));
        let (mut line, mut sums) = (Line::default(), vec![[0.0; 5]; self.side]);
        let mut add = |axis: usize, wanted: Range<usize>, place: &dyn Fn(usize) -> usize| {
            let seen = wanted.start.saturating_sub(2)..(wanted.end + 2).min(self.side);
            line.set(seen.start, seen.map(|at| &states[place(at)]));
            let sums = &mut sums[..wanted.len()];
            sums.fill([0.0; 5]);
            self.axes[axis].add_terms(&line, wanted.clone(), sums);
            let first = self.place(planes.start, 0, 0);
            for (at, sum) in wanted.zip(sums) {
                let change = &mut changes[place(at) - first];
                (0..5).for_each(|part| change[part] += sum[part]);
            }
        };
        for z in planes.clone() {
            for at in self.inner() {
                add(0, self.inner(), &|x| self.place(z, at, x));
                add(1, self.inner(), &|y| self.place(z, y, at));
            }
        }
        for (y, x) in self.inner().flat_map(|y| self.inner().map(move |x| (y, x))) {
            add(2, planes.clone(), &|z| self.place(z, y, x));
        }
        changes.iter_mut().flatten().for_each(|value| *value *= factor);
    }

    /// Adds `factor` times the changes to the states, in this member's planes.
    pub fn add_change(&self, team: &dyn Team, factor: f64) {
        self.for_own(team, &self.state, &self.change, |state, change| {
            (0..5).for_each(|part| state[part] += factor * change[part]);
        });
    }

    /// The norm of the changes, by their parts. It is a barrier.
    #[must_use]
    pub fn change_norm(&self, team: &dyn Team) -> State {
        let changes = self.change.read(self.points_of(self.own_planes(team)));
        let squares = changes.iter().fold([0.0; 5], add_squares);
        drop(changes);
        self.norm(team, squares)
    }

    /// The norm of how far the states are from the known solution, by their parts. It is a barrier.
    #[must_use]
    pub fn error_norm(&self, team: &dyn Team) -> State {
        let planes = self.own_planes(team);
        let states = self.state.read(self.points_of(planes.clone()));
        let first = self.place(planes.start, 0, 0);
        let mut squares = [0.0; 5];
        for (at, state) in (first..).zip(states.iter()) {
            // On the boundary there is no error.
            let place = [at % self.side, at / self.side % self.side, at / self.side / self.side];
            let known = exact(place.map(|at| self.coordinate(at)));
            squares = add_squares(squares, &std::array::from_fn(|part| state[part] - known[part]));
        }
        drop(states);
        self.norm(team, squares)
    }

    fn norm(&self, team: &dyn Team, mut squares: State) -> State {
        team.sum(&mut squares);
        squares.map(|square| (square / (self.side - 2).pow(3) as f64).sqrt())
    }
}

fn add_squares(sums: State, values: &State) -> State {
    std::array::from_fn(|part| sums[part] + values[part] * values[part])
}

/// Norms beside the published ones: of the changes, of the error.
#[must_use]
pub fn checks(changes: State, errors: State, published: &[State; 2]) -> Vec<Check> {
    const NAMES: [[&str; 5]; 2] = [
        ["residual 1", "residual 2", "residual 3", "residual 4", "residual 5"],
        ["error 1", "error 2", "error 3", "error 4", "error 5"],
    ];
    let all = [changes, errors].into_iter().zip(published).zip(NAMES);
    let checks = all.flat_map(|((computed, published), names)| {
        (0..5).map(move |part| Check {
            name: names[part],
            computed: computed[part],
            published: published[part],
            tolerance: TOLERANCE,
        })
    });
    checks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::team::threads;

    #[test]
    fn the_known_solution_is_steady() {
        for members in [1, 3] {
            threads::run(members, |team| {
                let gas = Gas::new(team, 12).unwrap();
                gas.set_change(team, 1.0);
                assert!(gas.change_norm(team).iter().all(|norm| *norm > 1e-3));
                assert!(gas.error_norm(team).iter().all(|norm| *norm > 1e-3));
                gas.fill(team, exact);
                team.barrier();
                gas.set_change(team, 1.0);
                assert!(gas.change_norm(team).iter().all(|norm| *norm < 1e-10));
                assert_eq!(gas.error_norm(team), [0.0; 5]);
            })
            .unwrap();
        }
    }
}
