//! A rank's vCPUs as its control thread deals with them: they come, go, stop and go on.

use std::sync::Arc;

use vincs_coherence::id::Rank;

use super::super::link::ControlLink;
use super::super::message::Control;
use super::super::moves::{Moves, Step};
use super::{Breach, Core};
use crate::apic::{Delivery, Router, Targets};
use crate::memory::engine::Vitals;
use crate::topology::VcpuId;
use crate::vcpu::{VcpuHandle, VcpuState};

/// All vCPUs of the machine, of which some are here.
pub(crate) struct Residents {
    router: Arc<Router>,
    /// In order: each may come here.
    handles: Vec<VcpuHandle>,
    moves: Moves,
    vitals: Vitals,
}

impl Residents {
    /// On the rank of this link; at first all are on rank 0.
    pub(crate) fn new(link: &ControlLink, router: Arc<Router>, handles: Vec<VcpuHandle>, vitals: Vitals) -> Self {
        let count = u32::try_from(handles.len()).unwrap_or(u32::MAX);
        let moves = Moves::new(link.rank(), link.others(), count);
        Self { router, handles, moves, vitals }
    }

    /// Ranks that may have pages.
    pub(super) fn vitals(&self) -> Vitals {
        self.vitals.clone()
    }

    pub(super) fn deliver(&self, targets: Targets, delivery: Delivery, vector: u8, level: bool) {
        self.router.deliver_here(targets, delivery, vector, level);
    }

    fn handle(&self, vcpu: VcpuId) -> Option<&VcpuHandle> {
        self.handles.get(usize::try_from(vcpu.0).ok()?)
    }

    /// Stops them all; `done` is dropped when they have, or have ended.
    pub(super) fn pause(&self, done: &Arc<impl Send + Sync + 'static>) {
        for handle in &self.handles {
            let done = Arc::clone(done);
            handle.pause_and(move || drop(done));
        }
    }

    pub(super) fn resume(&self) {
        self.handles.iter().for_each(VcpuHandle::let_go_on);
    }
}

impl Core {
    /// Rank 0 has ordered a move.
    pub(super) fn ordered(&mut self, vcpu: u32, from: Rank, to: Rank) -> Result<(), Breach> {
        let steps = self.residents.moves.ordered(vcpu, from, to)?;
        // Before anybody is told that this rank knows: only then does the vCPU go there, and ask for pages.
        self.vitals.insert(to);
        self.take(steps);
        Ok(())
    }

    /// A rank takes part from now on.
    pub(super) fn admit(&mut self, rank: Rank) {
        self.link.admit(rank);
        self.residents.moves.admit(rank);
    }

    /// This rank takes part from now on, with these others; each vCPU is at its place.
    pub(super) fn comes(&mut self, ranks: &[Rank], places: &[Rank]) {
        ranks.iter().for_each(|rank| self.admit(*rank));
        for (vcpu, place) in (0..).map(VcpuId).zip(places) {
            self.residents.router.repoint(vcpu, *place);
        }
    }

    /// A rank takes no part any more, and has nothing of the machine.
    pub(super) fn dismiss(&mut self, rank: Rank) {
        self.link.dismiss(rank);
        self.vitals.remove(rank);
        self.suspect.take_if(|suspect| suspect.rank == rank);
        let steps = self.residents.moves.dismiss(rank);
        self.take(steps);
    }

    /// A rank sends nothing for a vCPU here any more.
    pub(super) fn repointed(&mut self, by: Rank, vcpu: u32) -> Result<(), Breach> {
        let steps = self.residents.moves.repointed(by, vcpu)?;
        self.take(steps);
        Ok(())
    }

    fn take(&self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Repoint(vcpu, to) => self.residents.router.repoint(vcpu, to),
                Step::TellRepointed(vcpu, to) => self.link.send(to, &Control::Repointed { vcpu: vcpu.0 }, &[]),
                Step::Depart(vcpu, to) => {
                    let link = Arc::clone(&self.link);
                    if let Some(handle) = self.residents.handle(vcpu) {
                        handle
                            .depart_to(move |state| link.send(to, &Control::Vcpu { vcpu: vcpu.0 }, &state.to_bytes()));
                    }
                }
            }
        }
    }

    /// The state of a vCPU has come: it goes on here once `told` has told that.
    pub(super) fn arrives(
        &mut self,
        from: Rank,
        vcpu: u32,
        state: &[u8],
        told: impl FnOnce(&Self),
    ) -> Result<(), Breach> {
        let vcpu = self.residents.moves.arrives(from, vcpu)?;
        let state = VcpuState::from_bytes(state)?;
        told(self);
        if let Some(handle) = self.residents.handle(vcpu) {
            handle.arrive(Box::new(state));
        }
        Ok(())
    }
}
