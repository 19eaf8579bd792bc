//! A machine of several ranks within this process, connected over TCP on the loopback interface.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::panic;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Segment, Transport, WordSegment};
use vincs_transport_tcp::endpoint::{TcpTransport, Timing};
use vincs_transport_tcp::fabric::{CONNECT_TIME, ConnectError, FabricConfig, connect, connect_open, join};
use vincs_transport_tcp::latecomers::Latecomers;
use vincs_transport_tcp::listener::{ListenError, Listener};
use vincs_transport_tcp::secret::{MachineId, Secret};
use vincs_vmm::cluster::{Cluster, Placement, Roll};
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
    /// Most ranks that there may be, with those that join later; without windows only.
    pub seats: u16,
}

impl Ranks {
    /// So many ranks with one shard, the rest as fits this host.
    #[must_use]
    pub fn new(ranks: u16) -> Self {
        Self { ranks, shards: 1, memory: MemorySettings::default(), window_slots: None, seats: ranks }
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

/// What it takes to join ranks.
#[derive(Debug)]
pub(crate) struct Way {
    ranks: Ranks,
    machine: MachineId,
    secret: Secret,
    addresses: Vec<(Rank, SocketAddr)>,
    /// Of each rank that is there: who has connected with it.
    pub(crate) latecomers: BTreeMap<u16, Latecomers>,
}

/// How long ranks may take to connect with one that joins.
pub(crate) const MEET_TIME: Duration = Duration::from_secs(30);

impl Way {
    /// Connects a further rank with these.
    pub(crate) fn join(&mut self, rank: u16, there: &[u16]) -> Result<Cluster, RanksError> {
        let listener = Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.address();
        let config = FabricConfig {
            rank: Rank(rank),
            addresses: Vec::new(),
            machine: self.machine,
            secret: self.secret.clone(),
            segments: (0..=self.ranks.shards).map(|_| None).collect(),
            connect_time: CONNECT_TIME,
            timing: Timing::default(),
        };
        let peers = self.addresses.iter().copied().filter(|(peer, _)| there.contains(&peer.0)).collect();
        let (ends, latecomers) = join(&config, self.ranks.seats, peers, listener)?;
        self.addresses.push((Rank(rank), address));
        self.latecomers.insert(rank, latecomers);
        cluster(&self.ranks, rank, ends, Vec::new()).ok_or_else(|| std::io::Error::other("no channels").into())
    }
}

/// The places of all ranks, connected, and the way in for others.
pub(crate) fn connected(ranks: &Ranks) -> Result<(Vec<Cluster>, Way), RanksError> {
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
        let seats = ranks.seats;
        thread::spawn(move || -> Result<_, ConnectError> {
            if seats > ranks_of(&config) {
                let (ends, latecomers) = connect_open(&config, seats, listener)?;
                return Ok((ends, Some(latecomers)));
            }
            Ok((connect(&config, listener)?.into_iter().map(Arc::new).collect(), None))
        })
    };
    let threads: Vec<_> = (0..).zip(listeners).map(start).collect();
    let (mut clusters, mut latecomers) = (Vec::new(), BTreeMap::new());
    for (rank, thread) in (0..).zip(threads) {
        let (ends, late) = thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))?;
        latecomers.extend(late.map(|late| (rank, late)));
        let windows = windows.get(usize::from(rank)).cloned().flatten().unwrap_or_default();
        clusters.extend(cluster(ranks, rank, ends, windows));
    }
    let addresses = (0..).map(Rank).zip(addresses).collect();
    Ok((clusters, Way { ranks: ranks.clone(), machine, secret, addresses, latecomers }))
}

fn ranks_of(config: &FabricConfig) -> u16 {
    u16::try_from(config.addresses.len()).unwrap_or(u16::MAX)
}

/// A rank's place with these channels; the first class is the control channel's.
fn cluster(ranks: &Ranks, rank: u16, ends: Vec<Arc<TcpTransport>>, windows: Vec<Arc<WordSegment>>) -> Option<Cluster> {
    let mut ends = ends.into_iter().map(|end| end as Arc<dyn Transport>);
    let control = ends.next()?;
    let (coherence, memory) = (ends.collect(), MemorySettings { windows, ..ranks.memory.clone() });
    Some(Cluster {
        rank: Rank(rank),
        ranks: ranks.ranks,
        seats: ranks.seats,
        placement: Placement::default(),
        shares: Vec::new(),
        fixed: None,
        coherence,
        control,
        memory,
        relaxed: None,
        roll: Roll::default(),
    })
}

/// Builds and starts the machines of all ranks at the same time, as they need each other for it.
pub(crate) fn start(configs: Vec<MachineConfig>) -> Result<Vec<Running>, MachineError> {
    let build = |config| thread::spawn(move || Machine::new(config)?.start());
    let threads: Vec<_> = configs.into_iter().map(build).collect();
    threads.into_iter().map(|thread| thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))).collect()
}
