//! DSDT (ACPI section 5.2.11.1): power-off's sleep type and the devices a guest cannot probe for.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, ONE, Package, Path, ResourceTemplate, Scope, ZERO,
};

use super::topology::table;
use super::{AcpiConfig, SLEEP_TYPE_S5, SerialPort, VirtioMmio, serialise};

/// From revision 2 on, integers have 64 bits.
const DSDT_REVISION: u8 = 2;
/// Number of I/O ports of a 16550.
const SERIAL_PORTS: u8 = 8;

/// The DSDT of this machine.
pub(super) fn build(config: &AcpiConfig) -> Vec<u8> {
    // Elements: SLP_TYPa, SLP_TYPb, two reserved (ACPI section 7.4.2). Hardware-reduced machines use the first.
    let s5 = Package::new(vec![&SLEEP_TYPE_S5, &ZERO, &ZERO, &ZERO]);
    let mut body = serialise(&Name::new(Path::new("_S5_"), &s5));
    let nvdimm = (!config.relaxed.is_empty()).then(nvdimm_root);
    let devices = [serial(config.serial)].into_iter().chain(nvdimm);
    let devices = devices.chain(config.virtio.iter().enumerate().map(virtio));
    let scope = Bytes(devices.flatten().collect());
    body.extend(serialise(&Scope::new(Path::new("_SB_"), vec![&scope])));
    table(*b"DSDT", DSDT_REVISION, &body)
}

fn serial(port: SerialPort) -> Vec<u8> {
    let ports = IO::new(port.io_port, port.io_port, 1, SERIAL_PORTS);
    let interrupt = edge_interrupt(port.gsi);
    serialise(&Device::new(
        Path::new("COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&ports, &interrupt])),
        ],
    ))
}

/// The NVDIMM root device (ACPI section 9.20.2), to which Linux's driver for the NFIT binds. It has no methods, as there are no modules.
fn nvdimm_root() -> Vec<u8> {
    serialise(&Device::new(Path::new("NVDR"), vec![&Name::new(Path::new("_HID"), &"ACPI0012")]))
}

/// Linux's virtio-mmio driver binds to the `_HID`; `_CCA` says that the device sees the processors' caches.
fn virtio((uid, device): (usize, &VirtioMmio)) -> Vec<u8> {
    let registers = Memory32Fixed::new(true, device.address, device.len);
    let interrupt = edge_interrupt(device.gsi);
    serialise(&Device::new(
        Path::new(&format!("V{uid:03X}")),
        vec![
            &Name::new(Path::new("_HID"), &"LNRO0005"),
            &Name::new(Path::new("_UID"), &uid),
            &Name::new(Path::new("_CCA"), &ONE),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&registers, &interrupt])),
        ],
    ))
}

fn edge_interrupt(gsi: u32) -> Interrupt {
    let (consumer, edge_triggered, active_low, shared) = (true, true, false, false);
    Interrupt::new(consumer, edge_triggered, active_low, shared, gsi)
}

/// AML that is already serialised.
struct Bytes(Vec<u8>);

impl Aml for Bytes {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}
