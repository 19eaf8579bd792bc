//! Rank 0 serves the device accesses of other ranks' vCPUs.
//!
//! Each rank has a thread of its own here: a device may make it wait, for memory or for a console that nobody reads,
//! and neither other ranks nor the thread that answers signs of life must wait with it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use vincs_coherence::id::Rank;

use super::link::ControlLink;
use super::message::{Access, Control, Place};
use crate::apic::IoApic;
use crate::bus::Bus;
use crate::virtio::{MmioTransport, NOTIFY_OFFSET};

/// The machine's devices, which are all on rank 0.
#[derive(Debug)]
pub(crate) struct Devices {
    /// What vCPUs reach by IN, OUT and memory accesses.
    pub(crate) bus: Bus,
    /// The IOAPIC, to which local APICs tell the end of level-triggered interrupts.
    pub(crate) io_apic: Arc<IoApic>,
    /// Virtio devices with the addresses of their registers.
    pub(crate) virtio: Vec<(u64, Arc<MmioTransport>)>,
}

impl Devices {
    /// A driver has notified a queue; what is no queue is ignored, as on a bus. Never waits.
    pub(crate) fn notify(&self, address: u64, queue: u32) {
        let device = self.virtio.iter().find(|(start, _)| start.checked_add(NOTIFY_OFFSET) == Some(address));
        let queues = device.map(|(_, transport)| transport.notify_fds()).unwrap_or_default();
        if let Some(fd) = usize::try_from(queue).ok().and_then(|queue| queues.get(queue)) {
            // A nonblocking eventfd refuses only when its counter is full, and then it is readable all the same.
            let _ = fd.write(1);
        }
    }

    fn serve(&self, access: Access, mut body: Vec<u8>) -> Vec<u8> {
        match access {
            Access::Read(place, len) => {
                body.clear();
                body.resize(len.into(), 0);
                match place {
                    Place::Port(port) => self.bus.pio_read(port, &mut body),
                    Place::Memory(address) => self.bus.mmio_read(address, &mut body),
                }
                body
            }
            Access::Write(place) => {
                match place {
                    Place::Port(port) => self.bus.pio_write(port, &body),
                    Place::Memory(address) => self.bus.mmio_write(address, &body),
                }
                Vec::new()
            }
        }
    }
}

/// An access to serve.
#[derive(Debug)]
struct Request {
    vcpu: u32,
    access: Access,
    body: Vec<u8>,
}

/// More accesses than the rank has vCPUs: each may have one under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("more device accesses under way than it has vCPUs")]
pub(crate) struct TooMany;

/// The server of one rank. Its thread ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server(SyncSender<Request>);

impl Server {
    /// Starts the server of `rank`, which has so many vCPUs.
    pub(crate) fn start(
        rank: Rank,
        vcpus: usize,
        devices: Arc<Devices>,
        link: Arc<ControlLink>,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let (sender, requests) = sync_channel::<Request>(vcpus);
        let serve = move || {
            for Request { vcpu, access, body } in requests {
                let answer = devices.serve(access, body);
                link.send(rank, &Control::Answer { vcpu }, &answer);
            }
        };
        let thread = thread::Builder::new().name(format!("io-rank{}", rank.0)).spawn(serve)?;
        Ok((Self(sender), thread))
    }

    /// Leaves an access to be served and answered. Never waits.
    pub(crate) fn take(&self, vcpu: u32, access: Access, body: Vec<u8>) -> Result<(), TooMany> {
        match self.0.try_send(Request { vcpu, access, body }) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(TooMany),
            // Its thread ends with this sender alone, or with the process.
            Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::super::testing::{Hub, heard};
    use super::*;
    use crate::apic::Router;
    use crate::bus::PioDevice;

    /// Answers with the port's number, once it may.
    #[derive(Debug, Default)]
    struct Gate(Mutex<bool>, Condvar);

    impl Gate {
        fn open(&self) {
            *self.0.lock().unwrap() = true;
            self.1.notify_all();
        }
    }

    impl PioDevice for Gate {
        fn read(&self, port: u16, data: &mut [u8]) {
            let _open = self.1.wait_while(self.0.lock().unwrap(), |open| !*open).unwrap();
            data.fill(port.to_le_bytes()[0]);
        }

        fn write(&self, _port: u16, _data: &[u8]) {}
    }

    #[test]
    fn accesses_are_answered_in_order_and_bounded() {
        let gate = Arc::new(Gate::default());
        let router = Arc::new(Router::new(Vec::new()));
        let mut bus = Bus::default();
        bus.add_pio(0x40, 2, Arc::clone(&gate) as _).unwrap();
        let devices = Devices { bus, io_apic: Arc::new(IoApic::new(router)), virtio: Vec::new() };
        let ends = Hub::ends(2);
        let link = Arc::new(ControlLink::new(Rank(0), 2, ends[0].clone()));
        let (server, thread) = Server::start(Rank(1), 2, Arc::new(devices), link).unwrap();
        let read = |port| Access::Read(Place::Port(port), 1);
        let mut taken = 0;
        while server.take(taken, read(0x40), Vec::new()).is_ok() {
            taken += 1;
            assert!(taken <= 3, "two wait while one is served");
        }
        assert!(taken >= 2);
        gate.open();
        drop(server);
        thread.join().unwrap();
        let answers: Vec<_> = heard(&ends[1]).into_iter().map(|(_, message)| message).collect();
        assert_eq!(answers, (0..taken).map(|vcpu| Control::Answer { vcpu }).collect::<Vec<_>>());
    }

    #[test]
    fn notifications_of_what_is_not_there_are_ignored() {
        let io_apic = Arc::new(IoApic::new(Arc::new(Router::new(Vec::new()))));
        let devices = Devices { bus: Bus::default(), io_apic, virtio: Vec::new() };
        devices.notify(u64::MAX, u32::MAX);
        devices.notify(0, 0);
        assert_eq!(devices.serve(Access::Read(Place::Memory(u64::MAX), 8), Vec::new()), [0xff; 8]);
        assert!(devices.serve(Access::Write(Place::Port(u16::MAX)), vec![1]).is_empty());
    }
}
