//! The driver's queues while the device is active: chains out, used chains back, notifications both ways.

use std::sync::atomic::Ordering;

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::DeviceError;
use super::chain::{Chain, DESCRIPTOR_BYTES, Table, Walk};
use crate::memory::{Access, DeviceMemory, GuestRange, Held};

/// Chains that one call of a handler gets from each queue before the worker looks at its other work. A driver that
/// refills a queue as fast as it is served cannot keep the worker from stopping.
pub const SHARE: u16 = 256;

/// The driver's side of a device while it is active: its queues and guest memory.
#[derive(Debug)]
pub struct Queues {
    /// Guest memory.
    pub memory: DeviceMemory,
    /// In the order of [`super::VirtioDevice::queue_sizes`].
    queues: Vec<Queue>,
    indirect_allowed: bool,
    progress: Vec<Progress>,
}

/// What the worker has to know of a queue after a handler returns.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Chains taken since the handler was called.
    taken: u16,
    /// The handler stopped because of [`SHARE`] and wants to be called again.
    unfinished: bool,
    /// Chains were given back since the driver was last notified, or considered for it.
    used: bool,
}

impl Queues {
    /// The queues a driver has set up. `indirect_allowed`: it accepted VIRTIO_F_INDIRECT_DESC.
    #[must_use]
    pub fn new(queues: Vec<Queue>, memory: DeviceMemory, indirect_allowed: bool) -> Self {
        let progress = vec![Progress::default(); queues.len()];
        Self { memory, queues, indirect_allowed, progress }
    }

    /// Takes the next chain of a queue. Nothing when there is none, when the driver has not set the queue up, or when
    /// this call of the handler has had its share ([`SHARE`]); in each case the handler will be called when there is
    /// more.
    ///
    /// # Errors
    /// [`DeviceError::Ring`] when the available ring or the chain breaks the rules.
    pub fn pop(&mut self, queue: usize) -> Result<Option<Chain>, DeviceError> {
        let (Some(ring), Some(progress)) = (self.queues.get_mut(queue), self.progress.get_mut(queue)) else {
            return Ok(None);
        };
        if !ring.ready() {
            return Ok(None);
        }
        if progress.taken >= SHARE {
            progress.unfinished = true;
            return Ok(None);
        }
        let mut walk = next(&self.memory, queue, ring, self.indirect_allowed)?;
        // Asking for a notification and the driver adding a chain may cross: look again after asking.
        if walk.is_none() && rearm(&self.memory, queue, ring)? {
            walk = next(&self.memory, queue, ring, self.indirect_allowed)?;
        }
        let Some(walk) = walk else { return Ok(None) };
        progress.taken += 1;
        match walk {
            Walk::Whole(chain) => Ok(Some(chain)),
            Walk::Indirect(chain, table) => chain.walk_indirect(&self.memory, table).map(Some),
        }
    }

    /// Gives a chain back to the driver, with the number of bytes written to it from its first writable byte.
    ///
    /// # Errors
    /// [`DeviceError::Ring`] when the used ring cannot be written.
    pub fn push_used(&mut self, chain: Chain, written: usize) -> Result<(), DeviceError> {
        let queue = chain.queue();
        let (Some(ring), Some(progress)) = (self.queues.get_mut(queue), self.progress.get_mut(queue)) else {
            return Err(chain.broken("its queue does not exist"));
        };
        let written = u32::try_from((written as u64).min(chain.writable_len())).unwrap_or(u32::MAX);
        let held = hold(&self.memory, queue, &[(used_ring(ring), Access::Write)])?;
        ring.add_used(&*held, chain.head(), written).map_err(|error| ring_error(queue, &error))?;
        progress.used = true;
        Ok(())
    }

    /// Number of chains that the driver has made available and [`Self::pop`] has not given yet.
    ///
    /// # Errors
    /// [`DeviceError::Ring`] when the available ring breaks the rules.
    pub fn waiting(&self, queue: usize) -> Result<u16, DeviceError> {
        let Some(ring) = self.queues.get(queue).filter(|ring| ring.ready()) else { return Ok(0) };
        let held = hold(&self.memory, queue, &[(avail_ring(ring), Access::Read)])?;
        let end = ring.avail_idx(&*held, Ordering::Acquire).map_err(|error| ring_error(queue, &error))?;
        let waiting = end.0.wrapping_sub(ring.next_avail());
        if waiting > ring.size() {
            return Err(ring_error(queue, &virtio_queue::Error::InvalidAvailRingIndex));
        }
        Ok(waiting)
    }

    /// Begins a call of a handler: every queue has its whole share again.
    pub(super) fn begin_call(&mut self) {
        for progress in &mut self.progress {
            (progress.taken, progress.unfinished) = (0, false);
        }
    }

    /// Whether the handler stopped at its share of a queue since [`Self::begin_call`].
    pub(super) fn unfinished(&self) -> impl Iterator<Item = usize> {
        self.progress.iter().enumerate().filter(|(_, progress)| progress.unfinished).map(|(queue, _)| queue)
    }

    /// Whether the driver wants to be notified of chains given back since the last call (section 2.7.7.2).
    pub(super) fn take_notification(&mut self) -> Result<bool, DeviceError> {
        let mut wanted = false;
        let each = self.queues.iter_mut().zip(&mut self.progress).enumerate();
        for (queue, (ring, progress)) in each.filter(|(_, (_, progress))| progress.used) {
            progress.used = false;
            let held = hold(&self.memory, queue, &[(avail_ring(ring), Access::Read)])?;
            wanted |= if ring.event_idx_enabled() {
                ring.needs_notification(&*held).map_err(|error| ring_error(queue, &error))?
            } else {
                let flags: u16 = held
                    .load(GuestAddress(ring.avail_ring()), Ordering::SeqCst)
                    .map_err(|error| ring_error(queue, &virtio_queue::Error::GuestMemory(error)))?;
                u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0
            };
        }
        Ok(wanted)
    }
}

/// The parts of a ring with their lengths of section 2.7; computed from the queue's size, which is at most 32768.
pub(super) fn desc_table(ring: &Queue) -> GuestRange {
    GuestRange { start: GuestAddress(ring.desc_table()), len: u64::from(DESCRIPTOR_BYTES) * u64::from(ring.size()) }
}

pub(super) fn avail_ring(ring: &Queue) -> GuestRange {
    GuestRange { start: GuestAddress(ring.avail_ring()), len: 6 + 2 * u64::from(ring.size()) }
}

pub(super) fn used_ring(ring: &Queue) -> GuestRange {
    GuestRange { start: GuestAddress(ring.used_ring()), len: 6 + 8 * u64::from(ring.size()) }
}

/// Takes the next chain from the available ring, as far as its descriptors are in the queue's own table.
fn next(
    memory: &DeviceMemory,
    queue: usize,
    ring: &mut Queue,
    indirect_allowed: bool,
) -> Result<Option<Walk>, DeviceError> {
    let table = Table { start: GuestAddress(ring.desc_table()), entries: ring.size(), indirect_allowed };
    let held = hold(memory, queue, &[(avail_ring(ring), Access::Read), (table.range(), Access::Read)])?;
    let mut heads = ring.iter(&*held).map_err(|error| ring_error(queue, &error))?;
    let Some(head) = heads.next().map(|chain| chain.head_index()) else { return Ok(None) };
    Chain::walk(&held, queue, table, head).map(Some)
}

/// Asks the driver to notify when it adds a chain; true when it has added one meanwhile.
fn rearm(memory: &DeviceMemory, queue: usize, ring: &mut Queue) -> Result<bool, DeviceError> {
    let held = hold(memory, queue, &[(avail_ring(ring), Access::Read), (used_ring(ring), Access::Write)])?;
    ring.enable_notification(&*held).map_err(|error| ring_error(queue, &error))
}

fn hold<'a>(memory: &'a DeviceMemory, queue: usize, ranges: &[(GuestRange, Access)]) -> Result<Held<'a>, DeviceError> {
    memory.hold(ranges).map_err(|error| DeviceError::Ring { queue, what: error.to_string() })
}

fn ring_error(queue: usize, error: &virtio_queue::Error) -> DeviceError {
    DeviceError::Ring { queue, what: error.to_string() }
}
