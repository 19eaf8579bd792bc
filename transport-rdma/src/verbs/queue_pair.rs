//! Reliable connections: queue pairs, and the work requests that are given to them.

use std::collections::VecDeque;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rdma_sys as sys;

use super::completion::{Completion, CompletionQueue, RECEIVED};
use super::counts::{Counters, Counts};
use super::device::ProtectionDomain;
use super::manager::Identifier;
use super::memory::{Claim, reach};
use super::{Plain, VerbsError};
use crate::choose::{Gid, LinkLayer};

/// Work requests given to the NIC at once, with one doorbell.
const CHAIN: usize = 16;

/// How long a packet may be unacknowledged before it is sent again: 4.096 µs times 2 to this power, 0.13 s. NICs may take up to four times as long.
const ACKNOWLEDGE_TIME: u8 = 15;

/// How often it is sent again. With [`ACKNOWLEDGE_TIME`], a peer that does not answer is known after 0.9 s, or 3.8 s on the slowest of NICs.
const RETRIES: u8 = 6;

/// How often a message is sent again to a peer that has posted no receive. By our credits that never happens, so a peer for which it does is soon lost.
const RECEIVER_NOT_READY_RETRIES: u8 = 6;

/// Time until then: number 12 of the table in the InfiniBand specification (9.7.5.2.8), 0.64 ms.
const RECEIVER_NOT_READY_TIME: u8 = 12;

/// Routers that a packet may pass, as on the Internet.
const HOPS: u8 = 64;

/// How much can be given to a queue pair.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Depths {
    /// Work requests to send.
    pub send: u32,
    /// Work requests to receive.
    pub receive: u32,
    /// Bytes of a message that the NIC takes with the work request; less if the device cannot.
    pub inline: u32,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Remote {
    /// Number of its queue pair.
    pub queue_pair: u32,
    /// Number of its first packet.
    pub first_packet: u32,
    /// Its local identifier on InfiniBand.
    pub lid: u16,
    /// Its address.
    pub gid: [u8; 16],
}

/// How a queue pair is connected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Route {
    /// Port of the device.
    pub port: u8,
    /// What it is connected to.
    pub link_layer: LinkLayer,
    /// This end's address.
    pub gid: Gid,
    /// Number of this end's first packet.
    pub first_packet: u32,
    /// Longest packet, as the verbs library counts.
    pub mtu: u8,
    /// Reads and atomics of the other end that this one serves at once.
    pub reads_served: u8,
    /// Reads and atomics that this end has under way at once.
    pub reads_asked: u8,
    /// The other end.
    pub remote: Remote,
}

/// A queue pair. Its two queues, which keep it, are used apart from each other.
#[derive(Debug)]
pub struct QueuePair {
    pointer: NonNull<sys::ibv_qp>,
    domain: Arc<ProtectionDomain>,
    completions: Arc<CompletionQueue>,
    number: u32,
    inline: usize,
    counters: Counters,
    /// What the NIC may still use until the queue pair is destroyed.
    leftovers: Mutex<Vec<Claim>>,
    /// The connection on iWARP, which goes after the queue pair.
    connection: OnceLock<Identifier>,
}

// SAFETY: calls on a queue pair may be made from any thread.
unsafe impl Send for QueuePair {}
// SAFETY: as above.
unsafe impl Sync for QueuePair {}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: the pointer is of ibv_create_qp and destroyed here only; the claims and what it depends on go afterwards.
        let code = unsafe { sys::ibv_destroy_qp(self.pointer.as_ptr()) };
        self.domain.context().objects().destroyed("ibv_destroy_qp", code);
    }
}

impl QueuePair {
    /// A new one with its two queues, both of which tell of completions on one completion queue.
    ///
    /// # Errors
    /// The device has no such queue pair, or the two are not of one open device.
    pub fn create(
        domain: &Arc<ProtectionDomain>,
        completions: &Arc<CompletionQueue>,
        depths: Depths,
    ) -> Result<(SendQueue, ReceiveQueue), VerbsError> {
        if !Arc::ptr_eq(domain.context(), completions.context()) {
            let (here, there) = (domain.context().name(), completions.context().name());
            return Err(VerbsError::mixed("ibv_create_qp", here, "completion queue is of another open device", there));
        }
        let mut wanted = sys::ibv_qp_init_attr::zeroed();
        wanted.send_cq = completions.pointer();
        wanted.recv_cq = completions.pointer();
        wanted.qp_type = sys::ibv_qp_type::IBV_QPT_RC;
        let mut pointer = None;
        // A device that does not take so much with a work request may do without.
        for inline in [depths.inline, 0] {
            wanted.cap = sys::ibv_qp_cap {
                max_send_wr: depths.send,
                max_recv_wr: depths.receive,
                max_send_sge: 1,
                max_recv_sge: 1,
                max_inline_data: inline,
            };
            // SAFETY: domain and completion queue are there.
            pointer = NonNull::new(unsafe { sys::ibv_create_qp(domain.pointer(), &raw mut wanted) });
            if pointer.is_some() {
                break;
            }
        }
        let pointer = pointer.ok_or_else(|| VerbsError::last("ibv_create_qp", domain.context().name()))?;
        // SAFETY: just made; the number stays as it is.
        let number = unsafe { pointer.as_ref() }.qp_num;
        domain.context().objects().made();
        let shared = Arc::new(Self {
            pointer,
            domain: Arc::clone(domain),
            completions: Arc::clone(completions),
            number,
            inline: usize::try_from(wanted.cap.max_inline_data.min(depths.inline)).unwrap_or(0),
            counters: Counters::default(),
            leftovers: Mutex::default(),
            connection: OnceLock::new(),
        });
        let receives = ReceiveQueue { shared: Arc::clone(&shared), in_flight: VecDeque::new(), next: 0 };
        Ok((SendQueue { shared, in_flight: VecDeque::new(), next: 0 }, receives))
    }

    /// Its number, by which completions name it.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// What it was given, without completions, which are its completion queue's.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    fn device(&self) -> &str {
        self.domain.context().name()
    }

    fn modify(
        &self,
        call: &'static str,
        state: u32,
        mut attributes: sys::ibv_qp_attr,
        mask: sys::ibv_qp_attr_mask,
    ) -> Result<(), VerbsError> {
        attributes.qp_state = state;
        let mask = (mask | sys::ibv_qp_attr_mask::IBV_QP_STATE).0.cast_signed();
        // SAFETY: the queue pair is there; the call reads what the mask says.
        let code = unsafe { sys::ibv_modify_qp(self.pointer.as_ptr(), &raw mut attributes, mask) };
        VerbsError::check(call, self.device(), code)
    }

    /// Binds it to a port, which on iWARP comes with the connection: receives can be posted from now on.
    ///
    /// # Errors
    /// The device refuses.
    pub fn bind(&self, port: u8) -> Result<(), VerbsError> {
        let mut attributes = sys::ibv_qp_attr::zeroed();
        attributes.port_num = port;
        attributes.qp_access_flags = reach(self.domain.context()).0;
        let mut mask = sys::ibv_qp_attr_mask::IBV_QP_ACCESS_FLAGS;
        if !self.is_iwarp() {
            mask |= sys::ibv_qp_attr_mask::IBV_QP_PKEY_INDEX | sys::ibv_qp_attr_mask::IBV_QP_PORT;
        }
        self.modify("ibv_modify_qp to INIT", sys::ibv_qp_state::IBV_QPS_INIT, attributes, mask)
    }

    /// Connects it: it receives and may send from now on, though the other end may not be there yet.
    ///
    /// # Errors
    /// The device refuses, or does not find the way to the other end.
    pub fn connect(&self, route: &Route) -> Result<(), VerbsError> {
        let mut attributes = sys::ibv_qp_attr::zeroed();
        attributes.path_mtu = route.mtu.into();
        attributes.dest_qp_num = route.remote.queue_pair;
        attributes.rq_psn = route.remote.first_packet;
        attributes.max_dest_rd_atomic = route.reads_served;
        attributes.min_rnr_timer = RECEIVER_NOT_READY_TIME;
        attributes.ah_attr.port_num = route.port;
        attributes.ah_attr.dlid = route.remote.lid;
        if route.link_layer == LinkLayer::Ethernet {
            attributes.ah_attr.is_global = 1;
            attributes.ah_attr.grh.dgid = sys::ibv_gid { raw: route.remote.gid };
            attributes.ah_attr.grh.sgid_index = route.gid.index;
            attributes.ah_attr.grh.hop_limit = HOPS;
        }
        let mask = sys::ibv_qp_attr_mask::IBV_QP_AV
            | sys::ibv_qp_attr_mask::IBV_QP_PATH_MTU
            | sys::ibv_qp_attr_mask::IBV_QP_DEST_QPN
            | sys::ibv_qp_attr_mask::IBV_QP_RQ_PSN
            | sys::ibv_qp_attr_mask::IBV_QP_MAX_DEST_RD_ATOMIC
            | sys::ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER;
        self.modify("ibv_modify_qp to RTR", sys::ibv_qp_state::IBV_QPS_RTR, attributes, mask)?;
        let mut attributes = sys::ibv_qp_attr::zeroed();
        attributes.sq_psn = route.first_packet;
        attributes.timeout = ACKNOWLEDGE_TIME;
        attributes.retry_cnt = RETRIES;
        attributes.rnr_retry = RECEIVER_NOT_READY_RETRIES;
        attributes.max_rd_atomic = route.reads_asked;
        let mask = sys::ibv_qp_attr_mask::IBV_QP_TIMEOUT
            | sys::ibv_qp_attr_mask::IBV_QP_RETRY_CNT
            | sys::ibv_qp_attr_mask::IBV_QP_RNR_RETRY
            | sys::ibv_qp_attr_mask::IBV_QP_SQ_PSN
            | sys::ibv_qp_attr_mask::IBV_QP_MAX_QP_RD_ATOMIC;
        self.modify("ibv_modify_qp to RTS", sys::ibv_qp_state::IBV_QPS_RTS, attributes, mask)
    }

    /// Whether it is of an iWARP device: then the connection manager connects it.
    #[must_use]
    pub fn is_iwarp(&self) -> bool {
        self.domain.context().is_iwarp()
    }

    /// Keeps the connection that the connection manager has made for it, for as long as it lives. It is the only one.
    pub fn keep(&self, connection: Identifier) {
        let kept = self.connection.set(connection);
        debug_assert!(kept.is_ok(), "a queue pair has one connection");
    }

    /// Ends the connection: whatever is under way ends with an error, here and, as nothing is acknowledged any more, at the other end.
    ///
    /// # Errors
    /// The device refuses.
    pub fn end(&self) -> Result<(), VerbsError> {
        let nothing = sys::ibv_qp_attr_mask(0);
        self.modify("ibv_modify_qp to ERR", sys::ibv_qp_state::IBV_QPS_ERR, sys::ibv_qp_attr::zeroed(), nothing)
    }

    /// Refuses memory that is not registered in this domain: its key means nothing here, or other memory.
    fn check(&self, call: &'static str, claim: &Claim) -> Result<(), VerbsError> {
        if Arc::ptr_eq(claim.domain(), &self.domain) {
            return Ok(());
        }
        Err(VerbsError::mixed(
            call,
            self.device(),
            "memory is of another protection domain",
            claim.domain().context().name(),
        ))
    }

    /// Whether something that has ended is of this queue pair.
    fn has(&self, completion: &Completion) -> bool {
        completion.queue_pair == self.number && completion.is_of(&self.completions)
    }

    fn leave(&self, claims: impl Iterator<Item = Claim>) {
        self.leftovers.lock().unwrap_or_else(PoisonError::into_inner).extend(claims);
    }
}

/// A place in another rank's memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RemoteAddress {
    /// Its address.
    pub address: u64,
    /// The key to that memory.
    pub key: u32,
}

/// What a NIC is to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Task {
    /// Send bytes into the next posted receive of the other end.
    Send,
    /// Write bytes there.
    Write(RemoteAddress),
    /// Read bytes from there.
    Read(RemoteAddress),
    /// Replace the word there if it is the first of these by the second, and bring what it was.
    CompareAndSwap(RemoteAddress, u64, u64),
    /// Add this to the word there, and bring what it was.
    FetchAndAdd(RemoteAddress, u64),
}

/// A work request.
#[derive(Debug)]
pub struct Work {
    /// What to do.
    pub task: Task,
    /// With which memory; none for no bytes.
    pub claim: Option<Claim>,
    /// With how many of its bytes.
    pub length: usize,
    /// Whether its end is told. Otherwise it is with that of a later one.
    pub signaled: bool,
}

impl Work {
    /// The request for the library, without its memory.
    fn request(&self, id: u64, inline: usize) -> sys::ibv_send_wr {
        let mut request = sys::ibv_send_wr::zeroed();
        request.wr_id = id;
        let rdma = |to: RemoteAddress| sys::wr_t { rdma: sys::rdma_t { remote_addr: to.address, rkey: to.key } };
        let atomic = |to: RemoteAddress, compare_add, swap| sys::wr_t {
            atomic: sys::atomic_t { remote_addr: to.address, compare_add, swap, rkey: to.key },
        };
        let takes_bytes = match self.task {
            Task::Send => {
                request.opcode = sys::ibv_wr_opcode::IBV_WR_SEND;
                true
            }
            Task::Write(to) => {
                request.opcode = sys::ibv_wr_opcode::IBV_WR_RDMA_WRITE;
                request.wr = rdma(to);
                true
            }
            Task::Read(from) => {
                request.opcode = sys::ibv_wr_opcode::IBV_WR_RDMA_READ;
                request.wr = rdma(from);
                false
            }
            Task::CompareAndSwap(to, expected, new) => {
                request.opcode = sys::ibv_wr_opcode::IBV_WR_ATOMIC_CMP_AND_SWP;
                request.wr = atomic(to, expected, new);
                false
            }
            Task::FetchAndAdd(to, add) => {
                request.opcode = sys::ibv_wr_opcode::IBV_WR_ATOMIC_FETCH_AND_ADD;
                request.wr = atomic(to, add, 0);
                false
            }
        };
        if self.signaled {
            request.send_flags |= sys::ibv_send_flags::IBV_SEND_SIGNALED.0;
        }
        if takes_bytes && self.length <= inline && self.claim.is_some() {
            request.send_flags |= sys::ibv_send_flags::IBV_SEND_INLINE.0;
        }
        request
    }
}

/// What a queue was given and the NIC is not known to be done with.
#[derive(Debug)]
struct InFlight {
    id: u64,
    claim: Option<Claim>,
    /// Its end is told by a completion of its own.
    signaled: bool,
}

/// The queue of what a NIC is to do.
#[derive(Debug)]
pub struct SendQueue {
    shared: Arc<QueuePair>,
    in_flight: VecDeque<InFlight>,
    next: u64,
}

impl Drop for SendQueue {
    fn drop(&mut self) {
        self.shared.leave(self.in_flight.drain(..).filter_map(|work| work.claim));
    }
}

impl SendQueue {
    /// The queue pair.
    #[must_use]
    pub fn queue_pair(&self) -> &Arc<QueuePair> {
        &self.shared
    }

    /// Gives all of it to the NIC, in order. The caller sees to it that there is room.
    ///
    /// # Errors
    /// The NIC did not take all; the queue pair is of no use any more. Nothing was given to it if some of the memory is registered elsewhere.
    pub fn post(&mut self, work: &mut Vec<Work>) -> Result<(), VerbsError> {
        work.iter()
            .filter_map(|work| work.claim.as_ref())
            .try_for_each(|claim| self.shared.check("ibv_post_send", claim))?;
        let mut work = work.drain(..).peekable();
        while work.peek().is_some() {
            let mut elements = [sys::ibv_sge { addr: 0, length: 0, lkey: 0 }; CHAIN];
            let mut requests: [sys::ibv_send_wr; CHAIN] = std::array::from_fn(|_| sys::ibv_send_wr::zeroed());
            let mut next = ptr::null_mut();
            let places = requests.iter_mut().zip(&mut elements);
            let mut messages = 0;
            let count = places.zip(&mut work).fold(0, |count, ((request, element), work)| {
                messages += usize::from(work.task == Task::Send);
                *request = work.request(self.next, self.shared.inline);
                if let Some(claim) = &work.claim {
                    *element = claim.element(work.length);
                    request.sg_list = &raw mut *element;
                    request.num_sge = 1;
                }
                self.in_flight.push_back(InFlight { id: self.next, claim: work.claim, signaled: work.signaled });
                self.next += 1;
                count + 1
            });
            for request in requests.iter_mut().take(count).rev() {
                request.next = next;
                next = &raw mut *request;
            }
            let mut bad = ptr::null_mut();
            // SAFETY: a chain of requests that are there until the call returns, whose memory is claimed for longer than the NIC uses it.
            let code = unsafe { sys::ibv_post_send(self.shared.pointer.as_ptr(), next, &raw mut bad) };
            VerbsError::check("ibv_post_send", self.shared.device(), code)?;
            self.shared.counters.sent(messages, count - messages);
        }
        Ok(())
    }

    /// What has ended with this completion: which of those that had not, counted from the oldest, and their memory.
    ///
    /// Queue pairs end work in the order in which they were given it: all that is older has ended, too. On iWARP a message has ended once TCP has
    /// it, which may be before an older read has brought its bytes: there it is this work, and what was not to be told right before it.
    pub fn ended(&mut self, completion: &Completion) -> (Range<usize>, impl Iterator<Item = Option<Claim>>) {
        let ours = self.shared.has(completion) && !completion.is_receive();
        let in_flight = &mut self.in_flight;
        let end = if ours { in_flight.partition_point(|work| work.id <= completion.id) } else { 0 };
        let start = if self.shared.is_iwarp() { group(in_flight.range(..end)) } else { 0 };
        // On iWARP it may have ended with another one, when a connection fails.
        let is_there =
            end.checked_sub(1).and_then(|last| in_flight.get(last)).is_some_and(|work| work.id == completion.id);
        let range = if is_there { start..end } else { 0..0 };
        (range.clone(), in_flight.drain(range).map(|work| work.claim))
    }
}

/// Where the last of these begins, with what was not to be told right before it.
fn group<'a>(work: impl DoubleEndedIterator<Item = &'a InFlight> + ExactSizeIterator) -> usize {
    let last = work.len().saturating_sub(1);
    let quiet = work.rev().skip(1).take_while(|work| !work.signaled).count();
    last.saturating_sub(quiet)
}

/// The queue of where messages go.
#[derive(Debug)]
pub struct ReceiveQueue {
    shared: Arc<QueuePair>,
    in_flight: VecDeque<InFlight>,
    next: u64,
}

impl Drop for ReceiveQueue {
    fn drop(&mut self) {
        self.shared.leave(self.in_flight.drain(..).filter_map(|work| work.claim));
    }
}

impl ReceiveQueue {
    /// Gives the NIC memory for as many messages. The caller sees to it that there is room.
    ///
    /// # Errors
    /// The NIC did not take all; the queue pair is of no use any more. Nothing was given to it if some of the memory is registered elsewhere.
    pub fn post(&mut self, claims: &mut Vec<Claim>) -> Result<(), VerbsError> {
        claims.iter().try_for_each(|claim| self.shared.check("ibv_post_recv", claim))?;
        let mut claims = claims.drain(..).peekable();
        while claims.peek().is_some() {
            let mut elements = [sys::ibv_sge { addr: 0, length: 0, lkey: 0 }; CHAIN];
            let empty = || sys::ibv_recv_wr { wr_id: 0, next: ptr::null_mut(), sg_list: ptr::null_mut(), num_sge: 1 };
            let mut requests: [sys::ibv_recv_wr; CHAIN] = std::array::from_fn(|_| empty());
            let places = requests.iter_mut().zip(&mut elements);
            let count = places.zip(&mut claims).fold(0, |count, ((request, element), claim)| {
                *element = claim.element(claim.len());
                request.wr_id = RECEIVED | self.next;
                request.sg_list = &raw mut *element;
                self.in_flight.push_back(InFlight { id: RECEIVED | self.next, claim: Some(claim), signaled: true });
                self.next += 1;
                count + 1
            });
            let mut next = ptr::null_mut();
            for request in requests.iter_mut().take(count).rev() {
                request.next = next;
                next = &raw mut *request;
            }
            let mut bad = ptr::null_mut();
            // SAFETY: a chain of requests that are there until the call returns, whose memory is claimed for longer than the NIC uses it.
            let code = unsafe { sys::ibv_post_recv(self.shared.pointer.as_ptr(), next, &raw mut bad) };
            VerbsError::check("ibv_post_recv", self.shared.device(), code)?;
            self.shared.counters.received(count);
        }
        Ok(())
    }

    /// Where the message is that this completion tells of, and how many bytes it has; nothing if it tells of none of this queue.
    pub fn received(&mut self, completion: &Completion) -> Option<(Claim, usize)> {
        let oldest = self.in_flight.front()?;
        if !self.shared.has(completion) || oldest.id != completion.id || completion.failure().is_some() {
            return None;
        }
        let claim = self.in_flight.pop_front()?.claim?;
        let length = completion.bytes.min(claim.len());
        Some((claim, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_to_be_told_ends_with_what_comes_right_after_it() {
        let at = |signaled: &[bool]| {
            let work: Vec<_> = signaled.iter().map(|&signaled| InFlight { id: 0, claim: None, signaled }).collect();
            group(work.iter())
        };
        assert_eq!((at(&[]), at(&[true]), at(&[false])), (0, 0, 0));
        assert_eq!(at(&[true, true]), 1, "an older one goes on");
        assert_eq!(at(&[true, false, true]), 1);
        assert_eq!(at(&[false, false, true]), 0);
        assert_eq!(at(&[true, false, false]), 1, "one that was not to be told and has failed, with those before it");
    }
}
