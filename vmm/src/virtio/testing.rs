//! The driver's side of a device in tests: finds it, sets it up and uses it through its registers as Linux does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{MmioTransport, VirtioDevice};
use crate::interrupt::InterruptLine;
use crate::memory::GuestRam;

/// How long a test waits for a device before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// First byte after guest RAM, which begins at 0.
pub(crate) const END_OF_RAM: u64 = 0x80_0000;
/// Entries of each queue that the driver sets up, where the device allows as many.
pub(crate) const ENTRIES: u16 = 16;
/// Room of each descriptor's buffer, in bytes.
pub(crate) const SLOT: u64 = 0x2000;

pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
pub(crate) const INDIRECT_DESC: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

const RINGS: u64 = 0x1_0000;
const RING_STRIDE: u64 = 0x1000;
const AVAIL_OFFSET: u64 = 0x400;
const USED_OFFSET: u64 = 0x800;
const BUFFERS: u64 = 0x10_0000;

/// An interrupt line that counts its edges.
#[derive(Debug, Default)]
pub(crate) struct Line {
    pulses: Mutex<u64>,
    raised: Condvar,
}

impl InterruptLine for Line {
    fn pulse(&self) {
        *self.pulses.lock().unwrap() += 1;
        self.raised.notify_all();
    }
}

impl Line {
    pub(crate) fn pulses(&self) -> u64 {
        *self.pulses.lock().unwrap()
    }

    /// Waits until there were more pulses than `seen`.
    fn wait_beyond(&self, seen: u64) {
        let pulses = self.pulses.lock().unwrap();
        let (_pulses, waited) = self.raised.wait_timeout_while(pulses, PATIENCE, |pulses| *pulses <= seen).unwrap();
        assert!(!waited.timed_out(), "no interrupt within {PATIENCE:?}");
    }
}

/// A chain that the device has given back.
#[derive(Debug)]
pub(crate) struct Used {
    pub(crate) head: u16,
    /// What the device says it wrote.
    pub(crate) bytes: Vec<u8>,
    /// All of the writable buffers as they are now.
    pub(crate) room: Vec<u8>,
}

/// A chain that is with the device.
#[derive(Debug, Default)]
struct Out {
    descriptors: Vec<u16>,
    /// Address and length of its writable buffers.
    writable: Vec<(u64, u32)>,
}

#[derive(Debug)]
struct DriverQueue {
    entries: u16,
    free: VecDeque<u16>,
    /// By the index of their first descriptor.
    out: BTreeMap<u16, Out>,
    avail_idx: u16,
    used_idx: u16,
}

/// A driver and its device.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) ram: GuestRam,
    pub(crate) line: Arc<Line>,
    pub(crate) transport: MmioTransport,
    queues: Vec<DriverQueue>,
    /// A configuration interrupt was acknowledged.
    config_changed: bool,
}

impl Driver {
    /// A machine with this device; the driver has not touched it.
    pub(crate) fn new(device: impl VirtioDevice + 'static) -> Self {
        let ram = GuestRam::new(&[(GuestAddress(0), usize::try_from(END_OF_RAM).unwrap())]).unwrap();
        let line = Arc::new(Line::default());
        let interrupt: Arc<dyn InterruptLine> = line.clone();
        let transport = MmioTransport::new(Box::new(device), ram.device_memory(), interrupt).unwrap();
        Self { ram, line, transport, queues: Vec::new(), config_changed: false }
    }

    /// A device that its driver has set up with all features.
    pub(crate) fn ready(device: impl VirtioDevice + 'static) -> Self {
        let mut driver = Self::new(device);
        driver.probe(u64::MAX);
        driver
    }

    pub(crate) fn memory(&self) -> &GuestMemoryMmap {
        self.ram.alias_mapping()
    }

    pub(crate) fn get(&self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn set(&self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
    }

    pub(crate) fn offered(&self) -> u64 {
        let half = |select| {
            self.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, select);
            u64::from(self.get(VIRTIO_MMIO_DEVICE_FEATURES))
        };
        half(1) << 32 | half(0)
    }

    pub(crate) fn accept(&self, features: u64) {
        for (select, shift) in [(0, 0), (1, 32)] {
            self.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            self.set(VIRTIO_MMIO_DRIVER_FEATURES, u32::try_from(features >> shift & u64::from(u32::MAX)).unwrap());
        }
    }

    /// Reset, negotiation of the offered features among `wanted`, queues, DRIVER_OK.
    pub(crate) fn probe(&mut self, wanted: u64) {
        self.probe_until_driver_ok(wanted);
        self.set(VIRTIO_MMIO_STATUS, 15);
        assert_eq!(self.get(VIRTIO_MMIO_STATUS) & !64, 15);
    }

    pub(crate) fn probe_until_driver_ok(&mut self, wanted: u64) {
        assert_eq!(self.get(VIRTIO_MMIO_MAGIC_VALUE), u32::from_le_bytes(*b"virt"));
        assert_eq!(self.get(VIRTIO_MMIO_VERSION), 2);
        self.reset();
        self.set(VIRTIO_MMIO_STATUS, 1);
        self.set(VIRTIO_MMIO_STATUS, 3);
        let features = self.offered() & wanted;
        self.accept(features);
        self.set(VIRTIO_MMIO_STATUS, 11);
        assert_eq!(self.get(VIRTIO_MMIO_STATUS), 11, "features {features:#x} refused");
        self.queues.clear();
        for queue in 0.. {
            self.set(VIRTIO_MMIO_QUEUE_SEL, queue);
            let Some(entries) = Some(self.get(VIRTIO_MMIO_QUEUE_NUM_MAX)).filter(|max| *max > 0) else { break };
            self.set_up_queue(queue, u16::try_from(entries).unwrap().min(ENTRIES));
            assert_eq!(self.get(VIRTIO_MMIO_QUEUE_READY), 1);
        }
    }

    pub(crate) fn reset(&self) {
        self.set(VIRTIO_MMIO_STATUS, 0);
        assert_eq!(self.get(VIRTIO_MMIO_STATUS), 0);
    }

    fn set_up_queue(&mut self, queue: u32, entries: u16) {
        let [desc, avail, used] = Self::ring(queue as usize);
        self.memory().write_slice(&[0; 0x1000], GuestAddress(desc)).unwrap();
        assert_eq!(self.get(VIRTIO_MMIO_QUEUE_READY), 0);
        self.set(VIRTIO_MMIO_QUEUE_NUM, entries.into());
        self.set_address(VIRTIO_MMIO_QUEUE_DESC_LOW, desc);
        self.set_address(VIRTIO_MMIO_QUEUE_AVAIL_LOW, avail);
        self.set_address(VIRTIO_MMIO_QUEUE_USED_LOW, used);
        self.set(VIRTIO_MMIO_QUEUE_READY, 1);
        let free = (0..entries).collect();
        self.queues.push(DriverQueue { entries, free, out: BTreeMap::new(), avail_idx: 0, used_idx: 0 });
    }

    pub(crate) fn set_address(&self, low: u32, address: u64) {
        self.set(low, u32::try_from(address & u64::from(u32::MAX)).unwrap());
        self.set(low + 4, u32::try_from(address >> 32).unwrap());
    }

    /// Addresses of the descriptor table, available ring and used ring of a queue.
    pub(crate) fn ring(queue: usize) -> [u64; 3] {
        let desc = RINGS + queue as u64 * RING_STRIDE;
        [desc, desc + AVAIL_OFFSET, desc + USED_OFFSET]
    }

    /// Address of a descriptor's own buffer of [`SLOT`] bytes.
    pub(crate) fn slot(queue: usize, index: u16) -> u64 {
        BUFFERS + (queue as u64 * u64::from(ENTRIES) + u64::from(index)) * SLOT
    }

    /// Descriptors that are not with the device.
    pub(crate) fn room(&self, queue: usize) -> usize {
        self.queues[queue].free.len()
    }

    /// Makes a chain of these readable buffers and writable lengths available.
    pub(crate) fn add(&mut self, queue: usize, readable: &[&[u8]], writable: &[u32]) -> u16 {
        let count = readable.len() + writable.len();
        assert!(self.queues[queue].free.len() >= count, "the test has no descriptors left");
        let indices: Vec<u16> = self.queues[queue].free.drain(..count).collect();
        let mut writes = Vec::new();
        for (n, &index) in indices.iter().enumerate() {
            let next = indices.get(n + 1);
            let address = Self::slot(queue, index);
            let (len, mut flags) = match readable.get(n) {
                Some(bytes) => {
                    assert!(bytes.len() as u64 <= SLOT);
                    self.memory().write_slice(bytes, GuestAddress(address)).unwrap();
                    (u32::try_from(bytes.len()).unwrap(), 0)
                }
                None => {
                    let len = writable[n - readable.len()];
                    assert!(u64::from(len) <= SLOT);
                    writes.push((address, len));
                    (len, WRITE)
                }
            };
            flags |= if next.is_some() { NEXT } else { 0 };
            self.write_descriptor(queue, index, (address, len, flags, next.copied().unwrap_or(0)));
        }
        self.queues[queue].out.insert(indices[0], Out { descriptors: indices.clone(), writable: writes });
        self.publish(queue, indices[0]);
        indices[0]
    }

    /// Writes one descriptor as it is: address, length, flags, next.
    pub(crate) fn write_descriptor(&self, queue: usize, index: u16, (addr, len, flags, next): (u64, u32, u16, u16)) {
        let at = Self::ring(queue)[0] + u64::from(index) * 16;
        self.memory().write_obj(Descriptor::new(addr, len, flags, next), GuestAddress(at)).unwrap();
    }

    /// Has a buffer of a chain be elsewhere than where [`Self::add`] has put it.
    pub(crate) fn move_buffer(&self, queue: usize, head: u16, buffer: usize, address: u64) {
        let index = self.queues[queue].out[&head].descriptors[buffer];
        let at = Self::ring(queue)[0] + u64::from(index) * 16;
        self.memory().write_obj(address.to_le(), GuestAddress(at)).unwrap();
    }

    /// Makes the chain that begins at this descriptor available.
    pub(crate) fn publish(&mut self, queue: usize, head: u16) {
        let ring = &mut self.queues[queue];
        let avail = Self::ring(queue)[1];
        let entry = avail + 4 + u64::from(ring.avail_idx % ring.entries) * 2;
        ring.avail_idx = ring.avail_idx.wrapping_add(1);
        let idx = ring.avail_idx;
        self.memory().write_obj(head, GuestAddress(entry)).unwrap();
        self.memory().store(idx, GuestAddress(avail + 2), Ordering::SeqCst).unwrap();
    }

    /// Notifies the device, always.
    pub(crate) fn kick(&self, queue: usize) {
        self.set(VIRTIO_MMIO_QUEUE_NOTIFY, u32::try_from(queue).unwrap());
    }

    /// Whether the device asks to be notified of the chain added last (EVENT_IDX).
    pub(crate) fn kick_wanted(&self, queue: usize) -> bool {
        let ring = &self.queues[queue];
        let event = Self::ring(queue)[2] + 4 + u64::from(ring.entries) * 8;
        let event: u16 = self.memory().load(GuestAddress(event), Ordering::SeqCst).unwrap();
        event == ring.avail_idx.wrapping_sub(1)
    }

    /// The next chain the device has given back, if there is one now.
    pub(crate) fn used(&mut self, queue: usize) -> Option<Used> {
        let [_, avail, used] = Self::ring(queue);
        let published: u16 = self.memory().load(GuestAddress(used + 2), Ordering::SeqCst).unwrap();
        let ring = &self.queues[queue];
        if published == ring.used_idx {
            return None;
        }
        let entry = used + 4 + u64::from(ring.used_idx % ring.entries) * 8;
        let [head, len]: [u32; 2] = self.memory().read_obj(GuestAddress(entry)).unwrap();
        let used_event = avail + 4 + u64::from(ring.entries) * 2;
        let (next, head) = (ring.used_idx.wrapping_add(1), u16::try_from(head).unwrap());
        self.memory().store(next, GuestAddress(used_event), Ordering::SeqCst).unwrap();
        let ring = &mut self.queues[queue];
        ring.used_idx = next;
        let out = ring.out.remove(&head).unwrap_or_default();
        ring.free.extend(out.descriptors);
        let mut room = Vec::new();
        for (address, len) in out.writable {
            let mut part = vec![0; len as usize];
            self.memory().read_slice(&mut part, GuestAddress(address)).unwrap();
            room.extend(part);
        }
        let bytes = room[..room.len().min(len as usize)].to_vec();
        Some(Used { head, bytes, room })
    }

    /// Waits for the next chain the device gives back, by its interrupts alone.
    pub(crate) fn wait_used(&mut self, queue: usize) -> Used {
        loop {
            let seen = self.line.pulses();
            self.acknowledge();
            if let Some(used) = self.used(queue) {
                return used;
            }
            self.line.wait_beyond(seen);
        }
    }

    fn acknowledge(&mut self) {
        let status = self.get(VIRTIO_MMIO_INTERRUPT_STATUS);
        self.set(VIRTIO_MMIO_INTERRUPT_ACK, status);
        self.config_changed |= status & VIRTIO_MMIO_INT_CONFIG != 0;
    }

    /// Sends one request and waits for its answer.
    pub(crate) fn request(&mut self, queue: usize, readable: &[&[u8]], writable: &[u32]) -> Vec<u8> {
        let head = self.add(queue, readable, writable);
        self.kick(queue);
        let used = self.wait_used(queue);
        assert_eq!(used.head, head);
        used.bytes
    }

    /// Waits until the device says that it needs a reset, in its status and by an interrupt.
    pub(crate) fn wait_needs_reset(&mut self) {
        let start = Instant::now();
        while self.get(VIRTIO_MMIO_STATUS) & 64 == 0 || !self.config_changed {
            assert!(start.elapsed() < PATIENCE, "the device did not ask for a reset");
            std::thread::sleep(Duration::from_millis(1));
            self.acknowledge();
        }
        self.config_changed = false;
    }
}
