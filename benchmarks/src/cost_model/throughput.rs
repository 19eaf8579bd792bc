//! How many faults of a kind there can be per second, with pages and homes spread evenly over the ranks, or all at one home.

use vincs_coherence::id::PAGE_BYTES;

use super::closed_form::Fault;
use super::inputs::Inputs;

/// Shards of a rank's memory, each with a service thread (`--shards`' default from 9 processors on).
pub const SHARDS: u64 = 4;

/// Virtual processors of a rank. Each waits for one fault at a time.
pub const PROCESSORS: u64 = 8;

const SECOND: u64 = 1_000_000_000;

/// Faults per second.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Throughput {
    /// That a home takes, whoever faults.
    pub home: u64,
    /// Of a rank, which is also home and sharer for the others.
    pub rank: u64,
    /// Of all ranks.
    pub machine: u64,
}

/// How many faults of a kind a machine of so many ranks can have.
#[must_use]
pub fn throughput(fault: Fault, inputs: &Inputs, ranks: u64) -> Throughput {
    let path = fault.path();
    let each = |time: u64, threads: u64| (threads * SECOND).checked_div(time).unwrap_or(u64::MAX);
    // Both directions of a link are used alike, so a way counts once for a NIC.
    let nic = |requests: u64| inputs.message_rate.checked_div(requests).unwrap_or(u64::MAX);
    let link = |pages: u64| inputs.bandwidth.checked_div(pages * PAGE_BYTES as u64).unwrap_or(u64::MAX);
    let network = nic(path.home_requests).min(link(path.pages));
    let showing = path.shown * inputs.hash_and_copy;
    let home = each(path.at_home * inputs.service + showing, SHARDS).min(network);
    let own = if matches!(fault, Fault::HomeWrite { .. }) { 1 } else { 2 };
    let work = (own + path.at_home + path.elsewhere) * inputs.service + path.looked_at * inputs.hash_and_copy + showing;
    let waiting = each(fault.latency(inputs, ranks), PROCESSORS);
    // All that a rank's NIC has to do is what it does as a home and what it does as the other end.
    let rank = waiting.min(each(work, SHARDS)).min(network / 2);
    Throughput { home, rank, machine: rank.saturating_mul(ranks) }
}

#[cfg(test)]
mod tests {
    use super::super::inputs::NDR;
    use super::*;

    #[test]
    fn a_home_shows_more_pages_than_it_answers_messages() {
        let one_sided = throughput(Fault::CleanReadOneSided, &NDR, 64);
        assert_eq!(one_sided.home, SHARDS * SECOND / NDR.hash_and_copy);
        assert!(one_sided.home < NDR.bandwidth / 4096, "the link can take more");
        let by_message = throughput(Fault::ReadByMessage, &NDR, 64);
        assert_eq!(by_message.home, SHARDS * SECOND / NDR.service);
        assert!(by_message.rank < one_sided.rank, "its threads have the other ranks' requests to answer");
    }

    #[test]
    fn machines_grow_with_their_ranks_until_sharers_grow_too() {
        let read = |ranks| throughput(Fault::ReadByMessage, &NDR, ranks).machine;
        assert_eq!(read(64), 8 * read(8));
        let write = |ranks| throughput(Fault::Write { sharers: ranks - 2 }, &NDR, ranks);
        assert!(write(1024).machine < 2 * write(64).machine, "{:?} {:?}", write(1024), write(64));
        assert_eq!(write(8).machine, 8 * write(8).rank);
    }
}
