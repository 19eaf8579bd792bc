//! Given times instead of random ones, and how long faults took with them: for predictions rather than for tests. The unit is the caller's, as
//! long as the scenario's other times have it too.

use crate::id::{Access, Page, Rank};

/// What things take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Costs {
    /// From the access that faults until the service thread knows of it, and from its answer until the access has happened, together.
    pub fault: u64,
    /// A service thread with one input: a fault or a message. What it sends and wakes comes at the end of it.
    pub service: u64,
    /// A message without bytes, from its sender to its receiver's service thread.
    pub message: u64,
    /// What each page in a message adds to that.
    pub page: u64,
}

impl Costs {
    /// How long a message is under way.
    #[must_use]
    pub fn way(&self, pages: usize) -> u64 {
        self.message + self.page * pages as u64
    }
}

/// A fault that was answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FaultTime {
    /// Where.
    pub rank: Rank,
    /// Its page.
    pub page: Page,
    /// What for.
    pub access: Access,
    /// When it happened.
    pub from: u64,
    /// When the processor went on.
    pub until: u64,
}

/// The given times of a simulation, and what has come of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Timing {
    costs: Option<Costs>,
    /// By processor: the fault that waits.
    waiting: Vec<Option<FaultTime>>,
    answered: Vec<FaultTime>,
}

impl Timing {
    /// With given times, or with random ones.
    pub(super) fn new(costs: Option<Costs>, processors: usize) -> Self {
        Self { costs, waiting: vec![None; processors], answered: Vec::new() }
    }

    pub(super) fn costs(&self) -> Option<Costs> {
        self.costs
    }

    /// How long after the start of an input its messages and wakes come.
    pub(super) fn service(&self) -> u64 {
        self.costs.map_or(0, |costs| costs.service)
    }

    /// A processor faults.
    pub(super) fn faults(&mut self, vcpu: usize, rank: Rank, page: Page, access: Access, now: u64) {
        if let Some(waiting) = self.waiting.get_mut(vcpu).filter(|_| self.costs.is_some()) {
            *waiting = Some(FaultTime { rank, page, access, from: now, until: now });
        }
    }

    /// A processor goes on.
    pub(super) fn answers(&mut self, vcpu: usize, until: u64) {
        let fault = self.waiting.get_mut(vcpu).and_then(Option::take);
        self.answered.extend(fault.map(|fault| FaultTime { until, ..fault }));
    }

    /// All faults that were answered, in the order of the answers.
    pub(super) fn into_faults(self) -> Vec<FaultTime> {
        self.answered
    }
}
