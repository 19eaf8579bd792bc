//! A machine at work.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvm_ioctls::VmFd;
use serde::Serialize;

use crate::apic::IoApic;
use crate::legacy::PowerEvent;
use crate::memory::{DeviceMemory, GuestRam};
use crate::topology::VcpuId;
use crate::vcpu::{End, VcpuHandle, VcpuStatsSnapshot};
use crate::virtio::MmioTransport;

/// What happens to a running machine.
#[derive(Debug)]
pub(super) enum Event {
    Power(PowerEvent),
    Vcpu(VcpuId, End),
    Stop,
}

/// Why a machine stopped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StopReason {
    /// The guest powered it off.
    PowerOff,
    /// The guest reset it.
    Reset,
    /// A vCPU shut down: the guest faulted while handling a double fault.
    TripleFault {
        /// Which one.
        vcpu: u32,
    },
    /// A vCPU cannot go on, through a fault of KVM or the host.
    Failed {
        /// Which one.
        vcpu: u32,
        /// What happened.
        message: String,
    },
    /// A [`Stopper`] was used.
    Stopped,
}

/// What a machine has done.
#[derive(Clone, Debug, Serialize)]
pub struct MachineStats {
    /// Counters of each vCPU, in order.
    pub vcpus: Vec<VcpuStatsSnapshot>,
}

/// Stops a running machine from anywhere.
#[derive(Clone, Debug)]
pub struct Stopper(Sender<Event>);

impl Stopper {
    /// Makes [`Running::wait`] return [`StopReason::Stopped`].
    pub fn stop(&self) {
        // A machine that is gone is stopped.
        let _ = self.0.send(Event::Stop);
    }
}

/// A machine at work. Dropping it stops it and waits for its threads.
#[derive(Debug)]
pub struct Running {
    handles: Vec<VcpuHandle>,
    threads: Vec<JoinHandle<()>>,
    events: Receiver<Event>,
    sender: Sender<Event>,
    started: Instant,
    io_apic: Arc<IoApic>,
    // Dropped in this order, after the threads have ended: devices, then KVM's machine, then the memory both use.
    _transports: Vec<Arc<MmioTransport>>,
    _vm: VmFd,
    ram: GuestRam,
}

impl Running {
    pub(super) fn new(
        handles: Vec<VcpuHandle>,
        events: Receiver<Event>,
        sender: Sender<Event>,
        io_apic: Arc<IoApic>,
        transports: Vec<Arc<MmioTransport>>,
        ram: GuestRam,
        vm: VmFd,
    ) -> Self {
        let started = Instant::now();
        Self { handles, threads: Vec::new(), events, sender, started, io_apic, _transports: transports, _vm: vm, ram }
    }

    pub(super) fn add_thread(&mut self, thread: JoinHandle<()>) {
        self.threads.push(thread);
    }

    /// Waits until the machine stops, or for `limit`; then nothing is returned and it runs on.
    #[must_use]
    pub fn wait(&self, limit: Option<Duration>) -> Option<StopReason> {
        let event = match limit {
            None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(limit) => self.events.recv_timeout(limit),
        };
        match event {
            Ok(Event::Power(PowerEvent::Off)) => Some(StopReason::PowerOff),
            Ok(Event::Power(PowerEvent::Reset)) => Some(StopReason::Reset),
            Ok(Event::Vcpu(vcpu, End::TripleFault)) => Some(StopReason::TripleFault { vcpu: vcpu.0 }),
            Ok(Event::Vcpu(vcpu, End::Failed(message))) => Some(StopReason::Failed { vcpu: vcpu.0, message }),
            Ok(Event::Vcpu(_, End::Stopped) | Event::Stop) => Some(StopReason::Stopped),
            // This end holds a sender, so the channel cannot be disconnected.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Something that stops it from anywhere.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(self.sender.clone())
    }

    /// Its vCPUs, in order.
    #[must_use]
    pub fn vcpus(&self) -> &[VcpuHandle] {
        &self.handles
    }

    /// Its IOAPIC, whose state belongs to the machine's as the local APICs' belong to the vCPUs'.
    #[must_use]
    pub fn io_apic(&self) -> &IoApic {
        &self.io_apic
    }

    /// Its memory, as devices see it.
    #[must_use]
    pub fn memory(&self) -> DeviceMemory {
        self.ram.device_memory()
    }

    /// When its vCPUs were started: the kernel's entry.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> MachineStats {
        MachineStats { vcpus: self.handles.iter().map(|handle| handle.stats().snapshot()).collect() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handles.iter().for_each(VcpuHandle::stop);
        for thread in self.threads.drain(..) {
            // A panic of a thread has ended the process already.
            let _ = thread.join();
        }
    }
}
