//! Relaxed memory of several ranks in one process, over TCP: real faults, real connections.

#![expect(clippy::unwrap_used, reason = "what sets the ranks up is beside the test functions")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use vincs_coherence::hlrc::LockId;
use vincs_coherence::id::Rank;
use vincs_coherence::transport::Transport;
use vincs_transport_tcp::endpoint::Timing;
use vincs_transport_tcp::fabric::{CONNECT_TIME, FabricConfig, connect};
use vincs_transport_tcp::listener::Listener;
use vincs_transport_tcp::secret::{MachineId, Secret};
use vincs_vmm::memory::hlrc::{Array, Ending, Member, Memory, Prepared, Settings};

#[path = "relaxed/endings.rs"]
mod endings;
#[path = "relaxed/sharing.rs"]
mod sharing;
#[path = "relaxed/teams.rs"]
mod teams;

const PAGE: usize = 4096;
const LOCK: LockId = LockId(0);
/// Longest wait for something that happens at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a rank was told of its end.
type Told = Arc<Mutex<Vec<Ending>>>;

/// Ranks.
struct Machine {
    memories: Vec<Memory>,
    told: Vec<Told>,
}

impl Machine {
    /// Ranks with so many threads each.
    fn new(team: &[u16], change: impl Fn(&mut Settings) + Sync) -> Self {
        let listeners: Vec<_> =
            team.iter().map(|_| Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap()).collect();
        let addresses: Vec<_> = listeners.iter().map(Listener::address).collect();
        let (machine, secret) = (MachineId::random().unwrap(), Secret::random().unwrap());
        let start = |(rank, listener): (u16, Listener)| {
            let mut settings = Settings::new(Rank(rank), team.to_vec(), 1024);
            change(&mut settings);
            let prepared = Prepared::new(settings).unwrap();
            let config = FabricConfig {
                rank: Rank(rank),
                addresses: addresses.clone(),
                machine,
                secret: secret.clone(),
                segments: vec![Some(prepared.segment())],
                connect_time: CONNECT_TIME,
                timing: Timing::default(),
            };
            let transport = connect(&config, listener).unwrap().remove(0);
            let told = Told::default();
            let sink = Arc::clone(&told);
            let ending = Arc::new(move |ending| sink.lock().unwrap_or_else(PoisonError::into_inner).push(ending));
            (prepared.start(Arc::new(transport) as Arc<dyn Transport>, ending).unwrap(), told)
        };
        let ranks: Vec<_> = thread::scope(|scope| {
            let start = &start;
            let started: Vec<_> = (0..).zip(listeners).map(|one| scope.spawn(move || start(one))).collect();
            started.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        let (memories, told) = ranks.into_iter().unzip();
        Self { memories, told }
    }

    /// An array in blocks, by rank.
    fn array(&self, bytes: usize) -> Vec<View> {
        self.memories.iter().map(|memory| View(memory.array_in_blocks(bytes).unwrap())).collect()
    }

    /// Runs a program on each thread of the team; all leave at the end, and nothing was told.
    fn run(&self, team: &[u16], program: impl Fn(&Member, usize, u16) + Sync) {
        thread::scope(|scope| {
            let program = &program;
            for ((rank, memory), threads) in self.memories.iter().enumerate().zip(team) {
                for number in 0..*threads {
                    scope.spawn(move || program(&memory.join(number).unwrap(), rank, number));
                }
            }
        });
        thread::scope(|scope| {
            for memory in &self.memories {
                scope.spawn(|| memory.leave());
            }
        });
        self.assert_quiet();
    }

    fn assert_quiet(&self) {
        for (rank, told) in self.told.iter().enumerate() {
            assert_eq!(*told.lock().unwrap(), [], "rank {rank}");
        }
    }

    /// What a rank is told, once it is.
    fn ending(&self, rank: usize) -> Ending {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(ending) = self.told[rank].lock().unwrap().first() {
                return ending.clone();
            }
            assert!(Instant::now() < deadline, "rank {rank} is told nothing");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// An array as a rank sees it.
#[derive(Clone)]
struct View(Array);

impl View {
    fn byte(&self, at: usize) -> &AtomicU8 {
        assert!(at < self.0.bytes());
        // SAFETY: the byte is in the array.
        let byte = unsafe { self.0.start().as_ptr().add(at) };
        // SAFETY: the array lives as long as `self`. Accesses are atomic, so that a race of a wrong driver is no undefined behaviour.
        unsafe { &*byte.cast::<AtomicU8>() }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!((at + 1) * 8 <= self.0.bytes());
        // SAFETY: the word is in the array.
        let word = unsafe { self.0.start().as_ptr().cast::<AtomicU64>().add(at) };
        // SAFETY: as for bytes; the array is on a whole page.
        unsafe { &*word }
    }

    fn read(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Relaxed)
    }

    fn write(&self, at: usize, word: u64) {
        self.word(at).store(word, Ordering::Relaxed);
    }
}
