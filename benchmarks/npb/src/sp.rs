//! SP: steps of the gas in a cube, each by scalar pentadiagonal systems along x, y and z in turn (RNR-94-007, section 3.4).
//!
//! Along each axis the Jacobian of the flux is made diagonal, and of the diffusion only the largest is kept, so that the parts of the changes can be
//! solved for one by one: three that go with the gas, and one each with and against the sound. Lines along x and y are within a member's planes; for
//! those along z the members share out the rows instead.

use crate::cfd::axis::{Axis, Wave};
use crate::cfd::block::State;
use crate::cfd::{Gas, problem::Problem};
use crate::class::Class;
use crate::kernel::Outcome;
use crate::team::{NoMemory, Team};

const S: Problem = Problem {
    side: 12,
    steps: 100,
    step: 0.015,
    norms: [
        [
            2.747_031_545_133_948e-2,
            1.036_074_670_528_541_7e-2,
            1.623_574_506_509_553_2e-2,
            1.584_055_722_445_561_5e-2,
            3.484_904_060_936_246e-2,
        ],
        [
            2.728_925_855_737_722_7e-5,
            1.036_444_664_083_728_5e-5,
            1.615_479_828_716_647e-5,
            1.575_070_499_448_01e-5,
            3.417_766_618_339_053e-5,
        ],
    ],
};

const W: Problem = Problem {
    side: 36,
    steps: 400,
    step: 0.0015,
    norms: [
        [1.893_253_733_584e-3, 1.717_075_447_775e-4, 2.778_153_350_936e-4, 2.887_475_409_984e-4, 3.143_611_161_242e-3],
        [7.542_088_599_534e-5, 6.512_852_253_086e-6, 1.049_092_285_688e-5, 1.128_838_671_535e-5, 1.212_845_639_773e-4],
    ],
};

const A: Problem = Problem {
    side: 64,
    steps: 400,
    step: 0.0015,
    norms: [
        [
            2.479_982_239_930_019_5,
            1.127_633_796_436_883_2,
            1.502_897_788_877_049,
            1.421_781_621_169_518,
            2.129_211_303_513_828,
        ],
        [
            1.090_014_029_782_055e-4,
            3.734_395_176_928_209e-5,
            5.009_278_540_654_163e-5,
            4.767_109_393_952_825e-5,
            1.362_161_339_921_3e-4,
        ],
    ],
};

const B: Problem = Problem {
    side: 102,
    steps: 400,
    step: 0.001,
    norms: [
        [6.903_293_579_998e1, 3.095_134_488_084e1, 4.103_336_647_017e1, 3.864_769_009_604e1, 5.643_482_272_596e1],
        [9.810_006_190_188e-3, 1.022_827_905_67e-3, 1.720_597_911_692e-3, 1.694_479_428_231e-3, 1.847_456_263_981e-2],
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
    let operations = 881.174 * side.powi(3) - 4683.91 * side.powi(2) + 11484.5 * side - 19272.4;
    problem.run(team, operations, |gas| {
        let mut systems = Systems::default();
        solve_in_planes(team, gas, problem.step, &mut systems);
        team.barrier();
        solve_across_planes(team, gas, problem.step, &mut systems);
    })
}

/// Lines along x, then those along y.
fn solve_in_planes(team: &dyn Team, gas: &Gas, step: f64, systems: &mut Systems) {
    let (planes, states) = (gas.own_planes(team), gas.state.read_all());
    let mut changes = gas.own(team, &gas.change);
    let first = gas.place(planes.start, 0, 0);
    let mut line = vec![[0.0; 5]; gas.side() - 2];
    for z in planes {
        for y in gas.inner() {
            let row = gas.place(z, y, 1) - first;
            let row = &mut changes[row..row + gas.side() - 2];
            for (x, change) in gas.inner().zip(&mut *row) {
                *change = into_waves(&states[gas.place(z, y, x)], *change);
            }
            systems.set_waves(gas.axis(0), (0..gas.side()).map(|x| &states[gas.place(z, y, x)]));
            systems.solve(gas.axis(0), step, row);
            row.iter_mut().for_each(|change| *change = from_x_to_y(*change));
        }
        for x in gas.inner() {
            for (y, change) in gas.inner().zip(&mut line) {
                *change = changes[gas.place(z, y, x) - first];
            }
            systems.set_waves(gas.axis(1), (0..gas.side()).map(|y| &states[gas.place(z, y, x)]));
            systems.solve(gas.axis(1), step, &mut line);
            for (y, change) in gas.inner().zip(&line) {
                changes[gas.place(z, y, x) - first] = from_y_to_z(*change);
            }
        }
    }
}

/// Lines along z, of this member's rows.
fn solve_across_planes(team: &dyn Team, gas: &Gas, step: f64, systems: &mut Systems) {
    let rows = team.share(gas.side() - 2);
    let rows = rows.start + 1..rows.end + 1;
    let states = gas.state.read_all();
    let of_plane = |z| gas.change.write(gas.place(z, rows.start, 0)..gas.place(z, rows.end, 0));
    let mut planes: Vec<_> = gas.inner().map(of_plane).collect();
    let mut line = vec![[0.0; 5]; gas.side() - 2];
    for (y, x) in rows.clone().flat_map(|y| gas.inner().map(move |x| (y, x))) {
        let place = (y - rows.start) * gas.side() + x;
        for (plane, change) in planes.iter().zip(&mut line) {
            *change = plane[place];
        }
        systems.set_waves(gas.axis(2), (0..gas.side()).map(|z| &states[gas.place(z, y, x)]));
        systems.solve(gas.axis(2), step, &mut line);
        for ((z, plane), change) in gas.inner().zip(&mut planes).zip(&line) {
            plane[place] = out_of_waves(&states[gas.place(z, y, x)], *change);
        }
    }
}

/// A change by the waves along x that it is made of: it times the inverse of the eigenvectors of the Jacobian there.
#[inline]
fn into_waves(state: &State, change: State) -> State {
    let gas = Local::of(state);
    let [u, v, w] = gas.velocity;
    let [a, b, c, d, e] = change;
    let entropy = (gas.kinetic * a - u * b - v * c - w * d + e) * CAPACITY / gas.sound_squared;
    let along = HALF_ROOT / gas.density * (u * a - b);
    let pressure = HALF_ROOT / gas.density * gas.sound_squared.sqrt() * entropy;
    [a - entropy, (d - w * a) / gas.density, (v * a - c) / gas.density, pressure - along, pressure + along]
}

/// Waves along x by those along y.
#[inline]
fn from_x_to_y([a, b, c, d, e]: State) -> State {
    let (across, pressure) = (HALF_ROOT * c, 0.5 * (d + e));
    [-b, a, HALF_ROOT * (d - e), pressure - across, pressure + across]
}

/// Waves along y by those along z.
#[inline]
fn from_y_to_z([a, b, c, d, e]: State) -> State {
    let (across, pressure) = (HALF_ROOT * a, 0.5 * (d + e));
    [HALF_ROOT * (d - e), -c, b, pressure - across, pressure + across]
}

/// The change that is made of these waves along z.
#[inline]
fn out_of_waves(state: &State, [a, b, c, d, e]: State) -> State {
    let gas = Local::of(state);
    let [u, v, w] = gas.velocity;
    let pressure = HALF_ROOT * gas.density / gas.sound_squared.sqrt() * (d + e);
    let density = c + pressure;
    let along = HALF_ROOT * gas.density * (d - e);
    [
        density,
        u * density - gas.density * b,
        v * density + gas.density * a,
        w * density + along,
        gas.density * (v * a - u * b) + gas.kinetic * density + pressure * gas.sound_squared / CAPACITY + w * along,
    ]
}

/// Ratio of the specific heats, less one.
const CAPACITY: f64 = 0.4;
const HALF_ROOT: f64 = std::f64::consts::FRAC_1_SQRT_2;

/// What the waves at a point depend on.
struct Local {
    density: f64,
    velocity: [f64; 3],
    /// Half of the square of the speed.
    kinetic: f64,
    sound_squared: f64,
}

impl Local {
    #[inline]
    fn of(state: &State) -> Self {
        let density = state[0];
        let velocity = [state[1] / density, state[2] / density, state[3] / density];
        let kinetic = 0.5 * velocity.iter().map(|along| along * along).sum::<f64>();
        Self { density, velocity, kinetic, sound_squared: crate::cfd::axis::sound_squared(state, kinetic) }
    }
}

/// The systems of one line.
#[derive(Debug, Default)]
struct Systems {
    /// At the points along the line, those of the boundary as well.
    waves: Vec<Wave>,
    /// The two above the diagonal when all below it is eliminated, by points within.
    above: Vec<[f64; 2]>,
}

impl Systems {
    fn set_waves<'a>(&mut self, axis: &Axis, states: impl Iterator<Item = &'a State>) {
        self.waves.clear();
        self.waves.extend(states.map(|state| axis.wave(state)));
    }

    /// Solves for the changes at the points within; on the boundary nothing changes.
    fn solve(&mut self, axis: &Axis, step: f64, changes: &mut [State]) {
        // Three parts go with the gas: one system.
        self.solve_parts::<3>(axis, step, 0.0, 0, changes);
        self.solve_parts::<1>(axis, step, 1.0, 3, changes);
        self.solve_parts::<1>(axis, step, -1.0, 4, changes);
    }

    /// Solves for so many parts of the changes, from `first` on, which move with the gas and `sound` times the speed of sound.
    #[inline]
    fn solve_parts<const PARTS: usize>(
        &mut self,
        axis: &Axis,
        step: f64,
        sound: f64,
        first: usize,
        changes: &mut [State],
    ) {
        self.above.clear();
        let take = |change: &State| -> [f64; PARTS] { std::array::from_fn(|part| change[first + part]) };
        // What is above the diagonal in the two rows before, and their right sides: nothing before the first.
        let mut before = [([0.0; 2], [0.0; PARTS]); 2];
        for (at, change) in changes.iter_mut().enumerate() {
            let waves = [&self.waves[at], &self.waves[at + 1], &self.waves[at + 2]];
            let [far, near, own, next, last] = axis.wave_row(at + 1, waves, sound, step);
            let [(above_far, right_far), (above_near, right_near)] = before;
            let near = near - far * above_far[0];
            let factor = 1.0 / (own - far * above_far[1] - near * above_near[0]);
            let above = [(next - near * above_near[1]) * factor, last * factor];
            let own = take(change);
            let right: [f64; PARTS] =
                std::array::from_fn(|part| (own[part] - far * right_far[part] - near * right_near[part]) * factor);
            change[first..first + PARTS].copy_from_slice(&right);
            self.above.push(above);
            before = [before[1], (above, right)];
        }
        let mut behind = [[0.0; PARTS]; 2];
        for (change, above) in changes.iter_mut().zip(&self.above).rev() {
            let own = take(change);
            let known: [f64; PARTS] =
                std::array::from_fn(|part| own[part] - above[0] * behind[0][part] - above[1] * behind[1][part]);
            change[first..first + PARTS].copy_from_slice(&known);
            behind = [known, behind[0]];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cfd::block::times;
    use crate::cfd::solution::exact;
    use proptest::prelude::*;

    fn state() -> impl Strategy<Value = State> {
        (1.0..3.0, -1.0..1.0, -1.0..1.0, -1.0..1.0, 4.0..6.0).prop_map(|(a, b, c, d, e)| [a, b, c, d, e])
    }

    proptest! {
        /// From waves to waves and back to a change, it is the same.
        #[test]
        fn waves_make_the_change_that_they_are_made_of(state in state(), change in prop::array::uniform5(-1.0..1.0)) {
            let waves = from_y_to_z(from_x_to_y(into_waves(&state, change)));
            let back = out_of_waves(&state, waves);
            prop_assert!(back.iter().zip(&change).all(|(back, change)| f64::abs(back - change) < 1e-11));
        }

        /// In waves the flux's Jacobian is diagonal: the speeds of the gas, thrice, and with and against sound.
        #[test]
        fn each_wave_moves_at_its_own_speed(state in state(), waves in prop::array::uniform5(-1.0..1.0)) {
            let axis = Axis::new(2, 12);
            let (before, behind) = (axis.before(&state, 1.0), axis.behind(&state, 1.0));
            // Of their difference, diffusion is no part; 11 cells are as many times what is left.
            let jacobian = std::array::from_fn(|row| std::array::from_fn(|at| (behind[row][at] - before[row][at]) / 11.0));
            let moved = times(&jacobian, &out_of_waves(&state, waves));
            let wave = axis.wave(&state);
            let speeds = [0.0, 0.0, 0.0, 1.0, -1.0].map(|sound| wave.speed(sound));
            let expected = out_of_waves(&state, std::array::from_fn(|part| speeds[part] * waves[part]));
            prop_assert!(moved.iter().zip(&expected).all(|(moved, expected)| f64::abs(moved - expected) < 1e-10));
        }
    }

    #[test]
    fn a_line_that_is_solved_fulfils_its_systems() {
        let (axis, step) = (Axis::new(1, 12), 0.02);
        let states: Vec<_> = (0..12).map(|at| exact([0.3, f64::from(at) / 11.0, 0.6])).collect();
        let right: Vec<State> =
            (0..10).map(|at| std::array::from_fn(|part| f64::from(at * at) + part as f64)).collect();
        let mut systems = Systems::default();
        systems.set_waves(&axis, states.iter());
        let mut changes = right.clone();
        systems.solve(&axis, step, &mut changes);
        for (at, right) in right.iter().enumerate() {
            for (part, sound) in [0.0, 0.0, 0.0, 1.0, -1.0].into_iter().enumerate() {
                let waves = [&systems.waves[at], &systems.waves[at + 1], &systems.waves[at + 2]];
                let row = axis.wave_row(at + 1, waves, sound, step);
                // The first of the row's places is two before it.
                let places = (0..5).map(|place| (at + place).checked_sub(2).and_then(|at| changes.get(at)));
                let sum: f64 =
                    places.zip(row).map(|(change, factor)| change.map_or(0.0, |change| factor * change[part])).sum();
                assert!((sum - right[part]).abs() < 1e-10, "{at} {part}: {sum}");
            }
        }
    }
}
