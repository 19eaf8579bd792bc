//! Ranks with relaxed memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vincs_coherence::hlrc::LockId;
use vincs_coherence::hlrc::node::Reduction;
use vincs_coherence::id::PAGE_BYTES;
use vincs_vmm::memory::hlrc::{
    ArrayError, Member, Memory, Prepared, RaceReport, RaceSink, Settings, Statistics, SyncError,
};

use super::{Costs, Place, RanksError, fail, say};
use crate::team::shared::{Area, Distributed, Segment};
use crate::team::{MAX_SUM, NoMemory, Team};

/// Locks of a team.
pub const LOCKS: u32 = 1024;

/// This rank as a member.
#[derive(Debug)]
pub struct Relaxed {
    memory: Memory,
    member: Member,
    rank: usize,
    ranks: usize,
    passed: Arc<AtomicU64>,
}

/// Runs `program` as a member of the team.
///
/// # Errors
///
/// The memory cannot be had.
pub fn run<R>(place: Place, room: usize, program: impl FnOnce(&Relaxed) -> R) -> Result<(R, Costs), RanksError> {
    let (rank, ranks) = (place.rank(), place.ranks());
    let pages = u32::try_from(room.div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX);
    let looks_for_races = place.looks_for_races;
    let races = looks_for_races.then(|| RaceSink::new(|report: RaceReport| say(&report.to_string())));
    let settings = Settings { races, locks: LOCKS, ..Settings::new(rank, vec![1; ranks.into()], pages) };
    let prepared = Prepared::new(settings)?;
    let ending = place.ending();
    let (transport, mut rests) = place.connect(Some(prepared.segment()))?;
    let memory = prepared.start(transport, ending)?;
    let member = memory.join(0)?;
    let team = Relaxed { memory, member, rank: rank.0.into(), ranks: ranks.into(), passed: Arc::default() };
    let result = program(&team);
    team.barrier();
    let costs = team.costs();
    if looks_for_races {
        // Until rank 0 has heard all.
        team.memory.leave();
    }
    rests.end()?;
    Ok((result, costs))
}

impl Relaxed {
    /// Waits for a lock; what its last holder wrote is seen from then on.
    pub fn acquire(&self, lock: LockId) {
        if self.or_end(self.member.acquire(lock)) {
            fail(&format!("rank {}: the last holder of lock {} has ended with it", self.rank, lock.0));
        }
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives a lock back that this member has.
    pub fn release(&self, lock: LockId) {
        self.or_end(self.member.release(lock));
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    /// What this rank's memory has done so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.memory.statistics().unwrap_or_default()
    }

    fn costs(&self) -> Costs {
        let Statistics { traffic, faults, synchronising, .. } = self.statistics();
        Costs {
            messages: traffic.requests(),
            bytes: traffic.bytes_got + traffic.bytes_put,
            faults,
            synchronising: synchronising as f64 / 1e9,
        }
    }

    fn or_end<T>(&self, result: Result<T, SyncError>) -> T {
        result.unwrap_or_else(|error| fail(&format!("rank {}: {error}", self.rank)))
    }
}

impl Team for Relaxed {
    fn member(&self) -> usize {
        self.rank
    }

    fn members(&self) -> usize {
        self.ranks
    }

    fn barrier(&self) {
        self.or_end(self.member.barrier());
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    fn sum(&self, values: &mut [f64]) {
        assert!(values.len() <= MAX_SUM, "{} values, at most {MAX_SUM}", values.len());
        if values.is_empty() {
            return self.barrier();
        }
        for value in values {
            let sum = self.or_end(self.member.reduce(Reduction::SumFloat, value.to_bits()));
            *value = f64::from_bits(sum);
        }
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    fn segment(&self, bytes: usize) -> Result<Segment, NoMemory> {
        let array = self.memory.array_in_blocks(bytes.max(1)).map_err(|error| match error {
            // All ranks have the same room, so all are told the same.
            ArrayError::NoRoom { .. } => NoMemory { bytes },
            // The others have theirs, and would wait for this one.
            other @ (ArrayError::Ranks { .. } | ArrayError::Map(_) | ArrayError::Ended) => {
                fail(&format!("rank {}: {other}", self.rank))
            }
        })?;
        let area = Arc::new(Area::new(Distributed::from(array)));
        Ok(Segment { area, member: self.rank, passed: Arc::clone(&self.passed) })
    }
}
