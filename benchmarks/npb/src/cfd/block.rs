//! Blocks of five by five, one for each pair of parts of a state.

/// Density, momentum along x, y and z, energy.
pub type State = [f64; 5];

/// A matrix, row by row.
pub type Block = [[f64; 5]; 5];

/// A block times a state.
#[inline]
#[must_use]
pub fn times(block: &Block, state: &State) -> State {
    std::array::from_fn(|row| (0..5).map(|at| block[row][at] * state[at]).sum())
}

/// `from` less a block times a state.
#[inline]
pub fn subtract_product(from: &mut State, block: &Block, state: &State) {
    let product = times(block, state);
    for (from, product) in from.iter_mut().zip(product) {
        *from -= product;
    }
}

/// `from` less a block times another.
#[inline]
pub fn subtract_block_product(from: &mut Block, a: &Block, b: &Block) {
    for (from, a) in from.iter_mut().zip(a) {
        for (a, b) in a.iter().zip(b) {
            for (from, b) in from.iter_mut().zip(b) {
                *from -= a * b;
            }
        }
    }
}

/// Multiplies a state, and a block beside it, with the inverse of a block, by elimination without pivots: the diagonal is large.
#[inline]
pub fn solve<const COLUMNS: usize>(mut block: Block, right: &mut [[f64; COLUMNS]; 5]) {
    for pivot in 0..5 {
        let factor = 1.0 / block[pivot][pivot];
        for value in &mut block[pivot][pivot + 1..] {
            *value *= factor;
        }
        for value in &mut right[pivot] {
            *value *= factor;
        }
        let (pivot_row, pivot_right) = (block[pivot], right[pivot]);
        for row in (0..5).filter(|row| *row != pivot) {
            let factor = block[row][pivot];
            for at in pivot + 1..5 {
                block[row][at] -= factor * pivot_row[at];
            }
            for (value, pivot) in right[row].iter_mut().zip(&pivot_right) {
                *value -= factor * pivot;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_solution_times_the_block_is_the_right_side(
            mut block in prop::array::uniform5(prop::array::uniform5(-1.0..1.0)),
            right in prop::array::uniform5(prop::array::uniform5(-1.0..1.0)),
        ) {
            (0..5).for_each(|at| block[at][at] += 7.0);
            let mut solution = right;
            solve(block, &mut solution);
            let mut rest = right;
            subtract_block_product(&mut rest, &block, &solution);
            prop_assert!(rest.iter().flatten().all(|rest| f64::abs(*rest) < 1e-12));
            let column = solution.map(|row| row[2]);
            let mut rest = right.map(|row| row[2]);
            subtract_product(&mut rest, &block, &column);
            prop_assert!(rest.iter().all(|rest| rest.abs() < 1e-12));
        }
    }
}
