//! One rank's end of one channel class: the port's [`Transport`] over one connection per peer.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::time::Timespec;
use vincs_coherence::id::{MAX_RANKS, Rank};
use vincs_coherence::transport::{
    Capabilities, Event, GuardedRead, MAX_BODY, Malformed, OperationId, Outcome, PutList, Segment, SendError, Transport,
};

use crate::frame::{Frame, FrameFault, Kind, header, words};
use crate::herald::Unpolled;
use crate::inbox::{Inbox, Received};
use crate::outbound::{AnswerFault, Connection, MAX_OPERATIONS, Pending};

/// Up to so many peers, a poll tries every socket; with more, it asks the kernel first which have something.
const TRIED_PEERS: usize = 2;

/// Most sockets that one poll serves when there are more peers than [`TRIED_PEERS`]: as many as ranks, so that each has its turn.
const EVENTS: usize = MAX_RANKS as usize;

/// How often ranks say that they are alive, and how long one may be silent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timing {
    /// Longest time without saying anything.
    pub sign_of_life: Duration,
    /// A peer that has been silent for so long is lost.
    pub silence: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { sign_of_life: SIGN_OF_LIFE, silence: SILENCE }
    }
}

/// Longest time without saying anything.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// A peer that has been silent for so long is lost.
pub const SILENCE: Duration = Duration::from_secs(5);

impl Timing {
    /// Between two looks at most: twice per sign of life, as a look cannot tell when within its interval something was said.
    pub(crate) fn interval(self) -> Duration {
        self.sign_of_life / 2
    }

    /// A poll that comes so late after the last one says that this process was stopped or starved. Then peers were perhaps stopped with
    /// it, and have all the time again to say something: a host that stands still charges that time to the thread that was running, which
    /// comes late for as long again.
    fn pause(self) -> Duration {
        (self.sign_of_life * 2).min(self.silence)
    }
}

/// One rank's end of one channel class. Dropping it closes its connections: the peers lose this rank. What is still queued or under way
/// then may never arrive; who has to be sure waits for an answer before.
#[derive(Debug)]
pub struct TcpTransport {
    rank: Rank,
    epoll: Arc<OwnedFd>,
    /// By place; none for this rank itself, and those where nobody has come yet. A place is used once: a connection that is lost stays, and is of no use.
    connections: Arc<Vec<OnceLock<Connection>>>,
    /// Somebody polls: signs of life come from there.
    polled: Arc<AtomicBool>,
    segment: Option<Arc<dyn Segment>>,
    timing: Timing,
    born: Instant,
    /// When the next look at who is silent, or the next sign of life before it, is due: nanoseconds after `born`.
    next_look: AtomicU64,
    /// The poller's.
    receiving: Mutex<Receiving>,
}

/// What only the poller uses.
#[derive(Debug)]
struct Receiving {
    /// By place; none where there is no connection, or it is lost.
    peers: Vec<Option<Peer>>,
    /// Bytes of the segment on their way to a peer that has asked for them.
    scratch: Vec<u8>,
    last_poll: Instant,
    next_look: Instant,
    /// Ranks that have something to receive or can be written to.
    turns: Vec<usize>,
}

#[derive(Debug)]
struct Peer {
    inbox: Inbox,
    /// When it is lost if nothing comes.
    silent_at: Instant,
}

/// Why a peer is lost because of what it sent.
#[derive(Debug, thiserror::Error)]
enum PeerFault {
    #[error(transparent)]
    Frame(#[from] FrameFault),
    #[error("sent an answer ({0:?}) to nothing that was asked")]
    NoSuchRequest(Kind),
    #[error("asked for {0} bytes at once, of which at most {MAX_BODY} are given")]
    TooMuchAtOnce(u64),
    #[error("asked for more than it may before it takes the answers")]
    TooMuch,
    #[error("sent {0}")]
    List(#[from] Malformed),
}

impl From<AnswerFault> for PeerFault {
    fn from(AnswerFault: AnswerFault) -> Self {
        Self::TooMuch
    }
}

impl TcpTransport {
    /// An endpoint over connections that are made: by rank, with the address by which a rank is known; none for `rank`.
    /// A peer may take `first_sign` before it says anything: it may have others to connect to still.
    pub(crate) fn new(
        rank: Rank,
        sockets: Vec<Option<(SocketAddr, TcpStream)>>,
        segment: Option<Arc<dyn Segment>>,
        timing: Timing,
        first_sign: Duration,
    ) -> io::Result<Self> {
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let now = Instant::now();
        let connection = |(index, socket): (u16, Option<(SocketAddr, TcpStream)>)| {
            let connect = |(address, socket)| Connection::new(Rank(index), address, socket, Arc::clone(&epoll));
            socket.map(connect).transpose()
        };
        let place = |socket| Ok(connection(socket)?.map_or_else(OnceLock::new, OnceLock::from));
        let connections = (0..).zip(sockets).map(place).collect::<io::Result<Vec<OnceLock<_>>>>()?;
        let peer = |connection: &OnceLock<Connection>| {
            connection.get().map(|_| Peer { inbox: Inbox::new(), silent_at: now + first_sign.max(timing.silence) })
        };
        let receiving = Receiving {
            peers: connections.iter().map(peer).collect(),
            scratch: Vec::new(),
            last_poll: now,
            // At the first poll already: the peers wait for a sign.
            next_look: now,
            turns: Vec::new(),
        };
        Ok(Self {
            rank,
            epoll,
            connections: Arc::new(connections),
            polled: Arc::default(),
            segment,
            timing,
            born: now,
            next_look: AtomicU64::new(0),
            receiving: Mutex::new(receiving),
        })
    }

    /// The rank whose end this is.
    #[must_use]
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// All ranks are known to be connected: a peer whose first sign of life has not come by the time of its silence is lost, as after
    /// any other sign.
    pub fn expect_signs(&self) {
        let silent_at = Instant::now() + self.timing.silence;
        let mut receiving = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        receiving.peers.iter_mut().flatten().for_each(|peer| peer.silent_at = peer.silent_at.min(silent_at));
        receiving.next_look = receiving.next_look.min(silent_at);
        self.publish_next_look(receiving.next_look);
    }

    /// A rank has come late, and is connected by this socket. From now on it can be sent to, and is lost if it is silent. It may take `first_sign` before it says anything.
    ///
    /// # Errors
    /// There is no such place, somebody has used it, or the socket is of no use.
    pub(crate) fn admit(
        &self,
        rank: Rank,
        (address, socket): (SocketAddr, TcpStream),
        first_sign: Duration,
    ) -> io::Result<()> {
        let index = usize::from(rank.0);
        let place = self.connections.get(index).filter(|_| rank != self.rank).ok_or(io::ErrorKind::NotFound)?;
        let now = Instant::now();
        // Only the poller looks at the peer, so it is there before anything is found to have come from it.
        let mut receiving = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        if place.get().is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let connection = Connection::new(rank, address, socket, Arc::clone(&self.epoll))?;
        if let Some(peer) = receiving.peers.get_mut(index) {
            *peer = Some(Peer { inbox: Inbox::new(), silent_at: now + first_sign.max(self.timing.silence) });
        }
        // Nobody else sets it while that is locked.
        let _ = place.set(connection);
        receiving.next_look = now;
        self.publish_next_look(now);
        Ok(())
    }

    /// What shows its signs of life until it is polled.
    pub(crate) fn unpolled(&self) -> Unpolled {
        Unpolled::new(&self.connections, Arc::clone(&self.polled))
    }

    fn connection(&self, to: Rank) -> Result<&Connection, SendError> {
        self.connections.get(usize::from(to.0)).and_then(OnceLock::get).ok_or(SendError::NoPeer(to))
    }

    /// Sends a request of a one-sided operation.
    fn request(
        &self,
        target: Rank,
        kind: Kind,
        header: &[u8],
        body: &[u8],
        operation: Pending,
    ) -> Result<(), SendError> {
        self.connection(target)?.send(kind, header, &[IoSlice::new(body)], Some(operation))
    }

    fn publish_next_look(&self, at: Instant) {
        let after = at.saturating_duration_since(self.born).as_nanos();
        // 584 years fit.
        self.next_look.store(u64::try_from(after).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Ends the connection to a rank and tells so.
    fn lose(&self, peers: &mut [Option<Peer>], index: usize, reason: &str, sink: &mut dyn FnMut(Event<'_>)) {
        let Some(connection) = self.connections.get(index).and_then(OnceLock::get) else { return };
        if let Some(peer) = peers.get_mut(index) {
            *peer = None;
        }
        let before = connection.end();
        let reason = format!("{}: {}", connection.address, before.as_deref().unwrap_or(reason));
        tracing::debug!(rank = connection.rank.0, reason, "lost");
        sink(Event::Lost { rank: connection.rank, reason });
    }

    /// Does what a received frame wants.
    fn take(
        &self,
        connection: &Connection,
        frame: Frame<'_>,
        scratch: &mut Vec<u8>,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), PeerFault> {
        let Frame { kind, header, body } = frame;
        let segment = self.segment.as_deref();
        match kind {
            Kind::Alive => {}
            Kind::Message => sink(Event::Message { from: connection.rank, header, body }),
            Kind::Get => {
                let [offset, length] = words(header);
                let bytes = usize::try_from(length).ok().filter(|length| *length <= MAX_BODY);
                let bytes = bytes.ok_or(PeerFault::TooMuchAtOnce(length))?;
                if scratch.len() < bytes {
                    scratch.resize(bytes, 0);
                }
                let bytes = scratch.get_mut(..bytes).unwrap_or_default();
                let kind = if segment.is_some_and(|s| s.read(offset, bytes)) { Kind::Got } else { Kind::Refused };
                connection.answer(kind, &[], if kind == Kind::Got { bytes } else { &[] })?;
            }
            Kind::Put => {
                let [offset] = words(header);
                let done = segment.is_some_and(|segment| segment.write(offset, body));
                connection.answer(if done { Kind::Done } else { Kind::Refused }, &[], &[])?;
            }
            Kind::List => {
                let runs = PutList::decode(body).collect::<Result<Vec<_>, _>>()?;
                let done = segment.is_some_and(|segment| runs.iter().all(|(offset, run)| segment.write(*offset, run)));
                connection.answer(if done { Kind::Done } else { Kind::Refused }, &[], &[])?;
            }
            Kind::Swap => {
                let [offset, expected, new] = words(header);
                answer_word(connection, segment.and_then(|s| s.compare_and_swap(offset, expected, new)))?;
            }
            Kind::Add => {
                let [offset, add] = words(header);
                answer_word(connection, segment.and_then(|s| s.fetch_and_add(offset, add)))?;
            }
            Kind::Guard => {
                let [mark_at, mark, at, length] = words(header);
                let bytes = usize::try_from(length).ok().filter(|length| *length <= MAX_BODY);
                let bytes = bytes.ok_or(PeerFault::TooMuchAtOnce(length))?;
                if scratch.len() < bytes {
                    scratch.resize(bytes, 0);
                }
                let bytes = scratch.get_mut(..bytes).unwrap_or_default();
                let done = segment.is_some_and(|segment| guarded_read(segment, mark_at, mark, at, bytes));
                let kind = if done { Kind::Got } else { Kind::Refused };
                connection.answer(kind, &[], if done { bytes } else { &[] })?;
            }
            Kind::Got => complete(connection, &frame, Outcome::Got(body), sink)?,
            Kind::Done => complete(connection, &frame, Outcome::Put, sink)?,
            Kind::Old => {
                let [word] = words(header);
                complete(connection, &frame, Outcome::Old(word), sink)?;
            }
            Kind::Refused => complete(connection, &frame, Outcome::Refused, sink)?,
        }
        Ok(())
    }

    /// Serves one peer: writes what is queued, receives, hands out. Says whether there was anything.
    fn serve(&self, receiving: &mut Receiving, index: usize, now: Instant, sink: &mut dyn FnMut(Event<'_>)) -> bool {
        let Receiving { peers, scratch, .. } = receiving;
        let Some(connection) = self.connections.get(index).and_then(OnceLock::get) else { return false };
        let Some(Some(peer)) = peers.get_mut(index) else { return false };
        let written = connection.flush();
        let reason = match peer.inbox.receive(&connection.socket) {
            Ok(Received::Nothing) => return written,
            Ok(Received::Some) => {
                peer.silent_at = now + self.timing.silence;
                match peer.inbox.hand_out(|frame| self.take(connection, frame, scratch, sink)) {
                    Ok(()) => return true,
                    Err(fault) => fault.to_string(),
                }
            }
            Ok(Received::End) if peer.inbox.is_empty() => "the connection was closed".to_owned(),
            Ok(Received::End) => "the connection was closed in the middle of a frame".to_owned(),
            Err(error) => io::Error::from(error).to_string(),
        };
        self.lose(peers, index, &reason, sink);
        true
    }

    /// Finds out whose turn it is.
    fn find_turns(&self, receiving: &mut Receiving) {
        let Receiving { peers, turns, .. } = receiving;
        turns.clear();
        let connected = || (0..).zip(&*peers).filter(|(_, peer)| peer.is_some()).map(|(index, _)| index);
        if connected().count() <= TRIED_PEERS {
            turns.extend(connected());
            return;
        }
        let mut events = [const { MaybeUninit::uninit() }; EVENTS];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // An error means that nothing is known to be ready, which the next poll finds out again.
        if let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, Some(&at_once)) {
            turns.extend(events.iter().filter_map(|event| usize::try_from(event.data.u64()).ok()));
        }
    }

    /// Says that this rank is alive, and finds out who is silent.
    fn look(&self, receiving: &mut Receiving, now: Instant, sink: &mut dyn FnMut(Event<'_>)) -> bool {
        let mut lost = false;
        let peers = &mut receiving.peers;
        for (index, connection) in self.connections.iter().enumerate() {
            let (Some(connection), Some(Some(peer))) = (connection.get(), peers.get(index)) else { continue };
            if now >= peer.silent_at {
                lost = true;
                let reason = format!("silent for {:?}", self.timing.silence);
                self.lose(peers, index, &reason, sink);
            } else {
                connection.sign_of_life();
            }
        }
        lost
    }
}

/// Tells that the oldest operation under way has ended.
fn complete(
    connection: &Connection,
    frame: &Frame<'_>,
    outcome: Outcome<'_>,
    sink: &mut dyn FnMut(Event<'_>),
) -> Result<(), PeerFault> {
    let id = connection.complete(frame.kind, frame.body.len()).ok_or(PeerFault::NoSuchRequest(frame.kind))?;
    sink(Event::Completed { id, outcome });
    Ok(())
}

/// Puts the mark, and reads then: whoever works at the segment meanwhile sees the mark before anything was read. False when some of it is
/// not there.
fn guarded_read(segment: &dyn Segment, mark_at: u64, mark: u64, at: u64, bytes: &mut [u8]) -> bool {
    let [mark, ..] = mark.to_le_bytes();
    let is_marked = segment.write(mark_at, &[mark]);
    fence(Ordering::SeqCst);
    is_marked && segment.read(at, bytes)
}

fn answer_word(connection: &Connection, word: Option<u64>) -> Result<(), AnswerFault> {
    match word {
        Some(word) => connection.answer(Kind::Old, &header::<1, 8>([word]), &[]),
        None => connection.answer(Kind::Refused, &[], &[]),
    }
}

impl Transport for TcpTransport {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "tcp",
            one_sided_by_nic: false,
            atomics_by_nic: false,
            max_transfer: MAX_BODY,
            max_operations: MAX_OPERATIONS,
            put_lists: true,
        }
    }

    fn send(&self, to: Rank, header: &[u8], body: &[IoSlice<'_>]) -> Result<(), SendError> {
        self.connection(to)?.send(Kind::Message, header, body, None)
    }

    fn get(&self, id: OperationId, target: Rank, offset: u64, len: usize) -> Result<(), SendError> {
        let length = u64::try_from(len).ok().filter(|_| len <= MAX_BODY).ok_or(SendError::Bounds(len))?;
        let operation = Pending { id, answer: Kind::Got, length: len };
        self.request(target, Kind::Get, &header::<2, 16>([offset, length]), &[], operation)
    }

    fn put(&self, id: OperationId, target: Rank, offset: u64, bytes: &[u8]) -> Result<(), SendError> {
        let operation = Pending { id, answer: Kind::Done, length: 0 };
        self.request(target, Kind::Put, &header::<1, 8>([offset]), bytes, operation)
    }

    fn put_list(&self, id: OperationId, target: Rank, list: &PutList) -> Result<(), SendError> {
        let operation = Pending { id, answer: Kind::Done, length: 0 };
        self.request(target, Kind::List, &[], list.encoded(), operation)
    }

    fn compare_and_swap(
        &self,
        id: OperationId,
        target: Rank,
        offset: u64,
        expected: u64,
        new: u64,
    ) -> Result<(), SendError> {
        let operation = Pending { id, answer: Kind::Old, length: 0 };
        self.request(target, Kind::Swap, &header::<3, 24>([offset, expected, new]), &[], operation)
    }

    fn fetch_and_add(&self, id: OperationId, target: Rank, offset: u64, add: u64) -> Result<(), SendError> {
        let operation = Pending { id, answer: Kind::Old, length: 0 };
        self.request(target, Kind::Add, &header::<2, 16>([offset, add]), &[], operation)
    }

    fn guarded_read(&self, id: OperationId, target: Rank, read: GuardedRead) -> Result<(), SendError> {
        let GuardedRead { mark_at, mark, at, len } = read;
        let length = u64::try_from(len).ok().filter(|_| (1..=MAX_BODY).contains(&len)).ok_or(SendError::Bounds(len))?;
        let operation = Pending { id, answer: Kind::Got, length: len };
        let header = header::<4, 32>([mark_at, mark.into(), at, length]);
        self.request(target, Kind::Guard, &header, &[], operation)
    }

    fn poll(&self, sink: &mut dyn FnMut(Event<'_>)) -> bool {
        let mut receiving = match self.receiving.try_lock() {
            Ok(receiving) => receiving,
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            // A poll within a sink, or a second poller: the first one does the work.
            Err(TryLockError::WouldBlock) => return false,
        };
        let receiving = &mut *receiving;
        let now = Instant::now();
        if now.saturating_duration_since(receiving.last_poll) > self.timing.pause() {
            let again = now + self.timing.silence;
            receiving.peers.iter_mut().flatten().for_each(|peer| peer.silent_at = peer.silent_at.max(again));
        }
        receiving.last_poll = now;
        self.find_turns(receiving);
        let mut anything = false;
        for turn in 0..receiving.turns.len() {
            let Some(index) = receiving.turns.get(turn).copied() else { break };
            anything |= self.serve(receiving, index, now, sink);
        }
        // After receiving: nobody is silent whose bytes are here already.
        if now >= receiving.next_look {
            self.polled.store(true, Ordering::Relaxed);
            anything |= self.look(receiving, now, sink);
            // Or when a peer will have been silent for too long. What it says until then only makes that later.
            let silent_at = receiving.peers.iter().flatten().map(|peer| peer.silent_at);
            receiving.next_look = silent_at.fold(now + self.timing.interval(), Instant::min);
            self.publish_next_look(receiving.next_look);
        }
        anything
    }

    fn sign_of_life(&self) {
        if self.poll_within().is_zero() {
            self.connections.iter().filter_map(OnceLock::get).for_each(Connection::sign_of_life);
            // Until then a poll has come, whose look is due in any case, or this is called again.
            self.publish_next_look(Instant::now() + self.timing.interval());
        }
    }

    fn ready(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn poll_within(&self) -> Duration {
        let next = Duration::from_nanos(self.next_look.load(Ordering::Relaxed));
        next.saturating_sub(self.born.elapsed())
    }
}

#[cfg(test)]
mod tests;
