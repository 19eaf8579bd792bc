//! Which processor is on which rank, and how a thread stays on one.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use super::control::Control;
use crate::memory::OpenError;

/// How long a machine may take to have its processors where they stay. They go there when the first command starts.
const SETTLE_TIME: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOK_TIME: Duration = Duration::from_millis(1);

/// The rank of each processor that the program may run on.
#[derive(Debug)]
pub(super) struct Places(BTreeMap<usize, u32>);

impl Places {
    /// Goes to each processor to see, when they are where they stay.
    pub(super) fn find(control: &Control) -> Result<Self, OpenError> {
        let allowed = sched_getaffinity(None).map_err(|error| OpenError::Processor(error.into()))?;
        let deadline = Instant::now() + SETTLE_TIME;
        let mut places = BTreeMap::new();
        for processor in (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)) {
            loop {
                let rank = at(processor, || control.rank()).map_err(OpenError::Processor)?;
                if let Some(rank) = rank.checked_sub(1) {
                    places.insert(processor, u32::try_from(rank).unwrap_or(u32::MAX));
                    break;
                }
                if Instant::now() > deadline {
                    return Err(OpenError::Unsettled(SETTLE_TIME.as_secs()));
                }
                std::thread::sleep(LOOK_TIME);
            }
        }
        Ok(Self(places))
    }

    pub(super) fn rank_of(&self, processor: usize) -> Option<u32> {
        self.0.get(&processor).copied()
    }

    /// A processor of each rank.
    pub(super) fn one_of_each(&self) -> Vec<usize> {
        let by_rank: BTreeMap<u32, usize> = self.0.iter().map(|(processor, rank)| (*rank, *processor)).collect();
        by_rank.into_values().collect()
    }
}

/// Does something on a processor, and lets the thread run where it could before.
pub(super) fn at<R>(processor: usize, what: impl FnOnce() -> R) -> io::Result<R> {
    let allowed = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    one.set(processor);
    // A thread that is on its own processor already is spared two system calls.
    let moves = allowed != one;
    if moves {
        sched_setaffinity(None, &one)?;
    }
    let result = what();
    if moves {
        sched_setaffinity(None, &allowed)?;
    }
    Ok(result)
}

/// The same on the processor on which the thread is.
pub(super) fn here<R>(what: impl FnOnce() -> R) -> io::Result<R> {
    at(sched_getcpu(), what)
}
