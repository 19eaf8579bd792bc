//! Puts a machine together from a run's parts: the only place that knows both the vmm's machine and the run.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::time::Duration;

use vincs_guest_protocol::{CONTROL_PORT, STDERR_PORT, STDIN_PORT, STDOUT_PORT, Share, ShareMode};
use vincs_vmm::boot::KernelImage;
use vincs_vmm::layout::MAX_VIRTIO_DEVICES;
use vincs_vmm::machine::{
    Controller, Equipment, Machine, MachineConfig, MachineError, Role, Running, StopReason, Stopper,
};
use vincs_vmm::topology::Topology;
use vincs_vmm::virtio::blk::{Blk, Disk};
use vincs_vmm::virtio::console::{Console, Port};
use vincs_vmm::virtio::p9::{self, P9, P9Error};
use vincs_vmm::virtio::{Rng, VirtioDevice};

use crate::cluster::Others;
use crate::run::console::{ConsoleOutput, SharedTail};
use crate::run::ending::Ending;
use crate::run::streams::Streams;
use crate::run::supervision::{Event, Stopped};
use crate::stats::{Counters, ranks};

/// How long a machine may take to stop; past that vincs ends without its counters. A virtual processor may be waiting
/// for a console that nobody reads.
const STOP_TIME: Duration = Duration::from_secs(3);

/// How long other ranks may take to tell what they have counted.
const GATHER_TIME: Duration = Duration::from_secs(2);

/// How long a machine of several ranks may take to stop: it gathers, tells all of the end and waits until they know.
const RANKS_STOP_TIME: Duration = Duration::from_secs(STOP_TIME.as_secs() + 2 * GATHER_TIME.as_secs());

/// Devices that every machine has besides disks and shares: entropy, and the console device of CMD's streams.
const OWN_DEVICES: usize = 2;

/// Most disks and shares, together.
pub(crate) const MAX_DISKS_AND_SHARES: usize = MAX_VIRTIO_DEVICES - OWN_DEVICES;

/// What a machine is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    /// KVM's device node.
    pub(crate) kvm: PathBuf,
    pub(crate) topology: Topology,
    /// Bytes of guest memory.
    pub(crate) memory: u64,
    /// Bytes of relaxed memory; 0 for none.
    pub(crate) relaxed: u64,
    pub(crate) kernel: KernelImage,
    /// Empty for none.
    pub(crate) initrd: Vec<u8>,
    pub(crate) cmdline: String,
    pub(crate) disks: Vec<Disk>,
    pub(crate) shares: Vec<P9>,
    pub(crate) ports: Option<Ports>,
    pub(crate) serial_output: ConsoleOutput,
    pub(crate) serial_input: Option<OwnedFd>,
    /// The other ranks, if there are any.
    pub(crate) others: Option<Others>,
}

/// The host's sides of the console device's ports.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) control: OwnedFd,
    /// CMD's, if there is one.
    pub(crate) streams: Option<Streams>,
}

/// Why a machine did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("the host has no descriptors or threads left: {0}")]
    Host(#[from] io::Error),
}

/// The file server for a share.
///
/// # Errors
/// [`P9Error`] when its directory cannot be served.
pub(crate) fn server(share: &Share) -> Result<P9, P9Error> {
    let mode = match share.mode {
        ShareMode::Overlay | ShareMode::ReadOnly => p9::ShareMode::ReadOnly,
        ShareMode::ReadWrite => p9::ShareMode::ReadWrite,
    };
    P9::new(&share.tag, Path::new(OsStr::from_bytes(&share.path)), mode)
}

/// Whether a directory can be served at all.
pub(crate) fn is_servable(dir: &Path) -> bool {
    P9::new("probe", dir, p9::ShareMode::ReadOnly).is_ok()
}

/// A machine that runs, owned by a thread that sends its stop as an event.
#[derive(Debug)]
pub(crate) struct Guest {
    stopper: Stopper,
    /// Takes the status that other ranks end with.
    end: Sender<u8>,
    stopped: Receiver<Counters>,
    has_ranks: bool,
    controller: Option<Controller>,
    has_spread: bool,
}

/// The devices in the order in which the guest sees them: disks become /dev/vda, /dev/vdb, ...
fn devices(disks: Vec<Disk>, shares: Vec<P9>, ports: Option<Ports>) -> io::Result<Vec<Box<dyn VirtioDevice>>> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = vec![Box::new(Rng::new("virtio-rng0"))];
    for (n, disk) in disks.into_iter().enumerate() {
        devices.push(Box::new(Blk::new(&format!("virtio-blk{n}"), disk)));
    }
    for share in shares {
        devices.push(Box::new(share));
    }
    if let Some(ports) = ports {
        devices.push(Box::new(Console::new("virtio-console0", console_ports(ports)?).with_ordered_port(CONTROL_INDEX)));
    }
    Ok(devices)
}

/// Place of the control port among the console's. It is ordered: the end of CMD must not overtake CMD's output.
const CONTROL_INDEX: usize = 0;

fn console_ports(ports: Ports) -> io::Result<Vec<Port>> {
    let Ports { control, streams } = ports;
    let mut ports = vec![Port { input: Some(control.try_clone()?), output: Some(control), ..Port::new(CONTROL_PORT) }];
    if let Some(Streams { stdin, stdout, stderr, losses }) = streams {
        ports.extend([
            Port { input: Some(stdin), ..Port::new(STDIN_PORT) },
            Port { output: Some(stdout), cut_off: losses.stdout, ..Port::new(STDOUT_PORT) },
            Port { output: Some(stderr), cut_off: losses.stderr, ..Port::new(STDERR_PORT) },
        ]);
    }
    Ok(ports)
}

impl Guest {
    /// Sets the machine up, calls `entering` and enters the kernel. The machine's stop by itself becomes an event.
    ///
    /// # Errors
    /// [`StartError`] when KVM or the host refuses something.
    pub(crate) fn start(
        parts: Parts,
        tail: SharedTail,
        events: SyncSender<Event>,
        entering: impl FnOnce(),
    ) -> Result<Self, StartError> {
        let equipment = Equipment {
            kernel: parts.kernel,
            initrd: parts.initrd,
            command_line: parts.cmdline,
            serial_output: Box::new(parts.serial_output),
            serial_input: parts.serial_input,
            devices: devices(parts.disks, parts.shares, parts.ports)?,
            ports: Vec::new(),
        };
        let (role, others) = match parts.others {
            None => (Role::Whole(equipment), None),
            Some(others) => (Role::First(equipment, others.cluster.clone()), Some(others)),
        };
        let (memory, relaxed) = (parts.memory, parts.relaxed);
        let config = MachineConfig { kvm: parts.kvm, topology: parts.topology, memory, relaxed, role };
        let machine = Machine::new(config)?;
        entering();
        let running = machine.start()?;
        let (stopper, controller) = (running.stopper(), running.controller());
        let has_ranks = others.is_some();
        let (end, ending) = channel();
        let (sender, stopped) = channel();
        let watch = move || {
            let reason = running.wait(None);
            let is_loss = matches!(reason, Some(StopReason::RankLost { .. }));
            if let Some(stopped) = reason.and_then(|reason| stop_event(reason, &tail, others.as_ref())) {
                // Nobody to tell, here and below, means that vincs is ending.
                let _ = events.send(stopped);
            }
            let counters = match (&others, is_loss) {
                (Some(_), false) => end_ranks(&running, &ending),
                // All ranks know of a loss, and the lost one tells nothing any more.
                (Some(_), true) => ranks::counters(&running.stats(), &[]),
                (None, _) => Counters::alone(&running.stats()),
            };
            drop(running);
            let _ = sender.send(counters);
        };
        std::thread::Builder::new().name("watcher".into()).spawn(watch)?;
        Ok(Self { stopper, end, stopped, has_ranks, controller, has_spread: false })
    }

    /// What orders the machine about.
    pub(crate) fn controller(&self) -> Option<&Controller> {
        self.controller.as_ref()
    }

    /// Moves the virtual processors of a machine of several ranks to theirs, once, without waiting for it. Where they go later is not
    /// the guest's to say.
    pub(crate) fn spread(&mut self) {
        let has_spread = std::mem::replace(&mut self.has_spread, true);
        if let (false, Some(controller)) = (has_spread, &self.controller) {
            controller.spread();
        }
    }

    /// Stops the machine on all ranks and drops its devices, which close their ends of the ports; its counters. Nothing if it does
    /// not stop in its time. The other ranks end with the ending's status.
    pub(crate) fn stop(self, ending: &Ending) -> Option<Counters> {
        // Both fail only for a machine that has stopped.
        let _ = self.end.send(ending.status());
        self.stopper.stop();
        self.stopped.recv_timeout(patience(self.has_ranks, ending)).ok()
    }
}

/// How long the machine may take to stop. After a loss there is nothing to gather and nobody to tell.
fn patience(has_ranks: bool, ending: &Ending) -> Duration {
    let is_loss = matches!(ending, Ending::RankLost(_));
    if has_ranks && !is_loss { RANKS_STOP_TIME } else { STOP_TIME }
}

/// Ends the machine on all ranks with the status that comes: what they have counted, rank 0 first.
fn end_ranks(running: &Running, ending: &Receiver<u8>) -> Counters {
    // Without a status vincs is ending anyhow, and the others lose this rank.
    let Ok(status) = ending.recv() else { return Counters::alone(&running.stats()) };
    let controller = running.controller();
    let others = controller.map(|controller| controller.gather_statistics(GATHER_TIME)).unwrap_or_default();
    if !running.end_cluster(status.into()) {
        tracing::warn!("not all ranks know of the end");
    }
    ranks::counters(&running.stats(), &others)
}

/// Why the machine stopped by itself. A panicked kernel resets (`panic=-1`), so only its console tells it from others.
fn stop_event(reason: StopReason, tail: &SharedTail, others: Option<&Others>) -> Option<Event> {
    let stopped = match reason {
        StopReason::PowerOff => Stopped::PowerOff { init_line: tail.with(|tail| tail.init_line()) },
        StopReason::Reset if tail.with(|tail| tail.panic_line()).is_some() => Stopped::Panic,
        StopReason::Reset => Stopped::Reset,
        StopReason::TripleFault { vcpu } => Stopped::TripleFault { vcpu },
        StopReason::Failed { vcpu, message } => Stopped::Failed(format!("virtual processor {vcpu} failed: {message}")),
        StopReason::RankLost { rank, reason } => {
            Stopped::RankLost(others.map_or(reason.clone(), |others| others.loss(rank, &reason)))
        }
        // Only rank 0 ends a machine.
        StopReason::Ended { .. } | StopReason::Left | StopReason::Dropped | StopReason::Stopped => return None,
    };
    Some(Event::Stopped(stopped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_after_a_panic_message_is_a_panic() {
        let tail = SharedTail::default();
        let event = |reason| stop_event(reason, &tail, None);
        assert_eq!(event(StopReason::Reset), Some(Event::Stopped(Stopped::Reset)));
        tail.with(|tail| tail.push(b"Kernel panic - not syncing: x\n"));
        assert_eq!(event(StopReason::Reset), Some(Event::Stopped(Stopped::Panic)));
        assert_eq!(event(StopReason::PowerOff), Some(Event::Stopped(Stopped::PowerOff { init_line: None })));
        tail.with(|tail| tail.push(b"vincs-init: no port\n"));
        let init_line = Some("no port".into());
        assert_eq!(event(StopReason::PowerOff), Some(Event::Stopped(Stopped::PowerOff { init_line })));
        assert_eq!(event(StopReason::Stopped), None);
    }

    #[test]
    fn only_ranks_that_are_all_there_are_waited_for() {
        assert_eq!(patience(true, &Ending::Console), RANKS_STOP_TIME);
        assert_eq!(patience(false, &Ending::Console), STOP_TIME);
        assert_eq!(patience(true, &Ending::RankLost("it is gone".into())), STOP_TIME);
    }

    #[test]
    fn every_port_has_its_direction() {
        let (control, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let streams = Some(Streams::own().unwrap());
        let ports = console_ports(Ports { control: control.into(), streams }).unwrap();
        let seen: Vec<_> =
            ports.iter().map(|port| (port.name.as_str(), port.input.is_some(), port.output.is_some())).collect();
        let expected = [
            (CONTROL_PORT, true, true),
            (STDIN_PORT, true, false),
            (STDOUT_PORT, false, true),
            (STDERR_PORT, false, true),
        ];
        assert_eq!(seen, expected);
        let (control, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let alone = console_ports(Ports { control: control.into(), streams: None }).unwrap();
        assert_eq!(alone.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), [CONTROL_PORT]);
    }
}
