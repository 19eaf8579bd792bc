//! The right-hand side: charges of +1 and -1 at ten points each.

use crate::random::{Random, SEED};
use crate::team::{NoMemory, Team};

use super::grid::Grid;

/// Points of each charge.
const CHARGES: usize = 10;

/// A point of the grid and the random number that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    number: f64,
    /// In the order x, y, z, the first the fastest. A double holds it exactly.
    place: f64,
}

/// Puts +1 where the ten largest of the random numbers are that belong to the grid's points, -1 where the ten smallest are. Sets
/// this member's planes.
///
/// # Errors
///
/// No memory to compare the members' numbers.
pub fn set_charges(team: &dyn Team, grid: &Grid) -> Result<(), NoMemory> {
    let side = grid.side();
    let (largest, smallest) = extremes(team, side)?;
    let mut points = Vec::with_capacity(2 * CHARGES);
    for (found, charge) in [(largest, 1.0), (smallest, -1.0)] {
        points.extend(found.iter().map(|candidate| {
            let place = integer(candidate.place);
            ([place % side, place / side % side, place / side / side], charge)
        }));
    }
    grid.set(team, &points);
    Ok(())
}

/// The candidates with the largest numbers, and those with the smallest.
fn extremes(team: &dyn Team, side: usize) -> Result<(Vec<Candidate>, Vec<Candidate>), NoMemory> {
    let plane = side * side;
    let (mut largest, mut smallest) = (Vec::new(), Vec::new());
    let mine = team.share(side);
    let mut random = Random::at(SEED, (mine.start * plane) as u64);
    for place in mine.start * plane..mine.end * plane {
        let candidate = Candidate { number: random.uniform(), place: place as f64 };
        keep(&mut largest, candidate, |a, b| a > b);
        keep(&mut smallest, candidate, |a, b| a < b);
    }
    // Four numbers of each place in the lists of each member. Where a list is shorter, what is there cannot win.
    let lists = team.array::<f64>(team.members() * CHARGES * 4)?;
    let start = team.member() * CHARGES * 4;
    for (at, slot) in lists.write(start..start + CHARGES * 4).chunks_exact_mut(4).enumerate() {
        let high = largest.get(at).copied().unwrap_or(Candidate { number: -1.0, place: 0.0 });
        let low = smallest.get(at).copied().unwrap_or(Candidate { number: 2.0, place: 0.0 });
        slot.copy_from_slice(&[high.number, high.place, low.number, low.place]);
    }
    team.barrier();
    let (mut largest, mut smallest) = (Vec::new(), Vec::new());
    for slot in lists.read_all().chunks_exact(4) {
        keep(&mut largest, Candidate { number: slot[0], place: slot[1] }, |a, b| a > b);
        keep(&mut smallest, Candidate { number: slot[2], place: slot[3] }, |a, b| a < b);
    }
    Ok((largest, smallest))
}

/// Puts a candidate into a list of the best so far, if it is one. The best is the first.
fn keep(best: &mut Vec<Candidate>, candidate: Candidate, better: fn(f64, f64) -> bool) {
    if best.len() == CHARGES && !better(candidate.number, best[CHARGES - 1].number) {
        return;
    }
    best.truncate(CHARGES - 1);
    let place = best.partition_point(|other| better(other.number, candidate.number));
    best.insert(place, candidate);
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a whole number below the number of points"
)]
fn integer(number: f64) -> usize {
    number as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::team::threads;

    #[test]
    fn charges_are_at_the_extremes_whoever_looks() {
        let mut random = Random::at(SEED, 0);
        let mut all: Vec<_> =
            (0..512).map(|place| Candidate { number: random.uniform(), place: f64::from(place) }).collect();
        all.sort_by(|a, b| a.number.total_cmp(&b.number));
        let smallest = all[..CHARGES].to_vec();
        let largest: Vec<_> = all.iter().rev().take(CHARGES).copied().collect();
        // Of 11 members some have no planes.
        for members in [1, 2, 11] {
            let found = threads::run(members, |team| extremes(team, 8).unwrap());
            assert_eq!(found.unwrap(), (largest.clone(), smallest.clone()));
        }
    }
}
