//! Guest RAM: one memfd, a guest mapping for KVM and an alias mapping for everything else.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::mmap::{FromRangesError, MmapRegionError};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use super::DeviceMemory;

/// Why guest RAM cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The kernel refused the memory file.
    #[error(
        "cannot create {bytes} bytes of guest memory: {source}; give less with --mem, or raise the limit on file size (ulimit -f)"
    )]
    Create {
        /// Size asked for.
        bytes: u64,
        /// The kernel's answer.
        source: rustix::io::Errno,
    },
    /// The memory file cannot be mapped.
    #[error("cannot map guest memory: {0}; give less with --mem, or raise the limit on address space (ulimit -v)")]
    Map(#[from] FromRangesError),
    /// A region is larger than this host can address.
    #[error("cannot map a region of guest memory: {0}")]
    Region(#[from] MmapRegionError),
}

/// Guest RAM of the whole machine.
#[derive(Debug)]
pub struct GuestRam {
    guest: GuestMemoryMmap,
    alias: Arc<GuestMemoryMmap>,
}

impl GuestRam {
    /// RAM in the given regions (guest-physical start, length in bytes), laid out one after the other in one memfd.
    /// Nothing is resident until it is touched.
    ///
    /// # Errors
    /// [`RamError`] when the host refuses the memory file or a mapping of it.
    pub fn new(regions: &[(GuestAddress, usize)]) -> Result<Self, RamError> {
        let bytes = regions.iter().map(|&(_, len)| len as u64).sum();
        let create = |source| RamError::Create { bytes, source };
        let memfd: OwnedFd = memfd_create("vincs-guest-ram", MemfdFlags::CLOEXEC).map_err(create)?;
        ftruncate(&memfd, bytes).map_err(create)?;
        let file = Arc::new(File::from(memfd));
        let mapping = || {
            let mut offset = 0;
            let ranges = regions.iter().map(|&(start, len)| {
                let at = FileOffset::from_arc(Arc::clone(&file), offset);
                offset += len as u64;
                (start, len, Some(at))
            });
            GuestMemoryMmap::from_ranges_with_files(ranges)
        };
        Ok(Self { guest: mapping()?, alias: Arc::new(mapping()?) })
    }

    /// The mapping that is given to KVM. Only vCPUs may touch it: protocol and device threads use the alias.
    #[must_use]
    pub fn guest_mapping(&self) -> &GuestMemoryMmap {
        &self.guest
    }

    /// The mapping for loaders, devices and protocol code; it never faults to user space.
    #[must_use]
    pub fn alias_mapping(&self) -> &Arc<GuestMemoryMmap> {
        &self.alias
    }

    /// A window for a device, on the alias mapping.
    #[must_use]
    pub fn device_memory(&self) -> DeviceMemory {
        DeviceMemory::new(Arc::clone(&self.alias))
    }
}
