//! A set of interrupt vectors, as the IRR, ISR and TMR hold them.

use serde::{Deserialize, Serialize};

const WORDS: usize = 4;

/// A set of the 256 interrupt vectors.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct VectorSet([u64; WORDS]);

impl VectorSet {
    /// Adds a vector.
    pub fn insert(&mut self, vector: u8) {
        let (word, bit) = Self::place(vector);
        self.0[word] |= bit;
    }

    /// Takes a vector out.
    pub fn remove(&mut self, vector: u8) {
        let (word, bit) = Self::place(vector);
        self.0[word] &= !bit;
    }

    /// Whether the vector is in the set.
    #[must_use]
    pub fn contains(&self, vector: u8) -> bool {
        let (word, bit) = Self::place(vector);
        self.0[word] & bit != 0
    }

    /// The highest vector, which has the highest priority (SDM 12.8.3.1).
    #[must_use]
    pub fn highest(&self) -> Option<u8> {
        (0..WORDS).rev().find(|&word| self.0[word] != 0).map(|word| {
            let bit = 63 - self.0[word].leading_zeros() as usize;
            (word * 64 + bit).to_le_bytes()[0]
        })
    }

    /// Adds 64 vectors at once: those of `bits`, the lowest standing for vector `64 * word`.
    pub(super) fn insert_word(&mut self, word: usize, bits: u64) {
        self.0[word] |= bits;
    }

    /// 32 vectors as one register shows them; register 0 has vectors 0 to 31.
    pub(super) fn register(&self, index: u32) -> u32 {
        let word = self.0[(index as usize / 2) % WORDS];
        halves(word)[index as usize % 2]
    }

    fn place(vector: u8) -> (usize, u64) {
        (usize::from(vector) / 64, 1 << (vector % 64))
    }
}

/// Lower and upper half of a 64-bit register.
pub(super) fn halves(register: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = register.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_vector_wins() {
        let mut set = VectorSet::default();
        assert_eq!(set.highest(), None);
        for vector in [0, 63, 64, 200, 255] {
            set.insert(vector);
            assert_eq!(set.highest(), Some(vector));
        }
        set.remove(255);
        assert_eq!(set.highest(), Some(200));
        assert!(set.contains(63) && !set.contains(62));
    }

    #[test]
    fn registers_show_thirty_two_vectors_each() {
        let mut set = VectorSet::default();
        set.insert(33);
        set.insert(255);
        assert_eq!((set.register(0), set.register(1), set.register(7)), (0, 2, 1 << 31));
    }
}
