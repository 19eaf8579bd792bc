//! Two application kernels beside the NAS ones: a stencil on two grids, and counters under a lock.

use std::time::Instant;

use vincs_coherence::hlrc::LockId;

use crate::team::ranks::relaxed::Relaxed;
use crate::team::shared::Shared;
use crate::team::{NoMemory, Team};

/// Points along each side of the stencil's grids.
pub const SIDE: usize = 2048;

/// Sweeps over a grid.
pub const SWEEPS: usize = 50;

/// Critical sections of each member.
pub const SECTIONS: u64 = 2000;

/// Counters of 8 bytes in one page.
pub const COUNTERS: usize = 64;

const LOCK: LockId = LockId(0);

/// What a kernel has computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Computed {
    /// Its result.
    pub value: f64,
    /// Seconds of its timed part.
    pub seconds: f64,
}

/// Sweeps of a 5-point stencil from one grid to the other and back, each member on adjacent rows: each inner point becomes the mean of its four neighbours. The upper
/// border is 1, the others 0. The value is the sum of all points at the end.
///
/// # Errors
///
/// No memory for the grids.
pub fn jacobi(team: &dyn Team, side: usize, sweeps: usize) -> Result<Computed, NoMemory> {
    let grids = [team.array::<f64>(side * side)?, team.array::<f64>(side * side)?];
    let mine = team.share(side);
    for grid in &grids {
        // All of it, so that all memory is there.
        let mut rows = grid.write(mine.start * side..mine.end * side);
        rows.fill(0.0);
        if mine.start == 0 {
            rows.iter_mut().take(side).for_each(|point| *point = 1.0);
        }
    }
    team.barrier();
    let started = Instant::now();
    let [mut from, mut to] = grids.each_ref();
    for _ in 0..sweeps {
        sweep(team, side, from, to);
        std::mem::swap(&mut from, &mut to);
        team.barrier();
    }
    let seconds = started.elapsed().as_secs_f64();
    let value = team.sum_one(from.read(mine.start * side..mine.end * side).iter().sum());
    Ok(Computed { value, seconds })
}

fn sweep(team: &dyn Team, side: usize, from: &Shared<f64>, to: &Shared<f64>) {
    let mine = team.share(side);
    let inner = mine.start.max(1)..mine.end.min(side.saturating_sub(1));
    if inner.is_empty() {
        return;
    }
    let above = from.read((inner.start - 1) * side..(inner.end + 1) * side);
    let mut below = to.write(inner.start * side..inner.end * side);
    for (at, row) in below.chunks_exact_mut(side).enumerate() {
        let rows = &above[at * side..(at + 3) * side];
        let (up, rest) = rows.split_at(side);
        let (same, down) = rest.split_at(side);
        for (((point, up), sides), down) in
            row[1..side - 1].iter_mut().zip(&up[1..]).zip(same.windows(3)).zip(&down[1..])
        {
            *point = 0.25 * (up + down + sides[0] + sides[2]);
        }
    }
}

/// Each member adds 1 to all counters, again and again, under a lock. The value is the sum of the counters at the end.
///
/// # Errors
///
/// No memory for the counters.
pub fn counter(team: &Relaxed, sections: u64) -> Result<Computed, NoMemory> {
    let counters = (team as &dyn Team).array::<u64>(COUNTERS)?;
    team.barrier();
    let started = Instant::now();
    for _ in 0..sections {
        team.acquire(LOCK);
        counters.write(0..COUNTERS).iter_mut().for_each(|counter| *counter += 1);
        team.release(LOCK);
    }
    team.barrier();
    let seconds = started.elapsed().as_secs_f64();
    let value = counters.read_all().iter().map(|counter| *counter as f64).sum();
    Ok(Computed { value, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::team::threads;

    #[test]
    fn points_become_the_mean_of_their_neighbours() {
        let computed = |sweeps| threads::run(2, |team| jacobi(team, 4, sweeps)).unwrap().unwrap().value;
        assert_eq!(computed(0), 4.0);
        // The two inner points below the border.
        assert_eq!(computed(1), 4.0 + 0.5);
        // Each of the two: a quarter of the border and its neighbour; and a quarter of them in the row below.
        assert_eq!(computed(2), 4.0 + 2.0 * 0.3125 + 2.0 * 0.0625);
    }

    #[test]
    fn any_number_of_members_computes_the_same_points() {
        let computed = |members| threads::run(members, |team| jacobi(team, 33, 20)).unwrap().unwrap().value;
        let one = computed(1);
        assert!([2, 3, 5].into_iter().all(|members| (computed(members) - one).abs() < 1e-12 * one));
    }
}
