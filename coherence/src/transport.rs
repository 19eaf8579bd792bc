//! The port to whatever carries messages and one-sided operations between ranks.
//!
//! An endpoint is one rank's end of one channel class: it reaches the endpoints of the same class at all other ranks.
//! Messages of one sender arrive at one receiver once and in order, as long as neither is lost; a lost rank stays lost.
//! One-sided operations act on the segment that the target endpoint was given; they are ordered neither among
//! themselves nor against messages until their completion has been polled.

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::id::{MAX_RUN, PAGE_BYTES, Rank};

pub use put_list::{Malformed, PutList, RUN_BYTES};
pub use words::{WordMemory, WordSegment};

mod put_list;
mod words;

/// Longest header of a message in bytes.
pub const MAX_HEADER: usize = 4096;

/// Longest body of a message, and longest one-sided transfer, in bytes.
pub const MAX_BODY: usize = MAX_RUN as usize * PAGE_BYTES;

/// What an endpoint can do. What it declares, it does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Capabilities {
    /// Name of the transport, as the user selects it.
    pub name: &'static str,
    /// Gets, puts and guarded reads need no attention of the target's processors.
    pub one_sided_by_nic: bool,
    /// Compare-and-swap and fetch-and-add need none either. Otherwise they end once the target has polled.
    pub atomics_by_nic: bool,
    /// Longest body and transfer in bytes, at most [`MAX_BODY`].
    pub max_transfer: usize,
    /// Most one-sided operations under way at once to one rank. A guarded read or a put may count as several.
    pub max_operations: usize,
    /// It has [`Transport::put_list`]. Without it, that carries nothing.
    pub put_lists: bool,
}

/// What a guarded read does at the target's segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GuardedRead {
    /// Where a byte is put, before all else.
    pub mark_at: u64,
    /// The byte.
    pub mark: u8,
    /// Where the bytes are that are read then.
    pub at: u64,
    /// How many, at least one.
    pub len: usize,
}

/// Why something was not sent or started. Nothing of it was, then.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SendError {
    /// Too much is under way to that rank; try again after a poll.
    #[error("too much is under way to rank {}", .0.0)]
    Full(Rank),
    /// That rank is lost.
    #[error("rank {} is lost", .0.0)]
    Lost(Rank),
    /// The machine has no such rank, or it is this one.
    #[error("rank {} is no peer", .0.0)]
    NoPeer(Rank),
    /// Longer than the port allows, or beyond the target's segment.
    #[error("{0} bytes are more than can be carried at once, or not where the target has memory")]
    Bounds(usize),
}

/// Names a one-sided operation; given by the caller.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct OperationId(pub u64);

/// What a finished one-sided operation has brought.
#[derive(Debug, Eq, PartialEq)]
pub enum Outcome<'a> {
    /// A get or a guarded read: the bytes.
    Got(&'a [u8]),
    /// A put: the target has it, and what this rank sends or starts there from now on finds it in the target's memory. Where the target's NIC
    /// has taken it ([`Capabilities::one_sided_by_nic`]), it may be on its way there still for whoever hears of it otherwise; else it is there.
    Put,
    /// A compare-and-swap or fetch-and-add: what was there before.
    Old(u64),
    /// The target has no such memory.
    Refused,
}

/// Something that has happened.
#[derive(Debug, Eq, PartialEq)]
pub enum Event<'a> {
    /// A message.
    Message {
        /// Its sender.
        from: Rank,
        /// Its header.
        header: &'a [u8],
        /// Its body.
        body: &'a [u8],
    },
    /// A one-sided operation has ended.
    Completed {
        /// Which.
        id: OperationId,
        /// How.
        outcome: Outcome<'a>,
    },
    /// A rank is lost: told once, after everything that came from it. Operations to it never complete.
    Lost {
        /// Which.
        rank: Rank,
        /// Why, in words.
        reason: String,
    },
}

/// Memory of this rank that other ranks reach by one-sided operations. Accesses of several ranks may overlap: whole aligned words are
/// read and written at once, nothing more.
pub trait Segment: Send + Sync + Debug {
    /// Length in bytes, a multiple of 8.
    fn len(&self) -> u64;
    /// Whether there is nothing in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Copies from it; false when the range is not within it.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> bool;
    /// Copies into it; false when the range is not within it.
    fn write(&self, offset: u64, bytes: &[u8]) -> bool;
    /// Replaces the aligned word if it is `expected`; gives what it was, or nothing when there is no such word.
    fn compare_and_swap(&self, offset: u64, expected: u64, new: u64) -> Option<u64>;
    /// Adds to the aligned word; gives what it was, or nothing when there is no such word.
    fn fetch_and_add(&self, offset: u64, add: u64) -> Option<u64>;
    /// All of its memory, if that is in one place of this process: a NIC then serves other ranks from there, without the methods above. A NIC's
    /// atomics are atomic among each other only, not against this process's, and its transfers may tear words: whoever gives words must not
    /// change one by both. Words are little-endian. Whoever has a segment of other memory has none.
    fn words(&self) -> Option<&[AtomicU64]> {
        None
    }
}

/// One end of a channel class. Any thread may send and start operations; one thread polls.
pub trait Transport: Send + Sync + Debug {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Sends a message whose body is these pieces, in order. They have been read when this returns.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent then.
    fn send(&self, to: Rank, header: &[u8], body: &[io::IoSlice<'_>]) -> Result<(), SendError>;

    /// Starts to read `len` bytes of the target's segment.
    ///
    /// # Errors
    /// [`SendError`]; nothing was started then.
    fn get(&self, id: OperationId, target: Rank, offset: u64, len: usize) -> Result<(), SendError>;

    /// Starts to write to the target's segment; the bytes have been read when this returns.
    ///
    /// # Errors
    /// [`SendError`]; nothing was started then.
    fn put(&self, id: OperationId, target: Rank, offset: u64, bytes: &[u8]) -> Result<(), SendError>;

    /// Starts to write several runs of bytes to the target's segment, as puts would, with one completion; they have been read when this returns. If
    /// one of them is not in the segment, others may have been written all the same. For who declares [`Capabilities::put_lists`].
    ///
    /// # Errors
    /// [`SendError`]; nothing was started then. [`SendError::Bounds`] where there is no such operation.
    fn put_list(&self, id: OperationId, target: Rank, list: &PutList) -> Result<(), SendError> {
        let _ = (id, target);
        Err(SendError::Bounds(list.encoded().len()))
    }

    /// Starts to replace an aligned word of the target's segment if it is `expected`.
    ///
    /// # Errors
    /// [`SendError`]; nothing was started then.
    fn compare_and_swap(
        &self,
        id: OperationId,
        target: Rank,
        offset: u64,
        expected: u64,
        new: u64,
    ) -> Result<(), SendError>;

    /// Starts to add to an aligned word of the target's segment.
    ///
    /// # Errors
    /// [`SendError`]; nothing was started then.
    fn fetch_and_add(&self, id: OperationId, target: Rank, offset: u64, add: u64) -> Result<(), SendError>;

    /// Starts to put a byte and then to read bytes: whoever changes one of these and looks for the put byte after that finds it, or the byte
    /// that was read is the new one. In which order they are read, nobody says. If they are not in the target's segment, the byte may have been put all
    /// the same.
    ///
    /// # Errors
    /// [`SendError`]; nothing was started then.
    fn guarded_read(&self, id: OperationId, target: Rank, read: GuardedRead) -> Result<(), SendError>;

    /// Goes on with everything under way and hands out what has happened; says whether there was anything to do. Does not wait. The sink
    /// may send and start operations on this endpoint; a poll from within it does nothing.
    fn poll(&self, sink: &mut dyn FnMut(Event<'_>)) -> bool;

    /// Says that this rank is alive, where that is due, and does nothing else: for a poller whose work after a poll takes long, also from
    /// within a sink. Peers take a rank that says nothing for lost.
    fn sign_of_life(&self);

    /// Readable when a poll may have something to do: what to wait for between polls, beside other things. It is always the same, but to be asked
    /// for after the last poll before each wait: asking is what makes a NIC tell of what happens, which costs it and this process nothing before.
    fn ready(&self) -> BorrowedFd<'_>;

    /// When to poll at the latest, though nothing is readable: signs of life have to be sent and missed.
    fn poll_within(&self) -> Duration;
}
