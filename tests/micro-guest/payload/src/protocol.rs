//! What the micro-guest says to the host and how: words and text through I/O ports, one end.
//!
//! The command line is a list of `key=value` separated by spaces; keys that the guest does not know are ignored. Values
//! are decimal numbers, except that of `program`.

/// First port of the host's device.
pub const PORT_BASE: u16 = 0x620;
/// Number of ports of the host's device.
pub const PORT_COUNT: u16 = 0x20;
/// 32-bit writes: one half of a word of the report, the low one first.
pub const PORT_WORD: u16 = 0x620;
/// 32-bit writes: four bytes of the text that says what failed, padded with zeros.
pub const PORT_TEXT: u16 = 0x624;
/// 32-bit writes: the run is over, with one of the `END_` values.
pub const PORT_END: u16 = 0x628;
/// 32-bit reads: non-zero once the host wants the program to stop.
pub const PORT_STOP: u16 = 0x62c;
/// 32-bit writes that nothing happens on: an exit to the host and back.
pub const PORT_NOTHING: u16 = 0x630;
/// 32-bit reads: the processor has nothing to do for a moment. Answered after that moment.
pub const PORT_REST: u16 = 0x634;
/// 32-bit writes: the processor with this number has done one more round of its work.
pub const PORT_ROUND: u16 = 0x638;

/// The program has ended; the report is whole.
pub const END_DONE: u32 = 1;
/// The program has failed; the text says how.
pub const END_FAILED: u32 = 2;
/// A processor has an APIC id that the guest has no place for.
pub const END_TOO_MANY_CPUS: u32 = 3;
/// A fault while a fault was being reported.
pub const END_NESTED_FAULT: u32 = 4;

/// Most processors that the guest can run.
pub const MAX_CPUS: usize = 64;
/// First byte of the memory that programs may use; the guest's image ends below it.
pub const REGION_BASE: usize = 16 << 20;
/// End of the memory that the guest maps.
pub const REGION_END: usize = 1 << 32;

/// Which program to run; the value is a [`ProgramName::name`].
pub const KEY_PROGRAM: &str = "program";
/// Number of processors in the machine; their APIC ids are 0 to one less.
pub const KEY_VCPUS: &str = "vcpus";
/// How often; each program says what.
pub const KEY_ITERATIONS: &str = "iterations";
/// Ticks of the time-stamp counter between timer interrupts; for litmus tests, spins of a waiting processor between rests.
pub const KEY_PERIOD: &str = "period";
/// Mebibytes of memory for each processor to walk.
pub const KEY_MEGABYTES: &str = "megabytes";
/// Start value of the pseudo-random choices.
pub const KEY_SEED: &str = "seed";

/// Which litmus test: [`crate::litmus::Litmus::number`].
pub const KEY_TEST: &str = "test";

/// Where the report goes: [`REPORT_SERIAL`], else to the host's device.
pub const KEY_REPORT: &str = "report";
/// The report goes to the first serial port as text, a line `word 0x…` for each word, then the text that says what failed, then [`LINE_DONE`]
/// or [`LINE_FAILED`]; the machine is powered off after that. Any byte that comes there is the wish to stop.
pub const REPORT_SERIAL: &str = "serial";
/// The last line of a program that has ended.
pub const LINE_DONE: &str = "done";
/// The last line of a program that has failed.
pub const LINE_FAILED: &str = "failed";

/// The programs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProgramName {
    /// An interrupt goes round all processors, `iterations` times. Report: one [`crate::statistics::Summary`] of the time from
    /// the ICR write to the first instruction of the handler.
    IpiPingPong,
    /// `iterations` timer interrupts in each of the three modes on every processor. Report: per mode (one-shot, periodic,
    /// deadline) one summary of the lateness.
    Timer,
    /// Every processor fills and walks `megabytes` of its own, `iterations` steps. Report: one checksum per processor.
    MemoryWalk,
    /// Every processor checks its own state again and again until the host says stop. Report, at the start: address range of
    /// the code during which all registers are in use (two words); at the end: windows checked, timer interrupts and
    /// inter-processor interrupts over all processors (three words).
    SelfCheck,
    /// `iterations` exits of the first processor. Report: one summary of ticks per exit and the ticks of all together.
    ExitLatency,
    /// The litmus test `test`, `iterations` times on two or four processors. Report: how often each of 16 outcomes was seen.
    Litmus,
    /// Every processor walks `megabytes` of its own, `iterations` steps a round, until the host says stop, and counts in memory that all
    /// share; the host is told of each round. Report: per processor its rounds and the checksum that each of them came to.
    Work,
    /// Reads through a null pointer, to show that faults are reported.
    Fault,
}

impl ProgramName {
    /// Every program.
    pub const ALL: [Self; 8] = [
        Self::IpiPingPong,
        Self::Timer,
        Self::MemoryWalk,
        Self::SelfCheck,
        Self::ExitLatency,
        Self::Litmus,
        Self::Work,
        Self::Fault,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::IpiPingPong => "ipi-ping-pong",
            Self::Timer => "timer",
            Self::MemoryWalk => "memory-walk",
            Self::SelfCheck => "self-check",
            Self::ExitLatency => "exit-latency",
            Self::Litmus => "litmus",
            Self::Work => "work",
            Self::Fault => "fault",
        }
    }

    /// The program with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|program| program.name() == name)
    }
}

/// The value of `key` on a command line.
#[must_use]
pub fn value<'a>(command_line: &'a str, key: &str) -> Option<&'a str> {
    command_line
        .split_ascii_whitespace()
        .filter_map(|item| item.split_once('='))
        .find(|(k, _)| *k == key)
        .map(|(_, v)| v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for program in ProgramName::ALL {
            assert_eq!(ProgramName::from_name(program.name()), Some(program));
        }
        assert_eq!(ProgramName::from_name("ipi"), None);
    }

    #[test]
    fn values_are_found_by_whole_key() {
        let line = "console=ttyS0 quiet program=timer vcpus=4  period=";
        assert_eq!(value(line, KEY_PROGRAM), Some("timer"));
        assert_eq!(value(line, KEY_VCPUS), Some("4"));
        assert_eq!(value(line, KEY_PERIOD), Some(""));
        assert_eq!(value(line, "gram"), None);
        assert_eq!(value("", KEY_SEED), None);
    }

    #[test]
    fn the_ports_are_within_the_device() {
        for port in [PORT_WORD, PORT_TEXT, PORT_END, PORT_STOP, PORT_NOTHING, PORT_REST, PORT_ROUND] {
            assert!((PORT_BASE..PORT_BASE + PORT_COUNT - 3).contains(&port), "{port:#x}");
        }
    }
}
