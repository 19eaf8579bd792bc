//! What a rank has changed of a page: its copy against the twin, to the byte. Two ranks may have changed neighbouring
//! bytes, so nothing that is unchanged is ever written back with what is.

use std::ops::Range;

use crate::id::PAGE_BYTES;

/// Bytes that one put costs beside what it carries: a frame's prefix and the offset (docs/transport.md).
pub const PUT_OVERHEAD: usize = 16;

/// Bytes compared at a time. What did not change, which is most of a page mostly, is passed over in steps of this.
const BLOCK: usize = 256;
/// Bytes of a word.
const WORD: usize = STEP as usize;
/// The same, as places in a page are counted.
const STEP: u16 = 8;

const _: () = assert!(BLOCK.is_multiple_of(WORD) && PAGE_BYTES.is_multiple_of(BLOCK));
const _: () = assert!(PAGE_BYTES <= u16::MAX as usize);

/// Adjacent bytes of a page that have changed, by their place in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Changed {
    /// The first byte.
    pub start: u16,
    /// The byte after the last.
    pub end: u16,
}

impl Changed {
    /// Its bytes' places.
    #[must_use]
    pub fn range(self) -> Range<usize> {
        self.start.into()..self.end.into()
    }
}

/// The changes of a page. Made to be used again for the next page, which allocates nothing then.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Diff {
    runs: Vec<Changed>,
    bytes: Vec<u8>,
}

impl Diff {
    /// The runs of changed bytes in rising order, none next to another, each with its new bytes: a put each.
    pub fn puts(&self) -> impl Iterator<Item = (Changed, &[u8])> {
        let mut rest = self.bytes.as_slice();
        self.runs.iter().map(move |run| {
            let (bytes, after) = rest.split_at_checked(run.range().len()).unwrap_or_default();
            rest = after;
            (*run, bytes)
        })
    }

    /// Whether nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Bytes that bringing it home moves, answers aside.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        self.runs.len() * PUT_OVERHEAD + self.bytes.len()
    }

    /// Makes it the difference from `twin` to `copy`, which are equally long and at most a page.
    pub fn set(&mut self, twin: &[u8], copy: &[u8]) {
        self.runs.clear();
        self.bytes.clear();
        // A page that has been written need not have changed.
        if twin == copy {
            return;
        }
        let mut runs = Runs { done: &mut self.runs, open: None };
        let blocks = twin.chunks(BLOCK).zip(copy.chunks(BLOCK));
        for (start, (old, new)) in (0..).step_by(BLOCK).zip(blocks) {
            if old == new {
                runs.close();
            } else {
                changed_words(start, old, new, &mut runs);
            }
        }
        runs.close();
        for run in &self.runs {
            self.bytes.extend_from_slice(copy.get(run.range()).unwrap_or_default());
        }
    }
}

/// The difference from `twin` to `copy`, which are equally long and at most a page.
#[must_use]
pub fn between(twin: &[u8], copy: &[u8]) -> Diff {
    let mut diff = Diff::default();
    diff.set(twin, copy);
    diff
}

/// Makes the changes to a page.
pub fn apply(diff: &Diff, page: &mut [u8]) {
    for (run, bytes) in diff.puts() {
        if let Some(to) = page.get_mut(run.range()) {
            to.copy_from_slice(bytes);
        }
    }
}

/// Takes changed bytes in rising order and makes runs of them.
struct Runs<'a> {
    done: &'a mut Vec<Changed>,
    open: Option<Changed>,
}

impl Runs<'_> {
    fn changed(&mut self, start: u16, end: u16) {
        match &mut self.open {
            Some(open) => open.end = end,
            None => self.open = Some(Changed { start, end }),
        }
    }

    fn close(&mut self) {
        self.done.extend(self.open.take());
    }
}

/// Whether all eight bytes of the word are other than zero (Warren, "Hacker's Delight", section 6-1).
fn is_full(word: u64) -> bool {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = LOW << 7;
    word.wrapping_sub(LOW) & !word & HIGH == 0
}

fn changed_words(start: u16, old: &[u8], new: &[u8], runs: &mut Runs<'_>) {
    let ((old_words, old_tail), (new_words, new_tail)) = (old.as_chunks::<WORD>(), new.as_chunks::<WORD>());
    let mut at = start;
    for (old, new) in old_words.iter().zip(new_words) {
        let changed = u64::from_le_bytes(*old) ^ u64::from_le_bytes(*new);
        if changed == 0 {
            runs.close();
        } else if is_full(changed) {
            runs.changed(at, at + STEP);
        } else {
            changed_bytes(at, old, new, runs);
        }
        at += STEP;
    }
    changed_bytes(at, old_tail, new_tail, runs);
}

fn changed_bytes(start: u16, old: &[u8], new: &[u8], runs: &mut Runs<'_>) {
    for (at, (old, new)) in (start..).zip(old.iter().zip(new)) {
        if old == new {
            runs.close();
        } else {
            runs.changed(at, at + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Two pages that differ here and there, at single bytes and at whole stretches.
    fn pages() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let change = (0..PAGE_BYTES, prop_oneof![1..4_usize, 1..700_usize], any::<u8>());
        (vec(any::<u8>(), PAGE_BYTES), vec(change, 0..40)).prop_map(|(old, changes)| {
            let mut new = old.clone();
            for (start, len, by) in changes {
                new.iter_mut().skip(start).take(len).for_each(|byte| *byte = byte.wrapping_mul(3) ^ by);
            }
            (old, new)
        })
    }

    proptest! {
        #[test]
        fn applying_a_difference_makes_the_other_page((old, new) in pages()) {
            let diff = between(&old, &new);
            let mut page = old.clone();
            apply(&diff, &mut page);
            prop_assert_eq!(&page, &new);
            prop_assert_eq!(diff.is_empty(), old == new);
        }

        #[test]
        fn a_difference_is_what_has_changed_to_the_byte((old, new) in pages()) {
            let diff = between(&old, &new);
            let named: Vec<usize> = diff.puts().flat_map(|(run, _)| run.range()).collect();
            let changed: Vec<usize> = (0..PAGE_BYTES).filter(|at| old[*at] != new[*at]).collect();
            prop_assert_eq!(named, changed);
            prop_assert!(diff.runs.windows(2).all(|two| two[0].end < two[1].start));
        }

        #[test]
        fn two_writers_of_one_page_do_not_disturb_each_other((old, one) in pages(), seed in vec(any::<u8>(), PAGE_BYTES)) {
            // The other rank writes what the first one leaves alone.
            let mut other = old.clone();
            for at in 0..PAGE_BYTES {
                if one[at] == old[at] {
                    other[at] = seed[at];
                }
            }
            let mut home = old.clone();
            apply(&between(&old, &other), &mut home);
            apply(&between(&old, &one), &mut home);
            for at in 0..PAGE_BYTES {
                prop_assert_eq!(home[at], if one[at] == old[at] { other[at] } else { one[at] });
            }
        }

        #[test]
        fn shorter_pieces_than_a_page_have_differences_too(old in vec(any::<u8>(), 0..70), by in vec(0..3_u8, 70)) {
            let new: Vec<u8> = old.iter().zip(by).map(|(byte, by)| byte ^ by).collect();
            let mut page = old.clone();
            apply(&between(&old, &new), &mut page);
            prop_assert_eq!(page, new);
        }

        #[test]
        fn eight_changed_bytes_move_few(old in vec(any::<u8>(), PAGE_BYTES), at in vec(0..PAGE_BYTES, 8)) {
            let mut new = old.clone();
            at.iter().for_each(|at| new[*at] = !old[*at]);
            prop_assert!(between(&old, &new).wire_bytes() <= 256);
        }
    }

    #[test]
    fn a_difference_is_used_again_for_the_next_page() {
        let mut diff = between(&[0; 16], &[1; 16]);
        diff.set(&[0; 16], &[0; 16]);
        assert_eq!(diff, Diff::default());
        assert_eq!(diff.wire_bytes(), 0);
    }

    #[test]
    fn a_page_changed_all_over_is_one_put() {
        let diff = between(&[0; PAGE_BYTES], &[7; PAGE_BYTES]);
        assert_eq!(diff.puts().map(|(run, bytes)| (run.range(), bytes.len())).collect::<Vec<_>>(), [(0..4096, 4096)]);
        assert_eq!(diff.wire_bytes(), PAGE_BYTES + PUT_OVERHEAD);
    }
}
