//! What to run, with its parameters.

use vincs_micro_guest_payload::litmus::Litmus;
use vincs_micro_guest_payload::protocol::{
    KEY_ITERATIONS, KEY_MEGABYTES, KEY_PERIOD, KEY_PROGRAM, KEY_SEED, KEY_TEST, KEY_VCPUS, ProgramName, REGION_BASE,
};

/// Memory of a machine for programs that keep at most a million samples, in bytes; also the least that the vmm accepts.
const BASE_MEMORY: u64 = 64 << 20;

/// A program of the micro-guest. `docs/micro-guest.md` says what each does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Program {
    /// An interrupt goes round all vCPUs.
    IpiPingPong {
        /// How many rounds.
        rounds: u64,
    },
    /// The local timer in its three modes, on all vCPUs.
    Timer {
        /// Interrupts per mode and vCPU.
        interrupts: u64,
        /// Ticks of the time-stamp counter between them; at most a 32-bit number.
        period: u64,
    },
    /// Data-dependent reads and writes.
    MemoryWalk {
        /// Mebibytes per vCPU.
        megabytes: u64,
        /// Steps per vCPU.
        steps: u64,
        /// Start of the pseudo-random choices.
        seed: u64,
    },
    /// Checks of its own state until told to stop.
    SelfCheck {
        /// Length of a window in rounds of its loop, some cycles each.
        rounds: u64,
        /// Ticks of the time-stamp counter between timer interrupts.
        period: u64,
    },
    /// Exits of the first vCPU.
    ExitLatency {
        /// How many.
        exits: u64,
    },
    /// A litmus test of memory order. Two or four processors take part, of different ranks where there are several.
    Litmus {
        /// Which.
        test: Litmus,
        /// How often at least; in batches of some thousand.
        iterations: u64,
        /// Spins after which a processor that waits for the others lets the host run something else: few where there are more
        /// threads than the host has processors, many where processors are to meet within nanoseconds.
        patience: u64,
        /// Start of the pseudo-random choices.
        seed: u64,
    },
    /// Walks of memory again and again, and additions to memory that all share, until told to stop.
    Work {
        /// Mebibytes per vCPU.
        megabytes: u64,
        /// Steps per vCPU and round.
        steps: u64,
        /// Start of the pseudo-random choices.
        seed: u64,
    },
    /// A page fault, to show how failures are told.
    Fault,
}

impl Program {
    /// The kernel's command line for this program.
    #[must_use]
    pub fn command_line(self, vcpus: u32) -> String {
        let name = self.name().name();
        let parameters = match self {
            Self::IpiPingPong { rounds: count } | Self::ExitLatency { exits: count } => {
                format!(" {KEY_ITERATIONS}={count}")
            }
            Self::Timer { interrupts: count, period } | Self::SelfCheck { rounds: count, period } => {
                format!(" {KEY_ITERATIONS}={count} {KEY_PERIOD}={period}")
            }
            Self::MemoryWalk { megabytes, steps, seed } | Self::Work { megabytes, steps, seed } => {
                format!(" {KEY_MEGABYTES}={megabytes} {KEY_ITERATIONS}={steps} {KEY_SEED}={seed}")
            }
            Self::Litmus { test, iterations, patience, seed } => {
                let test = test.number();
                format!(" {KEY_TEST}={test} {KEY_ITERATIONS}={iterations} {KEY_PERIOD}={patience} {KEY_SEED}={seed}")
            }
            Self::Fault => String::new(),
        };
        format!("{KEY_PROGRAM}={name} {KEY_VCPUS}={vcpus}{parameters}")
    }

    /// Memory that the machine needs, in bytes.
    #[must_use]
    pub fn memory(self, vcpus: u32) -> u64 {
        match self {
            Self::MemoryWalk { megabytes, .. } | Self::Work { megabytes, .. } => {
                let walked = megabytes.saturating_mul(1 << 20).saturating_mul(vcpus.into());
                walked.saturating_add(REGION_BASE as u64).max(BASE_MEMORY)
            }
            Self::IpiPingPong { .. }
            | Self::Timer { .. }
            | Self::SelfCheck { .. }
            | Self::ExitLatency { .. }
            | Self::Litmus { .. }
            | Self::Fault => BASE_MEMORY,
        }
    }

    fn name(self) -> ProgramName {
        match self {
            Self::IpiPingPong { .. } => ProgramName::IpiPingPong,
            Self::Timer { .. } => ProgramName::Timer,
            Self::MemoryWalk { .. } => ProgramName::MemoryWalk,
            Self::SelfCheck { .. } => ProgramName::SelfCheck,
            Self::ExitLatency { .. } => ProgramName::ExitLatency,
            Self::Litmus { .. } => ProgramName::Litmus,
            Self::Work { .. } => ProgramName::Work,
            Self::Fault => ProgramName::Fault,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vincs_micro_guest_payload::protocol::value;

    #[test]
    fn the_command_line_is_what_the_guest_reads() {
        let line = Program::MemoryWalk { megabytes: 3, steps: 500, seed: 7 }.command_line(4);
        assert_eq!(value(&line, KEY_PROGRAM).and_then(ProgramName::from_name), Some(ProgramName::MemoryWalk));
        let number = |key| value(&line, key).and_then(|text| text.parse::<u64>().ok());
        assert_eq!([KEY_VCPUS, KEY_MEGABYTES, KEY_ITERATIONS, KEY_SEED].map(number), [4, 3, 500, 7].map(Some));
    }

    #[test]
    fn memory_follows_what_is_walked() {
        let walk = |megabytes| Program::MemoryWalk { megabytes, steps: 1, seed: 1 };
        assert_eq!(walk(12).memory(4), 64 << 20);
        assert_eq!(walk(13).memory(4), (16 + 52) << 20);
        assert_eq!(walk(u64::MAX).memory(2), u64::MAX);
    }
}
