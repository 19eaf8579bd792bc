//! BT: steps of the gas in a cube, each by block tridiagonal systems along x, y and z in turn (RNR-94-007, sections 3.2 and 3.3).
//!
//! Lines along x and y are within a member's planes; for those along z the members share out the rows instead.

use crate::cfd::block::{Block, State, solve, subtract_block_product, subtract_product};
use crate::cfd::{Gas, axis::Axis, problem::Problem};
use crate::class::Class;
use crate::kernel::Outcome;
use crate::team::{NoMemory, Team};

const S: Problem = Problem {
    side: 12,
    steps: 60,
    step: 0.01,
    norms: [
        [
            1.703_428_370_954_131_2e-1,
            1.297_525_207_003_409_6e-2,
            3.252_792_698_948_605_4e-2,
            2.643_642_127_516_68e-2,
            1.921_178_413_174_443e-1,
        ],
        [
            4.997_691_334_581_158e-4,
            4.519_566_678_296_193e-5,
            7.397_376_517_292_135e-5,
            7.382_123_863_243_973e-5,
            8.926_963_098_749_145e-4,
        ],
    ],
};

const W: Problem = Problem {
    side: 24,
    steps: 200,
    step: 0.0008,
    norms: [
        [1.125_590_409_344e2, 1.180_007_595_731e1, 2.710_329_767_846e1, 2.469_174_937_669e1, 2.638_427_874_317e2],
        [4.419_655_736_008, 4.638_531_260_002e-1, 1.011_551_749_967, 9.235_878_729_944e-1, 1.018_045_837_718e1],
    ],
};

const A: Problem = Problem {
    side: 64,
    steps: 200,
    step: 0.0008,
    norms: [
        [
            1.080_634_671_463_726_4e2,
            1.131_973_090_122_081_3e1,
            2.597_435_451_158_246_5e1,
            2.366_562_254_467_891e1,
            2.527_896_321_174_834_5e2,
        ],
        [
            4.234_841_604_052_502_5,
            4.439_028_249_699_57e-1,
            9.669_248_013_634_565e-1,
            8.830_206_303_976_548e-1,
            9.737_990_177_082_928,
        ],
    ],
};

const B: Problem = Problem {
    side: 102,
    steps: 200,
    step: 0.0003,
    norms: [
        [
            1.423_359_722_928_725_4e3,
            9.933_052_259_015_024e1,
            3.564_602_564_453_528_5e2,
            3.248_544_795_908_409e2,
            3.270_754_125_465_936_3e3,
        ],
        [
            5.296_984_714_093_686e1,
            4.463_289_611_567_067,
            1.312_257_334_221_017_4e1,
            1.200_692_532_355_914_5e1,
            1.245_957_615_103_598_6e2,
        ],
    ],
};

/// Runs it.
///
/// # Errors
///
/// No memory for its arrays.
pub fn run(team: &dyn Team, class: Class) -> Result<Outcome, NoMemory> {
    let problem = class.pick([S, W, A, B]);
    let side = problem.side as f64;
    let operations = 3478.8 * side.powi(3) - 17655.7 * side.powi(2) + 28023.7 * side;
    problem.run(team, operations, |gas| {
        let mut system = System::default();
        solve_in_planes(team, gas, problem.step, &mut system);
        team.barrier();
        solve_across_planes(team, gas, problem.step, &mut system);
    })
}

/// Lines along x, then those along y.
fn solve_in_planes(team: &dyn Team, gas: &Gas, step: f64, system: &mut System) {
    let (planes, states) = (gas.own_planes(team), gas.state.read_all());
    let mut changes = gas.own(team, &gas.change);
    let first = gas.place(planes.start, 0, 0);
    for z in planes {
        for y in gas.inner() {
            system.set_states((0..gas.side()).map(|x| &states[gas.place(z, y, x)]));
            let row = gas.place(z, y, 1) - first;
            system.solve(gas.axis(0), step, &mut changes[row..row + gas.side() - 2]);
        }
        let mut line = vec![[0.0; 5]; gas.side() - 2];
        for x in gas.inner() {
            system.set_states((0..gas.side()).map(|y| &states[gas.place(z, y, x)]));
            for (y, change) in gas.inner().zip(&mut line) {
                *change = changes[gas.place(z, y, x) - first];
            }
            system.solve(gas.axis(1), step, &mut line);
            for (y, change) in gas.inner().zip(&line) {
                changes[gas.place(z, y, x) - first] = *change;
            }
        }
    }
}

/// Lines along z, of this member's rows.
fn solve_across_planes(team: &dyn Team, gas: &Gas, step: f64, system: &mut System) {
    let rows = team.share(gas.side() - 2);
    let rows = rows.start + 1..rows.end + 1;
    let states = gas.state.read_all();
    let of_plane = |z| gas.change.write(gas.place(z, rows.start, 0)..gas.place(z, rows.end, 0));
    let mut planes: Vec<_> = gas.inner().map(of_plane).collect();
    let mut line = vec![[0.0; 5]; gas.side() - 2];
    for (y, x) in rows.clone().flat_map(|y| gas.inner().map(move |x| (y, x))) {
        system.set_states((0..gas.side()).map(|z| &states[gas.place(z, y, x)]));
        let place = (y - rows.start) * gas.side() + x;
        for (plane, change) in planes.iter().zip(&mut line) {
            *change = plane[place];
        }
        system.solve(gas.axis(2), step, &mut line);
        for (plane, change) in planes.iter_mut().zip(&line) {
            plane[place] = *change;
        }
    }
}

/// The system of one line.
#[derive(Debug, Default)]
struct System {
    /// The states along the line, those of the boundary as well.
    states: Vec<State>,
    /// What is above the diagonal when all below it is eliminated, by points within.
    above: Vec<Block>,
}

impl System {
    fn set_states<'a>(&mut self, states: impl Iterator<Item = &'a State>) {
        self.states.clear();
        self.states.extend(states);
    }

    /// Solves for the changes at the points within; on the boundary nothing changes.
    fn solve(&mut self, axis: &Axis, step: f64, changes: &mut [State]) {
        self.above.clear();
        for at in 0..changes.len() {
            let [before, here, behind] = [at, at + 1, at + 2].map(|place| &self.states[place]);
            let mut own = [[0.0; 5]; 5];
            (0..5).for_each(|part| own[part][part] = 1.0);
            axis.add_own(&mut own, here, step);
            let mut change = changes[at];
            if let Some(above) = self.above.last() {
                let below = axis.before(before, step);
                subtract_block_product(&mut own, &below, above);
                subtract_product(&mut change, &below, &changes[at - 1]);
            }
            // The block behind and the change are solved for at once.
            let behind = axis.behind(behind, step);
            let mut right: [[f64; 6]; 5] = std::array::from_fn(|row| {
                let [a, b, c, d, e] = behind[row];
                [a, b, c, d, e, change[row]]
            });
            solve(own, &mut right);
            self.above.push(right.map(|[a, b, c, d, e, _]| [a, b, c, d, e]));
            changes[at] = right.map(|row| row[5]);
        }
        for at in (1..changes.len()).rev() {
            let known = changes[at];
            subtract_product(&mut changes[at - 1], &self.above[at - 1], &known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cfd::block::times;
    use crate::cfd::solution::exact;

    #[test]
    fn a_line_that_is_solved_fulfils_its_system() {
        let (axis, step) = (Axis::new(1, 12), 0.02);
        let states: Vec<_> = (0..12).map(|at| exact([0.3, f64::from(at) / 11.0, 0.6])).collect();
        let right: Vec<State> =
            (0..10).map(|at| std::array::from_fn(|part| f64::from(at * at) + part as f64)).collect();
        let mut system = System::default();
        system.set_states(states.iter());
        let mut changes = right.clone();
        system.solve(&axis, step, &mut changes);
        for at in 0..10 {
            let mut own = [[0.0; 5]; 5];
            (0..5).for_each(|part| own[part][part] = 1.0);
            axis.add_own(&mut own, &states[at + 1], step);
            let mut sum = times(&own, &changes[at]);
            let mut add = |block: Block, change: Option<&State>| {
                let product = times(&block, change.unwrap_or(&[0.0; 5]));
                (0..5).for_each(|part| sum[part] += product[part]);
            };
            add(axis.before(&states[at], step), at.checked_sub(1).map(|before| &changes[before]));
            add(axis.behind(&states[at + 2], step), changes.get(at + 1));
            assert!(sum.iter().zip(&right[at]).all(|(sum, right)| (sum - right).abs() < 1e-10));
        }
    }
}
