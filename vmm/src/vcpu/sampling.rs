//! Which instructions run into faults: for a sample of the faults, the vCPU is brought out of the guest at the instruction.
//!
//! The kick comes before the page does. A thread that waits for a page in KVM_RUN looks for signals when it has it and
//! before it enters the guest, so it comes out with the instruction pointer where it was.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use vincs_coherence::id::{Access, Page};

use super::VcpuHandle;
use super::kick::Kick;
use crate::memory::engine::FaultSampler;

/// Most different faults (page and instruction) that are kept; samples of more are only counted.
const MAX_FAULTS: usize = 4096;

/// An instruction that ran into faults on a page.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct SampledFault {
    /// The page, by its place in the RAM file.
    pub page: u32,
    /// The instruction pointer, a guest-virtual address.
    pub instruction_pointer: u64,
    /// Samples.
    pub samples: u64,
}

/// The samples of a rank's vCPUs.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    faults: Mutex<BTreeMap<(u32, u64), u64>>,
    dropped: AtomicU64,
}

impl Samples {
    fn record(&self, page: Page, instruction_pointer: u64) {
        let mut faults = self.faults();
        let full = faults.len() >= MAX_FAULTS;
        match faults.get_mut(&(page.0, instruction_pointer)) {
            Some(samples) => *samples += 1,
            None if full => _ = self.dropped.fetch_add(1, Ordering::Relaxed),
            None => _ = faults.insert((page.0, instruction_pointer), 1),
        }
    }

    /// All kept, those with the most samples first, and how many were not.
    pub(crate) fn snapshot(&self) -> (Vec<SampledFault>, u64) {
        let faults = self.faults();
        let fault = |(&(page, instruction_pointer), &samples): (&(u32, u64), &u64)| SampledFault {
            page,
            instruction_pointer,
            samples,
        };
        let mut all: Vec<SampledFault> = faults.iter().map(fault).collect();
        all.sort_by_key(|fault| std::cmp::Reverse(fault.samples));
        (all, self.dropped.load(Ordering::Relaxed))
    }

    fn faults(&self) -> MutexGuard<'_, BTreeMap<(u32, u64), u64>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The fault of a vCPU that is to be looked at: its page plus one, zero for none.
#[derive(Debug, Default)]
pub(super) struct Wanted(AtomicU64);

impl Wanted {
    fn set(&self, page: Page) {
        self.0.store(u64::from(page.0) + 1, Ordering::Release);
    }

    /// The page of the fault to be looked at, once.
    pub(super) fn take(&self) -> Option<Page> {
        if self.0.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let page = self.0.swap(0, Ordering::Acquire).checked_sub(1)?;
        u32::try_from(page).ok().map(Page)
    }
}

/// Notes where vCPUs run into faults.
#[derive(Debug)]
pub(crate) struct VcpuSampler(Vec<(Arc<Kick>, Arc<Wanted>)>);

impl VcpuSampler {
    /// For these vCPUs.
    pub(crate) fn new(vcpus: &[VcpuHandle]) -> Self {
        Self(vcpus.iter().map(VcpuHandle::sampled_by).collect())
    }
}

impl FaultSampler for VcpuSampler {
    fn sample(&self, thread: i32, page: Page, _access: Access) {
        if let Some((kick, wanted)) = self.0.iter().find(|(kick, _)| kick.is_thread(thread)) {
            wanted.set(page);
            kick.wake();
        }
    }
}

/// Where a vCPU's thread leaves what it was asked to look at.
#[derive(Debug, Default)]
pub(crate) struct SampleSlot {
    pub(super) wanted: Arc<Wanted>,
    pub(super) samples: Arc<Samples>,
}

impl SampleSlot {
    /// The vCPU has come out of the guest. `kicked`: at a signal; then `instruction_pointer` tells where it is.
    pub(super) fn look(&self, kicked: bool, instruction_pointer: impl FnOnce() -> Option<u64>) {
        // An exit for something else comes after the instruction that ran into the fault.
        if let (Some(page), true) = (self.wanted.take(), kicked)
            && let Some(address) = instruction_pointer()
        {
            self.samples.record(page, address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_looked_at_once_and_only_at_the_kick() {
        let slot = SampleSlot::default();
        slot.look(true, || unreachable!("nothing is wanted"));
        slot.wanted.set(Page(0));
        slot.look(true, || Some(0x1000));
        slot.look(true, || unreachable!("it was looked at"));
        slot.wanted.set(Page(u32::MAX));
        slot.look(false, || unreachable!("another exit"));
        slot.look(true, || unreachable!("that was over with the other exit"));
        let first = SampledFault { page: 0, instruction_pointer: 0x1000, samples: 1 };
        assert_eq!(slot.samples.snapshot(), (vec![first], 0));
    }

    #[test]
    fn the_most_frequent_come_first_and_the_number_is_bounded() {
        let samples = Samples::default();
        for page in 0..4097 {
            samples.record(Page(page), 1);
        }
        samples.record(Page(7), 1);
        let (all, dropped) = samples.snapshot();
        assert_eq!((all.len(), dropped), (MAX_FAULTS, 1));
        assert_eq!(all[0], SampledFault { page: 7, instruction_pointer: 1, samples: 2 });
    }
}
