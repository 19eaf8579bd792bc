//! Messages on their way out. What a transport does not take at once waits here, in order.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{SendError, Transport};

/// The way out to all ranks.
#[derive(Debug)]
pub(super) struct Outgoing {
    transport: Arc<dyn Transport>,
    /// Messages that wait. Bounded by what ranks may ask of each other at a time, as no fault is taken while something
    /// waits: docs/coherence.md, "Limits".
    waiting: BTreeMap<Rank, VecDeque<Waiting>>,
}

/// A message that waits.
#[derive(Debug)]
struct Waiting {
    header: Vec<u8>,
    body: Vec<u8>,
}

impl Outgoing {
    pub(super) fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, waiting: BTreeMap::new() }
    }

    /// Sends a message, or keeps a copy until it can be sent; says whether it had to. What goes to a lost rank vanishes.
    ///
    /// # Errors
    /// [`SendError`] when the transport can never carry it.
    pub(super) fn send(&mut self, to: Rank, header: &[u8], body: &[IoSlice<'_>]) -> Result<bool, SendError> {
        let queue = self.waiting.get_mut(&to);
        if queue.is_none() && sent(self.transport.send(to, header, body))? {
            return Ok(false);
        }
        let mut copy = Vec::with_capacity(body.iter().map(|piece| piece.len()).sum());
        body.iter().for_each(|piece| copy.extend_from_slice(piece));
        self.waiting.entry(to).or_default().push_back(Waiting { header: header.to_vec(), body: copy });
        Ok(true)
    }

    /// Sends what waits, as far as the transport takes it.
    ///
    /// # Errors
    /// [`SendError`] when the transport can never carry something.
    pub(super) fn drain(&mut self) -> Result<(), SendError> {
        for (to, queue) in &mut self.waiting {
            while let Some(Waiting { header, body }) = queue.front() {
                if !sent(self.transport.send(*to, header, &[IoSlice::new(body)]))? {
                    break;
                }
                queue.pop_front();
            }
        }
        self.waiting.retain(|_, queue| !queue.is_empty());
        Ok(())
    }

    /// Whether something waits.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

/// Whether a message needs no more attention.
fn sent(result: Result<(), SendError>) -> Result<bool, SendError> {
    match result {
        // The loss itself is told by the transport's next poll.
        Ok(()) | Err(SendError::Lost(_)) => Ok(true),
        Err(SendError::Full(_)) => Ok(false),
        Err(error @ (SendError::NoPeer(_) | SendError::Bounds(_))) => Err(error),
    }
}
