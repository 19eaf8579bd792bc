//! The connections between the ranks once all know each other: the only place that names the transport.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use vincs_coherence::id::{MAX_RANKS, Rank};
use vincs_coherence::transport::{Segment, Transport, WordSegment};
use vincs_transport_tcp::endpoint::{TcpTransport, Timing};
use vincs_transport_tcp::fabric::{self, CONNECT_TIME, ConnectError, FabricConfig, MAX_CLASSES};
use vincs_transport_tcp::latecomers::Latecomers;
use vincs_transport_tcp::listener::Listener;
use vincs_vmm::memory::engine::windows;
use vincs_vmm::memory::hlrc::Prepared;
use vincs_vmm::memory::relaxed::{self, RaceLines, RelaxedShare};

use crate::cli::cluster::MAX_SHARDS;
use crate::wireup::message::{Roster, Seat, Settings, ToCoordinator};
use crate::wireup::selection::Choice;
use crate::wireup::{Keys, rdma};

/// Channel classes besides one for each shard of the memory: that of control messages, which comes first.
pub(crate) const CONTROL_CLASSES: usize = 1;
/// And that of relaxed memory, which comes last where there is one.
const RELAXED_CLASSES: usize = 1;

const _: () = assert!(CONTROL_CLASSES + MAX_SHARDS as usize + RELAXED_CLASSES == MAX_CLASSES);

/// One endpoint per channel class: control, then the shards, then relaxed memory.
#[derive(Debug)]
pub(crate) enum Mesh {
    /// The connections themselves, this rank's relaxed memory, if the machine has some, and the way in for ranks that join later, if they may.
    Tcp(Vec<Arc<TcpTransport>>, Option<Box<Prepared>>, Option<Latecomers>),
    /// What goes over others, and has heard of all ranks already; and this rank's windows, the segments of all classes but that of control.
    Other(Vec<Arc<dyn Transport>>, Vec<Arc<WordSegment>>),
}

impl Mesh {
    /// What it is made of, once all ranks are known to be connected.
    pub(crate) fn into_parts(self) -> Parts {
        match self {
            Self::Tcp(ends, prepared, latecomers) => {
                ends.iter().for_each(|end| end.expect_signs());
                let mut ends: Vec<_> = ends.into_iter().map(|end| end as Arc<dyn Transport>).collect();
                let relaxed = prepared.and_then(|prepared| {
                    let channel = ends.pop()?;
                    Some(RelaxedShare { prepared: *prepared, channel })
                });
                Parts { ends, windows: Vec::new(), relaxed, latecomers }
            }
            Self::Other(ends, windows) => Parts { ends, windows, relaxed: None, latecomers: None },
        }
    }
}

/// What a mesh is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    /// Control, then the shards.
    pub(crate) ends: Vec<Arc<dyn Transport>>,
    /// This rank's windows, if the machine has some.
    pub(crate) windows: Vec<Arc<WordSegment>>,
    /// This rank's relaxed memory, if the machine has some.
    pub(crate) relaxed: Option<RelaxedShare>,
    /// The way in for ranks that join later, if they may.
    pub(crate) latecomers: Option<Latecomers>,
}

/// Why a rank is not connected with the others.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum MeshFault {
    /// Something of its own.
    Own(String),
    /// Another rank, which may know better why.
    Peer(String),
}

impl MeshFault {
    /// The same in words that name the rank that says so.
    pub(crate) fn said_of(self, who: &str) -> Self {
        match self {
            Self::Own(cause) => Self::Own(format!("{who} cannot connect: {cause}")),
            Self::Peer(cause) => Self::Peer(format!("{who} cannot connect: {cause}")),
        }
    }

    /// The words alone.
    pub(crate) fn into_line(self) -> String {
        match self {
            Self::Own(line) | Self::Peer(line) => line,
        }
    }

    /// What rank 0 is told.
    fn message(&self) -> ToCoordinator {
        match self {
            Self::Own(cause) => ToCoordinator::Failed(format!("cannot connect: {cause}")),
            Self::Peer(cause) => ToCoordinator::Missed(format!("cannot connect: {cause}")),
        }
    }
}

impl From<ConnectError> for MeshFault {
    fn from(error: ConnectError) -> Self {
        let line = error.to_string();
        match error {
            ConnectError::Config { .. } | ConnectError::Io(_) => Self::Own(line),
            ConnectError::Auth { .. }
            | ConnectError::Refused { .. }
            | ConnectError::Hello { .. }
            | ConnectError::Missing { .. } => Self::Peer(line),
        }
    }
}

/// An address at which this rank listens for the others.
#[derive(Debug)]
pub(crate) struct Listening(Listener);

impl Listening {
    /// Listens at this address of the host, at a port of the kernel's choice.
    ///
    /// # Errors
    /// Why not, with the address.
    pub(crate) fn bind(address: IpAddr) -> Result<Self, String> {
        Listener::bind(SocketAddr::new(address, 0)).map(Self).map_err(|error| error.to_string())
    }

    /// The address with its port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Connects a rank that joins with all who are there.
    ///
    /// # Errors
    /// Which rank is not connected, and why.
    pub(crate) fn join(self, seat: &Seat, keys: &Keys) -> Result<Mesh, MeshFault> {
        let classes = CONTROL_CLASSES + usize::try_from(seat.settings.shards).unwrap_or(usize::MAX);
        let no_rank = |_| MeshFault::Own(format!("{} is no rank", seat.rank));
        let config = FabricConfig {
            rank: Rank(u16::try_from(seat.rank).map_err(no_rank)?),
            addresses: Vec::new(),
            machine: keys.machine,
            secret: keys.secret.clone(),
            segments: (0..classes).map(|_| None).collect(),
            connect_time: CONNECT_TIME,
            timing: Timing::default(),
        };
        let peers = seat.peers.iter().map(|(rank, address)| (Rank(*rank), *address)).collect();
        let (ends, latecomers) = fabric::join(&config, MAX_RANKS, peers, self.0)?;
        Ok(Mesh::Tcp(ends, None, Some(latecomers)))
    }

    /// Connects with all ranks of the roster, which do the same.
    ///
    /// # Errors
    /// Which rank is not connected, and why.
    pub(crate) fn connect(self, rank: u32, roster: &Roster, keys: &Keys) -> Result<Mesh, MeshFault> {
        let strict = CONTROL_CLASSES + usize::try_from(roster.settings.shards).unwrap_or(usize::MAX);
        let no_rank = || MeshFault::Own(format!("{rank} is no rank"));
        let rank = Rank(u16::try_from(rank).map_err(|_| no_rank())?);
        let relaxed = relaxed_of(&roster.settings, rank, roster.addresses.len())?;
        let segments = std::iter::repeat_n(None, strict).chain(relaxed.iter().map(|relaxed| Some(relaxed.segment())));
        let config = FabricConfig {
            rank,
            addresses: roster.addresses.clone(),
            machine: keys.machine,
            secret: keys.secret.clone(),
            segments: segments.collect(),
            connect_time: CONNECT_TIME,
            timing: Timing::default(),
        };
        match &roster.settings.transport {
            // Its parts are those of the ranks that start it.
            Choice::Tcp if relaxed.is_some() => {
                let ends = fabric::connect(&config, self.0)?.into_iter().map(Arc::new).collect();
                Ok(Mesh::Tcp(ends, relaxed.map(Box::new), None))
            }
            Choice::Tcp => {
                let (ends, latecomers) = fabric::connect_open(&config, MAX_RANKS, self.0)?;
                Ok(Mesh::Tcp(ends, None, Some(latecomers)))
            }
            Choice::Rdma(offers) => {
                let ends = fabric::connect(&config, self.0)?;
                let offer = offers.get(usize::from(rank.0)).ok_or_else(no_rank)?;
                let ranks = u16::try_from(roster.addresses.len()).unwrap_or(u16::MAX);
                let windows = windows_of(&roster.settings)?;
                // Nobody reads what is controlled.
                let own = windows.iter().map(|window| Some(Arc::clone(window) as Arc<dyn Segment>));
                let segments = [None; CONTROL_CLASSES].into_iter().chain(own);
                let segments = segments.chain(std::iter::repeat_with(|| None)).take(strict).collect();
                Ok(Mesh::Other(rdma::connect(rank, ranks, offer, ends, segments)?, windows))
            }
        }
    }
}

/// This rank's relaxed memory, if the machine has any. Rank 0 sees to it that TCP connects a machine that has.
fn relaxed_of(settings: &Settings, rank: Rank, ranks: usize) -> Result<Option<Prepared>, MeshFault> {
    if settings.relaxed == 0 || settings.transport != Choice::Tcp {
        return Ok(None);
    }
    let ranks = u16::try_from(ranks).unwrap_or(u16::MAX);
    let told: Option<RaceLines> = settings.races.then_some(|line| crate::say(&line));
    let prepared = relaxed::prepare(rank, ranks, settings.relaxed, told);
    prepared.map(Some).map_err(|error| MeshFault::Own(format!("there is no relaxed memory: {error}")))
}

/// This rank's windows, if the machine has any.
fn windows_of(settings: &Settings) -> Result<Vec<Arc<WordSegment>>, MeshFault> {
    let Some(slots) = NonZeroU32::new(settings.window_slots) else { return Ok(Vec::new()) };
    let shards = u16::try_from(settings.shards).unwrap_or(u16::MAX);
    windows(shards, slots).map_err(|error| MeshFault::Own(format!("there is no memory for windows: {error}")))
}

/// A rank on the way to being connected, on a thread of its own: the one that started it goes on listening to rank 0, or to all others.
#[derive(Debug)]
pub(crate) struct Connecting {
    made: Receiver<Result<Mesh, MeshFault>>,
    faults: Receiver<MeshFault>,
}

impl Connecting {
    /// Connects with all ranks of the roster; `tell` is told of the result, as a rank tells rank 0.
    ///
    /// # Errors
    /// There is no thread.
    pub(crate) fn start(
        listening: Listening,
        rank: u32,
        roster: &Roster,
        keys: &Keys,
        tell: impl FnOnce(&ToCoordinator) + Send + 'static,
    ) -> io::Result<Self> {
        let (roster, keys) = (roster.clone(), keys.clone());
        let (sender, made) = mpsc::channel();
        let (faulty, faults) = mpsc::channel();
        let connect = move || {
            let result = listening.connect(rank, &roster, &keys);
            let answer = result.as_ref().map_or_else(MeshFault::message, |_| ToCoordinator::Connected);
            // Nobody waits any more if that fails.
            let _ = result.as_ref().map_err(|fault| faulty.send(fault.clone()));
            let _ = sender.send(result);
            tell(&answer);
        };
        thread::Builder::new().name("wireup-connect".into()).spawn(connect)?;
        Ok(Self { made, faults })
    }

    /// What has kept it from being connected, once.
    pub(crate) fn fault(&self) -> Option<MeshFault> {
        self.faults.try_recv().ok()
    }

    /// The connections, which have been made or soon are.
    ///
    /// # Errors
    /// [`MeshFault`].
    pub(crate) fn mesh(self, limit: Duration) -> Result<Mesh, MeshFault> {
        match self.made.recv_timeout(limit) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(MeshFault::Own(format!("it takes longer than {} s", limit.as_secs())))
            }
        }
    }
}
