//! A rank's dealings with the other ranks of its machine.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use vincs_coherence::id::Rank;
use vincs_coherence::transport::Transport;

use super::config::MachineError;
use super::running::Event;
use super::vcpus::{Raw, counter_khz};
use crate::apic::Router;
use crate::clock::GuestClock;
use crate::cluster::{
    AppliedClock, ClockError, ClockStats, Cluster, Control, ControlLink, ControlNotes, DEVICE_RANK, Devices, First,
    Forwarder, KindSent, Measured, Member, Note, Server, Side, StatisticsSource, VcpuFailure, boot_id, notes,
    same_rate, spawn,
};
use crate::kvm;
use crate::topology::{Topology, VcpuId};
use crate::vcpu::End;

/// How long rank 0 may take to tell its clock: until then it reads its kernel and opens its devices.
const CLOCK_PATIENCE: Duration = Duration::from_secs(30);
/// How long rank 0 waits for all ranks to know of the end. One that has not heard of it by then takes rank 0 for lost.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// What a rank has told the others, and how well it goes with them.
#[derive(Clone, Debug, Serialize)]
pub struct RankStats {
    /// The rank.
    pub rank: u16,
    /// Control messages sent, by kind.
    pub control_sent: Vec<KindSent>,
    /// How well its clock goes with rank 0's.
    pub clock: ClockStats,
}

/// A rank's dealings with the others. Dropped, it ends its threads; before that, waits a little for ranks that have not
/// heard of the machine's end.
#[derive(Debug)]
pub(super) struct Ranks {
    link: Arc<ControlLink>,
    notes: ControlNotes,
    forwarder: Option<Arc<Forwarder>>,
    statistics: StatisticsSource,
    applied: Arc<Mutex<AppliedClock>>,
    threads: Vec<JoinHandle<()>>,
    /// Closed no earlier than the control thread ends: others take a closed channel for a lost rank.
    #[expect(dead_code, reason = "kept open until the control thread has ended")]
    coherence: Vec<Arc<dyn Transport>>,
}

/// The link to the other ranks.
pub(super) fn link(cluster: &Cluster) -> Arc<ControlLink> {
    Arc::new(ControlLink::new(cluster.rank, cluster.ranks, Arc::clone(&cluster.control)))
}

/// What rank 0 serves the others with.
pub(super) struct FirstRank {
    pub(super) topology: Topology,
    pub(super) devices: Arc<Devices>,
    pub(super) clock: GuestClock,
}

/// Starts rank 0's side.
pub(super) fn start_first(
    cluster: Cluster,
    link: Arc<ControlLink>,
    first: FirstRank,
    router: &Arc<Router>,
    events: &Sender<Event>,
) -> Result<Ranks, MachineError> {
    let FirstRank { topology, devices, clock } = first;
    let (notes, note_box) = notes().map_err(MachineError::Thread)?;
    let (mut servers, mut threads) = (Vec::new(), Vec::new());
    for rank in link.others() {
        let vcpus = topology.ids_of(rank.0.into()).count();
        let (server, thread) =
            Server::start(rank, vcpus, Arc::clone(&devices), Arc::clone(&link)).map_err(MachineError::Thread)?;
        servers.push(server);
        threads.push(thread);
    }
    let first = First::new(devices, servers, topology, clock, boot_id());
    let control = spawn(Arc::clone(&link), Arc::clone(router), Side::First(first), note_box, told(events));
    // The control thread is waited for before the servers, which end with it.
    threads.insert(0, control.map_err(MachineError::Thread)?);
    let (applied, statistics) = (Arc::default(), StatisticsSource::default());
    Ok(Ranks { link, notes, forwarder: None, statistics, applied, threads, coherence: cluster.coherence })
}

/// Starts another rank's side; what its first measurement of rank 0's clock gives comes later.
pub(super) fn start_member(
    cluster: Cluster,
    link: Arc<ControlLink>,
    forwarder: &Arc<Forwarder>,
    router: &Arc<Router>,
    events: &Sender<Event>,
) -> Result<(Ranks, Receiver<Measured>), MachineError> {
    let (notes, note_box) = notes().map_err(MachineError::Thread)?;
    let (applied, statistics) = (Arc::default(), StatisticsSource::default());
    let (first_measured, measured) = channel();
    let source = statistics.clone();
    let member = Member::new(Arc::clone(forwarder), source, boot_id(), first_measured, Arc::clone(&applied));
    let side = Side::Member(Box::new(member));
    let control = spawn(Arc::clone(&link), Arc::clone(router), side, note_box, told(events));
    let threads = vec![control.map_err(MachineError::Thread)?];
    let forwarder = Some(Arc::clone(forwarder));
    Ok((Ranks { link, notes, forwarder, statistics, applied, threads, coherence: cluster.coherence }, measured))
}

fn told(events: &Sender<Event>) -> impl Fn(crate::cluster::ClusterEvent) + Send + 'static {
    let events = events.clone();
    move |event| {
        // Nobody waits any more when the machine is being taken down.
        let _ = events.send(Event::Cluster(event));
    }
}

impl Ranks {
    /// Sets the vCPUs' counters to rank 0's as measured.
    pub(super) fn take_clock(&self, measured: &Receiver<Measured>, vcpus: &[Raw]) -> Result<GuestClock, MachineError> {
        let silent = |_| ClockError::Silent(CLOCK_PATIENCE.as_secs());
        let measured = measured.recv_timeout(CLOCK_PATIENCE).map_err(silent)?;
        for vcpu in vcpus {
            let own = counter_khz(&vcpu.fd)?;
            if !same_rate(own, measured.khz) {
                return Err(ClockError::Rate { own, first: measured.khz }.into());
            }
            if kvm::set_tsc_offset(&vcpu.fd, measured.offset)? != measured.offset {
                return Err(ClockError::Offset.into());
            }
        }
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        (applied.offset, applied.khz) = (measured.offset, measured.khz);
        applied.stats.measured(measured, measured.offset, measured.khz);
        Ok(GuestClock::with(measured.offset, measured.khz))
    }

    /// Tells rank 0 that a vCPU of this other rank cannot go on.
    pub(super) fn failure_teller(&self) -> Option<impl Fn(VcpuId, &End) + Send + 'static> {
        let link = Arc::clone(&self.link);
        let tell = move |vcpu: VcpuId, end: &End| {
            let failure = match end {
                End::TripleFault => VcpuFailure::TripleFault,
                End::Failed(message) => VcpuFailure::Host(message.clone()),
                End::Stopped => return,
            };
            link.send(DEVICE_RANK, &Control::vcpu_failed(vcpu.0, failure), &[]);
        };
        self.forwarder.is_some().then_some(tell)
    }

    /// Where other threads tell the control thread things.
    pub(super) fn notes(&self) -> &ControlNotes {
        &self.notes
    }

    /// Nothing is waited for any more: device accesses are abandoned.
    pub(super) fn stop_waiting(&self) {
        if let Some(forwarder) = &self.forwarder {
            forwarder.close();
        }
        self.link.close();
    }

    /// On rank 0: tells all ranks that the machine has ended; says whether they know.
    pub(super) fn end(&self, status: i32) -> bool {
        let (sender, done) = channel();
        self.notes.tell(Note::End(status, sender));
        done.recv_timeout(END_PATIENCE).is_ok()
    }

    /// On rank 0: what all other ranks say they have counted, as far as it comes in time.
    pub(super) fn gather(&self, limit: Duration) -> Vec<(Rank, Vec<u8>)> {
        let until = Instant::now() + limit;
        let (sender, answers) = channel();
        self.notes.tell(Note::Gather(sender));
        let mut gathered = Vec::new();
        while gathered.len() < self.link.others().count() {
            match answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(answer) => gathered.push(answer),
                Err(_) => break,
            }
        }
        gathered.sort_by_key(|(rank, _)| *rank);
        gathered
    }

    /// On other ranks: what rank 0 is told when it gathers.
    pub(super) fn set_statistics(&self, source: Box<dyn Fn() -> Vec<u8> + Send>) {
        self.statistics.set(source);
    }

    /// What it has told the others.
    pub(super) fn stats(&self) -> RankStats {
        let clock = self.applied.lock().unwrap_or_else(PoisonError::into_inner).stats;
        RankStats { rank: self.link.rank().0, control_sent: self.link.sent(), clock }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        self.stop_waiting();
        self.notes.tell(Note::Stop);
        for thread in self.threads.drain(..) {
            // A panic of a thread has ended the process already.
            let _ = thread.join();
        }
    }
}
