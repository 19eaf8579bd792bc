//! The window through which devices reach guest memory: whole ranges, held while they are used.
//!
//! A device names every range it is about to touch and holds them all at once. On one rank a hold only checks that
//! the ranges are RAM; with memory spread over ranks it is where the coherence layer brings the pages here and
//! keeps them here until the hold is dropped. Devices see the alias mapping, which never faults to user space.

use std::ops::Deref;
use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

/// What a device does with the ranges it holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Only reads them.
    Read,
    /// Reads and writes them.
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

/// A range of guest-physical memory, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GuestRange {
    /// First byte.
    pub start: GuestAddress,
    /// Length in bytes; an empty range is always valid.
    pub len: u64,
}

/// Why a range cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Part of the range is not guest RAM: the guest named an address it does not have.
    #[error("guest range {start:#x}+{len:#x} is not RAM")]
    NotRam {
        /// First byte of the range.
        start: u64,
        /// Its length in bytes.
        len: u64,
    },
}

/// A device's handle on guest memory; cheap to clone.
#[derive(Clone, Debug)]
pub struct DeviceMemory {
    alias: Arc<GuestMemoryMmap>,
}

/// Ranges held for a device; access goes through the memory it dereferences to, and ends when it is dropped.
#[derive(Debug)]
pub struct Held<'a> {
    alias: &'a GuestMemoryMmap,
}

impl DeviceMemory {
    /// A window on the given mapping, which must be the alias mapping of guest RAM.
    #[must_use]
    pub fn new(alias: Arc<GuestMemoryMmap>) -> Self {
        Self { alias }
    }

    /// Makes every range accessible until the returned guard is dropped.
    ///
    /// # Errors
    /// [`HoldError::NotRam`] when a range is not wholly guest RAM; nothing is held then.
    pub fn hold(&self, ranges: &[GuestRange], access: Access) -> Result<Held<'_>, HoldError> {
        for range in ranges {
            let not_ram = || HoldError::NotRam { start: range.start.0, len: range.len };
            let len = usize::try_from(range.len).map_err(|_| not_ram())?;
            if len > 0 && !self.alias.check_range(range.start, len, access.into()) {
                return Err(not_ram());
            }
        }
        Ok(Held { alias: &self.alias })
    }
}

impl Deref for Held<'_> {
    type Target = GuestMemoryMmap;

    fn deref(&self) -> &GuestMemoryMmap {
        self.alias
    }
}
