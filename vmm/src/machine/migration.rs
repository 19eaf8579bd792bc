//! Moving vCPUs to the ranks they belong to.
//!
//! A machine of several ranks starts with all of its vCPUs on rank 0. A kernel boots by touching what all of its processors use, again and
//! again: spread over ranks from the start, those pages would travel all boot long. When the guest is set up, a vCPU moves with a few KiB of
//! state; the pages follow as they are used.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use vincs_coherence::id::Rank;

use super::ranks::rank_of;
use super::running::Event;
use crate::apic::Router;
use crate::cluster::{Control, ControlLink};
use crate::topology::Topology;
use crate::vcpu::{CommandError, End, VcpuHandle};

/// Moves each vCPU of rank 0 that belongs to another rank there. Made by [`super::Running::migration`].
#[derive(Debug)]
pub struct Migration {
    leaving: Vec<Leaving>,
    router: Arc<Router>,
    link: Arc<ControlLink>,
    events: Sender<Event>,
}

/// A vCPU that moves.
#[derive(Debug)]
struct Leaving {
    vcpu: VcpuHandle,
    apic_id: u32,
    to: Rank,
}

impl Migration {
    /// Of these vCPUs, all that belong elsewhere.
    pub(super) fn new(
        topology: &Topology,
        vcpus: &[VcpuHandle],
        router: Arc<Router>,
        link: Arc<ControlLink>,
        events: Sender<Event>,
    ) -> Self {
        let leaving = vcpus.iter().map(|vcpu| Leaving {
            vcpu: vcpu.clone(),
            apic_id: topology.apic_id(vcpu.id()),
            to: rank_of(topology, vcpu.id()),
        });
        Self { leaving: leaving.filter(|leaving| leaving.to != link.rank()).collect(), router, link, events }
    }

    /// Moves them, and waits until all are under way: each has to come to an instruction boundary first, for which it may need pages.
    /// Nothing happens to a machine that is being stopped. A vCPU whose state cannot be read stops the machine.
    pub fn run(self) {
        // All rest before one goes: an interrupt for several processors would otherwise reach one of them here and there.
        if self.leaving.iter().any(|leaving| leaving.vcpu.pause().is_err()) {
            return;
        }
        self.router.move_to(&self.leaving.iter().map(|leaving| (leaving.apic_id, leaving.to)).collect::<Vec<_>>());
        for Leaving { vcpu, to, .. } in &self.leaving {
            match vcpu.depart() {
                Ok(state) => self.link.send(*to, &Control::Vcpu { vcpu: vcpu.id().0 }, &state.to_bytes()),
                Err(CommandError::Stopped) => return,
                Err(CommandError::State(error)) => {
                    // Nobody waits any more when the machine is being taken down.
                    let _ = self.events.send(Event::Vcpu(vcpu.id(), End::Failed(error.to_string())));
                }
            }
        }
    }
}
