//! What a rank is asked to do, and how it does it.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::floor;
use crate::nanoseconds;
use vincs_coherence::id::PAGE_BYTES;
use vincs_vmm::memory::GuestRam;

/// Words of a page.
const WORDS: usize = PAGE_BYTES / 8;

/// Some pages in the order in which they are touched.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Pages {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Whether they are touched in an order without adjacent ones in turn, as far as there is one.
    pub mixed: bool,
}

impl Pages {
    fn in_order(self) -> impl Iterator<Item = u32> {
        // A step that has no factor in common with a count of pages that is a power of two reaches all of them.
        const STEP: u32 = 0x9e35;
        (0..self.count)
            .map(move |at| self.first + if self.mixed { (at * (STEP + 1 - STEP % 2)) % self.count } else { at })
    }
}

/// A piece of work. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub enum Work {
    /// Fill each page with a number that is not zero; gives the time of each page.
    Write(Pages),
    /// Read a word of each page; gives the time of each.
    Read(Pages),
    /// Read all words; gives the time of all.
    Stream(Pages),
    /// Take turns with the other rank in writing a word; gives the time of all.
    PingPong {
        /// The page of the word.
        page: u32,
        /// Writes of both.
        rounds: u64,
        /// Which of the two this is: 0 or 1.
        turn: u64,
    },
    /// Meet the other rank again and again; gives the time of all.
    Barrier {
        /// The page of this one's flag, and of the other's.
        pages: [u32; 2],
        /// How often.
        rounds: u64,
    },
    /// Take and release a lock that the other rank wants as well, until it has gone from one to the other so often; gives the
    /// time of all.
    Lock {
        /// The page of the lock.
        page: u32,
        /// How often.
        hand_overs: u64,
        /// Which of the two this is: 1 or 2.
        owner: u64,
    },
    /// Answer requests over a plain connection: first a number of the port, then, when all is done, nothing.
    Echo(floor::Echo),
    /// Send bytes over a plain connection: first the number of the port, then, when all is done, nothing.
    Source(u64),
    /// Give the bytes that this process has in memory, without files.
    Resident,
}

/// Does a piece of work. `tell` is for an answer before the last.
///
/// # Errors
/// What the host refuses.
pub fn work(ram: &GuestRam, work: Work, mut tell: impl FnMut(u64) -> std::io::Result<()>) -> std::io::Result<Vec<u64>> {
    let whole = |run: &dyn Fn()| {
        let started = Instant::now();
        run();
        vec![nanoseconds(started)]
    };
    Ok(match work {
        Work::Write(pages) => each(pages, |page| fill(ram, page)),
        Work::Read(pages) => each(pages, |page| {
            black_box(word(ram, page, 0).load(Ordering::Relaxed));
        }),
        Work::Stream(pages) => whole(&|| {
            black_box(pages.in_order().map(|page| sum(ram, page)).fold(0, u64::wrapping_add));
        }),
        Work::PingPong { page, rounds, turn } => whole(&|| take_turns(word(ram, page, 0), rounds, turn)),
        Work::Barrier { pages: [mine, theirs], rounds } => {
            whole(&|| meet(word(ram, mine, 0), word(ram, theirs, 0), rounds))
        }
        Work::Lock { page, hand_overs, owner } => whole(&|| lock(ram, page, hand_overs, owner)),
        Work::Echo(echo) => {
            floor::echo(echo, &mut tell)?;
            Vec::new()
        }
        Work::Source(bytes) => {
            floor::source(bytes, &mut tell)?;
            Vec::new()
        }
        Work::Resident => vec![resident()?],
    })
}

fn each(pages: Pages, mut touch: impl FnMut(u32)) -> Vec<u64> {
    let timed = |page| {
        let started = Instant::now();
        touch(page);
        nanoseconds(started)
    };
    pages.in_order().map(timed).collect()
}

/// A word of a page, as the rank's processors see it.
fn word(ram: &GuestRam, page: u32, index: usize) -> &AtomicU64 {
    static NOWHERE: AtomicU64 = AtomicU64::new(0);
    let address = GuestAddress(u64::from(page) * PAGE_BYTES as u64 + (index % WORDS * 8) as u64);
    let Ok(host) = ram.guest_mapping().get_host_address(address) else { return &NOWHERE };
    // SAFETY: the address is an aligned word of the guest mapping, which lives as long as `ram`. Words of it are used
    // atomically only, or read while nobody writes.
    unsafe { &*host.cast::<AtomicU64>() }
}

fn fill(ram: &GuestRam, page: u32) {
    (0..WORDS).for_each(|index| word(ram, page, index).store(u64::from(page) + 1, Ordering::Relaxed));
}

/// The sum of a page's words.
fn sum(ram: &GuestRam, page: u32) -> u64 {
    // SAFETY: a page of the guest mapping; in this piece of work nobody writes it.
    let words = unsafe { std::slice::from_raw_parts(word(ram, page, 0).as_ptr().cast_const(), WORDS) };
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

fn take_turns(word: &AtomicU64, rounds: u64, turn: u64) {
    for round in (turn..rounds).step_by(2) {
        wait_until(|| word.load(Ordering::Acquire) == round);
        word.store(round + 1, Ordering::Release);
    }
}

fn meet(mine: &AtomicU64, theirs: &AtomicU64, rounds: u64) {
    for round in 1..=rounds {
        mine.store(round, Ordering::SeqCst);
        wait_until(|| theirs.load(Ordering::SeqCst) >= round);
    }
}

/// A ticket lock: the first word gives tickets, the second tells whose turn it is. It protects the other two: who had it last,
/// and how often it went from one to the other.
fn lock(ram: &GuestRam, page: u32, hand_overs: u64, owner: u64) {
    let [tickets, turn, last, handed_over] = [0, 1, 2, 3].map(|index| word(ram, page, index));
    let mut done = false;
    while !done {
        let ticket = tickets.fetch_add(1, Ordering::SeqCst);
        wait_until(|| turn.load(Ordering::Acquire) == ticket);
        if last.swap(owner, Ordering::Relaxed) != owner {
            handed_over.fetch_add(1, Ordering::Relaxed);
        }
        done = handed_over.load(Ordering::Relaxed) >= hand_overs;
        turn.store(ticket + 1, Ordering::Release);
    }
}

/// Spins, as processors of a guest would; gives way at times, as here a processor has other threads to run.
fn wait_until(done: impl Fn() -> bool) {
    let mut tries = 0_u32;
    while !done() {
        tries += 1;
        if tries.is_multiple_of(64) {
            std::thread::yield_now();
        }
        std::hint::spin_loop();
    }
}

/// Bytes of anonymous memory that this process has (VmRSS less files and shared memory: RssAnon in proc_pid_status(5)).
fn resident() -> std::io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.unwrap_or(0) * 1024)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn mixed_pages_are_all_touched_and_never_in_turn() {
        for count in [128, 1024, 4096] {
            let order: Vec<u32> = Pages { first: 7, count, mixed: true }.in_order().collect();
            assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), (7..7 + count).collect());
            assert!(order.windows(2).all(|pair| pair[0] + 1 != pair[1]), "{count}");
        }
    }

    #[test]
    fn work_is_done_on_memory_of_one_rank() {
        let ram = GuestRam::new(&[(GuestAddress(0), 64 * PAGE_BYTES)]).unwrap();
        let run = |job| work(&ram, job, |_| Ok(())).unwrap();
        let pages = Pages { first: 0, count: 16, mixed: false };
        assert_eq!(run(Work::Write(pages)).len(), 16);
        assert_eq!(run(Work::Read(pages)).len(), 16);
        assert_eq!(sum(&ram, 3), 4 * WORDS as u64);
        assert_eq!(run(Work::Stream(pages)).len(), 1);
        std::thread::scope(|scope| {
            scope.spawn(|| lock(&ram, 20, 5, 1));
            lock(&ram, 20, 5, 2);
            scope.spawn(|| take_turns(word(&ram, 30, 0), 100, 1));
            take_turns(word(&ram, 30, 0), 100, 0);
            scope.spawn(|| meet(word(&ram, 31, 0), word(&ram, 32, 0), 50));
            meet(word(&ram, 32, 0), word(&ram, 31, 0), 50);
        });
        assert_eq!(word(&ram, 30, 0).load(Ordering::Relaxed), 100);
        assert!(word(&ram, 20, 3).load(Ordering::Relaxed) >= 5);
        assert!(run(Work::Resident)[0] > 0);
    }
}
