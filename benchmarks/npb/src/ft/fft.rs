//! Fourier transforms of powers of two, of many sequences at once: Stockham's algorithm with radix 4.

use std::f64::consts::TAU;

use crate::complex::Complex;

/// Columns that are transformed together.
const BLOCK: usize = 16;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// With exp(-2 pi i j k / n).
    Forward,
    /// With exp(+2 pi i j k / n), and not divided by n.
    Inverse,
}

/// Transforms of one length.
#[derive(Debug)]
pub struct Transform {
    /// exp(-2 pi i k / n) for each k.
    roots: Vec<Complex>,
}

impl Transform {
    /// Transforms of this length, a power of two.
    ///
    /// # Panics
    ///
    /// When it is none.
    #[must_use]
    pub fn new(len: usize) -> Self {
        assert!(len.is_power_of_two(), "a transform of {len} points");
        Self { roots: (0..len).map(|at| Complex::unit(-TAU * at as f64 / len as f64)).collect() }
    }

    /// How many points.
    fn len(&self) -> usize {
        self.roots.len()
    }

    /// Transforms as many sequences as fit, which lie interleaved: all their first elements, then all their second.
    fn apply(&self, data: &mut [Complex], scratch: &mut [Complex], direction: Direction) {
        match direction {
            Direction::Forward => self.stages::<false>(data, scratch),
            Direction::Inverse => self.stages::<true>(data, scratch),
        }
    }

    /// Each stage makes of `count` interleaved sequences of `rest` points four times as many of a fourth of the points.
    fn stages<const INVERSE: bool>(&self, data: &mut [Complex], scratch: &mut [Complex]) {
        let (mut from, mut to) = (data, scratch);
        let (mut rest, mut count) = (self.len(), from.len() / self.len());
        let mut moved = false;
        while rest > 1 {
            let radix = if rest >= 4 { 4 } else { 2 };
            if radix == 4 {
                self.stage_of_four::<INVERSE>(from, to, count);
            } else {
                stage_of_two(from, to);
            }
            std::mem::swap(&mut from, &mut to);
            rest /= radix;
            count *= radix;
            moved = !moved;
        }
        if moved {
            to.copy_from_slice(from);
        }
    }

    fn stage_of_four<const INVERSE: bool>(&self, from: &[Complex], to: &mut [Complex], count: usize) {
        let quarter = from.len() / 4;
        let (step, quarters) = (self.len() * count / from.len(), from.chunks_exact(quarter));
        let [a, b, c, d] = quarters.collect::<Vec<_>>()[..] else { return };
        let inputs =
            a.chunks_exact(count).zip(b.chunks_exact(count)).zip(c.chunks_exact(count).zip(d.chunks_exact(count)));
        for (at, (((a, b), (c, d)), to)) in inputs.zip(to.chunks_exact_mut(4 * count)).enumerate() {
            let root = |times: usize| {
                let root = self.roots[times * at * step];
                if INVERSE { root.conjugate() } else { root }
            };
            butterflies::<INVERSE>([a, b, c, d], to, [root(1), root(2), root(3)]);
        }
    }
}

/// The four-point transforms of as many quadruples, each but the first result turned by a root.
#[inline]
fn butterflies<const INVERSE: bool>(from: [&[Complex]; 4], to: &mut [Complex], roots: [Complex; 3]) {
    let count = to.len() / 4;
    let [a, b, c, d] = from.map(|slice| &slice[..count]);
    let (to_0, to) = to.split_at_mut(count);
    let (to_1, to) = to.split_at_mut(count);
    let (to_2, to_3) = to.split_at_mut(count);
    let to_3 = &mut to_3[..count];
    for at in 0..count {
        let (sum, difference) = (a[at] + c[at], a[at] - c[at]);
        let (other_sum, other) = (b[at] + d[at], b[at] - d[at]);
        // Times i, or times -i for the inverse.
        let turned = if INVERSE { Complex::new(other.im, -other.re) } else { Complex::new(-other.im, other.re) };
        to_0[at] = sum + other_sum;
        to_1[at] = roots[0] * (difference - turned);
        to_2[at] = roots[1] * (sum - other_sum);
        to_3[at] = roots[2] * (difference + turned);
    }
}

/// The last stage where the length is no power of four.
fn stage_of_two(from: &[Complex], to: &mut [Complex]) {
    let half = from.len() / 2;
    let (first, second) = from.split_at(half);
    let (sums, differences) = to.split_at_mut(half);
    for (((a, b), sum), difference) in first.iter().zip(second).zip(sums).zip(differences) {
        *sum = *a + *b;
        *difference = *a - *b;
    }
}

/// Transforms of the rows and columns of planes, with the memory for it.
#[derive(Debug)]
pub struct Plane {
    width: usize,
    block: Vec<Complex>,
    scratch: Vec<Complex>,
}

impl Plane {
    /// For planes with rows of `width` points and at most `height` rows.
    #[must_use]
    pub fn new(width: usize, height: usize) -> Self {
        let room = vec![Complex::ZERO; BLOCK * width.max(height)];
        Self { width, block: room.clone(), scratch: room }
    }

    /// Transforms each row.
    pub fn rows(&mut self, plane: &mut [Complex], transform: &Transform, direction: Direction) {
        let width = self.width;
        for rows in plane.chunks_mut(BLOCK * width) {
            let count = rows.len() / width;
            let (block, scratch) = (&mut self.block[..rows.len()], &mut self.scratch[..rows.len()]);
            for (at, row) in rows.chunks_exact(width).enumerate() {
                for (to, point) in block[at..].iter_mut().step_by(count).zip(row) {
                    *to = *point;
                }
            }
            transform.apply(block, scratch, direction);
            for (at, row) in rows.chunks_exact_mut(width).enumerate() {
                for (point, from) in row.iter_mut().zip(block[at..].iter().step_by(count)) {
                    *point = *from;
                }
            }
        }
    }

    /// Transforms each column.
    pub fn columns(&mut self, plane: &mut [Complex], transform: &Transform, direction: Direction) {
        let width = self.width;
        for first in (0..width).step_by(BLOCK) {
            let count = BLOCK.min(width - first);
            let len = count * (plane.len() / width);
            let (block, scratch) = (&mut self.block[..len], &mut self.scratch[..len]);
            for (to, row) in block.chunks_exact_mut(count).zip(plane.chunks_exact(width)) {
                to.copy_from_slice(&row[first..first + count]);
            }
            transform.apply(block, scratch, direction);
            for (from, row) in block.chunks_exact(count).zip(plane.chunks_exact_mut(width)) {
                row[first..first + count].copy_from_slice(from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The transform by its definition.
    fn by_definition(points: &[Complex], direction: Direction) -> Vec<Complex> {
        let len = points.len();
        let sign = if direction == Direction::Forward { -1.0 } else { 1.0 };
        let wave = |j: usize, k: usize| Complex::unit(sign * TAU * (j * k % len) as f64 / len as f64);
        let at = |k: usize| (0..len).fold(Complex::ZERO, |sum, j| sum + points[j] * wave(j, k));
        (0..len).map(at).collect()
    }

    fn near(a: &[Complex], b: &[Complex]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (*a - *b).abs() < 1e-10)
    }

    fn points(len: usize) -> impl Strategy<Value = Vec<Complex>> {
        let point = (-1.0..1.0, -1.0..1.0).prop_map(|(re, im)| Complex::new(re, im));
        prop::collection::vec(point, len)
    }

    /// A plane with rows of the first length, which is a power of two as the second is.
    fn plane() -> impl Strategy<Value = (usize, usize, Vec<Complex>)> {
        let sides = (0_u32..8, 0_u32..8).prop_map(|(width, height)| (1 << width, 1 << height));
        sides.prop_flat_map(|(width, height)| points(width * height).prop_map(move |plane| (width, height, plane)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn transforms_are_those_of_the_definition((width, height, plane) in plane(), forward: bool) {
            let direction = if forward { Direction::Forward } else { Direction::Inverse };
            let mut rows = plane.clone();
            Plane::new(width, height).rows(&mut rows, &Transform::new(width), direction);
            for (row, before) in rows.chunks_exact(width).zip(plane.chunks_exact(width)) {
                prop_assert!(near(row, &by_definition(before, direction)));
            }
            let mut columns = plane.clone();
            Plane::new(width, height).columns(&mut columns, &Transform::new(height), direction);
            for at in 0..width {
                let column = |plane: &[Complex]| plane[at..].iter().step_by(width).copied().collect::<Vec<_>>();
                prop_assert!(near(&column(&columns), &by_definition(&column(&plane), direction)));
            }
        }

        #[test]
        fn the_inverse_takes_it_back(plane in points(1024)) {
            let mut there = plane.clone();
            let transform = Transform::new(512);
            Plane::new(512, 2).rows(&mut there, &transform, Direction::Forward);
            Plane::new(512, 2).rows(&mut there, &transform, Direction::Inverse);
            let back: Vec<_> = there.iter().map(|point| point.scaled(1.0 / 512.0)).collect();
            prop_assert!(near(&back, &plane));
        }
    }
}
