//! Ranks that come and leave, as rank 0 deals with them on its control channel. Who is what is in [`Seats`]; where vCPUs go is [`place`]'s to say.
//!
//! A rank comes and goes while no vCPU is on its way: all ranks then agree on who has to say that it sends elsewhere (`moves`). Orders to
//! move wait for that. Nor does the home of a page move while a rank that joins is told where they are, or one that leaves gives up its
//! pages (`homes.rs`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::Sender;

use vincs_coherence::id::Rank;

use super::super::message::Control;
use super::super::moves::Owner;
use super::super::placement::{Placed, Placement, Room, Share, evacuate, place};
use super::super::seats::{RemoveError, Seats};
use super::super::serve::Server;
use super::homes::HomeMoves;
use super::{Breach, Core, First, MemberState, Note};

/// What is to become of a rank that joins.
pub(crate) type Joined = Result<(), String>;

/// What rank 0 knows of the ranks beside where vCPUs are.
pub(crate) struct Elastic {
    pub(super) seats: Seats,
    pub(super) placement: Placement,
    /// The rank of each vCPU's node.
    nodes: Vec<Rank>,
    /// What each rank's host has for it, as far as that is known.
    pub(super) shares: BTreeMap<Rank, Share>,
    /// The homes of pages.
    pub(super) homes: HomeMoves,
    /// vCPUs have gone to their ranks after the boot: from now on those that join get some.
    pub(super) is_spread: bool,
    /// Who waits for a rank to join, and for one to have left.
    joiners: BTreeMap<Rank, Sender<Joined>>,
    leavers: BTreeMap<Rank, Vec<Sender<Result<(), RemoveError>>>>,
    /// Orders that wait until a rank has come or gone.
    held: VecDeque<Note>,
}

impl Elastic {
    /// With these seats; `nodes` has the rank of each vCPU's node, `shares` what the hosts of the first ranks have for them.
    pub(crate) fn new(
        seats: Seats,
        placement: Placement,
        nodes: Vec<Rank>,
        shares: &[Share],
        homes: HomeMoves,
    ) -> Self {
        Self {
            seats,
            placement,
            nodes,
            shares: (0..).map(Rank).zip(shares.iter().copied()).collect(),
            homes,
            is_spread: false,
            joiners: BTreeMap::new(),
            leavers: BTreeMap::new(),
            held: VecDeque::new(),
        }
    }

    /// The ranks that vCPUs may be on.
    fn rooms(&self) -> Vec<Room> {
        let room = |rank| Room { rank, share: self.shares.get(&rank).copied().unwrap_or_default() };
        self.seats.running().into_iter().map(room).collect()
    }

    fn placed(&self, owners: &[Owner]) -> Vec<Placed> {
        let placed = |(owner, node): (&Owner, &Rank)| Placed { at: owner.to.unwrap_or(owner.at), node: *node };
        owners.iter().zip(&self.nodes).map(placed).collect()
    }

    /// Where each vCPU is to be, as it is now.
    fn places(&self, owners: &[Owner]) -> Vec<Rank> {
        place(self.placement, &self.placed(owners), &self.rooms())
    }
}

impl First {
    /// An order to move waits while a rank is about to come or to go, also while one that comes is told where the homes are.
    pub(super) fn hold_back(&mut self, core: &Core, note: Note) -> Option<Note> {
        if self.elastic.seats.complete(core.present()).is_some() || self.elastic.seats.drained_one().is_some() {
            self.elastic.held.push_back(note);
            return None;
        }
        Some(note)
    }

    /// vCPUs go to their ranks after the boot: those of their nodes, and by the placement if ranks have joined or left since.
    pub(super) fn spread(&mut self, core: &mut Core, nodes: Vec<Rank>) {
        self.elastic.is_spread = true;
        self.elastic.homes.ranks_change();
        self.elastic.nodes.clone_from(&nodes);
        let owners: Vec<Owner> = nodes.iter().map(|node| Owner { at: *node, to: None }).collect();
        // Each rank that starts a machine has vCPUs.
        let started: BTreeSet<Rank> = nodes.iter().copied().collect();
        let are_others = !self.elastic.seats.running().into_iter().eq(started);
        let places = if are_others { self.elastic.places(&owners) } else { nodes };
        for (vcpu, to) in (0..).zip(places) {
            self.order(core, vcpu, to, None);
        }
    }

    /// What can be done now for those that come and leave.
    pub(super) fn settle(&mut self, core: &mut Core) {
        let is_busy = self.elastic.seats.are_busy() || !self.elastic.held.is_empty() || self.elastic.homes.are_busy();
        if core.over || !is_busy {
            return;
        }
        while self.owners.are_at_rest() {
            let complete = self.elastic.seats.complete(core.present());
            if let Some(rank) = complete.filter(|rank| self.elastic.seats.knows_homes(*rank)) {
                self.has_joined(core, rank);
            } else if let Some(rank) = self.elastic.seats.drained_one() {
                self.is_gone(core, rank);
            } else if let Some(rank) = complete {
                self.tell_homes(core, rank);
                break;
            } else if let Some(note) = self.elastic.held.pop_front() {
                self.order_from_here(core, note);
            } else {
                break;
            }
        }
        self.empty_those_that_leave(core);
        self.move_homes(core);
    }

    /// A rank has a seat reserved; what is to become of it is told to whoever waits.
    pub(super) fn is_to_join(&mut self, rank: Rank, share: Share, done: Sender<Joined>) {
        self.elastic.shares.insert(rank, share);
        match self.elastic.seats.state(rank) {
            Some(MemberState::Joining) => _ = self.elastic.joiners.insert(rank, done),
            // Whoever asked may not wait any more, here and below.
            Some(MemberState::Running | MemberState::Leaving | MemberState::Left) | None => {
                let _ = done.send(Err("it is gone again".to_owned()));
            }
        }
    }

    /// All are connected with a rank that has set itself up: it takes part.
    fn has_joined(&mut self, core: &mut Core, rank: Rank) {
        let server = Server::start(rank, self.elastic.nodes.len(), self.devices.clone(), core.link.clone());
        match server {
            // Its thread ends when the rank goes, or the machine.
            Ok((server, _)) => _ = self.servers.insert(rank, server),
            Err(error) => return self.give_up_joining(rank, &format!("rank 0 has no thread for it: {error}")),
        }
        self.elastic.seats.joined(rank);
        self.elastic.homes.ranks_change();
        self.owners.open(rank);
        core.admit(rank);
        let ranks = core.present().collect();
        let places = self.owners.all().iter().map(|owner| owner.at).collect();
        core.link.send_to_others(&Control::Come { rank, ranks, places });
        if let Some(number) = self.pauses.standing() {
            core.link.send(rank, &Control::Pause { number }, &[]);
        }
        if let Some(done) = self.elastic.joiners.remove(&rank) {
            let _ = done.send(Ok(()));
        }
        if self.elastic.is_spread {
            self.place_anew(core);
        }
    }

    /// A rank that was to join does not.
    pub(super) fn give_up_joining(&mut self, rank: Rank, why: &str) {
        if self.elastic.seats.state(rank) == Some(MemberState::Joining) {
            self.elastic.seats.gone(rank);
            if let Some(done) = self.elastic.joiners.remove(&rank) {
                let _ = done.send(Err(why.to_owned()));
            }
        }
    }

    /// A rank is to leave, by its own wish or by order.
    pub(super) fn is_to_leave(&mut self, core: &Core, rank: Rank, done: Option<Sender<Result<(), RemoveError>>>) {
        match (self.may_leave(rank), done) {
            (Ok(leaves), done) => {
                if leaves.is_some() {
                    self.elastic.seats.leaves(rank);
                    core.link.send(rank, &Control::ToLeave, &[]);
                }
                self.owners.close(rank);
                self.elastic.leavers.entry(rank).or_default().extend(done);
            }
            (Err(error), Some(done)) => _ = done.send(Err(error)),
            // It has asked itself.
            (Err(error), None) => core.link.send(rank, &Control::to_stay(&error.to_string()), &[]),
        }
    }

    fn may_leave(&self, rank: Rank) -> Result<Option<Rank>, RemoveError> {
        let Some(leaver) = self.elastic.seats.may_leave(rank)? else { return Ok(None) };
        let stay: Vec<Rank> = self.elastic.seats.running().into_iter().filter(|other| *other != leaver).collect();
        self.elastic.homes.check_room(leaver, &stay, &self.elastic.shares)?;
        Ok(Some(leaver))
    }

    fn place_anew(&mut self, core: &mut Core) {
        for (vcpu, to) in (0..).zip(self.elastic.places(self.owners.all())) {
            self.order(core, vcpu, to, None);
        }
    }

    /// vCPUs of ranks that leave go elsewhere, and a rank that has none any more is told so.
    fn empty_those_that_leave(&mut self, core: &mut Core) {
        let leaving = self.elastic.seats.to_be_emptied();
        if leaving.is_empty() {
            return;
        }
        let owners = self.owners.all().to_vec();
        let places = evacuate(self.elastic.placement, &self.elastic.placed(&owners), &self.elastic.rooms());
        for ((vcpu, to), owner) in (0..).zip(places).zip(owners) {
            if owner.to.is_none() && leaving.contains(&owner.at) {
                self.order(core, vcpu, to, None);
            }
        }
        for rank in leaving {
            if !self.owners.involve(rank) && self.elastic.homes.are_gone_from(rank) {
                self.elastic.seats.told(rank);
                core.link.send(rank, &Control::Drain, &[]);
            }
        }
    }

    /// A rank that leaves has nothing any more.
    pub(super) fn drained(&mut self, rank: Rank) -> Result<(), Breach> {
        let may = self.elastic.seats.drained(rank);
        if may { Ok(()) } else { Err(Breach("that it has nothing any more, unasked".into())) }
    }

    /// A rank takes no part any more; all are told, it too.
    fn is_gone(&mut self, core: &mut Core, rank: Rank) {
        core.link.send_to_others(&Control::Gone { rank });
        self.elastic.seats.gone(rank);
        self.owners.close(rank);
        self.servers.remove(&rank);
        self.pauses.gone(rank);
        self.elastic.shares.remove(&rank);
        self.elastic.homes.ranks_change();
        core.dismiss(rank);
        for done in self.elastic.leavers.remove(&rank).unwrap_or_default() {
            let _ = done.send(Ok(()));
        }
    }

    /// Whether a rank has nothing of the machine: no vCPU and no page, and no part in a hand-over, whose pages would stay frozen without its word. Rank 0 has
    /// the devices.
    pub(super) fn can_spare(&self, core: &Core, rank: Rank) -> bool {
        let has_nothing = !core.vitals.contains(rank) || self.elastic.seats.is_drained(rank);
        let has_no_part = !core.link.has(rank) || self.elastic.homes.homes.are_at_rest();
        rank != core.link.rank() && !self.owners.involve(rank) && has_nothing && has_no_part
    }

    /// A rank is lost. Whether the machine goes on without it: it has no vCPU and no page, as it is only coming, has had none yet, or has handed all over.
    pub(super) fn does_without(&mut self, core: &mut Core, rank: Rank, reason: &str) -> bool {
        if !core.link.has(rank) {
            // It is coming, or is gone.
            self.give_up_joining(rank, reason);
            return true;
        }
        if !self.can_spare(core, rank) {
            return false;
        }
        tracing::warn!(rank = rank.0, reason, "a rank is gone that had nothing of the machine");
        self.is_gone(core, rank);
        true
    }
}
