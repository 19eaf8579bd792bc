//! The driver's handshake with a device: status, features, queue set-up (virtio 1.2 sections 3.1 and 4.2.3).

use std::sync::Arc;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DRIVER_FEATURES,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
    VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_NUM_MAX,
    VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW,
    VIRTIO_MMIO_STATUS,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::EventFd;

use super::queue_setup::QueueSetup;
use super::worker::{Interrupt, NotStarted, Worker};
use super::{Queues, VirtioDevice};
use crate::memory::DeviceMemory;

const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const INDIRECT_DESC: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// Status bits that the driver may set.
const DRIVER_BITS: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE
    | VIRTIO_CONFIG_S_DRIVER
    | VIRTIO_CONFIG_S_FEATURES_OK
    | VIRTIO_CONFIG_S_DRIVER_OK
    | VIRTIO_CONFIG_S_FAILED;

/// Where the device is.
#[derive(Debug)]
enum Place {
    /// Here; no driver is active.
    Idle(Box<dyn VirtioDevice>),
    /// With its worker, from DRIVER_OK until reset.
    Active(Worker),
    /// Lost with a worker that panicked: it answers to nothing any more.
    Gone,
}

/// The registers that a lock guards, and the device behind them.
#[derive(Debug)]
pub(super) struct Registers {
    place: Place,
    offered: u64,
    accepted: u64,
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
    queues: Vec<QueueSetup>,
    memory: DeviceMemory,
    kicks: Arc<[EventFd]>,
    interrupt: Arc<Interrupt>,
}

impl Registers {
    pub(super) fn new(
        device: Box<dyn VirtioDevice>,
        memory: DeviceMemory,
        kicks: Arc<[EventFd]>,
        interrupt: Arc<Interrupt>,
    ) -> Self {
        Self {
            offered: device.features() | VERSION_1 | EVENT_IDX | INDIRECT_DESC,
            queues: device.queue_sizes().iter().map(|&max| QueueSetup::new(max)).collect(),
            place: Place::Idle(device),
            accepted: 0,
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            memory,
            kicks,
            interrupt,
        }
    }

    /// The value of a register; nothing for one that cannot be read.
    pub(super) fn read(&self, offset: u32) -> Option<u32> {
        let queue = usize::try_from(self.queue_sel).ok().and_then(|queue| self.queues.get(queue));
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES => Some(half(self.offered, self.device_features_sel)),
            // A queue that does not exist has no entries and is not ready.
            VIRTIO_MMIO_QUEUE_NUM_MAX => Some(queue.map_or(0, QueueSetup::max)),
            VIRTIO_MMIO_QUEUE_READY => Some(queue.map_or(0, |queue| queue.ready().into())),
            VIRTIO_MMIO_STATUS => Some(self.status()),
            _ => None,
        }
    }

    /// The driver writes a register.
    pub(super) fn write(&mut self, offset: u32, value: u32) {
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES if !self.has(VIRTIO_CONFIG_S_FEATURES_OK) => self.accept(value),
            VIRTIO_MMIO_QUEUE_SEL => self.queue_sel = value,
            VIRTIO_MMIO_STATUS if value == 0 => self.reset(),
            VIRTIO_MMIO_STATUS => self.set_status(value),
            _ if self.has(VIRTIO_CONFIG_S_DRIVER_OK) => {
                tracing::debug!("write of {value:#x} to register {offset:#x} of an active device ignored");
            }
            _ => self.set_up_queue(offset, value),
        }
    }

    fn status(&self) -> u32 {
        self.status | if self.interrupt.needs_reset() { VIRTIO_CONFIG_S_NEEDS_RESET } else { 0 }
    }

    fn has(&self, bit: u32) -> bool {
        self.status & bit != 0
    }

    fn accept(&mut self, value: u32) {
        match self.driver_features_sel {
            0 => self.accepted = self.accepted & !u64::from(u32::MAX) | u64::from(value),
            1 => self.accepted = self.accepted & u64::from(u32::MAX) | u64::from(value) << 32,
            beyond => tracing::debug!("features {value:#x} accepted in word {beyond}, which does not exist"),
        }
    }

    fn set_up_queue(&mut self, offset: u32, value: u32) {
        let queue = usize::try_from(self.queue_sel).ok().and_then(|queue| self.queues.get_mut(queue));
        let Some(queue) = queue else {
            tracing::debug!("set-up of queue {}, which does not exist", self.queue_sel);
            return;
        };
        match offset {
            // What was checked when it was made ready stays as it is.
            offset if queue.ready() && offset != VIRTIO_MMIO_QUEUE_READY => {
                tracing::debug!("write of {value:#x} to register {offset:#x} of a ready queue ignored");
            }
            VIRTIO_MMIO_QUEUE_NUM => queue.set_size(value),
            VIRTIO_MMIO_QUEUE_DESC_LOW => queue.desc.set_low(value),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.desc.set_high(value),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.avail.set_low(value),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.avail.set_high(value),
            VIRTIO_MMIO_QUEUE_USED_LOW => queue.used.set_low(value),
            VIRTIO_MMIO_QUEUE_USED_HIGH => queue.used.set_high(value),
            VIRTIO_MMIO_QUEUE_READY => queue.set_ready(value & 1 != 0, &self.memory),
            _ => tracing::debug!("write of {value:#x} to register {offset:#x}, which takes none"),
        }
    }

    /// The driver sets bits of the status; it can take none back but by a reset.
    fn set_status(&mut self, value: u32) {
        let mut new = value & DRIVER_BITS & !self.status;
        if new & VIRTIO_CONFIG_S_FEATURES_OK != 0 && !self.features_acceptable() {
            tracing::debug!("features {:#x} refused, {:#x} are offered", self.accepted, self.offered);
            new &= !VIRTIO_CONFIG_S_FEATURES_OK;
        }
        self.status |= new & !VIRTIO_CONFIG_S_DRIVER_OK;
        if new & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            if self.has(VIRTIO_CONFIG_S_FEATURES_OK) {
                self.status |= VIRTIO_CONFIG_S_DRIVER_OK;
                self.activate();
            } else {
                tracing::debug!("DRIVER_OK before FEATURES_OK ignored");
            }
        }
    }

    fn features_acceptable(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & VERSION_1 != 0
    }

    fn activate(&mut self) {
        let device = match std::mem::replace(&mut self.place, Place::Gone) {
            Place::Idle(device) => device,
            other @ (Place::Active(_) | Place::Gone) => {
                self.place = other;
                return;
            }
        };
        let event_idx = self.accepted & EVENT_IDX != 0;
        let queues = self.queues.iter().map(|queue| queue.build(event_idx)).collect();
        let queues = Queues::new(queues, self.memory.clone(), self.accepted & INDIRECT_DESC != 0);
        let (kicks, interrupt) = (Arc::clone(&self.kicks), Arc::clone(&self.interrupt));
        self.place = match Worker::start(device, self.accepted, queues, kicks, interrupt) {
            Ok(worker) => Place::Active(worker),
            Err(NotStarted { device, source }) => {
                tracing::error!("{}: cannot start its thread: {source}", device.name());
                self.interrupt.set_needs_reset();
                Place::Idle(device)
            }
        };
    }

    /// Takes the device back from its worker and makes everything as it was in the beginning.
    fn reset(&mut self) {
        self.place = match std::mem::replace(&mut self.place, Place::Gone) {
            Place::Active(worker) => match worker.stop() {
                Some(mut device) => {
                    device.reset();
                    Place::Idle(device)
                }
                None => Place::Gone,
            },
            other @ (Place::Idle(_) | Place::Gone) => other,
        };
        self.queues.iter_mut().for_each(QueueSetup::reset);
        (self.accepted, self.status) = (0, 0);
        (self.device_features_sel, self.driver_features_sel, self.queue_sel) = (0, 0, 0);
        self.interrupt.reset();
        if matches!(self.place, Place::Gone) {
            self.interrupt.set_needs_reset();
        }
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        self.reset();
    }
}

/// The lower or upper half of 64 feature bits; there are no more.
fn half(features: u64, select: u32) -> u32 {
    let [low, high] = [features & u64::from(u32::MAX), features >> 32];
    let half = match select {
        0 => low,
        1 => high,
        _ => 0,
    };
    u32::try_from(half).unwrap_or(0)
}
