//! Ranks with strict memory: what a guest's RAM on several ranks is, without a guest.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use vincs_coherence::home::{HomeMap, HomeMapError};
use vincs_coherence::id::{PAGE_BYTES, Rank};
use vincs_vmm::memory::engine::{Engine, EngineConfig, EngineError, EngineEvent, MemorySettings};
use vincs_vmm::memory::{GuestRam, RamError};
use vm_memory::GuestAddress;

use super::{Costs, Place, RanksError};
use crate::team::shared::{Area, Part, Segment, Whole};
use crate::team::{MAX_SUM, NoMemory, Team};

/// Pages with one home: arrays are spread over all ranks, and each page goes where it is used.
const STRIPE: u32 = 64;

/// Looks at another rank's word before this processor is given to somebody else.
const SPINS: u32 = 64;

/// Why there is no strict memory.
#[derive(Debug, thiserror::Error)]
pub enum StrictError {
    /// The host refuses memory.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// Too many pages.
    #[error(transparent)]
    Homes(#[from] HomeMapError),
    /// The engine does not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// This rank as a member. Each rank has a page of its own at the start of memory: how many barriers it has come to, and what it adds to sums, in turns.
#[derive(Debug)]
struct Strict {
    whole: Arc<Whole>,
    rank: usize,
    ranks: usize,
    passed: Arc<AtomicU64>,
    /// Bytes of memory that are in use.
    used: Cell<usize>,
    /// Nanoseconds at barriers.
    waited: Cell<u64>,
}

/// Runs `program` as a member of the team.
///
/// # Errors
///
/// The memory cannot be had.
pub(super) fn run<R>(
    place: Place,
    room: usize,
    program: impl FnOnce(&dyn Team) -> R,
) -> Result<(R, Costs), RanksError> {
    let (rank, ranks) = (place.rank(), place.ranks());
    let stripes = u32::try_from(room.div_ceil(STRIPE as usize * PAGE_BYTES)).unwrap_or(u32::MAX);
    let homes = (0..stripes.saturating_mul(ranks.into())).map(|stripe| {
        let home = stripe % u32::from(ranks);
        (STRIPE, Rank(u16::try_from(home).unwrap_or(0)))
    });
    let homes = HomeMap::new(homes).map_err(StrictError::from)?;
    let bytes = homes.pages() as usize * PAGE_BYTES;
    let ram = GuestRam::new(&[(GuestAddress(0), bytes)]).map_err(StrictError::from)?;
    let tell = place.ending::<String>();
    let events = Arc::new(move |event: EngineEvent| tell(format!("{event:?}")));
    let (transport, mut rests) = place.connect(None)?;
    let memory = MemorySettings::default();
    let config = EngineConfig { rank, ranks, homes, shards: 1, memory, processors: 1, sampler: None };
    let mut engine = Engine::start(&ram, config, vec![transport], events).map_err(StrictError::from)?;
    let team = Strict {
        whole: Arc::new(Whole::new(ram)),
        rank: rank.0.into(),
        ranks: ranks.into(),
        passed: Arc::default(),
        used: Cell::new(usize::from(ranks) * PAGE_BYTES),
        waited: Cell::new(0),
    };
    let result = program(&team);
    team.barrier();
    rests.end()?;
    engine.stop();
    let statistics = engine.stats();
    let (sent, received) = (statistics.sent.total(), statistics.received.total());
    let faults = [&statistics.read_faults, &statistics.write_faults, &statistics.upgrade_faults];
    let costs = Costs {
        messages: sent.messages,
        bytes: sent.bytes + received.bytes,
        faults: faults.iter().map(|faults| faults.count()).sum(),
        synchronising: team.waited.get() as f64 / 1e9,
    };
    Ok((result, costs))
}

impl Strict {
    /// A word of a rank's page.
    fn word(&self, rank: usize, index: usize) -> &AtomicU64 {
        self.whole.word(rank * PAGE_BYTES / 8 + index)
    }

    /// Where the addends of a rank are for the sum that comes next.
    fn addend(&self, rank: usize, at: usize) -> &AtomicU64 {
        let turn = usize::from(self.passed.load(Ordering::Relaxed) % 2 == 1);
        self.word(rank, 8 + turn * MAX_SUM + at)
    }
}

impl Team for Strict {
    fn member(&self) -> usize {
        self.rank
    }

    fn members(&self) -> usize {
        self.ranks
    }

    fn barrier(&self) {
        let started = Instant::now();
        let come = self.passed.load(Ordering::Relaxed) + 1;
        self.word(self.rank, 0).store(come, Ordering::SeqCst);
        for other in (0..self.ranks).filter(|other| *other != self.rank) {
            let mut looks = 0_u32;
            while self.word(other, 0).load(Ordering::SeqCst) < come {
                looks += 1;
                if looks.is_multiple_of(SPINS) {
                    std::thread::yield_now();
                }
                std::hint::spin_loop();
            }
        }
        self.passed.store(come, Ordering::Relaxed);
        let waited = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.waited.set(self.waited.get().saturating_add(waited));
    }

    fn sum(&self, values: &mut [f64]) {
        assert!(values.len() <= MAX_SUM, "{} values, at most {MAX_SUM}", values.len());
        for (at, value) in values.iter().enumerate() {
            self.addend(self.rank, at).store(value.to_bits(), Ordering::Relaxed);
        }
        // Whoever is at the next sum already writes the other addends.
        let addends: Vec<Vec<&AtomicU64>> =
            (0..values.len()).map(|at| (0..self.ranks).map(|rank| self.addend(rank, at)).collect()).collect();
        self.barrier();
        for (value, addends) in values.iter_mut().zip(addends) {
            *value = addends.iter().map(|word| f64::from_bits(word.load(Ordering::Relaxed))).sum();
        }
    }

    fn segment(&self, bytes: usize) -> Result<Segment, NoMemory> {
        let no_memory = NoMemory { bytes };
        let len = bytes.max(1).checked_next_multiple_of(PAGE_BYTES).ok_or(no_memory)?;
        let part = Part::new(Arc::clone(&self.whole), self.used.get(), len).ok_or(no_memory)?;
        self.used.set(self.used.get() + len);
        let area = Arc::new(Area::new(part));
        Ok(Segment { area, member: self.rank, passed: Arc::clone(&self.passed) })
    }
}
