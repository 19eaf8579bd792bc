//! The rate of this machine's time-stamp counter, which is that of every node: QEMU's software processors read it.
//!
//! A node's kernel would measure it by its timer, which QEMU's threads serve late on a busy machine: off by half was seen, and with it
//! the node's clock. Told the rate, all nodes have one, so that their clocks and their guests' agree.

use std::thread;
use std::time::{Duration, Instant};

/// Least time between the two readings: each is off by less than a microsecond, so the rate by some 20 parts per million.
const SPAN: Duration = Duration::from_millis(100);

/// How often a reading is tried; that of the least delay counts.
const TRIES: u32 = 32;

/// A measurement under way.
#[derive(Debug)]
pub(crate) struct Measurement {
    began: Reading,
}

/// The counter at a moment.
#[derive(Debug, Clone, Copy)]
struct Reading {
    counter: u64,
    at: Instant,
}

impl Measurement {
    /// Starts; other work may be done meanwhile.
    pub(crate) fn start() -> Self {
        Self { began: Reading::now() }
    }

    /// The rate in kHz.
    pub(crate) fn khz(&self) -> u64 {
        thread::sleep(SPAN.saturating_sub(self.began.at.elapsed()));
        let ended = Reading::now();
        let counted = u128::from(ended.counter.wrapping_sub(self.began.counter));
        let nanoseconds = ended.at.duration_since(self.began.at).as_nanos().max(1);
        u64::try_from(counted * 1_000_000 / nanoseconds).unwrap_or(u64::MAX)
    }
}

impl Reading {
    fn now() -> Self {
        let read = || {
            let at = Instant::now();
            // SAFETY: every x86-64 processor has RDTSC, and Linux lets programs use it (prctl(2), PR_SET_TSC); it changes no memory.
            let counter = unsafe { std::arch::x86_64::_rdtsc() };
            (at.elapsed(), Self { counter, at })
        };
        let mut best = read();
        for _ in 1..TRIES {
            let next = read();
            if next.0 < best.0 {
                best = next;
            }
        }
        best.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_agree() {
        let (one, other) = (Measurement::start().khz(), Measurement::start().khz());
        // Slower than any x86-64 processor's, and faster.
        assert!((100_000..100_000_000).contains(&one), "{one} kHz");
        assert!(one.abs_diff(other) * 1000 < one, "{one} and {other} kHz");
    }
}
