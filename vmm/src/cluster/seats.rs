//! Who takes part in a machine, as rank 0 has it: ranks that come and leave, without I/O.
//!
//! The first seats are those of the ranks that start the machine and are its homes; they stay. Each further rank takes the next seat, once: who has left does not come
//! back to it, so nothing that is late can be taken for what a newcomer says.

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
    /// It is needed.
    #[error(
        "rank {0} has started the machine, and a part of its memory is there: it stays; only ranks that have joined leave"
    )]
    Started(u16),
    /// It is gone.
    #[error("rank {0} has left already")]
    Left(u16),
    /// It has not come.
    #[error("rank {0} is still joining; try again when it runs")]
    Joining(u16),
}

/// One seat beyond those of the start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Seat {
    /// `ready`: it has set itself up. `met`: by whom it has been met, so that they can send to it.
    Joining {
        ready: bool,
        met: RankSet,
    },
    Running,
    /// `told`: it knows that no vCPU is there any more. `drained`: nothing is there any more.
    Leaving {
        told: bool,
        drained: bool,
    },
    Left,
}

/// All seats.
#[derive(Clone, Debug)]
pub(crate) struct Seats {
    started: u16,
    seats: u16,
    others: BTreeMap<Rank, Seat>,
}

impl Seats {
    /// So many, of which the first are taken by the ranks that start the machine.
    pub(crate) fn new(started: u16, seats: u16) -> Self {
        Self { started, seats, others: BTreeMap::new() }
    }

    /// The next seat, for a rank that wants to join; nothing when none is left.
    pub(crate) fn reserve(&mut self) -> Option<Rank> {
        let next = self.others.last_key_value().map_or(self.started, |(last, _)| last.0.saturating_add(1));
        let rank = Rank(next);
        (next < self.seats).then(|| {
            self.others.insert(rank, Seat::Joining { ready: false, met: RankSet::EMPTY });
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
            Seat::Joining { ready: true, met } => present.clone().all(|rank| met.contains(rank)),
            Seat::Joining { ready: false, .. } | Seat::Running | Seat::Leaving { .. } | Seat::Left => false,
        };
        self.others.iter().find(|(_, seat)| is_complete(seat)).map(|(rank, _)| *rank)
    }

    /// A rank takes part from now on.
    pub(crate) fn joined(&mut self, rank: Rank) {
        self.others.insert(rank, Seat::Running);
    }

    /// A rank is to leave; that it does so already is no error.
    pub(crate) fn leave(&mut self, rank: Rank) -> Result<(), RemoveError> {
        if rank.0 < self.started {
            return Err(RemoveError::Started(rank.0));
        }
        match self.others.get_mut(&rank) {
            None => Err(RemoveError::NoRank(rank.0)),
            Some(Seat::Joining { .. }) => Err(RemoveError::Joining(rank.0)),
            Some(Seat::Left) => Err(RemoveError::Left(rank.0)),
            Some(Seat::Leaving { .. }) => Ok(()),
            Some(seat @ Seat::Running) => {
                *seat = Seat::Leaving { told: false, drained: false };
                Ok(())
            }
        }
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
        if rank.0 >= self.started {
            self.others.insert(rank, Seat::Left);
        }
    }

    /// Whether it is one of those that started the machine.
    pub(crate) fn has_started(&self, rank: Rank) -> bool {
        rank.0 < self.started
    }

    /// What a rank is; nothing for a seat that nobody has taken.
    pub(crate) fn state(&self, rank: Rank) -> Option<MemberState> {
        if rank.0 < self.started {
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
        let last = self.others.last_key_value().map_or(self.started, |(last, _)| last.0.saturating_add(1));
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
        assert_eq!(seats.leave(rank), Err(RemoveError::Joining(2)));
        seats.joined(rank);
        assert_eq!((seats.complete(present()), seats.state(rank)), (None, Some(MemberState::Running)));
    }

    #[test]
    fn a_rank_leaves_in_order_and_nothing_is_said_twice() {
        let mut seats = Seats::new(2, 8);
        let rank = seats.reserve().unwrap();
        seats.joined(rank);
        assert!(!seats.drained(rank), "it was not asked");
        assert_eq!(seats.leave(Rank(1)), Err(RemoveError::Started(1)));
        assert_eq!(seats.leave(Rank(5)), Err(RemoveError::NoRank(5)));
        assert_eq!((seats.leave(rank), seats.leave(rank)), (Ok(()), Ok(())));
        assert_eq!((seats.to_be_emptied(), seats.drained(rank)), (vec![rank], false));
        seats.told(rank);
        assert_eq!((seats.to_be_emptied(), seats.drained_one()), (vec![], None));
        assert!(seats.drained(rank) && !seats.drained(rank));
        assert_eq!((seats.drained_one(), seats.is_drained(rank)), (Some(rank), true));
        seats.gone(rank);
        assert_eq!((seats.drained_one(), seats.leave(rank)), (None, Err(RemoveError::Left(2))));
    }
}
