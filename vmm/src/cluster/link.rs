//! Sending control messages.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use serde::Serialize;
use vincs_coherence::id::{MAX_RANKS, Rank, RankSet};
use vincs_coherence::transport::{SendError, Transport};

use super::message::{Control, KIND_NAMES, KINDS};

/// How long a sender waits before it tries again, when too much is under way.
const FULL_WAIT: Duration = Duration::from_micros(100);
/// Most messages that wait for the polling thread, which cannot wait itself. What it sends of its own accord are answers to
/// what its peers may have under way, so a peer that makes it more does not read.
const MAX_WAITING: usize = 4096;

/// How many messages of one kind were sent.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct KindSent {
    /// The kind.
    pub kind: &'static str,
    /// Messages.
    pub messages: u64,
    /// Their bytes, bodies included.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Counter {
    messages: AtomicU64,
    bytes: AtomicU64,
}

/// A message that could not be sent yet: its receiver, header and body.
type Waiting = (Rank, Vec<u8>, Vec<u8>);

/// This rank's way to send control messages; any thread may.
#[derive(Debug)]
pub(crate) struct ControlLink {
    rank: Rank,
    /// Who takes part: one bit for each rank.
    present: AtomicU64,
    transport: Arc<dyn Transport>,
    /// The thread that polls the transport: the only one that must not wait for room.
    poller: OnceLock<ThreadId>,
    /// What the polling thread could not send yet, in order.
    waiting: Mutex<VecDeque<Waiting>>,
    closed: AtomicBool,
    sent: [Counter; KINDS],
}

impl ControlLink {
    /// The way from `rank` over this endpoint. The first ranks, so many, take part, and this one.
    pub(crate) fn new(rank: Rank, ranks: u16, transport: Arc<dyn Transport>) -> Self {
        let none = u64::MAX.checked_shl(ranks.into()).unwrap_or(0);
        Self {
            rank,
            present: AtomicU64::new(!none | 1 << rank.0),
            transport,
            poller: OnceLock::new(),
            waiting: Mutex::default(),
            closed: AtomicBool::new(false),
            sent: std::array::from_fn(|_| Counter::default()),
        }
    }

    /// This rank.
    pub(crate) fn rank(&self) -> Rank {
        self.rank
    }

    /// All other ranks that take part.
    pub(crate) fn others(&self) -> impl Iterator<Item = Rank> + Clone + use<> {
        let (rank, present) = (self.rank, self.present.load(Ordering::SeqCst));
        (0..MAX_RANKS).map(Rank).filter(move |other| *other != rank && present & 1 << other.0 != 0)
    }

    /// Whether a rank takes part.
    pub(crate) fn has(&self, rank: Rank) -> bool {
        rank.0 < MAX_RANKS && self.present.load(Ordering::SeqCst) & 1 << rank.0 != 0
    }

    /// A rank takes part from now on.
    pub(crate) fn admit(&self, rank: Rank) {
        self.present.fetch_or(1_u64.checked_shl(rank.0.into()).unwrap_or(0), Ordering::SeqCst);
    }

    /// A rank takes no part any more.
    pub(crate) fn dismiss(&self, rank: Rank) {
        self.present.fetch_and(!1_u64.checked_shl(rank.0.into()).unwrap_or(0), Ordering::SeqCst);
    }

    /// The endpoint, for the thread that polls it.
    pub(crate) fn transport(&self) -> &dyn Transport {
        self.transport.as_ref()
    }

    /// The calling thread polls from now on.
    pub(crate) fn poll_here(&self) {
        let _ = self.poller.set(thread::current().id());
    }

    /// Senders that wait give up, and those to come do not wait.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Sends a message. Waits while too much is under way to its receiver; on the polling thread the message waits alone.
    /// To a rank that is lost nothing is sent: its loss is an event of the poll.
    pub(crate) fn send(&self, to: Rank, message: &Control, body: &[u8]) {
        while !self.offer(to, message, body) && !self.is_closed() {
            thread::sleep(FULL_WAIT);
        }
    }

    /// The same without waiting; says whether there was room. On the polling thread there always is: the message waits alone.
    pub(crate) fn offer(&self, to: Rank, message: &Control, body: &[u8]) -> bool {
        let header = message.encode();
        let len = header.len() + body.len();
        let polls = self.poller.get() == Some(&thread::current().id());
        let mut waiting = self.waiting();
        let in_order = waiting.iter().all(|(receiver, ..)| *receiver != to);
        if polls {
            if !(in_order && self.try_send(to, &header, body)) {
                waiting.push_back((to, header, body.to_vec()));
            }
        } else {
            drop(waiting);
            // What the polling thread has said before, as that a vCPU has come, goes before what comes of it.
            if !(in_order && self.try_send(to, &header, body)) {
                return false;
            }
        }
        if let Some(counter) = self.sent.get(message.kind()) {
            counter.messages.fetch_add(1, Ordering::Relaxed);
            counter.bytes.fetch_add(len as u64, Ordering::Relaxed);
        }
        true
    }

    /// Whether nobody waits any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Sends a message to all other ranks that take part.
    pub(crate) fn send_to_others(&self, message: &Control) {
        self.others().for_each(|to| self.send(to, message, &[]));
    }

    /// Sends what waits for the polling thread, as far as it goes; a rank for which more than the limit waits does not
    /// take its messages.
    pub(crate) fn flush(&self) -> Result<(), Rank> {
        let mut waiting = self.waiting();
        let mut full = RankSet::EMPTY;
        for (to, header, body) in std::mem::take(&mut *waiting) {
            if full.contains(to) || !self.try_send(to, &header, &body) {
                full.insert(to);
                waiting.push_back((to, header, body));
            }
        }
        match waiting.front() {
            Some((to, ..)) if waiting.len() > MAX_WAITING => Err(*to),
            _ => Ok(()),
        }
    }

    /// Whether messages of the polling thread wait for room.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting().is_empty()
    }

    /// What has been sent, by kind.
    pub(crate) fn sent(&self) -> Vec<KindSent> {
        let counted = |(kind, counter): (&'static str, &Counter)| KindSent {
            kind,
            messages: counter.messages.load(Ordering::Relaxed),
            bytes: counter.bytes.load(Ordering::Relaxed),
        };
        KIND_NAMES.into_iter().zip(&self.sent).map(counted).collect()
    }

    /// Whether nothing is left to do: it was sent, or never can be.
    fn try_send(&self, to: Rank, header: &[u8], body: &[u8]) -> bool {
        let pieces = [IoSlice::new(body)];
        match self.transport.send(to, header, if body.is_empty() { &[] } else { &pieces }) {
            Ok(()) | Err(SendError::Lost(_)) => true,
            Err(SendError::Full(_)) => false,
            Err(error @ (SendError::NoPeer(_) | SendError::Bounds(_))) => {
                tracing::error!(%error, "a control message cannot be sent");
                true
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Hub, heard};
    use super::*;

    #[test]
    fn the_polling_thread_does_not_wait_and_keeps_the_order() {
        let mut ends = Hub::ends(3).into_iter();
        let (own, near, far) = (ends.next().unwrap(), ends.next().unwrap(), ends.next().unwrap());
        own.limit(Rank(1), 1);
        let link = ControlLink::new(Rank(0), 3, own.clone());
        link.poll_here();
        for vector in 0..3 {
            link.send(Rank(1), &Control::EndOfInterrupt { vector }, &[]);
        }
        link.send(Rank(2), &Control::EndOfInterrupt { vector: 9 }, &[]);
        assert_eq!(heard(&far), [(Rank(0), Control::EndOfInterrupt { vector: 9 })], "others are not held up");
        assert!(link.has_waiting());
        own.limit(Rank(1), 10);
        assert_eq!(link.flush(), Ok(()));
        let expected: Vec<_> = (0..3).map(|vector| (Rank(0), Control::EndOfInterrupt { vector })).collect();
        assert_eq!(heard(&near), expected);
        assert!(!link.has_waiting());
        let kind = link.sent().into_iter().find(|sent| sent.kind == "end_of_interrupt").unwrap();
        assert_eq!((kind.messages, kind.bytes), (4, 12));
    }

    #[test]
    fn what_the_polling_thread_has_said_goes_before_what_others_say_later() {
        let mut ends = Hub::ends(3).into_iter();
        let (own, near, far) = (ends.next().unwrap(), ends.next().unwrap(), ends.next().unwrap());
        own.limit(Rank(1), 0);
        let link = ControlLink::new(Rank(0), 3, own.clone());
        link.poll_here();
        link.send(Rank(1), &Control::EndOfInterrupt { vector: 1 }, &[]);
        own.limit(Rank(1), 10);
        let offered = |to| thread::scope(|scope| scope.spawn(|| link.offer(to, &Control::Closed, &[])).join().unwrap());
        assert_eq!([Rank(1), Rank(2)].map(offered), [false, true]);
        assert_eq!(link.flush(), Ok(()));
        assert!(offered(Rank(1)));
        assert_eq!(heard(&near), [(Rank(0), Control::EndOfInterrupt { vector: 1 }), (Rank(0), Control::Closed)]);
        assert_eq!(heard(&far), [(Rank(0), Control::Closed)]);
    }

    #[test]
    fn a_rank_that_takes_nothing_is_told_at_the_limit() {
        let mut ends = Hub::ends(2).into_iter();
        let own = ends.next().unwrap();
        own.limit(Rank(1), 0);
        let link = ControlLink::new(Rank(0), 2, own);
        link.poll_here();
        for _ in 0..MAX_WAITING {
            link.send(Rank(1), &Control::Closed, &[]);
        }
        assert_eq!(link.flush(), Ok(()));
        link.send(Rank(1), &Control::Closed, &[]);
        assert_eq!(link.flush(), Err(Rank(1)));
    }

    #[test]
    fn another_thread_waits_for_room_until_the_link_is_closed() {
        let mut ends = Hub::ends(2).into_iter();
        let (own, peer) = (ends.next().unwrap(), ends.next().unwrap());
        own.limit(Rank(1), 0);
        let link = Arc::new(ControlLink::new(Rank(0), 2, own.clone()));
        let sender = |message: Control| {
            let link = Arc::clone(&link);
            thread::spawn(move || link.send(Rank(1), &message, &[]))
        };
        let first = sender(Control::Closed);
        thread::sleep(Duration::from_millis(20));
        assert!(!first.is_finished());
        own.limit(Rank(1), 1);
        first.join().unwrap();
        assert_eq!(heard(&peer), [(Rank(0), Control::Closed)]);
        own.limit(Rank(1), 0);
        let second = sender(Control::EndSeen);
        link.close();
        second.join().unwrap();
        assert!(heard(&peer).is_empty());
    }
}
