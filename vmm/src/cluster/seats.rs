//! Who takes part in a machine, as rank 0 has it: ranks that come and leave, without I/O.
//!
//! The first seats are those of the ranks that start the machine. Each further rank takes the next seat, once: who has left does not come
//! back to it, so nothing that is late can be taken for what a newcomer says. Rank 0 has the devices and stays.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vincs_coherence::id::{Rank, RankSet};

/// What a rank is to the machine now.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// It is being connected, and sets itself up. Nothing depends on it.
    Joining,
    /// It takes part.
    Running,
    /// It hands over what it has.
    Leaving,
    /// It has left, or was given up before anything depended on it.
    Left,
}

/// Why a rank does not leave.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RemoveError {
    /// There is none.
    #[error("there is no rank {0}")]
    NoRank(u16),
    /// It is rank 0.
    #[error("rank 0 has the machine's devices: it stays as long as the machine runs; other ranks may leave")]
    First,
    /// No rank of this machine leaves.
    #[error("rank {0} stays: {1}")]
    Fixed(u16, Fixed),
    /// The hosts of the ranks that stay have too little memory.
    #[error(
        "rank {rank} stays: without it the {ranks} ranks on the host of rank {at} would be the homes of {pages} pages, and it has {memory}; let another rank join first"
    )]
    Room {
        /// The rank that is to leave.
        rank: u16,
        /// A rank on the host that is too small.
        at: u16,
        /// Ranks there.
        ranks: u32,
        /// What these would be the homes of.
        pages: u64,
        /// The host's memory in pages.
        memory: u64,
    },
    /// It is gone.
    #[error("rank {0} has left already")]
    Left(u16),
    /// It has not come.
    #[error("rank {0} is still joining; try again when it runs")]
    Joining(u16),
}

/// Why the ranks of a machine stay.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fixed {
    /// Relaxed memory has its homes where they were at the start.
    #[error("the machine has relaxed memory, which keeps to the ranks that started it; start it without --relaxed")]
    Relaxed,
    /// Windows are where they were at the start.
    #[error("the machine is connected by RDMA, where ranks do not come and leave yet; start it with --transport tcp")]
    Rdma,
}

/// What a rank that joins knows of the homes of pages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Knows {
    /// Where they were at the start.
    Start,
    /// It is being told where they are.
    IsTold,
    /// Where they are.
    Now,
}

/// One seat but rank 0's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Seat {
    /// `ready`: it has set itself up. `met`: by whom it has been met, so that they can send to it.
    Joining {
        ready: bool,
        met: RankSet,
        homes: Knows,
    },
    Running,
    /// `told`: it knows that no vCPU is there any more, nor the home of a page. `drained`: nothing is there any more.
    Leaving {
        told: bool,
        drained: bool,
    },
    Left,
}

/// All seats.
#[derive(Clone, Debug)]
pub(crate) struct Seats {
    seats: u16,
    /// Why nobody leaves, if so.
    fixed: Option<Fixed>,
    others: BTreeMap<Rank, Seat>,
}

impl Seats {
    /// So many, of which the first are taken by the ranks that start the machine.
    pub(crate) fn new(started: u16, seats: u16) -> Self {
        let others = (1..started).map(|rank| (Rank(rank), Seat::Running)).collect();
        Self { seats, fixed: None, others }
    }

    /// The same of a machine whose ranks stay, if they do.
    pub(crate) fn fixed(self, fixed: Option<Fixed>) -> Self {
        Self { fixed, ..self }
    }

    /// The next seat, for a rank that wants to join; nothing when none is left.
    pub(crate) fn reserve(&mut self) -> Option<Rank> {
        let next = self.others.last_key_value().map_or(1, |(last, _)| last.0.saturating_add(1));
        let rank = Rank(next);
        (next < self.seats).then(|| {
            self.others.insert(rank, Seat::Joining { ready: false, met: RankSet::EMPTY, homes: Knows::Start });
            rank
        })
    }

    /// Whether somebody is joining or leaving.
    pub(crate) fn are_busy(&self) -> bool {
        self.others.values().any(|seat| matches!(seat, Seat::Joining { .. } | Seat::Leaving { .. }))
    }

    /// A rank that joins can be sent to by another.
    pub(crate) fn met(&mut self, rank: Rank, by: Rank) {
        if let Some(Seat::Joining { met, .. }) = self.others.get_mut(&rank) {
            met.insert(by);
        }
    }

    /// A rank that joins has set itself up; whether it was to.
    pub(crate) fn ready(&mut self, rank: Rank) -> bool {
        match self.others.get_mut(&rank) {
            Some(Seat::Joining { ready, .. }) => !std::mem::replace(ready, true),
            Some(Seat::Running | Seat::Leaving { .. } | Seat::Left) | None => false,
        }
    }

    /// A rank that has set itself up and was met by all of these.
    pub(crate) fn complete(&self, present: impl Iterator<Item = Rank> + Clone) -> Option<Rank> {
        let is_complete = |seat: &Seat| match seat {
            Seat::Joining { ready: true, met, .. } => present.clone().all(|rank| met.contains(rank)),
            Seat::Joining { ready: false, .. } | Seat::Running | Seat::Leaving { .. } | Seat::Left => false,
        };
        self.others.iter().find(|(_, seat)| is_complete(seat)).map(|(rank, _)| *rank)
    }

    /// A rank that joins is about to be told where the homes are; whether it has not been yet.
    pub(crate) fn tell_homes(&mut self, rank: Rank) -> bool {
        match self.others.get_mut(&rank) {
            Some(Seat::Joining { homes: homes @ Knows::Start, .. }) => {
                *homes = Knows::IsTold;
                true
            }
            Some(_) | None => false,
        }
    }

    /// A rank that was told where the homes are knows it; whether it was told.
    pub(crate) fn homes_known(&mut self, rank: Rank) -> bool {
        match self.others.get_mut(&rank) {
            Some(Seat::Joining { homes: homes @ Knows::IsTold, .. }) => {
                *homes = Knows::Now;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Whether a rank that joins knows where the homes are.
    pub(crate) fn knows_homes(&self, rank: Rank) -> bool {
        matches!(self.others.get(&rank), Some(Seat::Joining { homes: Knows::Now, .. }))
    }

    /// Whether the homes have to stay where they are: a rank that joins has been told so, or one that leaves gives up its pages.
    pub(crate) fn homes_are_fixed(&self) -> bool {
        self.others.values().any(|seat| match seat {
            Seat::Joining { homes, .. } => *homes != Knows::Start,
            Seat::Leaving { told, .. } => *told,
            Seat::Running | Seat::Left => false,
        })
    }

    /// A rank takes part from now on.
    pub(crate) fn joined(&mut self, rank: Rank) {
        self.others.insert(rank, Seat::Running);
    }

    /// Whether a rank may leave now: nothing if it does so already.
    pub(crate) fn may_leave(&self, rank: Rank) -> Result<Option<Rank>, RemoveError> {
        if rank == Rank(0) {
            return Err(RemoveError::First);
        }
        match self.others.get(&rank) {
            None => Err(RemoveError::NoRank(rank.0)),
            Some(Seat::Joining { .. }) => Err(RemoveError::Joining(rank.0)),
            Some(Seat::Left) => Err(RemoveError::Left(rank.0)),
            Some(Seat::Leaving { .. }) => Ok(None),
            Some(Seat::Running) => self.fixed.map_or(Ok(Some(rank)), |fixed| Err(RemoveError::Fixed(rank.0, fixed))),
        }
    }

    /// A rank that may leaves.
    pub(crate) fn leaves(&mut self, rank: Rank) {
        self.others.insert(rank, Seat::Leaving { told: false, drained: false });
    }

    /// The ranks that take part and do not leave, in order.
    pub(crate) fn running(&self) -> Vec<Rank> {
        let running = self.others.iter().filter(|(_, seat)| **seat == Seat::Running).map(|(rank, _)| *rank);
        std::iter::once(Rank(0)).chain(running).collect()
    }

    /// Those that leave and have not been told that they are empty.
    pub(crate) fn to_be_emptied(&self) -> Vec<Rank> {
        let is_full = |seat: &Seat| matches!(seat, Seat::Leaving { told: false, .. });
        self.others.iter().filter(|(_, seat)| is_full(seat)).map(|(rank, _)| *rank).collect()
    }

    /// A rank that leaves has been told that it is empty.
    pub(crate) fn told(&mut self, rank: Rank) {
        if let Some(Seat::Leaving { told, .. }) = self.others.get_mut(&rank) {
            *told = true;
        }
    }

    /// A rank that was told so has nothing any more; whether it may say so.
    pub(crate) fn drained(&mut self, rank: Rank) -> bool {
        match self.others.get_mut(&rank) {
            Some(Seat::Leaving { told: true, drained }) => !std::mem::replace(drained, true),
            Some(Seat::Joining { .. } | Seat::Running | Seat::Leaving { told: false, .. } | Seat::Left) | None => false,
        }
    }

    /// A rank that has nothing any more and is still there.
    pub(crate) fn drained_one(&self) -> Option<Rank> {
        let is_drained = |seat: &Seat| matches!(seat, Seat::Leaving { drained: true, .. });
        self.others.iter().find(|(_, seat)| is_drained(seat)).map(|(rank, _)| *rank)
    }

    /// Whether a rank that leaves has nothing any more.
    pub(crate) fn is_drained(&self, rank: Rank) -> bool {
        matches!(self.others.get(&rank), Some(Seat::Leaving { drained: true, .. }))
    }

    /// A rank does not take part any more, or never did.
    pub(crate) fn gone(&mut self, rank: Rank) {
        if rank != Rank(0) {
            self.others.insert(rank, Seat::Left);
        }
    }

    /// What a rank is; nothing for a seat that nobody has taken.
    pub(crate) fn state(&self, rank: Rank) -> Option<MemberState> {
        if rank == Rank(0) {
            return Some(MemberState::Running);
        }
        self.others.get(&rank).map(|seat| match seat {
            Seat::Joining { .. } => MemberState::Joining,
            Seat::Running => MemberState::Running,
            Seat::Leaving { .. } => MemberState::Leaving,
            Seat::Left => MemberState::Left,
        })
    }

    /// All ranks that there are or were, in order.
    pub(crate) fn all(&self) -> Vec<(Rank, MemberState)> {
        let last = self.others.last_key_value().map_or(1, |(last, _)| last.0.saturating_add(1));
        (0..last).map(Rank).filter_map(|rank| Some((rank, self.state(rank)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_used_once_and_there_are_no_more_than_there_are() {
        let mut seats = Seats::new(2, 4);
        assert_eq!(seats.reserve(), Some(Rank(2)));
        seats.gone(Rank(2));
        assert_eq!((seats.reserve(), seats.reserve()), (Some(Rank(3)), None));
        assert_eq!(Seats::new(4, 4).reserve(), None);
        let states = seats.all().into_iter().map(|(rank, state)| (rank.0, state)).collect::<Vec<_>>();
        let (running, left, joining) = (MemberState::Running, MemberState::Left, MemberState::Joining);
        assert_eq!(states, [(0, running), (1, running), (2, left), (3, joining)]);
    }

    #[test]
    fn a_rank_joins_when_it_is_ready_and_all_have_met_it() {
        let mut seats = Seats::new(2, 8);
        let rank = seats.reserve().unwrap();
        let present = || [Rank(0), Rank(1)].into_iter();
        seats.met(rank, Rank(0));
        assert!(seats.ready(rank) && !seats.ready(rank) && !seats.ready(Rank(1)) && !seats.ready(Rank(7)));
        assert_eq!(seats.complete(present()), None, "rank 1 has not met it");
        seats.met(rank, Rank(1));
        assert_eq!(seats.complete(present()), Some(rank));
        assert_eq!(seats.may_leave(rank), Err(RemoveError::Joining(2)));
        seats.joined(rank);
        assert_eq!((seats.complete(present()), seats.state(rank)), (None, Some(MemberState::Running)));
    }

    #[test]
    fn a_rank_leaves_in_order_and_nothing_is_said_twice() {
        let mut seats = Seats::new(2, 8);
        let rank = seats.reserve().unwrap();
        seats.joined(rank);
        assert!(!seats.drained(rank), "it was not asked");
        assert_eq!(seats.may_leave(Rank(0)), Err(RemoveError::First));
        assert_eq!(seats.may_leave(Rank(5)), Err(RemoveError::NoRank(5)));
        assert_eq!((seats.may_leave(Rank(1)), seats.may_leave(rank)), (Ok(Some(Rank(1))), Ok(Some(rank))));
        let fixed = seats.clone().fixed(Some(Fixed::Rdma));
        assert_eq!(fixed.may_leave(Rank(1)), Err(RemoveError::Fixed(1, Fixed::Rdma)));
        seats.leaves(rank);
        assert_eq!((seats.may_leave(rank), seats.running()), (Ok(None), vec![Rank(0), Rank(1)]));
        assert_eq!((seats.to_be_emptied(), seats.drained(rank)), (vec![rank], false));
        seats.told(rank);
        assert_eq!((seats.to_be_emptied(), seats.drained_one()), (vec![], None));
        assert!(seats.drained(rank) && !seats.drained(rank));
        assert_eq!((seats.drained_one(), seats.is_drained(rank)), (Some(rank), true));
        seats.gone(rank);
        assert_eq!((seats.drained_one(), seats.may_leave(rank)), (None, Err(RemoveError::Left(2))));
    }

    #[test]
    fn homes_stay_from_when_a_rank_is_told_of_them_until_it_has_joined_and_while_one_gives_up_its_pages() {
        let mut seats = Seats::new(2, 8);
        let rank = seats.reserve().unwrap();
        assert!(!seats.homes_known(rank) && !seats.homes_are_fixed(), "it was told nothing");
        assert!(seats.tell_homes(rank) && !seats.tell_homes(rank) && !seats.tell_homes(Rank(1)));
        assert!(seats.homes_are_fixed() && !seats.knows_homes(rank));
        assert!(seats.homes_known(rank) && !seats.homes_known(rank) && seats.knows_homes(rank));
        assert!(seats.homes_are_fixed());
        seats.joined(rank);
        assert!(!seats.homes_are_fixed());
        seats.leaves(Rank(1));
        assert!(!seats.homes_are_fixed(), "its own go to others");
        seats.told(Rank(1));
        assert!(seats.homes_are_fixed());
        seats.gone(Rank(1));
        assert!(!seats.homes_are_fixed());
    }
}
