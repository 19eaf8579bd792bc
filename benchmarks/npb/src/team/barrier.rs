//! Where threads meet.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// How often a thread looks before it sleeps, where each has a processor of its own: some ten microseconds.
const SPINS: u32 = 4000;

/// A barrier for a fixed number of threads, again and again.
#[derive(Debug)]
pub struct Barrier {
    threads: usize,
    spins: u32,
    /// Threads that have come to the present meeting.
    arrived: AtomicUsize,
    /// Meetings so far. Changed under `sleep`, so that no sleeper misses it.
    meetings: AtomicUsize,
    /// A thread will not come any more.
    broken: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
}

impl Barrier {
    /// A barrier of `threads`.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            threads,
            spins: if threads <= processors { SPINS } else { 0 },
            arrived: AtomicUsize::new(0),
            meetings: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Waits until all threads wait.
    ///
    /// # Panics
    ///
    /// When one of them has broken the barrier.
    pub fn wait(&self) {
        let meeting = self.meetings.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            // Nobody comes again before the next line's meeting has begun.
            self.arrived.store(0, Ordering::Relaxed);
            self.change(|| self.meetings.store(meeting.wrapping_add(1), Ordering::Release));
        } else if !(0..self.spins).any(|_| self.met(meeting)) {
            let mut sleep = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
            while !self.met(meeting) {
                sleep = self.wake.wait(sleep).unwrap_or_else(PoisonError::into_inner);
            }
        }
        assert!(!self.broken.load(Ordering::Acquire), "a member of the team has ended before its time");
    }

    /// Makes all that wait, and all that will, panic, since this thread will not come any more.
    pub fn abandon(&self) {
        self.change(|| self.broken.store(true, Ordering::Release));
    }

    fn met(&self, meeting: usize) -> bool {
        spin_loop();
        self.meetings.load(Ordering::Acquire) != meeting || self.broken.load(Ordering::Acquire)
    }

    fn change(&self, change: impl FnOnce()) {
        let sleep = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        change();
        drop(sleep);
        self.wake.notify_all();
    }
}
