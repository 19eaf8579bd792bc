//! The control part of the device, mapped.

use std::fs::File;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use rustix::process::{Pid, getpid};

use crate::memory::{CONTROL_BYTES, OpenError, PAGE};

/// What is where in the control part, and what commands and results there are.
pub mod layout {
    /// The first word of the header, of a machine of several ranks.
    pub const MAGIC: u64 = u64::from_le_bytes(*b"vincsrlx");
    /// Version of all this.
    pub const VERSION: u32 = 1;
    /// Where the header has the version.
    pub const VERSION_AT: usize = 8;
    /// Where the header has the number of ranks.
    pub const RANKS_AT: usize = 12;
    /// Slots, the last of which is for [`BEGIN`].
    pub const SLOTS: usize = 510;

    /// Where a slot has who uses it.
    pub const OWNER: usize = 0;
    /// Where a slot has the number of the last command.
    pub const ASKED: usize = 4;
    /// Where a slot has the number of the last command that was answered.
    pub const ANSWERED: usize = 8;
    /// Where a slot has what came of it.
    pub const RESULT: usize = 12;
    /// Where a slot has the command.
    pub const COMMAND: usize = 16;
    /// Where a slot has the command's three numbers.
    pub const NUMBERS: usize = 24;
    /// Where a slot has the words of all who met.
    pub const WORDS: usize = 1024;

    /// Take a lock.
    pub const LOCK: u32 = 1;
    /// Give it back.
    pub const UNLOCK: u32 = 2;
    /// Tell what has been written.
    pub const TELL: u32 = 3;
    /// See what has been told.
    pub const HEAR: u32 = 4;
    /// Meet as a team.
    pub const MEET: u32 = 5;
    /// Begin a program.
    pub const BEGIN: u32 = 6;

    /// It is done.
    pub const DONE: u32 = 0;
    /// There is no such lock.
    pub const NO_LOCK: u32 = 2;
    /// The slot has the lock already.
    pub const HELD: u32 = 3;
    /// The slot does not have the lock.
    pub const NOT_HELD: u32 = 4;

    /// A result in words.
    #[must_use]
    pub fn reason(result: u32) -> &'static str {
        match result {
            1 => "there is no such command",
            NO_LOCK => "there is no such lock",
            HELD => "the lock is the thread's already",
            NOT_HELD => "the lock is not the thread's",
            5 => "the members of a team do not agree how many they are",
            6 => "another program has taken it over",
            7 => "a rank is lost, or cannot go on",
            _ => "vincs says what this library does not know; use the library of its version",
        }
    }
}

use layout::{ANSWERED, ASKED, MAGIC, OWNER, RANKS_AT, SLOTS, VERSION, VERSION_AT};

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
        let is_known =
            self.long(0).load(Ordering::Relaxed) == MAGIC && self.word(VERSION_AT).load(Ordering::Relaxed) == VERSION;
        is_known && self.word(RANKS_AT).load(Ordering::Relaxed) > 1
    }

    /// Where a slot starts.
    pub(super) fn slot(slot: usize) -> usize {
        (1 + slot) * PAGE
    }

    fn doorbell(&self) -> *mut u8 {
        self.at(CONTROL_BYTES - PAGE)
    }

    /// Rings for a slot: vincs stops the processor here until the command has ended, or there is something else for it to do.
    pub(super) fn ring(&self, slot: usize) {
        let number = u32::try_from(slot).unwrap_or(u32::MAX);
        // SAFETY: the doorbell is mapped, and has no memory that anybody could have a reference to.
        unsafe { self.doorbell().cast::<u32>().write_volatile(number) };
    }

    /// The rank that the calling thread is on and one; 0 as long as processors are about to move.
    pub(super) fn rank(&self) -> u64 {
        // SAFETY: as above.
        unsafe { self.doorbell().cast::<u64>().read_volatile() }
    }

    /// Nobody has a slot of this rank's any more, and nothing is asked for in one.
    pub(super) fn free_all(&self) {
        for slot in 0..SLOTS {
            let answered = self.word(Self::slot(slot) + ANSWERED).load(Ordering::Relaxed);
            self.word(Self::slot(slot) + ASKED).store(answered, Ordering::Relaxed);
            self.word(Self::slot(slot) + OWNER).store(0, Ordering::Release);
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
