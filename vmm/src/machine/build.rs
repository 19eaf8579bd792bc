//! Building a machine: memory, vCPUs, interrupt controllers, devices, tables, kernel.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vincs_coherence::id::Rank;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::config::{Equipment, MachineConfig, MachineError, Role};
use super::devices::{self, Rest};
use super::ranks::{self, Ranks};
use super::running::{Event, Parts, Running};
use super::vcpus::{self, Raw};
use crate::acpi::{self, AREA_START};
use crate::apic::{Mailbox, Router};
use crate::boot::{BootPlan, enter_long_mode};
use crate::clock::GuestClock;
use crate::cluster::{Cluster, Control, ControlLink, DEVICE_RANK, Devices, Forwarder};
use crate::kvm::{self, Hypervisor, KvmError};
use crate::layout::ram_regions;
use crate::memory::GuestRam;
use crate::topology::{Topology, VcpuId};
use crate::vcpu::{End, Io, Platform, ResetState, Vcpu, VcpuHandle, spawn};

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
        let MachineConfig { kvm, topology, memory, role } = config;
        let ground = |node| Ground::new(&kvm, topology, memory, node);
        match role {
            Role::Whole(equipment) => ground(None)?.whole(equipment),
            Role::First(equipment, cluster) => {
                let link = ranks::link(&cluster);
                let built = ground(Some(cluster.rank)).and_then(|ground| ground.first(equipment, cluster, &link));
                built.inspect_err(|error| tell_failure(&link, error))
            }
            Role::Member(cluster) => {
                let link = ranks::link(&cluster);
                let built = ground(Some(cluster.rank)).and_then(|ground| ground.member(cluster, &link));
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

/// What every rank has, whatever its role.
struct Ground {
    hypervisor: Hypervisor,
    topology: Topology,
    memory: u64,
    vm: VmFd,
    ram: GuestRam,
    raw: Vec<Raw>,
    handles: Vec<VcpuHandle>,
    ended: Sender<Event>,
    events: Receiver<Event>,
}

impl Ground {
    /// With the vCPUs of one rank, or with all.
    fn new(kvm: &Path, topology: Topology, memory: u64, rank: Option<Rank>) -> Result<Self, MachineError> {
        let hypervisor = Hypervisor::open(kvm)?;
        let own: Vec<VcpuId> = match rank {
            Some(rank) => topology.ids_of(rank.0.into()).collect(),
            None => topology.ids().collect(),
        };
        let limit = hypervisor.max_vcpus();
        if own.len() > limit {
            return Err(MachineError::Vcpus { vcpus: u32::try_from(own.len()).unwrap_or(u32::MAX), limit });
        }
        let vm = hypervisor.create_vm()?;
        let ram = create_ram(&vm, memory)?;
        let (raw, handles) = vcpus::create(&vm, &own)?;
        let (ended, events) = channel();
        Ok(Self { hypervisor, topology, memory, vm, ram, raw, handles, ended, events })
    }

    fn own_processors(&self) -> Vec<(u32, Arc<Mailbox>)> {
        let ids = self.raw.iter().map(|vcpu| self.topology.apic_id(vcpu.id));
        ids.zip(self.handles.iter().map(|handle| Arc::clone(handle.mailbox()))).collect()
    }

    /// A router to all processors of a machine with several ranks.
    fn wide_router(&self, link: &Arc<ControlLink>) -> Result<Arc<Router>, MachineError> {
        let mut others = Vec::new();
        for id in self.topology.ids() {
            let rank =
                u16::try_from(self.topology.node(id)).map(Rank).map_err(|_| MachineError::Memory(self.memory))?;
            if rank != link.rank() {
                others.push((self.topology.apic_id(id), rank));
            }
        }
        Ok(Arc::new(Router::new(self.own_processors()).with_others(others, Arc::clone(link))))
    }

    fn whole(self, equipment: Equipment) -> Result<Machine, MachineError> {
        let router = Arc::new(Router::new(self.own_processors()));
        let clock = vcpus::new_clock(&self.raw)?;
        let (devices, rest) = devices::attach(equipment, &self.vm, &self.ram, &router, &self.ended)?;
        self.load(rest, Arc::new(devices), router, clock, None)
    }

    fn first(self, equipment: Equipment, cluster: Cluster, link: &Arc<ControlLink>) -> Result<Machine, MachineError> {
        let router = self.wide_router(link)?;
        let clock = vcpus::new_clock(&self.raw)?;
        let (devices, rest) = devices::attach(equipment, &self.vm, &self.ram, &router, &self.ended)?;
        let devices = Arc::new(devices);
        let first = ranks::FirstRank { topology: self.topology, devices: Arc::clone(&devices), clock };
        let ranks = ranks::start_first(cluster, Arc::clone(link), first, &router, &self.ended)?;
        self.load(rest, devices, router, clock, Some(ranks))
    }

    fn member(self, cluster: Cluster, link: &Arc<ControlLink>) -> Result<Machine, MachineError> {
        let router = self.wide_router(link)?;
        let forwarder = Arc::new(Forwarder::new(Arc::clone(link), self.raw.iter().map(|vcpu| vcpu.id)));
        let (ranks, measured) = ranks::start_member(cluster, Arc::clone(link), &forwarder, &router, &self.ended)?;
        let clock = ranks.take_clock(&measured, &self.raw)?;
        let vcpus = vcpus::equip(&self.hypervisor, &self.topology, self.raw, clock)?;
        let platform = Arc::new(Platform { io: Io::There(forwarder), router });
        let Self { vm, ram, handles, ended, events, .. } = self;
        let parts = Parts { handles, ranks: Some(ranks), platform: Arc::clone(&platform), clock, vm, ram };
        Ok(Machine { vcpus, platform, ended, events, parts })
    }

    /// Loads tables and kernel.
    fn load(
        self,
        rest: Rest,
        devices: Arc<Devices>,
        router: Arc<Router>,
        clock: GuestClock,
        ranks: Option<Ranks>,
    ) -> Result<Machine, MachineError> {
        let Self { hypervisor, topology, memory, vm, ram, raw, handles, ended, events } = self;
        let vcpus = vcpus::equip(&hypervisor, &topology, raw, clock)?;
        let Rest { kernel, initrd, command_line, virtio } = rest;
        let tables = acpi::build(&devices::acpi_config(&topology, memory, virtio))?;
        ram.alias_mapping().write_slice(&tables, GuestAddress(AREA_START))?;
        let plan = BootPlan::new(&kernel, &initrd, &command_line, memory)?;
        ram.make_resident(kernel.loaded_range());
        let entry = plan.load(ram.alias_mapping(), clock.khz())?;
        if let Some((bootstrap, reset)) = vcpus.first() {
            let (registers, special) = enter_long_mode(ram.alias_mapping(), entry, reset.special)?;
            bootstrap.fd.set_sregs(&special).map_err(KvmError::ioctl("set the first special registers"))?;
            bootstrap.fd.set_regs(&registers).map_err(KvmError::ioctl("set the first registers"))?;
        }
        let platform = Arc::new(Platform { io: Io::Here(devices), router });
        let parts = Parts { handles, ranks, platform: Arc::clone(&platform), clock, vm, ram };
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
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the mapping is as long as the region says and lives as long as the machine: `Running` drops the
        // vCPUs and the VM before it.
        unsafe { vm.set_user_memory_region(region) }.map_err(KvmError::ioctl("take guest memory"))?;
    }
    Ok(ram)
}
