//! The simulated network: one FIFO channel per ordered pair of ranks, with random delays.
//!
//! The port to transports hands out every message exactly once, so nothing is duplicated or dropped here; a partition
//! only delays, as a transport that sends again would. Channels of different pairs overtake each other freely.

use std::collections::{BTreeMap, VecDeque};

use crate::id::Rank;
use crate::message::Message;

use super::memory::Words;
use super::rng::Rng;

/// A message under way with its body.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Parcel {
    /// What.
    pub message: Message,
    /// The bytes of its data pages.
    pub body: Vec<Words>,
}

/// How long messages take, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// At least.
    pub shortest: u64,
    /// At most, on most messages.
    pub longest: u64,
    /// At most, on one in [`SLOW_ONE_IN`].
    pub slow: u64,
}

/// How rare slow messages are.
pub const SLOW_ONE_IN: u64 = 16;

/// A time in which two ranks do not hear each other.
#[derive(Clone, Copy, Debug)]
pub struct Partition {
    /// The two.
    pub between: (Rank, Rank),
    /// When it starts, in microseconds.
    pub from: u64,
    /// When it ends.
    pub until: u64,
}

impl Partition {
    fn cuts(&self, a: Rank, b: Rank, time: u64) -> bool {
        let pair = self.between == (a, b) || self.between == (b, a);
        pair && (self.from..self.until).contains(&time)
    }
}

#[derive(Clone, Debug, Default)]
struct Channel {
    parcels: VecDeque<Parcel>,
    /// When the last one arrives: the next may not be earlier.
    last: u64,
}

/// All channels.
#[derive(Clone, Debug)]
pub struct Network {
    channels: BTreeMap<(Rank, Rank), Channel>,
    delays: Delays,
    partitions: Vec<Partition>,
}

impl Network {
    /// A network without messages.
    #[must_use]
    pub fn new(delays: Delays, partitions: Vec<Partition>) -> Self {
        Self { channels: BTreeMap::new(), delays, partitions }
    }

    /// Sends; gives the time of arrival, at which [`Self::deliver`] is to be called once.
    pub fn send(&mut self, rng: &mut Rng, now: u64, from: Rank, to: Rank, parcel: Parcel) -> u64 {
        let longest = if rng.one_in(SLOW_ONE_IN) { self.delays.slow } else { self.delays.longest };
        let arrives = now + rng.between(self.delays.shortest, longest);
        self.carry(arrives, from, to, parcel)
    }

    /// Sends what would arrive at this time, if nothing was in its way; gives when it does, as above.
    pub fn carry(&mut self, arrives: u64, from: Rank, to: Rank, parcel: Parcel) -> u64 {
        let channel = self.channels.entry((from, to)).or_default();
        let mut arrives = arrives.max(channel.last);
        while let Some(cut) = self.partitions.iter().find(|partition| partition.cuts(from, to, arrives)) {
            arrives = cut.until;
        }
        channel.last = arrives;
        channel.parcels.push_back(parcel);
        arrives
    }

    /// When a NIC's work between two ranks has arrived, which goes beside the messages.
    pub fn delay(&self, rng: &mut Rng, now: u64, from: Rank, to: Rank) -> u64 {
        let longest = if rng.one_in(SLOW_ONE_IN) { self.delays.slow } else { self.delays.longest };
        let mut arrives = now + rng.between(self.delays.shortest, longest);
        while let Some(cut) = self.partitions.iter().find(|partition| partition.cuts(from, to, arrives)) {
            arrives = cut.until;
        }
        arrives
    }

    /// Takes the oldest message of a channel.
    pub fn deliver(&mut self, from: Rank, to: Rank) -> Option<Parcel> {
        self.channels.get_mut(&(from, to))?.parcels.pop_front()
    }

    /// A channel of a rank on which something is under way.
    #[must_use]
    pub fn busy_with(&self, rank: Rank) -> Option<(Rank, Rank)> {
        let busy = self.channels.iter().filter(|(_, channel)| !channel.parcels.is_empty());
        busy.map(|(pair, _)| *pair).find(|(from, to)| [*from, *to].contains(&rank))
    }

    /// A rank is gone: what was on the way to it is lost, and of what was on the way from it a random end per channel.
    pub fn crash(&mut self, rng: &mut Rng, rank: Rank) {
        for ((from, to), channel) in &mut self.channels {
            if *to == rank {
                channel.parcels.clear();
            } else if *from == rank {
                let kept = rng.index(channel.parcels.len() + 1);
                channel.parcels.truncate(kept);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Delays, Network, Parcel, Partition};
    use crate::id::{Page, Rank};
    use crate::message::Message;
    use crate::sim::rng::Rng;

    fn parcel(page: u32) -> Parcel {
        Parcel { message: Message::Invalidate { page: Page(page) }, body: Vec::new() }
    }

    #[test]
    fn a_channel_keeps_the_order_and_a_partition_delays() {
        let partition = Partition { between: (Rank(1), Rank(0)), from: 100, until: 900 };
        let delays = Delays { shortest: 1, longest: 300, slow: 300 };
        let mut network = Network::new(delays, vec![partition]);
        let mut rng = Rng::new(7);
        let times: Vec<u64> = (0..50).map(|n| network.send(&mut rng, n, Rank(0), Rank(1), parcel(0))).collect();
        assert!(times.is_sorted());
        assert!(times.iter().all(|time| !(100..900).contains(time)));
        assert!(times.contains(&900));
    }

    #[test]
    fn a_crash_loses_what_goes_to_the_rank_and_keeps_a_beginning_of_what_comes_from_it() {
        let delays = Delays { shortest: 1, longest: 3, slow: 3 };
        let mut network = Network::new(delays, Vec::new());
        let mut rng = Rng::new(7);
        for page in 0..20 {
            network.send(&mut rng, 0, Rank(0), Rank(1), parcel(page));
            network.send(&mut rng, 0, Rank(1), Rank(0), parcel(page));
        }
        network.crash(&mut rng, Rank(0));
        assert_eq!(network.deliver(Rank(1), Rank(0)), None);
        let left: Vec<Parcel> = std::iter::from_fn(|| network.deliver(Rank(0), Rank(1))).collect();
        assert_eq!(left, (0..).map(parcel).take(left.len()).collect::<Vec<_>>());
    }
}
