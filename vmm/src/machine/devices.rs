//! Putting a machine's devices on its bus.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use kvm_ioctls::{IoEventAddress, VmFd};

use super::config::{Equipment, MachineError};
use super::running::Event;
use crate::acpi::{
    self, AREA_START, AcpiConfig, MemoryRange, OTHER_RANK_DISTANCE, Processor, SAME_HOST_DISTANCE, SerialPort,
    VirtioMmio,
};
use crate::apic::{IoApic, IoApicPin, Router};
use crate::bus::{Bus, MmioDevice};
use crate::cluster::Devices;
use crate::kvm::KvmError;
use crate::layout::{
    CLOCK_PORT, IO_APIC_SIZE, IO_APIC_START, POWER_PORT, SERIAL_GSI, SERIAL_PORT, VIRTIO_FIRST_GSI, VIRTIO_START,
    node_ranges,
};
use crate::legacy::{NoIntervalTimer, PowerRegisters, RealTimeClock, SerialConsole};
use crate::memory::DeviceMemory;
use crate::topology::Topology;
use crate::virtio::{MMIO_SIZE, MmioTransport, NOTIFY_OFFSET, VirtioDevice};

const MMIO_LEN: u32 = 0x1000;
const _: () = assert!(MMIO_LEN as u64 == MMIO_SIZE);
const VIRTIO_BASE: u32 = 0xd000_0000;
const _: () = assert!(VIRTIO_BASE as u64 == VIRTIO_START);
const IO_APIC_ADDRESS: u32 = 0xfec0_0000;
const _: () = assert!(IO_APIC_ADDRESS as u64 == IO_APIC_START);

/// What of the equipment is not a device.
pub(super) struct Rest {
    pub(super) kernel: crate::boot::KernelImage,
    pub(super) initrd: Vec<u8>,
    pub(super) command_line: String,
    /// Where the guest finds the virtio devices.
    pub(super) virtio: Vec<VirtioMmio>,
}

/// Puts the devices of the equipment on a bus.
pub(super) fn attach(
    equipment: Equipment,
    vm: &VmFd,
    memory: &DeviceMemory,
    router: &Arc<Router>,
    events: &Sender<Event>,
) -> Result<(Devices, Rest), MachineError> {
    let Equipment { kernel, initrd, command_line, serial_output, serial_input, devices, ports } = equipment;
    let io_apic = Arc::new(IoApic::new(Arc::clone(router)));
    let mut bus = Bus::default();
    bus.add_mmio(IO_APIC_START, IO_APIC_SIZE, Arc::new(IoApicRegisters(Arc::clone(&io_apic))))?;
    let line = |gsi: u32| Arc::new(IoApicPin::new(Arc::clone(&io_apic), gsi as usize));
    let serial = SerialConsole::new(line(SERIAL_GSI), serial_output);
    if let Some(input) = serial_input {
        serial.feed_from(input).map_err(MachineError::Thread)?;
    }
    bus.add_pio(SERIAL_PORT, SerialConsole::COUNT, serial)?;
    bus.add_pio(CLOCK_PORT, RealTimeClock::COUNT, Arc::new(RealTimeClock::default()))?;
    bus.add_pio(NoIntervalTimer::START, NoIntervalTimer::COUNT, Arc::new(NoIntervalTimer))?;
    bus.add_pio(POWER_PORT, PowerRegisters::COUNT, Arc::new(power_registers(events)))?;
    for port in ports {
        bus.add_pio(port.start, port.len, port.device)?;
    }
    let (transports, virtio) = attach_virtio(devices, vm, memory, &mut bus, &line)?;
    let virtio_devices = virtio.iter().map(|place| u64::from(place.address)).zip(transports).collect();
    Ok((Devices { bus, io_apic, virtio: virtio_devices }, Rest { kernel, initrd, command_line, virtio }))
}

fn power_registers(events: &Sender<Event>) -> PowerRegisters {
    let report = events.clone();
    let reported = AtomicBool::new(false);
    PowerRegisters::new(Box::new(move |event| {
        // The first counts: a guest that asks again and again must not fill memory with events.
        if !reported.swap(true, Ordering::Relaxed) {
            // Nobody waits any more when the machine is being taken down.
            let _ = report.send(Event::Power(event));
        }
    }))
}

type Virtio = (Vec<Arc<MmioTransport>>, Vec<VirtioMmio>);

fn attach_virtio(
    devices: Vec<Box<dyn VirtioDevice>>,
    vm: &VmFd,
    memory: &DeviceMemory,
    bus: &mut Bus,
    line: &impl Fn(u32) -> Arc<IoApicPin>,
) -> Result<Virtio, MachineError> {
    let (mut transports, mut places) = (Vec::new(), Vec::new());
    for (device, (gsi, address)) in devices.into_iter().zip(virtio_places()) {
        let transport = Arc::new(MmioTransport::new(device, memory.clone(), line(gsi))?);
        register_notifications(vm, &transport, address)?;
        bus.add_mmio(address.into(), MMIO_SIZE, Arc::clone(&transport) as Arc<dyn MmioDevice>)?;
        places.push(VirtioMmio { address, len: MMIO_LEN, gsi });
        transports.push(transport);
    }
    Ok((transports, places))
}

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

/// What the ACPI tables are to say, but for relaxed memory.
pub(super) fn acpi_config(topology: &Topology, memory: u64, virtio: Vec<VirtioMmio>, is_spread: bool) -> AcpiConfig {
    let processor = |id| Processor { x2apic_id: topology.apic_id(id), node: topology.node(id) };
    let range = |(start, len, node)| MemoryRange { start, len, node };
    AcpiConfig {
        base: AREA_START,
        processors: topology.ids().map(processor).collect(),
        memory: node_ranges(memory, topology.nodes()).into_iter().map(range).collect(),
        relaxed: Vec::new(),
        nodes: topology.nodes(),
        node_distance: if is_spread { OTHER_RANK_DISTANCE } else { SAME_HOST_DISTANCE },
        io_apic: acpi::IoApic { id: 0, address: IO_APIC_ADDRESS, gsi_base: 0 },
        virtio,
        serial: SerialPort { io_port: SERIAL_PORT, gsi: SERIAL_GSI },
        power: PowerRegisters::PORTS,
    }
}

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
