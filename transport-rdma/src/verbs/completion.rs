//! Completion queues, and the channels on which they tell that there is something in them.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rdma_sys as sys;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::device::Context;
use super::{Plain, VerbsError};

/// Completions taken at once.
const BATCH: i32 = 16;

/// Bit of a work request's id that says that it is of a receive queue: of a failed one the library says nothing else.
pub(super) const RECEIVED: u64 = 1 << 63;

/// A work request has ended. Made of what a NIC says alone, and used once.
#[derive(Debug)]
pub struct Completion {
    /// Where it came from: the numbers of queue pairs are those of one device.
    queue: Arc<CompletionQueue>,
    pub(super) id: u64,
    pub(super) queue_pair: u32,
    pub(super) bytes: usize,
    status: u32,
}

impl Completion {
    /// Number of the queue pair.
    #[must_use]
    pub fn queue_pair(&self) -> u32 {
        self.queue_pair
    }

    /// Whether it came from this queue.
    pub(super) fn is_of(&self, queue: &Arc<CompletionQueue>) -> bool {
        Arc::ptr_eq(&self.queue, queue)
    }

    /// Whether something was received, or should have been.
    #[must_use]
    pub fn is_receive(&self) -> bool {
        self.id & RECEIVED != 0
    }

    /// Why it failed, in the library's words; nothing if it did not.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        if self.status == sys::ibv_wc_status::IBV_WC_SUCCESS {
            return None;
        }
        // SAFETY: the call takes any number.
        let words = unsafe { sys::ibv_wc_status_str(self.status) };
        if words.is_null() {
            return Some(format!("status {}", self.status));
        }
        // SAFETY: a constant string of the library's.
        let words = unsafe { CStr::from_ptr(words) };
        Some(format!("{} (status {})", words.to_string_lossy(), self.status))
    }
}

/// A completion queue with a channel of its own.
#[derive(Debug)]
pub struct CompletionQueue {
    pointer: NonNull<sys::ibv_cq>,
    channel: CompletionChannel,
    /// Completions taken.
    taken: AtomicU64,
}

// SAFETY: calls on a completion queue may be made from any thread.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: the pointer is of ibv_create_cq and destroyed here only; its queue pairs kept this alive and are gone, and every event of its
        // channel was acknowledged when it was taken.
        let code = unsafe { sys::ibv_destroy_cq(self.pointer.as_ptr()) };
        self.channel.context.objects().destroyed("ibv_destroy_cq", code);
    }
}

impl CompletionQueue {
    /// For so many completions at once. Who uses it sees to it that there are never more: it would be broken then.
    ///
    /// # Errors
    /// The device has no such queue.
    pub fn new(context: &Arc<Context>, entries: u32) -> Result<Arc<Self>, VerbsError> {
        let channel = CompletionChannel::new(context)?;
        let entries = i32::try_from(entries).unwrap_or(i32::MAX);
        // SAFETY: context and channel are there.
        let pointer =
            unsafe { sys::ibv_create_cq(context.pointer(), entries, ptr::null_mut(), channel.pointer.as_ptr(), 0) };
        let pointer = NonNull::new(pointer).ok_or_else(|| VerbsError::last("ibv_create_cq", context.name()))?;
        context.objects().made();
        Ok(Arc::new(Self { pointer, channel, taken: AtomicU64::new(0) }))
    }

    /// The device it is on.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.channel.context
    }

    pub(super) fn pointer(&self) -> *mut sys::ibv_cq {
        self.pointer.as_ptr()
    }

    /// Adds what has ended to `ended`, in order; says whether there may be more.
    ///
    /// # Errors
    /// The queue is broken.
    pub fn poll(self: &Arc<Self>, ended: &mut Vec<Completion>) -> Result<bool, VerbsError> {
        let mut batch: [sys::ibv_wc; BATCH.unsigned_abs() as usize] = std::array::from_fn(|_| sys::ibv_wc::zeroed());
        // SAFETY: the call writes at most so many entries.
        let count = unsafe { sys::ibv_poll_cq(self.pointer(), BATCH, batch.as_mut_ptr()) };
        let Ok(count) = usize::try_from(count) else {
            return Err(VerbsError::last("ibv_poll_cq", self.channel.context.name()));
        };
        self.taken.fetch_add(count as u64, Ordering::Relaxed);
        ended.extend(batch.iter().take(count).map(|entry| Completion {
            queue: Arc::clone(self),
            id: entry.wr_id,
            queue_pair: entry.qp_num,
            bytes: usize::try_from(entry.byte_len).unwrap_or(0),
            status: entry.status,
        }));
        Ok(count == batch.len())
    }

    /// How many completions were taken from it.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Makes the channel readable at the next completion: one that comes after this call. What came before is to be polled for.
    ///
    /// # Errors
    /// The queue is broken.
    pub fn arm(&self) -> Result<(), VerbsError> {
        // SAFETY: the queue is there.
        let code = unsafe { sys::ibv_req_notify_cq(self.pointer(), 0) };
        VerbsError::check("ibv_req_notify_cq", self.channel.context.name(), code)
    }

    /// Takes what has made the channel readable.
    pub fn disarm(&self) {
        let mut events = 0;
        loop {
            let (mut queue, mut user) = (ptr::null_mut(), ptr::null_mut());
            // SAFETY: the channel is there and does not block; it has this queue alone.
            let code = unsafe { sys::ibv_get_cq_event(self.channel.pointer.as_ptr(), &raw mut queue, &raw mut user) };
            if code != 0 {
                break;
            }
            events += 1;
        }
        if events > 0 {
            // SAFETY: so many events of this queue were taken.
            unsafe { sys::ibv_ack_cq_events(self.pointer(), events) };
        }
    }

    /// Readable after a completion, if it was armed before.
    #[must_use]
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.channel.fd()
    }
}

/// Where a completion queue tells that there is something in it.
#[derive(Debug)]
struct CompletionChannel {
    pointer: NonNull<sys::ibv_comp_channel>,
    context: Arc<Context>,
}

// SAFETY: calls on a channel may be made from any thread.
unsafe impl Send for CompletionChannel {}
// SAFETY: as above.
unsafe impl Sync for CompletionChannel {}

impl Drop for CompletionChannel {
    fn drop(&mut self) {
        // SAFETY: the pointer is of ibv_create_comp_channel and destroyed here only, after its queue.
        let code = unsafe { sys::ibv_destroy_comp_channel(self.pointer.as_ptr()) };
        self.context.objects().destroyed("ibv_destroy_comp_channel", code);
    }
}

impl CompletionChannel {
    /// One that does not block.
    fn new(context: &Arc<Context>) -> Result<Self, VerbsError> {
        // SAFETY: the context is open.
        let pointer = unsafe { sys::ibv_create_comp_channel(context.pointer()) };
        let pointer =
            NonNull::new(pointer).ok_or_else(|| VerbsError::last("ibv_create_comp_channel", context.name()))?;
        context.objects().made();
        let channel = Self { pointer, context: Arc::clone(context) };
        let failed = |error: rustix::io::Errno| VerbsError {
            call: "fcntl of a completion channel",
            device: context.name().to_owned(),
            cause: error.into(),
            advice: String::new(),
        };
        let flags = fcntl_getfl(channel.fd()).map_err(failed)?;
        fcntl_setfl(channel.fd(), flags | OFlags::NONBLOCK).map_err(failed)?;
        Ok(channel)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the structure lives as long as the channel.
        let fd = unsafe { self.pointer.as_ref() }.fd;
        // SAFETY: open as long as the channel.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}
