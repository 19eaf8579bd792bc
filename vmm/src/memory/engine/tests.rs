//! Engines of several ranks in one process, each with its own guest memory, and threads that use it.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use vincs_coherence::home::HomeMap;
use vincs_coherence::id::{PAGE_BYTES, Rank};
use vincs_coherence::transport::Transport;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::mailbox::locked;
use super::{Engine, EngineConfig, EngineEvent, EngineStats, MemorySettings};
use crate::memory::GuestRam;
use crate::test_transport::{End, Hub};

mod devices;
mod endings;
mod hand_overs;
mod sharing;
mod windows;

/// A machine of several ranks in this process.
struct Cluster {
    ranks: Vec<One>,
    /// The ends of all ranks, for each shard.
    channels: Vec<Vec<Arc<End>>>,
}

struct One {
    engine: Engine,
    ram: GuestRam,
    events: Arc<Mutex<Vec<EngineEvent>>>,
}

struct Setup {
    ranks: u16,
    /// How many of them, the first, are homes.
    homes: u16,
    /// Pages homed at each rank.
    pages: u32,
    shards: u16,
    cache_pages: Option<u32>,
    read_ahead: u16,
    first_touch: u16,
    hold: Duration,
    /// Slots of each window; none without windows.
    slots: Option<NonZeroU32>,
}

impl Setup {
    fn of(ranks: u16, pages: u32) -> Self {
        let hold = Duration::from_micros(50);
        Self {
            ranks,
            homes: ranks,
            pages,
            shards: 1,
            cache_pages: None,
            read_ahead: 8,
            first_touch: 4,
            hold,
            slots: None,
        }
    }

    fn start(self) -> Cluster {
        // By rank and shard.
        let windows: Vec<Vec<_>> = (0..self.ranks)
            .map(|_| self.slots.map_or_else(Vec::new, |slots| super::windows(self.shards, slots).unwrap()))
            .collect();
        let of_shard = |shard| windows.iter().filter_map(|of| of.get(usize::from(shard)).cloned()).collect();
        let channels: Vec<_> = (0..self.shards).map(|shard| Hub::ends_with(self.ranks, of_shard(shard))).collect();
        let one = |rank| {
            let bytes = self.pages as usize * usize::from(self.homes) * PAGE_BYTES;
            let ram = GuestRam::new(&[(GuestAddress(0), bytes)]).unwrap();
            let config = EngineConfig {
                rank,
                ranks: self.ranks,
                homes: HomeMap::new((0..self.homes).map(|home| (self.pages, Rank(home)))).unwrap(),
                shards: self.shards,
                memory: MemorySettings {
                    hold: Some(self.hold),
                    cache_pages: self.cache_pages,
                    read_ahead: self.read_ahead,
                    first_touch: self.first_touch,
                    companions: 8,
                    spin: Duration::ZERO,
                    windows: windows[usize::from(rank.0)].clone(),
                    ..MemorySettings::default()
                },
                processors: 1,
                sampler: None,
            };
            let events = Arc::new(Mutex::new(Vec::new()));
            let told = Arc::clone(&events);
            let end = |ends: &Vec<Arc<End>>| Arc::clone(&ends[usize::from(rank.0)]) as Arc<dyn Transport>;
            let transports = channels.iter().map(end).collect();
            let engine = Engine::start(&ram, config, transports, Arc::new(move |event| locked(&told).push(event)));
            One { engine: engine.unwrap(), ram, events }
        };
        Cluster { ranks: (0..self.ranks).map(Rank).map(one).collect(), channels }
    }
}

impl Cluster {
    /// A rank is lost; all others are told.
    fn lose(&self, rank: u16) {
        let others = (0..).zip(&self.ranks).map(|(other, _)| other).filter(|other| *other != rank);
        for (channel, other) in
            self.channels.iter().flat_map(|channel| others.clone().map(move |other| (channel, other)))
        {
            channel[usize::from(rank)].lose(Rank(other), "the test wants it");
        }
    }

    /// A word of a page, as a processor of a rank sees it.
    fn word(&self, rank: usize, page: u32, index: usize) -> &AtomicU64 {
        let address = GuestAddress(u64::from(page) * PAGE_BYTES as u64 + index as u64 * 8);
        let host = self.ranks[rank].ram.guest_mapping().get_host_address(address).unwrap();
        // SAFETY: the guest mapping lives as long as `self`, and words of it are only used atomically.
        unsafe { &*(host as *const AtomicU64) }
    }

    /// Fails if an engine has told of something.
    fn assert_quiet(&self) {
        for (rank, one) in self.ranks.iter().enumerate() {
            assert_eq!(*locked(&one.events), [], "rank {rank}");
        }
    }

    /// Waits until a rank's engine has told of something, and gives it.
    fn event(&self, rank: usize) -> EngineEvent {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(event) = locked(&self.ranks[rank].events).first() {
                return event.clone();
            }
            assert!(Instant::now() < deadline, "nothing is told");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// What a rank's engine has counted, all of it: it is stopped, so the other ranks must need nothing more.
    fn stats(&mut self, rank: usize) -> EngineStats {
        self.ranks[rank].engine.stop();
        self.ranks[rank].engine.stats()
    }

    fn stop(&mut self) {
        self.ranks.iter_mut().for_each(|one| one.engine.stop());
    }
}

/// Small numbers that look random, the same for the same seed (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        u32::try_from(high % u64::from(limit)).unwrap()
    }
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap()
}
