//! Words as a segment: those of plain memory, and of memory that somebody else keeps.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Segment;

/// Memory that words are in; it is always the same.
pub trait WordMemory: AsRef<[AtomicU64]> + Send + Sync + Debug {}

impl<T: AsRef<[AtomicU64]> + Send + Sync + Debug> WordMemory for T {}

/// A segment made of words.
#[derive(Debug)]
pub struct WordSegment(Box<dyn WordMemory>);

impl WordSegment {
    /// A segment of so many words of 8 bytes, all zero, in memory of its own: for flags, counters, benchmarks and tests.
    #[must_use]
    pub fn new(words: usize) -> Self {
        Self::over((0..words).map(|_| AtomicU64::new(0)).collect::<Box<[_]>>())
    }

    /// A segment in this memory.
    #[must_use]
    pub fn over(memory: impl WordMemory + 'static) -> Self {
        Self(Box::new(memory))
    }

    /// Its words, for the rank that it belongs to.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        (*self.0).as_ref()
    }

    /// The aligned word at this offset in bytes.
    fn word(&self, offset: u64) -> Option<&AtomicU64> {
        let index = usize::try_from(offset / 8).ok().filter(|_| offset.is_multiple_of(8))?;
        self.words().get(index)
    }

    /// The words that hold `len` bytes from `offset` on, and where in the first of them these begin; nothing if it ends before.
    fn span(&self, offset: u64, len: usize) -> Option<(&[AtomicU64], usize)> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(len)?;
        let words = self.words();
        words
            .get(start / 8..end.div_ceil(8).max(start / 8))
            .filter(|_| end <= words.len() * 8)
            .map(|words| (words, start % 8))
    }
}

/// How many of `len` bytes lie in a first word that is not theirs from its beginning.
fn head_length(skip: usize, len: usize) -> usize {
    if skip == 0 { 0 } else { len.min(8 - skip) }
}

/// Replaces some bytes of a word. The bytes around them are somebody else's, who may write them at the same time.
fn merge(word: &AtomicU64, skip: usize, bytes: &[u8]) {
    let replace = |old: u64| {
        let mut new = old.to_le_bytes();
        new.iter_mut().skip(skip).zip(bytes).for_each(|(to, from)| *to = *from);
        Some(u64::from_le_bytes(new))
    };
    // It does not fail, as `replace` always has a new word.
    let _: Result<u64, u64> = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, replace);
}

impl Segment for WordSegment {
    fn len(&self) -> u64 {
        self.words().len() as u64 * 8
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> bool {
        let Some((mut words, skip)) = self.span(offset, bytes.len()) else { return false };
        let load = |word: &AtomicU64| word.load(Ordering::Acquire).to_le_bytes();
        let (head, rest) = bytes.split_at_mut(head_length(skip, bytes.len()));
        if let (false, Some((first, others))) = (head.is_empty(), words.split_first()) {
            head.iter_mut().zip(load(first).into_iter().skip(skip)).for_each(|(to, from)| *to = from);
            words = others;
        }
        let (whole, tail) = rest.as_chunks_mut();
        let last = words.get(whole.len());
        whole.iter_mut().zip(words).for_each(|(to, word)| *to = load(word));
        if let Some(last) = last {
            tail.iter_mut().zip(load(last)).for_each(|(to, from)| *to = from);
        }
        true
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        let Some((mut words, skip)) = self.span(offset, bytes.len()) else { return false };
        let (head, rest) = bytes.split_at(head_length(skip, bytes.len()));
        if let (false, Some((first, others))) = (head.is_empty(), words.split_first()) {
            merge(first, skip, head);
            words = others;
        }
        let (whole, tail) = rest.as_chunks();
        let last = words.get(whole.len());
        words.iter().zip(whole).for_each(|(word, from)| word.store(u64::from_le_bytes(*from), Ordering::Release));
        if let Some(last) = last {
            merge(last, 0, tail);
        }
        true
    }

    fn compare_and_swap(&self, offset: u64, expected: u64, new: u64) -> Option<u64> {
        let result = self.word(offset)?.compare_exchange(expected, new, Ordering::AcqRel, Ordering::Acquire);
        Some(result.unwrap_or_else(|old| old))
    }

    fn fetch_and_add(&self, offset: u64, add: u64) -> Option<u64> {
        Some(self.word(offset)?.fetch_add(add, Ordering::AcqRel))
    }

    fn words(&self) -> Option<&[AtomicU64]> {
        Some(WordSegment::words(self))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_are_where_they_were_written(offset in 0..70_u64, bytes in vec(1..u8::MAX, 0..70)) {
            let segment = WordSegment::new(8);
            let mut expected = [0; 64];
            let start = usize::try_from(offset).unwrap();
            let within = start + bytes.len() <= 64;
            if within {
                expected[start..start + bytes.len()].copy_from_slice(&bytes);
            }
            prop_assert_eq!(segment.write(offset, &bytes), within);
            let mut all = [0; 64];
            prop_assert!(segment.read(0, &mut all));
            prop_assert_eq!(all, expected);
            let mut back = vec![0; bytes.len()];
            prop_assert_eq!(segment.read(offset, &mut back), within);
            prop_assert_eq!(back, if within { bytes } else { vec![0; bytes.len()] });
        }
    }

    #[test]
    fn words_are_aligned_and_within() {
        let segment = WordSegment::new(2);
        assert_eq!(segment.fetch_and_add(8, 5), Some(0));
        assert_eq!(segment.compare_and_swap(8, 4, 9), Some(5));
        assert_eq!(segment.compare_and_swap(8, 5, 9), Some(5));
        assert_eq!(segment.words()[1].load(Ordering::Relaxed), 9);
        for offset in [1, 4, 16, u64::MAX - 7, u64::MAX] {
            assert_eq!(segment.fetch_and_add(offset, 1), None);
            assert_eq!(segment.compare_and_swap(offset, 0, 1), None);
        }
        assert!(!segment.read(u64::MAX, &mut [0]));
        assert!(segment.read(16, &mut []));
        assert!(!segment.read(17, &mut []));
    }
}
