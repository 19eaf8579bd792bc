//! Races: bytes that two ranks have written in intervals of which neither happened before the other. It is for a mode of its own
//! ([`super::Config::check_races`]), in which every rank makes twins of all pages that it writes, also of those homed at it, and brings what it has written
//! home before it takes over what others have changed. So each difference is what one rank has written, with the clock that it had seen all the while.
//!
//! Ranks send an observer a [`Note`] of each difference's byte ranges, and whenever their clock goes on. Notes of one rank come in its order; those of
//! different ranks in any. A [`Checker`] keeps what may still be in a race with something that comes, which is what some rank has not seen yet.
//!
//! An interval of rank r that began at position s of its log happened before whatever was written by a rank whose clock says more than s of r: as long as
//! the interval lasts nobody has seen more than s, and its end, which has at least one notice, is more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::id::{PAGE_BYTES, Page, Rank};

use super::clock::{Clock, Position};
use super::diff::Changed;

/// Places that are reported; of more there is only a count.
pub const MAX_REPORTS: usize = 64;
/// Differences of one page that are kept. Beyond that the oldest is forgotten.
pub const MAX_OF_PAGE: usize = 1024;
/// Differences and byte ranges that are kept of all pages: some 30 MiB, with clocks of 64 ranks 150.
pub const MAX_KEPT: usize = 1 << 18;

/// What a rank tells the observer: the clock that it had seen, and what it wrote with it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    /// What it had seen of all ranks. Its own entry is where its interval began.
    pub clock: Clock,
    /// Pages, each with the bytes that it has changed, in rising order.
    pub pages: Vec<(Page, Vec<Changed>)>,
}

impl Note {
    /// Whether a rank of a machine of so many ranks and pages can have written this.
    #[must_use]
    pub fn makes_sense(&self, ranks: usize, pages: u32) -> bool {
        let rising = |runs: &[Changed]| runs.windows(2).all(|two| matches!(two, [one, next] if one.end < next.start));
        let in_page = |run: &Changed| run.start < run.end && usize::from(run.end) <= PAGE_BYTES;
        let fits = |(page, runs): &(Page, Vec<Changed>)| page.0 < pages && rising(runs) && runs.iter().all(in_page);
        self.clock.positions().len() == ranks && self.pages.iter().all(fits)
    }
}

/// Two ranks have written the same bytes, with no synchronisation between.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Race {
    /// The page.
    pub page: Page,
    /// The first bytes of it that both have written.
    pub first: Changed,
    /// More such bytes of the same page, in rising order.
    pub more: Vec<Changed>,
    /// The two, the lower one first.
    pub ranks: [Rank; 2],
}

/// What a checker has done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Found {
    /// Races that were reported, each at another place.
    pub reported: u64,
    /// Pairs of intervals with races that were found after that and not reported.
    pub more: u64,
    /// Differences that were forgotten before all ranks had seen them: races with them are missed.
    pub forgotten: u64,
}

/// What a checker keeps at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// As [`MAX_REPORTS`].
    pub reports: usize,
    /// As [`MAX_OF_PAGE`].
    pub of_page: usize,
    /// As [`MAX_KEPT`].
    pub kept: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { reports: MAX_REPORTS, of_page: MAX_OF_PAGE, kept: MAX_KEPT }
    }
}

/// What a rank has written of a page.
#[derive(Clone, Debug)]
struct Record {
    /// Which one of all it is, in the order of coming.
    number: u64,
    rank: Rank,
    clock: Arc<Clock>,
    runs: Vec<Changed>,
}

/// A record in its rank's order. It may be forgotten already.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: u64,
    start: Position,
    page: Page,
}

/// Bytes of a page.
type Bits = [u64; PAGE_BYTES / 64];

/// Looks for races in what ranks note.
#[derive(Clone, Debug)]
pub struct Checker {
    limits: Limits,
    /// The last clock that each rank has noted: it has seen at least that when it writes what it notes next.
    seen: Vec<Clock>,
    pages: BTreeMap<Page, VecDeque<Record>>,
    /// By rank, what it has noted, in order.
    order: Vec<VecDeque<Place>>,
    /// Records, places and ranges kept.
    kept: usize,
    numbers: u64,
    /// Bytes that have been reported.
    reported: BTreeMap<Page, Box<Bits>>,
    found: Found,
}

impl Checker {
    /// One for so many ranks.
    #[must_use]
    pub fn new(ranks: u16) -> Self {
        Self::with_limits(ranks, Limits::default())
    }

    /// One that keeps more or less than usual.
    #[must_use]
    pub fn with_limits(ranks: u16, limits: Limits) -> Self {
        let (pages, reported) = Default::default();
        Self {
            limits,
            seen: vec![Clock::new(ranks); ranks.into()],
            pages,
            order: vec![VecDeque::new(); ranks.into()],
            kept: 0,
            numbers: 0,
            reported,
            found: Found::default(),
        }
    }

    /// A rank's note, which [makes sense](Note::makes_sense): the races that it shows.
    pub fn handle_note(&mut self, rank: Rank, note: Note) -> Vec<Race> {
        let Note { clock, pages } = note;
        let Some(seen) = self.seen.get_mut(usize::from(rank.0)) else { return Vec::new() };
        let goes_on = !seen.covers(&clock);
        seen.merge(&clock);
        let clock = Arc::new(clock);
        let mut races = Vec::new();
        for (page, runs) in pages.into_iter().filter(|(_, runs)| !runs.is_empty()) {
            self.compare(rank, &clock, page, &runs, &mut races);
            self.keep(Record { number: self.numbers, rank, clock: Arc::clone(&clock), runs }, page);
        }
        if goes_on {
            self.drop_seen();
        }
        races
    }

    /// What has been found so far.
    #[must_use]
    pub fn found(&self) -> Found {
        self.found
    }

    /// How many differences it keeps.
    #[must_use]
    pub fn records(&self) -> usize {
        self.pages.values().map(VecDeque::len).sum()
    }

    fn compare(&mut self, rank: Rank, clock: &Clock, page: Page, runs: &[Changed], races: &mut Vec<Race>) {
        for record in self.pages.get(&page).into_iter().flatten() {
            let came_before = happened_before(record.rank, &record.clock, clock);
            if record.rank == rank || came_before || happened_before(rank, clock, &record.clock) {
                continue;
            }
            let mut both = in_both(&record.runs, runs).into_iter();
            let bits = self.reported.get(&page).map(AsRef::as_ref);
            if both.as_slice().iter().all(|run| run.range().all(|byte| is_set(bits, byte))) {
                continue;
            }
            if self.found.reported >= self.limits.reports as u64 {
                self.found.more += 1;
                continue;
            }
            let bits = self.reported.entry(page).or_insert_with(|| Box::new([0; PAGE_BYTES / 64]));
            both.as_slice().iter().flat_map(|run| run.range()).for_each(|byte| set(bits, byte));
            if let Some(first) = both.next() {
                self.found.reported += 1;
                let ranks = [record.rank.min(rank), record.rank.max(rank)];
                races.push(Race { page, first, more: both.collect(), ranks });
            }
        }
    }

    fn keep(&mut self, record: Record, page: Page) {
        let Some(order) = self.order.get_mut(usize::from(record.rank.0)) else { return };
        order.push_back(Place { number: record.number, start: record.clock.of(record.rank), page });
        self.numbers += 1;
        self.kept += 1 + record.runs.len();
        let of_page = self.pages.entry(page).or_default();
        of_page.push_back(record);
        if of_page.len() > self.limits.of_page
            && let Some(oldest) = of_page.pop_front()
        {
            self.kept -= oldest.runs.len();
            self.found.forgotten += 1;
        }
        while self.kept > self.limits.kept {
            let first = |order: &VecDeque<Place>| order.front().map(|place| place.number);
            let oldest = self.order.iter_mut().filter(|order| !order.is_empty()).min_by_key(|order| first(order));
            let Some(place) = oldest.and_then(VecDeque::pop_front) else { return };
            self.found.forgotten += u64::from(self.drop_at(place));
        }
    }

    /// Drops what all others have seen: whatever they note from now on came after it.
    fn drop_seen(&mut self) {
        for rank in (0..).map(Rank).take(self.order.len()) {
            let others = (0..).map(Rank).zip(&self.seen).filter(|(other, _)| *other != rank);
            let Some(floor) = others.map(|(_, clock)| clock.of(rank)).min() else {
                // There are no others.
                self.pages.clear();
                self.order.iter_mut().for_each(VecDeque::clear);
                self.kept = 0;
                return;
            };
            let index = usize::from(rank.0);
            while let Some(order) = self.order.get_mut(index)
                && let Some(place) = order.pop_front_if(|place| place.start < floor)
            {
                self.drop_at(place);
            }
        }
    }

    /// Drops a record that is out of its rank's order already; says whether it was still there.
    fn drop_at(&mut self, place: Place) -> bool {
        self.kept -= 1;
        let Some(of_page) = self.pages.get_mut(&place.page) else { return false };
        let Ok(index) = of_page.binary_search_by_key(&place.number, |record| record.number) else { return false };
        self.kept -= of_page.remove(index).map_or(0, |record| record.runs.len());
        if of_page.is_empty() {
            self.pages.remove(&place.page);
        }
        true
    }
}

/// Whether what a rank wrote with a clock came before what was written with another one.
fn happened_before(rank: Rank, wrote: &Clock, with: &Clock) -> bool {
    with.of(rank) > wrote.of(rank)
}

/// Bytes that are in both of two lists in rising order.
fn in_both(one: &[Changed], other: &[Changed]) -> Vec<Changed> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    let mut both: Vec<Changed> = Vec::new();
    while let (Some(mine), Some(its)) = (one.peek(), other.peek()) {
        let (start, end) = (mine.start.max(its.start), mine.end.min(its.end));
        if start < end {
            match both.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => both.push(Changed { start, end }),
            }
        }
        if mine.end < its.end {
            one.next()
        } else {
            other.next()
        };
    }
    both
}

fn is_set(bits: Option<&Bits>, byte: usize) -> bool {
    bits.and_then(|bits| bits.get(byte / 64)).is_some_and(|word| word & 1 << (byte % 64) != 0)
}

fn set(bits: &mut Bits, byte: usize) {
    if let Some(word) = bits.get_mut(byte / 64) {
        *word |= 1 << (byte % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Page = Page(7);

    fn clock(positions: &[u64]) -> Clock {
        Clock::from_positions(positions.iter().copied().map(Position).collect())
    }

    fn run(start: u16, end: u16) -> Changed {
        Changed { start, end }
    }

    fn note(positions: &[u64], runs: &[(u16, u16)]) -> Note {
        let runs: Vec<Changed> = runs.iter().map(|(start, end)| run(*start, *end)).collect();
        Note { clock: clock(positions), pages: if runs.is_empty() { Vec::new() } else { vec![(PAGE, runs)] } }
    }

    fn race(runs: &[(u16, u16)], ranks: [u16; 2]) -> Race {
        let mut runs = runs.iter().map(|(start, end)| run(*start, *end));
        Race { page: PAGE, first: runs.next().unwrap(), more: runs.collect(), ranks: ranks.map(Rank) }
    }

    #[test]
    fn concurrent_writes_of_a_byte_are_a_race_and_of_neighbours_none() {
        let mut checker = Checker::new(3);
        assert_eq!(checker.handle_note(Rank(2), note(&[0, 0, 0], &[(0, 8), (16, 24)])), []);
        assert_eq!(checker.handle_note(Rank(1), note(&[0, 0, 0], &[(8, 16), (24, 30)])), []);
        let races = checker.handle_note(Rank(0), note(&[0, 0, 0], &[(7, 9)]));
        assert_eq!(races, [race(&[(7, 8)], [0, 2]), race(&[(8, 9)], [0, 1])]);
        assert_eq!(checker.found(), Found { reported: 2, more: 0, forgotten: 0 });
    }

    #[test]
    fn what_was_seen_came_before_and_its_order_of_coming_does_not_matter() {
        // Rank 0 wrote in its interval from 4 on; rank 1 has seen it to its end, or only to where it began.
        for (seen, races) in [(5, vec![]), (4, vec![race(&[(0, 4)], [0, 1])])] {
            let notes = [(Rank(0), note(&[4, 2], &[(0, 4)])), (Rank(1), note(&[seen, 2], &[(0, 4)]))];
            for order in [[0, 1], [1, 0]] {
                let mut checker = Checker::new(2);
                let found = order.map(|index| checker.handle_note(notes[index].0, notes[index].1.clone())).concat();
                assert_eq!(found, races, "seen {seen}, order {order:?}");
            }
        }
    }

    #[test]
    fn a_place_is_reported_once_and_bytes_beside_it_again() {
        let mut checker = Checker::new(2);
        checker.handle_note(Rank(0), note(&[0, 0], &[(0, 4), (10, 12)]));
        assert_eq!(checker.handle_note(Rank(1), note(&[0, 0], &[(2, 11)])), [race(&[(2, 4), (10, 11)], [0, 1])]);
        assert_eq!(checker.handle_note(Rank(1), note(&[0, 0], &[(2, 4), (10, 11)])), []);
        assert_eq!(
            checker.handle_note(Rank(1), note(&[0, 0], &[(3, 4), (11, 12)])),
            [race(&[(3, 4), (11, 12)], [0, 1])]
        );
    }

    #[test]
    fn what_all_have_seen_is_forgotten_and_nothing_earlier() {
        let mut checker = Checker::new(3);
        checker.handle_note(Rank(0), note(&[0, 0, 0], &[(0, 1)]));
        checker.handle_note(Rank(1), note(&[1, 0, 0], &[]));
        assert_eq!(checker.records(), 1, "rank 2 may have written before it sees that");
        checker.handle_note(Rank(2), note(&[0, 5, 0], &[]));
        assert_eq!(checker.records(), 1);
        checker.handle_note(Rank(2), note(&[1, 5, 0], &[]));
        assert_eq!((checker.records(), checker.kept), (0, 0));
        assert_eq!(checker.found(), Found::default());
        let mut alone = Checker::new(1);
        alone.handle_note(Rank(0), note(&[0], &[(0, 1)]));
        alone.handle_note(Rank(0), note(&[1], &[(0, 1)]));
        assert_eq!(alone.records(), 0);
    }

    #[test]
    fn reports_end_at_their_limit_and_are_counted_beyond() {
        let mut checker = Checker::with_limits(2, Limits { reports: 2, ..Limits::default() });
        let others = (0..4).map(|at| (Page(at), vec![run(0, 1)])).collect();
        checker.handle_note(Rank(0), Note { clock: clock(&[0, 0]), pages: others });
        let reported: Vec<usize> = (0..4)
            .map(|at| Note { clock: clock(&[0, 0]), pages: vec![(Page(at), vec![run(0, 1)])] })
            .map(|note| checker.handle_note(Rank(1), note).len())
            .collect();
        assert_eq!(reported, [1, 1, 0, 0]);
        assert_eq!(checker.found(), Found { reported: 2, more: 2, forgotten: 0 });
    }

    #[test]
    fn a_page_keeps_so_many_differences_and_says_what_it_forgets() {
        let mut checker = Checker::with_limits(2, Limits { of_page: 3, ..Limits::default() });
        for at in 0..3 {
            checker.handle_note(Rank(0), note(&[at.into(), 0], &[(at, at + 1)]));
        }
        assert_eq!(checker.found().forgotten, 0);
        checker.handle_note(Rank(0), note(&[3, 0], &[(3, 4)]));
        assert_eq!((checker.records(), checker.found().forgotten), (3, 1));
        assert_eq!(
            checker.handle_note(Rank(1), note(&[0, 0], &[(0, 2)])),
            [race(&[(1, 2)], [0, 1])],
            "the first is gone"
        );
    }

    #[test]
    fn all_that_is_kept_has_a_limit_and_the_oldest_goes() {
        // A record with one range counts twice.
        let mut checker = Checker::with_limits(2, Limits { kept: 4, ..Limits::default() });
        checker.handle_note(Rank(0), note(&[0, 0], &[(0, 1)]));
        checker.handle_note(Rank(0), note(&[1, 0], &[(1, 2)]));
        assert_eq!((checker.records(), checker.kept, checker.found().forgotten), (2, 4, 0));
        checker.handle_note(Rank(0), note(&[2, 0], &[(2, 3)]));
        assert_eq!((checker.records(), checker.kept, checker.found().forgotten), (2, 4, 1));
        assert_eq!(checker.handle_note(Rank(1), note(&[0, 0], &[(0, 2)])), [race(&[(1, 2)], [0, 1])]);
        // Places of what a page has forgotten count too, so that they do not grow.
        let mut checker = Checker::with_limits(2, Limits { of_page: 1, kept: 6, ..Limits::default() });
        for at in 0..100 {
            checker.handle_note(Rank(0), note(&[at, 0], &[(0, 1)]));
            assert!(checker.kept <= 6 && checker.order[0].len() <= 6);
        }
        assert_eq!((checker.records(), checker.found().forgotten), (1, 99));
    }

    #[test]
    fn notes_that_make_no_sense_are_known() {
        let fits = |positions: &[u64], runs: &[(u16, u16)]| note(positions, runs).makes_sense(2, PAGE.0 + 1);
        assert!(fits(&[0, 0], &[(0, 4096)]) && fits(&[9, 9], &[]) && fits(&[0, 0], &[(0, 1), (2, 3)]));
        assert!(!fits(&[0], &[]) && !fits(&[0; 3], &[]), "other machines");
        for runs in [&[(0, 4097)][..], &[(3, 3)], &[(4, 3)], &[(0, 2), (2, 3)], &[(5, 6), (0, 1)]] {
            assert!(!fits(&[0, 0], runs), "{runs:?}");
        }
        assert!(!note(&[0, 0], &[(0, 1)]).makes_sense(2, PAGE.0), "no such page");
    }

    #[test]
    fn a_rank_that_is_not_there_has_noted_nothing() {
        let mut checker = Checker::new(2);
        assert_eq!(checker.handle_note(Rank(2), note(&[0, 0], &[(0, 1)])), []);
        assert_eq!(checker.records(), 0);
    }
}
