//! The writer word of a page, at its home: who writes it. It is changed by compare-and-swap alone.

use crate::id::{MAX_RANKS, Rank};

/// Who writes a page.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Writer {
    /// Nobody has written it.
    Nobody,
    /// One rank, which keeps no twin and puts the whole page.
    One(Rank),
    /// That rank puts the page right now.
    Putting(Rank),
    /// A second rank is about to write to the home's copy, and saves that for the first one as its twin.
    Saving {
        /// The first.
        first: Rank,
        /// The second.
        second: Rank,
    },
    /// Several, for ever: each puts only what it has changed.
    Many,
}

const NOBODY: u64 = 0;
const ONE: u64 = 1;
const PUTTING: u64 = 2;
const SAVING: u64 = 3;
const MANY: u64 = 4;

/// Bits of a word for what it says; ranks follow.
const KIND_BITS: u32 = 8;
/// Bits for a rank.
const RANK_BITS: u32 = 16;

const _: () = assert!(KIND_BITS + 2 * RANK_BITS <= u64::BITS);
const _: () = assert!((MAX_RANKS as u32) < 1 << RANK_BITS);

impl Writer {
    /// Its word.
    #[must_use]
    pub fn encode(self) -> u64 {
        let word = |kind: u64, first: Rank, second: Rank| {
            kind | u64::from(first.0) << KIND_BITS | u64::from(second.0) << (KIND_BITS + RANK_BITS)
        };
        match self {
            Self::Nobody => NOBODY,
            Self::One(rank) => word(ONE, rank, Rank(0)),
            Self::Putting(rank) => word(PUTTING, rank, Rank(0)),
            Self::Saving { first, second } => word(SAVING, first, second),
            Self::Many => MANY,
        }
    }

    /// What a word says; nothing if no rank of a machine with so many writes that.
    #[must_use]
    pub fn decode(word: u64, ranks: u16) -> Option<Self> {
        let part = |shift: u32| u16::try_from(word >> shift & ((1 << RANK_BITS) - 1)).ok().map(Rank);
        let (first, second) = (part(KIND_BITS)?, part(KIND_BITS + RANK_BITS)?);
        let writer = match word & ((1 << KIND_BITS) - 1) {
            NOBODY => Self::Nobody,
            ONE => Self::One(first),
            PUTTING => Self::Putting(first),
            SAVING => Self::Saving { first, second },
            MANY => Self::Many,
            _ => return None,
        };
        (writer.encode() == word && first.0 < ranks && second.0 < ranks).then_some(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_what_was_written() {
        let (first, second) = (Rank(MAX_RANKS - 1), Rank(5));
        let all = [
            Writer::Nobody,
            Writer::One(first),
            Writer::Putting(first),
            Writer::Saving { first, second },
            Writer::Many,
        ];
        for writer in all {
            assert_eq!(Writer::decode(writer.encode(), MAX_RANKS), Some(writer));
        }
        assert_eq!(Writer::Nobody.encode(), 0, "memory that nobody has touched says nobody");
    }

    #[test]
    fn what_no_rank_writes_is_no_writer() {
        for word in [5, 4 | 1 << 8, Writer::One(Rank(3)).encode(), Writer::One(Rank(0)).encode() | 1 << 63] {
            assert_eq!(Writer::decode(word, 3), None, "{word:#x}");
        }
    }
}
