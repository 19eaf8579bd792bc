//! LU: steps of the gas in a cube, each by one symmetric successive over-relaxation (RNR-94-007, section 3.4).
//!
//! In a sweep every point needs the points before it on all three axes. Members have adjacent rows and go through the planes one
//! behind the other: a member is in the plane that the member before it has just left.

use std::ops::Range;

use crate::cfd::block::{Block, State, solve, times};
use crate::cfd::problem::outcome;
use crate::cfd::{Gas, checks};
use crate::class::Class;
use crate::kernel::{Check, Outcome, timed};
use crate::team::{NoMemory, Team};

/// Over-relaxation.
const OMEGA: f64 = 1.2;

/// Relative error that is allowed of the integral.
const TOLERANCE: f64 = 1e-8;

/// A class's problem.
#[derive(Clone, Copy, Debug)]
struct Problem {
    side: usize,
    steps: usize,
    step: f64,
    /// The published norms of the residual and of the error.
    norms: [State; 2],
    /// The published surface integral of the pressure.
    integral: f64,
}

const S: Problem = Problem {
    side: 12,
    steps: 50,
    step: 0.5,
    norms: [
        [
            1.619_634_321_097_670_3e-2,
            2.197_674_516_482_132e-3,
            1.517_992_765_339_918_5e-3,
            1.502_958_443_599_432_3e-3,
            3.426_407_315_589_646e-2,
        ],
        [
            6.422_331_995_796_092e-4,
            8.414_434_204_734_792e-5,
            5.858_826_961_648_519e-5,
            5.847_422_259_515_735e-5,
            1.310_334_791_411_129e-3,
        ],
    ],
    integral: 7.841_892_886_593_708,
};

const W: Problem = Problem {
    side: 33,
    steps: 300,
    step: 1.5e-3,
    norms: [
        [1.236_511_638_192e1, 1.317_228_477_799, 2.550_120_713_095, 2.326_187_750_252, 2.826_799_444_189e1],
        [4.867_877_144_216e-1, 5.064_652_880_982e-2, 9.281_818_101_96e-2, 8.570_126_542_733e-2, 1.084_277_417_792],
    ],
    integral: 1.161_399_311_023e1,
};

const A: Problem = Problem {
    side: 64,
    steps: 250,
    step: 2.0,
    norms: [
        [
            7.790_210_760_668_937e2,
            6.340_276_525_969_287e1,
            1.949_924_972_729_248e2,
            1.784_530_116_041_854e2,
            1.838_476_034_946_425e3,
        ],
        [
            2.996_408_568_547_194e1,
            2.819_457_636_500_335,
            7.347_341_269_877_474,
            6.713_922_568_777_705,
            7.071_531_568_839_258e1,
        ],
    ],
    integral: 2.603_092_560_488_628e1,
};

const B: Problem = Problem {
    side: 102,
    steps: 250,
    step: 2.0,
    norms: [
        [
            3.553_267_296_998_274e3,
            2.621_475_079_531_069e2,
            8.833_372_185_095_219e2,
            7.781_277_473_942_527e2,
            7.308_796_959_254_531e3,
        ],
        [
            1.140_117_638_021_271e2,
            8.109_896_365_542_157,
            2.848_059_731_769_83e1,
            2.590_539_456_783_294e1,
            2.605_490_750_485_741e2,
        ],
    ],
    integral: 4.788_716_270_330_823e1,
};

/// Runs it.
///
/// # Errors
///
/// No memory for its arrays.
pub fn run(team: &dyn Team, class: Class) -> Result<Outcome, NoMemory> {
    let problem = class.pick([S, W, A, B]);
    let gas = Gas::new(team, problem.side)?;
    // Once for nothing, so that all memory is there.
    relax(team, &gas, &problem, 1);
    gas.reset(team);
    gas.set_change(team, problem.step);
    let ((), seconds) = timed(team, || relax(team, &gas, &problem, problem.steps));
    let mut checks = checks(gas.change_norm(team), gas.error_norm(team), &problem.norms);
    let computed = pressure_integral(&gas);
    checks.push(Check { name: "surface integral", computed, published: problem.integral, tolerance: TOLERANCE });
    let side = problem.side as f64;
    let operations = 1984.77 * side.powi(3) - 10923.3 * side.powi(2) + 27770.9 * side - 144_010.0;
    Ok(outcome(problem.side, problem.steps, seconds, operations, &checks))
}

/// Makes steps, from changes that are set. The changes at the end are those of a unit of time.
fn relax(team: &dyn Team, gas: &Gas, problem: &Problem, steps: usize) {
    for at in 1..=steps {
        team.barrier();
        let sweep = Sweep { gas, rows: own_rows(team, gas), step: problem.step };
        pipeline(team, gas, team.member(), |plane| sweep.lower(1 + plane));
        pipeline(team, gas, team.members() - 1 - team.member(), |plane| sweep.upper(gas.side() - 2 - plane));
        gas.add_change(team, 1.0 / (OMEGA * (2.0 - OMEGA)));
        team.barrier();
        gas.set_change(team, if at == steps { 1.0 } else { problem.step });
    }
}

fn own_rows(team: &dyn Team, gas: &Gas) -> Range<usize> {
    let mine = team.share(gas.side() - 2);
    mine.start + 1..mine.end + 1
}

/// Does each plane in turn, `lag` turns later than the first member does, with a barrier after each turn.
fn pipeline(team: &dyn Team, gas: &Gas, lag: usize, mut plane: impl FnMut(usize)) {
    let planes = gas.side() - 2;
    for turn in 0..planes + team.members() - 1 {
        if let Some(at) = turn.checked_sub(lag).filter(|at| *at < planes) {
            plane(at);
        }
        team.barrier();
    }
}

/// Sweeps over a member's rows.
#[derive(Debug)]
struct Sweep<'a> {
    gas: &'a Gas,
    rows: Range<usize>,
    step: f64,
}

impl Sweep<'_> {
    /// The points of some rows of a plane.
    fn points(&self, z: usize, rows: Range<usize>) -> Range<usize> {
        self.gas.place(z, rows.start, 0)..self.gas.place(z, rows.end, 0)
    }

    /// What is left of the changes when those of the points before are taken off, of a plane.
    fn lower(&self, z: usize) {
        let Self { gas, rows, step } = self;
        let (states, side) = (gas.state.read_all(), gas.side());
        let mut own = gas.change.write(self.points(z, rows.clone()));
        let plane_before = gas.change.read(self.points(z - 1, rows.clone()));
        let row_before = gas.change.read(self.points(z, rows.start - 1..rows.start));
        for (at, y) in rows.clone().enumerate() {
            for x in gas.inner() {
                let (place, here) = (at * side + x, gas.place(z, y, x));
                let row = if at == 0 { &row_before[x] } else { &own[place - side] };
                let products = [
                    times(&gas.axis(0).before(&states[here - 1], *step), &own[place - 1]),
                    times(&gas.axis(1).before(&states[here - side], *step), row),
                    times(&gas.axis(2).before(&states[here - side * side], *step), &plane_before[place]),
                ];
                let mut right = [0, 1, 2, 3, 4].map(|part| [own[place][part] - OMEGA * total(&products, part)]);
                solve(self.diagonal(&states[here]), &mut right);
                own[place] = right.map(|[value]| value);
            }
        }
    }

    /// Takes off what the points behind bring, of a plane.
    fn upper(&self, z: usize) {
        let Self { gas, rows, step } = self;
        let (states, side) = (gas.state.read_all(), gas.side());
        let mut own = gas.change.write(self.points(z, rows.clone()));
        let plane_behind = gas.change.read(self.points(z + 1, rows.clone()));
        let row_behind = gas.change.read(self.points(z, rows.end..rows.end + 1));
        for (at, y) in rows.clone().enumerate().rev() {
            for x in gas.inner().rev() {
                let (place, here) = (at * side + x, gas.place(z, y, x));
                let row = if y + 1 == rows.end { &row_behind[x] } else { &own[place + side] };
                let products = [
                    times(&gas.axis(0).behind(&states[here + 1], *step), &own[place + 1]),
                    times(&gas.axis(1).behind(&states[here + side], *step), row),
                    times(&gas.axis(2).behind(&states[here + side * side], *step), &plane_behind[place]),
                ];
                let mut right = [0, 1, 2, 3, 4].map(|part| [OMEGA * total(&products, part)]);
                solve(self.diagonal(&states[here]), &mut right);
                (0..5).for_each(|part| own[place][part] -= right[part][0]);
            }
        }
    }

    /// The block of a point itself.
    fn diagonal(&self, state: &State) -> Block {
        let mut block = [[0.0; 5]; 5];
        (0..5).for_each(|part| block[part][part] = 1.0);
        (0..3).for_each(|axis| self.gas.axis(axis).add_own(&mut block, state, self.step));
        block
    }
}

fn total(products: &[State; 3], part: usize) -> f64 {
    products[0][part] + products[1][part] + products[2][part]
}

/// The integral of the pressure over the surface of a box within the cube (RNR-94-007, section 3.4.2), by the trapezoidal rule.
fn pressure_integral(gas: &Gas) -> f64 {
    let states = gas.state.read_all();
    let side = gas.side();
    // First and last points of the box along x, y and z.
    let bounds = [[1, side - 2], [1, side - 3], [2, side - 2]];
    let pressure = |point: [usize; 3]| {
        let [density, x, y, z, energy] = states[gas.place(point[2], point[1], point[0])];
        0.4 * (energy - 0.5 * (x * x + y * y + z * z) / density)
    };
    let mut sum = 0.0;
    for axis in 0..3 {
        let [first, second] = [(axis + 1) % 3, (axis + 2) % 3];
        for bound in bounds[axis] {
            for a in bounds[first][0]..bounds[first][1] {
                for b in bounds[second][0]..bounds[second][1] {
                    for (a, b) in [(a, b), (a + 1, b), (a, b + 1), (a + 1, b + 1)] {
                        let mut point = [0; 3];
                        (point[axis], point[first], point[second]) = (bound, a, b);
                        sum += pressure(point);
                    }
                }
            }
        }
    }
    let distance = 1.0 / (side - 1) as f64;
    0.25 * sum * distance * distance
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::team::threads;

    #[test]
    fn planes_come_in_turn_and_one_behind_the_other() {
        let order = threads::run(3, |team| {
            let gas = Gas::new(team, 12).unwrap();
            // When each member did each plane.
            let mut times = Vec::new();
            let mut turn = 0;
            pipeline(team, &gas, team.member(), |plane| times.push(plane));
            pipeline(team, &gas, team.member(), |_| turn += 1);
            (times, turn)
        });
        assert_eq!(order.unwrap(), ((0..10).collect(), 10));
    }

    #[test]
    fn members_make_the_changes_of_one() {
        let changes = |members| {
            threads::run(members, |team| {
                let gas = Gas::new(team, 12).unwrap();
                gas.set_change(team, S.step);
                relax(team, &gas, &S, 2);
                team.barrier();
                gas.change.read_all().to_vec()
            })
            .unwrap()
        };
        // No sums are taken on the way, so to the last bit.
        assert_eq!(changes(1), changes(4));
        assert_eq!(changes(1), changes(13));
    }
}
