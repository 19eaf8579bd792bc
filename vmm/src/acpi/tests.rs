//! The tables as a guest reads them (own parse) and as ACPICA's `iasl` does.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use super::*;

const BASE: u64 = AREA_START;
const STEP: u64 = ALIGNMENT as u64;

/// A machine of so many processors, spread over nodes of 1 GiB each.
fn machine(processors: u32, nodes: u32) -> AcpiConfig {
    AcpiConfig {
        base: BASE,
        processors: (0..processors).map(|id| Processor { x2apic_id: id, node: id % nodes }).collect(),
        memory: (0..nodes)
            .map(|node| MemoryRange { start: 0x1_0000_0000 + (u64::from(node) << 30), len: 1 << 30, node })
            .chain([MemoryRange { start: 0, len: 0xA_0000, node: 0 }])
            .collect(),
        relaxed: Vec::new(),
        nodes,
        node_distance: OTHER_RANK_DISTANCE,
        io_apic: IoApic { id: 0, address: 0xFEC0_0000, gsi_base: 0 },
        virtio: (0..5).map(|n| VirtioMmio { address: 0xD000_0000 + n * 0x1000, len: 0x1000, gsi: 5 + n }).collect(),
        serial: SerialPort { io_port: 0x3F8, gsi: 4 },
        power: PowerPorts { sleep_control: 0x600, sleep_status: 0x601, reset: 0x602 },
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at a guest-physical address, its alignment, length and checksum checked.
fn table_at(bytes: &[u8], address: u64) -> &[u8] {
    assert_eq!(address % STEP, 0, "{address:#x}");
    let table = &bytes[usize::try_from(address - BASE).unwrap()..];
    let table = &table[..u32_at(table, 4) as usize];
    assert_eq!(sum(table), 0, "checksum of {}", table[..4].escape_ascii());
    table
}

/// Follows RSDP, XSDT and FADT to all tables, as a guest does.
fn tables(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    assert_eq!(&bytes[..8], b"RSD PTR ");
    assert_eq!((bytes[15], u32_at(bytes, 16), u32_at(bytes, 20)), (2, 0, 36), "revision, no RSDT, length");
    assert_eq!((sum(&bytes[..20]), sum(&bytes[..36])), (0, 0));
    let xsdt = table_at(bytes, u64_at(bytes, 24));
    let mut found = vec![xsdt];
    for entry in xsdt[36..].chunks_exact(8) {
        let table = table_at(bytes, u64::from_le_bytes(entry.try_into().unwrap()));
        found.push(table);
        if &table[..4] == b"FACP" {
            assert_eq!(u32_at(table, 40), 0, "32-bit DSDT address");
            found.push(table_at(bytes, u64_at(table, 140)));
        }
    }
    found.iter().map(|table| (table[..4].escape_ascii().to_string(), table.to_vec())).collect()
}

fn table(config: &AcpiConfig, signature: &str) -> Vec<u8> {
    let all = tables(&build(config).unwrap());
    all.into_iter().find(|(name, _)| name == signature).unwrap().1
}

/// The (type, bytes) entries of a table from this offset on.
fn entries(table: &[u8], mut offset: usize) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while offset < table.len() {
        let len = usize::from(table[offset + 1]);
        found.push((table[offset], table[offset..offset + len].to_vec()));
        offset += len;
    }
    assert_eq!(offset, table.len());
    found
}

#[test]
fn every_table_is_found_from_the_rsdp() {
    let bytes = build(&machine(2, 2)).unwrap();
    let names: Vec<_> = tables(&bytes).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["XSDT", "FACP", "DSDT", "APIC", "SRAT", "SLIT"]);
}

#[test]
fn fadt_says_hardware_reduced_and_names_the_power_ports() {
    let fadt = table(&machine(1, 1), "FACP");
    assert_eq!((fadt[8], fadt[131], fadt.len()), (6, 5, 276), "revision 6.5");
    let flags = u32_at(&fadt, 112);
    for bit in [4, 5, 10, 20] {
        assert_ne!(flags & 1 << bit, 0, "flag {bit}");
    }
    assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 1 << 2 | 1 << 5, "IAPC_BOOT_ARCH");
    assert_eq!((u32_at(&fadt, 76), u64_at(&fadt, 212)), (0, 0), "no PM timer");
    for (offset, port) in [(116, 0x602), (244, 0x600), (256, 0x601)] {
        assert_eq!(&fadt[offset..offset + 4], &[1, 8, 0, 1], "8 bits of system I/O, byte access");
        assert_eq!(u64_at(&fadt, offset + 4), port);
    }
    assert_eq!(fadt[128], RESET_VALUE);
    assert_eq!(POWER_OFF_VALUE, 0x34);
}

#[test]
fn madt_has_an_x2apic_entry_for_each_processor_and_the_ioapic() {
    for processors in [1, 255, 300] {
        let madt = table(&machine(processors, 1), "APIC");
        assert_eq!((u32_at(&madt, 36), u32_at(&madt, 40)), (LOCAL_APIC_ADDRESS, 0), "address, no PCAT_COMPAT");
        let entries = entries(&madt, 44);
        assert_eq!(entries.len(), processors as usize + 1);
        for (id, (kind, entry)) in (0..processors).zip(&entries) {
            assert_eq!((*kind, entry.len()), (9, 16));
            assert_eq!((u32_at(entry, 4), u32_at(entry, 8), u32_at(entry, 12)), (id, 1, id), "ID, enabled, UID");
        }
        let (kind, io_apic) = entries.last().unwrap();
        assert_eq!((*kind, io_apic[2], u32_at(io_apic, 4), u32_at(io_apic, 8)), (1, 0, 0xFEC0_0000, 0));
    }
}

#[test]
fn srat_puts_processors_and_memory_into_their_nodes() {
    let config = machine(16, 8);
    let srat = table(&config, "SRAT");
    assert_eq!(u32_at(&srat, 36), 1);
    let (processors, memory): (Vec<_>, Vec<_>) = entries(&srat, 48).into_iter().partition(|(kind, _)| *kind == 2);
    let processors: Vec<_> = processors
        .iter()
        .map(|(_, e)| (Processor { node: u32_at(e, 4), x2apic_id: u32_at(e, 8) }, e.len(), u32_at(e, 12)))
        .collect();
    let expected: Vec<_> = config.processors.iter().map(|p| (*p, 24, 1)).collect();
    assert_eq!(processors, expected);
    let memory: Vec<_> = memory
        .iter()
        .map(|(kind, e)| {
            assert_eq!((*kind, e.len(), u32_at(e, 28)), (1, 40, 1), "memory affinity, enabled");
            MemoryRange { node: u32_at(e, 2), start: u64_at(e, 8), len: u64_at(e, 16) }
        })
        .collect();
    assert_eq!(memory, config.memory);
}

#[test]
fn slit_is_10_to_itself_and_as_said_elsewhere() {
    for nodes in [1, 2, 8] {
        let slit = table(&machine(1, nodes), "SLIT");
        assert_eq!(u64_at(&slit, 36), u64::from(nodes));
        let nodes = nodes as usize;
        assert_eq!(slit.len(), 44 + nodes * nodes);
        for (n, distance) in slit[44..].iter().enumerate() {
            assert_eq!(*distance, if n / nodes == n % nodes { 10 } else { OTHER_RANK_DISTANCE });
        }
    }
}

#[test]
fn relaxed_memory_is_in_the_nfit_and_has_its_root_device() {
    let mut config = machine(2, 2);
    let without = tables(&build(&config).unwrap());
    assert!(!without.iter().any(|(name, _)| name == "NFIT"));
    config.relaxed = vec![
        MemoryRange { start: 4 << 30, len: 66 << 20, node: 0 },
        MemoryRange { start: 5 << 30, len: 4 << 20, node: 1 },
    ];
    let nfit = table(&config, "NFIT");
    assert_eq!((nfit[8], u32_at(&nfit, 36), nfit.len()), (1, 0, 40 + 2 * 56), "revision, reserved");
    for (entry, (index, range)) in nfit[40..].chunks_exact(56).zip((1..).zip(&config.relaxed)) {
        assert_eq!((u32_at(entry, 0), u32_at(entry, 4)), (56 << 16, 2 << 16 | index), "kind, length; index, flags");
        assert_eq!((u32_at(entry, 8), u32_at(entry, 12)), (0, range.node));
        assert_eq!(u32_at(entry, 16), 0x66f0_d379, "the GUID's first field");
        assert_eq!(entry[20..32], [0xf3, 0xb4, 0x74, 0x40, 0xac, 0x43, 0x0d, 0x33, 0x18, 0xb7, 0x8c, 0xdb]);
        assert_eq!((u64_at(entry, 32), u64_at(entry, 40), u64_at(entry, 48)), (range.start, range.len, 0x8008));
    }
    let dsdt = |config| table(config, "DSDT").windows(8).any(|window| window == b"ACPI0012");
    assert!(dsdt(&config) && !dsdt(&machine(2, 2)));
    config.relaxed[1].node = 2;
    assert!(matches!(build(&config), Err(AcpiError::NoSuchNode { node: 2, .. })));
}

#[test]
fn the_largest_machine_fits_and_one_byte_less_does_not() {
    let mut config = machine(255, MAX_NODES);
    config.relaxed = (0..MAX_NODES).map(|node| MemoryRange { start: u64::from(node) << 40, len: 1, node }).collect();
    let size = build(&config).unwrap().len() as u64;
    config.base = (AREA_END - size) / STEP * STEP;
    assert!(build(&config).is_ok());
    config.base += STEP;
    let room = AREA_END - config.base;
    let error = build(&config).unwrap_err();
    assert_eq!(error, AcpiError::NoRoom { size, room, base: config.base });
    assert!(error.to_string().contains(&format!("{size} bytes, but there are only {room}")), "{error}");
}

/// Builds the two-processor machine after a change that must be refused.
fn refused(change: impl FnOnce(&mut AcpiConfig)) -> AcpiError {
    let mut config = machine(2, 2);
    change(&mut config);
    build(&config).unwrap_err()
}

#[test]
fn contradictions_are_named() {
    assert_eq!(refused(|c| c.processors.clear()), AcpiError::NoProcessor);
    assert_eq!(refused(|c| c.processors[1].x2apic_id = u32::MAX), AcpiError::BroadcastId { processor: 1 });
    assert_eq!(refused(|c| c.processors[1].x2apic_id = 0), AcpiError::DuplicateId { id: 0 });
    assert_eq!(refused(|c| c.nodes = 0), AcpiError::Nodes { nodes: 0 });
    assert_eq!(refused(|c| c.nodes = MAX_NODES + 1), AcpiError::Nodes { nodes: MAX_NODES + 1 });
    assert_eq!(
        refused(|c| c.processors[1].node = 2),
        AcpiError::NoSuchNode { what: "processor 1".into(), node: 2, nodes: 2 }
    );
    assert_eq!(
        refused(|c| c.memory[2].node = 9),
        AcpiError::NoSuchNode { what: "memory 0x0+0xa0000".into(), node: 9, nodes: 2 }
    );
    let device = machine(1, 1).virtio[0];
    let devices = MAX_VIRTIO_DEVICES + 1;
    assert_eq!(refused(|c| c.virtio = vec![device; devices]), AcpiError::TooManyDevices { devices });
    assert!(matches!(refused(|c| c.virtio = vec![device; devices - 1]), AcpiError::NoRoom { .. }));
    for base in [0, AREA_START - STEP, AREA_START + 1, AREA_END] {
        assert_eq!(refused(|c| c.base = base), AcpiError::Base { base });
    }
}

/// Runs `iasl` in a folder; its output when it succeeds without an error, warning or remark.
fn iasl(folder: &Path, arguments: &[&str]) -> String {
    let output = match Command::new("iasl").args(arguments).current_dir(folder).output() {
        Ok(output) => output,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            panic!("iasl is not installed: apt-get install acpica-tools")
        }
        Err(e) => panic!("cannot run iasl: {e}"),
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "iasl {arguments:?}:\n{text}");
    let clean = text.replace("0 Errors, 0 Warnings, 0 Remarks", "").to_lowercase();
    for complaint in ["error", "warning", "remark", "invalid", "incorrect"] {
        assert!(!clean.contains(complaint), "iasl {arguments:?}:\n{text}");
    }
    text
}

/// Disassembles every table of a machine; the sources by signature.
fn disassemble(config: &AcpiConfig, folder: &Path) -> Vec<(String, String)> {
    let tables = tables(&build(config).unwrap());
    tables
        .into_iter()
        .map(|(name, bytes)| {
            fs::write(folder.join(format!("{name}.aml")), bytes).unwrap();
            iasl(folder, &["-d", &format!("{name}.aml")]);
            let source = fs::read_to_string(folder.join(format!("{name}.dsl"))).unwrap();
            assert!(!source.to_lowercase().contains("incorrect checksum"), "{source}");
            (name, source)
        })
        .collect()
}

#[test]
fn iasl_reads_every_table_and_compiles_the_dsdt_again() {
    for (processors, nodes) in [(1, 1), (255, 8)] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = machine(processors, nodes);
        config.relaxed = vec![MemoryRange { start: 4 << 30, len: 66 << 20, node: 0 }];
        let sources = disassemble(&config, folder.path());
        let source = |signature: &str| &sources.iter().find(|(name, _)| name == signature).unwrap().1;
        for (signature, line) in [
            ("FACP", "Hardware Reduced (V5) : 1"),
            ("FACP", "Reset Register Supported (V2) : 1"),
            ("FACP", "8042 Present on ports 60/64 (V2) : 0"),
            ("FACP", "CMOS RTC Not Present (V5) : 1"),
            ("APIC", "[Processor Local x2APIC]"),
            ("APIC", "PC-AT Compatibility : 0"),
            ("SRAT", "[Processor Local x2APIC Affinity]"),
            ("SRAT", "[Memory Affinity]"),
            ("SLIT", "System Locality Information Table"),
            ("NFIT", "[System Physical Address Range]"),
            ("NFIT", "66F0D379-B4F3-4074-AC43-0D3318B78CDB"),
            ("NFIT", "Proximity Domain Valid : 1"),
            ("DSDT", "Device (NVDR)"),
            ("DSDT", "Name (_S5, Package (0x04)"),
            ("DSDT", "Device (COM1)"),
            ("DSDT", "Name (_HID, EisaId (\"PNP0501\")"),
            ("DSDT", "Device (V004)"),
            ("DSDT", "Name (_HID, \"LNRO0005\")"),
            ("DSDT", "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive"),
            ("DSDT", "0xD0004000,         // Address Base"),
            ("DSDT", "0x00000009,"),
        ] {
            assert!(source(signature).contains(line), "{signature} lacks {line:?}:\n{}", source(signature));
        }
        assert_eq!(source("APIC").matches("[Processor Local x2APIC]").count(), processors as usize);

        let original = fs::read(folder.path().join("DSDT.aml")).unwrap();
        let report = iasl(folder.path(), &["-p", "again", "DSDT.dsl"]);
        assert!(report.contains("0 Errors, 0 Warnings, 0 Remarks"), "{report}");
        let again = fs::read(folder.path().join("again.aml")).unwrap();
        assert_eq!(again[36..], original[36..], "the same AML but for the header");
    }
}
