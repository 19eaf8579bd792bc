//! The window through which devices reach guest memory: whole ranges, held while they are used.
//!
//! A device names every range it is about to touch, says what for, and holds them all at once. On one rank a hold only
//! checks that the ranges are RAM; with memory spread over ranks it is where the coherence layer brings the pages here
//! and keeps them here until the hold is dropped. Devices see the alias mapping, which never faults to user space.
//!
//! A thread has one hold at a time, and waits for nothing else but the host's disks while it has one: whoever wants the pages
//! waits for it.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use vincs_coherence::id::{MAX_RUN, PAGE_BYTES};
use vincs_coherence::node::MAX_HOLD_PAGES;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use super::engine::{Holds, Lease};

/// What a device does with a range it holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Only reads it.
    Read,
    /// Reads and writes it.
    Write,
}

impl From<Access> for Permissions {
    fn from(access: Access) -> Self {
        match access {
            Access::Read => Self::Read,
            Access::Write => Self::ReadWrite,
        }
    }
}

impl From<Access> for vincs_coherence::id::Access {
    fn from(access: Access) -> Self {
        match access {
            Access::Read => Self::Read,
            Access::Write => Self::Write,
        }
    }
}

/// A range of guest-physical memory, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GuestRange {
    /// First byte.
    pub start: GuestAddress,
    /// Length in bytes; an empty range is always valid.
    pub len: u64,
}

/// Why ranges cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Part of a range is not guest RAM: the guest named an address it does not have.
    #[error("guest range {start:#x}+{len:#x} is not RAM")]
    NotRam {
        /// First byte of the range.
        start: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// The ranges are more than is brought to one rank for one request.
    #[error("a request that needs more than {MAX_HOLD_PAGES} pages of memory at once")]
    TooMuch,
    /// The coherence protocol does not take it.
    #[error("{0}")]
    Unfit(String),
    /// The machine's memory does not move any more: a rank is lost, or the machine ends.
    #[error("the machine is ending")]
    Ended,
}

/// A device's handle on guest memory; cheap to clone.
#[derive(Clone, Debug)]
pub struct DeviceMemory {
    alias: Arc<GuestMemoryMmap>,
    /// Where pages come from when they are spread over ranks.
    holds: Option<Arc<Holds>>,
}

thread_local! {
    /// This thread holds ranges.
    static HOLDING: Cell<bool> = const { Cell::new(false) };
}

/// Ranges held for a device; access goes through the memory it dereferences to, and ends when it is dropped. It stays
/// with the thread that took it.
#[derive(Debug)]
pub struct Held<'a> {
    alias: &'a GuestMemoryMmap,
    #[expect(dead_code, reason = "gives the pages back when it is dropped")]
    lease: Option<Lease>,
    #[expect(dead_code, reason = "takes the thread's mark away when it is dropped")]
    only_hold: OnlyHold,
}

/// The mark of the thread's only hold.
#[derive(Debug)]
struct OnlyHold(PhantomData<*const ()>);

impl OnlyHold {
    fn new() -> Self {
        let before = HOLDING.replace(true);
        debug_assert!(!before, "a thread that holds guest memory must not wait for more of it");
        Self(PhantomData)
    }
}

impl Drop for OnlyHold {
    fn drop(&mut self) {
        HOLDING.set(false);
    }
}

impl DeviceMemory {
    /// A window on the given mapping, which must be the alias mapping of guest RAM that is all on this rank.
    #[must_use]
    pub fn new(alias: Arc<GuestMemoryMmap>) -> Self {
        Self { alias, holds: None }
    }

    /// A window on memory that is spread over ranks.
    pub(super) fn spread(alias: Arc<GuestMemoryMmap>, holds: Arc<Holds>) -> Self {
        Self { alias, holds: Some(holds) }
    }

    /// Makes every range accessible, as it says, until the returned guard is dropped. With memory spread over ranks this
    /// waits for the pages.
    ///
    /// # Errors
    /// [`HoldError`] when a range is not wholly guest RAM, or the pages cannot be had; nothing is held then.
    pub fn hold(&self, ranges: &[(GuestRange, Access)]) -> Result<Held<'_>, HoldError> {
        let only_hold = OnlyHold::new();
        self.check(ranges)?;
        let lease = match &self.holds {
            None => None,
            Some(holds) => {
                let wanted: Vec<_> = ranges.iter().map(|(range, access)| (*range, (*access).into())).collect();
                Some(holds.hold(&wanted)?)
            }
        };
        Ok(Held { alias: &self.alias, lease, only_hold })
    }

    /// Whether ranges are guest RAM, without holding them.
    ///
    /// # Errors
    /// [`HoldError::NotRam`] when a range is not wholly guest RAM.
    pub fn check(&self, ranges: &[(GuestRange, Access)]) -> Result<(), HoldError> {
        for (range, access) in ranges {
            let not_ram = || HoldError::NotRam { start: range.start.0, len: range.len };
            let len = usize::try_from(range.len).map_err(|_| not_ram())?;
            if len > 0 && !self.alias.check_range(range.start, len, (*access).into()) {
                return Err(not_ram());
            }
        }
        Ok(())
    }

    /// Copies bytes into guest memory, holding a piece of it at a time: for what is loaded before the guest runs, however
    /// long.
    ///
    /// # Errors
    /// [`HoldError`]; part of the bytes may be written.
    pub fn write(&self, start: GuestAddress, bytes: &[u8]) -> Result<(), HoldError> {
        let mut at = start.0;
        for piece in bytes.chunks(WRITE_PIECE) {
            let len = piece.len() as u64;
            let not_ram = || HoldError::NotRam { start: start.0, len: bytes.len() as u64 };
            let held = self.hold(&[(GuestRange { start: GuestAddress(at), len }, Access::Write)])?;
            held.write_slice(piece, GuestAddress(at)).map_err(|_| not_ram())?;
            at = at.checked_add(len).ok_or_else(not_ram)?;
        }
        Ok(())
    }
}

/// Bytes that [`DeviceMemory::write`] holds at a time: what is mapped in one step, so that other ranks are served between two of them.
const WRITE_PIECE: usize = MAX_RUN as usize * PAGE_BYTES;

impl Deref for Held<'_> {
    type Target = GuestMemoryMmap;

    fn deref(&self) -> &GuestMemoryMmap {
        self.alias
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestRam;

    const RANGE: (GuestRange, Access) = (GuestRange { start: GuestAddress(0), len: 1 }, Access::Write);

    fn memory() -> DeviceMemory {
        GuestRam::new(&[(GuestAddress(0), 1 << 20)]).unwrap().device_memory()
    }

    #[test]
    #[should_panic(expected = "must not wait for more of it")]
    fn a_second_hold_of_a_thread_is_a_mistake_of_ours() {
        let memory = memory();
        let _first = memory.hold(&[RANGE]).unwrap();
        let _ = memory.hold(&[RANGE]);
    }

    #[test]
    fn a_thread_may_hold_again_after_a_hold_has_ended_or_was_refused() {
        let memory = memory();
        drop(memory.hold(&[RANGE]).unwrap());
        let beyond = GuestRange { start: GuestAddress(1 << 20), len: 1 };
        assert!(memory.hold(&[RANGE, (beyond, Access::Read)]).is_err());
        assert!(memory.hold(&[RANGE]).is_ok());
    }

    #[test]
    fn bytes_are_written_where_there_is_ram() {
        let memory = memory();
        memory.write(GuestAddress(4095), b"across pages").unwrap();
        let mut back = [0; 12];
        memory.alias.read_slice(&mut back, GuestAddress(4095)).unwrap();
        assert_eq!(&back, b"across pages");
        let error = memory.write(GuestAddress((1 << 20) - 1), b"ab").unwrap_err().to_string();
        assert_eq!(error, "guest range 0xfffff+0x2 is not RAM");
    }
}
