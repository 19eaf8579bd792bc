//! Synchronisation by itself, on two ranks with relaxed memory: barriers, releases, hand-overs of a lock.

use std::time::Instant;

use vincs_coherence::hlrc::LockId;
use vincs_coherence::id::PAGE_BYTES;
use vincs_npb::team::ranks::relaxed::{LOCKS, Relaxed};
use vincs_npb::team::shared::Shared;
use vincs_npb::team::{NoMemory, Team};

use crate::nanoseconds;

/// Pages written before a barrier.
pub const DIRTY: usize = 1000;

/// Barriers with nothing to bring home.
const IDLE_BARRIERS: usize = 300;
/// Barriers with [`DIRTY`] pages.
const DIRTY_BARRIERS: usize = 9;
/// Releases.
const RELEASES: usize = 101;
/// Critical sections of each rank.
const SECTIONS: usize = 500;

const LOCK: LockId = LockId(0);
/// A lock that one rank alone takes.
const AGAIN: LockId = LockId(1);
/// Locks that are taken once, from this one on.
const FIRST_OF_RELEASES: u32 = 2;

const _: () = assert!(FIRST_OF_RELEASES as usize + 2 * RELEASES <= LOCKS as usize);

/// One measurement.
#[derive(Clone, Debug)]
pub struct Primitive {
    /// What was measured.
    pub what: &'static str,
    /// Each time, in microseconds.
    pub microseconds: Vec<f64>,
}

fn microseconds(started: Instant) -> f64 {
    nanoseconds(started) as f64 / 1000.0
}

/// Measures all. The times are those of the rank that this is.
///
/// # Errors
/// No memory for the pages.
pub fn measure(team: &Relaxed) -> Result<Vec<Primitive>, NoMemory> {
    let all = team as &dyn Team;
    // Pages of both ranks; rank 0 writes those homed at rank 1.
    let pages = all.array::<u64>(2 * DIRTY * PAGE_BYTES / 8)?;
    let first = team.member() == 0;
    let mut measured = Vec::new();
    let mut add = |what, microseconds| measured.push(Primitive { what, microseconds });
    team.barrier();
    add("barrier, nothing written", (0..IDLE_BARRIERS).map(|_| timed(|| team.barrier())).collect());
    let dirty = |round| {
        if first {
            (0..DIRTY).for_each(|page| write(&pages, DIRTY + page, 1, round));
        }
        timed(|| team.barrier())
    };
    add("barrier, 1000 pages written", (0..DIRTY_BARRIERS).map(dirty).collect());
    // The home writes it too: from now on changes alone go home.
    if !first {
        write(&pages, DIRTY, PAGE_BYTES / 8, 1);
    }
    team.barrier();
    let mut locks = FIRST_OF_RELEASES..;
    for (what, words) in
        [("release, 8 bytes of a page changed", 1), ("release, 4096 bytes of a page changed", PAGE_BYTES / 8)]
    {
        let mut times = Vec::new();
        for round in 0..RELEASES {
            // One of its own each time: one that this rank takes again stays here, and nothing is brought home.
            let lock = LockId(locks.next().unwrap_or_default());
            if first {
                team.acquire(lock);
                write(&pages, DIRTY, words, round + 2);
                times.push(timed(|| team.release(lock)));
            }
        }
        team.barrier();
        add(what, times);
    }
    let mut times = Vec::new();
    for round in 0..RELEASES + 2 {
        if first {
            times.push(timed(|| {
                team.acquire(AGAIN);
                write(&pages, DIRTY, 1, round + 2);
                team.release(AGAIN);
            }));
        }
    }
    team.barrier();
    // From the third time on it stays here.
    add("lock taken and given back again", times.into_iter().skip(2).collect());
    let before = team.statistics().protocol.locks_handed;
    team.barrier();
    let started = Instant::now();
    for _ in 0..SECTIONS {
        team.acquire(LOCK);
        team.release(LOCK);
    }
    let took = microseconds(started);
    team.barrier();
    let handed = team.statistics().protocol.locks_handed - before;
    // This rank has got it so often from the other one, which has got it as often from this one.
    add("hand-over of a lock", vec![took / (2 * handed.max(1)) as f64]);
    Ok(measured)
}

fn timed(what: impl FnOnce()) -> f64 {
    let started = Instant::now();
    what();
    microseconds(started)
}

/// Writes the first words of a page, other ones each round.
fn write(pages: &Shared<u64>, page: usize, words: usize, round: usize) {
    let start = page * PAGE_BYTES / 8;
    let value = u64::MAX / (round as u64 + 1);
    pages.write(start..start + words).fill(value);
}
