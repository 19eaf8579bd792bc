//! What a kernel runs on: a team of members that share arrays and meet at barriers.
//!
//! Kernels are written as one program that each member runs, with its own number. Whatever is not in an array of the team is the
//! member's own. Between two meetings (a barrier or a sum) no part of an array is written by one member and touched by another:
//! that makes a kernel right on any memory whose barriers make all that was written before them seen after them, be it one
//! machine's, a guest's, or memory that is made coherent at barriers alone. [`Claims`] refuse a kernel that does not keep to it.
//!
//! - [`threads`]: the members are the threads of one process, those of a rayon pool;
//! - [`guest`]: the members are threads in a guest of vincs, on one rank or several;
//! - [`ranks`]: the members are processes;
//! - [`shared`]: arrays as a member sees them, all unsafe code of this crate;
//! - [`claims`]: who may touch which bytes;
//! - [`barrier`]: where threads meet.

pub mod barrier;
pub mod claims;
pub mod guest;
pub mod ranks;
pub mod shared;
pub mod threads;

use std::ops::Range;

use shared::{Element, Segment, Shared};

#[cfg(doc)]
use claims::Claims;

/// Most numbers that are summed at once.
pub const MAX_SUM: usize = 16;

/// There is no memory for an array. All members get it or none does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory for an array of {bytes} bytes: choose a smaller class or a machine with more")]
pub struct NoMemory {
    /// How much was asked for.
    pub bytes: usize,
}

/// A team as one of its members sees it.
pub trait Team {
    /// This member's number, from 0.
    fn member(&self) -> usize;

    /// How many members there are.
    fn members(&self) -> usize;

    /// Waits until all members are here. What was written before it is seen after it.
    fn barrier(&self);

    /// Makes each value the sum of that value of all members, added up in the order of members, so that all get the same bits.
    /// At most [`MAX_SUM`] values, of all members the same number. It is a barrier as well.
    fn sum(&self, values: &mut [f64]);

    /// Memory that all members see, zero at first and on whole pages. All members ask for the same segments in the same order.
    ///
    /// # Errors
    ///
    /// No memory; all members are told so.
    fn segment(&self, bytes: usize) -> Result<Segment, NoMemory>;
}

impl dyn Team + '_ {
    /// An array that all members see, zero at first. All members ask for the same arrays in the same order.
    ///
    /// # Errors
    ///
    /// No memory; all members are told so.
    pub fn array<T: Element>(&self, len: usize) -> Result<Shared<T>, NoMemory> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(NoMemory { bytes: usize::MAX })?;
        Ok(Shared::new(self.segment(bytes)?, len))
    }

    /// This member's part of `len` things: the parts of all are adjacent, in the order of members, and differ by one at most.
    #[must_use]
    pub fn share(&self, len: usize) -> Range<usize> {
        part(len, self.member(), self.members())
    }

    /// The sum of one value of each member. It is a barrier as well.
    #[must_use]
    pub fn sum_one(&self, value: f64) -> f64 {
        let mut values = [value];
        self.sum(&mut values);
        values[0]
    }
}

/// Part `part` of `parts` of `len` things.
fn part(len: usize, part: usize, parts: usize) -> Range<usize> {
    let start = |part: usize| part * (len / parts) + part.min(len % parts);
    start(part)..start(part + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_adjacent_and_even() {
        for (len, parts) in [(0, 3), (2, 3), (9, 3), (11, 3), (5, 1)] {
            let all: Vec<_> = (0..parts).map(|at| part(len, at, parts)).collect();
            assert_eq!((all[0].start, all[parts - 1].end), (0, len));
            assert!(
                all.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].len().abs_diff(pair[1].len()) <= 1)
            );
        }
    }
}
