//! Devices' holds against processors.

use vm_memory::Bytes;

use super::*;
use crate::memory::{Access, GuestRange, HoldError};

fn pages(first: u32, count: u32) -> GuestRange {
    let bytes = PAGE_BYTES as u64;
    GuestRange { start: GuestAddress(u64::from(first) * bytes), len: u64::from(count) * bytes }
}

#[test]
fn a_device_sees_what_processors_elsewhere_wrote_and_they_see_what_it_wrote() {
    let mut at = Setup::of(2, 512).start();
    for page in (0..1024).step_by(7) {
        at.word(1, page, 0).store(u64::from(page), Ordering::Relaxed);
    }
    let memory = at.ranks[0].engine.device_memory();
    {
        let held = memory.hold(&[(pages(0, 512), Access::Read), (pages(512, 512), Access::Write)]).unwrap();
        for page in (0..1024).step_by(7) {
            let seen: u64 = held.read_obj(pages(page, 1).start).unwrap();
            assert_eq!(seen, u64::from(page));
        }
        for page in 512..1024 {
            held.write_obj(u64::from(page) * 2, pages(page, 1).start).unwrap();
        }
    }
    for page in 512..1024 {
        assert_eq!(at.word(1, page, 0).load(Ordering::Relaxed), u64::from(page) * 2);
    }
    at.assert_quiet();
    let asked = at.stats(0).sent.acquire.messages;
    assert!(asked < 200, "{asked} requests: pages are asked for in runs");
}

#[test]
fn a_rank_says_that_it_is_alive_while_it_maps_many_pages_for_a_device() {
    // Untouched pages of its own: nothing is asked of the other rank, so nothing is polled.
    let pages_of_a_piece = u32::from(vincs_coherence::id::MAX_RUN);
    let at = Setup::of(2, 16 * pages_of_a_piece).start();
    let memory = at.ranks[0].engine.device_memory();
    at.channels[0][0].signs();
    drop(memory.hold(&[(pages(0, 16 * pages_of_a_piece), Access::Write)]).unwrap());
    let signs = at.channels[0][0].signs();
    assert!(signs >= 16, "{signs}: once for each piece at least");
    at.assert_quiet();
}

#[test]
fn nobody_writes_what_a_device_reads_and_nobody_reads_what_it_writes() {
    let at = Setup::of(2, 16).start();
    let (first, second) = (at.word(1, 3, 0), at.word(1, 19, 0));
    let done = &std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        // A processor elsewhere writes two pages, one after the other, and reads what the device writes into a third.
        let writer = scope.spawn(move || {
            let mut round = 0;
            while !done.load(Ordering::Relaxed) {
                round += 1;
                first.store(round, Ordering::SeqCst);
                second.store(round, Ordering::SeqCst);
            }
        });
        let reader = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let pair = [0, 511].map(|index| at.word(1, 8, index).load(Ordering::SeqCst));
                assert!(pair[0] <= pair[1], "half of what a device wrote: {pair:?}");
            }
        });
        let memory = at.ranks[0].engine.device_memory();
        for round in 1..=200_u64 {
            let ranges = [(pages(3, 1), Access::Read), (pages(19, 1), Access::Read), (pages(8, 1), Access::Write)];
            let held = memory.hold(&ranges).unwrap();
            let read = || [3, 19].map(|page| held.read_obj::<u64>(pages(page, 1).start).unwrap());
            let before = read();
            // The first word before the last, and the reader looks in the same order: never may it see only the first.
            held.write_obj(round, GuestAddress(8 * 4096)).unwrap();
            thread::yield_now();
            held.write_obj(round, GuestAddress(8 * 4096 + 511 * 8)).unwrap();
            assert_eq!(read(), before, "round {round}: written while it was held");
            assert!(before[0] == before[1] || before[0] == before[1] + 1, "{before:?}");
        }
        done.store(true, Ordering::Relaxed);
        join(writer);
        join(reader);
    });
    at.assert_quiet();
}

#[test]
fn devices_of_several_ranks_that_want_the_same_pages_take_turns() {
    let at = Setup { shards: 2, ..Setup::of(2, 16384) }.start();
    let count = |rank: usize| {
        let memory = at.ranks[rank].engine.device_memory();
        for round in 0..200 {
            // In another order each time, in both shards.
            let mut ranges = [(pages(3, 2), Access::Write), (pages(16384 + 5, 1), Access::Write)];
            if (round + rank).is_multiple_of(2) {
                ranges.reverse();
            }
            let held = memory.hold(&ranges).unwrap();
            for page in [3, 4, 16384 + 5] {
                let before: u64 = held.read_obj(pages(page, 1).start).unwrap();
                held.write_obj(before + 1, pages(page, 1).start).unwrap();
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = [0, 1].map(|rank| scope.spawn(move || count(rank))).into();
        threads.into_iter().for_each(join);
    });
    for page in [3, 4, 16384 + 5] {
        assert_eq!(at.word(0, page, 0).load(Ordering::SeqCst), 400);
    }
    at.assert_quiet();
}

#[test]
fn long_bytes_are_written_piece_by_piece_beyond_the_cache() {
    let at = Setup { cache_pages: Some(256), ..Setup::of(2, 4096) }.start();
    let bytes: Vec<u8> = (0..20 << 20).map(|at: u32| u8::try_from(at % 251).unwrap()).collect();
    at.ranks[1].engine.device_memory().write(GuestAddress(4095), &bytes).unwrap();
    let memory = at.ranks[0].engine.device_memory();
    let held =
        memory.hold(&[(GuestRange { start: GuestAddress(4095), len: bytes.len() as u64 }, Access::Read)]).unwrap();
    let mut back = vec![0; bytes.len()];
    held.read_slice(&mut back, GuestAddress(4095)).unwrap();
    assert!(back == bytes);
    at.assert_quiet();
}

#[test]
fn ranges_that_are_no_ram_or_too_long_are_refused_and_nothing_stays_held() {
    let at = Setup::of(2, 40_000).start();
    let memory = at.ranks[0].engine.device_memory();
    let error = memory.hold(&[(pages(0, 1), Access::Write), (pages(79_999, 2), Access::Read)]).unwrap_err();
    assert!(matches!(error, HoldError::NotRam { .. }), "{error}");
    let error = memory.hold(&[(pages(0, 65_537), Access::Read)]).unwrap_err();
    assert!(matches!(error, HoldError::TooMuch), "{error}");
    assert!(memory.write(pages(79_999, 1).start, &[1; 4097]).is_err());
    at.word(1, 0, 0).store(1, Ordering::Relaxed);
    assert_eq!(at.word(0, 0, 0).load(Ordering::Relaxed), 1);
    at.assert_quiet();
}
