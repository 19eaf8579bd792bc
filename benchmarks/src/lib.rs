//! Benchmarks: each against something else, alternating in one run, with medians and ratios.
//!
//! - [`boot`]: boot time, vincs against QEMU's microvm;
//! - [`coherence`]: memory that is spread over ranks, natively, against the network and the faults it stands on;
//! - [`bare`]: a guest on KVM_RUN and nothing else, to compare the vmm's run loop with.
//! - [`transport`]: the TCP transport against bare sockets;
//! - [`cost_model`]: what faults cost on machines that are not at hand, predicted and simulated;
//! - [`rdma`]: the RDMA transport against perftest's tools;
//! - [`median`]: of a few measurements.

pub mod bare;
pub mod boot;
pub mod coherence;
pub mod cost_model;
pub mod rdma;
pub mod transport;

/// The middle one of the values, the upper of two; zero if there are none.
#[must_use]
pub fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
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
