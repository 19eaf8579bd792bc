//! Building a machine: memory, vCPUs, interrupt controllers, devices, tables, kernel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use kvm_bindings::{CpuId, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, VmFd};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::config::{MachineConfig, MachineError};
use super::running::{Event, Parts, Running};
use crate::acpi::{self, AREA_START, AcpiConfig, MemoryRange, Processor, SerialPort, VirtioMmio};
use crate::apic::{IoApic, IoApicPin, Router};
use crate::boot::{BootPlan, enter_long_mode};
use crate::bus::{Bus, MmioDevice};
use crate::clock::GuestClock;
use crate::cpuid;
use crate::kvm::{self, Hypervisor, KvmError};
use crate::layout::{
    CLOCK_PORT, IO_APIC_SIZE, IO_APIC_START, POWER_PORT, SERIAL_GSI, SERIAL_PORT, VIRTIO_FIRST_GSI, VIRTIO_START,
    node_ranges, ram_regions,
};
use crate::legacy::{NoIntervalTimer, PowerRegisters, RealTimeClock, SerialConsole};
use crate::memory::GuestRam;
use crate::topology::{Topology, VcpuId};
use crate::vcpu::{Activity, Platform, ResetState, StateShape, Vcpu, VcpuHandle, spawn, write_msr};
use crate::virtio::{MMIO_SIZE, MmioTransport, NOTIFY_OFFSET};

/// IA32_MISC_ENABLE and its bit for fast string operations, which firmware sets (SDM volume 4, table 2-2).
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;

/// A machine that is built and loaded, not yet running.
#[derive(Debug)]
pub struct Machine {
    ram: GuestRam,
    vcpus: Vec<(Vcpu, ResetState)>,
    handles: Vec<VcpuHandle>,
    platform: Arc<Platform>,
    transports: Vec<Arc<MmioTransport>>,
    ended: Sender<Event>,
    events: Receiver<Event>,
    clock: GuestClock,
    vm: VmFd,
}

impl Machine {
    /// Builds a machine and loads its kernel.
    ///
    /// # Errors
    /// [`MachineError`] naming what is wrong or cannot be had.
    pub fn new(config: MachineConfig) -> Result<Self, MachineError> {
        config.check()?;
        let hypervisor = Hypervisor::open(&config.kvm)?;
        let (topology, limit) = (config.topology, hypervisor.max_vcpus());
        if topology.vcpus() as usize > limit {
            return Err(MachineError::Vcpus { vcpus: topology.vcpus(), limit });
        }
        let vm = hypervisor.create_vm()?;
        let ram = create_ram(&vm, config.memory)?;
        let (vcpus, handles, clock) = create_vcpus(&hypervisor, &vm, &topology)?;

        let ids = topology.ids().map(|id| topology.apic_id(id));
        let router =
            Arc::new(Router::new(ids.zip(handles.iter().map(|handle| Arc::clone(handle.mailbox()))).collect()));
        let io_apic = Arc::new(IoApic::new(Arc::clone(&router)));
        let (ended, events) = channel();
        let mut bus = Bus::default();
        bus.add_mmio(IO_APIC_START, IO_APIC_SIZE, Arc::new(IoApicRegisters(Arc::clone(&io_apic))))?;
        let line = |gsi: u32| Arc::new(IoApicPin::new(Arc::clone(&io_apic), gsi as usize));
        let serial = SerialConsole::new(line(SERIAL_GSI), config.serial_output);
        if let Some(input) = config.serial_input {
            serial.feed_from(input).map_err(MachineError::Thread)?;
        }
        bus.add_pio(SERIAL_PORT, SerialConsole::COUNT, serial)?;
        bus.add_pio(CLOCK_PORT, RealTimeClock::COUNT, Arc::new(RealTimeClock::default()))?;
        bus.add_pio(NoIntervalTimer::START, NoIntervalTimer::COUNT, Arc::new(NoIntervalTimer))?;
        let report = ended.clone();
        let reported = AtomicBool::new(false);
        let power = PowerRegisters::new(Box::new(move |event| {
            // The first counts: a guest that asks again and again must not fill memory with events.
            if !reported.swap(true, Ordering::Relaxed) {
                // Nobody waits any more when the machine is being taken down.
                let _ = report.send(Event::Power(event));
            }
        }));
        bus.add_pio(POWER_PORT, PowerRegisters::COUNT, Arc::new(power))?;
        for port in config.ports {
            bus.add_pio(port.start, port.len, port.device)?;
        }
        let mut transports = Vec::new();
        let mut virtio = Vec::new();
        for (device, (gsi, address)) in config.devices.into_iter().zip(virtio_places()) {
            let transport = Arc::new(MmioTransport::new(device, ram.device_memory(), line(gsi))?);
            register_notifications(&vm, &transport, address)?;
            bus.add_mmio(address.into(), MMIO_SIZE, Arc::clone(&transport) as Arc<dyn MmioDevice>)?;
            virtio.push(VirtioMmio { address, len: MMIO_LEN, gsi });
            transports.push(transport);
        }
        let tables = acpi::build(&acpi_config(&topology, config.memory, virtio))?;
        let memory = ram.device_memory();
        memory.write(GuestAddress(AREA_START), &tables)?;

        let plan = BootPlan::new(&config.kernel, &config.initrd, &config.command_line, config.memory)?;
        ram.make_resident(config.kernel.loaded_range());
        let entry = plan.load(&memory, clock.khz())?;
        if let Some((bootstrap, reset)) = vcpus.first() {
            let (registers, special) = enter_long_mode(&memory, entry, reset.special)?;
            bootstrap.fd.set_sregs(&special).map_err(KvmError::ioctl("set the first special registers"))?;
            bootstrap.fd.set_regs(&registers).map_err(KvmError::ioctl("set the first registers"))?;
        }
        let platform = Arc::new(Platform { bus, router, io_apic });
        Ok(Self { ram, vcpus, handles, platform, transports, ended, events, clock, vm })
    }

    /// Goes on with the clock of a machine whose vCPUs' states this one takes over: timers and the guest's idea of
    /// time refer to it. Without this a machine's clock starts near zero.
    ///
    /// # Errors
    /// [`MachineError::Clock`] when this host's counter has another rate, [`MachineError::Kvm`] when KVM refuses.
    pub fn continue_clock(&mut self, clock: GuestClock) -> Result<(), MachineError> {
        if clock.khz() != self.clock.khz() {
            return Err(MachineError::Clock { host: self.clock.khz(), guest: clock.khz() });
        }
        for (vcpu, _) in &mut self.vcpus {
            if kvm::set_tsc_offset(&vcpu.fd, clock.offset())? != clock.offset() {
                return Err(KvmError::Missing("offsets of the time-stamp counter (KVM_VCPU_TSC_OFFSET)").into());
            }
            vcpu.clock = clock;
        }
        self.clock = clock;
        Ok(())
    }

    /// Starts the vCPUs.
    ///
    /// # Errors
    /// [`MachineError::Thread`] when a thread cannot be started; those that were are stopped.
    pub fn start(self) -> Result<Running, MachineError> {
        let Self { ram, vcpus, handles, platform, transports, ended, events, clock, vm } = self;
        let parts = Parts { handles, io_apic: Arc::clone(&platform.io_apic), clock, transports, vm, ram };
        let mut running = Running::new(parts, events, ended.clone());
        for (vcpu, reset) in vcpus {
            let thread = spawn(vcpu, reset, Arc::clone(&platform), vcpu_ended(&ended)).map_err(MachineError::Thread)?;
            running.add_thread(thread);
        }
        Ok(running)
    }
}

fn vcpu_ended(events: &Sender<Event>) -> impl FnOnce(VcpuId, crate::vcpu::End) + Send + 'static {
    let events = events.clone();
    move |id, end| {
        // Nobody waits any more when the machine is being taken down.
        let _ = events.send(Event::Vcpu(id, end));
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

type Vcpus = (Vec<(Vcpu, ResetState)>, Vec<VcpuHandle>, GuestClock);

fn create_vcpus(hypervisor: &Hypervisor, vm: &VmFd, topology: &Topology) -> Result<Vcpus, MachineError> {
    let supported = hypervisor.supported_cpuid()?;
    let (candidates, xsave_size) = (hypervisor.state_msrs()?, hypervisor.xsave_size());
    let mut clock = None;
    let mut shape = None;
    let (mut vcpus, mut handles) = (Vec::new(), Vec::new());
    for id in topology.ids() {
        let fd = vm.create_vcpu(id.0.into()).map_err(KvmError::ioctl("create a vCPU"))?;
        let clock = match clock {
            Some(clock) => clock,
            None => {
                let khz = fd.get_tsc_khz().map_err(KvmError::ioctl("tell the time-stamp counter's rate"))?;
                let wanted = GuestClock::start(khz);
                let offset = kvm::set_tsc_offset(&fd, wanted.offset())?;
                *clock.insert(wanted.with_offset(offset))
            }
        };
        let leaves = CpuId::from_entries(&cpuid::for_vcpu(&supported, topology, id, clock.khz()))
            .map_err(|_| KvmError::Missing("room for this machine's CPUID leaves"))?;
        fd.set_cpuid2(&leaves).map_err(KvmError::ioctl("set CPUID"))?;
        kvm::set_tsc_offset(&fd, clock.offset())?;
        // Hosts without this Intel register need not have it set.
        let _ = write_msr(&fd, MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING);
        let shape = shape.get_or_insert_with(|| StateShape::probe(&fd, &candidates, xsave_size)).clone();
        let reset = ResetState {
            registers: fd.get_regs().map_err(KvmError::ioctl("read registers"))?,
            special: fd.get_sregs().map_err(KvmError::ioctl("read special registers"))?,
            debug: fd.get_debug_regs().map_err(KvmError::ioctl("read debug registers"))?,
        };
        let activity = if id.0 == 0 { Activity::Running } else { Activity::WaitForStartUp };
        let (vcpu, handle) = Vcpu::new(id, topology.apic_id(id), fd, shape, clock, activity);
        vcpus.push((vcpu, reset));
        handles.push(handle);
    }
    let clock = clock.ok_or(KvmError::Missing("a vCPU"))?;
    Ok((vcpus, handles, clock))
}

const MMIO_LEN: u32 = 0x1000;
const _: () = assert!(MMIO_LEN as u64 == MMIO_SIZE);
const VIRTIO_BASE: u32 = 0xd000_0000;
const _: () = assert!(VIRTIO_BASE as u64 == VIRTIO_START);

/// Interrupt and address of each virtio device.
fn virtio_places() -> impl Iterator<Item = (u32, u32)> {
    (VIRTIO_FIRST_GSI..).zip((VIRTIO_BASE..).step_by(MMIO_LEN as usize))
}

/// Lets KVM itself take the driver's notifications, which saves an exit to user space each time.
fn register_notifications(vm: &VmFd, transport: &MmioTransport, address: u32) -> Result<(), KvmError> {
    let register = IoEventAddress::Mmio(u64::from(address) + NOTIFY_OFFSET);
    for (queue, fd) in (0u32..).zip(transport.notify_fds()) {
        vm.register_ioevent(fd, &register, queue).map_err(KvmError::ioctl("take a device's notifications"))?;
    }
    Ok(())
}

fn acpi_config(topology: &Topology, memory: u64, virtio: Vec<VirtioMmio>) -> AcpiConfig {
    let processor = |id| Processor { x2apic_id: topology.apic_id(id), node: topology.node(id) };
    let range = |(start, len, node)| MemoryRange { start, len, node };
    AcpiConfig {
        base: AREA_START,
        processors: topology.ids().map(processor).collect(),
        memory: node_ranges(memory, topology.nodes()).into_iter().map(range).collect(),
        nodes: topology.nodes(),
        io_apic: acpi::IoApic { id: 0, address: IO_APIC_ADDRESS, gsi_base: 0 },
        virtio,
        serial: SerialPort { io_port: SERIAL_PORT, gsi: SERIAL_GSI },
        power: PowerRegisters::PORTS,
    }
}

const IO_APIC_ADDRESS: u32 = 0xfec0_0000;
const _: () = assert!(IO_APIC_ADDRESS as u64 == IO_APIC_START);

/// The IOAPIC's registers on the bus: the first 32 bits of an access count, a narrower one is ignored.
#[derive(Debug)]
struct IoApicRegisters(Arc<IoApic>);

impl MmioDevice for IoApicRegisters {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(register) = data.first_chunk_mut::<4>() {
            *register = self.0.read(offset).to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(register) = data.first_chunk::<4>() {
            self.0.write(offset, u32::from_le_bytes(*register));
        }
    }
}

impl MmioDevice for MmioTransport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        Self::read(self, offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        Self::write(self, offset, data);
    }
}
