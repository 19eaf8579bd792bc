//! Where things are in the segments that ranks reach by one-sided operations. Every rank knows every other's layout.
//!
//! A segment has the pages homed at its rank, then a shadow of each, then words, in this order: the writer word of each page; the ring of the
//! rank's notices; the lock words and last clocks of the locks that it keeps; its queue node for each lock; its slots for barriers.
//! A word is changed in one of three ways only: by compare-and-swap; by its own rank; or by puts of one other rank at a time, before which the
//! own rank may have cleared it.

use crate::hlrc::clock::{Clock, Position};
use crate::home::HomeMap;
use crate::id::{MAX_RANKS, PAGE_BYTES, Page, Rank};
use crate::transport::MAX_BODY;

use super::{Config, LockId};

/// Bytes of a word.
pub const WORD_BYTES: u64 = 8;

/// Set in every word of a record that is put and looked for: all of them have come when it is set in all. So no order among the words of a put
/// is needed.
pub const HERE: u64 = 1 << 63;

/// Words before the clock of a lock or of a queue node's grant.
const HEADER: u64 = 1;
/// Words that a rank's contribution to a reduction takes: two halves, as each word has a mark.
const HALVES: u64 = 2;
/// One set of slots is read while the next barrier's is written already.
const PARITIES: u64 = 2;

const PAGE: u64 = PAGE_BYTES as u64;

const _: () = assert!(PAGE.is_multiple_of(WORD_BYTES));
const _: () = assert!(Position::LIMIT < HERE);
// The longest record goes in one put.
const _: () = assert!((HEADER + MAX_RANKS as u64 * (1 + HALVES)) * WORD_BYTES <= MAX_BODY as u64);
// All notices of a ring are one get, or two where it wraps.
const _: () = assert!(super::MAX_LOG_WORDS as u64 * WORD_BYTES <= MAX_BODY as u64);
// Offsets of the largest segment are far from overflow: every page of a machine at one rank, and every lock.
const _: () = assert!((u32::MAX as u64 + 1) * (2 * PAGE + WORD_BYTES) < 1 << 46);
const _: () = assert!(super::MAX_LOCKS as u64 * (3 + 2 * MAX_RANKS as u64) * WORD_BYTES < 1 << 46);

/// The segments of all ranks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Layout {
    ranks: u16,
    locks: u32,
    log_words: u32,
    shadows: bool,
    /// Stretches of pages with one home: first page, page after the last, home, and which of the home's pages the first is.
    stretches: Vec<(Page, Page, Rank, u32)>,
    /// Pages of each rank.
    homed: Vec<u32>,
}

impl Layout {
    /// That of a machine.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let homes: &HomeMap = &config.homes;
        let mut homed = vec![0; usize::from(MAX_RANKS)];
        let mut stretches = Vec::new();
        let mut first = Page(0);
        while let (Some(home), Some(end)) = (homes.home(first), homes.segment_end(first)) {
            if let Some(count) = homed.get_mut(usize::from(home.0)) {
                stretches.push((first, end, home, *count));
                *count += end.0 - first.0;
            }
            first = end;
        }
        let ranks = u16::try_from(config.team.len()).unwrap_or(MAX_RANKS);
        Self {
            ranks,
            locks: config.locks,
            log_words: config.log_words,
            shadows: config.has_single_writers(),
            stretches,
            homed,
        }
    }

    /// Pages of all ranks.
    #[must_use]
    pub fn pages_of_all(&self) -> u32 {
        self.stretches.last().map_or(0, |(_, end, _, _)| end.0)
    }

    /// Bytes of a rank's segment.
    #[must_use]
    pub fn bytes(&self, rank: Rank) -> u64 {
        self.barriers(rank) + PARITIES * u64::from(self.rounds()) * self.slot_words() * WORD_BYTES
    }

    /// The home of a page, and where the page is there.
    #[must_use]
    pub fn page(&self, page: Page) -> Option<(Rank, u64)> {
        self.index(page).map(|(home, index)| (home, u64::from(index) * PAGE))
    }

    /// Where the shadow of a page is at its home: what the page was before its second writer, kept for the first.
    #[must_use]
    pub fn shadow(&self, page: Page) -> Option<(Rank, u64)> {
        let (home, index) = self.index(page).filter(|_| self.shadows)?;
        Some((home, (u64::from(self.pages(home)) + u64::from(index)) * PAGE))
    }

    /// Where the writer word of a page is at its home.
    #[must_use]
    pub fn writer(&self, page: Page) -> Option<(Rank, u64)> {
        let (home, index) = self.index(page)?;
        Some((home, self.words(home) + u64::from(index) * WORD_BYTES))
    }

    /// Where a rank's notice at a position is.
    #[must_use]
    pub fn notice(&self, rank: Rank, position: Position) -> u64 {
        self.log(rank) + position.0 % u64::from(self.log_words.max(1)) * WORD_BYTES
    }

    /// The rank that keeps a lock, and where its lock word is there: the last in the queue. It is changed by compare-and-swap alone.
    #[must_use]
    pub fn lock(&self, lock: LockId) -> (Rank, u64) {
        let keeper = Rank(u16::try_from(lock.0 % u32::from(self.ranks.max(1))).unwrap_or(0));
        let index = u64::from(lock.0 / u32::from(self.ranks.max(1)));
        (keeper, self.lock_words(keeper) + index * (1 + self.record_words()) * WORD_BYTES)
    }

    /// Where the record that goes with a free lock is, at the rank that keeps it.
    #[must_use]
    pub fn lock_record(&self, lock: LockId) -> (Rank, u64) {
        let (keeper, offset) = self.lock(lock);
        (keeper, offset + WORD_BYTES)
    }

    /// Where a rank's queue node for a lock has the word that names the next in the queue.
    #[must_use]
    pub fn next(&self, rank: Rank, lock: LockId) -> u64 {
        self.nodes(rank) + u64::from(lock.0) * (1 + self.record_words()) * WORD_BYTES
    }

    /// Where the record is put that hands a lock to a rank.
    #[must_use]
    pub fn grant(&self, rank: Rank, lock: LockId) -> u64 {
        self.next(rank, lock) + WORD_BYTES
    }

    /// Where the record of a barrier's round comes in at a rank. Barriers alternate between two sets.
    #[must_use]
    pub fn slot(&self, rank: Rank, odd: bool, round: u32) -> u64 {
        let index = u64::from(odd) * u64::from(self.rounds()) + u64::from(round);
        self.barriers(rank) + index * self.slot_words() * WORD_BYTES
    }

    /// Words of a record with a clock.
    #[must_use]
    pub fn record_words(&self) -> u64 {
        HEADER + u64::from(self.ranks)
    }

    /// Words of a barrier's record: a header, the clock and the contributions.
    #[must_use]
    pub fn slot_words(&self) -> u64 {
        HEADER + u64::from(self.ranks) * (1 + HALVES)
    }

    /// Rounds of a barrier: in each a rank hears of twice as many.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        u16::BITS - self.ranks.saturating_sub(1).leading_zeros()
    }

    /// Words of a notice ring.
    #[must_use]
    pub fn log_words(&self) -> u32 {
        self.log_words
    }

    fn index(&self, page: Page) -> Option<(Rank, u32)> {
        let at = self.stretches.partition_point(|(_, end, _, _)| *end <= page);
        let (first, _, home, index) = self.stretches.get(at)?;
        Some((*home, index + (page.0 - first.0)))
    }

    fn pages(&self, rank: Rank) -> u32 {
        self.homed.get(usize::from(rank.0)).copied().unwrap_or(0)
    }

    fn words(&self, rank: Rank) -> u64 {
        u64::from(self.pages(rank)) * PAGE * if self.shadows { 2 } else { 1 }
    }

    fn log(&self, rank: Rank) -> u64 {
        self.words(rank) + u64::from(self.pages(rank)) * WORD_BYTES
    }

    fn lock_words(&self, rank: Rank) -> u64 {
        self.log(rank) + u64::from(self.log_words) * WORD_BYTES
    }

    fn nodes(&self, rank: Rank) -> u64 {
        let kept = u64::from(self.locks.div_ceil(u32::from(self.ranks.max(1))));
        self.lock_words(rank) + kept * (1 + self.record_words()) * WORD_BYTES
    }

    fn barriers(&self, rank: Rank) -> u64 {
        self.nodes(rank) + u64::from(self.locks) * (1 + self.record_words()) * WORD_BYTES
    }
}

/// A record: a header and a clock, each word with its mark.
#[must_use]
pub fn record(header: u64, clock: &Clock) -> Vec<u64> {
    let clock = clock.positions().map(|position| position.0 % Position::LIMIT);
    [header].into_iter().chain(clock).map(|word| word | HERE).collect()
}

/// What a record says: its header and its clock. Nothing as long as some of it has not come.
#[must_use]
pub fn read_record(words: &[u64]) -> Option<(u64, Clock)> {
    if words.iter().any(|word| word & HERE == 0) {
        return None;
    }
    let (header, clock) = words.split_first()?;
    let clock = clock.iter().map(|word| Position(word & !HERE)).collect();
    Some((header & !HERE, Clock::from_positions(clock)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn layout(single_writer: bool) -> Layout {
        let homes = HomeMap::new([(2, Rank(0)), (3, Rank(1)), (1, Rank(0))]).unwrap();
        let mut config = Config::new(Rank(0), homes, vec![1; 3]);
        config.locks = 4;
        config.log_words = 8;
        config.single_writer = single_writer;
        Layout::new(&config)
    }

    /// Marks every byte of everything that there is, and sees that nothing has been marked before, and that nothing is left.
    #[test]
    fn nothing_overlaps_and_nothing_is_left_over() {
        for single_writer in [false, true] {
            let layout = layout(single_writer);
            let mut used: BTreeMap<(Rank, u64), u64> = BTreeMap::new();
            for page in (0..6).map(Page) {
                let (home, at) = layout.page(page).unwrap();
                assert!(at.is_multiple_of(PAGE), "NICs and mappings want pages aligned");
                used.insert((home, at), PAGE);
                used.extend(layout.shadow(page).map(|place| (place, PAGE)));
                used.insert(layout.writer(page).unwrap(), 8);
            }
            for lock in (0..4).map(LockId) {
                used.insert(layout.lock(lock), 8);
                used.insert(layout.lock_record(lock), layout.record_words() * 8);
            }
            // Four locks of three ranks: two of them keep one fewer than there is room for.
            for rank in [1, 2].map(Rank) {
                let (_, first) = layout.lock(LockId(rank.0.into()));
                used.insert((rank, first + (1 + layout.record_words()) * 8), (1 + layout.record_words()) * 8);
            }
            for rank in (0..3).map(Rank) {
                used.extend((0..8).map(|position| ((rank, layout.notice(rank, Position(position))), 8)));
                for lock in (0..4).map(LockId) {
                    used.insert((rank, layout.next(rank, lock)), 8);
                    used.insert((rank, layout.grant(rank, lock)), layout.record_words() * 8);
                }
                for (odd, round) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
                    used.insert((rank, layout.slot(rank, odd, round)), layout.slot_words() * 8);
                }
            }
            for rank in (0..3).map(Rank) {
                let mut end = 0;
                for ((_, start), length) in used.range((rank, 0)..(Rank(rank.0 + 1), 0)) {
                    assert_eq!(*start, end, "rank {}", rank.0);
                    end = start + length;
                }
                assert_eq!(end, layout.bytes(rank));
            }
        }
    }

    #[test]
    fn what_is_no_page_is_nowhere() {
        assert_eq!(layout(true).page(Page(6)), None);
        assert_eq!(layout(true).writer(Page(u32::MAX)), None);
        assert_eq!(layout(false).shadow(Page(0)), None);
    }

    #[test]
    fn the_ring_goes_round() {
        let layout = layout(true);
        assert_eq!(layout.notice(Rank(2), Position(3)), layout.notice(Rank(2), Position(11)));
    }

    #[test]
    fn rounds_are_the_logarithm() {
        let rounds = [1, 2, 3, 4, 5, 64].map(|ranks| Layout { ranks, ..layout(true) }.rounds());
        assert_eq!(rounds, [0, 1, 2, 2, 3, 6]);
    }

    #[test]
    fn a_record_is_read_only_when_all_of_it_is_there() {
        let clock = Clock::from_positions(vec![Position(0), Position(Position::LIMIT - 1)]);
        let mut words = record(5, &clock);
        assert_eq!(read_record(&words), Some((5, clock)));
        words[1] = 0;
        assert_eq!(read_record(&words), None);
    }
}
