//! Guest RAM: one memfd, a guest mapping for KVM and an alias mapping for everything else.

use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{Advice, madvise};
use vm_memory::mmap::{FromRangesError, MmapRegionError};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress,
};

use super::{DeviceMemory, RelaxedMemory};
use crate::layout::PAGE_SIZE;

/// Why guest RAM cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The kernel refused the memory file.
    #[error(
        "cannot create {bytes} bytes of guest memory: {source}; give less with --mem or --relaxed, or raise the limit on file size (ulimit -f)"
    )]
    Create {
        /// Size asked for.
        bytes: u64,
        /// The kernel's answer.
        source: rustix::io::Errno,
    },
    /// The memory file cannot be mapped.
    #[error(
        "cannot map guest memory: {0}; give less with --mem or --relaxed, or raise the limit on address space (ulimit -v)"
    )]
    Map(#[from] FromRangesError),
    /// A region is larger than this host can address.
    #[error("cannot map a region of guest memory: {0}")]
    Region(#[from] MmapRegionError),
    /// Relaxed memory that has no room for its header, or is larger than this host can address.
    #[error("a machine cannot have {0} bytes of relaxed memory; change --relaxed")]
    Relaxed(u64),
}

/// Guest RAM of the whole machine.
#[derive(Debug)]
pub struct GuestRam {
    guest: Arc<GuestMemoryMmap>,
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
        let file = memory_file("vincs-guest-ram", bytes)?;
        let mapping = || {
            let mut offset = 0;
            let ranges = regions.iter().map(|&(start, len)| {
                let at = FileOffset::from_arc(Arc::clone(&file), offset);
                offset += len as u64;
                (start, len, Some(at))
            });
            GuestMemoryMmap::from_ranges_with_files(ranges)
        };
        Ok(Self { guest: Arc::new(mapping()?), alias: Arc::new(mapping()?) })
    }

    /// Makes a range of guest-physical addresses resident and mapped at once, in both mappings, for what is about to be
    /// filled: a page at a time, each would be a fault here and another one when the guest touches it.
    ///
    /// Only saves time: what is not RAM is left out, and hosts older than Linux 5.14 are left alone.
    pub fn make_resident(&self, range: Range<u64>) {
        let pages = range.start & !(PAGE_SIZE - 1)..range.end;
        for region in self.alias.iter().chain(self.guest.iter()) {
            let (first, after) = (region.start_addr().0, region.start_addr().0 + region.len());
            let (start, end) = (pages.start.max(first), pages.end.min(after));
            let Some(len) = end.checked_sub(start).and_then(|len| usize::try_from(len).ok()) else { continue };
            let Ok(host) = region.get_host_address(MemoryRegionAddress(start - first)) else { continue };
            // SAFETY: the range lies within the region's mapping, and populating changes no byte that is there.
            let populated = unsafe { madvise(host.cast(), len, Advice::LinuxPopulateWrite) };
            if let Err(error) = populated {
                tracing::debug!(%error, "the kernel's memory is not made resident at once");
            }
        }
    }

    /// The mapping that is given to KVM. Only vCPUs may touch it: protocol and device threads use the alias.
    #[must_use]
    pub fn guest_mapping(&self) -> &GuestMemoryMmap {
        &self.guest
    }

    /// The guest mapping, for who has to keep it.
    pub(super) fn guest_arc(&self) -> Arc<GuestMemoryMmap> {
        Arc::clone(&self.guest)
    }

    /// The mapping for loaders, devices and protocol code; it never faults to user space.
    #[must_use]
    pub fn alias_mapping(&self) -> &Arc<GuestMemoryMmap> {
        &self.alias
    }

    /// Lets devices reach relaxed memory as well: programs may have them read and write it (O_DIRECT).
    ///
    /// # Errors
    /// [`RamError::Map`] when it overlaps RAM.
    pub fn add_relaxed(&mut self, relaxed: &RelaxedMemory) -> Result<(), RamError> {
        let alias = self.alias.insert_region(Arc::clone(relaxed.alias())).map_err(FromRangesError::from)?;
        self.alias = Arc::new(alias);
        Ok(())
    }

    /// A window for a device, on the alias mapping.
    #[must_use]
    pub fn device_memory(&self) -> DeviceMemory {
        DeviceMemory::new(Arc::clone(&self.alias))
    }
}

/// A file of so many zero bytes in memory. Nothing is resident until it is touched.
///
/// # Errors
/// [`RamError::Create`] when the host refuses it.
pub(super) fn memory_file(name: &str, bytes: u64) -> Result<Arc<File>, RamError> {
    let create = |source| RamError::Create { bytes, source };
    let memfd: OwnedFd = memfd_create(name, MemfdFlags::CLOEXEC).map_err(create)?;
    ftruncate(&memfd, bytes).map_err(create)?;
    Ok(Arc::new(File::from(memfd)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn resident(ram: &GuestRam) -> u64 {
        let region = ram.alias.iter().next().unwrap();
        region.file_offset().unwrap().file().metadata().unwrap().blocks() * 512
    }

    #[test]
    fn a_range_becomes_resident_and_nothing_else_does() {
        let ram = GuestRam::new(&[(GuestAddress(0), 0x10_0000), (GuestAddress(0x1000_0000), 0x10_0000)]).unwrap();
        assert_eq!(resident(&ram), 0);
        ram.make_resident(0x1fff..0x3001);
        assert_eq!(resident(&ram), 3 * PAGE_SIZE);
        ram.make_resident(0xf_f000..0x1000_1000);
        assert_eq!(resident(&ram), 5 * PAGE_SIZE, "the last page of one region and the first of the other");
        ram.make_resident(0x20_0000..0x30_0000);
        ram.make_resident(0..0);
        assert_eq!(resident(&ram), 5 * PAGE_SIZE, "there is no RAM");
    }
}
