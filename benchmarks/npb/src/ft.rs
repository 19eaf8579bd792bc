//! FT: a three-dimensional diffusion equation by Fourier transforms (RNR-94-007, section 2.2.4).
//!
//! Of the field in space a member has the planes of some z, of its spectrum those of some y: between the two every member reads
//! of every other's, and that is all that moves. Rows along x lie together in both.

pub mod checksums;
pub mod fft;

use std::f64::consts::PI;

use crate::class::Class;
use crate::complex::Complex;
use crate::kernel::{Outcome, Size, timed};
use crate::random::{Random, SEED};
use crate::team::shared::{Shared, Writing};
use crate::team::{NoMemory, Team};
use checksums::published;
use fft::{Direction, Plane, Transform};

/// How fast what is in the field spreads.
const DIFFUSION: f64 = 1e-6;

/// Points that a checksum adds up.
const CHECKSUM_POINTS: usize = 1024;

const TOLERANCE: f64 = 1e-12;

/// Points along x, y and z, each a power of two.
fn grid(class: Class) -> [usize; 3] {
    class.pick([[64, 64, 64], [128, 128, 32], [256, 256, 128], [512, 256, 256]])
}

/// The field and its spectrum.
#[derive(Debug)]
struct Fields {
    points: [usize; 3],
    transforms: [Transform; 3],
    /// By z, y, x.
    field: Shared<Complex>,
    /// The spectrum at time zero, by y, z, x.
    spectrum: Shared<Complex>,
    /// The spectrum later.
    evolved: Shared<Complex>,
}

/// Runs it.
///
/// # Errors
///
/// No memory for its arrays.
pub fn run(team: &dyn Team, class: Class) -> Result<Outcome, NoMemory> {
    let points = grid(class);
    let published = published(class);
    let fields = Fields::new(team, points)?;
    // Once for nothing, so that all memory is there.
    fields.start(team);
    fields.checksum_at(team, 1);
    let (checksums, seconds) = timed(team, || {
        fields.start(team);
        (1..=published.len()).map(|time| fields.checksum_at(team, time)).collect::<Vec<_>>()
    });
    let mut results = Vec::new();
    for (time, (sum, published)) in (1..).zip(checksums.iter().zip(published)) {
        let wrong = if is_near(*sum, *published) { "" } else { "   not as published" };
        results.push(format!("T = {time:3}     Checksum = {:22.12e} {:22.12e}{wrong}", sum.re, sum.im));
    }
    let total = points.iter().product::<usize>() as f64;
    let each = 5.23518 + 7.21113 * total.ln();
    Ok(Outcome {
        size: Size::Grid(points),
        iterations: published.len(),
        seconds,
        million_operations: total * (14.8157 + 7.19641 * total.ln() + each * published.len() as f64) / 1e6,
        operation: "floating point",
        verified: checksums.iter().zip(published).all(|(sum, published)| is_near(*sum, *published)),
        results,
    })
}

fn is_near(sum: Complex, published: Complex) -> bool {
    // By parts, as the benchmark wants it. What is no number is not near.
    let near = |computed: f64, published: f64| ((computed - published) / published).abs() <= TOLERANCE;
    near(sum.re, published.re) && near(sum.im, published.im)
}

impl Fields {
    fn new(team: &dyn Team, points: [usize; 3]) -> Result<Self, NoMemory> {
        let len = points.iter().product();
        Ok(Self {
            points,
            transforms: points.map(Transform::new),
            field: team.array(len)?,
            spectrum: team.array(len)?,
            evolved: team.array(len)?,
        })
    }

    /// The planes of an array that this member has, of `planes` in all.
    fn own<'a>(&self, team: &dyn Team, array: &'a Shared<Complex>, planes: usize) -> Writing<'a, Complex> {
        let (mine, len) = (team.share(planes), array.len() / planes);
        array.write(mine.start * len..mine.end * len)
    }

    /// Fills the field with random numbers, and transforms it.
    fn start(&self, team: &dyn Team) {
        let [x_points, y_points, z_points] = self.points;
        let [along_x, along_y, along_z] = &self.transforms;
        let first = team.share(z_points).start * x_points * y_points;
        let mut random = Random::at(SEED, 2 * first as u64);
        let mut plane = Plane::new(x_points, y_points.max(z_points));
        let mut field = self.own(team, &self.field, z_points);
        for points in field.chunks_exact_mut(x_points * y_points) {
            points.fill_with(|| Complex::new(random.uniform(), random.uniform()));
            plane.rows(points, along_x, Direction::Forward);
            plane.columns(points, along_y, Direction::Forward);
        }
        drop(field);
        team.barrier();
        let mut spectrum = self.own(team, &self.spectrum, y_points);
        let field = self.field.read_all();
        for (y, points) in team.share(y_points).zip(spectrum.chunks_exact_mut(x_points * z_points)) {
            for (z, row) in points.chunks_exact_mut(x_points).enumerate() {
                row.copy_from_slice(&field[(z * y_points + y) * x_points..][..x_points]);
            }
            plane.columns(points, along_z, Direction::Forward);
        }
    }

    /// The checksum of the field at a time. It is a barrier.
    fn checksum_at(&self, team: &dyn Team, time: usize) -> Complex {
        self.evolve(team, time);
        team.barrier();
        let [x_points, y_points, z_points] = self.points;
        let [along_x, along_y, _] = &self.transforms;
        let mut plane = Plane::new(x_points, y_points);
        let mut field = self.own(team, &self.field, z_points);
        let evolved = self.evolved.read_all();
        let mut sum = Complex::ZERO;
        for (z, points) in team.share(z_points).zip(field.chunks_exact_mut(x_points * y_points)) {
            for (y, row) in points.chunks_exact_mut(x_points).enumerate() {
                row.copy_from_slice(&evolved[(y * z_points + z) * x_points..][..x_points]);
            }
            plane.columns(points, along_y, Direction::Inverse);
            plane.rows(points, along_x, Direction::Inverse);
            let in_plane = (1..=CHECKSUM_POINTS).filter(|at| 5 * at % z_points == z);
            for at in in_plane {
                sum += points[3 * at % y_points * x_points + at % x_points];
            }
        }
        drop((field, evolved));
        let mut parts = [sum.re, sum.im];
        team.sum(&mut parts);
        Complex::new(parts[0], parts[1]).scaled(1.0 / self.field.len() as f64)
    }

    /// Sets the spectrum at a time, transformed back along z.
    fn evolve(&self, team: &dyn Team, time: usize) {
        let [x_points, y_points, z_points] = self.points;
        let [by_x, by_y, by_z] = self.points.map(|points| decay(points, time));
        let mut plane = Plane::new(x_points, z_points);
        let mut evolved = self.own(team, &self.evolved, y_points);
        let mine = team.share(y_points);
        let len = x_points * z_points;
        let spectrum = self.spectrum.read(mine.start * len..mine.end * len);
        let planes = evolved.chunks_exact_mut(len).zip(spectrum.chunks_exact(len));
        for (y, (evolved, spectrum)) in mine.zip(planes) {
            let rows = evolved.chunks_exact_mut(x_points).zip(spectrum.chunks_exact(x_points));
            for (z, (evolved, spectrum)) in rows.enumerate() {
                let factor = by_y[y] * by_z[z];
                for ((evolved, start), by_x) in evolved.iter_mut().zip(spectrum).zip(&by_x) {
                    *evolved = start.scaled(factor * by_x);
                }
            }
            plane.columns(evolved, &self.transforms[2], Direction::Inverse);
        }
    }
}

/// What is left of each wave along one axis at a time. Waves above the middle are those that run the other way.
fn decay(points: usize, time: usize) -> Vec<f64> {
    let rate = -4.0 * DIFFUSION * PI * PI * time as f64;
    let wave = |at: usize| at.min(points - at) as f64;
    (0..points).map(|at| (rate * wave(at) * wave(at)).exp()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::team::threads;

    #[test]
    fn the_field_at_time_zero_is_the_random_one() {
        let points = [8, 16, 4];
        let mut random = Random::at(SEED, 0);
        let field: Vec<_> = (0..512).map(|_| Complex::new(random.uniform(), random.uniform())).collect();
        let expected = (1..=CHECKSUM_POINTS)
            .fold(Complex::ZERO, |sum, at| sum + field[at % 8 + 8 * (3 * at % 16 + 16 * (5 * at % 4))])
            .scaled(1.0 / 512.0);
        for members in [1, 2, 3, 7] {
            let sum = threads::run(members, |team| {
                let fields = Fields::new(team, points).unwrap();
                fields.start(team);
                // Its transform back has 512 times what was transformed.
                fields.checksum_at(team, 0).scaled(1.0 / 512.0)
            });
            assert!((sum.unwrap() - expected).abs() < 1e-12);
        }
    }
}
