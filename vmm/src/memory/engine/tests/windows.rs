//! Pages that are read in windows.

use super::*;

fn slots(slots: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(slots)
}

#[test]
fn clean_pages_are_read_while_the_threads_of_their_home_stand_still() {
    const PAGES: u32 = 40;
    let mut at = Setup { slots: slots(64), read_ahead: 0, first_touch: 1, ..Setup::of(4, 64) }.start();
    for page in 0..PAGES {
        at.word(0, page, 5).store(u64::from(page) + 7, Ordering::SeqCst);
    }
    let read = |at: &Cluster, rank, pages: std::ops::Range<u32>| {
        for page in pages {
            assert_eq!(at.word(rank, page, 5).load(Ordering::SeqCst), u64::from(page) + 7, "{page} at {rank}");
        }
    };
    // With the second reader all are in the window, not only what is near others; the third one looks there after its first miss in each block.
    read(&at, 1, 0..PAGES);
    read(&at, 2, 0..PAGES);
    (0..PAGES).step_by(16).for_each(|page| read(&at, 3, page..page + 1));
    at.assert_quiet();
    let home = at.stats(0);
    assert_eq!(home.protocol.shown, u64::from(PAGES), "{home:?}");
    // Its thread has ended: nobody serves a message there any more.
    read(&at, 3, 0..PAGES);
    let reader = at.stats(3);
    let hits = reader.protocol.guarded_hits;
    assert_eq!((hits, reader.received.grant.messages), (37, 3), "{reader:?}");
    assert_eq!(reader.protocol.guarded_reads, hits + reader.protocol.guarded_misses);
}

/// Of two ranks one is the home: who asks for a page finds those near it in the window.
#[test]
fn two_ranks_read_what_is_near_without_a_word() {
    const PAGES: u32 = 48;
    let mut at = Setup { slots: slots(64), read_ahead: 0, first_touch: 1, ..Setup::of(2, 64) }.start();
    (0..PAGES).for_each(|page| at.word(0, page, 5).store(u64::from(page) + 7, Ordering::SeqCst));
    let read = |at: &Cluster, page: u32| {
        assert_eq!(at.word(1, page, 5).load(Ordering::SeqCst), u64::from(page) + 7, "{page}");
    };
    // Longer than the hold time.
    thread::sleep(Duration::from_millis(20));
    [5, 16, 47].into_iter().for_each(|page| read(&at, page));
    at.assert_quiet();
    assert_eq!(at.stats(0).protocol.shown, 45);
    // The home's thread has ended.
    (0..PAGES).for_each(|page| read(&at, page));
    let reader = at.stats(1);
    let counted = (reader.protocol.guarded_hits, reader.protocol.guarded_misses, reader.received.grant.messages);
    assert_eq!(counted, (45, 0, 3), "{reader:?}");
}

#[test]
fn a_home_goes_on_writing_what_it_has_shown() {
    let mut at = Setup { slots: slots(64), read_ahead: 0, first_touch: 1, ..Setup::of(2, 64) }.start();
    for round in 1..200 {
        for page in 0..16 {
            at.word(0, page, 1).store(round, Ordering::SeqCst);
        }
        for page in (0..16).rev() {
            assert_eq!(at.word(1, page, 1).load(Ordering::SeqCst), round, "{page}");
        }
    }
    at.assert_quiet();
    let home = at.stats(0).protocol;
    assert!(home.shown > 0 && home.hidden > 0 && home.shown - home.hidden <= 16, "{home:?}");
}

/// Each round one rank writes a page, and then another one, and all read both in the other order, again and again: nobody may see the
/// second without the first. Few slots, so pages drive each other out.
#[test]
fn readers_in_windows_see_what_was_written_in_its_order() {
    const RANKS: usize = 4;
    const ROUNDS: u64 = 300;
    let mut at = Setup { slots: slots(3), read_ahead: 0, first_touch: 1, ..Setup::of(4, 8) }.start();
    thread::scope(|scope| {
        let at = &at;
        for rank in 0..RANKS {
            scope.spawn(move || {
                let mut random = Random(rank as u64 + 3);
                for round in 1..=ROUNDS {
                    let pair = random.below(16);
                    let (first, second) = (pair, (pair + 5) % 32);
                    // Each rank writes words of its own.
                    if random.below(4) == 0 {
                        at.word(rank, first, rank).store(round, Ordering::SeqCst);
                        at.word(rank, second, 16 + rank).store(round, Ordering::SeqCst);
                    }
                    for (writer, own) in (0..RANKS).map(|writer| (writer, writer == rank)) {
                        let after = at.word(rank, second, 16 + writer).load(Ordering::SeqCst);
                        let before = at.word(rank, first, writer).load(Ordering::SeqCst);
                        assert!(before >= after || own, "rank {rank} sees {after} of {writer} before {before}");
                    }
                }
            });
        }
    });
    at.assert_quiet();
    let mut sum = at.stats(0);
    (1..RANKS).for_each(|rank| sum.add(&at.stats(rank)));
    let protocol = &sum.protocol;
    println!("{protocol:?}");
    assert!(protocol.guarded_hits > 0 && protocol.hidden > 0 && protocol.shown >= protocol.hidden, "{protocol:?}");
}

#[test]
fn counters_are_exact_with_windows_of_two_shards() {
    let mut at = Setup { slots: slots(5), shards: 2, ..Setup::of(4, 16384) }.start();
    let pages: Vec<u32> = (0..6).chain(16384..16390).collect();
    thread::scope(|scope| {
        for rank in 0..4 {
            let (at, pages) = (&at, &pages);
            scope.spawn(move || {
                let mut random = Random(rank as u64 + 9);
                for _ in 0..600 {
                    let page = pages[random.below(12) as usize];
                    if random.below(4) == 0 {
                        at.word(rank, page, 3).fetch_add(1, Ordering::Relaxed);
                        at.word(rank, page, 10 + rank).fetch_add(1, Ordering::Relaxed);
                    } else {
                        let of_all: u64 = (0..4).map(|of| at.word(rank, page, 10 + of).load(Ordering::Relaxed)).sum();
                        let after = at.word(rank, page, 3).load(Ordering::Relaxed);
                        assert!(of_all <= after, "{of_all} of {after}");
                    }
                }
            });
        }
    });
    for page in pages {
        let of_all: u64 = (0..4).map(|of| at.word(0, page, 10 + of).load(Ordering::SeqCst)).sum();
        assert_eq!(at.word(1, page, 3).load(Ordering::SeqCst), of_all);
    }
    at.assert_quiet();
    at.stop();
}
