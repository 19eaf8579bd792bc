//! Which rank has a vCPU, and how it goes from one to another while interrupts are sent for it: without I/O, as a deterministic core.
//!
//! Rank 0 orders one move of a vCPU at a time ([`Owners`]); every rank plays its part ([`Moves`]):
//!
//! 1. Rank 0 tells all ranks that vCPU *v* goes from *A* to *B*.
//! 2. A rank that hears it sends for *v* to *B* from then on, and tells *A* so. What it sends to *B* waits there in *v*'s mailbox.
//! 3. When *A* has heard that from all others, nothing more is on its way there, as messages of two ranks keep their order. It sends for
//!    *v* to *B* itself from then on, stops *v* at an instruction boundary, takes in what has come for it, and sends its state to *B*.
//! 4. *B* goes on with the state, takes in what waited, and tells rank 0.
//!
//! So an interrupt comes once, and what one rank sends for a vCPU comes in order. Only step 3 to step 4 is lost to the vCPU: one way of its
//! state. `moves/model.rs` goes through all interleavings.

use vincs_coherence::id::{MAX_RANKS, Rank, RankSet};

use crate::topology::VcpuId;

#[cfg(test)]
mod model;

/// Where a vCPU is, as one rank has to know it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Residence {
    /// On another rank.
    Elsewhere,
    /// On its way here from that rank.
    Coming(Rank),
    /// Here.
    Here {
        /// Those of the others who send nothing for it here any more.
        repointed: RankSet,
        /// Where it goes.
        to: Option<Rank>,
    },
}

impl Residence {
    const STAYS: Self = Self::Here { repointed: RankSet::EMPTY, to: None };
}

/// What a rank has no right to say of a vCPU now.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Nonsense {
    #[error("a vCPU {0}, which this machine has not")]
    NoVcpu(u32),
    #[error("a rank {0}, which this machine has not")]
    NoRank(u16),
    #[error("a move of vCPU {0} that does not go from where it is to elsewhere")]
    Move(u32),
    #[error("twice, or of vCPU {0}, which is not here, that it sends nothing for it any more")]
    Repointed(u32),
    #[error("a state of vCPU {0}, which is not waited for from there")]
    State(u32),
    #[error("the arrival of vCPU {0}, which does not go there")]
    Arrival(u32),
}

/// What is to be done for a move, in this order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Send for a vCPU to this rank from now on; what was sent before is on its way when that is done.
    Repoint(VcpuId, Rank),
    /// Tell this rank that nothing is sent to it for a vCPU any more.
    TellRepointed(VcpuId, Rank),
    /// Let a vCPU come to an instruction boundary and send its state to this rank.
    Depart(VcpuId, Rank),
}

/// One rank's part.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Moves {
    own: Rank,
    /// Who else takes part.
    others: RankSet,
    vcpus: Vec<Residence>,
}

impl Moves {
    /// On `own` beside these other ranks, for so many vCPUs, which are all on rank 0; for a rank that joins, all elsewhere.
    pub(crate) fn new(own: Rank, others: impl Iterator<Item = Rank>, vcpus: u32) -> Self {
        let first = if own == Rank(0) { Residence::STAYS } else { Residence::Elsewhere };
        let mut moves = Self { own, others: RankSet::EMPTY, vcpus: (0..vcpus).map(|_| first.clone()).collect() };
        others.for_each(|other| moves.admit(other));
        moves
    }

    /// A rank takes part from now on. No vCPU is on its way.
    pub(crate) fn admit(&mut self, rank: Rank) {
        if rank != self.own && rank.0 < MAX_RANKS {
            self.others.insert(rank);
        }
    }

    /// A rank takes no part any more: it has no vCPU, and nothing that it sent is on its way. Nobody waits for its word.
    pub(crate) fn dismiss(&mut self, rank: Rank) -> Vec<Step> {
        if rank.0 >= MAX_RANKS || !self.others.remove(rank) {
            return Vec::new();
        }
        let vcpus = u32::try_from(self.vcpus.len()).unwrap_or(u32::MAX);
        (0..vcpus).flat_map(|vcpu| self.depart_if_all_know(VcpuId(vcpu))).collect()
    }

    fn is_there(&self, rank: Rank) -> bool {
        rank == self.own || rank.0 < MAX_RANKS && self.others.contains(rank)
    }

    /// Rank 0 has ordered a move.
    pub(crate) fn ordered(&mut self, vcpu: u32, from: Rank, to: Rank) -> Result<Vec<Step>, Nonsense> {
        let own = self.own;
        if let Some(none) = [from, to].into_iter().find(|rank| !self.is_there(*rank)) {
            return Err(Nonsense::NoRank(none.0));
        }
        let residence = self.residence(vcpu)?;
        let id = VcpuId(vcpu);
        let fits = match residence {
            Residence::Elsewhere => from != own,
            Residence::Here { to: None, .. } => from == own,
            Residence::Coming(_) | Residence::Here { to: Some(_), .. } => false,
        };
        if !fits || from == to {
            return Err(Nonsense::Move(vcpu));
        }
        if let Residence::Here { to: goes, .. } = residence {
            *goes = Some(to);
            return Ok(self.depart_if_all_know(id));
        }
        if to == own {
            *residence = Residence::Coming(from);
        }
        Ok(vec![Step::Repoint(id, to), Step::TellRepointed(id, from)])
    }

    /// A rank sends nothing for a vCPU here any more. It may have heard of the move before this rank has.
    pub(crate) fn repointed(&mut self, by: Rank, vcpu: u32) -> Result<Vec<Step>, Nonsense> {
        if by.0 >= MAX_RANKS {
            return Err(Nonsense::NoRank(by.0));
        }
        let is_news = match self.residence(vcpu)? {
            Residence::Here { repointed, .. } => repointed.insert(by),
            Residence::Elsewhere | Residence::Coming(_) => false,
        };
        if is_news { Ok(self.depart_if_all_know(VcpuId(vcpu))) } else { Err(Nonsense::Repointed(vcpu)) }
    }

    fn depart_if_all_know(&mut self, vcpu: VcpuId) -> Vec<Step> {
        let others = self.others;
        match self.residence(vcpu.0) {
            Ok(residence @ Residence::Here { .. }) => match *residence {
                // One that has just come may have said it before this rank knows of it.
                Residence::Here { repointed, to: Some(to) } if others.iter().all(|other| repointed.contains(other)) => {
                    *residence = Residence::Elsewhere;
                    vec![Step::Repoint(vcpu, to), Step::Depart(vcpu, to)]
                }
                Residence::Here { .. } | Residence::Elsewhere | Residence::Coming(_) => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    /// The state of a vCPU has come from this rank: now the vCPU is here.
    pub(crate) fn arrives(&mut self, from: Rank, vcpu: u32) -> Result<VcpuId, Nonsense> {
        let residence = self.residence(vcpu)?;
        if *residence != Residence::Coming(from) {
            return Err(Nonsense::State(vcpu));
        }
        *residence = Residence::STAYS;
        Ok(VcpuId(vcpu))
    }

    fn residence(&mut self, vcpu: u32) -> Result<&mut Residence, Nonsense> {
        let index = usize::try_from(vcpu).unwrap_or(usize::MAX);
        self.vcpus.get_mut(index).ok_or(Nonsense::NoVcpu(vcpu))
    }
}

/// Why a move cannot be ordered.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RefusedMove {
    /// There is no such vCPU.
    #[error("there is no vCPU {vcpu}: this machine has 0 to {last}")]
    NoVcpu {
        /// The vCPU asked for.
        vcpu: u32,
        /// The last one there is.
        last: u32,
    },
    /// There is no such rank.
    #[error("there is no rank {rank}: this machine has 0 to {last}")]
    NoRank {
        /// The rank asked for.
        rank: u16,
        /// The last one there is.
        last: u16,
    },
    /// It is on its way already.
    #[error("vCPU {vcpu} is on its way to rank {to}; try again when it is there")]
    UnderWay {
        /// The vCPU.
        vcpu: u32,
        /// Where it goes.
        to: u16,
    },
    /// The rank does not take vCPUs any more.
    #[error("rank {rank} is leaving, or has left; `vincs ctl status` shows those that run")]
    Leaves {
        /// The rank asked for.
        rank: u16,
    },
}

/// Where a vCPU is, as rank 0 has it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Owner {
    /// The rank that has it, until it has come to another.
    pub(crate) at: Rank,
    /// Where it goes.
    pub(crate) to: Option<Rank>,
}

/// Rank 0's knowledge of where all vCPUs are.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Owners {
    /// Where vCPUs may go, and where they may not go any more.
    open: RankSet,
    closed: RankSet,
    vcpus: Vec<Owner>,
}

impl Owners {
    /// So many vCPUs, all on rank 0 of so many.
    pub(crate) fn new(ranks: u16, vcpus: u32) -> Self {
        Self {
            open: RankSet::below(ranks),
            closed: RankSet::EMPTY,
            vcpus: (0..vcpus).map(|_| Owner { at: Rank(0), to: None }).collect(),
        }
    }

    /// vCPUs may go to a rank from now on.
    pub(crate) fn open(&mut self, rank: Rank) {
        self.open.insert(rank);
    }

    /// None goes to a rank any more.
    pub(crate) fn close(&mut self, rank: Rank) {
        self.open.remove(rank);
        self.closed.insert(rank);
    }

    /// Whether none is on its way.
    pub(crate) fn are_at_rest(&self) -> bool {
        self.vcpus.iter().all(|owner| owner.to.is_none())
    }

    /// Whether a rank has one, or is to get one.
    pub(crate) fn involve(&self, rank: Rank) -> bool {
        self.vcpus.iter().any(|owner| owner.at == rank || owner.to == Some(rank))
    }

    /// A vCPU is to go to a rank: where it leaves from, for all ranks to be told; nothing when it is there already.
    pub(crate) fn order(&mut self, vcpu: u32, to: Rank) -> Result<Option<Rank>, RefusedMove> {
        let last = u32::try_from(self.vcpus.len().saturating_sub(1)).unwrap_or(u32::MAX);
        if to.0 >= MAX_RANKS || !self.open.contains(to) {
            let left = to.0 < MAX_RANKS && self.closed.contains(to);
            let last = self.open.iter().last().map_or(0, |rank| rank.0);
            return Err(if left {
                RefusedMove::Leaves { rank: to.0 }
            } else {
                RefusedMove::NoRank { rank: to.0, last }
            });
        }
        match self.get_mut(vcpu) {
            None => Err(RefusedMove::NoVcpu { vcpu, last }),
            Some(Owner { to: Some(to), .. }) => Err(RefusedMove::UnderWay { vcpu, to: to.0 }),
            Some(owner) if owner.at == to => Ok(None),
            Some(owner) => {
                owner.to = Some(to);
                Ok(Some(owner.at))
            }
        }
    }

    /// A vCPU has come to a rank.
    pub(crate) fn arrived(&mut self, rank: Rank, vcpu: u32) -> Result<(), Nonsense> {
        match self.get_mut(vcpu) {
            Some(owner) if owner.to == Some(rank) => {
                *owner = Owner { at: rank, to: None };
                Ok(())
            }
            Some(_) => Err(Nonsense::Arrival(vcpu)),
            None => Err(Nonsense::NoVcpu(vcpu)),
        }
    }

    /// Whether a rank has this vCPU.
    pub(crate) fn has(&self, rank: Rank, vcpu: u32) -> bool {
        let index = usize::try_from(vcpu).unwrap_or(usize::MAX);
        self.vcpus.get(index).is_some_and(|owner| owner.at == rank)
    }

    /// All vCPUs in order.
    pub(crate) fn all(&self) -> &[Owner] {
        &self.vcpus
    }

    fn get_mut(&mut self, vcpu: u32) -> Option<&mut Owner> {
        self.vcpus.get_mut(usize::try_from(vcpu).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: VcpuId = VcpuId(1);

    #[test]
    fn a_rank_takes_its_part_once_all_others_have_taken_theirs() {
        let mut leaving = Moves::new(Rank(0), (0..3).map(Rank).filter(|other| *other != Rank(0)), 2);
        assert_eq!(leaving.repointed(Rank(2), 1), Ok(vec![]), "it may hear of the others first");
        assert_eq!(leaving.ordered(1, Rank(0), Rank(1)), Ok(vec![]));
        let steps = vec![Step::Repoint(V, Rank(1)), Step::Depart(V, Rank(1))];
        assert_eq!(leaving.repointed(Rank(1), 1), Ok(steps));
        let mut coming = Moves::new(Rank(1), (0..3).map(Rank).filter(|other| *other != Rank(1)), 2);
        let told = vec![Step::Repoint(V, Rank(1)), Step::TellRepointed(V, Rank(0))];
        assert_eq!(coming.ordered(1, Rank(0), Rank(1)), Ok(told));
        assert_eq!(coming.arrives(Rank(0), 1), Ok(V));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut first = Moves::new(Rank(0), (0..3).map(Rank).filter(|other| *other != Rank(0)), 2);
        assert_eq!(first.ordered(2, Rank(0), Rank(1)), Err(Nonsense::NoVcpu(2)));
        assert_eq!(first.ordered(1, Rank(0), Rank(3)), Err(Nonsense::NoRank(3)));
        assert_eq!(first.ordered(1, Rank(0), Rank(0)), Err(Nonsense::Move(1)));
        assert_eq!(first.ordered(1, Rank(2), Rank(1)), Err(Nonsense::Move(1)), "it is here");
        first.ordered(1, Rank(0), Rank(1)).unwrap();
        assert_eq!(first.ordered(1, Rank(0), Rank(2)), Err(Nonsense::Move(1)), "it goes elsewhere");
        first.repointed(Rank(1), 1).unwrap();
        assert_eq!(first.repointed(Rank(1), 1), Err(Nonsense::Repointed(1)));
        let mut other = Moves::new(Rank(1), (0..3).map(Rank).filter(|other| *other != Rank(1)), 2);
        assert_eq!(other.repointed(Rank(2), 1), Err(Nonsense::Repointed(1)));
        assert_eq!(other.arrives(Rank(0), 1), Err(Nonsense::State(1)));
        assert_eq!(other.ordered(1, Rank(1), Rank(2)), Err(Nonsense::Move(1)), "it is not here");
        other.ordered(1, Rank(0), Rank(1)).unwrap();
        assert_eq!(other.arrives(Rank(2), 1), Err(Nonsense::State(1)), "it comes from elsewhere");
    }

    #[test]
    fn one_move_of_a_vcpu_is_under_way_at_a_time() {
        let mut owners = Owners::new(2, 3);
        assert_eq!(owners.order(3, Rank(1)), Err(RefusedMove::NoVcpu { vcpu: 3, last: 2 }));
        assert_eq!(owners.order(0, Rank(2)), Err(RefusedMove::NoRank { rank: 2, last: 1 }));
        assert_eq!(owners.order(2, Rank(0)), Ok(None));
        assert_eq!(owners.order(2, Rank(1)), Ok(Some(Rank(0))));
        assert_eq!(owners.order(2, Rank(0)), Err(RefusedMove::UnderWay { vcpu: 2, to: 1 }));
        assert_eq!(owners.arrived(Rank(0), 2), Err(Nonsense::Arrival(2)));
        assert!(owners.has(Rank(0), 2) && !owners.has(Rank(1), 2), "until it is there");
        assert_eq!(owners.arrived(Rank(1), 2), Ok(()));
        assert_eq!(owners.arrived(Rank(1), 2), Err(Nonsense::Arrival(2)));
        assert!(owners.has(Rank(1), 2) && !owners.has(Rank(1), 3));
        assert_eq!(owners.order(2, Rank(0)), Ok(Some(Rank(1))));
    }
}
