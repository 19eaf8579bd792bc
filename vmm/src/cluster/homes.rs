//! Which rank is to be the home of which pages when ranks come and leave, as rank 0 decides it: without I/O.
//!
//! A rank that leaves gives all of its pages to those that stay, each up to its share. One that has joined gets its share from those that
//! have the most. Pages go in order, and one rank is filled up before the next: pieces stay long, and the homes of a machine few segments,
//! whatever comes and leaves.

use std::collections::BTreeMap;

use vincs_coherence::home::{HomeMap, HomeMapError};
use vincs_coherence::id::{Page, Rank, Run};
use vincs_coherence::node::MAX_HAND_OVER_PAGES;
use vincs_coherence::transport::MAX_BODY;

/// Bytes of a segment of homes in a message: pages and a rank.
const SEGMENT_BYTES: usize = 6;

/// Most segments that a rank which joins can be told of. Each rank that comes or leaves adds some for each other rank at most, so a
/// machine's seats do not suffice for as many.
pub(crate) const MAX_SEGMENTS: usize = MAX_BODY / SEGMENT_BYTES;

/// The homes of all pages, and those on their way.
#[derive(Clone, Debug)]
pub(crate) struct Homes {
    /// As they are once all hand-overs under way are over.
    map: HomeMap,
    /// Pages of each rank by that map.
    pages: BTreeMap<Rank, u32>,
    /// Hand-overs under way by their first pages, with the old home.
    under_way: BTreeMap<Page, (Run, Rank)>,
}

impl Homes {
    /// With these at the start.
    pub(crate) fn new(map: HomeMap) -> Self {
        let mut pages = BTreeMap::new();
        for (segment, home) in map.segments() {
            *pages.entry(home).or_insert(0) += segment.end - segment.start;
        }
        Self { map, pages, under_way: BTreeMap::new() }
    }

    /// Whether no hand-over is under way.
    pub(crate) fn are_at_rest(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Hand-overs under way.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Pages that a rank is the home of once all hand-overs under way are over.
    pub(crate) fn to_be(&self, rank: Rank) -> u32 {
        self.pages.get(&rank).copied().unwrap_or(0)
    }

    /// Pages that each rank is the home of, those on their way counted where they come from.
    pub(crate) fn now(&self) -> BTreeMap<Rank, u32> {
        let mut now = self.pages.clone();
        for (run, from) in self.under_way.values() {
            let count = u32::from(run.count);
            *now.entry(*from).or_insert(0) += count;
            if let Some(pages) = self.map.home(run.first).and_then(|to| now.get_mut(&to)) {
                *pages = pages.saturating_sub(count);
            }
        }
        now
    }

    /// The share of each of so many ranks.
    pub(crate) fn share(&self, ranks: usize) -> u32 {
        self.map.pages().div_ceil(u32::try_from(ranks.max(1)).unwrap_or(u32::MAX))
    }

    /// What a rank that leaves gives next, and to which of those that stay: the first that has less than its share. Nothing when it has none, or this is still on its way there.
    pub(crate) fn next_of(&self, leaver: Rank, stay: &[Rank]) -> Option<(Run, Rank)> {
        if self.to_be(leaver) == 0 {
            return None;
        }
        let share = self.share(stay.len());
        let to = stay.iter().find(|rank| self.to_be(**rank) < share).or(stay.first())?;
        let (segment, _) = self.map.segments().find(|(_, home)| *home == leaver)?;
        // Up to the next boundary: a run is in one stripe.
        let piece = u32::from(MAX_HAND_OVER_PAGES);
        let end = (segment.start / piece + 1).saturating_mul(piece).min(segment.end);
        let run = run(segment.start, end);
        (!self.is_under_way(run)).then_some((run, *to))
    }

    /// Whether some of these pages have not come yet to where they are to be.
    fn is_under_way(&self, run: Run) -> bool {
        self.under_way.values().any(|(other, _)| other.first < run.end() && run.first < other.end())
    }

    /// What one of these ranks, which have joined, gets next, and which: the first that has less than its share among `all`, from the one
    /// that has the most. Nothing when all have about theirs.
    pub(crate) fn next_for(&self, joined: &[Rank], all: &[Rank]) -> Option<(Run, Rank)> {
        let (share, piece) = (self.share(all.len()), u32::from(MAX_HAND_OVER_PAGES));
        let to = joined.iter().find(|rank| self.to_be(**rank).saturating_add(piece) <= share)?;
        let from = all.iter().max_by_key(|rank| (self.to_be(**rank), std::cmp::Reverse(**rank)))?;
        if self.to_be(*from) <= share || from == to {
            return None;
        }
        // From its end, so that what it gets is side by side.
        let (segment, _) = self.map.segments().rev().find(|(_, home)| home == from)?;
        let start = (segment.end.saturating_sub(1) / piece * piece).max(segment.start);
        Some((run(start, segment.end), *to))
    }

    /// Pages begin to move; nothing when they are none of one home.
    pub(crate) fn begin(&mut self, run: Run, to: Rank) -> Option<Rank> {
        let from = self.map.home_of_run(run)?;
        self.under_way.insert(run.first, (run, from));
        self.settle(run, to);
        Some(from)
    }

    /// They have moved, or have not.
    pub(crate) fn is_over(&mut self, run: Run, has_moved: bool) {
        if let Some((run, from)) = self.under_way.remove(&run.first).filter(|_| !has_moved) {
            self.settle(run, from);
        }
    }

    fn settle(&mut self, run: Run, to: Rank) {
        let count = u32::from(run.count);
        if let Some(pages) = self.map.home(run.first).and_then(|from| self.pages.get_mut(&from)) {
            *pages = pages.saturating_sub(count);
        }
        *self.pages.entry(to).or_insert(0) += count;
        self.map.hand_over(run, to);
    }

    /// As bytes for a rank that joins; nothing when they are too many.
    pub(crate) fn to_bytes(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for (segment, home) in self.map.segments() {
            bytes.extend((segment.end - segment.start).to_le_bytes());
            bytes.extend(home.0.to_le_bytes());
        }
        (bytes.len() <= MAX_SEGMENTS * SEGMENT_BYTES).then_some(bytes)
    }
}

/// Why bytes are no homes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum HomesError {
    #[error("{0} bytes of homes, which are no whole segments")]
    Cut(usize),
    #[error(transparent)]
    Map(#[from] HomeMapError),
}

/// The homes that rank 0 tells.
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<HomeMap, HomesError> {
    let (segments, rest) = bytes.as_chunks::<SEGMENT_BYTES>();
    if !rest.is_empty() {
        return Err(HomesError::Cut(bytes.len()));
    }
    Ok(HomeMap::new(segments.iter().map(|[a, b, c, d, low, high]| {
        (u32::from_le_bytes([*a, *b, *c, *d]), Rank(u16::from_le_bytes([*low, *high])))
    }))?)
}

/// Pages from one on up to another, fewer than one hand-over may have.
fn run(start: u32, end: u32) -> Run {
    Run { first: Page(start), count: u16::try_from(end.saturating_sub(start)).unwrap_or(MAX_HAND_OVER_PAGES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u32 = MAX_HAND_OVER_PAGES as u32;

    fn even(ranks: u16, pages: u32) -> Homes {
        Homes::new(HomeMap::new((0..ranks).map(|rank| (pages, Rank(rank)))).unwrap())
    }

    fn ranks(ranks: &[u16]) -> Vec<Rank> {
        ranks.iter().copied().map(Rank).collect()
    }

    /// Pages of each rank; what is counted is what the map has.
    fn pages(homes: &Homes) -> Vec<(u16, u32)> {
        let counted = Homes::new(homes.map.clone()).pages;
        assert_eq!(
            counted,
            homes.pages.iter().filter(|(_, pages)| **pages > 0).map(|(r, p)| (*r, *p)).collect::<BTreeMap<_, _>>()
        );
        counted.into_iter().map(|(rank, pages)| (rank.0, pages)).collect()
    }

    /// All that a rank has goes, several hand-overs at a time.
    fn leave(homes: &mut Homes, leaver: u16, stay: &[Rank]) {
        while let Some((run, to)) = homes.next_of(Rank(leaver), stay) {
            assert!(run.count <= MAX_HAND_OVER_PAGES && run.count > 0 && stay.contains(&to));
            assert_eq!(homes.begin(run, to), Some(Rank(leaver)));
            if homes.under_way() == 5 {
                let first = *homes.under_way.first_key_value().unwrap().1;
                homes.is_over(first.0, true);
            }
        }
        while let Some((_, (run, _))) = homes.under_way.first_key_value().map(|(first, moves)| (*first, *moves)) {
            homes.is_over(run, true);
        }
    }

    fn join(homes: &mut Homes, joined: &[Rank], all: &[Rank]) {
        while let Some((run, to)) = homes.next_for(joined, all) {
            assert!(run.count <= MAX_HAND_OVER_PAGES && run.count > 0 && joined.contains(&to));
            homes.begin(run, to).unwrap();
            homes.is_over(run, true);
        }
    }

    #[test]
    fn a_rank_that_leaves_gives_each_of_the_others_as_much() {
        let mut homes = even(3, 10 * PIECE);
        leave(&mut homes, 1, &ranks(&[0, 2]));
        assert_eq!(pages(&homes), [(0, 15 * PIECE), (2, 15 * PIECE)]);
        assert_eq!(homes.map.segments().count(), 2, "side by side");
        leave(&mut homes, 2, &ranks(&[0]));
        assert_eq!(pages(&homes), [(0, 30 * PIECE)]);
        assert_eq!(homes.next_of(Rank(2), &ranks(&[0])), None);
    }

    #[test]
    fn a_rank_that_has_joined_gets_about_its_share_from_those_that_have_the_most() {
        let mut homes = even(2, 9 * PIECE + 7);
        let all = ranks(&[0, 1, 2]);
        join(&mut homes, &all[2..], &all);
        let (has, share) = (homes.to_be(Rank(2)), homes.share(3));
        assert!(has <= share && has + PIECE > share, "{has} of {share}");
        assert_eq!(homes.map.segments().count(), 4, "a piece of each");
        assert_eq!(homes.next_for(&all[2..], &all), None);
        // Those that started the machine get none.
        assert_eq!(even(2, 9).next_for(&[], &ranks(&[0, 1])), None);
    }

    #[test]
    fn what_does_not_move_is_where_it_was() {
        let mut homes = even(2, 4 * PIECE);
        let (run, to) = homes.next_of(Rank(1), &ranks(&[0])).unwrap();
        assert_eq!(homes.begin(run, to), Some(Rank(1)));
        assert_eq!(
            (homes.to_be(Rank(1)), homes.now()[&Rank(1)], homes.now()[&Rank(0)]),
            (3 * PIECE, 4 * PIECE, 4 * PIECE)
        );
        assert!(!homes.are_at_rest());
        homes.is_over(run, false);
        assert_eq!((pages(&homes), homes.are_at_rest()), (pages(&even(2, 4 * PIECE)), true));
        assert_eq!(homes.map, even(2, 4 * PIECE).map);
    }

    #[test]
    fn what_is_on_its_way_to_a_rank_that_leaves_comes_there_first() {
        let mut homes = even(3, PIECE);
        let (run, to) = homes.next_of(Rank(1), &ranks(&[2])).unwrap();
        homes.begin(run, to).unwrap();
        assert_eq!((to, homes.to_be(Rank(2))), (Rank(2), 2 * PIECE));
        assert_eq!(homes.next_of(Rank(2), &ranks(&[0])), None);
        homes.is_over(run, true);
        assert_eq!(homes.next_of(Rank(2), &ranks(&[0])), Some((run, Rank(0))));
    }

    /// All seats of a machine, in every order: homes stay few segments and even.
    #[test]
    fn ranks_that_come_and_leave_again_and_again_leave_few_segments() {
        let mut homes = even(4, 1000 * PIECE);
        let mut there = ranks(&[0, 1, 2, 3]);
        for seat in 4..64 {
            if seat % 3 == 0 || there.len() > 7 {
                let leaver = there.remove(1 + usize::from(seat) * 7 % (there.len() - 1));
                leave(&mut homes, leaver.0, &there);
                assert_eq!(homes.to_be(leaver), 0);
            }
            there.push(Rank(seat));
            let joined: Vec<Rank> = there.iter().copied().filter(|rank| rank.0 > 3).collect();
            join(&mut homes, &joined, &there);
            let most = there.iter().map(|rank| homes.to_be(*rank)).max().unwrap();
            assert!(most < homes.share(there.len()) + homes.share(there.len()) / 2 + 2 * PIECE, "{:?}", pages(&homes));
        }
        let segments = homes.map.segments().count();
        assert!(segments < 1000, "{segments} segments");
        const { assert!(MAX_SEGMENTS > 1000) };
        assert_eq!(from_bytes(&homes.to_bytes().unwrap()), Ok(homes.map));
    }

    #[test]
    fn homes_that_are_told_are_whole_and_bounded() {
        assert_eq!(from_bytes(&even(3, 7).to_bytes().unwrap()), Ok(even(3, 7).map));
        let most = [Rank(0), Rank(1)].into_iter().cycle().take(MAX_SEGMENTS).map(|rank| (1, rank));
        let homes = Homes::new(HomeMap::new(most.clone()).unwrap());
        assert_eq!(from_bytes(&homes.to_bytes().unwrap()), Ok(homes.map));
        let more = Homes::new(HomeMap::new(most.chain([(1, Rank(3))])).unwrap());
        assert_eq!(more.to_bytes(), None);
        assert_eq!(from_bytes(&even(3, 7).to_bytes().unwrap()[1..]), Err(HomesError::Cut(17)));
        assert_eq!(from_bytes(&[]), Err(HomesError::Map(HomeMapError::Empty)));
        assert_eq!(from_bytes(&[1, 0, 0, 0, 64, 0]), Err(HomesError::Map(HomeMapError::Rank(64))));
    }
}
