//! A transport between threads of one process, for tests: messages, and operations on segments. These are done as a NIC does them, without the target's threads.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{
    Capabilities, Event, GuardedRead, MAX_BODY, OperationId, Outcome, Segment, SendError, Transport, WordSegment,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

#[derive(Debug)]
enum Item {
    Message(Rank, Vec<u8>, Vec<u8>),
    Lost(Rank, String),
    Read(OperationId, Option<Vec<u8>>),
    Put(OperationId, bool),
    Old(OperationId, Option<u64>),
}

#[derive(Debug)]
struct Inbox {
    items: Mutex<VecDeque<Item>>,
    ready: EventFd,
}

/// One rank's end.
#[derive(Debug)]
pub(crate) struct End {
    rank: Rank,
    inboxes: Arc<Vec<Inbox>>,
    /// The segments of all ranks, if they have any.
    segments: Arc<Vec<Arc<dyn Segment>>>,
    /// It says that a NIC does what is done with them.
    by_nic: bool,
    /// How many messages may wait at each rank before a sender is told to try again.
    limits: Mutex<Vec<usize>>,
    /// How often this sender was told so.
    refused: AtomicUsize,
    /// What it says that a message has at most.
    max_transfer: AtomicUsize,
    /// How often it was to say that it is alive.
    signs: AtomicUsize,
}

/// Makes ends.
pub(crate) struct Hub;

impl Hub {
    /// The ends of so many ranks.
    pub(crate) fn ends(ranks: u16) -> Vec<Arc<End>> {
        Self::make(ranks, Vec::new(), false)
    }

    /// The same with the segments of all ranks.
    pub(crate) fn ends_with(ranks: u16, segments: Vec<Arc<WordSegment>>) -> Vec<Arc<End>> {
        Self::make(ranks, segments.into_iter().map(|segment| segment as Arc<dyn Segment>).collect(), true)
    }

    /// The same with segments of any kind, which it does not say that a NIC serves.
    pub(crate) fn ends_over(ranks: u16, segments: Vec<Arc<dyn Segment>>) -> Vec<Arc<End>> {
        Self::make(ranks, segments, false)
    }

    fn make(ranks: u16, segments: Vec<Arc<dyn Segment>>, by_nic: bool) -> Vec<Arc<End>> {
        let segments = Arc::new(segments);
        let inbox = |_| Inbox { items: Mutex::default(), ready: EventFd::new(EFD_NONBLOCK).unwrap() };
        let inboxes = Arc::new((0..ranks).map(inbox).collect::<Vec<_>>());
        let end = |rank| {
            let limits = Mutex::new(vec![usize::MAX; ranks.into()]);
            let (refused, max_transfer) = (AtomicUsize::new(0), AtomicUsize::new(MAX_BODY));
            let signs = AtomicUsize::new(0);
            let (inboxes, segments) = (Arc::clone(&inboxes), Arc::clone(&segments));
            Arc::new(End { rank: Rank(rank), inboxes, segments, by_nic, limits, refused, max_transfer, signs })
        };
        (0..ranks).map(end).collect()
    }
}

impl End {
    /// At most so many messages may wait at a rank from now on.
    pub(crate) fn limit(&self, to: Rank, messages: usize) {
        self.limits.lock().unwrap()[usize::from(to.0)] = messages;
    }

    /// How often this rank was told to try again.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// How often this rank was to say that it is alive, since the last call.
    pub(crate) fn signs(&self) -> usize {
        self.signs.swap(0, Ordering::Relaxed)
    }

    /// It says from now on that a message has so many bytes at most.
    pub(crate) fn set_max_transfer(&self, bytes: usize) {
        self.max_transfer.store(bytes, Ordering::Relaxed);
    }

    /// This rank is lost for another.
    pub(crate) fn lose(&self, at: Rank, reason: &str) {
        self.put(at, Item::Lost(self.rank, reason.to_owned()));
    }

    /// Sends bytes as they are.
    pub(crate) fn send_raw(&self, to: Rank, header: &[u8], body: &[u8]) {
        self.put(to, Item::Message(self.rank, header.to_vec(), body.to_vec()));
    }

    fn put(&self, to: Rank, item: Item) {
        let inbox = &self.inboxes[usize::from(to.0)];
        inbox.items.lock().unwrap().push_back(item);
        inbox.ready.write(1).unwrap();
    }

    fn segment(&self, target: Rank) -> Result<&dyn Segment, SendError> {
        self.segments.get(usize::from(target.0)).map(|segment| &**segment).ok_or(SendError::NoPeer(target))
    }

    /// An operation is done; its target looks at what is in its segment now.
    fn end(&self, target: Rank, item: Item) -> Result<(), SendError> {
        self.put(self.rank, item);
        self.inboxes[usize::from(target.0)].ready.write(1).unwrap();
        Ok(())
    }

    fn own(&self) -> MutexGuard<'_, VecDeque<Item>> {
        self.inboxes[usize::from(self.rank.0)].items.lock().unwrap()
    }
}

impl Transport for End {
    fn capabilities(&self) -> Capabilities {
        let max_transfer = self.max_transfer.load(Ordering::Relaxed);
        Capabilities {
            name: "threads",
            one_sided_by_nic: self.by_nic,
            atomics_by_nic: self.by_nic,
            max_transfer,
            max_operations: usize::MAX,
            put_lists: false,
        }
    }

    fn send(&self, to: Rank, header: &[u8], body: &[IoSlice<'_>]) -> Result<(), SendError> {
        let inbox = self.inboxes.get(usize::from(to.0)).ok_or(SendError::NoPeer(to))?;
        let limit = self.limits.lock().unwrap()[usize::from(to.0)];
        if inbox.items.lock().unwrap().len() >= limit {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(SendError::Full(to));
        }
        let body: Vec<u8> = body.iter().flat_map(|piece| piece.iter().copied()).collect();
        self.send_raw(to, header, &body);
        Ok(())
    }

    fn get(&self, id: OperationId, target: Rank, offset: u64, len: usize) -> Result<(), SendError> {
        let mut bytes = vec![0; len];
        let is_there = self.segment(target)?.read(offset, &mut bytes);
        self.end(target, Item::Read(id, is_there.then_some(bytes)))
    }

    fn put(&self, id: OperationId, target: Rank, offset: u64, bytes: &[u8]) -> Result<(), SendError> {
        let is_there = self.segment(target)?.write(offset, bytes);
        self.end(target, Item::Put(id, is_there))
    }

    fn compare_and_swap(
        &self,
        id: OperationId,
        target: Rank,
        offset: u64,
        expected: u64,
        new: u64,
    ) -> Result<(), SendError> {
        let old = self.segment(target)?.compare_and_swap(offset, expected, new);
        self.end(target, Item::Old(id, old))
    }

    fn fetch_and_add(&self, id: OperationId, target: Rank, offset: u64, add: u64) -> Result<(), SendError> {
        let old = self.segment(target)?.fetch_and_add(offset, add);
        self.end(target, Item::Old(id, old))
    }

    fn guarded_read(&self, id: OperationId, target: Rank, read: GuardedRead) -> Result<(), SendError> {
        let segment = self.segment(target)?;
        let mut bytes = vec![0; read.len];
        let marked = segment.write(read.mark_at, &[read.mark]);
        std::sync::atomic::fence(Ordering::SeqCst);
        // The last half before the first one, as a NIC may; the threads of the target have their chance in between.
        let (first, last) = bytes.split_at_mut(read.len / 2);
        std::thread::yield_now();
        let mut is_there = segment.read(read.at + first.len() as u64, last);
        std::thread::yield_now();
        is_there &= segment.read(read.at, first);
        self.put(self.rank, Item::Read(id, Some(bytes).filter(|_| marked && is_there)));
        Ok(())
    }

    fn poll(&self, sink: &mut dyn FnMut(Event<'_>)) -> bool {
        let rung = self.inboxes[usize::from(self.rank.0)].ready.read().is_ok();
        let items = std::mem::take(&mut *self.own());
        let any = rung || !items.is_empty();
        for item in items {
            match item {
                Item::Message(from, header, body) => sink(Event::Message { from, header: &header, body: &body }),
                Item::Lost(rank, reason) => sink(Event::Lost { rank, reason }),
                Item::Put(id, true) => sink(Event::Completed { id, outcome: Outcome::Put }),
                Item::Old(id, Some(old)) => sink(Event::Completed { id, outcome: Outcome::Old(old) }),
                Item::Read(id, None) | Item::Put(id, false) | Item::Old(id, None) => {
                    sink(Event::Completed { id, outcome: Outcome::Refused })
                }
                Item::Read(id, Some(bytes)) => sink(Event::Completed { id, outcome: Outcome::Got(&bytes) }),
            }
        }
        any
    }

    fn sign_of_life(&self) {
        self.signs.fetch_add(1, Ordering::Relaxed);
    }

    fn ready(&self) -> BorrowedFd<'_> {
        let fd = self.inboxes[usize::from(self.rank.0)].ready.as_raw_fd();
        // SAFETY: the descriptor is open as long as the inboxes live, which this end shares.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    fn poll_within(&self) -> Duration {
        Duration::from_secs(1)
    }
}
