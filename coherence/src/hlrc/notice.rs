//! Write notices: which pages an interval has changed, as words of a log that others read.

use crate::hlrc::clock::Position;
use crate::id::{MAX_RUN, Page, Run};

/// Most notices of one interval. One that changed more runs of pages names a few more pages than it changed ([`compact`]).
pub const MAX_INTERVAL: usize = 1024;

/// Bits of a notice for the first page, from the lowest on.
const PAGE_BITS: u32 = 32;
/// Bits for the number of pages less one.
const COUNT_BITS: u32 = 8;
/// Bits for the lap.
const LAP_BITS: u32 = 24;

const _: () = assert!(PAGE_BITS + COUNT_BITS + LAP_BITS == u64::BITS);
const _: () = assert!(MAX_RUN as u32 == 1 << COUNT_BITS);

/// Which time round the ring a position is in, of so many words, cut to the bits that a notice has for it: what a reader compares to see
/// whether a notice was overwritten. Never zero, which is what words are that nobody has written.
fn lap(position: Position, log_words: u32) -> u64 {
    let lap = position.0 / u64::from(log_words.max(1));
    1 + lap % ((1 << LAP_BITS) - 1)
}

/// The word for a run of pages at a position.
#[must_use]
pub fn encode(run: Run, position: Position, log_words: u32) -> u64 {
    let count = u64::from(run.count.clamp(1, MAX_RUN) - 1);
    u64::from(run.first.0) | count << PAGE_BITS | lap(position, log_words) << (PAGE_BITS + COUNT_BITS)
}

/// The run of pages of a word that was written for this position; nothing if the word is of another time round.
#[must_use]
pub fn decode(word: u64, position: Position, log_words: u32) -> Option<Run> {
    if word >> (PAGE_BITS + COUNT_BITS) != lap(position, log_words) {
        return None;
    }
    let first = Page(u32::try_from(word & u64::from(u32::MAX)).ok()?);
    let count = u16::try_from(word >> PAGE_BITS & ((1 << COUNT_BITS) - 1)).ok()? + 1;
    Some(Run { first, count })
}

/// Covers pages in rising order with at most `most` runs. Where that needs more, runs next to each other become one with the
/// pages between them: those are invalidated in vain, which costs a fetch and harms nothing. Pages more than one run apart stay
/// apart, so there may be more runs than `most` when they are strewn that thinly.
#[must_use]
pub fn compact(pages: impl IntoIterator<Item = Page>, most: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for page in pages {
        match runs.last_mut() {
            Some(run) if run.end() == page && run.count < MAX_RUN => run.count += 1,
            _ => runs.push(Run::one(page)),
        }
    }
    let mut gap = 1;
    while runs.len() > most.max(1) && gap < u32::from(MAX_RUN) {
        runs = joined(&runs, gap);
        gap *= 2;
    }
    runs
}

/// Joins runs with at most `gap` pages between them, as long as they make one run.
fn joined(runs: &[Run], gap: u32) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::new();
    for run in runs {
        if let Some(last) = joined.last_mut() {
            let whole = run.end().0 - last.first.0;
            if run.first.0 - last.end().0 <= gap && whole <= MAX_RUN.into() {
                last.count = u16::try_from(whole).unwrap_or(MAX_RUN);
                continue;
            }
        }
        joined.push(*run);
    }
    joined
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_notice_is_read_as_it_was_written(first: u32, count in 1..=MAX_RUN, at in 0..Position::LIMIT, log in 1..=1_u32 << 16) {
            let run = Run { first: Page(first), count };
            let word = encode(run, Position(at), log);
            prop_assert_eq!(decode(word, Position(at), log), Some(run));
            prop_assert_eq!(decode(word, Position(at + u64::from(log)), log), None);
            prop_assert_eq!(decode(0, Position(at), log), None);
        }

        #[test]
        fn every_page_is_covered(pages in btree_set(0..5000_u32, 0..300), most in 1..40_usize) {
            let runs = compact(pages.iter().copied().map(Page), most);
            prop_assert!(pages.iter().all(|page| runs.iter().any(|run| run.contains(Page(*page)))));
            prop_assert!(runs.windows(2).all(|two| two[0].end() <= two[1].first));
            prop_assert!(runs.iter().all(|run| (1..=MAX_RUN).contains(&run.count)));
        }
    }

    #[test]
    fn few_runs_name_no_page_in_vain() {
        let pages = [1, 2, 3, 9, 11].map(Page);
        let runs = compact(pages, 3);
        let expected = [(1, 3), (9, 1), (11, 1)].map(|(first, count)| Run { first: Page(first), count });
        assert_eq!(runs, expected);
    }

    #[test]
    fn too_many_runs_become_fewer_at_the_smallest_gaps() {
        let runs = compact([1, 3, 9, 11, 100].map(Page), 3);
        assert_eq!(runs.iter().map(|run| (run.first.0, run.count)).collect::<Vec<_>>(), [(1, 3), (9, 3), (100, 1)]);
        let every_other = compact((0..).map(|page| Page(2 * page)).take(4 * MAX_INTERVAL), MAX_INTERVAL);
        assert!(every_other.len() <= MAX_INTERVAL);
        assert!(every_other.iter().all(|run| run.count <= MAX_RUN));
    }

    #[test]
    fn a_run_has_at_most_its_limit() {
        let edge = compact((0..=u32::from(MAX_RUN)).map(Page), MAX_INTERVAL);
        assert_eq!(edge.iter().map(|run| run.count).collect::<Vec<_>>(), [MAX_RUN, 1]);
    }
}
