//! The command line, found through the boot parameters.

use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use vincs_micro_guest_payload::protocol::{self, MAX_CPUS, ProgramName};

use crate::report;

/// Longest command line that is looked at, in bytes; as long as Linux's on this architecture.
const MAX_COMMAND_LINE: usize = 2048;
/// Offset of `hdr.cmd_line_ptr` in `boot_params` (Linux: Documentation/arch/x86/zero-page.rst).
const COMMAND_LINE_POINTER: usize = 0x228;

/// Address of `boot_params`; boot.s puts it there.
#[unsafe(no_mangle)]
static BOOT_PARAMS: AtomicUsize = AtomicUsize::new(0);

/// What the command line asks for.
#[derive(Clone, Copy)]
pub(crate) struct Parameters {
    pub(crate) program: ProgramName,
    pub(crate) vcpus: usize,
    pub(crate) iterations: u64,
    pub(crate) period: u64,
    pub(crate) megabytes: usize,
    pub(crate) seed: u64,
    pub(crate) test: usize,
}

/// The parameters as words, for the processors that come later.
static SHARED: [AtomicUsize; 7] = [const { AtomicUsize::new(0) }; 7];

/// Reads the command line; the run ends with a text if it makes no sense.
pub(crate) fn read() -> Parameters {
    let mut buffer = [0; MAX_COMMAND_LINE];
    let line = command_line(&mut buffer);
    if protocol::value(line, protocol::KEY_REPORT) == Some(protocol::REPORT_SERIAL) {
        report::to_serial();
    }
    let name = protocol::value(line, protocol::KEY_PROGRAM).unwrap_or("(none)");
    let Some(program) = ProgramName::from_name(name) else {
        report::fail(format_args!("there is no program {name}; the command line is: {line}"))
    };
    let number = |key, default| match protocol::value(line, key).map(str::parse) {
        None => default,
        Some(Ok(value)) => value,
        Some(Err(_)) => report::fail(format_args!("{key} is not a number; the command line is: {line}")),
    };
    let iterations: usize = number(protocol::KEY_ITERATIONS, 1000);
    let period = number(protocol::KEY_PERIOD, 2_000_000);
    let seed = number(protocol::KEY_SEED, 1);
    let parameters = Parameters {
        program,
        vcpus: number(protocol::KEY_VCPUS, 1),
        iterations: iterations as u64,
        period: period as u64,
        megabytes: number(protocol::KEY_MEGABYTES, 1),
        seed: seed as u64,
        test: number(protocol::KEY_TEST, 0),
    };
    if !(1..=MAX_CPUS).contains(&parameters.vcpus) {
        report::fail(format_args!("vcpus is {}, not 1 to {MAX_CPUS}", parameters.vcpus));
    }
    let Parameters { vcpus, megabytes, test, .. } = parameters;
    let words = [program as usize, vcpus, iterations, period, megabytes, seed, test];
    for (shared, word) in SHARED.iter().zip(words) {
        shared.store(word, Ordering::Release);
    }
    parameters
}

/// What [`read`] has found; for the processors that do not read themselves, once they have been told to go.
pub(crate) fn shared() -> Parameters {
    let [program, vcpus, iterations, period, megabytes, seed, test] =
        SHARED.each_ref().map(|word| word.load(Ordering::Acquire));
    let known = ProgramName::ALL.into_iter().find(|known| *known as usize == program);
    Parameters {
        program: known.unwrap_or(ProgramName::Fault),
        vcpus,
        iterations: iterations as u64,
        period: period as u64,
        megabytes,
        seed: seed as u64,
        test,
    }
}

fn command_line(buffer: &mut [u8; MAX_COMMAND_LINE]) -> &str {
    let boot_params = BOOT_PARAMS.load(Ordering::Relaxed);
    let pointer = ptr::with_exposed_provenance::<u32>(boot_params.wrapping_add(COMMAND_LINE_POINTER));
    // SAFETY: the boot protocol puts the boot parameters there; they are memory of ours now.
    let start = unsafe { pointer.read_unaligned() } as usize;
    let mut length = 0;
    for (offset, byte) in buffer.iter_mut().enumerate() {
        let at = ptr::with_exposed_provenance::<u8>(start + offset);
        // SAFETY: the boot loader has put a string that ends with a zero there.
        *byte = unsafe { at.read() };
        if *byte == 0 {
            break;
        }
        length += 1;
    }
    match str::from_utf8(&buffer[..length]) {
        Ok(line) => line,
        Err(_) => report::fail(format_args!("the command line is not UTF-8")),
    }
}
