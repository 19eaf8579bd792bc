//! Which vCPU is to be on which rank, when ranks come and leave: the one place that decides it, without I/O.
//!
//! Nothing moves but when a rank joins or leaves, and then as little as does it; so vCPUs do not go to and fro. Spread over ranks they are as many as
//! each rank's host can give time to. They move for that only where it is off by more than [`SLACK`], and then until it is as even as it goes: what
//! has changed since by less than that moves nothing.

use std::collections::BTreeMap;

use vincs_coherence::id::Rank;

/// How vCPUs are dealt out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Placement {
    /// Over all ranks, as evenly as they go by what their hosts can give.
    #[default]
    Spread,
    /// They stay, but where a rank has more of them than processors and another has one to spare: that one, lowest rank first.
    Pack,
    /// They stay; those of a rank that leaves go to the rank of their node.
    Manual,
}

/// What a rank's host has for it. One processor is taken to be as fast as another: ranks of one machine have counters of one rate and the same features.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Share {
    /// The host: the same number for ranks that share one.
    pub host: u32,
    /// Processors of it that the rank may use; 0 if that is not known.
    pub processors: u32,
    /// How many of the host's processors others kept busy when its first rank came, in hundredths.
    pub busy: u32,
    /// The host's memory in bytes; 0 if that is not known.
    pub memory: u64,
}

/// How much more a rank may have for what its host can give than another would have with one more, in hundredths, before vCPUs move.
pub(crate) const SLACK: u64 = 25;

/// Most processors that a rank is taken to have: more than a machine can have vCPUs.
const MOST_PROCESSORS: u32 = 1 << 16;

/// Others on a host are taken to be no more than so many for each of its processors: how busy it is was seen at one moment, and an hour later means little.
const MOST_BUSY: u64 = 3;

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
    pub(crate) share: Share,
}

/// Where each vCPU is to be. `rooms` has the ranks that vCPUs may be on, in order, rank 0 at least.
pub(crate) fn place(placement: Placement, vcpus: &[Placed], rooms: &[Room]) -> Vec<Rank> {
    let mut dealer = Dealer::settled(placement, vcpus, rooms);
    match placement {
        Placement::Spread => dealer.even_out(),
        Placement::Pack => dealer.relieve(),
        Placement::Manual => {}
    }
    dealer.places
}

/// Where each vCPU is to be when ranks leave: only theirs go elsewhere.
pub(crate) fn evacuate(placement: Placement, vcpus: &[Placed], rooms: &[Room]) -> Vec<Rank> {
    Dealer::settled(placement, vcpus, rooms).places
}

/// How much time of processors each rank has for vCPUs: its host's, shared evenly with the host's other ranks, and with what else runs there as a
/// scheduler shares it. All have the same where one is not known.
fn weights(rooms: &[Room]) -> BTreeMap<Rank, u64> {
    let ranks_of = |host| rooms.iter().filter(|room| room.share.host == host).count().max(1) as u64;
    let weight = |room: &Room| {
        let Share { host, processors, busy, memory: _ } = room.share;
        let processors = u64::from(processors.min(MOST_PROCESSORS));
        let busy = u64::from(busy).min(100 * MOST_BUSY * processors);
        // In millionths of a processor, before it is shared.
        let free = 1_000_000 * processors * 100 * processors / (100 * processors + busy).max(1);
        (room.rank, free / ranks_of(host))
    };
    let weights: BTreeMap<Rank, u64> = rooms.iter().map(weight).collect();
    let is_known = weights.values().all(|weight| *weight > 0);
    if is_known { weights } else { weights.into_keys().map(|rank| (rank, 1)).collect() }
}

/// A rank as it fills.
#[derive(Clone, Copy, Debug)]
struct Filling {
    weight: u64,
    /// 0 if that is not known.
    processors: usize,
    has: u64,
}

impl Filling {
    /// Whether it has more for its weight than another would have with one more, by so many hundredths.
    fn exceeds(self, other: Self, hundredths: u64) -> bool {
        let (own, others) =
            (u128::from(self.has) * u128::from(other.weight), u128::from(other.has + 1) * u128::from(self.weight));
        own * 100 > others * u128::from(100 + hundredths)
    }

    fn has_room(self) -> bool {
        self.processors == 0 || self.has < self.processors as u64
    }
}

/// Deals vCPUs out.
struct Dealer<'a> {
    vcpus: &'a [Placed],
    ranks: BTreeMap<Rank, Filling>,
    places: Vec<Rank>,
}

impl<'a> Dealer<'a> {
    /// All are at their ranks, and those whose rank is not there any more have others: those of their nodes, if these have room.
    fn settled(placement: Placement, vcpus: &'a [Placed], rooms: &[Room]) -> Self {
        let weights = weights(rooms);
        let filling = |room: &Room| Filling {
            weight: weights.get(&room.rank).copied().unwrap_or(1),
            processors: usize::try_from(room.share.processors).unwrap_or(usize::MAX),
            has: 0,
        };
        let ranks = rooms.iter().map(|room| (room.rank, filling(room))).collect();
        let mut dealer = Self { vcpus, ranks, places: vcpus.iter().map(|vcpu| vcpu.at).collect() };
        let (there, homeless): (Vec<_>, Vec<_>) =
            (0..).zip(vcpus).partition(|(_, vcpu)| dealer.ranks.contains_key(&vcpu.at));
        there.into_iter().for_each(|(index, vcpu)| dealer.put(index, vcpu.at));
        for (index, vcpu) in homeless {
            let to = dealer.refuge(placement, vcpu.node);
            dealer.put(index, to);
        }
        dealer
    }

    fn put(&mut self, index: usize, rank: Rank) {
        if let (Some(place), Some(filling)) = (self.places.get_mut(index), self.ranks.get_mut(&rank)) {
            *place = rank;
            filling.has += 1;
        }
    }

    /// Where a vCPU of this node goes whose rank is not there any more.
    fn refuge(&self, placement: Placement, node: Rank) -> Rank {
        let emptiest = self.emptiest();
        let own = self.ranks.get(&node).copied();
        let with_it = own.map(|own| Filling { has: own.has + 1, ..own });
        match (placement, with_it, emptiest) {
            (Placement::Manual, Some(_), _) => node,
            // Near its pages, unless that would be off by more than is worth a move.
            (Placement::Spread, Some(with_it), Some((_, other))) if !with_it.exceeds(other, SLACK) => node,
            (Placement::Pack, _, _) if own.is_some_and(Filling::has_room) => node,
            (Placement::Pack, _, Some((rank, _))) => self.first_with_room().unwrap_or(rank),
            (_, _, Some((rank, _))) => rank,
            (_, _, None) => Rank(0),
        }
    }

    /// The rank that would have least for its weight with one more, the lowest of several.
    fn emptiest(&self) -> Option<(Rank, Filling)> {
        let all = self.ranks.iter().map(|(rank, filling)| (*rank, *filling));
        all.reduce(|least, other| {
            let (own, others) = (
                u128::from(least.1.has + 1) * u128::from(other.1.weight),
                u128::from(other.1.has + 1) * u128::from(least.1.weight),
            );
            if others < own { other } else { least }
        })
    }

    /// The rank that has most for its weight, the highest of several.
    fn fullest(&self) -> Option<(Rank, Filling)> {
        let all = self.ranks.iter().map(|(rank, filling)| (*rank, *filling));
        all.reduce(|most, other| {
            let (own, others) = (
                u128::from(most.1.has) * u128::from(other.1.weight),
                u128::from(other.1.has) * u128::from(most.1.weight),
            );
            if others >= own { other } else { most }
        })
    }

    fn first_with_room(&self) -> Option<Rank> {
        self.ranks.iter().find(|(_, filling)| filling.has_room()).map(|(rank, _)| *rank)
    }

    /// Where it is off by more than [`SLACK`], vCPUs move until none would have more time elsewhere.
    fn even_out(&mut self) {
        let mut slack = SLACK;
        // Each move makes the most that a rank has for its weight less, or fewer ranks have as much.
        while let (Some((from, full)), Some((to, empty))) = (self.fullest(), self.emptiest())
            && full.exceeds(empty, slack)
            && let Some(index) = self.mover(from, to)
        {
            self.take(from);
            self.put(index, to);
            slack = 0;
        }
    }

    /// Those that a rank has beyond its processors go where there is one to spare.
    fn relieve(&mut self) {
        let is_over = |filling: &Filling| filling.processors > 0 && filling.has > filling.processors as u64;
        while let Some(from) = self.ranks.iter().find(|(_, filling)| is_over(filling)).map(|(rank, _)| *rank)
            && let Some(to) = self.first_with_room()
            && let Some(index) = self.mover(from, to)
        {
            self.take(from);
            self.put(index, to);
        }
    }

    fn take(&mut self, from: Rank) {
        if let Some(filling) = self.ranks.get_mut(&from) {
            filling.has = filling.has.saturating_sub(1);
        }
    }

    /// Which vCPU goes: rather one whose node is there, or is not here; else the last one.
    fn mover(&self, from: Rank, to: Rank) -> Option<usize> {
        let here = (0..).zip(self.vcpus).zip(&self.places).filter(|(_, place)| **place == from).map(|(vcpu, _)| vcpu);
        let last = here.max_by_key(|(index, vcpu)| (vcpu.node == to, vcpu.node != from, *index));
        last.map(|(index, _): (usize, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// vCPUs by where they are and their nodes.
    fn vcpus(vcpus: &[(u16, u16)]) -> Vec<Placed> {
        vcpus.iter().map(|&(at, node)| Placed { at: Rank(at), node: Rank(node) }).collect()
    }

    /// Ranks with so many processors each, on hosts of their own with nothing else to do.
    fn rooms(ranks: &[(u16, u32)]) -> Vec<Room> {
        let share = |rank: u16, processors| Share { host: rank.into(), processors, ..Share::default() };
        ranks.iter().map(|&(rank, processors)| Room { rank: Rank(rank), share: share(rank, processors) }).collect()
    }

    /// How many each of these ranks has when all were on rank 0 before.
    fn dealt(vcpus: u16, shares: &[(u32, u32, u32)]) -> Vec<usize> {
        let share = |&(host, processors, busy)| Share { host, processors, busy, memory: 0 };
        let rooms: Vec<Room> =
            (0..).map(Rank).zip(shares).map(|(rank, own)| Room { rank, share: share(own) }).collect();
        let at = vec![Placed { at: Rank(0), node: Rank(0) }; vcpus.into()];
        let places = place(Placement::Spread, &at, &rooms);
        rooms.iter().map(|room| places.iter().filter(|place| **place == room.rank).count()).collect()
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
        assert_eq!(packed(&[(0, 1), (1, 1), (2, 1), (3, 4)]), [0, 3, 2, 1]);
        assert_eq!(packed(&[(0, 1), (1, 1)]), [0, 0, 0, 1], "there are none to spare: they stay");
        assert_eq!(packed(&[(0, 0), (1, 0), (2, 1)]), [0, 0, 0, 1], "nobody knows");
        assert_eq!(placed(Placement::Manual, &at, &[(0, 1), (1, 1), (2, 8)]), [0, 0, 0, 1]);
    }

    #[test]
    fn ranks_have_as_many_as_their_hosts_can_give_time_to() {
        assert_eq!(dealt(12, &[(0, 4, 0), (1, 4, 0), (2, 4, 0)]), [4, 4, 4]);
        assert_eq!(dealt(12, &[(0, 8, 0), (1, 4, 0)]), [8, 4]);
        assert_eq!(dealt(12, &[(0, 4, 400), (1, 4, 0)]), [4, 8], "others have half of the first host");
        assert_eq!(dealt(12, &[(0, 4, 0), (0, 4, 0), (1, 4, 0)]), [3, 3, 6], "two ranks share a host");
        assert_eq!(
            dealt(12, &[(0, 1, u32::MAX), (1, 1, 300)]),
            [6, 6],
            "a busy host is no busier than it is taken to be"
        );
        assert_eq!(dealt(12, &[(0, 64, 0), (1, 0, 0)]), [6, 6], "nobody knows");
        assert_eq!(dealt(4, &[(0, u32::MAX, 0), (1, u32::MAX, u32::MAX)]), [4, 0]);
    }

    #[test]
    fn what_is_off_by_no_more_than_the_slack_stays() {
        let at = |zero: usize, one: usize| [vec![(0, 0); zero], vec![(1, 1); one]].concat();
        let moved = |at: &[(u16, u16)], ranks: &[(u16, u32)]| {
            let places = placed(Placement::Spread, at, ranks);
            at.iter().zip(places).filter(|((from, _), to)| from != to).count()
        };
        // With one more the second rank would have 4, for which the first one may have 5.
        assert_eq!((moved(&at(5, 3), &[(0, 4), (1, 4)]), moved(&at(6, 3), &[(0, 4), (1, 4)])), (0, 1));
        assert_eq!(moved(&at(8, 8), &[(0, 10), (1, 11)]), 0, "hosts that are about alike");
        assert_eq!(moved(&at(8, 8), &[(0, 10), (1, 20)]), 3, "and one that is twice the other");
    }

    fn machines() -> impl Strategy<Value = (Vec<Placed>, Vec<Room>)> {
        let placed = (0_u16..9, 0_u16..4).prop_map(|(at, node)| Placed { at: Rank(at), node: Rank(node) });
        let share = (0_u32..4, 0_u32..65, 0_u32..2000);
        let share = share.prop_map(|(host, processors, busy)| Share { host, processors, busy, memory: 0 });
        let shares = proptest::collection::btree_map(0_u16..9, share, 1..9);
        let rooms = shares
            .prop_map(|shares| shares.into_iter().map(|(rank, share)| Room { rank: Rank(rank), share }).collect());
        (proptest::collection::vec(placed, 0..64), rooms)
    }

    proptest! {
        #[test]
        fn applied_twice_it_moves_nothing((mut at, rooms) in machines()) {
            for placement in [Placement::Spread, Placement::Pack, Placement::Manual] {
                let first = place(placement, &at, &rooms);
                prop_assert_eq!(first.len(), at.len());
                prop_assert!(first.iter().all(|rank| rooms.iter().any(|room| room.rank == *rank)));
                at.iter_mut().zip(&first).for_each(|(vcpu, rank)| vcpu.at = *rank);
                prop_assert_eq!(place(placement, &at, &rooms), first.clone(), "{:?}", placement);
                prop_assert_eq!(evacuate(placement, &at, &rooms), first, "{:?}: nobody has left", placement);
            }
        }

        #[test]
        fn only_those_whose_rank_leaves_go_elsewhere((at, rooms) in machines()) {
            for placement in [Placement::Spread, Placement::Pack, Placement::Manual] {
                for (vcpu, to) in at.iter().zip(evacuate(placement, &at, &rooms)) {
                    prop_assert!(vcpu.at == to || rooms.iter().all(|room| room.rank != vcpu.at));
                }
            }
        }

        #[test]
        fn a_small_change_of_load_moves_nothing((at, rooms) in machines(), changes in proptest::collection::vec(-9_i64..=9, 9)) {
            let mut even = Dealer::settled(Placement::Spread, &at, &rooms);
            even.even_out();
            let most_and_least = even.fullest().zip(even.emptiest());
            // Others were within the slack before, and are left there.
            prop_assume!(most_and_least.is_some_and(|((_, most), (_, least))| !most.exceeds(least, 0)));
            let at: Vec<Placed> = at.iter().zip(&even.places).map(|(vcpu, at)| Placed { at: *at, ..*vcpu }).collect();
            let change = |(room, hundredths): (&Room, &i64)| {
                let Share { processors, busy, .. } = room.share;
                let all = i64::from(100 * processors + busy.min(300 * processors));
                let busy = (all * (100 + hundredths) / 100 - i64::from(100 * processors)).max(0);
                Room { share: Share { busy: u32::try_from(busy).unwrap(), ..room.share }, ..*room }
            };
            let changed: Vec<Room> = rooms.iter().zip(&changes).map(change).collect();
            prop_assert_eq!(place(Placement::Spread, &at, &changed), even.places);
        }
    }
}
