//! A machine at work.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvm_ioctls::VmFd;
use serde::Serialize;

use super::controller::{self, Controller, Pausing};
use super::ranks::{Greeter, RankStats, Ranks};
use crate::apic::IoApic;
use crate::clock::GuestClock;
use crate::cluster::{ClusterEvent, VcpuFailure};
use crate::legacy::PowerEvent;
use crate::memory::{DeviceMemory, GuestRam, RelaxedMemory};
use crate::topology::{Topology, VcpuId};
use crate::vcpu::{End, Io, Platform, VcpuHandle, VcpuStatsSnapshot};

/// What happens to a running machine.
#[derive(Debug)]
pub(super) enum Event {
    Power(PowerEvent),
    Vcpu(VcpuId, End),
    Cluster(ClusterEvent),
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
    /// Another rank is lost, gives up or breaks the rules; without it there is no machine.
    RankLost {
        /// Which one.
        rank: u16,
        /// Why, in words.
        reason: String,
    },
    /// On ranks other than 0: rank 0 has ended the machine.
    Ended {
        /// The status it gave.
        status: i32,
    },
    /// On a rank that leaves: it has left, and the machine goes on without it.
    Left,
    /// On a rank that has joined: rank 0 has dropped it, and the machine goes on without it. It had nothing of the machine.
    Dropped,
    /// A [`Stopper`] was used.
    Stopped,
}

/// What a machine has done.
#[derive(Clone, Debug, Serialize)]
pub struct MachineStats {
    /// Counters of each vCPU that is on this rank or was, in order.
    pub vcpus: Vec<NumberedVcpu>,
    /// What this rank has told the others, if there are any.
    pub ranks: Option<RankStats>,
}

/// What a vCPU has done on a rank.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct NumberedVcpu {
    /// Its number in the machine.
    pub vcpu: u32,
    /// Its counters.
    #[serde(flatten)]
    pub counters: VcpuStatsSnapshot,
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

/// What a machine at work consists of, in the order in which it is dropped: dealings with other ranks, devices, then
/// KVM's machine, then the memory that all use.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) topology: Topology,
    pub(super) handles: Vec<VcpuHandle>,
    pub(super) ranks: Option<Ranks>,
    pub(super) platform: Arc<Platform>,
    pub(super) clock: GuestClock,
    #[expect(dead_code, reason = "kept until the devices are gone")]
    pub(super) vm: VmFd,
    pub(super) ram: GuestRam,
    #[expect(dead_code, reason = "kept until KVM's machine is gone")]
    pub(super) relaxed: Option<RelaxedMemory>,
}

/// A machine at work. Dropping it stops it and waits for its threads.
#[derive(Debug)]
pub struct Running {
    parts: Parts,
    threads: Vec<JoinHandle<()>>,
    events: Receiver<Event>,
    sender: Sender<Event>,
    started: Instant,
    pausing: Arc<Pausing>,
}

impl Running {
    pub(super) fn new(parts: Parts, events: Receiver<Event>, sender: Sender<Event>) -> Self {
        Self { parts, threads: Vec::new(), events, sender, started: Instant::now(), pausing: Arc::default() }
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
            Ok(Event::Cluster(ClusterEvent::VcpuFailed(vcpu, VcpuFailure::TripleFault))) => {
                Some(StopReason::TripleFault { vcpu })
            }
            Ok(Event::Cluster(ClusterEvent::VcpuFailed(vcpu, VcpuFailure::Host(message)))) => {
                Some(StopReason::Failed { vcpu, message })
            }
            Ok(Event::Cluster(ClusterEvent::Lost(rank, reason))) => Some(StopReason::RankLost { rank: rank.0, reason }),
            Ok(Event::Cluster(ClusterEvent::Ended(status))) => Some(StopReason::Ended { status }),
            Ok(Event::Cluster(ClusterEvent::Left)) => Some(StopReason::Left),
            Ok(Event::Cluster(ClusterEvent::Dropped)) => Some(StopReason::Dropped),
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

    /// What orders the whole machine about from anywhere. Nothing on ranks other than 0.
    #[must_use]
    pub fn controller(&self) -> Option<Controller> {
        let Parts { topology, handles, ranks, platform, .. } = &self.parts;
        let ranks = ranks.as_ref().map(|ranks| (ranks.notes(), ranks.counted()));
        let is_first = matches!(platform.io, Io::Here(_));
        is_first.then(|| Controller::new(*topology, handles.clone(), ranks, Arc::clone(&self.pausing), self.stopper()))
    }

    /// On a rank that joins: tells rank 0 that it has set itself up, and takes part as soon as rank 0 says so.
    pub fn ready(&self) {
        if let Some(ranks) = self.ranks() {
            ranks.ready();
        }
    }

    /// On another rank than 0: asks rank 0 to let it leave. [`Self::is_leaving`] or [`Self::take_refusal`] says whether it does,
    /// [`StopReason::Left`] when it has. Asking twice is the same as once.
    pub fn leave(&self) {
        if let Some(ranks) = self.ranks() {
            ranks.leave();
        }
    }

    /// Whether this rank leaves, by its own wish or by order.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.ranks().is_some_and(Ranks::is_leaving)
    }

    /// Why this rank stays though it asked to leave; each reason once.
    #[must_use]
    pub fn take_refusal(&self) -> Option<String> {
        self.ranks().and_then(Ranks::take_refusal)
    }

    /// What a rank that leaves still has: the vCPUs that are here, and how many pages: those that it is the home of, and once it is that of
    /// none, also those of other ranks.
    #[must_use]
    pub fn remains(&self) -> (Vec<u32>, u32) {
        let here = self.parts.handles.iter().filter(|handle| handle.is_here()).map(|handle| handle.id().0).collect();
        (here, self.ranks().map_or(0, Ranks::pages_left))
    }

    /// What tells rank 0 that this rank is connected with one that joins; nothing where there are no other ranks.
    #[must_use]
    pub fn greeter(&self) -> Option<Greeter> {
        self.ranks().map(Ranks::greeter)
    }

    /// On rank 0 of several: tells the others that the machine has ended with this status, and waits a little until all
    /// know. Says whether they do; otherwise a rank takes this one for lost. Elsewhere nobody has to be told.
    pub fn end_cluster(&self, status: i32) -> bool {
        self.parts.ranks.as_ref().is_none_or(|ranks| ranks.end(status))
    }

    /// On ranks other than 0: what to tell rank 0 when it gathers statistics. Called by a thread that answers other
    /// ranks' signs of life: it must not wait.
    pub fn set_statistics(&self, source: Box<dyn Fn() -> Vec<u8> + Send>) {
        if let Some(ranks) = &self.parts.ranks {
            ranks.set_statistics(source);
        }
    }

    pub(super) fn ranks(&self) -> Option<&Ranks> {
        self.parts.ranks.as_ref()
    }

    /// All vCPUs of the machine in order, of which some are on this rank ([`VcpuHandle::is_here`]).
    #[must_use]
    pub fn vcpus(&self) -> &[VcpuHandle] {
        &self.parts.handles
    }

    /// Its IOAPIC, whose state belongs to the machine's as the local APICs' belong to the vCPUs'. Ranks other than 0
    /// have none.
    #[must_use]
    pub fn io_apic(&self) -> Option<&IoApic> {
        match &self.parts.platform.io {
            Io::Here(devices) => Some(&devices.io_apic),
            Io::There(_) => None,
        }
    }

    /// Its clock, to which the times in the vCPUs' states refer.
    #[must_use]
    pub fn clock(&self) -> GuestClock {
        self.parts.clock
    }

    /// Its memory, as devices see it.
    #[must_use]
    pub fn memory(&self) -> DeviceMemory {
        self.parts.ranks.as_ref().map_or_else(|| self.parts.ram.device_memory(), Ranks::device_memory)
    }

    /// When its vCPUs were started: the kernel's entry.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> MachineStats {
        let counted = self.parts.ranks.as_ref().map(Ranks::counted);
        controller::stats(&self.parts.handles, counted.as_ref())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.parts.handles.iter().for_each(VcpuHandle::stop);
        if let Some(ranks) = &mut self.parts.ranks {
            ranks.stop_waiting();
        }
        for thread in self.threads.drain(..) {
            // A panic of a thread has ended the process already.
            let _ = thread.join();
        }
    }
}
