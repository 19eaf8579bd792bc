//! A machine of several ranks within this process, connected over TCP on the loopback interface.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::panic;
use std::sync::Arc;
use std::thread;

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Segment, Transport};
use vincs_transport_tcp::endpoint::Timing;
use vincs_transport_tcp::fabric::{CONNECT_TIME, ConnectError, FabricConfig, connect};
use vincs_transport_tcp::listener::{ListenError, Listener};
use vincs_transport_tcp::secret::{MachineId, Secret};
use vincs_vmm::cluster::{Cluster, Roll};
use vincs_vmm::machine::{Machine, MachineConfig, MachineError, Running};
use vincs_vmm::memory::engine::{MemorySettings, windows};

/// How a machine is spread over ranks.
#[derive(Clone, Debug)]
pub struct Ranks {
    /// How many.
    pub ranks: u16,
    /// Shards of memory: threads of each rank that serve faults.
    pub shards: u16,
    /// How memory is spread.
    pub memory: MemorySettings,
    /// Slots of the windows in which ranks show clean pages; without them there are none.
    pub window_slots: Option<NonZeroU32>,
}

impl Ranks {
    /// So many ranks with one shard, the rest as fits this host.
    #[must_use]
    pub fn new(ranks: u16) -> Self {
        Self { ranks, shards: 1, memory: MemorySettings::default(), window_slots: None }
    }
}

/// Why ranks are not connected.
#[derive(Debug, thiserror::Error)]
pub enum RanksError {
    /// No port on the loopback interface.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No random bytes for the secret.
    #[error("the kernel gives no random bytes for the machine's secret: {0}")]
    Secret(#[from] std::io::Error),
    /// No memory for windows.
    #[error("there is no memory for windows: {0}")]
    Windows(std::io::Error),
    /// A connection failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// The places of all ranks, connected.
pub(crate) fn connected(ranks: &Ranks) -> Result<Vec<Cluster>, RanksError> {
    let bind = |_| Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let listeners = (0..ranks.ranks).map(bind).collect::<Result<Vec<_>, _>>()?;
    let addresses: Vec<_> = listeners.iter().map(Listener::address).collect();
    let (machine, secret) = (MachineId::random()?, Secret::random()?);
    let windows: Vec<_> = (0..ranks.ranks)
        .map(|_| ranks.window_slots.map(|slots| windows(ranks.shards, slots)).transpose())
        .collect::<Result<_, _>>()
        .map_err(RanksError::Windows)?;
    let start = |(rank, listener): (u16, Listener)| {
        // The first class is the control channel's.
        let mut segments: Vec<Option<Arc<dyn Segment>>> = vec![None; 1 + usize::from(ranks.shards)];
        let of_rank = windows.get(usize::from(rank)).and_then(Option::as_ref);
        for (segment, window) in segments.iter_mut().skip(1).zip(of_rank.into_iter().flatten()) {
            *segment = Some(Arc::clone(window) as _);
        }
        let config = FabricConfig {
            rank: Rank(rank),
            addresses: addresses.clone(),
            machine,
            secret: secret.clone(),
            segments,
            connect_time: CONNECT_TIME,
            timing: Timing::default(),
        };
        thread::spawn(move || connect(&config, listener))
    };
    let threads: Vec<_> = (0..).zip(listeners).map(start).collect();
    let mut clusters = Vec::new();
    for (rank, thread) in (0..).zip(threads) {
        let ends = thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))?;
        let mut ends = ends.into_iter().map(|end| Arc::new(end) as Arc<dyn Transport>);
        // The first class is the control channel's; each rank has asked for it.
        let Some(control) = ends.next() else { continue };
        let windows = windows.get(usize::from(rank)).cloned().flatten().unwrap_or_default();
        let (coherence, memory) = (ends.collect(), MemorySettings { windows, ..ranks.memory.clone() });
        clusters.push(Cluster {
            rank: Rank(rank),
            ranks: ranks.ranks,
            coherence,
            control,
            memory,
            relaxed: None,
            roll: Roll::default(),
        });
    }
    Ok(clusters)
}

/// Builds and starts the machines of all ranks at the same time, as they need each other for it.
pub(crate) fn start(configs: Vec<MachineConfig>) -> Result<Vec<Running>, MachineError> {
    let build = |config| thread::spawn(move || Machine::new(config)?.start());
    let threads: Vec<_> = configs.into_iter().map(build).collect();
    threads.into_iter().map(|thread| thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))).collect()
}
