//! Virtio devices (OASIS virtio 1.2) over the memory-mapped transport (section 4.2).
//!
//! A device is split in three: [`VirtioDevice`], what the device does (one implementation per device type); the
//! transport, its registers as the guest sees them; and the worker, one named thread per device that owns the
//! device and its queues while the driver is active.

use std::os::fd::BorrowedFd;

use crate::memory::DeviceMemory;

/// The device made an invalid request of its own host resources, or the guest broke the ring's rules; the transport
/// answers by setting DEVICE_NEEDS_RESET (virtio 1.2 section 2.1.2).
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The guest's ring or descriptors break the specification.
    #[error("queue {queue}: {what}")]
    Ring {
        /// Index of the queue.
        queue: usize,
        /// What is wrong with it.
        what: String,
    },
}

/// The driver's side of a device while it is active: its queues and guest memory.
#[derive(Debug)]
pub struct Queues {
    /// The queues, in the order of [`VirtioDevice::queue_sizes`].
    pub queues: Vec<virtio_queue::Queue>,
    /// Guest memory.
    pub memory: DeviceMemory,
}

/// What a virtio device does, apart from its transport. Lives on its worker thread while the driver is active.
pub trait VirtioDevice: Send + std::fmt::Debug {
    /// Name of its worker thread and in error messages: `virtio-blk0`.
    fn name(&self) -> &str;
    /// Virtio device ID (section 5).
    fn device_type(&self) -> u32;
    /// Device-specific feature bits; the transport adds VERSION_1 and the ring features it supports.
    fn features(&self) -> u64;
    /// Largest size of each queue, in descriptors.
    fn queue_sizes(&self) -> &[u16];
    /// The device's configuration space (section 4.2.2.2). Answered from a snapshot by the transport.
    fn config(&self) -> Vec<u8>;
    /// The driver has set DRIVER_OK with these features.
    fn activate(&mut self, features: u64);
    /// The driver has put buffers in this queue. Handles all it can; the caller signals used buffers.
    ///
    /// # Errors
    /// [`DeviceError`] when the guest broke the ring's rules.
    fn handle_queue(&mut self, queue: usize, queues: &mut Queues) -> Result<(), DeviceError>;
    /// Host file descriptors whose readiness the device wants to hear of now.
    fn wait_for(&self) -> Vec<(BorrowedFd<'_>, rustix::event::PollFlags)> {
        Vec::new()
    }
    /// The descriptors of [`Self::wait_for`] that are ready, by their index there.
    ///
    /// # Errors
    /// [`DeviceError`] when the guest broke the ring's rules.
    fn handle_ready(&mut self, _ready: &[usize], _queues: &mut Queues) -> Result<(), DeviceError> {
        Ok(())
    }
    /// The driver has reset the device, or the machine stops: drop what belongs to the driver.
    fn reset(&mut self);
}
