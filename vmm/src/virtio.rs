//! Virtio devices (OASIS virtio 1.2) over the memory-mapped transport (section 4.2).
//!
//! A device is split in three: [`VirtioDevice`], what the device does (one implementation per device type); the
//! transport, its registers as the guest sees them; and the worker, one named thread per device that owns the
//! device and its queues while the driver is active.
//!
//! # Writing a device
//!
//! [`VirtioDevice::handle_queue`] takes what the driver has made available and gives it back used. A request goes
//! through four steps, and no step touches guest memory that is not held:
//!
//! ```no_run
//! # use std::io::Write;
//! # use vincs_vmm::virtio::Queues;
//! # const MAX_REQUEST: usize = 4096;
//! # fn serve(request: &[u8]) -> Vec<u8> { request.to_vec() }
//! # fn handle_queue(queue: usize, queues: &mut Queues) -> Result<(), Box<dyn std::error::Error>> {
//! while let Some(chain) = queues.pop(queue)? {          // 1. the ring: a checked chain, only addresses
//!     let written = {
//!         let held = chain.hold(&queues.memory)?;       // 2. all of its buffers, held at once
//!         let request = held.read_all(MAX_REQUEST)?;    //    or held.reader(), an io::Read
//!         let mut answer = held.writer();               //    an io::Write over the writable buffers
//!         answer.write_all(&serve(&request))?;          // 3. the work
//!         answer.written()
//!     };                                                //    the hold ends here
//!     queues.push_used(chain, written)?;                // 4. back to the driver
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The worker notifies the driver once after the handler returns, when the driver asked for it (EVENT_IDX). A chain
//! may also be kept and pushed later, from another handler. [`Queues::pop`] returns nothing when the ring is empty,
//! and then the driver will notify again; or when this call's share is used up, and then the handler is called
//! again at once. A handler that leaves chains in the ring must see to it by itself that it is called again.
//!
//! An error from a handler stops the device until the driver resets it. Hold briefly: never across a wait.

use std::os::fd::BorrowedFd;

pub mod blk;
mod chain;
pub mod console;
pub mod p9;
mod queue_setup;
mod queues;
mod registers;
mod rng;
mod transport;
mod worker;

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
pub(crate) mod testing;

pub use chain::{Chain, HeldChain, MAX_CHAIN_LEN, Reader, Writer};
pub use queues::{Queues, SHARE};
pub use rng::Rng;
pub use transport::{MMIO_SIZE, MmioTransport, NOTIFY_OFFSET, TransportError};

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
    /// The host refused something the device cannot work without.
    #[error("{what}: {source}")]
    Host {
        /// What was tried.
        what: String,
        /// The host's answer.
        source: std::io::Error,
    },
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
    /// The descriptors of [`Self::wait_for`] that are ready, by their index there. No other call comes between the two.
    ///
    /// # Errors
    /// [`DeviceError`] when the guest broke the ring's rules.
    fn handle_ready(&mut self, _ready: &[usize], _queues: &mut Queues) -> Result<(), DeviceError> {
        Ok(())
    }
    /// The driver has reset the device, or the machine stops: drop what belongs to the driver.
    fn reset(&mut self);
}
