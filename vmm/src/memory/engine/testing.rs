//! A transport within this process, for tests: queues instead of connections.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Capabilities, Event, MAX_BODY, OperationId, SendError, Transport};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::mailbox::locked;

/// What is on its way to a rank.
#[derive(Debug)]
enum Parcel {
    Message { from: Rank, header: Vec<u8>, body: Vec<u8> },
    Lost(Rank),
}

#[derive(Debug)]
struct Inbox {
    parcels: Mutex<VecDeque<Parcel>>,
    arrived: EventFd,
}

/// What connects the endpoints of one channel.
#[derive(Debug)]
pub(super) struct Network {
    inboxes: Vec<Inbox>,
    /// Most messages on their way to one rank before a sender is told that it is too much.
    limit: AtomicUsize,
    /// How often senders were told so.
    pub(super) refused: AtomicUsize,
}

impl Network {
    pub(super) fn new(ranks: u16) -> Arc<Self> {
        let inbox = |_| Inbox {
            parcels: Mutex::new(VecDeque::new()),
            arrived: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).unwrap(),
        };
        Arc::new(Self {
            inboxes: (0..ranks).map(inbox).collect(),
            limit: AtomicUsize::new(usize::MAX),
            refused: AtomicUsize::new(0),
        })
    }

    pub(super) fn set_limit(&self, messages: usize) {
        self.limit.store(messages, Ordering::Relaxed);
    }

    /// A rank is lost; all others are told.
    pub(super) fn lose(&self, rank: Rank) {
        let others = self.inboxes.iter().enumerate().filter(|(index, _)| *index != usize::from(rank.0));
        for (_, inbox) in others {
            inbox.push(Parcel::Lost(rank));
        }
    }

    /// Puts bytes into a rank's way as if another had sent them.
    pub(super) fn forge(&self, from: Rank, to: Rank, header: Vec<u8>, body: Vec<u8>) {
        self.inboxes[usize::from(to.0)].push(Parcel::Message { from, header, body });
    }
}

impl Inbox {
    fn push(&self, parcel: Parcel) {
        locked(&self.parcels).push_back(parcel);
        self.arrived.write(1).unwrap();
    }
}

/// One rank's end.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) rank: Rank,
    pub(super) network: Arc<Network>,
}

impl Transport for Endpoint {
    fn capabilities(&self) -> Capabilities {
        Capabilities { name: "test", one_sided_by_nic: false, max_transfer: MAX_BODY, max_operations: 0 }
    }

    fn send(&self, to: Rank, header: &[u8], body: &[IoSlice<'_>]) -> Result<(), SendError> {
        let inbox = self.network.inboxes.get(usize::from(to.0)).ok_or(SendError::NoPeer(to))?;
        if locked(&inbox.parcels).len() >= self.network.limit.load(Ordering::Relaxed) {
            self.network.refused.fetch_add(1, Ordering::Relaxed);
            return Err(SendError::Full(to));
        }
        let body = body.iter().flat_map(|piece| piece.iter().copied()).collect();
        inbox.push(Parcel::Message { from: self.rank, header: header.to_vec(), body });
        Ok(())
    }

    fn get(&self, _: OperationId, target: Rank, _: u64, _: usize) -> Result<(), SendError> {
        Err(SendError::NoPeer(target))
    }

    fn put(&self, _: OperationId, target: Rank, _: u64, _: &[u8]) -> Result<(), SendError> {
        Err(SendError::NoPeer(target))
    }

    fn compare_and_swap(&self, _: OperationId, target: Rank, _: u64, _: u64, _: u64) -> Result<(), SendError> {
        Err(SendError::NoPeer(target))
    }

    fn fetch_and_add(&self, _: OperationId, target: Rank, _: u64, _: u64) -> Result<(), SendError> {
        Err(SendError::NoPeer(target))
    }

    fn poll(&self, sink: &mut dyn FnMut(Event<'_>)) -> bool {
        let inbox = &self.network.inboxes[usize::from(self.rank.0)];
        let _ = inbox.arrived.read();
        let mut any = false;
        loop {
            let parcel = locked(&inbox.parcels).pop_front();
            match parcel {
                None => return any,
                Some(Parcel::Message { from, header, body }) => {
                    sink(Event::Message { from, header: &header, body: &body });
                }
                Some(Parcel::Lost(rank)) => sink(Event::Lost { rank, reason: "the test wants it".into() }),
            }
            any = true;
        }
    }

    fn ready(&self) -> BorrowedFd<'_> {
        let inbox = &self.network.inboxes[usize::from(self.rank.0)];
        // SAFETY: the descriptor is open as long as the network lives, which `self` keeps.
        unsafe { BorrowedFd::borrow_raw(inbox.arrived.as_raw_fd()) }
    }

    fn poll_within(&self) -> Duration {
        Duration::from_secs(1)
    }
}
