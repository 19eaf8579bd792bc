//! One rank's end of one channel class: the port's [`Transport`] over one queue pair per peer.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use vincs_coherence::id::Rank;
use vincs_coherence::transport::{
    Capabilities, Event, GuardedRead, MAX_BODY, OperationId, Outcome, Segment, SendError, Transport,
};

use crate::atomics::{AtomicsFault, Entry, unpack};
use crate::bell::Bell;
use crate::lifeline::{Happened, Lifeline};
use crate::peer::{Brings, COMPLETIONS, Done, MAX_OPERATIONS, Operation, Peer};
use crate::stream::{Assembler, Content, StreamFault, open};
use crate::verbs::VerbsError;
use crate::verbs::completion::{Completion, CompletionQueue};
use crate::verbs::counts::Counts;
use crate::verbs::memory::{Buffer, Claim, RegisteredSegment};
use crate::verbs::queue_pair::ReceiveQueue;

/// Longest time between two signs of life of a queue pair: a write of nothing, which the peer's NIC acknowledges. One that is not acknowledged
/// is known as lost by the NIC's own time limits.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// How long a dropped endpoint waits for the peers' NICs to acknowledge what was sent. A socket's buffer is sent by the kernel after the process has
/// gone; what is in a queue pair goes with it.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Between two looks during that time.
const DRAIN_LOOK: Duration = Duration::from_micros(50);

/// Most batches of completions of one poll, so that it ends though the peers send faster than they are served.
const BATCHES: usize = 16;

/// One rank's end of one channel class. Dropping it ends its connections: the peers lose this rank. What waits for slots of a peer
/// then never arrives; who has to be sure waits for an answer before.
#[derive(Debug)]
pub struct RdmaTransport {
    rank: Rank,
    device: String,
    /// By rank; none for this rank itself.
    peers: Vec<Option<Peer>>,
    /// The poller's.
    receiving: Mutex<Receiving>,
    completions: Arc<CompletionQueue>,
    /// As long as the endpoint, for the peers' operations.
    segment: Option<RegisteredSegment>,
    /// As long as the endpoint, for the peers' signs of life on iWARP.
    _pulse: Option<Arc<Buffer>>,
    lifeline: Arc<Lifeline>,
    /// Has the channel of completions, the lifeline and `bell`.
    epoll: OwnedFd,
    /// Rung when a poll has something to do that neither of those tells.
    bell: Bell,
    born: Instant,
    /// When the next sign of life is due: nanoseconds after `born`.
    next_sign: AtomicU64,
}

/// What only the poller uses.
#[derive(Debug)]
struct Receiving {
    /// By rank; none for this rank itself.
    inboxes: Vec<Option<Inbox>>,
    /// Indices of peers by the numbers of their queue pairs.
    numbers: BTreeMap<u32, usize>,
    /// The queue has been asked to tell of the next completion, and what it told has not been taken.
    armed: bool,
    /// Taken from the queue and not looked at.
    ended: Vec<Completion>,
    /// Peers of which something was looked at.
    touched: Vec<usize>,
    /// A buffer that lives on.
    done: Vec<Done>,
    next_look: Instant,
    next_sign: Instant,
}

/// What comes from one peer.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: ReceiveQueue,
    assembler: Assembler,
    /// Slots to be posted again.
    spare: Vec<Claim>,
    /// Of them, those that the peer has to be given back.
    freed: u16,
    /// Nothing of it is looked at any more.
    lost: bool,
}

impl Inbox {
    pub(crate) fn new(queue: ReceiveQueue) -> Self {
        Self { queue, assembler: Assembler::default(), spare: Vec::new(), freed: 0, lost: false }
    }
}

/// What was found in the completion queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Batch {
    /// Nothing.
    Empty,
    /// The last there were.
    Last,
    /// There may be more.
    Full,
}

/// Why a peer is lost.
#[derive(Debug, thiserror::Error)]
enum PeerFault {
    #[error(transparent)]
    Stream(#[from] StreamFault),
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Verbs(#[from] VerbsError),
    #[error(transparent)]
    Atomics(#[from] AtomicsFault),
    #[error("sent something that no slot was posted for")]
    NoSlot,
}

/// The parts of an endpoint.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) rank: Rank,
    pub(crate) device: String,
    /// By rank; none for this rank itself: number of the queue pair, and both sides of the connection.
    pub(crate) peers: Vec<Option<(u32, Peer, Inbox)>>,
    pub(crate) completions: Arc<CompletionQueue>,
    /// Taken from the queue and not looked at.
    pub(crate) ended: Vec<Completion>,
    pub(crate) segment: Option<RegisteredSegment>,
    /// On iWARP, the byte that the peers read as signs of life.
    pub(crate) pulse: Option<Arc<Buffer>>,
    pub(crate) lifeline: Arc<Lifeline>,
}

impl RdmaTransport {
    /// An endpoint over queue pairs that are connected.
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        let Parts { rank, device, peers, completions, ended, segment, pulse, lifeline } = parts;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = Bell::new()?;
        let tell = |fd: BorrowedFd<'_>| epoll::add(&epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN);
        tell(completions.channel())?;
        tell(lifeline.transport().ready())?;
        tell(bell.as_fd())?;
        let now = Instant::now();
        let (mut senders, mut inboxes, mut numbers) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (index, peer) in peers.into_iter().enumerate() {
            let (sender, inbox) = match peer {
                Some((number, sender, inbox)) => {
                    numbers.insert(number, index);
                    (Some(sender), Some(inbox))
                }
                None => (None, None),
            };
            senders.push(sender);
            inboxes.push(inbox);
        }
        let receiving = Receiving {
            inboxes,
            numbers,
            armed: false,
            ended,
            touched: Vec::new(),
            done: Vec::new(),
            next_look: now,
            next_sign: now + SIGN_OF_LIFE,
        };
        let next_sign = AtomicU64::new(u64::try_from(SIGN_OF_LIFE.as_nanos()).unwrap_or(u64::MAX));
        Ok(Self {
            rank,
            device,
            peers: senders,
            receiving: Mutex::new(receiving),
            completions,
            segment,
            _pulse: pulse,
            lifeline,
            epoll,
            bell,
            born: now,
            next_sign,
        })
    }

    /// The rank whose end this is.
    #[must_use]
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// Name of the device.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Length in bytes of the segment that a peer has said it has; nothing if that is no peer.
    #[must_use]
    pub fn segment_length(&self, of: Rank) -> Option<u64> {
        self.peer(of).ok().map(Peer::segment_length)
    }

    /// What the NIC was given for all peers, and what it told.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let given: Counts = self.peers.iter().flatten().map(Peer::counts).sum();
        Counts { completions: self.completions.taken(), ..given }
    }

    fn peer(&self, to: Rank) -> Result<&Peer, SendError> {
        self.peers.get(usize::from(to.0)).and_then(Option::as_ref).ok_or(SendError::NoPeer(to))
    }

    /// Does something with a peer. If it turns out to be lost, the poller tells so.
    fn with(&self, to: Rank, act: impl FnOnce(&Peer) -> Result<(), SendError>) -> Result<(), SendError> {
        let peer = self.peer(to)?;
        let result = act(peer);
        if matches!(result, Err(SendError::Lost(_))) && peer.untold().is_some() {
            // No completion may come.
            self.bell.ring();
        }
        result
    }

    /// What only the poller uses; nothing for a poll within a sink, or a second poller: the first one does the work.
    fn receiving(&self) -> Option<MutexGuard<'_, Receiving>> {
        match self.receiving.try_lock() {
            Ok(receiving) => Some(receiving),
            Err(TryLockError::Poisoned(poisoned)) => Some(PoisonError::into_inner(poisoned)),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Ends the connection to a rank and tells so, once.
    fn lose(&self, receiving: &mut Receiving, index: usize, reason: &str, sink: &mut dyn FnMut(Event<'_>)) {
        let Some(peer) = self.peers.get(index).and_then(Option::as_ref) else { return };
        let Some(Some(inbox)) = receiving.inboxes.get_mut(index) else { return };
        if std::mem::replace(&mut inbox.lost, true) {
            return;
        }
        peer.end();
        tracing::debug!(rank = peer.rank.0, reason, "lost");
        sink(Event::Lost { rank: peer.rank, reason: reason.to_owned() });
    }

    /// Does what a completion wants.
    fn take(
        &self,
        peer: &Peer,
        inbox: &mut Inbox,
        completion: &Completion,
        done: &mut Vec<Done>,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), PeerFault> {
        if let Some(failure) = completion.failure() {
            return Err(PeerFault::Failed(failure));
        }
        if !completion.is_receive() {
            peer.ended(completion, done);
            for Done { id, brings, claim } in done.drain(..) {
                let bytes = claim.as_deref().unwrap_or_default();
                let outcome = match brings {
                    Brings::Bytes => Outcome::Got(bytes),
                    Brings::Nothing => Outcome::Put,
                    Brings::Word => Outcome::Old(bytes.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word))),
                };
                sink(Event::Completed { id, outcome });
            }
            return Ok(());
        }
        let (claim, length) = inbox.queue.received(completion).ok_or(PeerFault::NoSlot)?;
        let (credits, content, bytes) = open(claim.get(..length).unwrap_or_default())?;
        peer.regain(credits)?;
        let from = peer.rank;
        match content {
            Content::Message if bytes.is_empty() => {}
            Content::Message => {
                inbox.assembler.take(bytes, |header, body| sink(Event::Message { from, header, body }))?;
                inbox.freed += 1;
            }
            Content::Atomics => {
                self.atomics(peer, bytes, sink)?;
                inbox.freed += 1;
            }
        }
        inbox.spare.push(claim);
        Ok(())
    }

    /// Does the atomic operations that a peer asks for, and tells of those that it has done.
    fn atomics(&self, peer: &Peer, bytes: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<(), AtomicsFault> {
        if !peer.is_iwarp() {
            return Err(AtomicsFault::ByNic);
        }
        let segment: Option<&dyn Segment> = self.segment.as_ref().map(RegisteredSegment::segment);
        for entry in unpack(bytes)? {
            let entry = entry?;
            if let Some(answer) = entry.answer(segment) {
                peer.answer(answer)?;
                continue;
            }
            let id = peer.answered()?;
            let outcome = if let Entry::Old(word) = entry { Outcome::Old(word) } else { Outcome::Refused };
            sink(Event::Completed { id, outcome });
        }
        Ok(())
    }

    /// Looks at what has ended.
    fn batch(&self, receiving: &mut Receiving, sink: &mut dyn FnMut(Event<'_>)) -> Batch {
        let more = match self.completions.poll(&mut receiving.ended) {
            Ok(more) => more,
            Err(error) => {
                let reason = error.to_string();
                (0..self.peers.len()).for_each(|index| self.lose(receiving, index, &reason, sink));
                false
            }
        };
        if receiving.ended.is_empty() {
            return Batch::Empty;
        }
        let mut ended = std::mem::take(&mut receiving.ended);
        for completion in ended.drain(..) {
            let Some(index) = receiving.numbers.get(&completion.queue_pair()).copied() else { continue };
            let (Some(Some(peer)), Some(Some(inbox))) = (self.peers.get(index), receiving.inboxes.get_mut(index))
            else {
                continue;
            };
            if inbox.lost {
                continue;
            }
            if let Err(fault) = self.take(peer, inbox, &completion, &mut receiving.done, sink) {
                self.lose(receiving, index, &format!("{}: {fault}", self.device), sink);
            } else if !receiving.touched.contains(&index) {
                receiving.touched.push(index);
            }
        }
        receiving.ended = ended;
        self.settle(receiving);
        if more { Batch::Full } else { Batch::Last }
    }

    /// Posts slots again, and has those peers go on of which something has ended. Slots are given back after they are posted.
    fn settle(&self, receiving: &mut Receiving) {
        while let Some(index) = receiving.touched.pop() {
            let (Some(Some(peer)), Some(Some(inbox))) = (self.peers.get(index), receiving.inboxes.get_mut(index))
            else {
                continue;
            };
            if inbox.lost {
                continue;
            }
            if let Err(error) = inbox.queue.post(&mut inbox.spare) {
                peer.fail(error.to_string());
            }
            peer.settle(std::mem::take(&mut inbox.freed));
            if peer.untold().is_some() {
                // What came before the loss may be in the queue still.
                self.bell.ring();
            }
        }
    }

    /// Looks at all that has ended, but for what ends meanwhile without end.
    fn batches(&self, receiving: &mut Receiving, sink: &mut dyn FnMut(Event<'_>)) -> bool {
        let mut anything = false;
        for _ in 0..BATCHES {
            let batch = self.batch(receiving, sink);
            anything |= batch != Batch::Empty;
            if batch != Batch::Full {
                break;
            }
        }
        anything
    }

    /// Hands out what has ended by now: as much as the queue holds at most, as others may go on sending.
    fn drain(&self, receiving: &mut Receiving, sink: &mut dyn FnMut(Event<'_>)) {
        for _ in 0..self.peers.len() * COMPLETIONS as usize {
            if self.batch(receiving, sink) == Batch::Empty {
                break;
            }
        }
    }

    /// Polls the lifeline. What came from a rank before it was lost is in the queue by now, and is handed out before the loss.
    fn look(&self, receiving: &mut Receiving, sink: &mut dyn FnMut(Event<'_>)) -> bool {
        let happened = self.lifeline.take();
        if happened.is_empty() {
            return false;
        }
        self.drain(receiving, sink);
        for happened in happened {
            let (rank, reason) = match happened {
                Happened::Lost(rank, reason) => (rank, reason),
                Happened::Said(rank, _) => (rank, "went on talking on the lifeline".to_owned()),
            };
            self.lose(receiving, rank.0.into(), &reason, sink);
        }
        true
    }

    /// Has each peer's NIC acknowledge something, if that is due.
    fn show_life(&self, receiving: &mut Receiving, now: Instant) {
        if now < receiving.next_sign {
            return;
        }
        for peer in self.peers.iter().flatten() {
            peer.touch();
            if peer.untold().is_some() {
                self.bell.ring();
            }
        }
        receiving.next_sign = now + SIGN_OF_LIFE;
        let after = receiving.next_sign.saturating_duration_since(self.born).as_nanos();
        // 584 years fit.
        self.next_sign.store(u64::try_from(after).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Has the queue tell of the next completion; false if there is one already. The work of a lost peer ends with as many completions as it
    /// had work requests, which are nobody's concern.
    fn arm(&self, receiving: &mut Receiving) -> Result<bool, VerbsError> {
        for _ in 0..BATCHES {
            if !receiving.armed {
                self.completions.arm()?;
                receiving.armed = true;
            }
            self.completions.poll(&mut receiving.ended)?;
            let Receiving { ended, numbers, inboxes, .. } = &mut *receiving;
            let any = !ended.is_empty();
            let inbox = |completion: &Completion| inboxes.get(*numbers.get(&completion.queue_pair())?)?.as_ref();
            ended.retain(|completion| inbox(completion).is_some_and(|inbox| !inbox.lost));
            if !ended.is_empty() {
                return Ok(false);
            }
            if !any {
                return Ok(true);
            }
            // They may have been told of already.
            self.completions.disarm();
            receiving.armed = false;
        }
        Ok(false)
    }

    /// Tells of peers to which nothing can be sent any more, after what came from them.
    fn answer_bell(&self, receiving: &mut Receiving, slept: bool, sink: &mut dyn FnMut(Event<'_>)) -> bool {
        if !self.bell.answer(slept) {
            return false;
        }
        if self.peers.iter().flatten().any(|peer| peer.untold().is_some()) {
            self.drain(receiving, sink);
        }
        for (index, peer) in self.peers.iter().enumerate() {
            if let Some(reason) = peer.as_ref().and_then(Peer::untold) {
                self.lose(receiving, index, &reason, sink);
            }
        }
        true
    }
}

impl Transport for RdmaTransport {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "rdma",
            one_sided_by_nic: true,
            // On iWARP they are done by whoever polls at the target.
            atomics_by_nic: !self.completions.context().is_iwarp(),
            max_transfer: MAX_BODY,
            max_operations: MAX_OPERATIONS,
            put_lists: false,
        }
    }

    fn send(&self, to: Rank, header: &[u8], body: &[IoSlice<'_>]) -> Result<(), SendError> {
        self.with(to, |peer| peer.send(header, body))
    }

    fn get(&self, id: OperationId, target: Rank, offset: u64, len: usize) -> Result<(), SendError> {
        self.with(target, |peer| peer.operate(id, offset, Operation::Get(len)))
    }

    fn put(&self, id: OperationId, target: Rank, offset: u64, bytes: &[u8]) -> Result<(), SendError> {
        self.with(target, |peer| peer.operate(id, offset, Operation::Put(bytes)))
    }

    fn compare_and_swap(
        &self,
        id: OperationId,
        target: Rank,
        offset: u64,
        expected: u64,
        new: u64,
    ) -> Result<(), SendError> {
        self.with(target, |peer| peer.operate(id, offset, Operation::CompareAndSwap(expected, new)))
    }

    fn fetch_and_add(&self, id: OperationId, target: Rank, offset: u64, add: u64) -> Result<(), SendError> {
        self.with(target, |peer| peer.operate(id, offset, Operation::FetchAndAdd(add)))
    }

    fn guarded_read(&self, id: OperationId, target: Rank, read: GuardedRead) -> Result<(), SendError> {
        self.with(target, |peer| peer.guarded_read(id, &read))
    }

    fn poll(&self, sink: &mut dyn FnMut(Event<'_>)) -> bool {
        let Some(mut receiving) = self.receiving() else { return false };
        let receiving = &mut *receiving;
        let slept = std::mem::take(&mut receiving.armed);
        if slept {
            // Before the completions are looked at, so that none of later ones is taken. If what it tells comes after this, the next sleep
            // ends once too soon.
            self.completions.disarm();
        }
        let mut anything = self.answer_bell(receiving, slept, sink);
        anything |= self.batches(receiving, sink);
        let now = Instant::now();
        // Also after a sleep, which the lifeline may have ended.
        if slept || now >= receiving.next_look {
            self.lifeline.mark_polled();
            anything |= self.look(receiving, sink);
            // Asked for here, as that costs more than a poll; nobody sends by the lifeline, so what is due there becomes so no sooner meanwhile.
            receiving.next_look = now + self.lifeline.look_within();
        }
        self.show_life(receiving, now);
        anything
    }

    /// On the lifeline: the NIC acknowledges the peers' signs of life without this process.
    fn sign_of_life(&self) {
        self.lifeline.transport().sign_of_life();
    }

    /// A NIC that is to tell of completions interrupts a processor for each, so it is asked to before a sleep only: here. It tells of those that
    /// come after it was asked; whether some came before, since the last poll, is looked for afterwards.
    fn ready(&self) -> BorrowedFd<'_> {
        self.lifeline.transport().ready();
        if let Some(mut receiving) = self.receiving() {
            // What is found waits for the next poll, which finds out itself if the queue is broken.
            if !self.arm(&mut receiving).unwrap_or(false) {
                self.bell.ring();
            }
        }
        self.epoll.as_fd()
    }

    fn poll_within(&self) -> Duration {
        let next = Duration::from_nanos(self.next_sign.load(Ordering::Relaxed));
        next.saturating_sub(self.born.elapsed()).min(self.lifeline.transport().poll_within())
    }
}

impl Drop for RdmaTransport {
    fn drop(&mut self) {
        let deadline = Instant::now() + DRAIN_TIME;
        // All of them at once.
        let is_finished = || self.peers.iter().flatten().map(Peer::finish).fold(true, |all, one| all & one);
        while !is_finished() && Instant::now() < deadline {
            if !self.poll(&mut |_| {}) {
                thread::sleep(DRAIN_LOOK);
            }
        }
    }
}
