//! Device accesses of vCPUs on ranks other than 0: they go there, and the vCPU's thread waits for the answer.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vincs_coherence::id::Rank;

use super::link::ControlLink;
use super::message::{Access, Control, MAX_ACCESS, Place};
use crate::layout::{MAX_VIRTIO_DEVICES, VIRTIO_START};
use crate::topology::VcpuId;
use crate::virtio::{MMIO_SIZE, NOTIFY_OFFSET};

/// The rank with the devices.
pub(crate) const DEVICE_RANK: Rank = Rank(0);

/// The machine ends: there will be no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Closed;

/// An answer nobody waits for, or of another length.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an answer of {len} bytes to vCPU {vcpu}, which does not wait for it")]
pub(crate) struct NotAsked {
    vcpu: u32,
    len: usize,
}

/// What a vCPU waits for. It has one access under way at most.
#[derive(Debug)]
enum Waiting {
    Nothing,
    /// An answer of so many bytes.
    Answer(usize),
    Answered(Vec<u8>),
    Closed,
}

#[derive(Debug)]
struct Slot {
    vcpu: VcpuId,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

/// The device accesses of this rank's vCPUs.
#[derive(Debug)]
pub(crate) struct Forwarder {
    link: Arc<ControlLink>,
    slots: Vec<Slot>,
}

impl Forwarder {
    /// For these vCPUs.
    pub(crate) fn new(link: Arc<ControlLink>, vcpus: impl IntoIterator<Item = VcpuId>) -> Self {
        let slot = |vcpu| Slot { vcpu, waiting: Mutex::new(Waiting::Nothing), changed: Condvar::new() };
        Self { link, slots: vcpus.into_iter().map(slot).collect() }
    }

    /// The link it uses.
    pub(crate) fn link(&self) -> Arc<ControlLink> {
        Arc::clone(&self.link)
    }

    /// Reads from a device; addresses without one read as all ones.
    pub(crate) fn read(&self, vcpu: VcpuId, place: Place, data: &mut [u8]) -> Result<(), Closed> {
        data.fill(0xff);
        for part in data.chunks_mut(MAX_ACCESS) {
            let Ok(len) = u16::try_from(part.len()) else { continue };
            let answer = self.ask(vcpu, Access::Read(place, len), part.len(), &[])?;
            part.iter_mut().zip(answer).for_each(|(to, from)| *to = from);
        }
        Ok(())
    }

    /// Writes to a device; says whether the write was sent on its way without an answer to wait for.
    pub(crate) fn write(&self, vcpu: VcpuId, place: Place, data: &[u8]) -> Result<bool, Closed> {
        if let (Place::Memory(address), Ok(queue)) = (place, <[u8; 4]>::try_from(data))
            && is_notification(address)
        {
            self.link.send(DEVICE_RANK, &Control::Notify { address, queue: u32::from_le_bytes(queue) }, &[]);
            return Ok(true);
        }
        for part in data.chunks(MAX_ACCESS) {
            self.ask(vcpu, Access::Write(place), 0, part)?;
        }
        Ok(false)
    }

    /// A level-triggered interrupt has ended.
    pub(crate) fn end_of_interrupt(&self, vector: u8) {
        self.link.send(DEVICE_RANK, &Control::EndOfInterrupt { vector }, &[]);
    }

    /// An answer has come.
    pub(crate) fn answer(&self, vcpu: u32, body: Vec<u8>) -> Result<(), NotAsked> {
        let not_asked = NotAsked { vcpu, len: body.len() };
        let slot = self.slots.iter().find(|slot| slot.vcpu.0 == vcpu).ok_or(not_asked)?;
        let mut waiting = slot.lock();
        match *waiting {
            Waiting::Answer(len) if len == body.len() => *waiting = Waiting::Answered(body),
            Waiting::Closed => {}
            Waiting::Nothing | Waiting::Answer(_) | Waiting::Answered(_) => return Err(not_asked),
        }
        slot.changed.notify_one();
        Ok(())
    }

    /// Nobody waits any more.
    pub(crate) fn close(&self) {
        for slot in &self.slots {
            *slot.lock() = Waiting::Closed;
            slot.changed.notify_one();
        }
    }

    fn ask(&self, vcpu: VcpuId, access: Access, len: usize, body: &[u8]) -> Result<Vec<u8>, Closed> {
        let slot = self.slots.iter().find(|slot| slot.vcpu == vcpu).ok_or(Closed)?;
        {
            let mut waiting = slot.lock();
            if matches!(*waiting, Waiting::Closed) {
                return Err(Closed);
            }
            *waiting = Waiting::Answer(len);
        }
        self.link.send(DEVICE_RANK, &Control::Access { vcpu: vcpu.0, access }, body);
        let mut waiting = slot.lock();
        loop {
            match std::mem::replace(&mut *waiting, Waiting::Nothing) {
                Waiting::Answered(bytes) => return Ok(bytes),
                Waiting::Closed => {
                    *waiting = Waiting::Closed;
                    return Err(Closed);
                }
                other @ (Waiting::Answer(_) | Waiting::Nothing) => *waiting = other,
            }
            waiting = slot.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an address is where drivers notify a virtio device's queue.
fn is_notification(address: u64) -> bool {
    let end = VIRTIO_START + MAX_VIRTIO_DEVICES as u64 * MMIO_SIZE;
    (VIRTIO_START..end).contains(&address) && (address - VIRTIO_START) % MMIO_SIZE == NOTIFY_OFFSET
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::super::testing::{End, Hub, heard};
    use super::*;

    fn forwarder() -> (Arc<Forwarder>, Arc<End>) {
        let mut ends = Hub::ends(2).into_iter();
        let (first, own) = (ends.next().unwrap(), ends.next().unwrap());
        let link = Arc::new(ControlLink::new(Rank(1), 2, own));
        (Arc::new(Forwarder::new(link, [VcpuId(2), VcpuId(3)])), first)
    }

    fn wait_for(end: &End) -> Vec<(Rank, Control)> {
        loop {
            let messages = heard(end);
            if !messages.is_empty() {
                return messages;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_read_waits_for_its_answer_and_only_for_it() {
        let (forwarder, first) = forwarder();
        let reader = Arc::clone(&forwarder);
        let read = thread::spawn(move || {
            let mut data = [0; 2];
            reader.read(VcpuId(3), Place::Port(0x70), &mut data).map(|()| data)
        });
        let access = Access::Read(Place::Port(0x70), 2);
        assert_eq!(wait_for(&first), [(Rank(1), Control::Access { vcpu: 3, access })]);
        for (vcpu, len) in [(2, 2), (4, 2), (3, 1), (3, 3)] {
            assert_eq!(forwarder.answer(vcpu, vec![0; len]), Err(NotAsked { vcpu, len }));
        }
        forwarder.answer(3, vec![5, 6]).unwrap();
        assert_eq!(read.join().unwrap(), Ok([5, 6]));
        assert!(forwarder.answer(3, vec![5, 6]).is_err(), "answered once");
    }

    #[test]
    fn notifications_of_queues_are_not_waited_for() {
        let (forwarder, first) = forwarder();
        let last = VIRTIO_START + (MAX_VIRTIO_DEVICES as u64 - 1) * MMIO_SIZE + NOTIFY_OFFSET;
        for address in [VIRTIO_START + NOTIFY_OFFSET, last] {
            assert_eq!(forwarder.write(VcpuId(2), Place::Memory(address), &[1, 0, 0, 0]), Ok(true));
            assert_eq!(heard(&first), [(Rank(1), Control::Notify { address, queue: 1 })]);
        }
        assert!(!is_notification(last + MMIO_SIZE) && !is_notification(last + 4));
        assert!(!is_notification(NOTIFY_OFFSET));
    }

    #[test]
    fn closing_wakes_who_waits_and_keeps_others_from_waiting() {
        let (forwarder, first) = forwarder();
        let writer = Arc::clone(&forwarder);
        let write = thread::spawn(move || writer.write(VcpuId(2), Place::Memory(5), &[0; 8]));
        wait_for(&first);
        forwarder.close();
        assert_eq!(write.join().unwrap(), Err(Closed));
        assert_eq!(forwarder.read(VcpuId(2), Place::Port(1), &mut [0]), Err(Closed));
        assert_eq!(forwarder.answer(2, Vec::new()), Ok(()), "an answer that crossed the end");
    }
}
