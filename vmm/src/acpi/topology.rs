//! MADT, SRAT and SLIT: processors, the IOAPIC, and what is near what.
//!
//! MADT and SRAT are put together from structures of our own, as `acpi_tables` has no x2APIC entries for either and
//! states revisions older than those entries.

use acpi_tables::Aml;
use acpi_tables::madt::IoApic as IoApicEntry;
use acpi_tables::sdt::Sdt;
use acpi_tables::slit::SLIT;
use acpi_tables::srat::MemoryAffinity;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

use super::{IoApic, LOCAL_APIC_ADDRESS, MemoryRange, OEM_ID, OEM_REVISION, OEM_TABLE_ID, Processor, serialise};

/// Length of the header that all tables share, in bytes (ACPI section 5.2.6).
const HEADER_LEN: u32 = 36;
/// MADT revision of ACPI 6.5.
const MADT_REVISION: u8 = 6;
/// SRAT revision of ACPI 6.5; from 2 on, proximity domains have 32 bits.
const SRAT_REVISION: u8 = 3;
/// Flag "enabled" of MADT and SRAT entries.
const ENABLED: u32 = 1;

/// Processor Local x2APIC structure (ACPI section 5.2.12.12).
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct LocalX2Apic {
    kind: u8,
    len: u8,
    reserved: U16,
    x2apic_id: U32,
    flags: U32,
    processor_uid: U32,
}
const _: () = assert!(size_of::<LocalX2Apic>() == 16);

/// Processor Local x2APIC Affinity structure (ACPI section 5.2.16.3).
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct X2ApicAffinity {
    kind: u8,
    len: u8,
    reserved: U16,
    proximity_domain: U32,
    x2apic_id: U32,
    flags: U32,
    clock_domain: U32,
    reserved2: U32,
}
const _: () = assert!(size_of::<X2ApicAffinity>() == 24);

/// MADT (ACPI section 5.2.12): all processors and the IOAPIC. PCAT_COMPAT is clear, as there is no 8259.
pub(super) fn madt(processors: &[Processor], io_apic: IoApic) -> Vec<u8> {
    const FLAGS: u32 = 0;
    let mut entries = Vec::new();
    entries.extend_from_slice(&LOCAL_APIC_ADDRESS.to_le_bytes());
    entries.extend_from_slice(&FLAGS.to_le_bytes());
    for (uid, processor) in (0..).zip(processors) {
        let entry = LocalX2Apic {
            kind: 9,
            len: 16,
            reserved: 0.into(),
            x2apic_id: processor.x2apic_id.into(),
            flags: ENABLED.into(),
            processor_uid: U32::new(uid),
        };
        entries.extend_from_slice(entry.as_bytes());
    }
    IoApicEntry::new(io_apic.id, io_apic.address, io_apic.gsi_base).to_aml_bytes(&mut entries);
    table(*b"APIC", MADT_REVISION, &entries)
}

/// SRAT (ACPI section 5.2.16): the node of every processor and memory range.
pub(super) fn srat(processors: &[Processor], memory: &[MemoryRange]) -> Vec<u8> {
    const RESERVED_ONE: u32 = 1;
    const RESERVED: u64 = 0;
    let mut entries = Vec::new();
    entries.extend_from_slice(&RESERVED_ONE.to_le_bytes());
    entries.extend_from_slice(&RESERVED.to_le_bytes());
    for processor in processors {
        let entry = X2ApicAffinity {
            kind: 2,
            len: 24,
            reserved: 0.into(),
            proximity_domain: processor.node.into(),
            x2apic_id: processor.x2apic_id.into(),
            flags: ENABLED.into(),
            clock_domain: 0.into(),
            reserved2: 0.into(),
        };
        entries.extend_from_slice(entry.as_bytes());
    }
    for range in memory {
        MemoryAffinity::new(range.node, range.start, range.len).enabled().to_aml_bytes(&mut entries);
    }
    table(*b"SRAT", SRAT_REVISION, &entries)
}

/// SLIT (ACPI section 5.2.17): every other node is equally far; the distance to itself is 10 by definition.
pub(super) fn slit(nodes: u32, distance: u8) -> Vec<u8> {
    let mut slit = SLIT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, nodes);
    let nodes = nodes as usize;
    for from in 0..nodes {
        for to in 0..from {
            slit.set_distance(from, to, distance);
        }
    }
    serialise(&slit)
}

/// A table of this signature: the common header with its checksum, then the body.
pub(super) fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Sdt::new(signature, HEADER_LEN, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(body);
    table.as_slice().to_vec()
}
