//! Registered memory: buffers of our own that a NIC and this process take turns at, and segments that other ranks reach.

use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rdma_sys as sys;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::process::{Resource, getrlimit};
use vincs_coherence::transport::Segment;

use super::VerbsError;
use super::device::{Context, ProtectionDomain, is_out_of_memory};

/// A registration of some memory with a device.
#[derive(Debug)]
struct Registration {
    pointer: NonNull<sys::ibv_mr>,
    /// As long as the registration lives.
    domain: Arc<ProtectionDomain>,
}

// SAFETY: the structure is not changed after it is made.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

impl Registration {
    /// Registers memory. The kernel keeps its pages until the registration is gone, so whatever happens to the mapping of these addresses, a NIC
    /// never writes to memory of somebody else.
    ///
    /// # Safety
    /// So many bytes from this address on are mapped, and the caller's. Until the registration is dropped, whoever may do so by `access` writes there
    /// at any time: there is no reference to them meanwhile through which Rust takes them for unchanged, but while the caller knows that nobody
    /// writes.
    unsafe fn new(
        domain: &Arc<ProtectionDomain>,
        address: *mut c_void,
        length: usize,
        access: sys::ibv_access_flags,
    ) -> Result<Self, VerbsError> {
        let access = access.0.cast_signed();
        // SAFETY: the domain is there; the caller answers for the memory.
        let pointer = unsafe { sys::ibv_reg_mr(domain.pointer(), address, length, access) };
        let Some(pointer) = NonNull::new(pointer) else {
            let mut error = VerbsError::last("ibv_reg_mr", domain.context().name());
            if is_out_of_memory(&error.cause) {
                let limit = getrlimit(Resource::Memlock).current;
                let limit = limit.map_or("none".to_owned(), |bytes| format!("{bytes} bytes"));
                error.advice = format!(
                    "; {length} bytes have to be locked in memory beside what is locked already, the limit is {limit}: raise 'ulimit -l'"
                );
            }
            return Err(error);
        };
        domain.context().objects().made();
        Ok(Self { pointer, domain: Arc::clone(domain) })
    }

    fn local_key(&self) -> u32 {
        // SAFETY: the structure lives as long as the registration.
        unsafe { self.pointer.as_ref() }.lkey
    }

    fn remote_key(&self) -> u32 {
        // SAFETY: the structure lives as long as the registration.
        unsafe { self.pointer.as_ref() }.rkey
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: the pointer is of ibv_reg_mr and deregistered here only.
        let code = unsafe { sys::ibv_dereg_mr(self.pointer.as_ptr()) };
        self.domain.context().objects().destroyed("ibv_dereg_mr", code);
    }
}

/// Fresh pages. They are shared with a forked child rather than copied when one of both writes, so a NIC and this process always see the same.
#[derive(Debug)]
struct Pages {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: memory, which is accessed through claims alone.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped by `Buffer::new` and unmapped here only; nothing refers to it, as claims keep the buffer alive.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
        if let Err(error) = unmapped {
            tracing::error!(%error, "registered memory is not unmapped");
        }
    }
}

/// What NICs do with a [`Buffer`], beside fetching what is sent from it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// This rank's puts there what it receives and, but on iWARP, what it reads.
    Own,
    /// This rank's puts there what it receives and what it reads. On iWARP that comes as a write of the other end's (RFC 5040), which
    /// learns the key from the request: so it could write anywhere in the buffer.
    Reads,
    /// Those of other ranks read there, and nobody writes.
    Shown,
}

impl Access {
    fn flags(self, context: &Context) -> sys::ibv_access_flags {
        let own = sys::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE;
        match self {
            Self::Reads if context.is_iwarp() => own | sys::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE,
            Self::Own | Self::Reads => own,
            Self::Shown => sys::ibv_access_flags::IBV_ACCESS_REMOTE_READ,
        }
    }
}

/// Registered memory of this process, zero at first, out of which ranges are claimed.
#[derive(Debug)]
pub struct Buffer {
    /// Dropped before the pages.
    registration: Registration,
    pages: Pages,
    /// Ranges begin at multiples of it.
    grain: usize,
    /// By grain: whether somebody has claimed it.
    claimed: Box<[AtomicBool]>,
}

impl Buffer {
    /// Memory of so many grains of so many bytes.
    ///
    /// # Errors
    /// There is no such memory, or it cannot be registered.
    pub fn new(
        domain: &Arc<ProtectionDomain>,
        access: Access,
        grain: usize,
        grains: usize,
    ) -> Result<Arc<Self>, VerbsError> {
        let failed = |cause| VerbsError {
            call: "mmap of memory",
            device: domain.context().name().to_owned(),
            cause,
            advice: String::new(),
        };
        let length = grain.checked_mul(grains).ok_or_else(|| failed(rustix::io::Errno::NOMEM.into()))?;
        let mapped = {
            let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
            // SAFETY: a new mapping, at addresses of the kernel's choice.
            unsafe { mmap_anonymous(ptr::null_mut(), length, protection, flags) }
        };
        let start = mapped.map_err(|error| failed(error.into()))?;
        let start = NonNull::new(start.cast()).ok_or_else(|| failed(rustix::io::Errno::NOMEM.into()))?;
        let pages = Pages { start, length };
        let access = access.flags(domain.context());
        // SAFETY: pages of our own, mapped for longer than they are registered. References to them are made by claims alone, which say who writes
        // meanwhile.
        let registration = unsafe { Registration::new(domain, start.as_ptr().cast(), length, access) }?;
        let claimed = (0..grains).map(|_| AtomicBool::new(false)).collect();
        Ok(Arc::new(Self { registration, pages, grain, claimed }))
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pages.length
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where other ranks find it, as far as they may reach it.
    #[must_use]
    pub fn remote(&self) -> RemoteMemory {
        RemoteMemory {
            address: self.pages.start.addr().get() as u64,
            length: self.pages.length as u64,
            key: self.registration.remote_key(),
        }
    }

    /// Claims `length` bytes at a multiple of the grain, and what is left of the last grain; nothing if somebody has any of it.
    #[must_use]
    pub fn claim(self: &Arc<Self>, start: usize, length: usize) -> Option<Claim> {
        let first = start / self.grain;
        let range = first..first + length.div_ceil(self.grain).max(1);
        if !start.is_multiple_of(self.grain) {
            return None;
        }
        let grains = self.claimed.get(range.clone())?;
        let take = |grain: &AtomicBool| !grain.swap(true, Ordering::Acquire);
        let taken = grains.iter().take_while(|grain| take(grain)).count();
        if taken < grains.len() {
            grains.iter().take(taken).for_each(|grain| grain.store(false, Ordering::Release));
            return None;
        }
        Some(Claim { buffer: Arc::clone(self), start, length })
    }
}

/// A range of a buffer that nobody else uses, until it is dropped.
#[derive(Debug)]
pub struct Claim {
    buffer: Arc<Buffer>,
    start: usize,
    length: usize,
}

impl Claim {
    fn address(&self) -> *mut u8 {
        self.buffer.pages.start.as_ptr().wrapping_add(self.start)
    }

    /// With whose device it is registered.
    pub(super) fn domain(&self) -> &Arc<ProtectionDomain> {
        &self.buffer.registration.domain
    }

    /// What a NIC has to be told of its first bytes; all of it if these are more.
    pub(super) fn element(&self, length: usize) -> sys::ibv_sge {
        let length = u32::try_from(length.min(self.length)).unwrap_or(u32::MAX);
        sys::ibv_sge { addr: self.address().addr() as u64, length, lkey: self.buffer.registration.local_key() }
    }
}

impl Deref for Claim {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: within the pages of the buffer, which this keeps; no other claim has any of it. This rank's NIC has nothing to do with it, as a
        // queue takes the claim itself for what it gives to the NIC. On iWARP a peer that has answered a READ into the buffer could write there
        // nevertheless, and nothing but the peer keeps it from that: peers are authenticated ranks of one machine, which run this same program and
        // trust each other with all of its memory, and a NIC that works writes only what was asked for. Any bytes are values.
        unsafe { slice::from_raw_parts(self.address(), self.length) }
    }
}

impl DerefMut for Claim {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts_mut(self.address(), self.length) }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let first = self.start / self.buffer.grain;
        let grains = first..first + self.length.div_ceil(self.buffer.grain).max(1);
        let grains = self.buffer.claimed.get(grains).unwrap_or_default();
        grains.iter().for_each(|grain| grain.store(false, Ordering::Release));
    }
}

/// What other ranks may do with memory by a device; iWARP has no atomics.
pub(super) fn reach(context: &Context) -> sys::ibv_access_flags {
    let transfers = sys::ibv_access_flags::IBV_ACCESS_REMOTE_READ | sys::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE;
    if context.is_iwarp() { transfers } else { transfers | sys::ibv_access_flags::IBV_ACCESS_REMOTE_ATOMIC }
}

/// Where other ranks find a segment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RemoteMemory {
    /// Its first address.
    pub address: u64,
    /// Its length in bytes; 0 if there is none.
    pub length: u64,
    /// The key to it.
    pub key: u32,
}

/// A segment that other ranks reach, for as long as this lives.
#[derive(Debug)]
pub struct RegisteredSegment {
    /// Dropped before the segment.
    registration: Registration,
    segment: Arc<dyn Segment>,
}

impl RegisteredSegment {
    /// Registers a segment; nothing if it has no memory to register.
    ///
    /// # Errors
    /// It cannot be registered.
    pub fn new(domain: &Arc<ProtectionDomain>, segment: &Arc<dyn Segment>) -> Result<Option<Self>, VerbsError> {
        let Some(words) = segment.words().filter(|words| !words.is_empty()) else { return Ok(None) };
        let address: *const AtomicU64 = words.as_ptr();
        let access = sys::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE | reach(domain.context());
        // SAFETY: they stay where they are while `segment` is borrowed, and so while it is kept, which is for longer than they are registered.
        // References to them are to atomics, which anybody may change meanwhile.
        let registration = unsafe { Registration::new(domain, address.cast_mut().cast(), size_of_val(words), access) }?;
        Ok(Some(Self { registration, segment: Arc::clone(segment) }))
    }

    /// The segment itself.
    #[must_use]
    pub fn segment(&self) -> &dyn Segment {
        &*self.segment
    }

    /// What other ranks have to know of it.
    #[must_use]
    pub fn remote(&self) -> RemoteMemory {
        let words = self.segment.words().unwrap_or_default();
        RemoteMemory {
            address: words.as_ptr().addr() as u64,
            length: size_of_val(words) as u64,
            key: self.registration.remote_key(),
        }
    }
}
