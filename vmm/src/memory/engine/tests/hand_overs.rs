//! Homes that move while threads of all ranks, and devices, use the pages.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;

use vincs_coherence::id::{Page, RankSet, Run, STRIPE_PAGES};
use vincs_coherence::node::{HandOverError, HomesError, MAX_HAND_OVER_PAGES};
use vm_memory::Bytes;

use super::super::MoveError;
use super::*;
use crate::memory::{Access, GuestRange};

fn run(first: u32, count: u16) -> Run {
    Run { first: Page(first), count }
}

impl Cluster {
    /// Rank 0 has pages get another home.
    fn hand_over(&self, run: Run, to: u16) -> Result<(), MoveError> {
        self.hand_over_by(0, run, to)
    }

    fn hand_over_by(&self, rank: usize, run: Run, to: u16) -> Result<(), MoveError> {
        let ranks = u16::try_from(self.ranks.len()).unwrap();
        let (sender, moved) = channel();
        let done = move |result| sender.send(result).unwrap();
        self.ranks[rank].engine.mover().begin(run, Rank(to), RankSet::below(ranks), done);
        moved.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    /// All pages of a rank get another home, in pieces; their number.
    fn hand_all_over(&self, from: u32, pages: u32, to: u16) -> u32 {
        let piece = u32::from(MAX_HAND_OVER_PAGES);
        for first in (from * pages..(from + 1) * pages).step_by(usize::from(MAX_HAND_OVER_PAGES)) {
            let count = ((from + 1) * pages - first).min(piece);
            self.hand_over(run(first, u16::try_from(count).unwrap()), to).unwrap();
        }
        pages
    }
}

#[test]
fn what_was_written_is_there_after_its_home_has_moved_and_what_was_not_is_zero() {
    const PAGES: u32 = 300;
    let mut at = Setup { first_touch: 1, ..Setup::of(3, PAGES) }.start();
    // Pages of rank 1, by all ranks, every third.
    let written = |page: u32| page.is_multiple_of(3);
    let pages = PAGES..2 * PAGES;
    for page in pages.clone().filter(|page| written(*page)) {
        at.word((page / 3 % 3) as usize, page, 7).store(u64::from(page), Ordering::SeqCst);
    }
    let moved = at.hand_all_over(1, PAGES, 2);
    for page in pages {
        let expected = if written(page) { u64::from(page) } else { 0 };
        for rank in [1, 0, 2] {
            assert_eq!(at.word(rank, page, 7).load(Ordering::SeqCst), expected, "page {page} at rank {rank}");
        }
    }
    at.assert_quiet();
    let [given, taken] = [1, 2].map(|rank| at.stats(rank));
    assert_eq!((given.protocol.homes_given, taken.protocol.homes_taken), (moved.into(), moved.into()));
    // A third of them has bytes, and of that third only what the old home has.
    let bytes = given.sent.hand_over.bytes;
    assert!(bytes < u64::from(moved) / 3 * PAGE_BYTES as u64, "{bytes}");
}

/// Adds to counters from threads of all ranks until pages have moved so many times; whether none was lost.
fn add_while_homes_move(setup: Setup, rounds: u32) {
    let (ranks, pages) = (setup.ranks, setup.pages);
    let at = setup.start();
    let all = u32::from(ranks) * pages;
    let stop = AtomicBool::new(false);
    let added: u64 = thread::scope(|scope| {
        let adders: Vec<_> = (0..usize::from(ranks))
            .map(|rank| {
                let (at, stop) = (&at, &stop);
                scope.spawn(move || {
                    let (mut random, mut added) = (Random(rank as u64 + 5), 0);
                    while !stop.load(Ordering::Relaxed) {
                        at.word(rank, random.below(all), 3).fetch_add(1, Ordering::Relaxed);
                        added += 1;
                    }
                    added
                })
            })
            .collect();
        let mut random = Random(77);
        for _ in 0..rounds {
            let first = random.below(all);
            let count = u16::try_from(1 + random.below(pages.min(all - first))).unwrap();
            let to = u16::try_from(random.below(ranks.into())).unwrap();
            match at.hand_over(run(first, count), to) {
                // Of several homes, or there already.
                Ok(()) | Err(MoveError::Unfit(HandOverError::Pages { .. } | HandOverError::Same(_))) => {}
                Err(error) => panic!("{error}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        adders.into_iter().map(join).sum()
    });
    at.assert_quiet();
    let counted: u64 = (0..all).map(|page| at.word(0, page, 3).load(Ordering::SeqCst)).sum();
    assert_eq!(counted, added);
    let mut at = at;
    let moved: u64 = (0..usize::from(ranks)).map(|rank| at.stats(rank).protocol.homes_taken).sum();
    assert!(added > 0 && moved > u64::from(rounds) / 4, "{added} added, {moved} pages moved");
}

#[test]
fn counters_are_exact_while_homes_move_between_two_ranks() {
    add_while_homes_move(Setup::of(2, 4), 200);
}

#[test]
fn counters_are_exact_while_homes_move_among_three_ranks_with_windows_and_small_caches() {
    let (cache_pages, slots) = (Some(256), NonZeroU32::new(8));
    add_while_homes_move(Setup { cache_pages, slots, ..Setup::of(3, 160) }, 150);
}

#[test]
fn a_device_keeps_what_it_holds_while_its_home_moves_away() {
    let at = Setup::of(2, 16).start();
    let page = |page: u32| GuestAddress(u64::from(page) * PAGE_BYTES as u64);
    let memory = at.ranks[0].engine.device_memory();
    let range = GuestRange { start: page(2), len: 4 * PAGE_BYTES as u64 };
    {
        let held = memory.hold(&[(range, Access::Write)]).unwrap();
        at.hand_over(run(0, 16), 1).unwrap();
        (2..6).for_each(|at| held.write_obj(u64::from(at) + 90, page(at)).unwrap());
    }
    (2..6).for_each(|page| assert_eq!(at.word(1, page, 0).load(Ordering::SeqCst), u64::from(page) + 90));
    // And back, for a device elsewhere.
    at.hand_over(run(0, 16), 0).unwrap();
    let held = at.ranks[1].engine.device_memory();
    let held = held.hold(&[(range, Access::Read)]).unwrap();
    (2..6).for_each(|at| assert_eq!(held.read_obj::<u64>(page(at)).unwrap(), u64::from(at) + 90));
    at.assert_quiet();
}

#[test]
fn what_cannot_move_is_refused_with_its_reason() {
    let at = Setup::of(2, 16).start();
    let refused = |run, to| at.hand_over(run, to).unwrap_err().to_string();
    assert_eq!(refused(run(0, 16), 0), "the pages have their home at rank 0 already");
    assert_eq!(refused(run(0, 17), 1), "a hand-over of 17 pages from 0 on; give 1 to 128 that have one home");
    assert_eq!(refused(run(0, 0), 1), "a hand-over of 0 pages from 0 on; give 1 to 128 that have one home");
    assert_eq!(refused(run(32, 1), 1), "a hand-over of 1 pages from 32 on; give 1 to 128 that have one home");
    assert_eq!(refused(run(0, 1), 2), "a hand-over without rank 2, which takes part in it");
    let elsewhere = at.hand_over_by(1, run(0, 1), 1).unwrap_err();
    assert_eq!(elsewhere.to_string(), "rank 1 orders a hand-over; rank 0 does");
    at.assert_quiet();
}

#[test]
fn a_hand_over_ends_with_the_engine() {
    let mut at = Setup::of(2, 16).start();
    // The other rank never answers.
    at.ranks[1].engine.stop();
    let lost = thread::scope(|scope| {
        let waits = scope.spawn(|| at.hand_over(run(0, 1), 1));
        thread::sleep(Duration::from_millis(20));
        at.lose(1);
        join(waits)
    });
    assert_eq!(lost, Err(MoveError::Ended));
    at.stop();
    assert_eq!(at.hand_over(run(0, 1), 1), Err(MoveError::Ended));
}

/// A rank of several shards that was a home gives all of it to others and leaves; nobody misses it then. One that has just come is told
/// where the homes are, and has all that was written.
#[test]
fn a_home_leaves_when_it_has_handed_all_over_and_one_that_comes_knows_who_has_it() {
    const PAGES: u32 = STRIPE_PAGES + 300;
    let at = Setup { homes: 2, shards: 2, first_touch: 1, ..Setup::of(4, PAGES) }.start();
    let pages = [0, 7, PAGES - 1, PAGES, STRIPE_PAGES + 1, PAGES + 777, 2 * PAGES - 1];
    pages.iter().for_each(|page| at.word((page % 2) as usize, *page, 5).store(u64::from(*page) + 1, Ordering::SeqCst));
    let (members, mut homes) = ([0, 1, 2], HomeMap::new([(PAGES, Rank(0)), (PAGES, Rank(1))]).unwrap());
    let members: RankSet = members.into_iter().map(Rank).collect();
    let (mut first, mover) = (PAGES, at.ranks[0].engine.mover());
    while first < 2 * PAGES {
        // Those of one shard at a time, in turns to both that stay.
        let count = (128 - first % 128).min(2 * PAGES - first);
        let (run, to) = (run(first, u16::try_from(count).unwrap()), Rank(if first % 256 < 128 { 0 } else { 2 }));
        let (sender, moved) = channel();
        mover.begin(run, to, members, move |result| sender.send(result).unwrap());
        assert_eq!(moved.recv_timeout(Duration::from_secs(20)), Ok(Ok(())));
        homes.hand_over(run, to);
        first += count;
    }
    let (sender, left) = channel();
    at.ranks[1].engine.leaver().begin(move || sender.send(()).unwrap());
    left.recv_timeout(Duration::from_secs(20)).unwrap();
    let (sender, known) = channel();
    let told = homes.clone();
    at.ranks[3].engine.mover().tell_homes(told, move |result| sender.send(result).unwrap());
    assert_eq!(known.recv_timeout(Duration::from_secs(20)), Ok(Ok(())));
    // Rank 3 has no traffic with it, the others know that it has left.
    at.lose(1);
    for page in pages {
        for rank in [3, 0, 2] {
            assert_eq!(at.word(rank, page, 5).load(Ordering::SeqCst), u64::from(page) + 1, "page {page} at {rank}");
        }
    }
    let (sender, known) = channel();
    at.ranks[3].engine.mover().tell_homes(homes, move |result| sender.send(result).unwrap());
    assert_eq!(known.recv_timeout(Duration::from_secs(20)), Ok(Err(HomesError::Late)));
    at.assert_quiet();
}

/// A rank hears that a home is lost before it hears that its pages have another: it had left. It goes on, and gets them.
#[test]
fn a_home_that_has_left_is_not_missed_by_who_hears_late_of_its_last_hand_over() {
    let at = Setup { homes: 2, first_touch: 1, ..Setup::of(3, 16) }.start();
    at.word(2, 20, 1).store(9, Ordering::SeqCst);
    // What the new home says to rank 2 waits.
    at.channels[0][0].limit(Rank(2), 0);
    let (sender, moved) = channel();
    let members = RankSet::below(3);
    at.ranks[0].engine.mover().begin(run(16, 16), Rank(0), members, move |result| sender.send(result).unwrap());
    assert_eq!(moved.recv_timeout(Duration::from_secs(20)), Ok(Ok(())));
    at.channels[0][1].lose(Rank(2), "it has left");
    thread::sleep(Duration::from_millis(50));
    assert_eq!(*locked(&at.ranks[2].events), [], "it may have left");
    at.channels[0][0].limit(Rank(2), usize::MAX);
    assert_eq!(at.word(2, 20, 1).fetch_add(1, Ordering::SeqCst), 9);
    assert_eq!(at.word(2, 30, 1).fetch_add(1, Ordering::SeqCst), 0);
    // As rank 2 is no home, that is all that it has to do with it. Rank 0 still has.
    assert_eq!(*locked(&at.ranks[2].events), []);
    at.channels[0][1].lose(Rank(0), "closed");
    assert!(matches!(at.event(0), EngineEvent::RankLost { rank: Rank(1), .. }), "it has not left");
}
