//! Rank 0's side of the control channel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use vincs_coherence::id::{Rank, RankSet};

use super::super::message::{ClockReading, Control};
use super::super::moves::{Owners, RefusedMove};
use super::super::seats::MemberState;
use super::super::serve::{Devices, Server};
use super::pause::{Pauses, WhenDropped};
use super::{Breach, ClusterEvent, ControlNotes, Core, Elastic, Moved, Note};
use crate::clock::GuestClock;

/// What rank 0 answers with.
pub(crate) struct First {
    pub(crate) devices: Arc<Devices>,
    /// The servers of all other ranks.
    pub(crate) servers: BTreeMap<Rank, Server>,
    pub(crate) clock: GuestClock,
    pub(crate) boot_id: [u8; 16],
    /// To itself, from threads of vCPUs and of memory.
    pub(super) notes: ControlNotes,
    pub(super) owners: Owners,
    pub(super) elastic: Elastic,
    /// Who waits for a vCPU's arrival, with where it comes from.
    movers: BTreeMap<u32, (Rank, Sender<Result<Moved, RefusedMove>>)>,
    pub(super) pauses: Pauses,
    ending: Option<Ending>,
    /// Who waits for statistics: all are told all that comes.
    gathers: Vec<Sender<(Rank, Vec<u8>)>>,
}

/// The machine has ended and all are being told.
struct Ending {
    /// Who has not said that it knows.
    missing: RankSet,
    done: Sender<()>,
}

impl First {
    pub(crate) fn new(
        devices: Arc<Devices>,
        servers: BTreeMap<Rank, Server>,
        (owners, elastic): (Owners, Elastic),
        clock: GuestClock,
        boot_id: Option<[u8; 16]>,
        notes: ControlNotes,
    ) -> Self {
        // A boot that is not known is like no other rank's: those that know theirs differ, the others do not compare.
        let boot_id = boot_id.unwrap_or_default();
        let (movers, pauses, gathers) = (BTreeMap::new(), Pauses::default(), Vec::new());
        Self { devices, servers, clock, boot_id, notes, owners, elastic, movers, pauses, ending: None, gathers }
    }

    pub(super) fn handle(
        &mut self,
        core: &mut Core,
        from: Rank,
        message: Control,
        body: Vec<u8>,
    ) -> Result<(), Breach> {
        match message {
            Control::EndOfInterrupt { vector } => self.devices.io_apic.end_of_interrupt(vector),
            Control::Notify { address, queue } => self.devices.notify(address, queue),
            Control::Access { vcpu, access } => {
                self.check_vcpu(from, vcpu)?;
                let server = self.servers.get(&from);
                server.ok_or_else(|| Breach("it is no rank of this machine".into()))?.take(vcpu, access, body)?;
            }
            Control::ClockProbe { number } => {
                let (ticks, offset, khz) = (self.clock.now(), self.clock.offset(), self.clock.khz());
                let reading = ClockReading { ticks, offset, khz, boot_id: self.boot_id };
                core.link.send(from, &Control::ClockAnswer { number, reading }, &[]);
            }
            Control::VcpuFailed { vcpu, failure } => {
                self.check_vcpu(from, vcpu)?;
                if !core.over {
                    (core.events)(ClusterEvent::VcpuFailed(vcpu, failure));
                }
            }
            // One that the machine does without by now may be missed by others still.
            Control::Lost { rank, reason } if rank != core.link.rank() && self.elastic.seats.state(rank).is_some() => {
                self.missed(core, from, rank, reason);
            }
            Control::Met { rank } => self.elastic.seats.met(rank, from),
            Control::Ready if self.elastic.seats.ready(from) => {}
            Control::HomesKnown if self.elastic.seats.homes_known(from) => {}
            Control::Leave if core.link.has(from) => self.is_to_leave(core, from, None),
            Control::Drained => self.drained(from)?,
            Control::Statistics => {
                // Whoever asked may not wait any more.
                self.gathers.retain(|gather| gather.send((from, body.clone())).is_ok());
            }
            Control::Vcpu { vcpu } => {
                let mut arrived = Ok(());
                core.arrives(from, vcpu, &body, |core| arrived = self.arrived(core.link.rank(), vcpu))?;
                arrived?;
            }
            Control::Arrived { vcpu } => self.arrived(from, vcpu)?,
            Control::Paused { number } => self.pauses.paused(from, number),
            Control::EndSeen if self.ending.is_some() => self.has_seen(core, from),
            Control::Lost { .. }
            | Control::Answer { .. }
            | Control::Interrupt { .. }
            | Control::Move { .. }
            | Control::Repointed { .. }
            | Control::Pause { .. }
            | Control::Resume
            | Control::ClockAnswer { .. }
            | Control::StatisticsRequest
            | Control::End { .. }
            | Control::EndSeen
            | Control::Closed
            | Control::Present
            | Control::Ready
            | Control::Come { .. }
            | Control::Leave
            | Control::Homes { .. }
            | Control::HomesKnown
            | Control::ToLeave
            | Control::ToStay { .. }
            | Control::Drain
            | Control::Parting
            | Control::Parted
            | Control::Gone { .. } => return Err(Breach(format!("{message:?} to rank 0"))),
        }
        Ok(())
    }

    /// A rank misses another, or says that it goes itself. Of two that lose each other the machine keeps the one that it needs.
    fn missed(&mut self, core: &mut Core, from: Rank, rank: Rank, reason: String) {
        let is_over = self.ending.is_some() || core.over;
        if is_over || from == rank || core.link.has(from) && self.does_without(core, rank, &reason) {
            return self.lost(core, rank, reason);
        }
        let is_left = self.elastic.seats.state(rank) == Some(MemberState::Left);
        if self.can_spare(core, from) && !is_left {
            return self.lost(core, from, format!("it has lost rank {}: {reason}", rank.0));
        }
        self.lost(core, rank, reason);
    }

    /// A rank is lost: so is the machine, and all are told why.
    pub(super) fn lost(&mut self, core: &mut Core, rank: Rank, reason: String) {
        if self.ending.is_some() {
            self.has_seen(core, rank);
            return;
        }
        if core.over || self.does_without(core, rank, &reason) {
            return;
        }
        let message = Control::lost(rank, &reason);
        if core.finish(ClusterEvent::Lost(rank, reason)) {
            core.link.send_to_others(&message);
        }
    }

    pub(super) fn end(&mut self, core: &mut Core, status: i32, done: Sender<()>) {
        let missing = core.link.others().collect();
        (core.over, core.suspect) = (true, None);
        core.link.send_to_others(&Control::End { status });
        self.ending = Some(Ending { missing, done });
    }

    /// What another thread of rank 0 asks for.
    pub(super) fn order_from_here(&mut self, core: &mut Core, note: Note) {
        match note {
            Note::Gather(sender) => {
                self.gathers.push(sender);
                core.link.send_to_others(&Control::StatisticsRequest);
            }
            note @ (Note::Move(..) | Note::Spread(_)) => match self.hold_back(core, note) {
                Some(Note::Move(vcpu, to, done)) => self.order(core, vcpu, to, Some(done)),
                Some(Note::Spread(nodes)) => self.spread(core, nodes),
                _ => {}
            },
            Note::Places(sender) => {
                // Whoever asked may not wait any more, here and below.
                let _ = sender.send(self.owners.all().to_vec());
            }
            Note::Pause(done) => self.pause(core, done),
            Note::Resume => {
                self.pauses.end();
                core.residents.resume();
                core.link.send_to_others(&Control::Resume);
            }
            Note::Paused(number) => self.pauses.paused(core.link.rank(), number),
            Note::Met(rank) => self.elastic.seats.met(rank, core.link.rank()),
            Note::Reserve(sender) => _ = sender.send(self.elastic.seats.reserve()),
            Note::Admit(rank, share, done) => self.is_to_join(rank, share, done),
            Note::Abandon(rank, has_joined) => {
                self.give_up_joining(rank, "it does not come");
                let state = self.elastic.seats.state(rank);
                let _ = has_joined.send(matches!(state, Some(MemberState::Running | MemberState::Leaving)));
            }
            Note::Remove(rank, done) => self.is_to_leave(core, rank, Some(done)),
            Note::Members(sender) => _ = sender.send(self.elastic.seats.all()),
            Note::Homes(sender) => _ = sender.send(self.homes_now()),
            Note::HandedOver(run, moved) => self.handed_over(run, moved),
            Note::Lost(..) | Note::End(..) | Note::PagesGivenUp | Note::HomesKnown(_) | Note::Stop => {}
        }
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.elastic.homes.due()
    }

    /// Does it.
    pub(super) fn keep_time(&mut self, core: &mut Core, now: Instant) {
        if self.due().is_some_and(|due| due <= now) {
            self.elastic.homes.wait_no_more(now);
            self.settle(core);
        }
    }

    /// Lets a vCPU move. `done` is told when it is there, or why it does not go.
    pub(super) fn order(
        &mut self,
        core: &mut Core,
        vcpu: u32,
        to: Rank,
        done: Option<Sender<Result<Moved, RefusedMove>>>,
    ) {
        let answer = match self.owners.order(vcpu, to) {
            Err(refused) => Err(refused),
            Ok(None) => Ok(Moved::WasThere),
            Ok(Some(from)) => {
                if let Some(done) = done {
                    self.movers.insert(vcpu, (from, done));
                }
                core.link.send_to_others(&Control::Move { vcpu, from, to });
                if let Err(Breach(what)) = core.ordered(vcpu, from, to) {
                    tracing::error!(vcpu, what, "this rank does not know its own vCPUs");
                }
                return;
            }
        };
        if let Some(done) = done {
            let _ = done.send(answer);
        }
    }

    fn arrived(&mut self, rank: Rank, vcpu: u32) -> Result<(), Breach> {
        self.owners.arrived(rank, vcpu)?;
        if let Some((from, done)) = self.movers.remove(&vcpu) {
            let _ = done.send(Ok(Moved::From(from.0)));
        }
        Ok(())
    }

    fn pause(&mut self, core: &Core, done: Sender<()>) {
        let own = core.link.rank();
        let number = self.pauses.begin(core.link.others().chain([own]), done);
        core.link.send_to_others(&Control::Pause { number });
        let notes = self.notes.clone();
        core.residents.pause(&Arc::new(WhenDropped(move || notes.tell(Note::Paused(number)))));
    }

    fn has_seen(&mut self, core: &Core, rank: Rank) {
        let Some(ending) = &mut self.ending else { return };
        if ending.missing.remove(rank) && ending.missing.is_empty() {
            core.link.send_to_others(&Control::Closed);
            // Whoever asked may not wait any more.
            let _ = ending.done.send(());
        }
    }

    fn check_vcpu(&self, from: Rank, vcpu: u32) -> Result<(), Breach> {
        let known = self.owners.has(from, vcpu);
        if known { Ok(()) } else { Err(Breach(format!("a message for vCPU {vcpu}, which is not its own"))) }
    }
}
