//! One peer as senders see it: messages on their way into its slots, and one-sided operations on its segment.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{GuardedRead, MAX_BODY, OperationId, SendError};

use crate::atomics::{AtomicsFault, Entry, pack};
use crate::stream::{
    Content, Credits, HEAD_BYTES, MAX_SLOTS, Pieces, SLOT_BYTES, StreamFault, head, open, place, prefix, slots,
};
use crate::verbs::VerbsError;
use crate::verbs::completion::Completion;
use crate::verbs::counts::Counts;
use crate::verbs::device::ProtectionDomain;
use crate::verbs::memory::{Access, Buffer, Claim, RemoteMemory};
use crate::verbs::queue_pair::{Depths, QueuePair, ReceiveQueue, RemoteAddress, SendQueue, Task, Work};

/// Slots for the messages of a peer: as many small messages come without its waiting for this rank, and half of the longest one.
pub(crate) const SLOTS: u16 = 128;

/// So many signs of life may be due before the NIC tells the end of the one under way: more than its tries of sending it take.
pub(crate) const UNANSWERED: u32 = 6;

/// Slots beyond those, for what only gives slots back: at most two are under way to a peer that takes none (`stream::Credits::is_overdue`), and
/// two more when it has taken two in a batch and not posted their receives again.
const SPARE_SLOTS: u16 = 4;

/// Slots of a peer's send ring. Two of the longest messages, as the NIC may not have told of the end of the first when the second comes, and
/// what it does not tell of by itself.
pub(crate) const RING_SLOTS: usize = 2 * MAX_SLOTS + SIGNAL_EVERY;

/// The NIC tells of the end of one message slot in so many: each costs it a write and us a look, and so many of the ring are little.
const SIGNAL_EVERY: usize = 16;

/// Most one-sided operations under way to one peer.
pub(crate) const MAX_OPERATIONS: usize = 128;

/// Bytes for what one-sided operations bring and take: one of the longest beside many small ones.
pub(crate) const OPERATION_BYTES: usize = MAX_BODY + (64 << 10);

/// Operations begin at multiples of it: a word wastes little of it, and a page is four of them, each of which costs an atomic instruction.
const OPERATION_GRAIN: usize = 1024;

/// Most slots of messages that are with the NIC: more than the peer has, as it may give slots back before our NIC has told that they were sent.
const MESSAGE_DEPTH: usize = 2 * SLOTS as usize;

/// Most other work that is with the NIC: signs of life and what only gives slots back.
const SERVICES: usize = 8;

/// Bytes that go to the NIC with the work request: it need not fetch them. What NICs take at least.
pub(crate) const INLINE_BYTES: u32 = 220;

/// Bytes of a page, which are locked as one.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Memory that is registered for one peer and channel class, beside the segment and what is read as a sign of life.
pub(crate) const REGISTERED_BYTES: usize = message_bytes() + operation_bytes();

const fn message_bytes() -> usize {
    ((SLOTS + SPARE_SLOTS) as usize + RING_SLOTS).saturating_mul(SLOT_BYTES).next_multiple_of(PAGE_BYTES)
}

const fn operation_bytes() -> usize {
    (OPERATION_BYTES / OPERATION_GRAIN + SERVICES).saturating_mul(OPERATION_GRAIN).next_multiple_of(PAGE_BYTES)
}

const _: () = assert!(MAX_SLOTS + SIGNAL_EVERY <= RING_SLOTS && OPERATION_GRAIN >= HEAD_BYTES);
const _: () = assert!(MAX_OPERATIONS * OPERATION_GRAIN <= OPERATION_BYTES);

/// What a queue pair of ours takes.
#[expect(clippy::cast_possible_truncation, reason = "a sum of small constants")]
pub(crate) const DEPTHS: Depths = Depths {
    send: (MESSAGE_DEPTH + MAX_OPERATIONS + SERVICES) as u32,
    receive: (SLOTS + SPARE_SLOTS) as u32,
    inline: INLINE_BYTES,
};

/// Most completions of one peer at once: of everything, as failed work is told of even where its end is not.
pub(crate) const COMPLETIONS: u32 = DEPTHS.send + DEPTHS.receive;

/// A one-sided operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation<'a> {
    Get(usize),
    Put(&'a [u8]),
    CompareAndSwap(u64, u64),
    FetchAndAdd(u64),
}

/// Work requests of a guarded read, and of a put on iWARP.
const PAIR: usize = 2;

impl Operation<'_> {
    /// How many bytes it reads or writes there.
    fn length(&self) -> usize {
        match self {
            Self::Get(length) => *length,
            Self::Put(bytes) => bytes.len(),
            Self::CompareAndSwap(..) | Self::FetchAndAdd(_) => size_of::<u64>(),
        }
    }
}

/// What an operation brings when it has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Brings {
    Bytes,
    Nothing,
    Word,
}

/// A one-sided operation that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) id: OperationId,
    pub(crate) brings: Brings,
    /// None of no bytes.
    pub(crate) claim: Option<Claim>,
}

/// What a work request was for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Message,
    Service,
    Operation(OperationId, Brings),
    /// The first of an operation's two: a guarded read's mark, or on iWARP the bytes of a put.
    First,
}

/// Part of a buffer that is claimed in turn.
#[derive(Debug)]
struct Ring {
    buffer: Arc<Buffer>,
    start: usize,
    length: usize,
    /// Where the next claim goes, from the start of the ring.
    next: usize,
    grain: usize,
}

impl Ring {
    fn claim(&mut self, length: usize) -> Option<Claim> {
        let at = place(self.next, length, self.length);
        let claim = self.buffer.claim(self.start + at, length)?;
        self.next = (at + length).next_multiple_of(self.grain);
        Some(claim)
    }
}

/// A slot of a message that is not with the NIC yet.
#[derive(Debug)]
struct Fragment {
    claim: Claim,
    length: usize,
    content: Content,
}

/// One peer's connection, as senders see it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) rank: Rank,
    queue_pair: Arc<QueuePair>,
    memory: RemoteMemory,
    /// Senders and the poller take it, for one call of the NIC's driver at most, which does not wait.
    outbound: Mutex<Outbound>,
    /// The loss has been told.
    told: AtomicBool,
}

#[derive(Debug)]
struct Outbound {
    queue: SendQueue,
    /// Of what is in the queue, in order.
    purposes: VecDeque<Purpose>,
    /// Of messages, in order: slots that wait for one of the peer's.
    waiting: VecDeque<Fragment>,
    credits: Credits,
    /// On iWARP, a byte of the peer's that signs of life read.
    pulse: Option<RemoteAddress>,
    /// On iWARP, what was given to the NIC last is no READ, the end of which would tell that all before it is there.
    is_unproved: bool,
    /// On iWARP, atomics that are to be asked of the peer; and that were, in order, without an answer.
    asks: VecDeque<Entry>,
    asked: VecDeque<OperationId>,
    /// Answers to the peer's.
    answers: VecDeque<Entry>,
    messages: Ring,
    operations: Ring,
    services: Ring,
    /// By purpose, how much is in the queue.
    messages_posted: usize,
    operations_posted: usize,
    services_posted: usize,
    /// Signs of life that were due since the NIC told of anything, while one was under way.
    unanswered: u32,
    /// Slots posted since the last one whose end is told.
    quiet: usize,
    /// A buffer that lives on.
    work: Vec<Work>,
    /// Why nothing can be sent any more.
    broken: Option<String>,
}

/// The parts of a peer before its other end is known.
#[derive(Debug)]
pub(crate) struct Unconnected {
    pub(crate) queue_pair: Arc<QueuePair>,
    pub(crate) receives: ReceiveQueue,
    sends: SendQueue,
    messages: Arc<Buffer>,
    operations: Arc<Buffer>,
}

impl Unconnected {
    /// Registers the memory, binds the queue pair to a port and posts its receives.
    pub(crate) fn new(
        domain: &Arc<ProtectionDomain>,
        (sends, mut receives): (SendQueue, ReceiveQueue),
        port: u8,
    ) -> Result<Self, VerbsError> {
        let own = usize::from(SLOTS + SPARE_SLOTS);
        let messages = Buffer::new(domain, Access::Own, SLOT_BYTES, own + RING_SLOTS)?;
        let grains = OPERATION_BYTES / OPERATION_GRAIN + SERVICES;
        let operations = Buffer::new(domain, Access::Reads, OPERATION_GRAIN, grains)?;
        let queue_pair = Arc::clone(sends.queue_pair());
        queue_pair.bind(port)?;
        let mut claims = (0..own).filter_map(|slot| messages.claim(slot * SLOT_BYTES, SLOT_BYTES)).collect();
        receives.post(&mut claims)?;
        Ok(Self { queue_pair, receives, sends, messages, operations })
    }

    /// Sends a slot with nothing in it: on iWARP who has asked for a connection sends first (RFC 5044, section 7.1).
    pub(crate) fn greet(&mut self) -> Result<(), VerbsError> {
        let Some(mut claim) = self.operations.claim(OPERATION_BYTES, HEAD_BYTES) else { return Ok(()) };
        if let Some(place) = claim.first_chunk_mut() {
            *place = head(0, Content::Message);
        }
        self.sends.post(&mut vec![Work { task: Task::Send, claim: Some(claim), length: HEAD_BYTES, signaled: true }])
    }

    /// What this tells is that the slot was sent.
    pub(crate) fn greeted(&mut self, completion: &Completion) {
        drop(self.sends.ended(completion));
    }

    /// What this tells is that the slot has come, if it is that; posts its receive again.
    pub(crate) fn hear(&mut self, completion: &Completion) -> Result<Result<(), StreamFault>, VerbsError> {
        let Some((claim, length)) = self.receives.received(completion) else { return Ok(Err(StreamFault::Head(0))) };
        let is_greeting = claim.get(..length) == Some(&head(0, Content::Message));
        let fault = open(claim.get(..length).unwrap_or_default()).err().unwrap_or(StreamFault::TooMuch(length));
        self.receives.post(&mut vec![claim])?;
        Ok(if is_greeting { Ok(()) } else { Err(fault) })
    }

    /// The peer, whose memory and number of slots are known now, and on iWARP what it has for signs of life; and what is received from it.
    pub(crate) fn connected(
        self,
        rank: Rank,
        memory: RemoteMemory,
        slots: u16,
        pulse: Option<RemoteAddress>,
    ) -> (Peer, ReceiveQueue) {
        let Self { queue_pair, receives, sends, messages, operations } = self;
        let start = usize::from(SLOTS + SPARE_SLOTS) * SLOT_BYTES;
        let ring = |buffer: &Arc<Buffer>, start, length, grain| {
            let buffer = Arc::clone(buffer);
            Ring { buffer, start, length, next: 0, grain }
        };
        let outbound = Outbound {
            queue: sends,
            purposes: VecDeque::new(),
            waiting: VecDeque::new(),
            credits: Credits::new(slots, SLOTS),
            pulse,
            is_unproved: false,
            asks: VecDeque::new(),
            asked: VecDeque::new(),
            answers: VecDeque::new(),
            messages: ring(&messages, start, RING_SLOTS * SLOT_BYTES, SLOT_BYTES),
            operations: ring(&operations, 0, OPERATION_BYTES, OPERATION_GRAIN),
            services: ring(&operations, OPERATION_BYTES, SERVICES * OPERATION_GRAIN, OPERATION_GRAIN),
            messages_posted: 0,
            operations_posted: 0,
            services_posted: 0,
            unanswered: 0,
            quiet: 0,
            work: Vec::new(),
            broken: None,
        };
        let outbound = Mutex::new(outbound);
        (Peer { rank, queue_pair, memory, outbound, told: AtomicBool::new(false) }, receives)
    }
}

impl Outbound {
    /// Gives to the NIC what is to be done; if it does not take it, nothing can be sent any more.
    fn post(&mut self) -> bool {
        if let (Some(_), Some(last)) = (self.pulse, self.work.last()) {
            self.is_unproved = !matches!(last.task, Task::Read(_));
        }
        let posted = self.queue.post(&mut self.work);
        if let Err(error) = posted {
            self.broken = Some(error.to_string());
        }
        self.broken.is_none()
    }

    /// Slots of the ring that are taken.
    fn used(&self) -> usize {
        self.waiting.len() + self.messages_posted
    }

    /// Puts a slot behind those that wait; `fill` says how long it is. False if nothing can be sent any more.
    fn enqueue(&mut self, content: Content, fill: impl FnOnce(&mut Self, &mut [u8]) -> usize) -> bool {
        // Slots are free again in the order in which they were claimed, so the next one is.
        let Some(mut claim) = self.messages.claim(SLOT_BYTES) else {
            self.broken = Some("the send ring is out of order".to_owned());
            return false;
        };
        let length = fill(self, &mut claim);
        self.waiting.push_back(Fragment { claim, length, content });
        true
    }

    /// Puts atomics and their answers behind what waits, as far as the ring has room; false if nothing can be sent any more.
    fn pack(&mut self) -> bool {
        while (!self.asks.is_empty() || !self.answers.is_empty()) && self.used() < RING_SLOTS {
            let is_packed = self.enqueue(Content::Atomics, |own, slot| {
                let room = slot.get_mut(HEAD_BYTES..).unwrap_or_default();
                let answers = pack(&mut own.answers, room);
                HEAD_BYTES + answers + pack(&mut own.asks, room.get_mut(answers..).unwrap_or_default())
            });
            if !is_packed {
                return false;
            }
        }
        true
    }

    /// Gives to the NIC the slots for which the peer has room; false if nothing can be sent any more.
    fn pump(&mut self) -> bool {
        if !self.pack() {
            return false;
        }
        // On iWARP a slot whose end is not told would be TCP's own to send from for longer than until that of the next one is.
        let signal_every = if self.queue.queue_pair().is_iwarp() { 1 } else { SIGNAL_EVERY };
        while self.messages_posted < MESSAGE_DEPTH && !self.waiting.is_empty() && self.credits.spend() {
            let Some(Fragment { mut claim, length, content }) = self.waiting.pop_front() else { break };
            if let Some(place) = claim.first_chunk_mut() {
                *place = head(self.credits.pay(), content);
            }
            self.quiet += 1;
            let signaled = self.quiet >= signal_every;
            if signaled {
                self.quiet = 0;
            }
            self.work.push(Work { task: Task::Send, claim: Some(claim), length, signaled });
            self.purposes.push_back(Purpose::Message);
            self.messages_posted += 1;
        }
        self.work.is_empty() || self.post()
    }

    /// Gives the NIC something of our own to do.
    fn serve(&mut self, task: Task, claim: Option<Claim>, length: usize) -> bool {
        self.services_posted += 1;
        self.purposes.push_back(Purpose::Service);
        self.work.push(Work { task, claim, length, signaled: true });
        self.post()
    }

    /// Gives slots back that cannot wait for a message. If there is no room, it is tried again after the next completion.
    fn pay(&mut self) {
        if !self.credits.is_overdue() || self.services_posted >= SERVICES {
            return;
        }
        if let Some(mut claim) = self.services.claim(HEAD_BYTES) {
            if let Some(place) = claim.first_chunk_mut() {
                *place = head(self.credits.pay(), Content::Message);
            }
            self.serve(Task::Send, Some(claim), HEAD_BYTES);
        }
    }

    /// Writes nothing to the peer, which its NIC acknowledges; on iWARP reads a byte, which its NIC answers. Not nothing: soft-iWARP of
    /// Linux 6.1 answers that with as many bytes as it sent before.
    fn touch(&mut self) {
        let Some(pulse) = self.pulse else {
            // No memory is named for no bytes.
            self.serve(Task::Write(RemoteAddress { address: 0, key: 0 }), None, 0);
            return;
        };
        if let Some(claim) = self.services.claim(1) {
            self.serve(Task::Read(pulse), Some(claim), 1);
        }
    }
}

impl Peer {
    /// What the NIC was given for it.
    pub(crate) fn counts(&self) -> Counts {
        self.queue_pair.counts()
    }

    fn lock(&self) -> MutexGuard<'_, Outbound> {
        // Nothing that holds it can panic half-way.
        self.outbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn usable(&self) -> Result<MutexGuard<'_, Outbound>, SendError> {
        let outbound = self.lock();
        if outbound.broken.is_some() { Err(SendError::Lost(self.rank)) } else { Ok(outbound) }
    }

    /// Length of its segment in bytes.
    pub(crate) fn segment_length(&self) -> u64 {
        self.memory.length
    }

    /// Sends a message.
    pub(crate) fn send(&self, header: &[u8], body: &[IoSlice<'_>]) -> Result<(), SendError> {
        let length = body.iter().fold(0_usize, |sum, piece| sum.saturating_add(piece.len()));
        let prefix = prefix(header.len(), length).ok_or(SendError::Bounds(length.max(header.len())))?;
        let mut outbound = self.usable()?;
        let count = slots(header.len(), length);
        // Atomics that wait for room go first.
        if !outbound.pack() {
            return Err(SendError::Lost(self.rank));
        }
        if outbound.used() + count > RING_SLOTS {
            return Err(SendError::Full(self.rank));
        }
        let mut pieces = Pieces::new([&prefix[..], header].into_iter().chain(body.iter().map(|piece| &**piece)));
        for _ in 0..count {
            if !outbound.enqueue(Content::Message, |_, slot| pieces.fill(slot)) {
                return Err(SendError::Lost(self.rank));
            }
        }
        if outbound.pump() { Ok(()) } else { Err(SendError::Lost(self.rank)) }
    }

    /// Starts a one-sided operation at this offset of the peer's segment.
    pub(crate) fn operate(&self, id: OperationId, offset: u64, operation: Operation<'_>) -> Result<(), SendError> {
        let length = operation.length();
        let end = u64::try_from(length).ok().and_then(|length| offset.checked_add(length));
        let word = matches!(operation, Operation::CompareAndSwap(..) | Operation::FetchAndAdd(_));
        let mut outbound = self.usable()?;
        // What is not in the segment is not asked of the NIC: it would end the connection.
        let within = end.is_some_and(|end| end <= self.memory.length) && (!word || offset.is_multiple_of(8));
        if !within || length > MAX_BODY {
            return Err(SendError::Bounds(length));
        }
        if word && self.is_iwarp() {
            return self.ask(&mut outbound, id, offset, operation);
        }
        let is_proved = self.is_iwarp() && length > 0 && matches!(operation, Operation::Put(_));
        if outbound.operations_posted + if is_proved { PAIR } else { 1 } > MAX_OPERATIONS {
            return Err(SendError::Full(self.rank));
        }
        let mut claim = |length| outbound.operations.claim(length).ok_or(SendError::Full(self.rank));
        // The long one first: it may have to begin at the ring's start, where the short one would be in its way.
        let bytes = if length == 0 { None } else { Some(claim(length)?) };
        let proof = if is_proved { Some(claim(1)?) } else { None };
        let at = RemoteAddress { address: self.memory.address + offset, key: self.memory.key };
        let (task, brings, claim) = match (operation, bytes) {
            (Operation::Get(_), None) => (Task::Write(at), Brings::Bytes, None),
            (Operation::Get(_), claim) => (Task::Read(at), Brings::Bytes, claim),
            (Operation::Put(bytes), mut claim) => {
                claim.iter_mut().for_each(|claim| claim.copy_from_slice(bytes));
                (Task::Write(at), Brings::Nothing, claim)
            }
            (Operation::CompareAndSwap(expected, new), claim) => {
                (Task::CompareAndSwap(at, expected, new), Brings::Word, claim)
            }
            (Operation::FetchAndAdd(add), claim) => (Task::FetchAndAdd(at, add), Brings::Word, claim),
        };
        outbound.operations_posted += 1;
        outbound.purposes.push_back(if is_proved { Purpose::First } else { Purpose::Operation(id, brings) });
        outbound.work.push(Work { task, claim, length, signaled: !is_proved });
        if let Some(proof) = proof {
            // A READ is served after what came before it was written, and brings the last of it.
            let last = RemoteAddress { address: at.address + (length as u64 - 1), ..at };
            outbound.operations_posted += 1;
            outbound.purposes.push_back(Purpose::Operation(id, brings));
            outbound.work.push(Work { task: Task::Read(last), claim: Some(proof), length: 1, signaled: true });
        }
        if outbound.post() { Ok(()) } else { Err(SendError::Lost(self.rank)) }
    }

    /// Asks the peer for an atomic operation.
    fn ask(
        &self,
        outbound: &mut Outbound,
        id: OperationId,
        at: u64,
        operation: Operation<'_>,
    ) -> Result<(), SendError> {
        let entry = match operation {
            Operation::CompareAndSwap(expected, new) => Entry::Swap { at, expected, new },
            Operation::FetchAndAdd(add) => Entry::Add { at, add },
            Operation::Get(_) | Operation::Put(_) => return Err(SendError::Bounds(operation.length())),
        };
        if outbound.operations_posted >= MAX_OPERATIONS {
            return Err(SendError::Full(self.rank));
        }
        outbound.operations_posted += 1;
        outbound.asked.push_back(id);
        outbound.asks.push_back(entry);
        if outbound.pump() { Ok(()) } else { Err(SendError::Lost(self.rank)) }
    }

    /// Answers an atomic operation that the peer has asked for; what answers there are goes out when this rank [settles](Self::settle) with it.
    pub(crate) fn answer(&self, answer: Entry) -> Result<(), AtomicsFault> {
        let mut outbound = self.lock();
        if outbound.answers.len() >= MAX_OPERATIONS {
            return Err(AtomicsFault::TooMany(MAX_OPERATIONS));
        }
        outbound.answers.push_back(answer);
        Ok(())
    }

    /// The peer has answered an atomic operation: this one.
    pub(crate) fn answered(&self) -> Result<OperationId, AtomicsFault> {
        let mut outbound = self.lock();
        let id = outbound.asked.pop_front().ok_or(AtomicsFault::NotAsked)?;
        outbound.operations_posted -= 1;
        Ok(id)
    }

    /// Whether it is of an iWARP device: that has no atomics, so ranks do them for each other, and what it sent or wrote it tells when TCP has it,
    /// not when it is there.
    pub(crate) fn is_iwarp(&self) -> bool {
        self.queue_pair.is_iwarp()
    }

    /// Starts a guarded read of the peer's segment: two work requests with one doorbell. The queue pair keeps their order: a READ is
    /// executed after an earlier WRITE.
    pub(crate) fn guarded_read(&self, id: OperationId, read: &GuardedRead) -> Result<(), SendError> {
        let GuardedRead { mark_at, mark, at, len } = *read;
        let mut outbound = self.usable()?;
        let within = |at: u64, length: usize| {
            let end = u64::try_from(length).ok().and_then(|length| at.checked_add(length));
            end.is_some_and(|end| end <= self.memory.length)
        };
        if !within(mark_at, 1) || !within(at, len) || !(1..=MAX_BODY).contains(&len) {
            return Err(SendError::Bounds(len));
        }
        if outbound.operations_posted + PAIR > MAX_OPERATIONS {
            return Err(SendError::Full(self.rank));
        }
        // The long one first: it may have to begin at the ring's start, where the short one would be in its way.
        let claims = [len, 1].map(|length| outbound.operations.claim(length));
        let [bytes @ Some(_), Some(mut mark_claim)] = claims else { return Err(SendError::Full(self.rank)) };
        mark_claim.fill(mark);
        let there = |offset| RemoteAddress { address: self.memory.address + offset, key: self.memory.key };
        outbound.operations_posted += PAIR;
        outbound.purposes.extend([Purpose::First, Purpose::Operation(id, Brings::Bytes)]);
        let put = Task::Write(there(mark_at));
        outbound.work.push(Work { task: put, claim: Some(mark_claim), length: 1, signaled: false });
        outbound.work.push(Work { task: Task::Read(there(at)), claim: bytes, length: len, signaled: true });
        if outbound.post() { Ok(()) } else { Err(SendError::Lost(self.rank)) }
    }

    /// The peer gives back slots of its own.
    pub(crate) fn regain(&self, count: u16) -> Result<(), StreamFault> {
        if count == 0 { Ok(()) } else { self.lock().credits.regain(count) }
    }

    /// Takes what has ended with this completion; adds the operations among it to `done`, in order.
    pub(crate) fn ended(&self, completion: &Completion, done: &mut Vec<Done>) {
        let mut outbound = self.lock();
        outbound.unanswered = 0;
        let Outbound { queue, purposes, messages_posted, operations_posted, services_posted, .. } = &mut *outbound;
        let (range, claims) = queue.ended(completion);
        let range = range.start.min(purposes.len())..range.end.min(purposes.len());
        for (purpose, claim) in purposes.drain(range).zip(claims) {
            match purpose {
                Purpose::Message => *messages_posted -= 1,
                Purpose::Service => *services_posted -= 1,
                Purpose::Operation(id, brings) => {
                    *operations_posted -= 1;
                    done.push(Done { id, brings, claim });
                }
                Purpose::First => *operations_posted -= 1,
            }
        }
    }

    /// After completions: so many slots of ours are free again; what waited for slots of the peer's goes on.
    pub(crate) fn settle(&self, freed: u16) {
        if let Ok(mut outbound) = self.usable() {
            outbound.credits.owe(freed);
            if outbound.pump() {
                outbound.pay();
            }
        }
    }

    /// Has the peer's NIC acknowledge something, unless that is under way already: then it is counted against our own NIC, which tells the
    /// end of everything, well or not. Looks are counted, not time, as this process may have been stopped.
    pub(crate) fn touch(&self) {
        let Ok(mut outbound) = self.usable() else { return };
        if outbound.services_posted == 0 {
            outbound.touch();
        } else if outbound.unanswered < UNANSWERED {
            outbound.unanswered += 1;
        } else {
            outbound.broken = Some(format!("this rank's NIC has told nothing for {UNANSWERED} signs of life"));
        }
    }

    /// Nothing can be sent any more, for this reason if for no other before.
    pub(crate) fn fail(&self, reason: String) {
        self.lock().broken.get_or_insert(reason);
    }

    /// Has the NIC tell when the peer's has all that this one was given; says whether that is so.
    pub(crate) fn finish(&self) -> bool {
        let Ok(mut outbound) = self.usable() else { return true };
        let all = outbound.purposes.is_empty() && !outbound.is_unproved;
        if !all && outbound.services_posted == 0 {
            outbound.touch();
        }
        all
    }

    /// Why nothing can be sent any more, if that has not been told.
    pub(crate) fn untold(&self) -> Option<String> {
        if self.told.load(Ordering::Relaxed) { None } else { self.lock().broken.clone() }
    }

    /// Ends the connection, as its loss is told now.
    pub(crate) fn end(&self) {
        self.told.store(true, Ordering::Relaxed);
        let mut outbound = self.lock();
        outbound.broken.get_or_insert_default();
        outbound.waiting.clear();
        outbound.asks.clear();
        outbound.answers.clear();
        if let Err(error) = self.queue_pair.end() {
            // It is destroyed with the endpoint at the latest.
            tracing::debug!(rank = self.rank.0, %error, "not ended");
        }
    }
}
