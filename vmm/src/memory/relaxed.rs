//! Relaxed memory: apart from RAM, handed to the guest's programs as a DAX character device.
//!
//! To the guest's kernel it is persistent memory that firmware reports in the NFIT: nothing of it goes to the kernel's allocator. A block
//! at its start (`info_block`) claims the rest for a character device, so that nobody in the guest has to configure one. The kernel
//! reads that block and writes nothing here: its own records of these pages are in RAM.
//!
//! - [`RelaxedMemory`]: that of a machine of one rank;
//! - [`spread`](prepare): that of one of several; `doorbell`, `commands` and `lent`: how its programs synchronise.

mod commands;
pub(crate) mod doorbell;
mod info_block;
mod lent;
pub(crate) mod spread;

use std::sync::Arc;

use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress};

use super::ram::{RamError, memory_file};
pub use doorbell::Rings;
pub use spread::{RaceLines, RelaxedShare, RelaxedStats, SpreadError, prepare};

/// The relaxed memory of a machine of one rank: a memfd of its own, a guest mapping for KVM and an alias mapping for devices.
#[derive(Debug)]
pub struct RelaxedMemory {
    guest: GuestRegionMmap,
    alias: Arc<GuestRegionMmap>,
}

impl RelaxedMemory {
    /// Relaxed memory of `len` bytes at `start`, as [`crate::layout::relaxed_region`] has it: its header with the block, then zeroes, of which
    /// nothing is resident until it is touched.
    ///
    /// # Errors
    /// [`RamError`] when the host refuses the memory file or a mapping of it.
    pub fn new(start: GuestAddress, len: u64) -> Result<Self, RamError> {
        let file = memory_file("vincs-relaxed", len)?;
        let mapping = || {
            let size = usize::try_from(len).map_err(|_| RamError::Relaxed(len))?;
            let offset = Some(FileOffset::from_arc(Arc::clone(&file), 0));
            Ok::<_, RamError>(GuestRegionMmap::from_range(start, size, offset)?)
        };
        let (guest, alias) = (mapping()?, Arc::new(mapping()?));
        let block = info_block::build(len);
        alias.write_slice(&block, MemoryRegionAddress(info_block::OFFSET)).map_err(|_| RamError::Relaxed(len))?;
        Ok(Self { guest, alias })
    }

    /// Guest-physical address of its first byte, and its length in bytes.
    #[must_use]
    pub fn region(&self) -> (GuestAddress, u64) {
        (self.guest.start_addr(), self.guest.len())
    }

    /// The mapping that is given to KVM. Only vCPUs may touch it.
    #[must_use]
    pub fn guest(&self) -> &GuestRegionMmap {
        &self.guest
    }

    /// The mapping for devices and protocol code.
    #[must_use]
    pub fn alias(&self) -> &Arc<GuestRegionMmap> {
        &self.alias
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestMemoryBackend;

    use super::*;
    use crate::memory::{Access, GuestRam, GuestRange};

    const START: GuestAddress = GuestAddress(4 << 30);

    #[test]
    fn both_mappings_show_the_same_memory_and_the_block_is_in_it() {
        let relaxed = RelaxedMemory::new(START, 4 << 20).unwrap();
        assert_eq!(relaxed.region(), (START, 4 << 20));
        let mut block = [0; info_block::LEN];
        relaxed.guest().read_slice(&mut block, MemoryRegionAddress(info_block::OFFSET)).unwrap();
        assert_eq!(block, info_block::build(4 << 20));
        relaxed.guest().write_slice(b"from a vCPU", MemoryRegionAddress(2 << 20)).unwrap();
        let mut seen = [0; 11];
        relaxed.alias().read_slice(&mut seen, MemoryRegionAddress(2 << 20)).unwrap();
        assert_eq!(&seen, b"from a vCPU");
    }

    #[test]
    fn devices_reach_it_only_when_it_is_added_and_not_across_its_edges() {
        let mut ram = GuestRam::new(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let relaxed = RelaxedMemory::new(START, 4 << 20).unwrap();
        let at = |offset: u64, len| (GuestRange { start: GuestAddress(START.0 + offset), len }, Access::Write);
        assert!(ram.device_memory().check(&[at(0, 1)]).is_err());
        ram.add_relaxed(&relaxed).unwrap();
        let memory = ram.device_memory();
        assert!(memory.check(&[at(0, 4 << 20)]).is_ok());
        assert!(memory.check(&[at(1, 4 << 20)]).is_err());
        memory.write(GuestAddress(START.0 + (2 << 20)), b"by a device").unwrap();
        let mut seen = [0; 11];
        relaxed.guest().read_slice(&mut seen, MemoryRegionAddress(2 << 20)).unwrap();
        assert_eq!(&seen, b"by a device");
        assert_eq!(ram.guest_mapping().num_regions(), 1, "KVM has it from its own mapping");
    }

    #[test]
    fn it_has_room_for_its_block() {
        assert!(matches!(RelaxedMemory::new(START, 8191), Err(RamError::Relaxed(8191))));
        assert!(RelaxedMemory::new(START, 8192).is_ok());
    }

    #[test]
    fn it_must_not_overlap_ram() {
        let mut ram = GuestRam::new(&[(GuestAddress(0), 4 << 20)]).unwrap();
        let relaxed = RelaxedMemory::new(GuestAddress(2 << 20), 4 << 20).unwrap();
        assert!(matches!(ram.add_relaxed(&relaxed), Err(RamError::Map(_))));
    }
}
