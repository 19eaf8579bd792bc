//! Which vCPU is to be on which rank, when ranks come and leave: the one place that decides it, without I/O.
//!
//! Nothing moves but when a rank joins or leaves, and then as little as does it; so vCPUs do not go to and fro.

use std::collections::BTreeMap;

use vincs_coherence::id::Rank;

/// How vCPUs are dealt out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Placement {
    /// Over all ranks, as evenly as they go.
    #[default]
    Spread,
    /// They stay, but where a rank has more of them than processors and another has one to spare: that one, lowest rank first.
    Pack,
    /// They stay; those of a rank that leaves go to the rank of their node.
    Manual,
}

/// A vCPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Placed {
    /// Where it is, or is on its way to.
    pub(crate) at: Rank,
    /// The rank of its NUMA node, where the memory is that it uses first.
    pub(crate) node: Rank,
}

/// A rank that may have vCPUs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Room {
    pub(crate) rank: Rank,
    /// Processors of its host that it may use; 0 if that is not known.
    pub(crate) processors: u32,
}

/// Where each vCPU is to be. `rooms` has the ranks that vCPUs may be on, in order, rank 0 at least.
pub(crate) fn place(placement: Placement, vcpus: &[Placed], rooms: &[Room]) -> Vec<Rank> {
    let mut dealer = Dealer::new(placement, vcpus, rooms);
    let mut homeless = Vec::new();
    // Who is at its node stays first, then who was there before.
    let (of_node, others): (Vec<_>, Vec<_>) = (0..).zip(vcpus).partition(|(_, vcpu)| vcpu.at == vcpu.node);
    for (index, vcpu) in of_node.into_iter().chain(others) {
        if !dealer.take(index, vcpu.at) {
            homeless.push((index, vcpu));
        }
    }
    homeless.sort_by_key(|(index, _)| *index);
    for (index, vcpu) in homeless {
        if !dealer.take(index, vcpu.node) {
            dealer.give(index);
        }
    }
    dealer.places.into_values().collect()
}

/// Ranks as they fill.
struct Dealer {
    placement: Placement,
    /// How many each may have, how many each has.
    rooms: BTreeMap<Rank, (usize, usize)>,
    places: BTreeMap<usize, Rank>,
}

impl Dealer {
    fn new(placement: Placement, vcpus: &[Placed], rooms: &[Room]) -> Self {
        let ranks = rooms.len().max(1);
        let (least, larger) = (vcpus.len() / ranks, vcpus.len() % ranks);
        // Those that have the most keep the most.
        let mut order: Vec<Rank> = rooms.iter().map(|room| room.rank).collect();
        order.sort_by_key(|rank| std::cmp::Reverse(vcpus.iter().filter(|vcpu| vcpu.at == *rank).count()));
        let most = |room: &Room| match placement {
            Placement::Spread => {
                let is_larger = order.iter().take(larger).any(|rank| *rank == room.rank);
                least + usize::from(is_larger)
            }
            Placement::Pack if room.processors > 0 => usize::try_from(room.processors).unwrap_or(usize::MAX),
            Placement::Pack | Placement::Manual => usize::MAX,
        };
        let rooms = rooms.iter().map(|room| (room.rank, (most(room), 0))).collect();
        Self { placement, rooms, places: BTreeMap::new() }
    }

    /// A vCPU goes to a rank, if that may have one more.
    fn take(&mut self, index: usize, rank: Rank) -> bool {
        match self.rooms.get_mut(&rank) {
            Some((most, has)) if *has < *most => {
                *has += 1;
                self.places.insert(index, rank);
                true
            }
            Some(_) | None => false,
        }
    }

    /// A vCPU goes to a rank that may have one more: the emptiest, or packed the first; else to the one that has the fewest.
    fn give(&mut self, index: usize) {
        let open = || self.rooms.iter().filter(|(_, (most, has))| has < most);
        let found = match self.placement {
            Placement::Spread => open().max_by_key(|(rank, (most, has))| (most - has, std::cmp::Reverse(**rank))),
            Placement::Pack | Placement::Manual => open().next(),
        };
        let fullest = || self.rooms.iter().min_by_key(|(rank, (_, has))| (*has, **rank));
        let rank = found.or_else(fullest).map_or(Rank(0), |(rank, _)| *rank);
        if let Some((_, has)) = self.rooms.get_mut(&rank) {
            *has += 1;
        }
        self.places.insert(index, rank);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// vCPUs by where they are and their nodes.
    fn vcpus(vcpus: &[(u16, u16)]) -> Vec<Placed> {
        vcpus.iter().map(|&(at, node)| Placed { at: Rank(at), node: Rank(node) }).collect()
    }

    /// Ranks with so many processors each.
    fn rooms(ranks: &[(u16, u32)]) -> Vec<Room> {
        ranks.iter().map(|&(rank, processors)| Room { rank: Rank(rank), processors }).collect()
    }

    fn placed(placement: Placement, at: &[(u16, u16)], ranks: &[(u16, u32)]) -> Vec<u16> {
        place(placement, &vcpus(at), &rooms(ranks)).into_iter().map(|rank| rank.0).collect()
    }

    const NATURAL: [(u16, u16); 4] = [(0, 0), (0, 0), (1, 1), (1, 1)];

    #[test]
    fn a_rank_that_joins_gets_its_part_and_no_more_moves() {
        let spread = |at: &[(u16, u16)], ranks: &[(u16, u32)]| placed(Placement::Spread, at, ranks);
        assert_eq!(spread(&NATURAL, &[(0, 2), (1, 2)]), [0, 0, 1, 1], "nothing moves for nothing");
        assert_eq!(spread(&NATURAL, &[(0, 2), (1, 2), (2, 2)]), [0, 0, 1, 2]);
        assert_eq!(spread(&[(0, 0), (0, 0), (1, 1), (2, 1)], &[(0, 2), (1, 2), (2, 2), (3, 2)]), [0, 3, 1, 2]);
        assert_eq!(spread(&[(0, 0), (1, 1)], &[(0, 2), (1, 2), (2, 2)]), [0, 1], "there are none to spare");
    }

    #[test]
    fn who_is_at_its_node_stays_there() {
        let at = [(1, 0), (1, 1), (0, 0), (1, 1)];
        assert_eq!(placed(Placement::Spread, &at, &[(0, 1), (1, 1)]), [0, 1, 0, 1]);
    }

    #[test]
    fn vcpus_of_a_rank_that_leaves_go_to_their_nodes_where_there_is_room() {
        let at = [(0, 0), (2, 0), (1, 1), (2, 1)];
        for placement in [Placement::Spread, Placement::Pack, Placement::Manual] {
            assert_eq!(placed(placement, &at, &[(0, 2), (1, 2)]), [0, 0, 1, 1], "{placement:?}");
        }
        let full = [(0, 0), (0, 1), (1, 1), (2, 0)];
        assert_eq!(placed(Placement::Spread, &full, &[(0, 2), (1, 2)]), [0, 0, 1, 1]);
        assert_eq!(placed(Placement::Pack, &full, &[(0, 2), (1, 2)]), [0, 0, 1, 1], "rank 0 has processors for two");
        assert_eq!(placed(Placement::Pack, &full, &[(0, 3), (1, 2)]), [0, 0, 1, 0]);
        assert_eq!(placed(Placement::Manual, &full, &[(0, 2), (1, 2)]), [0, 0, 1, 0]);
    }

    #[test]
    fn packed_vcpus_move_only_where_processors_are_short() {
        let at = [(0, 0), (0, 0), (0, 0), (1, 1)];
        let packed = |ranks: &[(u16, u32)]| placed(Placement::Pack, &at, ranks);
        assert_eq!(packed(&[(0, 4), (1, 1), (2, 4)]), [0, 0, 0, 1]);
        assert_eq!(packed(&[(0, 1), (1, 1), (2, 1), (3, 4)]), [0, 2, 3, 1]);
        assert_eq!(packed(&[(0, 1), (1, 1)]), [0, 0, 1, 1], "there are none to spare: as evenly as it goes");
        assert_eq!(packed(&[(0, 0), (1, 0), (2, 1)]), [0, 0, 0, 1], "nobody knows");
        assert_eq!(placed(Placement::Manual, &at, &[(0, 1), (1, 1), (2, 8)]), [0, 0, 0, 1]);
    }

    #[test]
    fn it_is_stable() {
        for placement in [Placement::Spread, Placement::Pack, Placement::Manual] {
            let rooms = rooms(&[(0, 2), (1, 3), (4, 1), (5, 8)]);
            let mut at: Vec<Placed> = (0..13).map(|n| Placed { at: Rank(n % 7), node: Rank(n % 2) }).collect();
            let first = place(placement, &at, &rooms);
            for (vcpu, rank) in at.iter_mut().zip(&first) {
                vcpu.at = *rank;
            }
            assert_eq!(place(placement, &at, &rooms), first, "{placement:?}");
        }
    }
}
