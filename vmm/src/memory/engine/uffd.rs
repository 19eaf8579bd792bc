//! The system calls of userfaultfd(2) as the view needs them.
//!
//! The `userfaultfd` crate does all but two: it cannot copy pages in write-protected, and says nothing of how far a
//! request came that failed.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use userfaultfd::{Event, EventBuffer, FaultKind, FeatureFlags, ReadWrite, RegisterMode, Uffd, UffdBuilder};
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

/// Events taken by one read(2).
const EVENTS_PER_READ: usize = 64;

/// UFFD_FEATURE_WP_HUGETLBFS_SHMEM (linux/userfaultfd.h), which has no name in the crate.
const WP_SHMEM: u64 = 1 << 12;

const UFFDIO: u32 = 0xaa;
const COPY_MODE_WAKES_NOBODY: u64 = 1 << 0;
const COPY_MODE_WRITE_PROTECTED: u64 = 1 << 1;

/// struct uffdio_copy.
#[repr(C)]
#[derive(Debug)]
struct Copy {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

/// struct uffdio_zeropage.
#[repr(C)]
#[derive(Debug)]
struct ZeroPage {
    start: u64,
    len: u64,
    mode: u64,
    zeroed: i64,
}

ioctl_iowr_nr!(UFFDIO_COPY, UFFDIO, 0x03, Copy);
ioctl_iowr_nr!(UFFDIO_ZEROPAGE, UFFDIO, 0x04, ZeroPage);

/// What a thread ran into.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::memory) enum Missing {
    /// It reads a page that is not there.
    Read,
    /// It writes a page that is not there.
    Write,
    /// It writes a page that can only be read.
    Right,
}

/// A fault that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(in crate::memory) struct RawFault {
    /// Where.
    pub(in crate::memory) address: usize,
    /// What is missing.
    pub(in crate::memory) missing: Missing,
    /// The thread, by its Linux id.
    pub(in crate::memory) thread: i32,
}

/// A userfaultfd.
pub(in crate::memory) struct Faults {
    uffd: Uffd,
    buffer: EventBuffer,
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faults").field("uffd", &self.uffd).finish_non_exhaustive()
    }
}

impl Faults {
    /// A userfaultfd for faults of this process and of KVM on its behalf.
    pub(in crate::memory) fn new() -> Result<Self, userfaultfd::Error> {
        let features = FeatureFlags::PAGEFAULT_FLAG_WP
            | FeatureFlags::MISSING_SHMEM
            | FeatureFlags::THREAD_ID
            | FeatureFlags::from_bits_retain(WP_SHMEM);
        let mut builder = UffdBuilder::new();
        builder.close_on_exec(true).non_blocking(true).user_mode_only(false).require_features(features);
        Ok(Self { uffd: builder.create()?, buffer: EventBuffer::new(EVENTS_PER_READ) })
    }

    /// Faults in this memory are told from now on.
    pub(in crate::memory) fn register(&self, address: usize, len: usize) -> Result<(), userfaultfd::Error> {
        let mode = RegisterMode::MISSING | RegisterMode::WRITE_PROTECT;
        self.uffd.register_with_mode(address as *mut _, len, mode).map(drop)
    }

    /// Writes to pages of this memory that are protected are told from now on; what is missing of it comes by itself.
    pub(in crate::memory) fn register_writes(&self, address: usize, len: usize) -> Result<(), userfaultfd::Error> {
        self.uffd.register_with_mode(address as *mut _, len, RegisterMode::WRITE_PROTECT).map(drop)
    }

    /// Faults in this memory are no more told; who waits goes on.
    pub(in crate::memory) fn unregister(&self, address: usize, len: usize) -> Result<(), userfaultfd::Error> {
        self.uffd.unregister(address as *mut _, len)
    }

    /// Takes the faults that are there.
    pub(in crate::memory) fn read(&mut self, mut fault: impl FnMut(RawFault)) -> Result<(), userfaultfd::Error> {
        for event in self.uffd.read_events(&mut self.buffer)? {
            // The other events are not asked for.
            if let Event::Pagefault { kind, rw, addr, thread_id } = event? {
                // Of one of the two kinds that are registered for.
                let missing = match rw {
                    _ if kind == FaultKind::WriteProtected => Missing::Right,
                    ReadWrite::Write => Missing::Write,
                    ReadWrite::Read => Missing::Read,
                };
                fault(RawFault { address: addr as usize, missing, thread: thread_id.as_raw() });
            }
        }
        Ok(())
    }

    /// Maps pages that are not there with these bytes, and wakes.
    pub(in crate::memory) fn copy(&self, to: usize, from: &[u8], write_protected: bool) -> io::Result<()> {
        self.copy_with(to, from, if write_protected { COPY_MODE_WRITE_PROTECTED } else { 0 })
    }

    /// Maps pages that are not there with these bytes, to be read, and wakes nobody.
    pub(in crate::memory) fn copy_quietly(&self, to: usize, from: &[u8]) -> io::Result<()> {
        self.copy_with(to, from, COPY_MODE_WRITE_PROTECTED | COPY_MODE_WAKES_NOBODY)
    }

    fn copy_with(&self, to: usize, from: &[u8], mode: u64) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = from.get(done..).filter(|rest| !rest.is_empty()) {
            let (from, len) = (rest.as_ptr() as u64, rest.len() as u64);
            let mut copy = Copy { to: (to + done) as u64, from, len, mode, copied: 0 };
            // SAFETY: the kernel reads the bytes, which are borrowed, and writes to memory that is registered here.
            let result = unsafe { ioctl_with_mut_ref(&self.as_raw(), UFFDIO_COPY(), &mut copy) };
            done += progress(result, copy.copied)?;
        }
        Ok(())
    }

    /// Maps pages of zeros that are not there, and wakes.
    pub(in crate::memory) fn zero(&self, to: usize, len: usize) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let mut zero = ZeroPage { start: (to + done) as u64, len: (len - done) as u64, mode: 0, zeroed: 0 };
            // SAFETY: the kernel only maps new pages in memory that is registered here.
            let result = unsafe { ioctl_with_mut_ref(&self.as_raw(), UFFDIO_ZEROPAGE(), &mut zero) };
            done += progress(result, zero.zeroed)?;
        }
        Ok(())
    }

    /// Makes pages readable only.
    pub(in crate::memory) fn protect(&self, address: usize, len: usize) -> Result<(), userfaultfd::Error> {
        self.uffd.write_protect(address as *mut _, len)
    }

    /// Makes pages writable, and wakes.
    pub(in crate::memory) fn allow(&self, address: usize, len: usize) -> Result<(), userfaultfd::Error> {
        self.uffd.remove_write_protection(address as *mut _, len, true)
    }

    /// Makes pages writable, and wakes nobody.
    pub(in crate::memory) fn allow_quietly(&self, address: usize, len: usize) -> Result<(), userfaultfd::Error> {
        self.uffd.remove_write_protection(address as *mut _, len, false)
    }

    /// Wakes who waits there.
    pub(in crate::memory) fn wake(&self, address: usize, len: usize) -> Result<(), userfaultfd::Error> {
        self.uffd.wake(address as *mut _, len)
    }

    /// Readable when there are faults.
    pub(in crate::memory) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the `Uffd` lives, which the result's lifetime borrows.
        unsafe { BorrowedFd::borrow_raw(self.uffd.as_raw_fd()) }
    }

    fn as_raw(&self) -> Descriptor {
        Descriptor(self.uffd.as_raw_fd())
    }
}

struct Descriptor(RawFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// How far a request came: all the way, or part of it, which the kernel tells with EAGAIN.
fn progress(result: i32, done: i64) -> io::Result<usize> {
    let error = io::Error::last_os_error();
    match usize::try_from(done) {
        Ok(done) if done > 0 => Ok(done),
        _ if result < 0 && error.raw_os_error() == Some(libc::EAGAIN) => Ok(0),
        _ if result < 0 => Err(error),
        _ => Err(io::Error::from(io::ErrorKind::WriteZero)),
    }
}
