//! Runs of bytes for many places of a segment, put by one operation.

use super::MAX_BODY;

/// Bytes that a run takes beside its own: its place and its length.
pub const RUN_BYTES: usize = 16;

/// Runs of bytes, each with its place, in the form in which they travel: place (8 bytes), length (8 bytes), the bytes; one run after the other,
/// numbers little-endian. Never longer than [`MAX_BODY`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PutList(Vec<u8>);

impl PutList {
    /// Adds a run; false when it has no room for that any more, and nothing is added.
    #[must_use]
    pub fn push(&mut self, offset: u64, bytes: &[u8]) -> bool {
        if self.0.len().saturating_add(RUN_BYTES).saturating_add(bytes.len()) > MAX_BODY {
            return false;
        }
        self.0.extend_from_slice(&offset.to_le_bytes());
        self.0.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.0.extend_from_slice(bytes);
        true
    }

    /// Whether there is no run in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes all runs out, and keeps the memory for others.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// As it travels.
    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        &self.0
    }

    /// Its runs.
    pub fn runs(&self) -> impl Iterator<Item = (u64, &[u8])> {
        Runs(&self.0).map_while(Result::ok)
    }

    /// The runs of what has travelled; [`Malformed`] ends them where there is no whole run.
    pub fn decode(encoded: &[u8]) -> impl Iterator<Item = Result<(u64, &[u8]), Malformed>> {
        Runs(encoded)
    }
}

/// Bytes that are no list of runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a list of puts that ends in the middle of one")]
pub struct Malformed;

struct Runs<'a>(&'a [u8]);

impl<'a> Iterator for Runs<'a> {
    type Item = Result<(u64, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let run = first_run(self.0);
        self.0 = run.map_or(&[], |(_, _, rest)| rest);
        Some(run.map(|(offset, bytes, _)| (offset, bytes)).ok_or(Malformed))
    }
}

fn first_run(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (offset, rest) = bytes.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (bytes, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some((u64::from_le_bytes(*offset), bytes, rest))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_list_has_room_up_to_the_longest_transfer() {
        let mut list = PutList::default();
        assert!(list.push(8, &vec![1; MAX_BODY - 2 * RUN_BYTES]));
        assert!(!list.push(9, &[1]));
        assert!(list.push(9, &[]));
        assert_eq!(list.encoded().len(), MAX_BODY);
        assert!(!list.push(9, &[]));
        list.clear();
        assert!(list.is_empty() && list.push(0, &vec![1; MAX_BODY - RUN_BYTES]));
    }

    proptest! {
        #[test]
        fn runs_come_out_as_they_went_in(runs in vec((any::<u64>(), vec(any::<u8>(), 0..40)), 0..20), cut: u8) {
            let mut list = PutList::default();
            for (offset, bytes) in &runs {
                prop_assert!(list.push(*offset, bytes));
            }
            let there: Vec<_> = list.runs().map(|(offset, bytes)| (offset, bytes.to_vec())).collect();
            prop_assert_eq!(&there, &runs);
            let end = list.encoded().len().saturating_sub(cut.into());
            let whole = PutList::decode(&list.encoded()[..end]).collect::<Result<Vec<_>, _>>();
            // Cut between two runs it is a shorter list, else none.
            let at_an_end = (0..=runs.len()).any(|count| {
                runs[..count].iter().map(|(_, bytes)| RUN_BYTES + bytes.len()).sum::<usize>() == end
            });
            prop_assert_eq!(whole.is_ok(), at_an_end);
        }

        #[test]
        fn any_bytes_are_a_list_or_malformed(bytes in vec(any::<u8>(), 0..64)) {
            let runs: Vec<_> = PutList::decode(&bytes).collect();
            prop_assert!(runs.iter().flatten().all(|(_, run)| run.len() <= bytes.len()));
            prop_assert!(runs.iter().rev().skip(1).all(Result::is_ok), "nothing comes after what is no run");
        }
    }
}
