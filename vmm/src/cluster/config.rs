//! A rank's place among the others.

use std::sync::Arc;

use vincs_coherence::id::{MAX_RANKS, Rank};
use vincs_coherence::transport::Transport;

use super::placement::{Placement, Share};
use super::roll::Roll;
use super::seats::Fixed;
use crate::memory::engine::MemorySettings;
use crate::memory::relaxed::RelaxedShare;
use crate::topology::Topology;

/// A rank's place in a machine of several, and its channels to the others, all connected.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// This rank.
    pub rank: Rank,
    /// How many start the machine, rank 0 on. It has one NUMA node for each, and the vCPUs of a node run on its rank. A rank beyond these joins it while it runs.
    pub ranks: u16,
    /// Most ranks that the machine has in its life; as many as start it when none can join.
    pub seats: u16,
    /// How vCPUs are dealt out when ranks come and leave: rank 0's.
    pub placement: Placement,
    /// What the host of each of the ranks which start the machine has for it; empty when that is not known. Rank 0's.
    pub shares: Vec<Share>,
    /// Why no rank leaves, if so. Rank 0's.
    pub fixed: Option<Fixed>,
    /// Channels for pages, one per shard of memory.
    pub coherence: Vec<Arc<dyn Transport>>,
    /// The channel for everything else.
    pub control: Arc<dyn Transport>,
    /// How memory is spread.
    pub memory: MemorySettings,
    /// This rank's share of relaxed memory, if the machine has some.
    pub relaxed: Option<RelaxedShare>,
    /// Learns who is there when rank 0 is not; complete when the machine has stopped on this rank.
    pub roll: Roll,
}

/// A rank's place is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ClusterError {
    /// Too few or too many ranks, or this one is not of them.
    #[error("rank {rank} of {ranks}: a machine has 1 to {MAX_RANKS} ranks, numbered from 0")]
    Rank {
        /// This rank.
        rank: u16,
        /// Number of ranks.
        ranks: u16,
    },
    /// The vCPUs are not arranged in a node per rank.
    #[error("{nodes} NUMA nodes for {ranks} ranks: a machine has one for each rank")]
    Nodes {
        /// Nodes of the machine.
        nodes: u32,
        /// Number of ranks.
        ranks: u16,
    },
    /// Rank 0 has the kernel and the devices, the others have none.
    #[error("rank {0} with the role of another: rank 0 has the kernel and the devices, the others have none")]
    Role(u16),
    /// No channel for pages.
    #[error("no channel for pages; give one for each shard")]
    Channels,
}

impl Cluster {
    /// Whether this rank comes while the machine runs.
    pub(crate) fn joins(&self) -> bool {
        self.rank.0 >= self.ranks
    }

    /// Whether the place is one; `first` is what the role says.
    pub(crate) fn check(&self, topology: &Topology, first: bool) -> Result<(), ClusterError> {
        let (rank, ranks) = (self.rank.0, self.ranks);
        let seats = self.seats;
        if !(1..=MAX_RANKS).contains(&ranks) || rank >= ranks.max(seats) || seats > MAX_RANKS {
            return Err(ClusterError::Rank { rank, ranks });
        }
        if topology.nodes() != u32::from(ranks) {
            return Err(ClusterError::Nodes { nodes: topology.nodes(), ranks });
        }
        if first != (rank == 0) {
            return Err(ClusterError::Role(rank));
        }
        if self.coherence.is_empty() {
            return Err(ClusterError::Channels);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Hub;
    use super::*;

    fn check(rank: u16, ranks: u16, nodes: u32, first: bool, shards: usize) -> Result<(), ClusterError> {
        let end = || Arc::clone(&Hub::ends(1)[0]) as Arc<dyn Transport>;
        let coherence = (0..shards).map(|_| end()).collect();
        let (memory, roll) = (MemorySettings::default(), Roll::default());
        let (placement, shares, fixed, relaxed) = (Placement::default(), Vec::new(), None, None);
        let (rank, seats, control) = (Rank(rank), ranks, end());
        let cluster =
            Cluster { rank, ranks, seats, placement, shares, fixed, coherence, control, memory, relaxed, roll };
        cluster.check(&Topology::new(64, nodes).unwrap(), first)
    }

    #[test]
    fn places_that_are_none_are_refused() {
        assert_eq!(check(0, 2, 2, true, 1), Ok(()));
        assert_eq!(check(63, 64, 64, false, 4), Ok(()));
        assert_eq!(check(2, 2, 2, false, 1), Err(ClusterError::Rank { rank: 2, ranks: 2 }));
        assert_eq!(check(0, 0, 1, true, 1), Err(ClusterError::Rank { rank: 0, ranks: 0 }));
        assert_eq!(check(0, 65, 1, true, 1), Err(ClusterError::Rank { rank: 0, ranks: 65 }));
        assert_eq!(check(0, 2, 1, true, 1), Err(ClusterError::Nodes { nodes: 1, ranks: 2 }));
        assert_eq!(check(0, 2, 2, false, 1), Err(ClusterError::Role(0)));
        assert_eq!(check(1, 2, 2, true, 1), Err(ClusterError::Role(1)));
        assert_eq!(check(1, 2, 2, false, 0), Err(ClusterError::Channels));
    }
}
