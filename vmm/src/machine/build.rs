//! Building a machine: memory, vCPUs, interrupt controllers, devices, tables, kernel.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use super::config::{Equipment, MachineConfig, MachineError, Role};
use super::devices::{self, Rest};
use super::ranks::{self, Everyone, FirstRank, RankBase, Ranks};
use super::running::{Event, Parts, Running};
use super::vcpus::{self, Raw};
use crate::acpi::{self, AREA_START, MemoryRange};
use crate::apic::{Mailbox, Router};
use crate::boot::{BootError, BootPlan, enter_long_mode};
use crate::clock::GuestClock;
use crate::cluster::{
    Cluster, ClusterEvent, Control, ControlLink, ControlNotes, DEVICE_RANK, Devices, Forwarder, notes,
};
use crate::kvm::{self, Hypervisor, KvmError};
use crate::layout::{PAGE_SIZE, node_ranges, ram_regions, relaxed_region};
use crate::memory::engine::{Engine, Vitals};
use crate::memory::relaxed::spread::SpreadMemory;
use crate::memory::{GuestRam, HoldError, RelaxedMemory};
use crate::topology::{Topology, VcpuId};
use crate::vcpu::{End, Io, Platform, ResetState, Samples, Vcpu, VcpuHandle, spawn};

/// A machine, or a rank's share of it, that is built and loaded, not yet running.
#[derive(Debug)]
pub struct Machine {
    vcpus: Vec<(Vcpu, ResetState)>,
    platform: Arc<Platform>,
    ended: Sender<Event>,
    events: Receiver<Event>,
    parts: Parts,
}

impl Machine {
    /// Builds a machine and loads its kernel. With other ranks, their machines are to be built at the same time: they
    /// need each other's memory and clock.
    ///
    /// # Errors
    /// [`MachineError`] naming what is wrong or cannot be had; the other ranks are told.
    pub fn new(config: MachineConfig) -> Result<Self, MachineError> {
        config.check()?;
        let MachineConfig { kvm, topology, memory, relaxed, role } = config;
        let ground = |elsewhere| Ground::new(&kvm, topology, memory, elsewhere);
        match role {
            Role::Whole(equipment) => ground(false)?.with_relaxed(relaxed)?.whole(equipment),
            Role::First(equipment, cluster) => {
                let link = ranks::link(&cluster);
                let built = ground(false).and_then(|ground| ground.first(equipment, cluster, relaxed, &link));
                built.inspect_err(|error| tell_failure(&link, error))
            }
            Role::Member(cluster) => {
                let link = ranks::link(&cluster);
                let built = ground(true).and_then(|ground| ground.member(cluster, relaxed, &link));
                built.inspect_err(|error| tell_failure(&link, error))
            }
        }
    }

    /// Goes on with the clock of a machine whose vCPUs' states this one takes over: timers and the guest's idea of
    /// time refer to it. Without this a machine's clock starts near zero.
    ///
    /// # Errors
    /// [`MachineError::Clock`] when this host's counter has another rate, [`MachineError::Kvm`] when KVM refuses.
    pub fn continue_clock(&mut self, clock: GuestClock) -> Result<(), MachineError> {
        let khz = self.parts.clock.khz();
        if clock.khz() != khz {
            return Err(MachineError::Clock { host: khz, guest: clock.khz() });
        }
        for (vcpu, _) in &mut self.vcpus {
            if kvm::set_tsc_offset(&vcpu.fd, clock.offset())? != clock.offset() {
                return Err(KvmError::Missing("offsets of the time-stamp counter (KVM_VCPU_TSC_OFFSET)").into());
            }
            vcpu.clock = clock;
        }
        self.parts.clock = clock;
        Ok(())
    }

    /// Starts the vCPUs.
    ///
    /// # Errors
    /// [`MachineError::Thread`] when a thread cannot be started; those that were are stopped.
    pub fn start(self) -> Result<Running, MachineError> {
        let Self { vcpus, platform, ended, events, parts } = self;
        let mut running = Running::new(parts, events, ended.clone());
        for (vcpu, reset) in vcpus {
            let told = vcpu_ended(&ended, running.ranks());
            let thread = spawn(vcpu, reset, Arc::clone(&platform), told).map_err(MachineError::Thread)?;
            running.add_thread(thread);
        }
        Ok(running)
    }
}

/// Who hears of a vCPU's end: this rank, or of a failure on another rank than 0, rank 0, which ends the machine.
fn vcpu_ended(events: &Sender<Event>, ranks: Option<&Ranks>) -> impl FnOnce(VcpuId, End) + Send + 'static {
    let events = events.clone();
    let tell = ranks.and_then(Ranks::failure_teller);
    move |id, end| match (tell, &end) {
        (Some(tell), End::TripleFault | End::Failed(_)) => tell(id, &end),
        // Nobody waits any more when the machine is being taken down.
        _ => _ = events.send(Event::Vcpu(id, end)),
    }
}

/// Tells the others that this rank cannot take part.
fn tell_failure(link: &ControlLink, error: &MachineError) {
    let message = Control::lost(link.rank(), &error.to_string());
    if link.rank() == DEVICE_RANK {
        link.send_to_others(&message);
    } else {
        link.send(DEVICE_RANK, &message, &[]);
    }
}

/// The reason for an error that only says that the machine has ended: it comes on another way, a little later perhaps.
fn with_reason(error: MachineError, events: &Receiver<Event>) -> MachineError {
    let (MachineError::Ended
    | MachineError::GuestMemory(HoldError::Ended)
    | MachineError::Boot(BootError::Memory(HoldError::Ended))) = error
    else {
        return error;
    };
    match events.recv_timeout(REASON_PATIENCE) {
        Ok(Event::Cluster(ClusterEvent::Lost(rank, reason))) => MachineError::RankLost { rank: rank.0, reason },
        _ => error,
    }
}

/// How long the reason why memory has ended may be under way: longer than the control thread waits for a better one.
const REASON_PATIENCE: Duration = Duration::from_secs(2);

/// What every rank has, whatever its role.
struct Ground {
    hypervisor: Hypervisor,
    topology: Topology,
    memory: u64,
    vm: VmFd,
    ram: GuestRam,
    relaxed: Option<RelaxedMemory>,
    raw: Vec<Raw>,
    handles: Vec<VcpuHandle>,
    samples: Arc<Samples>,
    ended: Sender<Event>,
    events: Receiver<Event>,
}

impl Ground {
    /// With all vCPUs of the machine, as any may come to any rank. They are here at first or `elsewhere`.
    fn new(kvm: &Path, topology: Topology, memory: u64, elsewhere: bool) -> Result<Self, MachineError> {
        let hypervisor = Hypervisor::open(kvm)?;
        let all: Vec<VcpuId> = topology.ids().collect();
        let limit = hypervisor.max_vcpus();
        if all.len() > limit {
            return Err(MachineError::Vcpus { vcpus: topology.vcpus(), limit });
        }
        let vm = hypervisor.create_vm()?;
        let ram = create_ram(&vm, memory)?;
        let samples = Arc::new(Samples::default());
        let (raw, handles) = vcpus::create(&vm, &all, &samples, elsewhere)?;
        let (ended, events) = channel();
        let relaxed = None;
        Ok(Self { hypervisor, topology, memory, vm, ram, relaxed, raw, handles, samples, ended, events })
    }

    /// With so many bytes of relaxed memory, for KVM and for devices.
    fn with_relaxed(mut self, bytes: u64) -> Result<Self, MachineError> {
        if let Some((start, len)) = relaxed_region(self.memory, bytes) {
            let relaxed = RelaxedMemory::new(start, len)?;
            self.ram.add_relaxed(&relaxed)?;
            let slot =
                u32::try_from(self.ram.guest_mapping().num_regions()).map_err(|_| MachineError::Relaxed(bytes))?;
            give_memory(&self.vm, slot, relaxed.guest())?;
            self.relaxed = Some(relaxed);
        }
        Ok(self)
    }

    fn processors(&self) -> Vec<(u32, Arc<Mailbox>)> {
        let ids = self.raw.iter().map(|vcpu| self.topology.apic_id(vcpu.id));
        ids.zip(self.handles.iter().map(|handle| Arc::clone(handle.mailbox()))).collect()
    }

    /// The router on this rank of a machine with several.
    fn wide_router(&self, link: &Arc<ControlLink>) -> Arc<Router> {
        Arc::new(Router::new(self.processors()).on(Arc::clone(link)))
    }

    fn spread(&self, cluster: &Cluster, notes: &ControlNotes) -> Result<(Engine, Vitals), MachineError> {
        // One that comes hears of the others when it hears where the homes are.
        let vitals = Vitals::first(if cluster.joins() { 1 } else { cluster.ranks });
        let size = (&self.topology, self.memory);
        let engine = ranks::spread_memory(&self.ram, cluster, size, &self.handles, notes, &vitals)?;
        Ok((engine, vitals))
    }

    /// What dealings with other ranks begin with.
    fn base(
        &self,
        engine: Engine,
        relaxed: Option<SpreadMemory>,
        cluster: Cluster,
        notes: ControlNotes,
        vitals: Vitals,
    ) -> RankBase {
        let own = node_ranges(self.memory, self.topology.nodes());
        let own = own.into_iter().filter(|(.., node)| *node == u32::from(cluster.rank.0)).map(|(_, len, _)| len);
        let homed = u32::try_from(own.sum::<u64>() / PAGE_SIZE).unwrap_or(u32::MAX);
        let (samples, memory) = (Arc::clone(&self.samples), self.memory);
        RankBase { engine, relaxed, samples, cluster, notes, vitals, memory, homed }
    }

    fn whole(self, equipment: Equipment) -> Result<Machine, MachineError> {
        let router = Arc::new(Router::new(self.processors()));
        let clock = vcpus::new_clock(&self.raw)?;
        let memory = self.ram.device_memory();
        let (devices, rest) = devices::attach(equipment, &self.vm, &memory, &router, &self.ended)?;
        self.ram.make_resident(rest.kernel.loaded_range());
        let region = self.relaxed.as_ref().map(RelaxedMemory::region);
        self.load(rest, Arc::new(devices), router, clock, (None, region))
    }

    /// Relaxed memory of so many bytes, shared with the other ranks.
    fn share_relaxed(
        &self,
        cluster: &mut Cluster,
        bytes: u64,
        notes: &ControlNotes,
    ) -> Result<Option<SpreadMemory>, MachineError> {
        let Some(region) = relaxed_region(self.memory, bytes) else { return Ok(None) };
        let relaxed = ranks::spread_relaxed(cluster, region, &self.topology, &self.handles, notes)?;
        let first = u32::try_from(self.ram.guest_mapping().num_regions()).map_err(|_| MachineError::Relaxed(bytes))?;
        let pieces = relaxed.as_ref().map(SpreadMemory::pieces);
        for (slot, (guest, len, own)) in (first..).zip(pieces.into_iter().flatten()) {
            give_piece(&self.vm, slot, (guest, len, own))?;
        }
        Ok(relaxed)
    }

    fn first(
        self,
        equipment: Equipment,
        mut cluster: Cluster,
        relaxed: u64,
        link: &Arc<ControlLink>,
    ) -> Result<Machine, MachineError> {
        let (notes, note_box) = notes().map_err(MachineError::Thread)?;
        let (engine, vitals) = self.spread(&cluster, &notes)?;
        let region = relaxed_region(self.memory, relaxed);
        let relaxed = self.share_relaxed(&mut cluster, relaxed, &notes)?;
        let router = self.wide_router(link);
        let clock = vcpus::new_clock(&self.raw)?;
        let (devices, rest) = devices::attach(equipment, &self.vm, &engine.device_memory(), &router, &self.ended)?;
        let (devices, link) = (Arc::new(devices), Arc::clone(link));
        let first = FirstRank { devices: Arc::clone(&devices), clock, link };
        let base = self.base(engine, relaxed, cluster, notes, vitals);
        let everyone = Everyone { topology: &self.topology, router: &router, handles: &self.handles };
        let ranks = ranks::start_first(base, note_box, first, &everyone, &self.ended)?;
        self.load(rest, devices, router, clock, (Some(ranks), region))
    }

    fn member(self, mut cluster: Cluster, relaxed: u64, link: &Arc<ControlLink>) -> Result<Machine, MachineError> {
        let (notes, note_box) = notes().map_err(MachineError::Thread)?;
        let (engine, vitals) = self.spread(&cluster, &notes)?;
        let relaxed = self.share_relaxed(&mut cluster, relaxed, &notes)?;
        let router = self.wide_router(link);
        let forwarder = Arc::new(Forwarder::new(Arc::clone(link), self.raw.iter().map(|vcpu| vcpu.id)));
        let spread = Some(engine.processors());
        let base = self.base(engine, relaxed, cluster, notes, vitals);
        let everyone = Everyone { topology: &self.topology, router: &router, handles: &self.handles };
        let (ranks, measured) = ranks::start_member(base, note_box, &forwarder, &everyone, &self.ended)?;
        let clock = ranks.take_clock(&measured, &self.raw).map_err(|error| with_reason(error, &self.events))?;
        let vcpus = vcpus::equip(&self.hypervisor, &self.topology, self.raw, clock)?;
        let doorbell = ranks.doorbell();
        let platform = Arc::new(Platform { io: Io::There(forwarder), router, spread, doorbell });
        let Self { topology, vm, ram, handles, ended, events, .. } = self;
        let ranks = Some(ranks);
        let parts = Parts { topology, handles, ranks, platform: Arc::clone(&platform), clock, vm, ram, relaxed: None };
        Ok(Machine { vcpus, platform, ended, events, parts })
    }

    /// Loads tables and kernel.
    fn load(
        self,
        rest: Rest,
        devices: Arc<Devices>,
        router: Arc<Router>,
        clock: GuestClock,
        (ranks, region): (Option<Ranks>, Option<(GuestAddress, u64)>),
    ) -> Result<Machine, MachineError> {
        let Self { hypervisor, topology, memory, vm, ram, relaxed, raw, handles, ended, events, .. } = self;
        let vcpus = vcpus::equip(&hypervisor, &topology, raw, clock)?;
        let Rest { kernel, initrd, command_line, virtio } = rest;
        let mut described = devices::acpi_config(&topology, memory, virtio, ranks.is_some());
        described.relaxed = region.iter().map(|&(start, len)| MemoryRange { start: start.0, len, node: 0 }).collect();
        let tables = acpi::build(&described)?;
        let plan = BootPlan::new(&kernel, &initrd, &command_line, memory)?.with_relaxed(region);
        let window = ranks.as_ref().map_or_else(|| ram.device_memory(), Ranks::device_memory);
        let loaded = window.write(GuestAddress(AREA_START), &tables).map_err(MachineError::GuestMemory);
        let entry = loaded.and_then(|()| Ok(plan.load(&window, clock.khz())?));
        let entry = entry.map_err(|error| with_reason(error, &events))?;
        if let Some((bootstrap, reset)) = vcpus.first() {
            let (registers, special) = enter_long_mode(&window, entry, reset.special)?;
            bootstrap.fd.set_sregs(&special).map_err(KvmError::ioctl("set the first special registers"))?;
            bootstrap.fd.set_regs(&registers).map_err(KvmError::ioctl("set the first registers"))?;
        }
        let spread = ranks.as_ref().map(Ranks::processors);
        let doorbell = ranks.as_ref().and_then(Ranks::doorbell);
        let platform = Arc::new(Platform { io: Io::Here(devices), router, spread, doorbell });
        let parts = Parts { topology, handles, ranks, platform: Arc::clone(&platform), clock, vm, ram, relaxed };
        Ok(Machine { vcpus, platform, ended, events, parts })
    }
}

fn create_ram(vm: &VmFd, bytes: u64) -> Result<GuestRam, MachineError> {
    let too_large = |_| MachineError::Memory(bytes);
    let regions: Result<Vec<(GuestAddress, usize)>, MachineError> = ram_regions(bytes)
        .into_iter()
        .map(|(start, len)| Ok((start, usize::try_from(len).map_err(too_large)?)))
        .collect();
    let ram = GuestRam::new(&regions?)?;
    for (slot, region) in (0u32..).zip(ram.guest_mapping().iter()) {
        give_memory(vm, slot, region)?;
    }
    Ok(ram)
}

/// Gives KVM a region of guest memory.
fn give_memory(vm: &VmFd, slot: u32, region: &GuestRegionMmap) -> Result<(), KvmError> {
    give_piece(vm, slot, (region.start_addr().0, region.len(), region.as_ptr() as u64))
}

/// The same by guest-physical address, length and address in this process.
fn give_piece(vm: &VmFd, slot: u32, (guest, len, own): (u64, u64, u64)) -> Result<(), KvmError> {
    let region =
        kvm_userspace_memory_region { slot, flags: 0, guest_phys_addr: guest, memory_size: len, userspace_addr: own };
    // SAFETY: the mapping is as long as the region says and lives as long as the machine: `Running` drops the
    // vCPUs and the VM before it.
    unsafe { vm.set_user_memory_region(region) }.map_err(KvmError::ioctl("take guest memory"))
}
