//! The first frame on an authenticated connection between ranks says which connection it is; the answer is empty, or says why it is refused.

use vincs_coherence::id::Rank;

use crate::secret::MachineId;

/// Length of a hello in bytes.
pub(crate) const HELLO_BYTES: usize = 24;

/// Longest refusal in bytes.
pub(crate) const MAX_REFUSAL: usize = 1024;

/// Which connection this is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Hello {
    /// The machine.
    pub(crate) machine: MachineId,
    /// How many ranks it has.
    pub(crate) ranks: u16,
    /// How many channel classes.
    pub(crate) classes: u8,
    /// The class of this connection.
    pub(crate) class: u8,
    /// Who has connected.
    pub(crate) from: Rank,
    /// To whom.
    pub(crate) to: Rank,
}

impl Hello {
    pub(crate) fn to_bytes(self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        let rest = [self.ranks, u16::from_le_bytes([self.classes, self.class]), self.from.0, self.to.0];
        let rest = rest.into_iter().flat_map(u16::to_le_bytes);
        bytes.iter_mut().zip(self.machine.0.into_iter().chain(rest)).for_each(|(to, from)| *to = from);
        bytes
    }

    /// Nothing if the length is wrong.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (machine, rest) = bytes.split_first_chunk()?;
        let &[r0, r1, classes, class, f0, f1, t0, t1] = rest.as_array()?;
        Some(Self {
            machine: MachineId(*machine),
            ranks: u16::from_le_bytes([r0, r1]),
            classes,
            class,
            from: Rank(u16::from_le_bytes([f0, f1])),
            to: Rank(u16::from_le_bytes([t0, t1])),
        })
    }

    /// Why this hello of somebody else does not fit to `ours`, which says what this rank is; nothing if it does.
    pub(crate) fn difference(&self, ours: &Self) -> Option<String> {
        let Self { machine, ranks, classes, class, from, to } = *self;
        let me = ours.to.0;
        if machine != ours.machine {
            return Some(format!("this is rank {me} of machine {}, not of machine {machine}", ours.machine));
        }
        if (ranks, classes) != (ours.ranks, ours.classes) {
            let (r, c) = (ours.ranks, ours.classes);
            return Some(format!(
                "rank {me} has {r} ranks and {c} channel classes, rank {} has {ranks} and {classes}",
                from.0
            ));
        }
        if to != ours.to {
            return Some(format!("this is rank {me}, not rank {}", to.0));
        }
        if from <= to || from.0 >= ranks || class >= classes {
            return Some(format!("rank {} does not connect to rank {me} for channel class {class}", from.0));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Hello =
        Hello { machine: MachineId([7; 16]), ranks: 300, classes: 3, class: 0, from: Rank(1), to: Rank(1) };
    const THEIRS: Hello = Hello { class: 2, from: Rank(299), ..OURS };

    #[test]
    fn a_hello_comes_back_and_other_lengths_are_none() {
        let bytes = THEIRS.to_bytes();
        assert_eq!(Hello::from_bytes(&bytes), Some(THEIRS));
        assert_eq!(Hello::from_bytes(&bytes[1..]), None);
        assert_eq!(Hello::from_bytes(&[&bytes[..], &[0]].concat()), None);
    }

    #[test]
    fn each_difference_is_named() {
        assert_eq!(THEIRS.difference(&OURS), None);
        for (theirs, word) in [
            (Hello { machine: MachineId([8; 16]), ..THEIRS }, "machine 08080808080808080808080808080808"),
            (Hello { ranks: 301, ..THEIRS }, "rank 299 has 301 and 3"),
            (Hello { classes: 4, ..THEIRS }, "rank 299 has 300 and 4"),
            (Hello { to: Rank(2), ..THEIRS }, "this is rank 1, not rank 2"),
            (Hello { from: Rank(1), ..THEIRS }, "rank 1 does not connect to rank 1"),
            (Hello { from: Rank(0), ..THEIRS }, "rank 0 does not connect"),
            (Hello { from: Rank(300), ..THEIRS }, "rank 300 does not connect"),
            (Hello { class: 3, ..THEIRS }, "channel class 3"),
        ] {
            let difference = theirs.difference(&OURS).unwrap();
            assert!(difference.contains(word), "{difference}");
        }
    }
}
