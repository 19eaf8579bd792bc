//! Turns connected endpoints of another transport into RDMA ones: the ranks introduce their queue pairs over them, and keep them as lifelines.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::Timespec;
use vincs_coherence::id::{MAX_RANKS, Rank};
use vincs_coherence::transport::{Segment, SendError, Transport};

use crate::devices::{Found, Needs, TooSmall};
use crate::endpoint::{Inbox, Parts, RdmaTransport};
use crate::introduction::{Greeting, Introduction};
use crate::iwarp::{Doorway, Link};
use crate::lifeline::{Happened, Lifeline, keep_alive};
use crate::peer::{COMPLETIONS, DEPTHS, SLOTS, Unconnected};
use crate::verbs::VerbsError;
use crate::verbs::completion::{Completion, CompletionQueue};
use crate::verbs::device::ProtectionDomain;
use crate::verbs::memory::{Access, Buffer, RegisteredSegment, RemoteMemory};
use crate::verbs::queue_pair::{QueuePair, Remote, RemoteAddress, Route};

/// Packet numbers have so many bits.
const PACKET_NUMBER_MASK: u32 = 0x00ff_ffff;

/// What a rank knows when the ranks connect by RDMA. All but `rank` and `segments` is the same at all ranks.
#[derive(Debug)]
pub struct FabricConfig {
    /// This rank.
    pub rank: Rank,
    /// How many ranks there are.
    pub ranks: u16,
    /// For each channel class the memory that other ranks reach by one-sided operations of that class, if any.
    pub segments: Vec<Option<Arc<dyn Segment>>>,
    /// Time for all ranks to connect.
    pub connect_time: Duration,
}

/// Why the ranks are not connected by RDMA.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The configuration makes no machine.
    #[error(
        "rank {rank} of {ranks} with {segments} segments for {lifelines} channel classes: there are 1 to {MAX_RANKS} ranks, and a segment or none for each class"
    )]
    Config {
        /// This rank.
        rank: u16,
        /// Number of ranks.
        ranks: u16,
        /// Number of segments.
        segments: usize,
        /// Number of lifelines.
        lifelines: usize,
    },
    /// The device is too small.
    #[error(transparent)]
    TooSmall(#[from] TooSmall),
    /// The verbs library or the device.
    #[error(transparent)]
    Verbs(#[from] VerbsError),
    /// A rank does not introduce itself as it should.
    #[error("rank {} {what}", .rank.0)]
    Peer {
        /// Which.
        rank: Rank,
        /// What it does.
        what: String,
    },
    /// A rank is lost meanwhile.
    #[error("rank {} is lost: {reason}", .rank.0)]
    Lost {
        /// Which.
        rank: Rank,
        /// Why.
        reason: String,
    },
    /// A rank has not introduced itself.
    #[error("rank {} has not connected by RDMA within {time:?}", .rank.0)]
    Missing {
        /// Which: the lowest of those.
        rank: Rank,
        /// How long it had.
        time: Duration,
    },
    /// This host failed.
    #[error("cannot set up the connections between the ranks: {0}")]
    Io(#[from] io::Error),
}

/// A peer on the way to being connected.
#[derive(Debug)]
pub(crate) struct Arriving {
    pub(crate) rank: Rank,
    pub(crate) end: Unconnected,
    first_packet: u32,
    pub(crate) introduction: Option<Introduction>,
    ready: bool,
    /// On iWARP.
    pub(crate) link: Option<Link>,
}

/// A channel class on the way to being connected.
#[derive(Debug)]
pub(crate) struct Class {
    lifeline: Arc<Lifeline>,
    pub(crate) completions: Arc<CompletionQueue>,
    /// What came from peers that are connected already.
    pub(crate) ended: Vec<Completion>,
    segment: Option<RegisteredSegment>,
    /// On iWARP, a byte that the peers read as signs of life.
    pulse: Option<Arc<Buffer>>,
    /// By rank; none for this rank itself.
    pub(crate) peers: Vec<Option<Arriving>>,
}

/// Connects this rank with all others by RDMA, which do the same meanwhile. The lifelines, one for each channel class, are endpoints by which the ranks
/// are connected and which nobody has polled or sent by: they are authenticated, and what the ranks say there is as trustworthy. Gives
/// one endpoint per class. Until it is polled it shows signs of life by itself. `found` is the device that the ranks have agreed on for this one.
///
/// # Errors
/// [`ConnectError`] names the rank or the device, and the cause.
pub fn connect(
    config: &FabricConfig,
    found: &Found,
    lifelines: Vec<Box<dyn Transport>>,
) -> Result<Vec<RdmaTransport>, ConnectError> {
    let FabricConfig { rank, ranks, ref segments, .. } = *config;
    if ranks > MAX_RANKS || rank.0 >= ranks || segments.len() != lifelines.len() {
        let (segments, lifelines) = (segments.len(), lifelines.len());
        return Err(ConnectError::Config { rank: rank.0, ranks, segments, lifelines });
    }
    let deadline = Instant::now() + config.connect_time;
    let segment_bytes = segments.iter().flatten().map(|segment| segment.len()).sum::<u64>();
    let segment_bytes = usize::try_from(segment_bytes).unwrap_or(usize::MAX);
    let needs = Needs { ranks, classes: lifelines.len(), segment_bytes };
    needs.check(found)?;
    let domain = ProtectionDomain::new(&found.context)?;
    let mut classes = lifelines
        .into_iter()
        .zip(segments)
        .map(|(lifeline, segment)| Class::new(config, found, &domain, lifeline, segment.as_ref()))
        .collect::<Result<Vec<_>, _>>()?;
    let doorway = if found.context.is_iwarp() { Some(Doorway::open(found, rank, ranks, classes.len())?) } else { None };
    for class in &classes {
        class.introduce(found, doorway.as_ref())?;
    }
    let mut arrival = Arrival { config, deadline, doorway };
    arrival.wait(&mut classes, |peer| peer.introduction.is_some())?;
    for class in &mut classes {
        class.connect(found, &arrival)?;
    }
    arrival.wait(&mut classes, |peer| peer.ready && peer.link.as_ref().is_none_or(Link::is_open))?;
    keep_alive(classes.iter().map(|class| Arc::downgrade(&class.lifeline)).collect())?;
    classes.into_iter().map(|class| class.endpoint(rank, found)).collect()
}

impl Class {
    fn new(
        config: &FabricConfig,
        found: &Found,
        domain: &Arc<ProtectionDomain>,
        lifeline: Box<dyn Transport>,
        segment: Option<&Arc<dyn Segment>>,
    ) -> Result<Self, ConnectError> {
        let completions = CompletionQueue::new(&found.context, u32::from(config.ranks) * COMPLETIONS)?;
        let segment = match segment {
            Some(segment) => RegisteredSegment::new(domain, segment)?,
            None => None,
        };
        let pulse =
            if found.context.is_iwarp() { Some(Buffer::new(domain, Access::Shown, size_of::<u8>(), 1)?) } else { None };
        let arriving = |rank: Rank| -> Result<Option<Arriving>, ConnectError> {
            if rank == config.rank {
                return Ok(None);
            }
            let queues = QueuePair::create(domain, &completions, DEPTHS)?;
            let end = Unconnected::new(domain, queues, found.port.number)?;
            let mut random = [0; size_of::<u32>()];
            getrandom(&mut random, GetRandomFlags::empty()).map_err(io::Error::from)?;
            let first_packet = u32::from_le_bytes(random) & PACKET_NUMBER_MASK;
            let link = if found.context.is_iwarp() { Some(Link::new()?) } else { None };
            Ok(Some(Arriving { rank, end, first_packet, introduction: None, ready: false, link }))
        };
        let peers = (0..config.ranks).map(Rank).map(arriving).collect::<Result<Vec<_>, _>>()?;
        let lifeline = Arc::new(Lifeline::new(lifeline));
        Ok(Self { lifeline, completions, ended: Vec::new(), segment, pulse, peers })
    }

    /// Tells each peer where everything is.
    fn introduce(&self, found: &Found, doorway: Option<&Doorway>) -> Result<(), ConnectError> {
        let pulse = self.pulse.as_ref().map(|pulse| {
            let RemoteMemory { address, key, .. } = pulse.remote();
            RemoteAddress { address, key }
        });
        let doorway = doorway.zip(pulse);
        for peer in self.peers.iter().flatten() {
            let remote = Remote {
                queue_pair: peer.end.queue_pair.number(),
                first_packet: peer.first_packet,
                lid: found.port.lid,
                gid: found.gid.raw,
            };
            let introduction = Introduction {
                kind: found.gid.kind,
                remote,
                mtu: found.port.mtu,
                reads_served: found.limits.reads_served,
                memory: self.segment.as_ref().map(RegisteredSegment::remote).unwrap_or_default(),
                slots: SLOTS,
                door: doorway.zip(peer.link.as_ref()).map(|((doorway, pulse), link)| doorway.door(link, pulse)),
            };
            say(&self.lifeline, peer.rank, Greeting::Introduction(introduction))?;
        }
        Ok(())
    }

    /// Takes what has been said.
    fn listen(&mut self) -> Result<(), ConnectError> {
        for happened in self.lifeline.take() {
            let (rank, words) = match happened {
                Happened::Said(rank, words) => (rank, words),
                Happened::Lost(rank, reason) => return Err(ConnectError::Lost { rank, reason }),
            };
            let peer = self.peers.get_mut(usize::from(rank.0)).and_then(Option::as_mut);
            let peer = peer.ok_or(ConnectError::Peer { rank, what: "is no peer of this rank".to_owned() })?;
            let greeting = Greeting::from_bytes(&words);
            match greeting.map_err(|fault| ConnectError::Peer { rank, what: fault.to_string() })? {
                Greeting::Introduction(introduction) if peer.introduction.is_none() => {
                    peer.introduction = Some(introduction);
                }
                Greeting::Ready if peer.introduction.is_some() && !peer.ready => peer.ready = true,
                Greeting::Introduction(_) | Greeting::Ready => {
                    return Err(ConnectError::Peer { rank, what: "introduces itself out of order".to_owned() });
                }
            }
        }
        Ok(())
    }

    /// Connects the queue pairs, and tells each peer that it can be sent to; on iWARP begins to.
    fn connect(&mut self, found: &Found, arrival: &Arrival<'_>) -> Result<(), ConnectError> {
        for peer in self.peers.iter_mut().flatten() {
            let Some(theirs) = &peer.introduction else { continue };
            if theirs.kind != found.gid.kind {
                let (theirs, ours) = (theirs.kind, found.gid.kind);
                let what = format!("uses {theirs}, this rank's {} {ours} for its address", found.port.device);
                return Err(ConnectError::Peer { rank: peer.rank, what });
            }
            if let Some(doorway) = &arrival.doorway {
                doorway.call(peer, arrival.left())?;
                continue;
            }
            peer.end.queue_pair.connect(&Route {
                port: found.port.number,
                link_layer: found.port.link_layer,
                gid: found.gid,
                first_packet: peer.first_packet,
                mtu: found.port.mtu.min(theirs.mtu),
                reads_served: found.limits.reads_served,
                reads_asked: found.limits.reads_asked.min(theirs.reads_served),
                remote: theirs.remote,
            })?;
            say(&self.lifeline, peer.rank, Greeting::Ready)?;
        }
        Ok(())
    }

    /// Tells each peer that it can be sent to, once that is so on iWARP.
    fn welcome(&mut self) -> Result<(), ConnectError> {
        for peer in self.peers.iter_mut().flatten() {
            if peer.link.as_mut().is_some_and(Link::is_to_be_welcomed) {
                say(&self.lifeline, peer.rank, Greeting::Ready)?;
            }
        }
        Ok(())
    }

    fn endpoint(self, rank: Rank, found: &Found) -> Result<RdmaTransport, ConnectError> {
        let Self { lifeline, completions, ended, segment, pulse, peers } = self;
        let connected = |Arriving { rank, end, introduction, link, .. }: Arriving| {
            let theirs = introduction?;
            let number = end.queue_pair.number();
            link.and_then(Link::into_connection).into_iter().for_each(|connection| end.queue_pair.keep(connection));
            let (peer, receives) = end.connected(rank, theirs.memory, theirs.slots, theirs.door.map(|door| door.pulse));
            Some((number, peer, Inbox::new(receives)))
        };
        let peers = peers.into_iter().map(|peer| peer.and_then(connected)).collect();
        let device = found.port.device.clone();
        Ok(RdmaTransport::new(Parts { rank, device, peers, completions, ended, segment, pulse, lifeline })?)
    }
}

fn say(lifeline: &Lifeline, to: Rank, greeting: Greeting) -> Result<(), ConnectError> {
    let sent = lifeline.transport().send(to, &greeting.to_bytes(), &[]);
    sent.map_err(|error: SendError| ConnectError::Lost { rank: to, reason: error.to_string() })
}

/// The time in which the ranks connect.
#[derive(Debug)]
struct Arrival<'a> {
    config: &'a FabricConfig,
    deadline: Instant,
    /// On iWARP.
    doorway: Option<Doorway>,
}

impl Arrival<'_> {
    /// What is left of it.
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Listens until something holds for each peer of each class.
    fn wait(&mut self, classes: &mut [Class], holds: impl Fn(&Arriving) -> bool) -> Result<(), ConnectError> {
        loop {
            for class in &mut *classes {
                class.listen()?;
            }
            if let Some(doorway) = &self.doorway {
                // What comes after this wakes the sleep below.
                classes.iter().try_for_each(|class| class.completions.arm())?;
                doorway.attend(classes)?;
                classes.iter_mut().try_for_each(Class::welcome)?;
            }
            let missing = classes.iter().flat_map(|class| class.peers.iter().flatten()).filter(|peer| !holds(peer));
            let Some(rank) = missing.map(|peer| peer.rank).min() else { return Ok(()) };
            let left = self.left();
            if left.is_zero() {
                return Err(ConnectError::Missing { rank, time: self.config.connect_time });
            }
            let lifelines = || classes.iter().map(|class| class.lifeline.transport());
            let time = lifelines().map(Transport::poll_within).fold(left, Duration::min);
            let mut fds: Vec<_> = lifelines().map(|end| PollFd::from_borrowed_fd(end.ready(), PollFlags::IN)).collect();
            if let Some(doorway) = &self.doorway {
                let channels = classes.iter().map(|class| class.completions.channel());
                fds.extend(channels.chain([doorway.fd()]).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            }
            // It fails only when a signal arrives; then the next look comes sooner.
            let _: rustix::io::Result<usize> = poll(&mut fds, Timespec::try_from(time).ok().as_ref());
            drop(fds);
            if self.doorway.is_some() {
                classes.iter().for_each(|class| class.completions.disarm());
            }
        }
    }
}
