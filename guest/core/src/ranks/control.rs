//! The control part of the device, mapped.

use std::fs::File;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use rustix::process::{Pid, getpid};
use vincs_guest_commands::{
    ANSWERED, ASKED, LENT_TAKEN, MAGIC, OWNER, RACES_AT, RANKS_AT, SLOTS, VERSION, VERSION_AT, lent, lent_at,
};

use crate::memory::{CONTROL_BYTES, OpenError, PAGE};

/// A mapping of the control part.
#[derive(Debug)]
pub(super) struct Control {
    start: NonNull<u8>,
    process: Pid,
}

// SAFETY: the mapping stays where it is until it is dropped, and is accessed by atomics alone.
unsafe impl Send for Control {}
// SAFETY: as above.
unsafe impl Sync for Control {}

impl Control {
    pub(super) fn map(file: &File) -> Result<Self, OpenError> {
        let failed = |error: rustix::io::Errno| OpenError::Map { bytes: CONTROL_BYTES, source: error.into() };
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe { mmap(ptr::null_mut(), CONTROL_BYTES, protection, flags, file, 0) }.map_err(failed)?;
        let start = NonNull::new(start.cast()).ok_or_else(|| failed(rustix::io::Errno::FAULT))?;
        let control = Self { start, process: getpid() };
        // SAFETY: the mapping is ours, and the advice is about children only.
        unsafe { madvise(start.as_ptr().cast(), CONTROL_BYTES, Advice::LinuxDontFork) }.map_err(failed)?;
        Ok(control)
    }

    fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset + size_of::<u64>() <= CONTROL_BYTES, "in the control part");
        // SAFETY: callers give offsets of words in the control part alone.
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// A word of 4 bytes; its offset is a multiple of that, and in the control part.
    pub(super) fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: mapped, aligned, and accessed by atomics alone.
        unsafe { AtomicU32::from_ptr(self.at(offset).cast()) }
    }

    /// A word of 8 bytes.
    pub(super) fn long(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.at(offset).cast()) }
    }

    /// Whether the machine has several ranks, and speaks as this library does.
    pub(super) fn has_ranks(&self) -> bool {
        let is_known = self.long(0).load(Ordering::Relaxed) == MAGIC
            && self.word(VERSION_AT.into()).load(Ordering::Relaxed) == VERSION;
        is_known && self.word(RANKS_AT.into()).load(Ordering::Relaxed) > 1
    }

    /// Whether the machine looks for races.
    pub(super) fn looks_for_races(&self) -> bool {
        self.word(RACES_AT.into()).load(Ordering::Relaxed) != 0
    }

    /// Takes a lock that the calling thread's rank lends and no thread has; false if that is not so.
    pub(super) fn borrow_lock(&self, lock: u32) -> bool {
        let entry = self.long(lent_at(lock));
        entry.compare_exchange(lent(lock), lent(lock) | LENT_TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Gives one back that was taken so; false if vincs has to be told, as it wants it.
    pub(super) fn return_lock(&self, lock: u32) -> bool {
        let entry = self.long(lent_at(lock));
        entry.compare_exchange(lent(lock) | LENT_TAKEN, lent(lock), Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Where a slot has something, so many bytes from its start.
    pub(super) fn in_slot(slot: u16, offset: u16) -> usize {
        (1 + usize::from(slot)) * PAGE + usize::from(offset)
    }

    fn doorbell(&self) -> *mut u8 {
        self.at(CONTROL_BYTES - PAGE)
    }

    /// Rings for a slot: vincs stops the processor here until the command has ended, or there is something else for it to do.
    pub(super) fn ring(&self, slot: u16) {
        // SAFETY: the doorbell is mapped, and has no memory that anybody could have a reference to.
        unsafe { self.doorbell().cast::<u32>().write_volatile(slot.into()) };
    }

    /// The rank that the calling thread is on and one; 0 as long as processors are about to move.
    pub(super) fn rank(&self) -> u64 {
        // SAFETY: as above.
        unsafe { self.doorbell().cast::<u64>().read_volatile() }
    }

    /// Nobody has a slot of this rank's any more, and nothing is asked for in one.
    pub(super) fn free_all(&self) {
        for slot in 0..SLOTS {
            let answered = self.word(Self::in_slot(slot, ANSWERED)).load(Ordering::Relaxed);
            self.word(Self::in_slot(slot, ASKED)).store(answered, Ordering::Relaxed);
            self.word(Self::in_slot(slot, OWNER)).store(0, Ordering::Release);
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if getpid() != self.process {
            // In a child the addresses may be something else's by now.
            return;
        }
        // SAFETY: nobody has a reference into it any more.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), CONTROL_BYTES) };
        debug_assert!(unmapped.is_ok(), "the mapping is ours");
    }
}
