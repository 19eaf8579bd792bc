//! Ordering a machine about while it runs, from any thread: where its vCPUs are, and whether they run.
//!
//! A machine of several ranks starts with all of its vCPUs on rank 0. A kernel boots by touching what all of its processors use, again and
//! again: spread over ranks from the start, those pages would travel all boot long. When the guest is set up, a vCPU moves with a few KiB of
//! state; the pages follow as they are used. So it can at any time later, to any rank.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use vincs_coherence::id::Rank;

use super::ranks::{self, Counted, Greeter, rank_of};
use super::running::{MachineStats, NumberedVcpu, Stopper};
use crate::cluster::{ControlNotes, MemberState, Moved, Note, Owner, Owners, RefusedMove, RemoveError, Share};
use crate::topology::{Topology, VcpuId};
use crate::vcpu::VcpuHandle;

/// Where a vCPU is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct VcpuPlace {
    /// Its number in the machine.
    pub vcpu: u32,
    /// The rank that has it.
    pub rank: u16,
    /// The rank to which it is on its way.
    pub moving_to: Option<u16>,
}

/// Why a vCPU is not where it was to go.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MigrateError {
    /// It does not go.
    #[error(transparent)]
    Refused(#[from] RefusedMove),
    /// It stays: programs use command pages of relaxed memory, which are its rank's own, and count on its place.
    #[error("virtual processor {0} stays on its rank: on a machine with --relaxed programs count on that")]
    Relaxed(u32),
    /// It has not come in time, and is still on its way.
    #[error(
        "vCPU {vcpu} has not come to rank {rank} within {seconds} s: it waits for a page or a device, and goes when it has it"
    )]
    Slow {
        /// The vCPU.
        vcpu: u32,
        /// Where it goes.
        rank: u16,
        /// How long it was waited for, in seconds.
        seconds: u64,
    },
    /// The machine has ended.
    #[error("the machine has ended")]
    Ended,
}

/// Why a rank has not left.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LeaveError {
    /// It does not leave.
    #[error(transparent)]
    Refused(#[from] RemoveError),
    /// It takes longer, and leaves all the same.
    #[error("rank {rank} has not left within {seconds} s, and goes on leaving; `vincs ctl status` says when it has")]
    Slow {
        /// Which.
        rank: u16,
        /// How long it was waited for, in seconds.
        seconds: u64,
    },
    /// The machine has ended.
    #[error("the machine has ended")]
    Ended,
}

/// Why the machine does not do what it was told.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ControlError {
    /// Not all vCPUs have stopped in time. Those that have not will, unless it goes on.
    #[error("not all vCPUs have stopped within {0} s: one waits for a page or a device, and stops when it has it")]
    Slow(u64),
    /// Somebody let it go on before all had stopped.
    #[error("it was resumed before all vCPUs had stopped")]
    Resumed,
    /// The machine has ended.
    #[error("the machine has ended")]
    Ended,
}

/// Orders a whole machine about. On rank 0, or on the one rank there is; usable from any thread.
#[derive(Clone, Debug)]
pub struct Controller {
    topology: Topology,
    handles: Vec<VcpuHandle>,
    /// Rank 0's control thread, and what it has counted, if there are several ranks.
    ranks: Option<(ControlNotes, Counted)>,
    pausing: Arc<Pausing>,
    stopper: Stopper,
}

/// Whether the machine was told to stop, for all who may tell it.
#[derive(Debug, Default)]
pub(super) struct Pausing {
    /// One pauses or resumes at a time.
    turn: Mutex<()>,
    paused: AtomicBool,
}

/// Whether a move takes a vCPU away from the rank where it belongs: both are of the machine as it was started.
fn leaves_home(topology: &Topology, vcpu: u32, rank: u16) -> bool {
    let are_there = vcpu < topology.vcpus() && u32::from(rank) < topology.nodes();
    are_there && rank_of(topology, VcpuId(vcpu)) != Rank(rank)
}

impl Controller {
    pub(super) fn new(
        topology: Topology,
        handles: Vec<VcpuHandle>,
        ranks: Option<(ControlNotes, Counted)>,
        pausing: Arc<Pausing>,
        stopper: Stopper,
    ) -> Self {
        Self { topology, handles, ranks, pausing, stopper }
    }

    /// Whether it is one of several ranks.
    #[must_use]
    pub fn has_ranks(&self) -> bool {
        self.ranks.is_some()
    }

    /// All ranks that the machine has or had, and what each is now; nothing when the machine has ended.
    #[must_use]
    pub fn members(&self) -> Vec<(u16, MemberState)> {
        let Some((notes, _)) = &self.ranks else { return vec![(0, MemberState::Running)] };
        let (sender, members) = channel();
        notes.tell(Note::Members(sender));
        members.recv().unwrap_or_default().into_iter().map(|(rank, state)| (rank.0, state)).collect()
    }

    /// Of how many pages each rank is the home, those on their way counted where they come from; nothing when the machine has ended, or is
    /// of one rank.
    #[must_use]
    pub fn homes(&self) -> BTreeMap<u16, u32> {
        let Some((notes, _)) = &self.ranks else { return BTreeMap::new() };
        let (sender, homes) = channel();
        notes.tell(Note::Homes(sender));
        homes.recv().unwrap_or_default().into_iter().map(|(rank, pages)| (rank.0, pages)).collect()
    }

    /// A rank leaves: its vCPUs go to others, then the homes of its pages, then its copies of others; waits until it has left, for `limit` at most.
    ///
    /// # Errors
    /// [`LeaveError`] when it does not leave, or takes longer; it leaves all the same then.
    pub fn remove(&self, rank: u16, limit: Duration) -> Result<(), LeaveError> {
        let Some((notes, _)) = &self.ranks else {
            let error = if rank == 0 { RemoveError::First } else { RemoveError::NoRank(rank) };
            return Err(error.into());
        };
        let (done, left) = channel();
        notes.tell(Note::Remove(Rank(rank), done));
        match left.recv_timeout(limit) {
            Ok(left) => Ok(left?),
            Err(RecvTimeoutError::Timeout) => Err(LeaveError::Slow { rank, seconds: limit.as_secs() }),
            Err(RecvTimeoutError::Disconnected) => Err(LeaveError::Ended),
        }
    }

    /// What takes note of the ranks that have connected with rank 0; nothing where there are no other ranks.
    #[must_use]
    pub fn greeter(&self) -> Option<Greeter> {
        self.ranks.as_ref().map(|(notes, counted)| counted.greeter(notes))
    }

    /// A seat for a rank that wants to join; nothing when all are used, or the machine has ended. It is to be followed by [`Self::admit`] or [`Self::abandon`].
    #[must_use]
    pub fn reserve(&self) -> Option<u16> {
        let (notes, _) = self.ranks.as_ref()?;
        let (sender, seat) = channel();
        notes.tell(Note::Reserve(sender));
        seat.recv().ok().flatten().map(|rank| rank.0)
    }

    /// The rank with this seat comes, with this share of its host. What comes of it is told there: once all ranks are connected with it and it has set itself up, it
    /// takes part. A sender that is gone means that the machine has ended.
    #[must_use]
    pub fn admit(&self, rank: u16, share: Share) -> Receiver<Result<(), String>> {
        let (done, joined) = channel();
        if let Some((notes, _)) = &self.ranks {
            notes.tell(Note::Admit(Rank(rank), share, done));
        }
        joined
    }

    /// The rank with this seat does not come. Whether it takes part all the same: then it has come just now, and stays.
    #[must_use]
    pub fn abandon(&self, rank: u16) -> bool {
        let Some((notes, _)) = &self.ranks else { return false };
        let (sender, has_joined) = channel();
        notes.tell(Note::Abandon(Rank(rank), sender));
        has_joined.recv().unwrap_or(false)
    }

    /// Moves a vCPU to a rank while it runs, and waits until it is there, for `limit` at most. It comes to an instruction boundary first,
    /// for which it may need pages or a device's answer.
    ///
    /// # Errors
    /// [`MigrateError`] when there is no such vCPU or rank, another move of it is under way, or it takes too long.
    pub fn migrate(&self, vcpu: u32, rank: u16, limit: Duration) -> Result<Moved, MigrateError> {
        let Some((notes, counted)) = &self.ranks else {
            let mut alone = Owners::new(1, self.topology.vcpus());
            return Ok(alone.order(vcpu, Rank(rank)).map(|_| Moved::WasThere)?);
        };
        if counted.has_relaxed() && leaves_home(&self.topology, vcpu, rank) {
            return Err(MigrateError::Relaxed(vcpu));
        }
        let (done, moved) = channel();
        notes.tell(Note::Move(vcpu, Rank(rank), done));
        match moved.recv_timeout(limit) {
            Ok(moved) => Ok(moved?),
            Err(RecvTimeoutError::Timeout) => Err(MigrateError::Slow { vcpu, rank, seconds: limit.as_secs() }),
            Err(RecvTimeoutError::Disconnected) => Err(MigrateError::Ended),
        }
    }

    /// Moves each vCPU to the rank of its NUMA node, without waiting for it. Those that are there already or on their way stay or go on.
    pub fn spread(&self) {
        if let Some((notes, ..)) = &self.ranks {
            notes.tell(Note::Spread(self.topology.ids().map(|vcpu| rank_of(&self.topology, vcpu)).collect()));
        }
    }

    /// Where all vCPUs are, in order; nothing when the machine has ended.
    #[must_use]
    pub fn places(&self) -> Vec<VcpuPlace> {
        let owners = match &self.ranks {
            None => Owners::new(1, self.topology.vcpus()).all().to_vec(),
            Some((notes, ..)) => {
                let (sender, places) = channel();
                notes.tell(Note::Places(sender));
                places.recv().unwrap_or_default()
            }
        };
        let place =
            |(vcpu, Owner { at, to }): (u32, Owner)| VcpuPlace { vcpu, rank: at.0, moving_to: to.map(|rank| rank.0) };
        (0..).zip(owners).map(place).collect()
    }

    /// Stops all vCPUs on all ranks at an instruction boundary, and waits until they have stopped, for `limit` at most. The guest's clock
    /// runs on. Pausing twice is the same as once.
    ///
    /// # Errors
    /// [`ControlError`] when one does not stop in time, the machine has ended, or it is resumed meanwhile.
    pub fn pause(&self, limit: Duration) -> Result<(), ControlError> {
        let (done, paused) = channel();
        // Only while they are told: whoever resumes does not wait for those who have not stopped.
        let turn = self.pausing.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.pausing.paused.store(true, Ordering::SeqCst);
        match &self.ranks {
            Some((notes, ..)) => notes.tell(Note::Pause(done)),
            None => {
                for handle in &self.handles {
                    let done = done.clone();
                    handle.pause_and(move || drop(done));
                }
                drop(done);
            }
        }
        drop(turn);
        match (paused.recv_timeout(limit), &self.ranks) {
            (Ok(()), _) => Ok(()),
            // The last of those who would tell is gone: all have stopped, or have ended.
            (Err(RecvTimeoutError::Disconnected), None) => Ok(()),
            (Err(_), _) if !self.is_paused() => Err(ControlError::Resumed),
            (Err(RecvTimeoutError::Disconnected), Some(_)) => Err(ControlError::Ended),
            (Err(RecvTimeoutError::Timeout), _) => Err(ControlError::Slow(limit.as_secs())),
        }
    }

    /// Lets all vCPUs on all ranks go on, without waiting until they do.
    pub fn resume(&self) {
        let _turn = self.pausing.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.pausing.paused.store(false, Ordering::SeqCst);
        match &self.ranks {
            Some((notes, ..)) => notes.tell(Note::Resume),
            None => self.handles.iter().for_each(VcpuHandle::let_go_on),
        }
    }

    /// Whether it was told to stop and not yet to go on.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.pausing.paused.load(Ordering::SeqCst)
    }

    /// Stops the machine, as [`Stopper::stop`].
    pub fn stop(&self) {
        self.stopper.stop();
    }

    /// What this rank has done so far.
    #[must_use]
    pub fn stats(&self) -> MachineStats {
        let counted = self.ranks.as_ref().map(|(_, counted)| counted);
        stats(&self.handles, counted)
    }

    /// What each other rank says it has counted ([`super::Running::set_statistics`]), as far as it comes within `limit`.
    #[must_use]
    pub fn gather_statistics(&self, limit: Duration) -> Vec<(u16, Vec<u8>)> {
        let gathered = self.ranks.as_ref().map(|(notes, counted)| ranks::gather(notes, counted, limit));
        gathered.unwrap_or_default().into_iter().map(|(rank, bytes)| (rank.0, bytes)).collect()
    }
}

/// What a rank has done, of its vCPUs those that are here or were.
pub(super) fn stats(handles: &[VcpuHandle], counted: Option<&Counted>) -> MachineStats {
    let numbered = |handle: &VcpuHandle| NumberedVcpu { vcpu: handle.id().0, counters: handle.stats().snapshot() };
    let was_here = |handle: &&VcpuHandle| handle.is_here() || handle.stats().snapshot().entries > 0;
    let vcpus = handles.iter().filter(was_here).map(numbered).collect();
    MachineStats { vcpus, ranks: counted.map(Counted::stats) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_relaxed_memory_processors_may_go_home_and_nowhere_else() {
        // Two on each of two ranks.
        let topology = Topology::new(4, 2).unwrap();
        let leaves = |vcpu, rank| leaves_home(&topology, vcpu, rank);
        assert_eq!([leaves(1, 0), leaves(2, 1)], [false; 2], "home, from where they start");
        assert_eq!([leaves(1, 1), leaves(2, 0), leaves(3, 0)], [true; 3]);
        assert_eq!([leaves(4, 0), leaves(0, 2)], [false; 2], "of what is not there, others tell");
        let line = MigrateError::Relaxed(3).to_string();
        assert!(line.starts_with("virtual processor 3 stays on its rank: on a machine with --relaxed"), "{line}");
    }
}
