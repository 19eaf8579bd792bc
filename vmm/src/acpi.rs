//! The guest's ACPI tables (ACPI 6.5): how it finds its processors, NUMA nodes, devices, power-off and reset.
//!
//! The machine is *hardware-reduced* (ACPI section 4.1): no SMI, no PM timer, no fixed power button, no legacy
//! interrupt controller; so no FACS either. [`build`] is pure: a description of the machine in, the bytes of all
//! tables out, laid out for one guest-physical address with the RSDP first.
//!
//! Decisions, checked against Linux 6.1:
//!
//! - Every processor is a Processor Local x2APIC entry (MADT type 9), whatever its ID. Linux accepts the type for IDs
//!   below 255 (`acpi_parse_x2apic` asks only that the APIC driver find the ID valid, and wants at least one entry of
//!   either type); the rule that small IDs use type 0 binds only older systems (ACPI section 5.2.12.12). One entry
//!   form means one numbering for any number of processors. SRAT uses the x2APIC affinity form for the same reason.
//! - No ACPI0007 processor devices: the number of processors is fixed, their nodes are in SRAT, and Linux brings
//!   processors up from the MADT alone. A device each would only lengthen boot.
//! - CMOS_RTC_NOT_PRESENT only keeps Linux's driver for the clock's interrupt away. Linux still reads the time of day
//!   from ports 0x70 and 0x71 at boot, and waits for more than a second when they read as ones.
//! - One NUMA node still gets SRAT and SLIT: Linux takes a single-node pair as the plain case.

mod dsdt;
mod fadt;
mod nfit;
mod topology;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;

/// First byte of the area in which a guest looks for the RSDP (ACPI section 5.2.5.1).
pub const AREA_START: u64 = 0xE_0000;
/// First byte after that area.
pub const AREA_END: u64 = 0x10_0000;
/// Alignment of the RSDP in bytes (ACPI section 5.2.5.1); the other tables are laid out with it too.
pub const ALIGNMENT: usize = 16;
/// SLIT distance of two nodes of one rank, whose memory is equally near in truth: what real machines of two sockets say.
pub const SAME_HOST_DISTANCE: u8 = 20;
/// SLIT distance of nodes on different ranks. Beyond 30 (Linux, `RECLAIM_DISTANCE`) the scheduler leaves a task where it is when it forks, execs or
/// wakes, and moves it to another node only for the balance of the load.
pub const OTHER_RANK_DISTANCE: u8 = 40;
/// Most NUMA nodes: one for each of 255 ranks. SLIT grows with the square and takes 65 kB of the area then.
pub const MAX_NODES: u32 = 255;
/// Most virtio-mmio devices: their names in the DSDT have three hexadecimal digits.
pub const MAX_VIRTIO_DEVICES: usize = 0x1000;

/// Address of the local APICs as the MADT states it (SDM volume 3, section 11.4.1); unused in x2APIC mode.
pub const LOCAL_APIC_ADDRESS: u32 = 0xFEE0_0000;
/// What the guest writes to the sleep-control port to power off: SLP_EN with the sleep type of `\_S5` (ACPI section
/// 4.8.3.7). It writes WAK_STS (0x80) to the sleep-status port just before.
pub const POWER_OFF_VALUE: u8 = 1 << 5 | SLEEP_TYPE_S5 << 2;
/// What the guest writes to the reset port to reset the machine.
pub const RESET_VALUE: u8 = 1;

/// Sleep type (3 bits) that the DSDT names for power-off.
const SLEEP_TYPE_S5: u8 = 5;
const OEM_ID: [u8; 6] = *b"VINCS ";
const OEM_TABLE_ID: [u8; 8] = *b"VINCSVM ";
const OEM_REVISION: u32 = 1;

/// A virtual processor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Processor {
    /// Its x2APIC ID; all ones is not a valid ID.
    pub x2apic_id: u32,
    /// Its NUMA node.
    pub node: u32,
}

/// A range of RAM, or of relaxed memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MemoryRange {
    /// Guest-physical address of its first byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Its NUMA node.
    pub node: u32,
}

/// The IOAPIC.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IoApic {
    /// Its APIC ID.
    pub id: u8,
    /// Guest-physical address of its registers.
    pub address: u32,
    /// Global system interrupt of its first pin.
    pub gsi_base: u32,
}

/// A virtio device on the memory-mapped transport (virtio 1.2 section 4.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VirtioMmio {
    /// Guest-physical address of its registers.
    pub address: u32,
    /// Length of its register window in bytes.
    pub len: u32,
    /// Global system interrupt it raises (edge-triggered, active high).
    pub gsi: u32,
}

/// A 16550 serial port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SerialPort {
    /// First of its eight I/O ports.
    pub io_port: u16,
    /// Global system interrupt it raises (edge-triggered, active high).
    pub gsi: u32,
}

/// The 8-bit I/O ports through which the guest powers off and resets the machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PowerPorts {
    /// SLEEP_CONTROL_REG: takes [`POWER_OFF_VALUE`].
    pub sleep_control: u16,
    /// SLEEP_STATUS_REG: reads as 0.
    pub sleep_status: u16,
    /// RESET_REG: takes [`RESET_VALUE`].
    pub reset: u16,
}

/// The machine the tables describe.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AcpiConfig {
    /// Guest-physical address of the first table, a multiple of [`ALIGNMENT`] in [`AREA_START`]..[`AREA_END`].
    pub base: u64,
    /// Processors, the boot processor first. The position in the list is the ACPI processor UID.
    pub processors: Vec<Processor>,
    /// RAM.
    pub memory: Vec<MemoryRange>,
    /// Relaxed memory, apart from RAM; empty for none. At most one range for each node.
    pub relaxed: Vec<MemoryRange>,
    /// Number of NUMA nodes; nodes are 0..nodes.
    pub nodes: u32,
    /// SLIT distance of two nodes: [`SAME_HOST_DISTANCE`] or [`OTHER_RANK_DISTANCE`].
    pub node_distance: u8,
    /// The IOAPIC.
    pub io_apic: IoApic,
    /// Virtio devices. The position in the list is the `_UID`.
    pub virtio: Vec<VirtioMmio>,
    /// The console's serial port.
    pub serial: SerialPort,
    /// Power-off and reset.
    pub power: PowerPorts,
}

/// Why a machine cannot be described by ACPI tables.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum AcpiError {
    /// There is nothing to boot on.
    #[error("the machine has no processor; give it at least one")]
    NoProcessor,
    /// The ID with all bits set means "every processor".
    #[error("processor {processor} has x2APIC ID 0xffffffff, which means every processor; give it another ID")]
    BroadcastId {
        /// Position in the list.
        processor: usize,
    },
    /// IPIs to the ID would be ambiguous.
    #[error("x2APIC ID {id} is given to two processors; give each its own")]
    DuplicateId {
        /// The ID.
        id: u32,
    },
    /// The number of nodes is out of range.
    #[error("{nodes} NUMA nodes asked for; there can be 1 to {MAX_NODES}")]
    Nodes {
        /// The number asked for.
        nodes: u32,
    },
    /// A processor or memory range is in a node that does not exist.
    #[error("{what} is in NUMA node {node}, but there are only {nodes}, numbered from 0")]
    NoSuchNode {
        /// Names the processor or memory range.
        what: String,
        /// Its node.
        node: u32,
        /// Number of nodes.
        nodes: u32,
    },
    /// More devices than names.
    #[error("{devices} virtio devices asked for; there can be at most {MAX_VIRTIO_DEVICES}")]
    TooManyDevices {
        /// The number asked for.
        devices: usize,
    },
    /// The guest would not find the RSDP there.
    #[error(
        "ACPI tables cannot start at {base:#x}: a guest looks for them at multiples of {ALIGNMENT} from \
         {AREA_START:#x} to {AREA_END:#x}"
    )]
    Base {
        /// The address asked for.
        base: u64,
    },
    /// The area is too small for this machine.
    #[error("the ACPI tables take {size} bytes, but there are only {room} from {base:#x} to {AREA_END:#x}")]
    NoRoom {
        /// Bytes the tables take.
        size: u64,
        /// Bytes there are.
        room: u64,
        /// Address asked for.
        base: u64,
    },
}

/// The bytes of all tables, to be written at [`AcpiConfig::base`]; the RSDP comes first.
///
/// # Errors
/// [`AcpiError`] when the description contradicts itself or the tables do not fit below [`AREA_END`].
pub fn build(config: &AcpiConfig) -> Result<Vec<u8>, AcpiError> {
    check(config)?;
    let mut area = Area { base: config.base, bytes: Vec::new() };
    // The RSDP comes first but names the XSDT, which names everything else: leave its place and fill it in last.
    area.place(&vec![0; Rsdp::len()]);
    let dsdt = area.place(&dsdt::build(config));
    let mut tables = vec![
        fadt::build(&config.power, dsdt),
        topology::madt(&config.processors, config.io_apic),
        topology::srat(&config.processors, &config.memory),
        topology::slit(config.nodes, config.node_distance),
    ];
    if !config.relaxed.is_empty() {
        tables.push(nfit::build(&config.relaxed));
    }
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for table in &tables {
        xsdt.add_entry(area.place(table));
    }
    let xsdt = area.place(&serialise(&xsdt));
    let mut bytes = area.bytes;
    for (to, from) in bytes.iter_mut().zip(serialise(&Rsdp::new(OEM_ID, xsdt))) {
        *to = from;
    }

    let size = bytes.len() as u64;
    let room = AREA_END - config.base;
    if size > room {
        return Err(AcpiError::NoRoom { size, room, base: config.base });
    }
    Ok(bytes)
}

fn check(config: &AcpiConfig) -> Result<(), AcpiError> {
    let base = config.base;
    if !(AREA_START..AREA_END).contains(&base) || !base.is_multiple_of(ALIGNMENT as u64) {
        return Err(AcpiError::Base { base });
    }
    let nodes = config.nodes;
    if !(1..=MAX_NODES).contains(&nodes) {
        return Err(AcpiError::Nodes { nodes });
    }
    if config.virtio.len() > MAX_VIRTIO_DEVICES {
        return Err(AcpiError::TooManyDevices { devices: config.virtio.len() });
    }
    if config.processors.is_empty() {
        return Err(AcpiError::NoProcessor);
    }
    let mut ids = BTreeSet::new();
    for (processor, &Processor { x2apic_id, node }) in config.processors.iter().enumerate() {
        if x2apic_id == u32::MAX {
            return Err(AcpiError::BroadcastId { processor });
        }
        if !ids.insert(x2apic_id) {
            return Err(AcpiError::DuplicateId { id: x2apic_id });
        }
        if node >= nodes {
            return Err(AcpiError::NoSuchNode { what: format!("processor {processor}"), node, nodes });
        }
    }
    for &MemoryRange { start, len, node } in config.memory.iter().chain(&config.relaxed) {
        if node >= nodes {
            return Err(AcpiError::NoSuchNode { what: format!("memory {start:#x}+{len:#x}"), node, nodes });
        }
    }
    Ok(())
}

/// Tables laid out one after the other.
struct Area {
    base: u64,
    bytes: Vec<u8>,
}

impl Area {
    /// Appends a table at the next aligned address, and returns that.
    fn place(&mut self, table: &[u8]) -> u64 {
        let offset = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(offset, 0);
        self.bytes.extend_from_slice(table);
        self.base + offset as u64
    }
}

fn serialise(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}
