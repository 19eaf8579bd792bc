//! Grids and what is done on them.

use std::ops::Range;

use crate::team::shared::{Shared, Writing};
use crate::team::{NoMemory, Team};

/// Weights of a point and its 26 neighbours.
#[derive(Clone, Copy, Debug)]
pub struct Stencil {
    /// The point itself.
    pub centre: f64,
    /// Each of its 6 neighbours along one axis.
    pub face: f64,
    /// Each of its 12 along two.
    pub edge: f64,
    /// Each of its 8 along three.
    pub corner: f64,
}

/// Full weighting: what a coarse point takes of the fine points about it.
const RESTRICTION: Stencil = Stencil { centre: 1.0 / 2.0, face: 1.0 / 4.0, edge: 1.0 / 8.0, corner: 1.0 / 16.0 };

/// A cubic grid with periodic boundaries.
///
/// Rows and planes have one more point at each end, which repeats the one at the other end, so that nobody has to look which
/// neighbour there is; planes are not repeated, since the neighbour's would have to be copied.
#[derive(Debug)]
pub struct Grid {
    /// Points along each side, a power of two.
    side: usize,
    points: Shared<f64>,
}

impl Grid {
    /// A grid of zeros.
    ///
    /// # Errors
    ///
    /// No memory for it.
    pub fn new(team: &dyn Team, side: usize) -> Result<Self, NoMemory> {
        Ok(Self { side, points: team.array((side + 2) * (side + 2) * side)? })
    }

    /// Points along each side.
    #[must_use]
    pub fn side(&self) -> usize {
        self.side
    }

    /// Points of a row with those that repeat others.
    fn width(&self) -> usize {
        self.side + 2
    }

    fn plane_len(&self) -> usize {
        self.width() * self.width()
    }

    /// The planes of this member, to be written.
    fn own(&self, team: &dyn Team) -> (Range<usize>, Writing<'_, f64>) {
        let planes = team.share(self.side);
        let points = self.points.write(planes.start * self.plane_len()..planes.end * self.plane_len());
        (planes, points)
    }

    /// Makes this member's planes zero.
    pub fn clear(&self, team: &dyn Team) {
        self.own(team).1.fill(0.0);
    }

    /// Sets points of this member's planes, those that are given by x, y and z, and what repeats them.
    pub fn set(&self, team: &dyn Team, points: &[([usize; 3], f64)]) {
        let (planes, mut own) = self.own(team);
        for ([x, y, z], value) in points.iter().filter(|([.., z], _)| planes.contains(z)) {
            own[(z - planes.start) * self.plane_len() + (y + 1) * self.width() + x + 1] = *value;
        }
        for plane in own.chunks_exact_mut(self.plane_len()) {
            plane.chunks_exact_mut(self.width()).for_each(repeat_ends);
            repeat_rows(plane, self.side);
        }
    }

    /// Makes it `charges` with the stencil of `solution` added, in this member's planes.
    pub fn set_residual(&self, team: &dyn Team, charges: &Self, solution: &Self, stencil: &Stencil) {
        let (planes, mut own) = self.own(team);
        own.copy_from_slice(&charges.points.read(planes.start * self.plane_len()..planes.end * self.plane_len()));
        solution.add_stencil_to(&mut own, planes, stencil);
    }

    /// Adds the stencil of another grid, in this member's planes.
    pub fn add_stencil(&self, team: &dyn Team, of: &Self, stencil: &Stencil) {
        let (planes, mut own) = self.own(team);
        of.add_stencil_to(&mut own, planes, stencil);
    }

    fn add_stencil_to(&self, to: &mut [f64], planes: Range<usize>, stencil: &Stencil) {
        let (all, width) = (self.points.read_all(), self.width());
        let mut around = Around::new(width);
        for (z, to) in planes.zip(to.chunks_exact_mut(self.plane_len())) {
            let three = self.planes_around(&all, z);
            for (y, to) in to.chunks_exact_mut(width).enumerate().skip(1).take(self.side) {
                let centre = around.look(three, y);
                let (centre, faces, edges) =
                    (Triples::of(centre), Triples::of(&around.faces), Triples::of(&around.edges));
                for (at, to) in to[1..=self.side].iter_mut().enumerate() {
                    *to += stencil.at(&centre, &faces, &edges, at);
                }
                repeat_ends(to);
            }
            repeat_rows(to, self.side);
        }
    }

    /// Makes it a coarser `fine`, in this member's planes. Point p of it is point 2p + 1 of the other.
    pub fn restrict(&self, team: &dyn Team, fine: &Self) {
        let (planes, mut own) = self.own(team);
        let all = fine.points.read_all();
        let mut around = Around::new(fine.width());
        for (z, plane) in planes.zip(own.chunks_exact_mut(self.plane_len())) {
            let three = fine.planes_around(&all, 2 * z + 1);
            for (y, row) in plane.chunks_exact_mut(self.width()).enumerate().skip(1).take(self.side) {
                let centre = around.look(three, 2 * y);
                let (centre, faces, edges) =
                    (Triples::of(centre), Triples::of(&around.faces), Triples::of(&around.edges));
                for (at, point) in row[1..=self.side].iter_mut().enumerate() {
                    *point = RESTRICTION.at(&centre, &faces, &edges, 2 * at + 1);
                }
                repeat_ends(row);
            }
            repeat_rows(plane, self.side);
        }
    }

    /// Adds a coarser grid, between its points by interpolation, in this member's planes.
    pub fn add_interpolated(&self, team: &dyn Team, coarse: &Self) {
        let (planes, mut own) = self.own(team);
        let all = coarse.points.read_all();
        let plane = |z: usize| &all[z * coarse.plane_len()..(z + 1) * coarse.plane_len()];
        let mut row = vec![0.0; coarse.width()];
        for (z, to) in planes.zip(own.chunks_exact_mut(self.plane_len())) {
            // An odd plane is a coarse one, an even plane is between two.
            let (above, below) = (plane(z / 2), plane((z / 2 + coarse.side - 1) % coarse.side));
            let between = if z % 2 == 0 { [above, below] } else { [above, above] };
            for (y, to) in to.chunks_exact_mut(self.width()).enumerate().skip(1).take(self.side) {
                coarse.mean_row(&mut row, between, [y / 2, y.div_ceil(2)]);
                for (pair, coarse) in to[1..=self.side].chunks_exact_mut(2).zip(row.windows(2)) {
                    pair[0] += 0.5 * (coarse[0] + coarse[1]);
                    pair[1] += coarse[1];
                }
                repeat_ends(to);
            }
            repeat_rows(to, self.side);
        }
    }

    /// The mean of two rows of each of two planes.
    fn mean_row(&self, mean: &mut [f64], planes: [&[f64]; 2], rows: [usize; 2]) {
        let row = |plane: usize, row: usize| &planes[plane][rows[row] * self.width()..(rows[row] + 1) * self.width()];
        let (first, second) = (row(0, 0).iter().zip(row(0, 1)), row(1, 0).iter().zip(row(1, 1)));
        for (mean, ((a, b), (c, d))) in mean.iter_mut().zip(first.zip(second)) {
            *mean = 0.25 * ((a + b) + (c + d));
        }
    }

    /// The root of the mean square of all points. It is a barrier.
    #[must_use]
    pub fn norm(&self, team: &dyn Team) -> f64 {
        let planes = team.share(self.side);
        let own = self.points.read(planes.start * self.plane_len()..planes.end * self.plane_len());
        let rows = own
            .chunks_exact(self.plane_len())
            .flat_map(|plane| plane.chunks_exact(self.width()).skip(1).take(self.side));
        let square = rows.map(|row| row[1..=self.side].iter().map(|point| point * point).sum::<f64>()).sum();
        drop(own);
        (team.sum_one(square) / self.side.pow(3) as f64).sqrt()
    }

    /// The planes before, at and behind z.
    fn planes_around<'a>(&self, points: &'a [f64], z: usize) -> [&'a [f64]; 3] {
        [self.side - 1, 0, 1].map(|offset| {
            let plane = (z + offset) % self.side;
            &points[plane * self.plane_len()..(plane + 1) * self.plane_len()]
        })
    }
}

/// Makes the ends of a row repeat the points at the other end.
fn repeat_ends(row: &mut [f64]) {
    let last = row.len() - 1;
    row[0] = row[last - 1];
    row[last] = row[1];
}

/// Makes the first and the last row of a plane repeat those at the other end.
fn repeat_rows(plane: &mut [f64], side: usize) {
    let width = side + 2;
    plane.copy_within(side * width..(side + 1) * width, 0);
    plane.copy_within(width..2 * width, (side + 1) * width);
}

/// Sums of the rows about a row, so that each is made once and used for three points.
#[derive(Debug)]
struct Around {
    /// Of the four rows next to it.
    faces: Vec<f64>,
    /// Of the four rows next to it across a corner.
    edges: Vec<f64>,
}

impl Around {
    fn new(width: usize) -> Self {
        Self { faces: vec![0.0; width], edges: vec![0.0; width] }
    }

    /// Sums up about row y of the middle one of three planes, and gives that row.
    fn look<'a>(&mut self, planes: [&'a [f64]; 3], y: usize) -> &'a [f64] {
        let width = self.faces.len();
        let row = |plane: usize, y: usize| &planes[plane][y * width..][..width];
        sum_rows(&mut self.faces, [row(1, y - 1), row(1, y + 1), row(0, y), row(2, y)]);
        sum_rows(&mut self.edges, [row(0, y - 1), row(0, y + 1), row(2, y - 1), row(2, y + 1)]);
        row(1, y)
    }
}

fn sum_rows(sum: &mut [f64], rows: [&[f64]; 4]) {
    let [a, b, c, d] = rows.map(|row| &row[..sum.len()]);
    for at in 0..sum.len() {
        sum[at] = (a[at] + b[at]) + (c[at] + d[at]);
    }
}

/// A row as three of one length: what is left of each point, the points, what is right of each.
#[derive(Clone, Copy, Debug)]
struct Triples<'a> {
    left: &'a [f64],
    point: &'a [f64],
    right: &'a [f64],
}

impl<'a> Triples<'a> {
    fn of(row: &'a [f64]) -> Self {
        let side = row.len() - 2;
        Self { left: &row[..side], point: &row[1..=side], right: &row[2..] }
    }
}

impl Stencil {
    /// Its value at a point of a row.
    #[inline]
    fn at(&self, row: &Triples<'_>, faces: &Triples<'_>, edges: &Triples<'_>, at: usize) -> f64 {
        self.centre * row.point[at]
            + self.face * (row.left[at] + row.right[at] + faces.point[at])
            + self.edge * (edges.point[at] + faces.left[at] + faces.right[at])
            + self.corner * (edges.left[at] + edges.right[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::team::threads;

    /// All points, by z, y and x, without those that repeat others.
    fn points(grid: &Grid) -> Vec<f64> {
        let all = grid.points.read_all();
        let at = |x: usize, y: usize, z: usize| all[z * grid.plane_len() + (y + 1) * grid.width() + x + 1];
        cube(grid.side).map(|[x, y, z]| at(x, y, z)).collect()
    }

    fn cube(side: usize) -> impl Iterator<Item = [usize; 3]> {
        (0..side.pow(3)).map(move |at| [at % side, at / side % side, at / side / side])
    }

    /// Some grid, no two points of which are alike.
    fn some(team: &dyn Team, side: usize) -> Grid {
        let grid = Grid::new(team, side).unwrap();
        let values: Vec<_> = cube(side).enumerate().map(|(at, point)| (point, (at as f64 * 0.7).sin())).collect();
        grid.set(team, &values);
        team.barrier();
        grid
    }

    /// What a stencil gives at a point, by its definition.
    fn by_definition(stencil: &Stencil, values: &[f64], side: usize, point: [usize; 3]) -> f64 {
        let neighbours = cube(3).map(|offset| {
            let weight = [stencil.centre, stencil.face, stencil.edge, stencil.corner];
            let place = [0, 1, 2].map(|axis| (point[axis] + offset[axis] + side - 1) % side);
            weight[offset.iter().filter(|along| **along != 1).count()]
                * values[place[0] + side * (place[1] + side * place[2])]
        });
        neighbours.sum()
    }

    fn near(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12)
    }

    const STENCIL: Stencil = Stencil { centre: 0.9, face: -0.3, edge: 0.2, corner: 0.1 };

    #[test]
    fn stencils_are_those_of_the_definition() {
        for (members, side) in [(1, 2), (2, 4), (3, 8), (5, 4)] {
            threads::run(members, |team| {
                let (source, sum) = (some(team, side), some(team, side));
                let values = points(&source);
                let expected: Vec<_> = cube(side)
                    .zip(&values)
                    .map(|(point, before)| before + by_definition(&STENCIL, &values, side, point))
                    .collect();
                team.barrier();
                sum.add_stencil(team, &source, &STENCIL);
                team.barrier();
                assert!(near(&points(&sum), &expected));
                let mean = expected.iter().map(|x| x * x).sum::<f64>() / expected.len() as f64;
                assert!((sum.norm(team) - mean.sqrt()).abs() < 1e-12);
                sum.set_residual(team, &source, &source, &STENCIL);
                team.barrier();
                assert!(near(&points(&sum), &expected));
            })
            .unwrap();
        }
    }

    #[test]
    fn a_coarse_point_is_the_weighted_mean_about_its_fine_one() {
        threads::run(3, |team| {
            let (fine, coarse) = (some(team, 8), Grid::new(team, 4).unwrap());
            coarse.restrict(team, &fine);
            team.barrier();
            let values = points(&fine);
            let expected: Vec<_> =
                cube(4).map(|point| by_definition(&RESTRICTION, &values, 8, point.map(|at| 2 * at + 1))).collect();
            assert!(near(&points(&coarse), &expected));
        })
        .unwrap();
    }

    #[test]
    fn between_coarse_points_is_their_mean() {
        for (members, side) in [(1, 2), (3, 4)] {
            threads::run(members, |team| {
                let (coarse, fine) = (some(team, side), Grid::new(team, 2 * side).unwrap());
                fine.add_interpolated(team, &coarse);
                team.barrier();
                let values = points(&coarse);
                // A coordinate lies at one coarse point, given twice, or between two.
                let about = |at: usize| if at % 2 == 1 { [at / 2; 2] } else { [at / 2, (at / 2 + side - 1) % side] };
                let mean = |[x, y, z]: [usize; 3]| {
                    let corners =
                        cube(2).map(|[i, j, k]| values[about(x)[i] + side * (about(y)[j] + side * about(z)[k])]);
                    corners.sum::<f64>() / 8.0
                };
                assert!(near(&points(&fine), &cube(2 * side).map(mean).collect::<Vec<_>>()));
            })
            .unwrap();
        }
    }
}
