//! Machines that run a few instructions of their own, on this host's KVM.

#![expect(clippy::unwrap_used, reason = "helpers of tests, where a failure ends the test")]

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use vincs_vmm::acpi::{POWER_OFF_VALUE, RESET_VALUE};
use vincs_vmm::boot::KernelImage;
use vincs_vmm::bus::PioDevice;
use vincs_vmm::kvm::DEFAULT_KVM_PATH;
use vincs_vmm::legacy::PowerRegisters;
use vincs_vmm::machine::{Equipment, Machine, MachineConfig, MachineError, PortDevice, Role, Running};
use vincs_vmm::topology::Topology;

/// Where the instructions are.
pub(crate) const ENTRY: u64 = 0x20_0000;
/// Port of [`Probe`].
pub(crate) const PROBE_PORT: u8 = 0xe0;
/// Far more than any of these guests needs on a busy host; only a hang takes that long.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Whether this host has KVM; says so when it has not, past the test harness's capture of output.
pub(crate) fn kvm_or_skip() -> bool {
    let usable = std::fs::File::options().read(true).write(true).open(DEFAULT_KVM_PATH);
    if let Err(error) = &usable {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {DEFAULT_KVM_PATH} cannot be opened: {error}");
    }
    usable.is_ok()
}

/// A 64-bit ELF image whose one segment is `code`, entered at its start in long mode.
pub(crate) fn elf(code: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 0x40 + 0x38;
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    let half = |image: &mut Vec<u8>, value: u16| image.extend(value.to_le_bytes());
    half(&mut image, 2); // ET_EXEC
    half(&mut image, 62); // EM_X86_64
    image.extend(1u32.to_le_bytes());
    for value in [ENTRY, 0x40, 0] {
        image.extend(value.to_le_bytes());
    }
    image.extend(0u32.to_le_bytes());
    for value in [0x40, 0x38, 1, 0, 0, 0] {
        half(&mut image, value);
    }
    image.extend([1u32, 7].iter().flat_map(|word| word.to_le_bytes()));
    for value in [HEADERS, ENTRY, ENTRY, code.len() as u64, code.len() as u64, 4096] {
        image.extend(value.to_le_bytes());
    }
    image.extend(code);
    image
}

/// Receives what the guest writes to [`PROBE_PORT`].
#[derive(Debug)]
struct Probe(Sender<u32>);

impl PioDevice for Probe {
    fn read(&self, _port: u16, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _port: u16, data: &[u8]) {
        let value = data.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        // A test that has seen enough has dropped its end.
        let _ = self.0.send(value);
    }
}

/// A machine of `vcpus` that runs `code` on the first of them, and what it writes to the probe.
pub(crate) fn machine(code: &[u8], vcpus: u32) -> (Machine, Receiver<u32>) {
    let (machine, written) = machine_with_relaxed(code, vcpus, 0);
    (machine.unwrap(), written)
}

/// The same with so many bytes of relaxed memory, if it can be had.
pub(crate) fn machine_with_relaxed(
    code: &[u8],
    vcpus: u32,
    relaxed: u64,
) -> (Result<Machine, MachineError>, Receiver<u32>) {
    let (sender, written) = channel();
    let config = MachineConfig {
        kvm: DEFAULT_KVM_PATH.into(),
        topology: Topology::new(vcpus, 1).unwrap(),
        memory: 64 << 20,
        relaxed,
        role: Role::Whole(Equipment {
            kernel: KernelImage::from_bytes(Path::new("test"), elf(code)).unwrap(),
            initrd: Vec::new(),
            command_line: String::new(),
            serial_output: Box::new(std::io::sink()),
            serial_input: None,
            devices: Vec::new(),
            ports: vec![PortDevice { start: PROBE_PORT.into(), len: 1, device: Arc::new(Probe(sender)) }],
        }),
    };
    (Machine::new(config), written)
}

/// The same, started.
pub(crate) fn start(code: &[u8]) -> (Running, Receiver<u32>) {
    let (machine, written) = machine(code, 1);
    (machine.start().unwrap(), written)
}

/// Instructions: byte `value` to `port`.
fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee] // mov dx, port; mov al, value; out dx, al
}

/// Instructions that power the machine off: how a guest reports success.
pub(crate) fn power_off() -> Vec<u8> {
    [out(PowerRegisters::PORTS.sleep_control, POWER_OFF_VALUE), vec![0xf4]].concat()
}

/// Instructions that reset the machine: how a guest reports failure.
pub(crate) fn reset() -> Vec<u8> {
    [out(PowerRegisters::PORTS.reset, RESET_VALUE), vec![0xf4]].concat()
}

/// Instructions that reset the machine unless EAX is `expected`.
pub(crate) fn expect_eax(expected: u32) -> Vec<u8> {
    let failure = reset();
    let skip = u8::try_from(failure.len()).unwrap();
    let [a, b, c, d] = expected.to_le_bytes();
    [vec![0x3d, a, b, c, d, 0x74, skip], failure].concat() // cmp eax, expected; je past
}

/// Instructions: RDMSR of `msr`.
pub(crate) fn rdmsr(msr: u32) -> Vec<u8> {
    let [a, b, c, d] = msr.to_le_bytes();
    vec![0xb9, a, b, c, d, 0x0f, 0x32] // mov ecx, msr; rdmsr
}

/// Instructions: WRMSR of `msr`, upper half zero.
pub(crate) fn wrmsr(msr: u32, value: u32) -> Vec<u8> {
    let ([a, b, c, d], [e, f, g, h]) = (msr.to_le_bytes(), value.to_le_bytes());
    vec![0xb9, a, b, c, d, 0xb8, e, f, g, h, 0x31, 0xd2, 0x0f, 0x30] // mov ecx; mov eax; xor edx, edx; wrmsr
}
