//! Benchmarks: each against something else, alternating in one run, with medians and ratios.
//!
//! - [`boot`]: boot time, vincs against QEMU's microvm;
//! - [`coherence`]: memory that is spread over ranks, natively, against the network and the faults it stands on;
//! - [`elastic`]: machines that change while they run: processors that move, ranks that come and leave, homes that move;
//! - [`bare`]: a guest on KVM_RUN and nothing else, to compare the vmm's run loop with.
//! - [`transport`]: the TCP transport against bare sockets;
//! - [`cost_model`]: what faults cost on machines that are not at hand, predicted and simulated;
//! - [`npb`]: programs on ranks with relaxed memory;
//! - [`rdma`]: the RDMA transport against perftest's tools;
//! - [`median`], [`nanoseconds`], [`from_nanoseconds`], [`ratio`]: of a few measurements;
//! - [`ended`]: how a benchmark's program ends.

pub mod bare;
pub mod boot;
pub mod coherence;
pub mod cost_model;
pub mod elastic;
pub mod npb;
pub mod rdma;
pub mod transport;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The middle one of the values, the upper of two; zero if there are none.
#[must_use]
pub fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

/// Nanoseconds since then.
#[must_use]
pub fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds in microseconds.
#[must_use]
pub fn from_nanoseconds(time: u64) -> f64 {
    Duration::from_nanos(time).as_secs_f64() * 1e6
}

/// The status of a benchmark's program, which says on standard error what went wrong.
#[must_use]
pub fn ended(program: &str, done: Result<(), impl Display>) -> ExitCode {
    let Err(error) = done else { return ExitCode::SUCCESS };
    // Nobody is there to be told when this fails.
    let _ = writeln!(io::stderr(), "{program}: {error}");
    ExitCode::FAILURE
}

/// One number by another; zero by none.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds of minutes are far below 2^53")]
pub fn ratio(count: u64, by: u64) -> f64 {
    if by == 0 { 0.0 } else { count as f64 / by as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![9, 1, 5]), 5);
        assert_eq!(median(vec![4, 1]), 4);
        assert_eq!(median(Vec::new()), 0);
    }
}
