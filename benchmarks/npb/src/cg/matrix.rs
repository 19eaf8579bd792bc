//! The sparse matrix: a weighted sum of outer products of random sparse vectors, with its diagonal shifted (RNR-94-007, section
//! 2.2.3).

use std::ops::Range;

use crate::random::{Random, SEED};

/// About the ratio of the matrix's smallest eigenvalue to its largest: the weights fall from 1 to this.
const CONDITION: f64 = 0.1;

/// An element of a sparse vector.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    place: u32,
    value: f64,
}

/// Some adjacent rows of the matrix, each as its elements that are not zero, by columns.
#[derive(Debug)]
pub struct Rows {
    /// Where each row begins, and where the last ends.
    starts: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f64>,
}

impl Rows {
    /// These rows of the matrix of this order, made of vectors with `elements` random elements each.
    #[must_use]
    pub fn new(order: usize, elements: usize, shift: f64, rows: Range<usize>) -> Self {
        let vectors = vectors(order, elements);
        let users = Users::new(&vectors, &rows);
        let ratio = CONDITION.powf(1.0 / order as f64);
        let weights: Vec<f64> = std::iter::successors(Some(1.0), |weight| Some(weight * ratio)).take(order).collect();
        let mut matrix = Self { starts: vec![0], columns: Vec::new(), values: Vec::new() };
        let mut row = SparseRow::new(order);
        for at in rows.clone() {
            for (vector, value) in users.of(at - rows.start) {
                let factor = weights[vector as usize] * value;
                for entry in &vectors[vector as usize] {
                    row.add(entry.place, factor * entry.value);
                }
            }
            row.values[at] += CONDITION - shift;
            row.append_to(&mut matrix);
        }
        matrix
    }

    /// The product of these rows with a vector.
    ///
    /// # Panics
    ///
    /// When the vector is shorter than rows are.
    pub fn times(&self, vector: &[f64], product: &mut [f64]) {
        for (bounds, product) in self.starts.windows(2).zip(product) {
            let row = bounds[0]..bounds[1];
            *product = sparse_dot(&self.columns[row.clone()], &self.values[row], vector);
        }
    }
}

/// In four sums, as one alone waits for each addition.
#[inline]
fn sparse_dot(columns: &[u32], values: &[f64], vector: &[f64]) -> f64 {
    let (columns, last_columns) = columns.as_chunks::<4>();
    let (values, last_values) = values.as_chunks::<4>();
    let mut sums = [0.0; 4];
    for (columns, values) in columns.iter().zip(values) {
        for at in 0..4 {
            sums[at] += values[at] * vector[columns[at] as usize];
        }
    }
    let rest: f64 = last_columns.iter().zip(last_values).map(|(column, value)| value * vector[*column as usize]).sum();
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest
}

/// All the vectors. Their random places come from one sequence of unknown length, so every member makes all of them.
fn vectors(order: usize, elements: usize) -> Vec<Vec<Entry>> {
    // The sequence's first number has no use.
    let mut random = Random::at(SEED, 1);
    let span = order.next_power_of_two() as f64;
    (0..order).map(|at| vector(&mut random, order, span, elements, at)).collect()
}

/// One vector: random elements at random places, and one half at its own.
fn vector(random: &mut Random, order: usize, span: f64, elements: usize, own: usize) -> Vec<Entry> {
    let mut vector = Vec::<Entry>::with_capacity(elements + 1);
    while vector.len() < elements {
        let value = random.uniform();
        let place = integer(span * random.uniform());
        if (place as usize) < order && vector.iter().all(|entry| entry.place != place) {
            vector.push(Entry { place, value });
        }
    }
    let half = Entry { place: integer(own as f64), value: 0.5 };
    match vector.iter_mut().find(|entry| entry.place == half.place) {
        Some(entry) => *entry = half,
        None => vector.push(half),
    }
    vector
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the integer part of a number below 2^17")]
fn integer(number: f64) -> u32 {
    number as u32
}

/// Which vectors have an element in each of some rows, and which.
#[derive(Debug)]
struct Users {
    starts: Vec<usize>,
    /// Vectors in their order, and their elements in the row.
    users: Vec<(u32, f64)>,
}

impl Users {
    fn new(vectors: &[Vec<Entry>], rows: &Range<usize>) -> Self {
        let mut starts = vec![0; rows.len() + 1];
        for entry in vectors.iter().flatten().filter(|entry| rows.contains(&(entry.place as usize))) {
            starts[entry.place as usize - rows.start + 1] += 1;
        }
        for row in 0..rows.len() {
            starts[row + 1] += starts[row];
        }
        let mut free = starts.clone();
        let mut users = vec![(0, 0.0); starts[rows.len()]];
        for (vector, entries) in (0..).zip(vectors) {
            for entry in entries.iter().filter(|entry| rows.contains(&(entry.place as usize))) {
                let place = &mut free[entry.place as usize - rows.start];
                users[*place] = (vector, entry.value);
                *place += 1;
            }
        }
        Self { starts, users }
    }

    fn of(&self, row: usize) -> impl Iterator<Item = (u32, f64)> {
        self.users[self.starts[row]..self.starts[row + 1]].iter().copied()
    }
}

/// A row that is being added up.
#[derive(Debug)]
struct SparseRow {
    values: Vec<f64>,
    is_used: Vec<bool>,
    used: Vec<u32>,
}

impl SparseRow {
    fn new(order: usize) -> Self {
        Self { values: vec![0.0; order], is_used: vec![false; order], used: Vec::new() }
    }

    fn add(&mut self, column: u32, value: f64) {
        let at = column as usize;
        self.values[at] += value;
        if !std::mem::replace(&mut self.is_used[at], true) {
            self.used.push(column);
        }
    }

    /// Moves it to the end of a matrix.
    fn append_to(&mut self, matrix: &mut Rows) {
        self.used.sort_unstable();
        for column in self.used.drain(..) {
            let at = column as usize;
            self.is_used[at] = false;
            matrix.columns.push(column);
            matrix.values.push(std::mem::take(&mut self.values[at]));
        }
        matrix.starts.push(matrix.columns.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The matrix by its definition.
    fn dense(order: usize, elements: usize, shift: f64) -> Vec<Vec<f64>> {
        let mut matrix = vec![vec![0.0; order]; order];
        for (at, vector) in vectors(order, elements).iter().enumerate() {
            let weight = CONDITION.powf(at as f64 / order as f64);
            for a in vector {
                for b in vector {
                    matrix[a.place as usize][b.place as usize] += weight * a.value * b.value;
                }
            }
        }
        for (at, row) in matrix.iter_mut().enumerate() {
            row[at] += CONDITION - shift;
        }
        matrix
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn rows_are_those_of_the_definition(order in 8_usize..70, elements in 1_usize..7, from in 0_usize..70, len in 1_usize..70) {
            let rows = from.min(order - 1)..(from + len).min(order).max(from.min(order - 1) + 1);
            let matrix = Rows::new(order, elements, 3.0, rows.clone());
            let x: Vec<f64> = (0..order).map(|at| (at as f64).cos()).collect();
            let mut product = vec![0.0; rows.len()];
            matrix.times(&x, &mut product);
            for (row, product) in dense(order, elements, 3.0)[rows].iter().zip(product) {
                let expected: f64 = row.iter().zip(&x).map(|(a, x)| a * x).sum();
                prop_assert!((product - expected).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn vectors_have_a_half_at_their_own_place_and_no_place_twice() {
        for (at, vector) in vectors(50, 6).iter().enumerate() {
            assert!(vector.contains(&Entry { place: u32::try_from(at).unwrap(), value: 0.5 }));
            let mut places: Vec<_> = vector.iter().map(|entry| entry.place).collect();
            places.sort_unstable();
            places.dedup();
            assert!(places.len() == vector.len() && [6, 7].contains(&places.len()));
        }
    }
}
