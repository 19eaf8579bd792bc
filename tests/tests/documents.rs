//! The tables of docs/ say what the code does: registers, interrupts, addresses, ports, kernel options and exit statuses are
//! compared both ways, so that neither a change of the code nor one of a table goes unnoticed.

use std::collections::BTreeMap;

use vincs_tests::workspace_root;
use vincs_vmm::acpi::{AREA_START, LOCAL_APIC_ADDRESS};
use vincs_vmm::apic::{IO_APIC_PINS, LocalApic};
use vincs_vmm::layout::{
    CLOCK_PORT, DEVICE_GAP_END, DEVICE_GAP_START, HIGH_RAM_START, IO_APIC_START, LOW_RAM_END, SERIAL_GSI, SERIAL_PORT,
    VIRTIO_FIRST_GSI, VIRTIO_START,
};
use vincs_vmm::legacy::{NoIntervalTimer, PowerRegisters, RealTimeClock, SerialConsole};
use vincs_vmm::topology::MAX_VCPUS;

/// Empty when there is no such document, so that what is looked for in it is missing.
fn document(name: &str) -> String {
    std::fs::read_to_string(workspace_root().join("docs").join(name)).unwrap_or_default()
}

/// The rows of the table whose first column has this heading: their cells. Empty when there is no such table.
fn table<'a>(text: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let cells = |line: &'a str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
    let rows = text.lines().skip_while(|line| !line.starts_with(&format!("| {heading} |")));
    rows.skip(2).take_while(|line| line.starts_with('|')).map(cells).collect()
}

fn first_column<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    table(text, heading).iter().map(|cells| cells[0]).collect()
}

/// The numbers from a cell like `810H–817H` or `80BH`. What is no number is 0, which is no register.
fn msrs(cell: &str) -> std::ops::RangeInclusive<u32> {
    let number = |text: &str| u32::from_str_radix(text.trim_end_matches('H'), 16).unwrap_or(0);
    let (first, last) = cell.split_once('–').unwrap_or((cell, cell));
    number(first)..=number(last)
}

/// How the table of registers says each MSR can be accessed.
fn documented_access(text: &str) -> BTreeMap<u32, String> {
    let rows = table(text, "MSR");
    rows.iter().flat_map(|cells| msrs(cells[0]).map(|msr| (msr, cells[2].to_owned()))).collect()
}

/// How the local APIC answers accesses to an MSR; empty when it refuses all.
fn access(msr: u32) -> String {
    let apic = LocalApic::new(1);
    let written = |value| apic.clone().write_msr(msr, value, 0).is_ok();
    let read = apic.read_msr(msr, 0).is_ok();
    // IA32_APIC_BASE takes its own value only, every other register takes zero.
    format!("{}{}", if read { "R" } else { "" }, if written(0) || written(apic.base()) { "W" } else { "" })
}

#[test]
fn the_registers_of_the_local_apic_are_all_in_the_table() {
    let real: BTreeMap<_, _> =
        (0..0x1000).map(|msr| (msr, access(msr))).filter(|(_, access)| !access.is_empty()).collect();
    assert!(real.keys().all(|msr| LocalApic::owns_msr(*msr)));
    assert_eq!(documented_access(&document("interrupts.md")), real);
}

#[test]
fn every_interrupt_has_its_owner_in_the_table() {
    let (serial, virtio, pins) = (SERIAL_GSI, VIRTIO_FIRST_GSI, IO_APIC_PINS);
    let expected = [
        format!("0–{}", serial - 1),
        serial.to_string(),
        format!("{}–{}", serial + 1, virtio - 1),
        format!("{virtio}–{}", pins - 1),
    ];
    let text = document("interrupts.md");
    assert_eq!(first_column(&text, "GSI"), expected);
    assert!(table(&text, "GSI")[1][1].contains("COM1"));
}

#[test]
fn the_limits_of_the_interrupt_controller_are_those_of_the_code() {
    let text = document("interrupts.md");
    let limits: BTreeMap<_, _> = table(&text, "limit").into_iter().map(|cells| (cells[0], cells[1])).collect();
    assert_eq!(limits["vCPUs (`MAX_VCPUS`)"], format!("{MAX_VCPUS}, ids 0 to {}", MAX_VCPUS - 1));
    assert_eq!(limits["IOAPIC pins"], IO_APIC_PINS.to_string());
}

#[test]
fn the_variable_of_relaxed_memory_has_one_name() {
    assert_eq!(vincs_guest::RELAXED_VARIABLE, vincs_guest_protocol::RELAXED_VARIABLE);
    let text = document("relaxed.md");
    for name in [vincs_guest::RELAXED_VARIABLE, vincs_guest_protocol::RELAXED_DEVICE] {
        assert!(text.contains(name), "relaxed.md does not tell of {name}");
    }
}

#[test]
fn guest_memory_is_laid_out_as_in_the_table() {
    let expected = [
        0,
        LOW_RAM_END,
        AREA_START,
        HIGH_RAM_START,
        DEVICE_GAP_START,
        VIRTIO_START,
        IO_APIC_START,
        LOCAL_APIC_ADDRESS.into(),
        DEVICE_GAP_END,
    ];
    assert_eq!(first_column(&document("boot.md"), "from"), expected.map(|address: u64| format!("{address:#x}")));
}

#[test]
fn ports_are_where_the_table_has_them() {
    let expected = [
        (NoIntervalTimer::START, NoIntervalTimer::COUNT),
        (CLOCK_PORT, RealTimeClock::COUNT),
        (SERIAL_PORT, SerialConsole::COUNT),
        (PowerRegisters::PORTS.sleep_control, PowerRegisters::COUNT),
    ];
    let expected = expected.map(|(first, count)| format!("{first:#x}–{:#x}", first + count - 1));
    assert_eq!(first_column(&document("boot.md"), "I/O ports"), expected);
}

/// The source file of this path; empty when there is none.
fn source(path: &str) -> String {
    std::fs::read_to_string(workspace_root().join(path)).unwrap_or_default()
}

/// The kernel options in a table of the launcher's: the first of each pair of strings.
fn launcher_options<'a>(cmdline: &'a str, table: &str) -> Vec<&'a str> {
    let table =
        cmdline.split(&format!("const {table}")).nth(1).and_then(|rest| rest.split("];").next()).unwrap_or_default();
    table.split('"').skip(1).step_by(4).collect()
}

#[test]
fn kernel_options_are_those_of_the_launcher() {
    let cmdline = source("launcher/src/guest/cmdline.rs");
    let options = [
        vec!["tsc_early_khz=N", "lpj=N"],
        launcher_options(&cmdline, "ALWAYS"),
        vec!["nokaslr", "quiet", "--append ARGS"],
    ]
    .concat();
    let expected: Vec<_> = options.iter().map(|option| format!("`{option}`")).collect();
    assert_eq!(first_column(&document("boot.md"), "option"), expected);
}

#[test]
fn kernel_options_of_spread_guests_are_those_of_the_launcher() {
    let cmdline = source("launcher/src/guest/cmdline.rs");
    let options = ["DISTRIBUTED", "REMOTE"].map(|table| launcher_options(&cmdline, table));
    assert!(options.iter().all(|options| !options.is_empty()));
    let options = options.concat();
    let expected: Vec<_> = options.iter().map(|option| format!("`{option}`")).collect();
    assert_eq!(first_column(&document("distribution.md"), "option"), expected);
}

#[test]
fn control_messages_are_those_of_the_vmm() {
    let source = source("vmm/src/cluster/message.rs");
    let names = source.split("KIND_NAMES").nth(1).and_then(|rest| rest.split("];").next()).unwrap_or_default();
    let expected: Vec<_> = names.split('"').skip(1).step_by(2).map(|name| format!("`{name}`")).collect();
    assert!(!expected.is_empty());
    assert_eq!(first_column(&document("distribution.md"), "message"), expected);
}

#[test]
fn exit_statuses_are_those_of_the_launcher() {
    let ending = source("launcher/src/run/ending.rs");
    let status =
        |line: &str| Some(line.split_once("const STATUS_")?.1.split_once("= ")?.1.trim_end_matches(';').to_owned());
    let real: Vec<_> = ending.lines().filter_map(status).collect();
    let text = document("boot.md");
    let cells = first_column(&text, "vincs ends with").join(", ");
    // Not CMD's own statuses, of which the table says that they are passed on.
    let written = cells.split(", ").filter(|cell| cell.parse::<u8>().is_ok());
    assert_eq!(written.collect::<Vec<_>>(), real);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let files = std::fs::read_dir(workspace_root().join("docs")).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    let texts: BTreeMap<_, _> = names.iter().map(|name| (name.as_str(), document(name))).collect();
    let mut followed = 0;
    for (name, text) in &texts {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, section) = link.split_once('#').unwrap_or((link, ""));
            // A section alone is one of the document itself.
            let file = if file.is_empty() { name } else { file };
            let target = texts.get(file).unwrap_or_else(|| panic!("{name}: no document {link}"));
            assert!(section.is_empty() || anchors(target).any(|anchor| anchor == section), "{name}: no section {link}");
            followed += 1;
        }
    }
    assert!(followed > 0, "no links were found");
}

/// The names under which headings can be linked to: lower case, without punctuation, words joined by `-`.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let headings = text.lines().filter_map(|line| line.strip_prefix('#').map(|rest| rest.trim_start_matches('#')));
    headings.map(|heading| {
        let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-'));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    })
}

#[test]
fn a_planted_table_is_read_and_differs() {
    let text =
        "| MSR | register | access |\n|---|---|---|\n| 810H–811H | ISR | R |\n| 83FH | SELF IPI | W |\n\n| x |\n";
    let expected = [(0x810, "R"), (0x811, "R"), (0x83f, "W")];
    assert_eq!(documented_access(text), expected.map(|(msr, access)| (msr, access.to_owned())).into());
    assert_eq!(first_column("no table", "GSI"), [""; 0]);
    let cmdline = "const ALWAYS: [(&str, &str); 2] = [\n    (\"a=1\", \"why\"),\n    (\n        \"b\",\n        \"why\",\n    ),\n];\n";
    assert_eq!(launcher_options(cmdline, "ALWAYS"), ["a=1", "b"]);
    assert!(anchors("## Host directories (virtio-9p)\n").any(|anchor| anchor == "host-directories-virtio-9p"));
}
