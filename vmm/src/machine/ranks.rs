//! A rank's dealings with the other ranks of its machine.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use vincs_coherence::home::{HomeMap, HomeMapError};
use vincs_coherence::id::Rank;
use vm_memory::GuestAddress;

use super::config::MachineError;
use super::running::Event;
use super::vcpus::{Raw, counter_khz};
use crate::apic::Router;
use crate::clock::GuestClock;
use crate::cluster::{
    AppliedClock, ClockError, ClockStats, Cluster, Control, ControlLink, ControlNotes, DEVICE_RANK, Devices, Elastic,
    First, Forwarder, HomeMoves, Homes, KindSent, Measured, Member, Note, NoteBox, Owners, Residents, Seats, Server,
    Side, StatisticsSource, VcpuFailure, boot_id, same_rate, spawn,
};
use crate::kvm;
use crate::layout::{PAGE_SIZE, node_ranges};
use crate::memory::engine::{
    Engine, EngineConfig, EngineCounters, EngineEvent, EngineStats, Leaver, MemorySettings, Processors, Vitals,
};
use crate::memory::relaxed::RelaxedStats;
use crate::memory::relaxed::doorbell::Doorbell;
use crate::memory::relaxed::spread::SpreadMemory;
use crate::memory::{DeviceMemory, GuestRam};
use crate::topology::{Topology, VcpuId};
use crate::vcpu::{End, SampledFault, Samples, VcpuHandle, VcpuSampler};

/// How long rank 0 may take to tell its clock: until then it reads its kernel and opens its devices.
const CLOCK_PATIENCE: Duration = Duration::from_secs(30);
/// How long rank 0 waits for all ranks to know of the end. One that has not heard of it by then takes rank 0 for lost.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// What a rank has told the others, and how well it goes with them.
#[derive(Clone, Debug, Serialize)]
pub struct RankStats {
    /// The rank.
    pub rank: u16,
    /// What the fault path has counted.
    pub memory: EngineStats,
    /// What it has done for relaxed memory; nothing if the machine has none.
    pub relaxed: Option<RelaxedStats>,
    /// How long it keeps a page that others want, in nanoseconds.
    pub hold_nanoseconds: u64,
    /// Control messages sent, by kind.
    pub control_sent: Vec<KindSent>,
    /// How well its clock goes with rank 0's.
    pub clock: ClockStats,
    /// Which instructions ran into faults, of a sample of the faults: those with the most samples first.
    pub sampled_faults: Vec<SampledFault>,
    /// Samples that were not kept because there were too many different ones.
    pub samples_dropped: u64,
}

/// A rank's dealings with the others. Dropped, it ends its threads; before that, waits a little for ranks that have not
/// heard of the machine's end.
#[derive(Debug)]
pub(super) struct Ranks {
    base: RankBase,
    link: Arc<ControlLink>,
    forwarder: Option<Arc<Forwarder>>,
    statistics: StatisticsSource,
    applied: Arc<Mutex<AppliedClock>>,
    /// Of a rank that may leave.
    leaver: Leaver,
    threads: Vec<JoinHandle<()>>,
}

/// What dealings with other ranks begin with.
#[derive(Debug)]
pub(super) struct RankBase {
    /// Memory.
    pub(super) engine: Engine,
    /// Relaxed memory, if the machine has some.
    pub(super) relaxed: Option<SpreadMemory>,
    /// Where vCPUs ran into faults.
    pub(super) samples: Arc<Samples>,
    /// The channels. They stay open until the control thread has ended: others take a closed channel for a lost rank.
    pub(super) cluster: Cluster,
    /// Where the control thread is told things.
    pub(super) notes: ControlNotes,
    /// Ranks that may have pages.
    pub(super) vitals: Vitals,
    /// Bytes of the machine's RAM.
    pub(super) memory: u64,
    /// Pages that this rank was the home of at the start.
    pub(super) homed: u32,
}

/// The rank that a vCPU belongs to: its node's.
pub(super) fn rank_of(topology: &Topology, vcpu: VcpuId) -> Rank {
    Rank(u16::try_from(topology.node(vcpu)).unwrap_or(u16::MAX))
}

/// The link to the other ranks.
pub(super) fn link(cluster: &Cluster) -> Arc<ControlLink> {
    // Who joins knows rank 0 alone at first.
    let ranks = if cluster.joins() { 1 } else { cluster.ranks };
    Arc::new(ControlLink::new(cluster.rank, ranks, Arc::clone(&cluster.control)))
}

/// What rank 0 serves the others with.
pub(super) struct FirstRank {
    pub(super) devices: Arc<Devices>,
    pub(super) clock: GuestClock,
    pub(super) link: Arc<ControlLink>,
}

/// All vCPUs of the machine, each with a handle on this rank, and the way to all of them.
pub(super) struct Everyone<'a> {
    pub(super) topology: &'a Topology,
    pub(super) router: &'a Arc<Router>,
    pub(super) handles: &'a [VcpuHandle],
}

impl Everyone<'_> {
    fn residents(&self, link: &ControlLink, vitals: &Vitals) -> Residents {
        Residents::new(link, Arc::clone(self.router), self.handles.to_vec(), vitals.clone())
    }
}

/// Starts rank 0's side.
pub(super) fn start_first(
    base: RankBase,
    note_box: NoteBox,
    first: FirstRank,
    everyone: &Everyone<'_>,
    events: &Sender<Event>,
) -> Result<Ranks, MachineError> {
    let FirstRank { devices, clock, link } = first;
    let (mut servers, mut threads) = (BTreeMap::new(), Vec::new());
    // Any rank may have all vCPUs.
    let vcpus = everyone.handles.len();
    for rank in link.others() {
        let (server, thread) =
            Server::start(rank, vcpus, Arc::clone(&devices), Arc::clone(&link)).map_err(MachineError::Thread)?;
        servers.insert(rank, server);
        threads.push(thread);
    }
    let cluster = &base.cluster;
    let owners = Owners::new(cluster.ranks, u32::try_from(vcpus).unwrap_or(u32::MAX));
    let nodes = everyone.topology.ids().map(|vcpu| rank_of(everyone.topology, vcpu)).collect();
    let seats = Seats::new(cluster.ranks, cluster.seats).fixed(cluster.fixed);
    let homes = Homes::new(homes(everyone.topology, base.memory)?);
    let homes = HomeMoves::new(homes, base.engine.mover(), cluster.ranks);
    let elastic = Elastic::new(seats, cluster.placement, nodes, &cluster.shares, homes);
    let first = First::new(devices, servers, (owners, elastic), clock, boot_id(), base.notes.clone());
    let control = spawn(
        Arc::clone(&link),
        everyone.residents(&link, &base.vitals),
        Side::First(Box::new(first)),
        note_box,
        told(events),
    );
    // The control thread is waited for before the servers, which end with it.
    threads.insert(0, control.map_err(MachineError::Thread)?);
    let (applied, statistics) = (Arc::default(), StatisticsSource::default());
    Ok(Ranks { base, link, forwarder: None, statistics, applied, leaver: Leaver::default(), threads })
}

/// Starts another rank's side; what its first measurement of rank 0's clock gives comes later.
pub(super) fn start_member(
    base: RankBase,
    note_box: NoteBox,
    forwarder: &Arc<Forwarder>,
    everyone: &Everyone<'_>,
    events: &Sender<Event>,
) -> Result<(Ranks, Receiver<Measured>), MachineError> {
    let link = forwarder.link();
    let (applied, statistics) = (Arc::default(), StatisticsSource::default());
    let (first_measured, measured) = channel();
    let source = statistics.clone();
    let (set, roll) = (Arc::clone(&applied), base.cluster.roll.clone());
    let leaver = base.engine.leaver();
    let leaves = (leaver.clone(), base.engine.mover(), base.notes.clone());
    let member = Member::new(Arc::clone(forwarder), source, boot_id(), first_measured, set, roll, leaves);
    let is_founder = base.cluster.rank.0 < base.cluster.ranks;
    let side = Side::Member(Box::new(if is_founder { member } else { member.joining() }));
    let control = spawn(Arc::clone(&link), everyone.residents(&link, &base.vitals), side, note_box, told(events));
    let threads = vec![control.map_err(MachineError::Thread)?];
    let forwarder = Some(Arc::clone(forwarder));
    Ok((Ranks { base, link, forwarder, statistics, applied, leaver, threads }, measured))
}

/// Spreads guest memory over the ranks. What ends that is told to the control thread.
pub(super) fn spread_memory(
    ram: &GuestRam,
    cluster: &Cluster,
    (topology, memory): (&Topology, u64),
    handles: &[VcpuHandle],
    notes: &ControlNotes,
    vitals: &Vitals,
) -> Result<Engine, MachineError> {
    let (rank, ranks) = (cluster.rank, cluster.seats.max(cluster.ranks));
    let config = EngineConfig {
        rank,
        ranks,
        homes: homes(topology, memory)?,
        shards: u16::try_from(cluster.coherence.len()).unwrap_or(u16::MAX),
        memory: MemorySettings { vitals: vitals.clone(), ..cluster.memory.clone() },
        processors: u32::try_from(handles.len()).unwrap_or(u32::MAX),
        sampler: Some(Arc::new(VcpuSampler::new(handles))),
    };
    let notes = notes.clone();
    let events = move |event| {
        let (lost, reason) = loss(rank, event);
        notes.tell(Note::Lost(lost, reason));
    };
    Ok(Engine::start(ram, config, cluster.coherence.clone(), Arc::new(events))?)
}

/// The homes of pages at the start: each rank is that of its node's.
fn homes(topology: &Topology, memory: u64) -> Result<HomeMap, HomeMapError> {
    HomeMap::new(node_ranges(memory, topology.nodes()).into_iter().map(|(_, len, node)| {
        // What is too much for these numbers is refused as such.
        (u32::try_from(len / PAGE_SIZE).unwrap_or(u32::MAX), Rank(u16::try_from(node).unwrap_or(u16::MAX)))
    }))
}

/// Starts relaxed memory in this region with the other ranks. What ends that is told to the control thread.
pub(super) fn spread_relaxed(
    cluster: &mut Cluster,
    region: (GuestAddress, u64),
    topology: &Topology,
    handles: &[VcpuHandle],
    notes: &ControlNotes,
) -> Result<Option<SpreadMemory>, MachineError> {
    let (rank, ranks) = (cluster.rank, cluster.ranks);
    let Some(share) = cluster.relaxed.take() else { return Err(MachineError::RelaxedRanks) };
    let place = |handle: &VcpuHandle| (handle.clone(), rank_of(topology, handle.id()) == rank);
    let notes = notes.clone();
    let ended = move |lost, reason| notes.tell(Note::Lost(lost, reason));
    let vcpus = handles.iter().map(place).collect();
    Ok(Some(SpreadMemory::start(share, (rank, ranks), region, vcpus, ended)?))
}

/// Which rank is lost when this rank's memory ends so, and why.
fn loss(own: Rank, event: EngineEvent) -> (Rank, String) {
    match event {
        EngineEvent::RankLost { rank, reason } => (rank, reason),
        EngineEvent::Protocol { rank, what } => (rank, format!("it sent {what}")),
        EngineEvent::Host(what) => (own, what),
    }
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
        let measured = measured.recv_timeout(CLOCK_PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => ClockError::Silent(CLOCK_PATIENCE.as_secs()).into(),
            RecvTimeoutError::Disconnected => MachineError::Ended,
        })?;
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

    /// Where vCPUs tell that they sleep.
    pub(super) fn processors(&self) -> Arc<Processors> {
        self.base.engine.processors()
    }

    /// Where guest programs ring for relaxed memory.
    pub(super) fn doorbell(&self) -> Option<Arc<Doorbell>> {
        self.base.relaxed.as_ref().map(SpreadMemory::doorbell)
    }

    /// A window on memory for a device.
    pub(super) fn device_memory(&self) -> DeviceMemory {
        self.base.engine.device_memory()
    }

    /// Nothing is waited for any more: device accesses are abandoned, and vCPUs that wait for pages go on, so they must
    /// have been told to stop.
    pub(super) fn stop_waiting(&mut self) {
        self.base.engine.stop();
        if let Some(relaxed) = &mut self.base.relaxed {
            relaxed.stop();
        }
        if let Some(forwarder) = &self.forwarder {
            forwarder.close();
        }
        self.link.close();
    }

    /// On rank 0: tells all ranks that the machine has ended; says whether they know.
    pub(super) fn end(&self, status: i32) -> bool {
        let (sender, done) = channel();
        self.base.notes.tell(Note::End(status, sender));
        done.recv_timeout(END_PATIENCE).is_ok()
    }

    /// The control thread, to be told things.
    pub(super) fn notes(&self) -> ControlNotes {
        self.base.notes.clone()
    }

    /// On a rank that joins: tells rank 0 that it has set itself up.
    pub(super) fn ready(&self) {
        self.link.send(DEVICE_RANK, &Control::Ready, &[]);
    }

    /// On another rank than 0: asks rank 0 to let it leave.
    pub(super) fn leave(&self) {
        self.link.send(DEVICE_RANK, &Control::Leave, &[]);
    }

    /// Whether this rank is to leave.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaver.is_announced()
    }

    /// Why it stays though it wanted to leave; each reason once.
    pub(super) fn take_refusal(&self) -> Option<String> {
        self.leaver.take_refusal()
    }

    /// On a rank that leaves: pages that it is the home of, and once it is that of none, those of others that are here.
    pub(super) fn pages_left(&self) -> u32 {
        let counted = self.base.engine.stats().protocol;
        let homed = (u64::from(self.base.homed) + counted.homes_taken).saturating_sub(counted.homes_given);
        u32::try_from(homed).unwrap_or(u32::MAX).saturating_add(self.leaver.pages())
    }

    /// What tells rank 0 whom this rank has met.
    pub(super) fn greeter(&self) -> Greeter {
        Greeter { link: Arc::clone(&self.link), notes: self.base.notes.clone() }
    }

    /// On other ranks: what rank 0 is told when it gathers.
    pub(super) fn set_statistics(&self, source: Box<dyn Fn() -> Vec<u8> + Send>) {
        self.statistics.set(source);
    }

    /// Where to look up what it has told the others.
    pub(super) fn counted(&self) -> Counted {
        Counted {
            memory: self.base.engine.counters(),
            hold: self.base.engine.hold(),
            link: Arc::clone(&self.link),
            applied: Arc::clone(&self.applied),
            samples: Arc::clone(&self.base.samples),
            doorbell: self.doorbell(),
        }
    }
}

/// What a rank has told the others, to be looked up by anyone.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    memory: EngineCounters,
    hold: Duration,
    link: Arc<ControlLink>,
    applied: Arc<Mutex<AppliedClock>>,
    samples: Arc<Samples>,
    doorbell: Option<Arc<Doorbell>>,
}

impl Counted {
    /// What takes note of whom this rank has met.
    pub(super) fn greeter(&self, notes: &ControlNotes) -> Greeter {
        Greeter { link: Arc::clone(&self.link), notes: notes.clone() }
    }

    /// Whether the machine has relaxed memory.
    pub(super) fn has_relaxed(&self) -> bool {
        self.doorbell.is_some()
    }

    /// All of it now.
    pub(super) fn stats(&self) -> RankStats {
        let clock = self.applied.lock().unwrap_or_else(PoisonError::into_inner).stats;
        let (sampled_faults, samples_dropped) = self.samples.snapshot();
        RankStats {
            rank: self.link.rank().0,
            memory: self.memory.stats(),
            relaxed: self.doorbell.as_deref().map(Doorbell::stats),
            hold_nanoseconds: u64::try_from(self.hold.as_nanos()).unwrap_or(u64::MAX),
            control_sent: self.link.sent(),
            clock,
            sampled_faults,
            samples_dropped,
        }
    }
}

/// Tells rank 0, from any thread, that this rank can send to one that joins.
#[derive(Clone, Debug)]
pub struct Greeter {
    link: Arc<ControlLink>,
    notes: ControlNotes,
}

impl Greeter {
    /// All channels to this rank are connected.
    pub fn met(&self, rank: u16) {
        let rank = Rank(rank);
        if self.link.rank() == DEVICE_RANK {
            self.notes.tell(Note::Met(rank));
        } else {
            self.link.send(DEVICE_RANK, &Control::Met { rank }, &[]);
        }
    }
}

/// What all other ranks say they have counted, as far as it comes in time.
pub(super) fn gather(notes: &ControlNotes, counted: &Counted, limit: Duration) -> Vec<(Rank, Vec<u8>)> {
    let until = Instant::now() + limit;
    let others = counted.link.others().count();
    let (sender, answers) = channel();
    notes.tell(Note::Gather(sender));
    first_answers(&answers, others, until)
}

/// The first answer of each rank, until so many have answered or the time is over, by rank.
fn first_answers(answers: &Receiver<(Rank, Vec<u8>)>, ranks: usize, until: Instant) -> Vec<(Rank, Vec<u8>)> {
    let mut gathered = BTreeMap::new();
    while gathered.len() < ranks {
        match answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok((rank, answer)) => _ = gathered.entry(rank).or_insert(answer),
            Err(_) => break,
        }
    }
    gathered.into_iter().collect()
}

impl Drop for Ranks {
    fn drop(&mut self) {
        self.stop_waiting();
        self.base.notes.tell(Note::Stop);
        for thread in self.threads.drain(..) {
            // A panic of a thread has ended the process already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_at_fault_is_the_one_that_is_lost() {
        let loss = |event| loss(Rank(1), event);
        let protocol = EngineEvent::Protocol { rank: Rank(2), what: "nonsense".into() };
        assert_eq!(loss(protocol), (Rank(2), "it sent nonsense".into()));
        let lost = EngineEvent::RankLost { rank: Rank(2), reason: "closed".into() };
        assert_eq!(loss(lost), (Rank(2), "closed".into()));
        assert_eq!(loss(EngineEvent::Host("no memory".into())), (Rank(1), "no memory".into()));
    }

    #[test]
    fn a_rank_that_answers_twice_displaces_no_other() {
        let (sender, answers) = channel();
        for (rank, answer) in [(2, "first"), (2, "second"), (1, "other")] {
            sender.send((Rank(rank), answer.into())).unwrap();
        }
        let soon = Instant::now() + Duration::from_secs(20);
        assert_eq!(first_answers(&answers, 2, soon), [(Rank(1), b"other".to_vec()), (Rank(2), b"first".to_vec())]);
        sender.send((Rank(2), Vec::new())).unwrap();
        assert_eq!(first_answers(&answers, 2, Instant::now()).len(), 1, "the time is over");
    }
}
