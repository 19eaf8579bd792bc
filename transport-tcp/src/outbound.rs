//! One connection's way out: what any thread sends is written to the socket at once; what the socket does not take is queued, in order,
//! and goes out when the poller finds the socket writable.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use vincs_coherence::id::Rank;
use vincs_coherence::transport::{MAX_BODY, OperationId, SendError};

use crate::frame::{Kind, MAX_FRAME, prefix};

/// Most bytes queued for a peer by messages and requests, and most bytes asked of a peer by gets that are under way: some of the longest
/// messages, so that a stream does not run dry between two polls.
pub(crate) const MAX_QUEUED: usize = 4 << 20;

/// Most one-sided operations under way to one peer.
pub(crate) const MAX_OPERATIONS: usize = 256;

/// Most bytes queued for a peer in all: what a peer that keeps the limits makes us queue by its requests comes on top of our own. Each
/// answer has a frame's prefix and may have a header of a word.
const MAX_QUEUED_WITH_ANSWERS: usize = 2 * MAX_QUEUED + MAX_FRAME + MAX_OPERATIONS * 16;

/// What a connection's queue keeps of its memory when it has been idle, in bytes.
const QUEUE_KEPT: usize = 64 << 10;

/// Pieces given to the kernel at once.
const PIECES: usize = 20;

const _: () = assert!(MAX_FRAME <= MAX_QUEUED && MAX_BODY <= MAX_QUEUED);

/// A one-sided operation that has been asked for and not been answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Pending {
    pub(crate) id: OperationId,
    /// The answer, if it is not a refusal.
    pub(crate) answer: Kind,
    /// Length of the answer's body in bytes.
    pub(crate) length: usize,
}

/// One peer's connection, as senders see it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) rank: Rank,
    pub(crate) address: SocketAddr,
    pub(crate) socket: TcpStream,
    /// Where readiness of the socket is told: the endpoint's.
    epoll: Arc<OwnedFd>,
    /// Senders and the poller take it, for one write at most.
    outbound: Mutex<Outbound>,
    /// Whether the poller is told when the socket gets writable. Written under `outbound`; read without, so that a poll waits for no sender.
    waiting: AtomicBool,
}

#[derive(Debug, Default)]
struct Outbound {
    queue: VecDeque<u8>,
    /// In the order of the requests, which is that of the answers.
    pending: VecDeque<Pending>,
    /// Bytes that gets under way will bring.
    asked: usize,
    /// Whether something was sent since the last sign of life was due.
    spoken: bool,
    /// Why nothing can be sent any more.
    broken: Option<String>,
}

impl Outbound {
    /// Writes what is queued and then the pieces. What the socket does not take of them now is queued.
    fn transmit<'a>(
        &mut self,
        socket: &TcpStream,
        pieces: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<(), Errno> {
        let queued = self.queue.len();
        let (front, back) = self.queue.as_slices();
        // As references that live no longer than those to the queue.
        let fresh = pieces.clone().map(|piece| -> &[u8] { piece });
        let written = write([front, back].into_iter().chain(fresh), socket)?;
        self.queue.drain(..written.min(queued));
        let mut skip = written.saturating_sub(queued);
        for piece in pieces {
            let rest = piece.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(piece.len());
            self.queue.extend(rest);
        }
        self.spoken = true;
        Ok(())
    }
}

/// Writes as much as the socket takes; says how many bytes that was.
fn write<'a>(pieces: impl Iterator<Item = &'a [u8]>, socket: &TcpStream) -> Result<usize, Errno> {
    let mut pieces = pieces.filter(|piece| !piece.is_empty());
    let mut written = 0;
    loop {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let (mut count, mut bytes) = (0, 0);
        for (slice, piece) in slices.iter_mut().zip(&mut pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
            bytes += piece.len();
        }
        if count == 0 {
            return Ok(written);
        }
        let slices = slices.get(..count).unwrap_or_default();
        let sent = loop {
            // No signal: a closed connection is an error here, and nothing the process dies of.
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), flags) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => break 0,
                other => break other?,
            }
        };
        written += sent;
        if sent < bytes {
            return Ok(written);
        }
    }
}

impl Connection {
    /// For a socket that is connected; from now on the epoll tells when there is something to receive. The sizes of the socket's buffers
    /// are left to the kernel, which lets them grow with the stream further than an unprivileged process may set them.
    pub(crate) fn new(rank: Rank, address: SocketAddr, socket: TcpStream, epoll: Arc<OwnedFd>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        epoll::add(&epoll, &socket, epoll::EventData::new_u64(rank.0.into()), epoll::EventFlags::IN)?;
        Ok(Self { rank, address, socket, epoll, outbound: Mutex::default(), waiting: AtomicBool::new(false) })
    }

    fn lock(&self) -> MutexGuard<'_, Outbound> {
        // Nothing that holds it can panic half-way.
        self.outbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a frame of the user's, with the operation that it asks for.
    pub(crate) fn send(
        &self,
        kind: Kind,
        header: &[u8],
        body: &[IoSlice<'_>],
        operation: Option<Pending>,
    ) -> Result<(), SendError> {
        let length = body.iter().fold(0_usize, |sum, piece| sum.saturating_add(piece.len()));
        let prefix = prefix(kind, header.len(), length).ok_or(SendError::Bounds(length.max(header.len())))?;
        let mut outbound = self.lock();
        if outbound.broken.is_some() {
            return Err(SendError::Lost(self.rank));
        }
        let queued = outbound.queue.len();
        if queued > 0 && queued + prefix.len() + header.len() + length > MAX_QUEUED {
            return Err(SendError::Full(self.rank));
        }
        if let Some(operation) = operation {
            if outbound.pending.len() >= MAX_OPERATIONS || outbound.asked + operation.length > MAX_QUEUED {
                return Err(SendError::Full(self.rank));
            }
            outbound.asked += operation.length;
            outbound.pending.push_back(operation);
        }
        let pieces = [&prefix[..], header].into_iter().chain(body.iter().map(|piece| &**piece));
        self.transmit(&mut outbound, pieces).map_err(|()| SendError::Lost(self.rank))
    }

    /// Answers a request of the peer's. An answer is never put off: the peer's own limits bound what it makes us queue.
    pub(crate) fn answer(&self, kind: Kind, header: &[u8], body: &[u8]) -> Result<(), AnswerFault> {
        let prefix = prefix(kind, header.len(), body.len()).ok_or(AnswerFault)?;
        let mut outbound = self.lock();
        if outbound.queue.len() + prefix.len() + header.len() + body.len() > MAX_QUEUED_WITH_ANSWERS {
            return Err(AnswerFault);
        }
        // If the connection is broken, the poller finds out by itself.
        let _: Result<(), ()> = self.transmit(&mut outbound, [&prefix[..], header, body].into_iter());
        Ok(())
    }

    fn transmit<'a>(&self, outbound: &mut Outbound, pieces: impl Iterator<Item = &'a [u8]> + Clone) -> Result<(), ()> {
        if outbound.broken.is_some() {
            return Err(());
        }
        let result = outbound.transmit(&self.socket, pieces).and_then(|()| self.tell_when_writable(outbound));
        result.map_err(|error| {
            outbound.broken = Some(io::Error::from(error).to_string());
            // What came before is still received; then the poller sees the end.
            let _: io::Result<()> = self.socket.shutdown(Shutdown::Both);
        })
    }

    /// The poller waits for the socket to get writable exactly while something is queued.
    fn tell_when_writable(&self, outbound: &Outbound) -> Result<(), Errno> {
        let wanted = !outbound.queue.is_empty();
        if wanted != self.waiting.load(Ordering::Relaxed) {
            let out = if wanted { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            let data = epoll::EventData::new_u64(self.rank.0.into());
            epoll::modify(&self.epoll, &self.socket, data, epoll::EventFlags::IN | out)?;
            self.waiting.store(wanted, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes what is queued, as far as the socket takes it; says whether anything was written.
    pub(crate) fn flush(&self) -> bool {
        if !self.waiting.load(Ordering::Relaxed) {
            return false;
        }
        let mut outbound = self.lock();
        let queued = outbound.queue.len();
        queued > 0 && self.transmit(&mut outbound, std::iter::empty()).is_ok() && outbound.queue.len() < queued
    }

    /// Says that this rank is alive, unless something has been sent since the last call: so with two calls per sign of life, no gap is
    /// longer than one.
    pub(crate) fn sign_of_life(&self) {
        let mut outbound = self.lock();
        let spoken = std::mem::take(&mut outbound.spoken);
        // What is queued says so as it goes out.
        if outbound.queue.is_empty() {
            outbound.queue.shrink_to(QUEUE_KEPT);
            if let (false, Some(prefix)) = (spoken, prefix(Kind::Alive, 0, 0)) {
                // If the connection is broken, the poller finds out by itself.
                let _: Result<(), ()> = self.transmit(&mut outbound, std::iter::once(&prefix[..]));
            }
        }
    }

    /// Which operation an answer belongs to; nothing if it is no answer to the oldest one under way.
    pub(crate) fn complete(&self, answer: Kind, length: usize) -> Option<OperationId> {
        let mut outbound = self.lock();
        let pending = *outbound.pending.front()?;
        if answer != Kind::Refused && (answer, length) != (pending.answer, pending.length) {
            return None;
        }
        outbound.pending.pop_front();
        outbound.asked -= pending.length;
        Some(pending.id)
    }

    /// Ends the connection. Gives why nothing could be sent any more, if that was known before.
    pub(crate) fn end(&self) -> Option<String> {
        let mut outbound = self.lock();
        let before = outbound.broken.take();
        *outbound = Outbound { broken: Some(String::new()), ..Outbound::default() };
        // It is closed when the endpoint goes away; until then nobody may hear of it again.
        let _: rustix::io::Result<()> = epoll::delete(&self.epoll, self.socket.as_fd());
        let _: io::Result<()> = self.socket.shutdown(Shutdown::Both);
        before
    }
}

/// The peer has asked for more than it may.
#[derive(Debug)]
pub(crate) struct AnswerFault;
