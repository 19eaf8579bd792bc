//! A queue as the driver sets it up through the registers (virtio 1.2 section 4.2.3.2).

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use super::queues::{avail_ring, desc_table, used_ring};
use crate::memory::{Access, DeviceMemory};

/// A 64-bit address that is written in halves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SplitAddress {
    low: u32,
    high: u32,
}

impl SplitAddress {
    pub(super) fn set_low(&mut self, low: u32) {
        self.low = low;
    }

    pub(super) fn set_high(&mut self, high: u32) {
        self.high = high;
    }

    fn address(self) -> GuestAddress {
        GuestAddress(u64::from(self.high) << 32 | u64::from(self.low))
    }
}

/// One queue's registers.
#[derive(Debug)]
pub(super) struct QueueSetup {
    max: u16,
    size: u32,
    ready: bool,
    pub(super) desc: SplitAddress,
    pub(super) avail: SplitAddress,
    pub(super) used: SplitAddress,
}

/// What is wrong with the set-up of a queue.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error("{0}")]
    Ring(#[from] virtio_queue::Error),
    #[error("{0}")]
    Memory(#[from] crate::memory::HoldError),
    #[error("a ring at address 0")]
    AtZero,
}

impl QueueSetup {
    /// A queue of at most `max` entries.
    pub(super) fn new(max: u16) -> Self {
        let address = SplitAddress::default();
        Self { max, size: max.into(), ready: false, desc: address, avail: address, used: address }
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.max);
    }

    /// QueueNumMax.
    pub(super) fn max(&self) -> u32 {
        self.max.into()
    }

    /// QueueNum. Checked when the queue is made ready.
    pub(super) fn set_size(&mut self, size: u32) {
        self.size = size;
    }

    /// QueueReady.
    pub(super) fn ready(&self) -> bool {
        self.ready
    }

    /// The driver writes QueueReady: the queue gets ready only if its size is a power of two within the limit and its
    /// parts are aligned (section 2.7) and in RAM.
    pub(super) fn set_ready(&mut self, ready: bool, memory: &DeviceMemory) {
        self.ready = ready
            && self.checked(memory).map_err(|error| tracing::debug!("queue {self:?} not made ready: {error}")).is_ok();
    }

    /// The queue for the worker; not ready if the driver has not made it so. Call after [`Self::set_ready`] only.
    pub(super) fn build(&self, event_idx: bool) -> Queue {
        let mut queue = if self.ready { self.configured().unwrap_or_default() } else { Queue::default() };
        queue.set_event_idx(event_idx);
        queue
    }

    fn checked(&self, memory: &DeviceMemory) -> Result<(), SetupError> {
        let queue = self.configured()?;
        if [queue.desc_table(), queue.avail_ring(), queue.used_ring()].contains(&0) {
            return Err(SetupError::AtZero);
        }
        let to_read = [desc_table(&queue), avail_ring(&queue)].map(|range| (range, Access::Read));
        memory.check(&to_read)?;
        memory.check(&[(used_ring(&queue), Access::Write)])?;
        Ok(())
    }

    fn configured(&self) -> Result<Queue, virtio_queue::Error> {
        let mut queue = Queue::new(self.max)?;
        queue.try_set_size(u16::try_from(self.size).map_err(|_| virtio_queue::Error::InvalidSize)?)?;
        queue.try_set_desc_table_address(self.desc.address())?;
        queue.try_set_avail_ring_address(self.avail.address())?;
        queue.try_set_used_ring_address(self.used.address())?;
        queue.set_ready(true);
        Ok(queue)
    }
}
