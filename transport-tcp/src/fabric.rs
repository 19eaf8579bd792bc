//! Connects all ranks with each other: one connection per pair of ranks and channel class, made by the higher rank. A machine may have places for ranks
//! that come while it runs ([`connect_open`], [`join`]); those are higher than all that are there.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use vincs_coherence::id::{MAX_RANKS, Rank, RankSet};
use vincs_coherence::transport::Segment;

use crate::auth::{AUTH_TIME, AuthError, AuthFault, Authenticated, FrameError};
use crate::endpoint::{TcpTransport, Timing};
use crate::hello::{HELLO_BYTES, Hello, MAX_REFUSAL};
use crate::herald;
use crate::latecomers::{self, Latecomers};
use crate::listener::{Door, Listener};
use crate::secret::{MachineId, Secret};

/// Most channel classes of a machine.
pub const MAX_CLASSES: usize = 17;

/// Time for all ranks to connect, if nothing else is said.
pub const CONNECT_TIME: Duration = Duration::from_secs(30);

/// What a rank knows when the ranks connect with each other. All but `rank` and `segments` is the same at all ranks.
#[derive(Debug)]
pub struct FabricConfig {
    /// This rank.
    pub rank: Rank,
    /// Where each rank listens, by rank. This rank's own is that of its [`Listener`].
    pub addresses: Vec<SocketAddr>,
    /// The machine.
    pub machine: MachineId,
    /// What its ranks know and nobody else does.
    pub secret: Secret,
    /// For each channel class the memory that other ranks reach by one-sided operations of that class, if any.
    pub segments: Vec<Option<Arc<dyn Segment>>>,
    /// Time for all ranks to connect.
    pub connect_time: Duration,
    /// Signs of life.
    pub timing: Timing,
}

/// Why the ranks are not connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The configuration makes no machine.
    #[error(
        "rank {rank} of {ranks} with {classes} channel classes: there are 1 to {MAX_RANKS} ranks and 1 to {MAX_CLASSES} classes"
    )]
    Config {
        /// This rank.
        rank: u16,
        /// Number of ranks.
        ranks: usize,
        /// Number of classes.
        classes: usize,
    },
    /// A rank could not be connected to.
    #[error("rank {} at {cause}", .rank.0)]
    Auth {
        /// Which.
        rank: Rank,
        /// Its address and why.
        #[source]
        cause: AuthError,
    },
    /// A rank has refused this one.
    #[error("rank {} at {address} refuses this rank: {reason}", .rank.0)]
    Refused {
        /// Which.
        rank: Rank,
        /// Where.
        address: SocketAddr,
        /// Why, in its words.
        reason: String,
    },
    /// A rank did not answer as it should.
    #[error("rank {} at {address}: {cause}", .rank.0)]
    Hello {
        /// Which.
        rank: Rank,
        /// Where.
        address: SocketAddr,
        /// How.
        #[source]
        cause: FrameError,
    },
    /// A rank has not come.
    #[error("rank {} at {address} has not connected within {time:?}{}", .rank.0, .refused.as_ref().map(|r| format!("; refused meanwhile: {r}")).unwrap_or_default())]
    Missing {
        /// Which: the lowest of those.
        rank: Rank,
        /// Where it listens.
        address: SocketAddr,
        /// How long it had.
        time: Duration,
        /// The last connection that was not let in, and why.
        refused: Option<String>,
    },
    /// This host failed.
    #[error("cannot set up the connections between the ranks: {0}")]
    Io(#[from] io::Error),
}

/// The connections of one rank as they come: by class, then by rank.
type Mesh = Vec<Vec<Option<(SocketAddr, TcpStream)>>>;

/// What the threads of a connecting rank tell it.
pub(crate) enum Arrival {
    /// A connection to a lower rank for a class.
    Called(Rank, usize, TcpStream),
    /// There is no connection to a lower rank.
    Failed(ConnectError),
    /// Somebody who knows the secret has connected and said which connection that is.
    Came(Authenticated, Hello),
    /// Somebody has connected and was not let in.
    Refused(String),
}

/// Arrivals that wait to be looked at. Whoever brings one more waits.
const ARRIVALS: usize = 64;

/// Connects this rank with all others, which do the same meanwhile. Gives one endpoint per channel class. Until it is polled it shows
/// signs of life by itself, so that it is missed as soon as any other when its process is stopped.
///
/// The listener is closed when all are connected. When that fails, threads that still wait for other ranks end by the deadline.
///
/// # Errors
/// [`ConnectError`] names the rank, its address and the cause.
pub fn connect(config: &FabricConfig, listener: Listener) -> Result<Vec<TcpTransport>, ConnectError> {
    let ranks = config.addresses.len();
    let ours = hello(config, ranks)?;
    let peers =
        (0..).map(Rank).zip(config.addresses.iter().copied()).filter(|(rank, _)| *rank != config.rank).collect();
    let Connected { mesh, .. } = meet(&Plan { config, ours, peers }, listener)?;
    endpoints(config, mesh)
}

/// The same in a machine with so many places for ranks, of which the first are taken by those that connect now: others may come later, and are let in until what
/// comes with the endpoints is dropped. It tells who has come.
///
/// # Errors
/// As [`connect`].
pub fn connect_open(
    config: &FabricConfig,
    places: u16,
    listener: Listener,
) -> Result<(Vec<Arc<TcpTransport>>, Latecomers), ConnectError> {
    let ours = hello(config, places.into())?;
    let peers =
        (0..).map(Rank).zip(config.addresses.iter().copied()).filter(|(rank, _)| *rank != config.rank).collect();
    stay_open(config, ours, peers, listener)
}

/// Connects a rank that comes late with all that are there, at the given places and addresses; `config.addresses` does not matter. Others may come later still, as
/// in [`connect_open`].
///
/// # Errors
/// As [`connect`]; and when this rank's place is not higher than those of all others.
pub fn join(
    config: &FabricConfig,
    places: u16,
    peers: Vec<(Rank, SocketAddr)>,
    listener: Listener,
) -> Result<(Vec<Arc<TcpTransport>>, Latecomers), ConnectError> {
    let ours = hello(config, places.into())?;
    if peers.iter().any(|(rank, _)| *rank >= config.rank) {
        let (ranks, classes) = (places.into(), config.segments.len());
        return Err(ConnectError::Config { rank: config.rank.0, ranks, classes });
    }
    stay_open(config, ours, peers, listener)
}

fn stay_open(
    config: &FabricConfig,
    ours: Hello,
    peers: Vec<(Rank, SocketAddr)>,
    listener: Listener,
) -> Result<(Vec<Arc<TcpTransport>>, Latecomers), ConnectError> {
    let mut present = RankSet::one(config.rank);
    for (rank, _) in &peers {
        present.insert(*rank);
    }
    let Connected { mesh, arrivals, door } = meet(&Plan { config, ours, peers }, listener)?;
    let endpoints: Vec<_> = endpoints(config, mesh)?.into_iter().map(Arc::new).collect();
    let latecomers = latecomers::watch(door, arrivals, ours, present, config.connect_time, &endpoints)?;
    Ok((endpoints, latecomers))
}

/// Who is connected with whom.
struct Plan<'a> {
    config: &'a FabricConfig,
    ours: Hello,
    /// All that this rank is to be connected with: it calls the lower ones.
    peers: Vec<(Rank, SocketAddr)>,
}

/// Connections that are made, and the way in for others.
struct Connected {
    mesh: Mesh,
    arrivals: mpsc::Receiver<Arrival>,
    door: Door,
}

fn endpoints(config: &FabricConfig, mesh: Mesh) -> Result<Vec<TcpTransport>, ConnectError> {
    let endpoint = |(sockets, segment): (_, &Option<Arc<dyn Segment>>)| {
        TcpTransport::new(config.rank, sockets, segment.clone(), config.timing, config.connect_time)
    };
    let endpoints = mesh.into_iter().zip(&config.segments).map(endpoint).collect::<io::Result<Vec<_>>>()?;
    herald::start(endpoints.iter().map(TcpTransport::unpolled).collect(), config.timing)?;
    Ok(endpoints)
}

fn meet(plan: &Plan<'_>, listener: Listener) -> Result<Connected, ConnectError> {
    let Plan { config, ours, ref peers } = *plan;
    let deadline = Instant::now() + config.connect_time;
    let (sender, arrivals) = mpsc::sync_channel(ARRIVALS);
    let door = {
        let sender = sender.clone();
        // Nobody waits any more if that fails.
        listener.open(&config.secret, move |result| drop(sender.send(came(result))))?
    };
    for (to, address) in peers.iter().copied().filter(|(to, _)| *to < config.rank) {
        let (sender, secret) = (sender.clone(), config.secret.clone());
        let hello = Hello { to, ..ours };
        let call_all = move || {
            for class in 0..hello.classes {
                let arrival = match call(&secret, Hello { class, ..hello }, address, deadline) {
                    Ok(stream) => Arrival::Called(to, class.into(), stream),
                    Err(error) => Arrival::Failed(error),
                };
                let failed = matches!(arrival, Arrival::Failed(_));
                // Nobody waits any more if that fails.
                if sender.send(arrival).is_err() || failed {
                    break;
                }
            }
        };
        thread::Builder::new().name(format!("vincs-call-{}", to.0)).spawn(call_all)?;
    }
    match collect(plan, &arrivals, deadline) {
        Ok(mesh) => Ok(Connected { mesh, arrivals, door }),
        Err(error) => {
            // Whoever waits to bring something is let go before the door waits for it.
            drop(arrivals);
            drop(door);
            Err(error)
        }
    }
}

/// What this rank expects of a hello; its own are made of it.
fn hello(config: &FabricConfig, ranks: usize) -> Result<Hello, ConnectError> {
    let (rank, classes) = (config.rank, config.segments.len());
    let wrong = || ConnectError::Config { rank: rank.0, ranks, classes };
    let count = u16::try_from(ranks).ok().filter(|ranks| *ranks <= MAX_RANKS && rank.0 < *ranks);
    Ok(Hello {
        machine: config.machine,
        ranks: count.ok_or_else(wrong)?,
        classes: u8::try_from(classes).ok().filter(|_| (1..=MAX_CLASSES).contains(&classes)).ok_or_else(wrong)?,
        class: 0,
        from: rank,
        to: rank,
    })
}

/// How long a rank waits before it connects again to one that has hung up on it.
pub(crate) const CALL_AGAIN: Duration = Duration::from_millis(50);

/// Connects to a lower rank for one class.
fn call(secret: &Secret, hello: Hello, address: SocketAddr, deadline: Instant) -> Result<TcpStream, ConnectError> {
    let rank = hello.to;
    let wrong = |cause| ConnectError::Hello { rank, address, cause };
    let mut connection = loop {
        match Authenticated::connect(address, secret, deadline) {
            // Who listens hangs up on the oldest of too many that have not proved themselves: strangers may make as many as they like.
            Err(AuthError { cause: AuthFault::Closed, .. }) if Instant::now() + CALL_AGAIN < deadline => {
                thread::sleep(CALL_AGAIN);
            }
            proved => break proved.map_err(|cause| ConnectError::Auth { rank, cause })?,
        }
    };
    connection.write_frame(&hello.to_bytes(), deadline).map_err(wrong)?;
    let refusal = connection.read_frame(MAX_REFUSAL, deadline).map_err(wrong)?;
    if refusal.is_empty() {
        return Ok(connection.into_stream()?);
    }
    Err(ConnectError::Refused { rank, address, reason: String::from_utf8_lossy(&refusal).into_owned() })
}

/// Reads the hello of somebody who has proved to know the secret, on a thread of its own.
fn came(result: Result<Authenticated, AuthError>) -> Arrival {
    let read = |mut connection: Authenticated| {
        let bytes = connection.read_frame(HELLO_BYTES, Instant::now() + AUTH_TIME);
        let bytes = bytes.map_err(|error| format!("{}: {error}", connection.peer()))?;
        let hello = Hello::from_bytes(&bytes);
        Ok(hello.map(|hello| (hello, connection)).ok_or("its first frame is no hello")?)
    };
    match result.map_err(|error| error.to_string()).and_then(read) {
        Ok((hello, connection)) => Arrival::Came(connection, hello),
        Err(reason) => Arrival::Refused(reason),
    }
}

/// Collects the connections until all are there: those made to lower ranks, and those that come from higher ones.
fn collect(plan: &Plan<'_>, arrivals: &mpsc::Receiver<Arrival>, deadline: Instant) -> Result<Mesh, ConnectError> {
    let Plan { config, ours, .. } = *plan;
    let places = || (0..ours.ranks).map(|_| None).collect();
    let mut mesh: Mesh = config.segments.iter().map(|_| places()).collect();
    let mut refused = None;
    while let Some((rank, address)) = absent(plan, &mesh) {
        let arrival = arrivals.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let Ok(arrival) = arrival else {
            return Err(ConnectError::Missing { rank, address, time: config.connect_time, refused });
        };
        match arrival {
            Arrival::Called(rank, class, stream) => enter(plan, &mut mesh, rank, class, stream),
            Arrival::Failed(error) => return Err(error),
            Arrival::Came(connection, hello) => {
                let (place, class) = (usize::from(hello.from.0), usize::from(hello.class));
                let is_taken = mesh.get(class).and_then(|class| class.get(place)).is_some_and(Option::is_some);
                let is_due = plan.peers.iter().any(|(peer, _)| *peer == hello.from);
                let obstacle = match (is_taken, is_due) {
                    (true, _) => Some(already(hello)),
                    (false, false) => Some(format!("rank {place} is not expected now")),
                    (false, true) => None,
                };
                match welcome(connection, hello, ours, obstacle, deadline) {
                    Ok((_, stream)) => enter(plan, &mut mesh, hello.from, hello.class.into(), stream),
                    Err(reason) => refused = Some(reason),
                }
            }
            Arrival::Refused(reason) => refused = Some(reason),
        }
    }
    Ok(mesh)
}

/// Puts a connection where it belongs.
fn enter(plan: &Plan<'_>, mesh: &mut Mesh, rank: Rank, class: usize, stream: TcpStream) {
    let place = mesh.get_mut(class).and_then(|class| class.get_mut(usize::from(rank.0)));
    let address = plan.peers.iter().find(|(peer, _)| *peer == rank).map(|(_, address)| address);
    if let (Some(place), Some(address)) = (place, address) {
        *place = Some((*address, stream));
    }
}

/// In words why somebody is not let in twice.
pub(crate) fn already(hello: Hello) -> String {
    format!("rank {} is connected already for channel class {}", hello.from.0, hello.class)
}

/// Answers a hello, to which there may be an obstacle beside what is wrong with it. Gives the connection, or says why it was not let in.
pub(crate) fn welcome(
    mut connection: Authenticated,
    hello: Hello,
    ours: Hello,
    obstacle: Option<String>,
    deadline: Instant,
) -> Result<(SocketAddr, TcpStream), String> {
    let peer = connection.peer();
    let difference = hello.difference(&ours).or(obstacle).unwrap_or_default();
    // Short enough for an empty socket to take it at once, whoever the other end is.
    connection.write_frame(difference.as_bytes(), deadline).map_err(|error| format!("{peer}: {error}"))?;
    if !difference.is_empty() {
        return Err(format!("{peer}: {difference}"));
    }
    connection.into_stream().map(|stream| (peer, stream)).map_err(|error| format!("{peer}: {error}"))
}

/// The lowest other rank that is not connected for every class, and its address.
fn absent(plan: &Plan<'_>, mesh: &Mesh) -> Option<(Rank, SocketAddr)> {
    let connected = |rank: Rank| mesh.iter().all(|class| class.get(usize::from(rank.0)).is_some_and(Option::is_some));
    plan.peers.iter().copied().find(|(rank, _)| !connected(*rank))
}

#[cfg(test)]
mod tests;
