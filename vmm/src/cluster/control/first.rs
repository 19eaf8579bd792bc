//! Rank 0's side of the control channel.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use vincs_coherence::id::{Rank, RankSet};

use super::super::message::{ClockReading, Control};
use super::super::serve::{Devices, Server};
use super::{Breach, ClusterEvent, Core};
use crate::clock::GuestClock;
use crate::topology::{Topology, VcpuId};

/// What rank 0 answers with.
pub(crate) struct First {
    pub(crate) devices: Arc<Devices>,
    /// The servers of all other ranks, rank 1 first.
    pub(crate) servers: Vec<Server>,
    pub(crate) topology: Topology,
    pub(crate) clock: GuestClock,
    pub(crate) boot_id: [u8; 16],
    ending: Option<Ending>,
    gather: Option<Sender<(Rank, Vec<u8>)>>,
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
        servers: Vec<Server>,
        topology: Topology,
        clock: GuestClock,
        boot_id: Option<[u8; 16]>,
    ) -> Self {
        // A boot that is not known is like no other rank's: those that know theirs differ, the others do not compare.
        let boot_id = boot_id.unwrap_or_default();
        Self { devices, servers, topology, clock, boot_id, ending: None, gather: None }
    }

    pub(super) fn handle(
        &mut self,
        core: &mut Core,
        from: Rank,
        message: Control,
        body: Vec<u8>,
    ) -> Result<(), Breach> {
        match message {
            Control::Interrupt(message) => core.router.deliver_here(message),
            Control::EndOfInterrupt { vector } => self.devices.io_apic.end_of_interrupt(vector),
            Control::Notify { address, queue } => self.devices.notify(address, queue),
            Control::Access { vcpu, access } => {
                self.check_vcpu(from, vcpu)?;
                let server = usize::from(from.0).checked_sub(1).and_then(|index| self.servers.get(index));
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
            Control::Lost { rank, reason } if core.link.others().any(|other| other == rank) => {
                self.lost(core, rank, reason);
            }
            Control::Statistics => {
                if let Some(gather) = &self.gather {
                    // Whoever asked may not wait any more.
                    let _ = gather.send((from, body));
                }
            }
            Control::EndSeen if self.ending.is_some() => self.has_seen(core, from),
            Control::Lost { .. }
            | Control::Answer { .. }
            | Control::Vcpu { .. }
            | Control::ClockAnswer { .. }
            | Control::StatisticsRequest
            | Control::End { .. }
            | Control::EndSeen
            | Control::Closed
            | Control::Present => return Err(Breach(format!("{message:?} to rank 0"))),
        }
        Ok(())
    }

    /// A rank is lost: so is the machine, and all are told why.
    pub(super) fn lost(&mut self, core: &mut Core, rank: Rank, reason: String) {
        if self.ending.is_some() {
            self.has_seen(core, rank);
            return;
        }
        let message = Control::lost(rank, &reason);
        if core.finish(ClusterEvent::Lost(rank, reason)) {
            core.link.send_to_others(&message);
        }
    }

    pub(super) fn end(&mut self, core: &mut Core, status: i32, done: Sender<()>) {
        let mut missing = RankSet::EMPTY;
        core.link.others().for_each(|rank| {
            missing.insert(rank);
        });
        (core.over, core.suspect) = (true, None);
        core.link.send_to_others(&Control::End { status });
        self.ending = Some(Ending { missing, done });
    }

    pub(super) fn gather(&mut self, core: &Core, sender: Sender<(Rank, Vec<u8>)>) {
        self.gather = Some(sender);
        core.link.send_to_others(&Control::StatisticsRequest);
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
        let known = vcpu < self.topology.vcpus() && self.topology.node(VcpuId(vcpu)) == u32::from(from.0);
        if known { Ok(()) } else { Err(Breach(format!("a message for vCPU {vcpu}, which is not its own"))) }
    }
}
