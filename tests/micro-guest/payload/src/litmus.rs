//! Litmus tests of memory order: a few accesses of two words by two or four processors, and what may come of them.
//!
//! The rules are those of x86-TSO (Sewell, Sarkar, Owens, Zappa Nardelli, Myreen: "x86-TSO: a rigorous and usable
//! programmer's model for x86 multiprocessors", 2010): a store may become visible after younger loads of the same
//! processor, and nothing else is reordered; fences and locked instructions wait for the stores before them.

/// Number of outcomes that a test can have: four bits.
pub const OUTCOMES: usize = 16;

/// What the processors do with the words x and y, both old at first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shape {
    /// SB: x = new, read y | y = new, read x.
    StoreBuffering,
    /// MP: x = new, y = new | read y, read x.
    MessagePassing,
    /// LB: read x, y = new | read y, x = new.
    LoadBuffering,
    /// IRIW: x = new | y = new | read x, read y | read y, read x.
    IndependentReads,
    /// 2+2W: x = first, y = second | y = first, x = second; what is there in the end.
    TwoPlusTwoWrites,
}

/// What is between a processor's two accesses, or how it stores.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// Nothing: plain moves.
    Plain,
    /// MFENCE between them.
    Fenced,
    /// Stores are locked exchanges.
    Locked,
}

/// A litmus test.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Litmus {
    /// What is done.
    pub shape: Shape,
    /// How.
    pub order: Order,
}

impl Litmus {
    /// Every test; its number is its place here.
    pub const ALL: [Self; 15] = {
        use Order::{Fenced, Locked, Plain};
        use Shape::{IndependentReads, LoadBuffering, MessagePassing, StoreBuffering, TwoPlusTwoWrites};
        const fn test(shape: Shape, order: Order) -> Litmus {
            Litmus { shape, order }
        }
        [
            test(StoreBuffering, Plain),
            test(StoreBuffering, Fenced),
            test(StoreBuffering, Locked),
            test(MessagePassing, Plain),
            test(MessagePassing, Fenced),
            test(MessagePassing, Locked),
            test(LoadBuffering, Plain),
            test(LoadBuffering, Fenced),
            test(LoadBuffering, Locked),
            test(IndependentReads, Plain),
            test(IndependentReads, Fenced),
            test(IndependentReads, Locked),
            test(TwoPlusTwoWrites, Plain),
            test(TwoPlusTwoWrites, Fenced),
            test(TwoPlusTwoWrites, Locked),
        ]
    };

    /// Its number on the command line.
    #[must_use]
    pub fn number(self) -> usize {
        Self::ALL.iter().position(|test| *test == self).unwrap_or(Self::ALL.len())
    }

    /// The test with this number.
    #[must_use]
    pub fn from_number(number: usize) -> Option<Self> {
        Self::ALL.get(number).copied()
    }

    /// How many processors take part.
    #[must_use]
    pub fn processors(self) -> usize {
        match self.shape {
            Shape::IndependentReads => 4,
            Shape::StoreBuffering | Shape::MessagePassing | Shape::LoadBuffering | Shape::TwoPlusTwoWrites => 2,
        }
    }

    /// The outcomes that x86 never shows, as a set of bits. Bits of an outcome are set where a read found the new value, in
    /// the order in which [`Shape`] names the reads; for 2+2W, where x and y are the second value in the end.
    #[must_use]
    pub fn forbidden(self) -> u16 {
        match (self.shape, self.order) {
            (Shape::StoreBuffering, Order::Plain) => 0,
            (Shape::StoreBuffering, Order::Fenced | Order::Locked) => 1 << 0b00,
            (Shape::MessagePassing, _) => 1 << 0b01,
            (Shape::LoadBuffering, _) => 1 << 0b11,
            (Shape::IndependentReads, _) => 1 << 0b0101,
            (Shape::TwoPlusTwoWrites, _) => 1 << 0b00,
        }
    }

    /// The outcomes, of those that are not forbidden, that no order of the processors shows in which each has done all before the next one begins: whoever
    /// sees one has seen them at work at the same time.
    #[must_use]
    pub fn interleaved(self) -> u16 {
        match (self.shape, self.order) {
            (Shape::StoreBuffering, Order::Plain) => 1 << 0b00 | 1 << 0b11,
            (Shape::StoreBuffering, Order::Fenced | Order::Locked) | (Shape::TwoPlusTwoWrites, _) => 1 << 0b11,
            (Shape::MessagePassing, _) => 1 << 0b10,
            (Shape::LoadBuffering, _) => 1 << 0b00,
            (Shape::IndependentReads, _) => 1 << 0b1010,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outcomes of all interleavings of accesses that happen one after the other, which sequential consistency allows; or of those alone in which a
    /// processor that has begun goes on to its end.
    fn sequential(shape: Shape, whole: bool) -> u16 {
        // An access: word, and for a store the value, for a load its bit.
        #[derive(Clone, Copy)]
        enum Do {
            Store(usize, u8),
            Load(usize, u8),
        }
        use Do::{Load, Store};
        let programs: Vec<Vec<Do>> = match shape {
            Shape::StoreBuffering => vec![vec![Store(0, 1), Load(1, 0)], vec![Store(1, 1), Load(0, 1)]],
            Shape::MessagePassing => vec![vec![Store(0, 1), Store(1, 1)], vec![Load(1, 0), Load(0, 1)]],
            Shape::LoadBuffering => vec![vec![Load(0, 0), Store(1, 1)], vec![Load(1, 1), Store(0, 1)]],
            Shape::IndependentReads => {
                vec![vec![Store(0, 1)], vec![Store(1, 1)], vec![Load(0, 0), Load(1, 1)], vec![Load(1, 2), Load(0, 3)]]
            }
            Shape::TwoPlusTwoWrites => vec![vec![Store(0, 1), Store(1, 2)], vec![Store(1, 1), Store(0, 2)]],
        };
        fn go(programs: &[Vec<Do>], at: &mut [usize], words: [u8; 2], outcome: u8, [last, whole]: [bool; 2]) -> u16 {
            let mut found = 0;
            let mut any = false;
            let begun = (0..programs.len()).find(|index| whole && (1..programs[*index].len()).contains(&at[*index]));
            for index in begun.map_or(0..programs.len(), |begun| begun..begun + 1) {
                let Some(next) = programs[index].get(at[index]) else { continue };
                any = true;
                let (mut words, mut outcome) = (words, outcome);
                match *next {
                    Store(word, value) => words[word] = value,
                    Load(word, bit) => outcome |= words[word].min(1) << bit,
                }
                at[index] += 1;
                found |= go(programs, at, words, outcome, [last, whole]);
                at[index] -= 1;
            }
            let ending = if last { u8::from(words[0] == 2) | u8::from(words[1] == 2) << 1 } else { outcome };
            if any { found } else { 1 << ending }
        }
        let mut at = vec![0; programs.len()];
        go(&programs, &mut at, [0; 2], 0, [shape == Shape::TwoPlusTwoWrites, whole])
    }

    #[test]
    fn forbidden_is_what_no_interleaving_shows_but_for_buffered_stores() {
        for test in Litmus::ALL {
            let bits = if test.shape == Shape::IndependentReads { 4 } else { 2 };
            let all = u16::try_from((1u32 << (1 << bits)) - 1).unwrap();
            let buffered = test.shape == Shape::StoreBuffering && test.order == Order::Plain;
            let expected = if buffered { 0 } else { all & !sequential(test.shape, false) };
            assert_eq!(test.forbidden(), expected, "{test:?}");
            let interleaved = all & !test.forbidden() & !sequential(test.shape, true);
            assert_eq!(test.interleaved(), interleaved, "{test:?}");
        }
    }

    #[test]
    fn numbers_are_read_back() {
        for (number, test) in Litmus::ALL.into_iter().enumerate() {
            assert_eq!((test.number(), Litmus::from_number(number)), (number, Some(test)));
        }
        assert_eq!(Litmus::from_number(Litmus::ALL.len()), None);
    }
}
