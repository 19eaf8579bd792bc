//! Atomic operations where NICs have none, on iWARP: they are asked of the target in slots of their own, and whoever polls there does them and
//! answers. Answers come in the order of what was asked, so they name nothing.

use std::collections::VecDeque;

use vincs_coherence::transport::Segment;

/// Bytes of each in a slot: what it is (8), and three words, little-endian.
pub(crate) const ENTRY_BYTES: usize = 32;

/// What is asked, or answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Entry {
    Swap {
        at: u64,
        expected: u64,
        new: u64,
    },
    Add {
        at: u64,
        add: u64,
    },
    /// What the word was.
    Old(u64),
    /// There is no such word.
    Refused,
}

/// What no peer of this version sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum AtomicsFault {
    #[error("sent {0} bytes of atomic operations, each of which has {ENTRY_BYTES}")]
    Length(usize),
    #[error("sent an atomic operation that there is not")]
    Kind,
    #[error("sent an atomic operation or an answer with more than belongs to it")]
    Reserved,
    #[error("has more than {0} atomic operations under way")]
    TooMany(usize),
    #[error("answers an atomic operation that was not asked of it")]
    NotAsked,
    #[error("asks for an atomic operation, which the NIC does on this kind of connection")]
    ByNic,
}

impl Entry {
    fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let words = match self {
            Self::Swap { at, expected, new } => [1, at, expected, new],
            Self::Add { at, add } => [2, at, add, 0],
            Self::Old(word) => [3, word, 0, 0],
            Self::Refused => [4, 0, 0, 0],
        };
        let mut bytes = [0; ENTRY_BYTES];
        let (places, _) = bytes.as_chunks_mut::<{ size_of::<u64>() }>();
        places.iter_mut().zip(words).for_each(|(place, word)| *place = word.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; ENTRY_BYTES]) -> Result<Self, AtomicsFault> {
        let (chunks, _) = bytes.as_chunks::<{ size_of::<u64>() }>();
        let words: Vec<u64> = chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect();
        match words[..] {
            [1, at, expected, new] => Ok(Self::Swap { at, expected, new }),
            [2, at, add, 0] => Ok(Self::Add { at, add }),
            [3, word, 0, 0] => Ok(Self::Old(word)),
            [4, 0, 0, 0] => Ok(Self::Refused),
            [1..=4, ..] => Err(AtomicsFault::Reserved),
            _ => Err(AtomicsFault::Kind),
        }
    }

    /// Does what is asked; gives the answer. Nothing for an answer.
    pub(crate) fn answer(self, segment: Option<&dyn Segment>) -> Option<Self> {
        let old = match self {
            Self::Swap { at, expected, new } => segment.and_then(|segment| segment.compare_and_swap(at, expected, new)),
            Self::Add { at, add } => segment.and_then(|segment| segment.fetch_and_add(at, add)),
            Self::Old(_) | Self::Refused => return None,
        };
        Some(old.map_or(Self::Refused, Self::Old))
    }
}

/// Moves as many as there is room for into a slot; says how many bytes they take.
pub(crate) fn pack(entries: &mut VecDeque<Entry>, room: &mut [u8]) -> usize {
    let (places, _) = room.as_chunks_mut::<ENTRY_BYTES>();
    let mut packed = 0;
    for place in places {
        let Some(entry) = entries.pop_front() else { break };
        *place = entry.to_bytes();
        packed += ENTRY_BYTES;
    }
    packed
}

/// What is in a slot.
pub(crate) fn unpack(bytes: &[u8]) -> Result<impl Iterator<Item = Result<Entry, AtomicsFault>>, AtomicsFault> {
    match bytes.as_chunks() {
        ([], _) | (_, [_, ..]) => Err(AtomicsFault::Length(bytes.len())),
        (entries, []) => Ok(entries.iter().map(Entry::from_bytes)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use vincs_coherence::transport::WordSegment;

    use super::*;

    fn unpacked(bytes: &[u8]) -> Result<Vec<Entry>, AtomicsFault> {
        unpack(bytes)?.collect()
    }

    #[test]
    fn what_is_packed_comes_out_in_order_as_far_as_there_is_room() {
        let all = [Entry::Swap { at: 8, expected: 1, new: u64::MAX }, Entry::Add { at: 0, add: 2 }, Entry::Old(3)];
        let mut entries: VecDeque<Entry> = all.into_iter().chain([Entry::Refused]).collect();
        let mut slot = [0xff; 3 * ENTRY_BYTES + 31];
        assert_eq!(pack(&mut entries, &mut slot), 3 * ENTRY_BYTES);
        assert_eq!(unpacked(&slot[..3 * ENTRY_BYTES]).unwrap(), all);
        assert_eq!(pack(&mut entries, &mut slot), ENTRY_BYTES);
        assert_eq!(unpacked(&slot[..ENTRY_BYTES]).unwrap(), [Entry::Refused]);
        assert_eq!(pack(&mut entries, &mut slot), 0);
    }

    #[test]
    fn bytes_that_no_peer_sends_are_faults() {
        let mut bytes = Entry::Refused.to_bytes();
        for length in [0, 31] {
            assert_eq!(unpacked(&bytes[..length]), Err(AtomicsFault::Length(length)));
        }
        bytes[8] = 1;
        assert_eq!(unpacked(&bytes), Err(AtomicsFault::Reserved));
        for kind in [0, 5] {
            bytes[0] = kind;
            assert_eq!(unpacked(&bytes), Err(AtomicsFault::Kind));
        }
    }

    #[test]
    fn what_is_asked_is_done_on_the_segment_or_refused() {
        let segment = WordSegment::new(2);
        let answer = |entry: Entry| entry.answer(Some(&segment)).unwrap();
        assert_eq!(answer(Entry::Add { at: 8, add: 5 }), Entry::Old(0));
        assert_eq!(answer(Entry::Swap { at: 8, expected: 4, new: 9 }), Entry::Old(5));
        assert_eq!(answer(Entry::Swap { at: 8, expected: 5, new: 9 }), Entry::Old(5));
        assert_eq!(answer(Entry::Add { at: 8, add: 0 }), Entry::Old(9));
        for at in [1, 16, u64::MAX] {
            assert_eq!(answer(Entry::Add { at, add: 1 }), Entry::Refused);
            assert_eq!(answer(Entry::Swap { at, expected: 0, new: 1 }), Entry::Refused);
        }
        assert_eq!(Entry::Add { at: 0, add: 1 }.answer(None), Some(Entry::Refused), "no segment");
        assert_eq!(Entry::Old(1).answer(Some(&segment)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_entries_or_a_fault(bytes in vec(any::<u8>(), 0..200), kind in 0..6_u8) {
            let _: Result<Vec<Entry>, AtomicsFault> = unpacked(&bytes);
            let mut begun = vec![0; bytes.len().next_multiple_of(ENTRY_BYTES)];
            begun[..bytes.len()].copy_from_slice(&bytes);
            for entry in begun.chunks_mut(ENTRY_BYTES) {
                entry[..8].copy_from_slice(&u64::from(kind).to_le_bytes());
            }
            if let Ok(entries) = unpacked(&begun) {
                let back: Vec<u8> = entries.into_iter().flat_map(Entry::to_bytes).collect();
                prop_assert_eq!(back, begun);
            }
        }
    }
}
