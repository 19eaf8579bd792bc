//! What differences along one axis contribute to the change of the states, and how that depends on the states (RNR-94-007,
//! sections 3.1, 3.2 and 3.4).

use std::ops::Range;

use super::block::{Block, State};

/// Ratio of the specific heats.
const C1: f64 = 1.4;
/// That less one: pressure is this times the internal energy.
const C2: f64 = 0.4;
/// Viscosity.
const C34: f64 = 0.1;
/// Ratio of specific heats times the inverse Prandtl number.
const C15: f64 = 1.4 * 1.4;
/// Of the stress along the flow.
const FOUR_THIRDS: f64 = 4.0 / 3.0;
/// Second-order dissipation along x, y and z.
const DIFFUSION: [f64; 3] = [0.75, 0.75, 1.0];
/// Fourth-order dissipation.
const DISSIPATION: f64 = 0.25;
/// Its weights of a point and the two on each side.
const FOURTH: [f64; 5] = [1.0, -4.0, 6.0, -4.0, 1.0];

/// One axis of a grid.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// 0, 1 and 2 are x, y and z.
    axis: usize,
    points: usize,
    /// One over the square of the distance of points.
    second: f64,
    /// One over twice that distance.
    first: f64,
}

/// A state by what the equations need.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    velocity: [f64; 3],
    /// Half of the square of the speed.
    kinetic: f64,
    /// Energy of a unit of mass.
    specific: f64,
    /// Pressure by [`C2`].
    internal: f64,
}

impl Flow {
    #[inline]
    fn of(state: &State) -> Self {
        let inverse = 1.0 / state[0];
        let velocity = [state[1] * inverse, state[2] * inverse, state[3] * inverse];
        let kinetic = 0.5 * (velocity[0] * velocity[0] + velocity[1] * velocity[1] + velocity[2] * velocity[2]);
        Self { velocity, kinetic, specific: state[4] * inverse, internal: state[4] - kinetic * state[0] }
    }
}

/// The square of the speed of sound in a state, given half of the square of the gas's own.
#[inline]
#[must_use]
pub fn sound_squared(state: &State, kinetic: f64) -> f64 {
    C1 * C2 * (state[4] / state[0] - kinetic)
}

/// What moves along an axis at a point.
#[derive(Clone, Copy, Debug)]
pub struct Wave {
    along: f64,
    sound: f64,
    /// The largest of the coefficients of diffusion: that of heat.
    diffusion: f64,
}

impl Wave {
    /// The speed of what moves with the gas and so many times the speed of sound.
    #[inline]
    #[must_use]
    pub fn speed(&self, sound: f64) -> f64 {
        self.along + sound * self.sound
    }
}

/// States along an axis.
#[derive(Debug, Default)]
pub struct Line {
    /// The index on the axis of the first of them.
    first: usize,
    states: Vec<State>,
    flows: Vec<Flow>,
}

impl Line {
    /// Makes it these states, from index `first` on.
    pub fn set<'a>(&mut self, first: usize, states: impl Iterator<Item = &'a State>) {
        self.first = first;
        self.states.clear();
        self.states.extend(states);
        self.flows.clear();
        self.flows.extend(self.states.iter().map(Flow::of));
    }
}

impl Axis {
    /// An axis of the unit cube with as many points.
    #[must_use]
    pub fn new(axis: usize, points: usize) -> Self {
        let cells = (points - 1) as f64;
        Self { axis, points, second: cells * cells, first: cells / 2.0 }
    }

    /// Adds what this axis contributes at these indices, none of which is on the boundary. The line has to have the two points
    /// before and behind them, where there are such.
    pub fn add_terms(&self, line: &Line, wanted: Range<usize>, sums: &mut [State]) {
        for (index, sum) in wanted.zip(sums) {
            let at = index - line.first;
            let states = [&line.states[at - 1], &line.states[at], &line.states[at + 1]];
            let flows = [&line.flows[at - 1], &line.flows[at], &line.flows[at + 1]];
            self.add_fluxes(states, flows, sum);
            let weights = self.dissipation(index);
            for (offset, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight != 0.0) {
                let state = &line.states[at + offset - 2];
                (0..5).for_each(|part| sum[part] -= DISSIPATION * weight * state[part]);
            }
        }
    }

    /// Weights at an index: near the boundary what would be behind it is left out.
    fn dissipation(&self, index: usize) -> State {
        let mut weights = FOURTH;
        if index <= 2 {
            weights[0] = 0.0;
        }
        if index == 1 {
            weights[1] = 0.0;
        }
        if index + 3 >= self.points {
            weights[4] = 0.0;
        }
        if index + 2 == self.points {
            weights[3] = 0.0;
        }
        if index == 1 || index + 2 == self.points {
            weights[2] = 5.0;
        }
        weights
    }

    #[inline]
    fn add_fluxes(&self, states: [&State; 3], flows: [&Flow; 3], sum: &mut State) {
        let Self { axis, first, second, .. } = *self;
        let curve = |values: [f64; 3]| second * (values[0] - 2.0 * values[1] + values[2]);
        let slope = |values: [f64; 3]| first * (values[2] - values[0]);
        for (part, sum) in sum.iter_mut().enumerate() {
            *sum += DIFFUSION[axis] * curve(states.map(|state| state[part]));
        }
        sum[0] -= slope(states.map(|state| state[1 + axis]));
        for (part, sum) in sum[1..4].iter_mut().enumerate() {
            let (stress, pressure) = if part == axis { (FOUR_THIRDS, C2) } else { (1.0, 0.0) };
            let flux =
                [0, 1, 2].map(|at| states[at][1 + part] * flows[at].velocity[axis] + pressure * flows[at].internal);
            *sum += stress * C34 * curve(flows.map(|flow| flow.velocity[part])) - slope(flux);
        }
        let flux = [0, 1, 2].map(|at| (states[at][4] + C2 * flows[at].internal) * flows[at].velocity[axis]);
        let heat = (1.0 - C15) * curve(flows.map(|flow| flow.kinetic))
            + curve(flows.map(|flow| flow.velocity[axis] * flow.velocity[axis])) / 6.0
            + C15 * curve(flows.map(|flow| flow.specific));
        sum[4] += C34 * heat - slope(flux);
    }

    /// The block of an implicit step of length `step` that belongs to the neighbour before a point, whose state is given.
    #[inline]
    #[must_use]
    pub fn before(&self, state: &State, step: f64) -> Block {
        self.neighbour(state, -step * self.first, step * self.second)
    }

    /// The same for the neighbour behind it.
    #[inline]
    #[must_use]
    pub fn behind(&self, state: &State, step: f64) -> Block {
        self.neighbour(state, step * self.first, step * self.second)
    }

    #[inline]
    fn neighbour(&self, state: &State, convection: f64, diffusion: f64) -> Block {
        let flow = Flow::of(state);
        let mut block = self.convection(state, &flow).map(|row| row.map(|value| value * convection));
        self.add_diffusion(&mut block, state, &flow, -diffusion);
        block
    }

    /// Adds to the block of the point itself.
    #[inline]
    pub fn add_own(&self, block: &mut Block, state: &State, step: f64) {
        self.add_diffusion(block, state, &Flow::of(state), 2.0 * step * self.second);
    }

    /// What moves along this axis in a state.
    #[inline]
    #[must_use]
    pub fn wave(&self, state: &State) -> Wave {
        let flow = Flow::of(state);
        Wave {
            along: flow.velocity[self.axis],
            sound: sound_squared(state, flow.kinetic).sqrt(),
            diffusion: DIFFUSION[self.axis] + C34 * C15 / state[0],
        }
    }

    /// The row, at an index, of the system of an implicit step of length `step` for what moves with the gas and so many times the speed of sound:
    /// what belongs to the two points before it, to itself, and to the two behind it. The waves are of the point before, its own, and of the one
    /// behind.
    #[inline]
    #[must_use]
    pub fn wave_row(&self, index: usize, waves: [&Wave; 3], sound: f64, step: f64) -> [f64; 5] {
        let [before, own, behind] = waves;
        let (first, second) = (step * self.first, step * self.second);
        let mut row = self.dissipation(index).map(|weight| step * DISSIPATION * weight);
        row[1] -= first * before.speed(sound) + second * before.diffusion;
        row[2] += 1.0 + 2.0 * second * own.diffusion;
        row[3] += first * behind.speed(sound) - second * behind.diffusion;
        row
    }

    /// The Jacobian of the flux.
    #[inline]
    fn convection(&self, state: &State, flow: &Flow) -> Block {
        let (axis, velocity) = (self.axis, flow.velocity);
        let along = velocity[axis];
        let mut block = [[0.0; 5]; 5];
        block[0][1 + axis] = 1.0;
        for part in 0..3 {
            let row = &mut block[1 + part];
            row[0] = -velocity[part] * along;
            row[1 + part] += along;
            row[1 + axis] += velocity[part];
        }
        let row = &mut block[1 + axis];
        row[0] += C2 * flow.kinetic;
        row[4] = C2;
        for part in 0..3 {
            block[1 + axis][1 + part] -= C2 * velocity[part];
            block[4][1 + part] = -C2 * velocity[part] * along;
        }
        let specific = state[4] / state[0];
        block[4][0] = (2.0 * C2 * flow.kinetic - C1 * specific) * along;
        block[4][1 + axis] += C1 * specific - C2 * flow.kinetic;
        block[4][4] = C1 * along;
        block
    }

    /// Adds a multiple of the Jacobian of viscous stress, heat flow and second-order dissipation.
    #[inline]
    fn add_diffusion(&self, block: &mut Block, state: &State, flow: &Flow, factor: f64) {
        let by_density = factor / state[0];
        let heat = C34 * C15;
        block[4][0] -= by_density * heat * flow.specific;
        block[4][4] += by_density * heat;
        for part in 0..3 {
            let stress = if part == self.axis { FOUR_THIRDS * C34 } else { C34 };
            let velocity = flow.velocity[part];
            block[1 + part][0] -= by_density * stress * velocity;
            block[1 + part][1 + part] += by_density * stress;
            block[4][0] -= by_density * (stress - heat) * velocity * velocity;
            block[4][1 + part] += by_density * (stress - heat) * velocity;
        }
        (0..5).for_each(|part| block[part][part] += factor * DIFFUSION[self.axis]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cfd::block::times;
    use proptest::prelude::*;

    fn state() -> impl Strategy<Value = State> {
        (1.0..3.0, -1.0..1.0, -1.0..1.0, -1.0..1.0, 4.0..6.0).prop_map(|(a, b, c, d, e)| [a, b, c, d, e])
    }

    /// What an axis contributes at a point, without the fourth-order dissipation, which steps treat as constant.
    fn contribution(axis: &Axis, states: &[State; 3]) -> State {
        let (flows, mut sum) = (states.each_ref().map(Flow::of), [0.0; 5]);
        axis.add_fluxes(states.each_ref(), flows.each_ref(), &mut sum);
        sum
    }

    proptest! {
        /// The blocks of a step are the identity less the derivatives of what the axis contributes.
        #[test]
        fn blocks_are_derivatives(states in [state(), state(), state()], axis in 0_usize..3, change in state()) {
            let (axis, size) = (Axis::new(axis, 10), 1e-6);
            for moved in 0..3 {
                let along = |sign: f64| {
                    let mut states = states;
                    (0..5).for_each(|part| states[moved][part] += sign * size * change[part]);
                    contribution(&axis, &states)
                };
                let (up, down) = (along(1.0), along(-1.0));
                let mut block = [[0.0; 5]; 5];
                match moved {
                    0 => block = axis.before(&states[0], 1.0),
                    1 => axis.add_own(&mut block, &states[1], 1.0),
                    _ => block = axis.behind(&states[2], 1.0),
                }
                for (part, product) in times(&block, &change).into_iter().enumerate() {
                    let derivative = (up[part] - down[part]) / (2.0 * size);
                    prop_assert!((product + derivative).abs() < 1e-4 * (1.0 + derivative.abs()), "{product} {derivative}");
                }
            }
        }
    }

    #[test]
    fn dissipation_is_of_fourth_order_inside_and_leaves_out_what_is_outside() {
        let axis = Axis::new(0, 12);
        let rows = [1, 2, 3, 8, 9, 10].map(|index| axis.dissipation(index));
        let expected = [
            [0.0, 0.0, 5.0, -4.0, 1.0],
            [0.0, -4.0, 6.0, -4.0, 1.0],
            FOURTH,
            FOURTH,
            [1.0, -4.0, 6.0, -4.0, 0.0],
            [1.0, -4.0, 5.0, 0.0, 0.0],
        ];
        assert_eq!(rows, expected);
    }
}
