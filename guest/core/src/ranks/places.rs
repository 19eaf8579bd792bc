//! Which processor is on which rank, and how a thread stays on one.

use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use super::control::Control;
use crate::memory::OpenError;

/// How long a machine may take to have its processors where they stay. They go there when the first command starts.
const SETTLE_TIME: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOK_TIME: Duration = Duration::from_millis(1);

/// The processors that the program could run on when it first opened relaxed memory; since then its threads [stay on a rank](Places::stay_on_rank).
static ALLOWED: OnceLock<CpuSet> = OnceLock::new();

/// The rank of each processor that the program may run on.
#[derive(Debug)]
pub(super) struct Places(BTreeMap<usize, u32>);

impl Places {
    /// Goes to each processor to see, when they are where they stay.
    pub(super) fn find(control: &Control) -> Result<Self, OpenError> {
        let now = sched_getaffinity(None).map_err(|error| OpenError::Processor(error.into()))?;
        let allowed = *ALLOWED.get_or_init(|| now);
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

    /// All of them, in order.
    pub(super) fn all(&self) -> Vec<usize> {
        self.0.keys().copied().collect()
    }

    /// The same, with the rank of each.
    pub(super) fn with_ranks(&self) -> Vec<(usize, u32)> {
        self.0.iter().map(|(processor, rank)| (*processor, *rank)).collect()
    }

    /// Keeps the calling thread, and those that it starts, on the rank on which it is: what it writes and reads is on one rank then, whatever the kernel does.
    pub(super) fn stay_on_rank(&self) -> io::Result<()> {
        let rank = self.rank_of(sched_getcpu());
        let mut set = CpuSet::new();
        self.0.iter().filter(|(_, other)| Some(**other) == rank).for_each(|(processor, _)| set.set(*processor));
        Ok(sched_setaffinity(None, &set)?)
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
