//! What ranks see of each other's writes, and what that moves.

use vincs_coherence::hlrc::node::Reduction;

use super::*;

/// Words of a page.
const WORDS: usize = PAGE / 8;

#[test]
fn ranks_that_write_neighbouring_bytes_do_not_disturb_each_other() {
    const ROUNDS: usize = 40;
    let team = [1, 1, 1];
    let machine = Machine::new(&team, |_| {});
    // Two pages: one homed at rank 0, one at rank 1.
    let views = machine.array(2 * PAGE);
    let value = |round: usize, at: usize| u8::try_from((round * 7 + at) % 251).unwrap();
    machine.run(&team, |member, rank, _| {
        for round in 1..ROUNDS {
            for at in (0..2 * PAGE).filter(|at| (at + round) % 3 == rank) {
                views[rank].byte(at).store(value(round, at), Ordering::Relaxed);
            }
            member.barrier().unwrap();
            for at in 0..2 * PAGE {
                assert_eq!(
                    views[rank].byte(at).load(Ordering::Relaxed),
                    value(round, at),
                    "byte {at} in round {round}"
                );
            }
            member.barrier().unwrap();
        }
    });
    let statistics = machine.memories[2].statistics().unwrap();
    assert!(statistics.protocol.twins > 0 && statistics.protocol.diffs > 0, "{statistics:?}");
}

#[test]
fn what_is_counted_under_a_lock_adds_up() {
    const TURNS: u64 = 150;
    let team = [2, 1, 2];
    let machine = Machine::new(&team, |_| {});
    let views = machine.array(3 * PAGE);
    machine.run(&team, |member, rank, _| {
        for turn in 0..TURNS {
            // Two locks, each with a page of its own and its words of a third.
            let lock = u32::try_from(turn % 2).unwrap();
            member.acquire(LockId(lock)).unwrap();
            for at in [lock as usize * WORDS, 2 * WORDS + lock as usize, 2 * WORDS + 100 + lock as usize] {
                views[rank].write(at, views[rank].read(at) + 1);
            }
            member.release(LockId(lock)).unwrap();
        }
        member.barrier().unwrap();
        for at in [0, WORDS, 2 * WORDS, 2 * WORDS + 1, 2 * WORDS + 101] {
            assert_eq!(views[rank].read(at), 5 * TURNS / 2, "word {at}");
        }
    });
}

#[test]
fn whoever_takes_a_lock_sees_all_that_its_holders_have_seen() {
    let team = [1, 1, 1];
    let machine = Machine::new(&team, |_| {});
    let views = machine.array(4 * PAGE);
    machine.run(&team, |member, rank, _| {
        // A chain: each takes over from the one before it under a lock of these two, and looks at what the first one has written.
        let mut seen = 0;
        while seen < 30 {
            for lock in [rank, (rank + 2) % 3] {
                let lock = LockId(u32::try_from(lock).unwrap());
                member.acquire(lock).unwrap();
                let token = views[rank].read(lock.0 as usize * WORDS);
                let far = views[rank].read(3 * WORDS + usize::try_from(token).unwrap());
                assert_eq!(far, token, "what was written before the token was passed on");
                if rank == 0 && lock.0 == 0 && token == seen {
                    seen += 1;
                    views[rank].write(3 * WORDS + usize::try_from(seen).unwrap(), seen);
                    views[rank].write(0, seen);
                }
                if rank != 0 && lock.0 as usize == (rank + 2) % 3 {
                    seen = token;
                }
                member.release(lock).unwrap();
                if rank != 0 {
                    member.acquire(LockId(u32::try_from(rank).unwrap())).unwrap();
                    views[rank].write(rank * WORDS, seen);
                    member.release(LockId(u32::try_from(rank).unwrap())).unwrap();
                }
            }
        }
    });
}

#[test]
fn a_reduction_gives_all_the_same() {
    let team = [2, 1, 1];
    let machine = Machine::new(&team, |_| {});
    machine.run(&team, |member, rank, thread| {
        let mine = 10 * rank as u64 + u64::from(thread);
        for round in 0..50 {
            assert_eq!(member.reduce(Reduction::Sum, mine + round), Ok(31 + 4 * round));
            assert_eq!(member.reduce(Reduction::Max, mine), Ok(20));
            let sum = member.reduce(Reduction::SumFloat, (mine as f64 / 4.0).to_bits()).unwrap();
            assert_eq!(f64::from_bits(sum), 31.0 / 4.0);
            member.barrier().unwrap();
        }
    });
    assert_eq!(machine.memories[0].statistics().unwrap().protocol.reductions, 150);
}

/// Blocks are written where they are homed and read from elsewhere, page by page.
#[test]
fn adjacent_pages_are_got_together_and_written_at_home_with_few_faults() {
    const PAGES: usize = 512;
    let team = [1, 1];
    let machine = Machine::new(&team, |_| {});
    let views = machine.array(2 * PAGES * PAGE);
    machine.run(&team, |member, rank, _| {
        for round in 1..4 {
            for at in (rank * PAGES * WORDS..(rank + 1) * PAGES * WORDS).step_by(8) {
                views[rank].write(at, (at + round) as u64);
            }
            member.barrier().unwrap();
            for at in ((1 - rank) * PAGES * WORDS..(2 - rank) * PAGES * WORDS).step_by(8) {
                assert_eq!(views[rank].read(at), (at + round) as u64);
            }
            member.barrier().unwrap();
        }
    });
    let statistics = machine.memories[0].statistics().unwrap();
    assert_eq!(statistics.protocol.fetches, 3 * PAGES as u64);
    assert_eq!(statistics.protocol.twins, 0);
    assert!(statistics.traffic.gets < 3 * PAGES as u64 / 8, "{statistics:?}");
    assert!(statistics.faults < 3 * PAGES as u64 / 4, "{statistics:?}");
}

/// As the issue has it: at most 256 bytes.
#[test]
fn a_page_with_eight_changed_bytes_moves_few_bytes() {
    let team = [1, 1];
    let machine = Machine::new(&team, |settings| settings.single_writer = false);
    let views = machine.array(2 * PAGE);
    let moved = Mutex::new(0);
    machine.run(&team, |member, rank, _| {
        if rank == 0 {
            let put = || machine.memories[0].statistics().unwrap().traffic.bytes_put;
            member.acquire(LOCK).unwrap();
            let before = put();
            for at in 0..8 {
                views[0].byte(PAGE + 500 * at + 3).store(9, Ordering::Relaxed);
            }
            member.release(LOCK).unwrap();
            *moved.lock().unwrap() = put() - before;
        }
        member.barrier().unwrap();
        let sum: u64 = (0..PAGE).map(|at| u64::from(views[rank].byte(PAGE + at).load(Ordering::Relaxed))).sum();
        assert_eq!(sum, 72);
    });
    let moved = moved.into_inner().unwrap();
    assert!((8..=256).contains(&moved), "{moved} bytes");
}

#[test]
fn who_writes_a_page_alone_makes_no_twin_until_another_does() {
    let team = [1, 1, 1];
    let machine = Machine::new(&team, |_| {});
    let views = machine.array(3 * PAGE);
    machine.run(&team, |member, rank, _| {
        for round in 1..=3 {
            // Homed at rank 0.
            if rank == 1 {
                views[1].write(5, round);
            }
            member.barrier().unwrap();
            assert_eq!(views[rank].read(5), round);
            member.barrier().unwrap();
        }
        if rank == 1 {
            let statistics = machine.memories[1].statistics().unwrap().protocol;
            assert_eq!((statistics.twins, statistics.whole_pages), (0, 3));
        }
        if rank == 2 {
            views[2].write(6, 7);
        }
        if rank == 1 {
            views[1].write(5, 8);
        }
        member.barrier().unwrap();
        assert_eq!((views[rank].read(5), views[rank].read(6)), (8, 7));
    });
}

#[test]
fn a_small_cache_holds_what_is_read_and_more_is_written_than_may_wait() {
    const PAGES: usize = 700;
    let team = [1, 1];
    let machine = Machine::new(&team, |settings| settings.cache_pages = Some(256));
    let views = machine.array(2 * PAGES * PAGE);
    machine.run(&team, |member, rank, _| {
        let other = (1 - rank) * PAGES;
        for page in other..other + PAGES {
            assert_eq!(views[rank].read(page * WORDS), 0);
        }
        member.barrier().unwrap();
        for page in other..other + PAGES {
            views[rank].write(page * WORDS + rank, page as u64 + 1);
        }
        member.barrier().unwrap();
        for page in 0..2 * PAGES {
            let writer = 1 - page / PAGES;
            assert_eq!(views[rank].read(page * WORDS + writer), page as u64 + 1, "page {page}");
        }
    });
    assert!(machine.memories[0].statistics().unwrap().protocol.evictions > 0);
}

/// The home asks for the word of a page again and again while its writer puts the page, for which the home's own thread is needed.
#[test]
fn a_home_that_writes_while_another_brings_its_pages_home_waits_for_it() {
    const PAGES: usize = 60;
    let team = [1, 1];
    let machine = Machine::new(&team, |_| {});
    let views = machine.array(2 * 8 * PAGES * PAGE);
    machine.run(&team, |member, rank, _| {
        for round in 0..8 {
            let pages = round * PAGES..(round + 1) * PAGES;
            if rank == 1 {
                pages.clone().for_each(|page| views[1].write(page * WORDS, 1));
            }
            member.barrier().unwrap();
            // All homed at rank 0; one writes them alone so far.
            pages.clone().for_each(|page| views[rank].write(page * WORDS + rank, page as u64 + 2));
            member.barrier().unwrap();
            for page in pages {
                let [one, other] = [0, 1].map(|at| views[rank].read(page * WORDS + at));
                assert_eq!([one, other], [page as u64 + 2; 2], "page {page}");
            }
        }
    });
}
