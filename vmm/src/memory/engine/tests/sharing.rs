//! Threads of different ranks on the same pages.

use std::sync::Barrier;

use vincs_coherence::id::STRIPE_PAGES;

use super::*;
use crate::memory::{Access, GuestRange};

#[test]
fn what_one_rank_writes_the_others_read() {
    let at = Setup::of(3, 64).start();
    for page in [0, 63, 64, 130] {
        at.word(1, page, 5).store(u64::from(page) + 7, Ordering::SeqCst);
        for rank in 0..3 {
            assert_eq!(at.word(rank, page, 5).load(Ordering::SeqCst), u64::from(page) + 7, "{page} at {rank}");
        }
        at.word(2, page, 511).fetch_add(1, Ordering::SeqCst);
        assert_eq!(at.word(0, page, 511).load(Ordering::SeqCst), 1);
        assert_eq!(at.word(0, page, 5).load(Ordering::SeqCst), u64::from(page) + 7);
    }
    at.assert_quiet();
}

/// Threads of all ranks add to counters of all pages; gives what the counters came to.
fn add_up(at: &Cluster, pages: u32, threads: u32, rounds: u32, seed: u64) -> u64 {
    thread::scope(|scope| {
        for rank in 0..at.ranks.len() {
            for thread in 0..threads {
                scope.spawn(move || {
                    let mut random = Random(seed + (rank as u64) * 1000 + u64::from(thread) + 1);
                    for _ in 0..rounds {
                        at.word(rank, random.below(pages), 3).fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
    });
    (0..pages).map(|page| at.word(0, page, 3).load(Ordering::SeqCst)).sum()
}

#[test]
fn counters_under_contention_are_exact() {
    let mut at = Setup::of(2, 4).start();
    assert_eq!(add_up(&at, 8, 2, 3000, 1), 12_000);
    at.assert_quiet();
    let mut stats = at.stats(0);
    stats.add(&at.stats(1));
    assert!(stats.write_faults.count() > 0 && stats.sent.grant.messages > 0, "{stats:?}");
    assert_eq!(stats.sent.acquire, stats.received.acquire);
    assert!(!stats.hottest.is_empty() && stats.hottest[0].faults > 1);
}

#[test]
fn counters_are_exact_with_three_ranks_and_two_shards() {
    let at = Setup { shards: 2, ..Setup::of(3, 16384) }.start();
    // Pages of both shards: a stripe is as long as a rank's pages here.
    let total: u64 = thread::scope(|scope| {
        let adders: Vec<_> = (0..3)
            .map(|rank| {
                let at = &at;
                scope.spawn(move || {
                    let mut random = Random(rank as u64 + 9);
                    for _ in 0..2000 {
                        at.word(rank, random.below(3) * 16384 + random.below(3), 0).fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        adders.into_iter().for_each(join);
        (0..9).map(|page| at.word(1, page / 3 * 16384 + page % 3, 0).load(Ordering::SeqCst)).sum()
    });
    assert_eq!(total, 6000);
    at.assert_quiet();
}

#[test]
fn a_page_is_kept_while_a_processor_waits_for_one_of_another_shard() {
    let hold = Duration::from_millis(100);
    let at = Setup { shards: 2, hold, ..Setup::of(2, 2 * STRIPE_PAGES) }.start();
    let (low, high) = (0, STRIPE_PAGES);
    let bytes = GuestRange { start: GuestAddress(u64::from(high) * PAGE_BYTES as u64), len: 1 };
    let memory = at.ranks[0].engine.device_memory();
    let held = memory.hold(&[(bytes, Access::Write)]).unwrap();
    let has_low = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            at.word(1, low, 0).fetch_add(1, Ordering::SeqCst);
            has_low.wait();
            // The device does not let it go for now.
            at.word(1, high, 0).fetch_add(1, Ordering::SeqCst);
        });
        has_low.wait();
        let wanted = scope.spawn(|| {
            at.word(0, low, 0).fetch_add(1, Ordering::SeqCst);
            Instant::now()
        });
        thread::sleep(hold * 4);
        let released = Instant::now();
        drop(held);
        assert!(join(wanted) > released, "the lower page was taken while the higher one was waited for");
    });
    at.assert_quiet();
}

#[test]
fn messages_are_passed_in_order() {
    let at = Setup::of(2, 8).start();
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=500 {
                at.word(0, 12, 0).store(round, Ordering::Relaxed);
                at.word(0, 3, 0).store(round, Ordering::Release);
            }
        });
        let mut seen = 0;
        while seen < 500 {
            seen = at.word(1, 3, 0).load(Ordering::Acquire);
            let data = at.word(1, 12, 0).load(Ordering::Relaxed);
            assert!(data >= seen, "flag {seen} came before its data {data}");
        }
    });
    at.assert_quiet();
}

#[test]
fn of_two_that_write_and_then_look_at_the_other_one_sees_it() {
    // Store buffering (SB): with memory that is strict, and fences, both reading the old value is impossible.
    let at = Setup::of(2, 4).start();
    let barrier = Barrier::new(2);
    let rounds = 300;
    let play = |rank: usize, mine: u32, theirs: u32| {
        let mut seen = Vec::new();
        for round in 1..=rounds {
            barrier.wait();
            at.word(rank, mine, 0).store(round, Ordering::SeqCst);
            seen.push(at.word(rank, theirs, 0).load(Ordering::SeqCst));
        }
        seen
    };
    let (first, second) = thread::scope(|scope| {
        let other = scope.spawn(|| play(1, 5, 2));
        (play(0, 2, 5), join(other))
    });
    for (round, (first, second)) in (1..=rounds).zip(first.into_iter().zip(second)) {
        assert!(first == round || second == round, "round {round}: {first} and {second}");
    }
    at.assert_quiet();
}

#[test]
fn a_cache_smaller_than_what_is_used_loses_nothing() {
    let mut at = Setup { cache_pages: Some(256), ..Setup::of(2, 1024) }.start();
    // Rank 1 walks over all of rank 0's pages, several times its cache.
    for round in 1..=2_u64 {
        for page in 0..1024 {
            at.word(1, page, 1).fetch_add(u64::from(page) * round, Ordering::Relaxed);
        }
    }
    for page in 0..1024 {
        assert_eq!(at.word(1, page, 1).load(Ordering::Relaxed), u64::from(page) * 3, "{page}");
    }
    at.assert_quiet();
    assert!(at.stats(1).protocol.evictions > 1024);
}

#[test]
fn a_cache_is_one_for_all_shards() {
    let cache = 1024;
    let mut at = Setup { shards: 2, cache_pages: Some(cache), read_ahead: 0, ..Setup::of(2, 2 * STRIPE_PAGES) }.start();
    // Less than the cache in each of them.
    let each = 1000;
    for page in (0..2).flat_map(|stripe| (0..each).map(move |page| stripe * STRIPE_PAGES + page)) {
        at.word(1, page, 0).store(1, Ordering::Relaxed);
    }
    at.assert_quiet();
    let evicted = at.stats(1).protocol.evictions;
    assert!(evicted >= u64::from(2 * each - cache) - 64, "{evicted} evicted");
}

#[test]
fn what_all_shards_have_counted_adds_up() {
    let mut at = Setup { shards: 2, ..Setup::of(2, 2 * STRIPE_PAGES) }.start();
    let (low, high) = (3, 5);
    for page in (0..low).chain((0..high).map(|page| STRIPE_PAGES + page)) {
        at.word(1, page, 0).store(1, Ordering::Relaxed);
    }
    let stats = at.stats(1);
    let all = u64::from(low + high);
    assert_eq!((stats.protocol.write_faults, stats.write_faults.count()), (all, all));
    assert_eq!((stats.hottest.len(), stats.sent.acquire.messages), (8, all));
    at.assert_quiet();
}

#[test]
fn small_caches_and_contention_together_are_exact() {
    for seed in [1, 2, 3] {
        let at = Setup { cache_pages: Some(256), first_touch: 1, ..Setup::of(3, 300) }.start();
        assert_eq!(add_up(&at, 900, 1, 3000, seed), 9000, "seed {seed}");
        at.assert_quiet();
    }
}

#[test]
fn pages_that_nobody_has_written_travel_without_bytes() {
    let mut at = Setup { read_ahead: 0, ..Setup::of(2, 64) }.start();
    // The home touches some of its pages first, the other rank the others; none of them gets a byte that is not zero.
    for page in 0..32 {
        at.word(0, page, 0).store(0, Ordering::Relaxed);
    }
    for page in 0..64 {
        assert_eq!(at.word(1, page, 9).load(Ordering::Relaxed), 0);
    }
    let stats = at.stats(0);
    assert_eq!(stats.sent.grant.messages, 64);
    assert!(stats.sent.grant.bytes < 64 * 64, "{} bytes", stats.sent.grant.bytes);
    at.assert_quiet();
}

#[test]
fn the_first_touch_of_a_home_takes_a_block_of_pages() {
    let mut at = Setup { first_touch: 16, ..Setup::of(2, 64) }.start();
    for page in 0..64 {
        at.word(0, page, 0).store(1, Ordering::Relaxed);
    }
    let stats = at.stats(0);
    assert_eq!(stats.write_faults.count(), 4, "one for each block");
    at.assert_quiet();
}

#[test]
fn a_sequential_reader_finds_most_pages_there() {
    let mut at = Setup { read_ahead: 32, ..Setup::of(2, 512) }.start();
    for page in 0..512 {
        at.word(0, page, 0).store(u64::from(page) + 1, Ordering::Relaxed);
    }
    for page in 0..512 {
        assert_eq!(at.word(1, page, 0).load(Ordering::Relaxed), u64::from(page) + 1);
        // It does something with each page, for longer than one travels. A reader without rest faults on pages on their way, as
        // often as the machine's load has it.
        thread::sleep(Duration::from_millis(1));
    }
    let stats = at.stats(1);
    assert!(stats.read_faults.count() < 256, "{} faults", stats.read_faults.count());
    assert!(stats.protocol.ahead > 448, "{} pages asked for ahead", stats.protocol.ahead);
    at.assert_quiet();
}

#[test]
fn a_transport_that_takes_little_at_a_time_loses_nothing() {
    let mut at = Setup::of(3, 8).start();
    at.channels[0].iter().for_each(|end| (0..3).for_each(|to| end.limit(Rank(to), 1)));
    assert_eq!(add_up(&at, 24, 2, 500, 4), 3000);
    at.assert_quiet();
    let held_up: u64 = (0..3).map(|rank| at.stats(rank).waits.held_up).sum();
    assert!(held_up > 0 && at.channels[0].iter().any(|end| end.refused() > 0));
}

#[test]
fn pages_are_not_kept_for_processors_that_sleep() {
    // Only a processor that sleeps lets the others have pages in time.
    let hold = Duration::from_secs(30);
    let at = Setup { hold, shards: 2, ..Setup::of(2, 16384) }.start();
    let processors = at.ranks[0].engine.processors();
    // In one shard the page is asked for when the processor has gone to sleep, in the other before that.
    for (page, asleep_before) in [(20_000, true), (3, false)] {
        at.word(0, page, 0).store(1, Ordering::SeqCst);
        let started = Instant::now();
        thread::scope(|scope| {
            if asleep_before {
                processors.sleeps();
            }
            let other = scope.spawn(|| at.word(1, page, 0).fetch_add(1, Ordering::SeqCst));
            if !asleep_before {
                thread::sleep(Duration::from_millis(100));
                assert!(!other.is_finished(), "the processor is awake, and has just got the page");
                processors.sleeps();
            }
            assert_eq!(other.join().unwrap(), 1);
        });
        assert!(started.elapsed() < hold / 2);
        processors.wakes();
    }
    at.assert_quiet();
}
