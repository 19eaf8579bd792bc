//! The register block of a virtio-mmio device, version 2 (virtio 1.2 section 4.2.2).
//!
//! What several vCPUs use all the time, notifications and the interrupt registers, takes no lock; everything else
//! is behind one. A wrong access (size, offset, moment) is ignored, or reads as zero, and is logged at debug.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_INTERRUPT_ACK,
    VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_SHM_BASE_HIGH,
    VIRTIO_MMIO_SHM_LEN_LOW, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};
use vmm_sys_util::eventfd::EventFd;

use super::VirtioDevice;
use super::registers::Registers;
use super::worker::{Interrupt, event_fd};
use crate::interrupt::InterruptLine;
use crate::memory::DeviceMemory;

/// Size in bytes of a device's register block.
pub const MMIO_SIZE: u64 = 0x1000;

/// Offset of QueueNotify, a 32-bit register whose value is the queue's index. For a KVM ioeventfd.
pub const NOTIFY_OFFSET: u64 = VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// MagicValue: "virt" in little-endian order.
const MAGIC: u32 = 0x7472_6976;
/// Version of the register block.
const VERSION: u32 = 2;
/// VendorID: "vncs" in little-endian order.
const VENDOR: u32 = 0x7363_6e76;
/// Length and address of a shared memory region that does not exist (section 4.2.2).
const NO_SHARED_MEMORY: u32 = u32::MAX;

/// Why a device cannot be given a transport.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The host has no descriptors left.
    #[error("cannot create the notification descriptors of {device}: {source} (raise the limit on open files)")]
    Descriptors {
        /// The device's name.
        device: String,
        /// The host's answer.
        source: io::Error,
    },
}

/// One device behind its registers. Callable from every vCPU thread; dropping it stops the device.
#[derive(Debug)]
pub struct MmioTransport {
    name: String,
    device_type: u32,
    config: Vec<u8>,
    kicks: Arc<[EventFd]>,
    interrupt: Arc<Interrupt>,
    registers: Mutex<Registers>,
}

impl MmioTransport {
    /// A device that reaches guest memory through `memory` and interrupts on `line`.
    ///
    /// # Errors
    /// [`TransportError::Descriptors`] when the host refuses the queues' eventfds.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: DeviceMemory,
        line: Arc<dyn InterruptLine>,
    ) -> Result<Self, TransportError> {
        let name = device.name().to_owned();
        let kicks: io::Result<Arc<[EventFd]>> = device.queue_sizes().iter().map(|_| event_fd()).collect();
        let kicks = kicks.map_err(|source| TransportError::Descriptors { device: name.clone(), source })?;
        let interrupt = Arc::new(Interrupt::new(line));
        Ok(Self {
            name,
            device_type: device.device_type(),
            config: device.config(),
            registers: Mutex::new(Registers::new(device, memory, Arc::clone(&kicks), Arc::clone(&interrupt))),
            kicks,
            interrupt,
        })
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The eventfd of each queue, by index: writing to it notifies the queue like a write of its index to the register
    /// at [`NOTIFY_OFFSET`]. They stay the same over resets.
    #[must_use]
    pub fn notify_fds(&self) -> &[EventFd] {
        &self.kicks
    }

    /// The guest reads `data.len()` bytes at `offset` into the register block.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Ok(offset) = u32::try_from(offset) else { return };
        if let Some(offset) = offset.checked_sub(VIRTIO_MMIO_CONFIG) {
            let from = self.config.get(offset as usize..).unwrap_or_default();
            data.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        } else if let Ok(data) = <&mut [u8; 4]>::try_from(&mut *data) {
            *data = self.read_register(offset).to_le_bytes();
        } else {
            tracing::debug!("{}: read of {} bytes at register {offset:#x}", self.name, data.len());
        }
    }

    /// The guest writes `data` at `offset` into the register block.
    pub fn write(&self, offset: u64, data: &[u8]) {
        match (u32::try_from(offset), <[u8; 4]>::try_from(data)) {
            // No device here has configuration that the driver may write.
            (Ok(offset), Ok(data)) if offset < VIRTIO_MMIO_CONFIG => {
                self.write_register(offset, u32::from_le_bytes(data));
            }
            _ => tracing::debug!("{}: write of {} bytes at {offset:#x} ignored", self.name, data.len()),
        }
    }

    fn read_register(&self, offset: u32) -> u32 {
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.device_type,
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            VIRTIO_MMIO_SHM_LEN_LOW..=VIRTIO_MMIO_SHM_BASE_HIGH => NO_SHARED_MEMORY,
            // The configuration never changes.
            VIRTIO_MMIO_CONFIG_GENERATION => 0,
            _ => self.registers().read(offset).unwrap_or_else(|| {
                tracing::debug!("{}: read of register {offset:#x}, which has no value", self.name);
                0
            }),
        }
    }

    fn write_register(&self, offset: u32, value: u32) {
        match offset {
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            VIRTIO_MMIO_QUEUE_NOTIFY => match self.kicks.get(value as usize) {
                // A nonblocking eventfd refuses only when its counter is full: the worker is notified already.
                Some(kick) => drop(kick.write(1)),
                None => tracing::debug!("{}: notification of queue {value}, which does not exist", self.name),
            },
            _ => self.registers().write(offset, value),
        }
    }

    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
