//! One-sided operations under way, and what waits until the transport takes it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::Serialize;
use vincs_coherence::hlrc::OpId;
use vincs_coherence::id::{Page, Rank, RankSet};
use vincs_coherence::transport::{OperationId, PutList, RUN_BYTES, SendError, Transport};

/// What an operation is part of.
#[derive(Debug)]
pub(super) enum Part {
    /// Words for the node.
    Words(OpId),
    /// A put that the node waits for.
    Put(OpId),
    /// A compare-and-swap.
    Swap(OpId),
    /// Adjacent pages from one on, each an operation of the node's.
    Pages(Page, Vec<OpId>),
    /// A page's shadow, its twin from now on.
    Twin(OpId, Page),
    /// A page that is to be put into its shadow.
    Save(OpId, Page),
    /// One of the puts of a flush.
    Flush(OpId),
}

/// What is asked of the transport.
#[derive(Debug)]
pub(super) enum Request {
    /// Bytes of a segment.
    Get {
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: usize,
    },
    /// Bytes into a segment.
    Put {
        /// Where, in bytes.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Runs of bytes into a segment.
    List(PutList),
    /// A compare-and-swap.
    Swap {
        /// Where, in bytes.
        offset: u64,
        /// What the word has to be.
        expected: u64,
        /// What it becomes.
        new: u64,
    },
    /// A message, which has no answer.
    Say(Vec<u8>),
}

/// What this rank has asked of others.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Traffic {
    /// Gets.
    pub gets: u64,
    /// Puts and lists of puts.
    pub puts: u64,
    /// Compare-and-swaps.
    pub swaps: u64,
    /// Bytes that gets have asked for.
    pub bytes_got: u64,
    /// Bytes that puts have carried, with the place and length of each run.
    pub bytes_put: u64,
}

impl Traffic {
    /// Requests of all kinds. Each has one answer.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.gets + self.puts + self.swaps
    }

    fn count(&mut self, request: &Request) {
        match request {
            Request::Get { len, .. } => {
                self.gets += 1;
                self.bytes_got += *len as u64;
            }
            Request::Put { bytes, .. } => {
                self.puts += 1;
                self.bytes_put += (bytes.len() + RUN_BYTES) as u64;
            }
            Request::List(list) => {
                self.puts += 1;
                self.bytes_put += list.encoded().len() as u64;
            }
            Request::Swap { .. } => self.swaps += 1,
            Request::Say(_) => {}
        }
    }
}

/// The operations of a rank on other ranks' segments.
#[derive(Debug)]
pub(super) struct Operations {
    transport: Arc<dyn Transport>,
    next: u64,
    under_way: BTreeMap<OperationId, (Rank, Part)>,
    /// What the transport did not take. A node has a bounded number of operations under way, so it is bounded, too.
    held: VecDeque<(Rank, OperationId, Request)>,
    /// For whom something is held: what comes for these waits behind it, so that a rank hears what it is told in order.
    full: RankSet,
    /// How many puts of a flush are under way.
    flushes: BTreeMap<OpId, usize>,
    traffic: Traffic,
}

impl Operations {
    pub(super) fn new(transport: Arc<dyn Transport>) -> Self {
        let (next, under_way, held) = (0, BTreeMap::new(), VecDeque::new());
        Self {
            transport,
            next,
            under_way,
            held,
            full: RankSet::EMPTY,
            flushes: BTreeMap::new(),
            traffic: Traffic::default(),
        }
    }

    /// Starts an operation, now or when the transport takes it. One to a lost rank vanishes: it never completes.
    ///
    /// # Errors
    /// [`SendError`] when the transport can never carry it.
    pub(super) fn start(&mut self, target: Rank, part: Part, request: Request) -> Result<(), SendError> {
        let id = self.name();
        if let Part::Flush(op) = part {
            *self.flushes.entry(op).or_default() += 1;
        }
        self.under_way.insert(id, (target, part));
        self.begin(target, id, request)
    }

    /// Sends a message, now or when the transport takes it.
    ///
    /// # Errors
    /// [`SendError`] when the transport can never carry it.
    pub(super) fn say(&mut self, to: Rank, body: Vec<u8>) -> Result<(), SendError> {
        let id = self.name();
        self.begin(to, id, Request::Say(body))
    }

    fn name(&mut self) -> OperationId {
        self.next += 1;
        OperationId(self.next)
    }

    fn begin(&mut self, target: Rank, id: OperationId, request: Request) -> Result<(), SendError> {
        self.traffic.count(&request);
        if self.full.contains(target) || !began(&*self.transport, target, id, &request)? {
            self.full.insert(target);
            self.held.push_back((target, id, request));
        }
        Ok(())
    }

    /// An operation has ended: what it was part of, and at whose segment.
    pub(super) fn end(&mut self, id: OperationId) -> Option<(Rank, Part)> {
        self.under_way.remove(&id)
    }

    /// A put of a flush has ended; says whether all have.
    pub(super) fn flushed(&mut self, op: OpId) -> bool {
        match self.flushes.get_mut(&op) {
            Some(left) if *left > 1 => {
                *left -= 1;
                false
            }
            _ => {
                self.flushes.remove(&op);
                true
            }
        }
    }

    /// Whether puts of a flush are under way.
    pub(super) fn is_flushing(&self, op: OpId) -> bool {
        self.flushes.contains_key(&op)
    }

    /// Starts what has waited, as far as the transport takes it; says whether any of it was.
    ///
    /// # Errors
    /// [`SendError`] when the transport can never carry something.
    pub(super) fn drain(&mut self) -> Result<bool, SendError> {
        let before = self.held.len();
        self.full = RankSet::EMPTY;
        for _ in 0..before {
            let Some((target, id, request)) = self.held.pop_front() else { break };
            if self.full.contains(target) || !began(&*self.transport, target, id, &request)? {
                self.full.insert(target);
                self.held.push_back((target, id, request));
            }
        }
        Ok(self.held.len() < before)
    }

    /// Whether something waits.
    pub(super) fn is_waiting(&self) -> bool {
        !self.held.is_empty()
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.traffic
    }
}

/// Begins a request; false when the transport does not take it now.
fn began(transport: &dyn Transport, target: Rank, id: OperationId, request: &Request) -> Result<bool, SendError> {
    let result = match request {
        Request::Get { offset, len } => transport.get(id, target, *offset, *len),
        Request::Put { offset, bytes } => transport.put(id, target, *offset, bytes),
        Request::List(list) => transport.put_list(id, target, list),
        Request::Swap { offset, expected, new } => transport.compare_and_swap(id, target, *offset, *expected, *new),
        Request::Say(body) => transport.send(target, &[], &[std::io::IoSlice::new(body)]),
    };
    match result {
        // The loss itself is told by the transport's next poll.
        Ok(()) | Err(SendError::Lost(_)) => Ok(true),
        Err(SendError::Full(_)) => Ok(false),
        Err(error @ (SendError::NoPeer(_) | SendError::Bounds(_))) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use vincs_coherence::transport::Event;

    use super::*;
    use crate::test_transport::Hub;

    #[test]
    fn a_rank_hears_in_order_what_was_held_up() {
        let ends = Hub::ends(3);
        let mut operations = Operations::new(Arc::clone(&ends[0]) as Arc<dyn Transport>);
        let heard = |rank: usize| {
            let mut heard = Vec::new();
            ends[rank].poll(&mut |event| match event {
                Event::Message { body, .. } => heard.push(body[0]),
                other @ (Event::Lost { .. } | Event::Completed { .. }) => panic!("{other:?}"),
            });
            heard
        };
        ends[0].limit(Rank(1), 1);
        operations.say(Rank(1), vec![1]).unwrap();
        operations.say(Rank(1), vec![2]).unwrap();
        operations.say(Rank(2), vec![9]).unwrap();
        assert_eq!((heard(1), heard(2)), (vec![1], vec![9]), "another rank's way is free");
        // There is room now, and something waits.
        operations.say(Rank(1), vec![3]).unwrap();
        assert!(operations.is_waiting() && heard(1).is_empty());
        assert!(operations.drain().unwrap());
        assert_eq!(heard(1), [2]);
        ends[0].limit(Rank(1), 2);
        operations.drain().unwrap();
        operations.say(Rank(1), vec![4]).unwrap();
        assert_eq!(heard(1), [3, 4]);
    }
}
