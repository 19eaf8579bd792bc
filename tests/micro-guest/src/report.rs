//! What comes out of a program.

use vincs_micro_guest_payload::litmus::{Litmus, OUTCOMES};
use vincs_micro_guest_payload::protocol::{LINE_DONE, LINE_FAILED};
use vincs_micro_guest_payload::statistics::{SUMMARY_WORDS, Summary};
use vincs_micro_guest_payload::walk::walk;

use crate::Program;

/// The words of a report make no sense.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReportError {
    /// Their number is wrong.
    #[error(
        "the guest's report has {found} words instead of {expected}; payload and harness are not of the same build"
    )]
    Length {
        /// Words that the program reports.
        expected: usize,
        /// Words that came.
        found: usize,
    },
    /// The guest has failed, or has faulted.
    #[error("the guest says: {0}")]
    Failed(String),
    /// There is no last line.
    #[error("the guest has not come to its end; it says: {0}")]
    Unfinished(String),
    /// A memory walk went wrong: the guest's memory lost something.
    #[error("vCPU {vcpu} walked its memory to checksum {found:#x} instead of {expected:#x}: guest memory is corrupt")]
    Checksum {
        /// The vCPU.
        vcpu: usize,
        /// What the host computes.
        expected: u64,
        /// What the guest computed.
        found: u64,
    },
    /// A litmus test had an outcome that x86 forbids: memory is not coherent.
    #[error(
        "litmus test {test:?} had the outcome {outcome:#06b}, which x86 forbids, {count} times: memory is not coherent"
    )]
    Forbidden {
        /// The test.
        test: Litmus,
        /// The outcome.
        outcome: usize,
        /// How often.
        count: u64,
    },
}

/// How late timer interrupts came in each mode, in ticks of the time-stamp counter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TimerReport {
    /// After the count was to run out, counting once.
    pub one_shot: Summary,
    /// After the end of a period.
    pub periodic: Summary,
    /// After the deadline.
    pub deadline: Summary,
}

/// What a program found. Times are ticks of the time-stamp counter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Report {
    /// From the write of the interrupt command register to the first instruction of the handler, for every hop.
    IpiPingPong(Summary),
    /// How late timer interrupts came.
    Timer(Box<TimerReport>),
    /// The walk of every vCPU, which the host has checked.
    MemoryWalk {
        /// Checksum of each vCPU.
        checksums: Vec<u64>,
    },
    /// Nothing was ever corrupted.
    SelfCheck {
        /// Windows that were checked, over all vCPUs.
        windows: u64,
        /// Timer interrupts that were taken meanwhile.
        timer_interrupts: u64,
        /// Inter-processor interrupts that were sent meanwhile, all of which arrived.
        processor_interrupts: u64,
    },
    /// Each vCPU came to the same checksum in each round, which the host has checked.
    Work {
        /// Rounds of each vCPU.
        rounds: Vec<u64>,
    },
    /// How often each outcome of a litmus test was seen; none of those that x86 forbids.
    Litmus {
        /// By outcome, as [`Litmus::forbidden`] numbers them.
        outcomes: [u64; OUTCOMES],
    },
    /// Exits to the host and back.
    ExitLatency {
        /// Each of them.
        each: Summary,
        /// All together.
        total: u64,
    },
}

impl Report {
    /// The report in what the guest has written on the serial port, for machines without the host's device.
    ///
    /// # Errors
    /// [`ReportError`] when it is not there, is not whole or says that something is wrong.
    pub fn from_serial(program: Program, vcpus: u32, text: &str) -> Result<Self, ReportError> {
        let mut words = Vec::new();
        let mut said = Vec::new();
        for line in text.lines().map(str::trim) {
            let word = line.strip_prefix("word 0x").and_then(|word| u64::from_str_radix(word, 16).ok());
            match (word, line) {
                (Some(word), _) => words.push(word),
                (None, LINE_DONE) => return Self::from_words(program, vcpus, &words),
                (None, LINE_FAILED) => return Err(ReportError::Failed(said.join(" "))),
                (None, line) => said.push(line),
            }
        }
        Err(ReportError::Unfinished(said.join(" ")))
    }

    /// The report in these words.
    ///
    /// # Errors
    /// [`ReportError`] when they are not what the program reports, or say that memory is corrupt.
    pub fn from_words(program: Program, vcpus: u32, words: &[u64]) -> Result<Self, ReportError> {
        let length = |expected| ReportError::Length { expected, found: words.len() };
        let summary = |words| Summary::from_words(words).ok_or(length(SUMMARY_WORDS));
        match program {
            Program::IpiPingPong { .. } => summary(words).map(Self::IpiPingPong),
            Program::Timer { .. } => {
                let mut parts = words.chunks(SUMMARY_WORDS);
                let mut next = || parts.next().and_then(Summary::from_words);
                match (words.len() == 3 * SUMMARY_WORDS, next(), next(), next()) {
                    (true, Some(one_shot), Some(periodic), Some(deadline)) => {
                        Ok(Self::Timer(Box::new(TimerReport { one_shot, periodic, deadline })))
                    }
                    _ => Err(length(3 * SUMMARY_WORDS)),
                }
            }
            Program::MemoryWalk { megabytes, steps, seed } => {
                let vcpus = usize::try_from(vcpus).unwrap_or(usize::MAX);
                if words.len() != vcpus {
                    return Err(length(vcpus));
                }
                check_walks(megabytes, steps, seed, words)?;
                Ok(Self::MemoryWalk { checksums: words.to_vec() })
            }
            // Two words at the start of the run say where its window is.
            Program::SelfCheck { .. } => match *words {
                [_, _, windows, timer_interrupts, processor_interrupts] => {
                    Ok(Self::SelfCheck { windows, timer_interrupts, processor_interrupts })
                }
                _ => Err(length(5)),
            },
            Program::ExitLatency { .. } => match words.split_last() {
                Some((&total, each)) => Ok(Self::ExitLatency { each: summary(each)?, total }),
                None => Err(length(SUMMARY_WORDS + 1)),
            },
            Program::Litmus { test, .. } => {
                let outcomes = <[u64; OUTCOMES]>::try_from(words).map_err(|_| length(OUTCOMES))?;
                check_outcomes(test, &outcomes)?;
                Ok(Self::Litmus { outcomes })
            }
            Program::Work { megabytes, steps, seed } => {
                let vcpus = usize::try_from(vcpus).unwrap_or(usize::MAX);
                let (pairs, []) = words.as_chunks() else { return Err(length(2 * vcpus)) };
                if pairs.len() != vcpus {
                    return Err(length(2 * vcpus));
                }
                let (rounds, checksums): (Vec<_>, Vec<_>) =
                    pairs.iter().map(|&[rounds, checksum]| (rounds, checksum)).unzip();
                check_walks(megabytes, steps, seed, &checksums)?;
                Ok(Self::Work { rounds })
            }
            Program::Fault => Err(length(0)),
        }
    }
}

/// No outcome may be one that x86 forbids.
fn check_outcomes(test: Litmus, outcomes: &[u64; OUTCOMES]) -> Result<(), ReportError> {
    for (outcome, &count) in outcomes.iter().enumerate() {
        if count > 0 && test.forbidden() >> outcome & 1 != 0 {
            return Err(ReportError::Forbidden { test, outcome, count });
        }
    }
    Ok(())
}

/// Does every vCPU's walk again on the host.
fn check_walks(megabytes: u64, steps: u64, seed: u64, checksums: &[u64]) -> Result<(), ReportError> {
    let words = usize::try_from(megabytes.saturating_mul((1 << 20) / 8)).unwrap_or(usize::MAX);
    let mut memory = vec![0; words];
    for (vcpu, (seed, &found)) in (seed..).zip(checksums).enumerate() {
        let expected = walk(&mut memory, seed, steps);
        if found != expected {
            return Err(ReportError::Checksum { vcpu, expected, found });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_the_wrong_length_are_refused() {
        let programs = [
            Program::IpiPingPong { rounds: 1 },
            Program::Timer { interrupts: 1, period: 1 },
            Program::MemoryWalk { megabytes: 1, steps: 1, seed: 1 },
            Program::SelfCheck { rounds: 1, period: 1 },
            Program::ExitLatency { exits: 1 },
            Program::Litmus { test: Litmus::ALL[0], iterations: 1, patience: 1, seed: 1 },
            Program::Work { megabytes: 1, steps: 1, seed: 1 },
            Program::Fault,
        ];
        for program in programs {
            let lengths = [0, 1, 3, SUMMARY_WORDS - 1, SUMMARY_WORDS + 2, 3 * SUMMARY_WORDS + 1];
            for words in lengths.map(|length| vec![0; length]) {
                let error = Report::from_words(program, 2, &words).unwrap_err();
                assert!(matches!(error, ReportError::Length { .. }), "{program:?}: {error}");
            }
        }
    }

    #[test]
    fn a_wrong_checksum_names_its_vcpu() {
        let program = Program::MemoryWalk { megabytes: 1, steps: 100, seed: 5 };
        let right = [5, 6].map(|seed| walk(&mut vec![0; (1 << 20) / 8], seed, 100));
        assert!(Report::from_words(program, 2, &right).is_ok());
        let error = Report::from_words(program, 2, &[right[0], right[1] ^ 1]).unwrap_err();
        assert_eq!(error, ReportError::Checksum { vcpu: 1, expected: right[1], found: right[1] ^ 1 });
    }

    #[test]
    fn a_report_on_the_serial_port_has_a_last_line() {
        let program = Program::Work { megabytes: 1, steps: 100, seed: 5 };
        let right = [5, 6].map(|seed| walk(&mut vec![0; (1 << 20) / 8], seed, 100));
        let words = [3, right[0], 4, right[1]].map(|word| format!("word {word:#x}\n")).concat();
        let read = |text: &str| Report::from_serial(program, 2, text);
        assert_eq!(read(&format!("{words}done\n")), Ok(Report::Work { rounds: vec![3, 4] }));
        assert_eq!(read(&words), Err(ReportError::Unfinished(String::new())));
        assert_eq!(read("processor 1: bad\nfailed\n"), Err(ReportError::Failed("processor 1: bad".into())));
        let wrong = [3, right[1], 4, right[1]].map(|word| format!("word {word:#x}\n")).concat();
        assert!(matches!(read(&format!("{wrong}done\n")), Err(ReportError::Checksum { vcpu: 0, .. })));
        assert!(matches!(read("word 0x1\ndone\n"), Err(ReportError::Length { .. })));
    }

    #[test]
    fn a_forbidden_outcome_is_named() {
        for test in Litmus::ALL {
            let program = Program::Litmus { test, iterations: 1, patience: 1, seed: 1 };
            let report = |words: &[u64; OUTCOMES]| Report::from_words(program, 4, words);
            for outcome in 0..OUTCOMES {
                let mut words = [0; OUTCOMES];
                words[outcome] = 3;
                let forbidden = test.forbidden() >> outcome & 1 != 0;
                let expected = if forbidden {
                    Err(ReportError::Forbidden { test, outcome, count: 3 })
                } else {
                    Ok(Report::Litmus { outcomes: words })
                };
                assert_eq!(report(&words), expected);
            }
        }
    }

    #[test]
    fn a_timer_report_keeps_its_modes_apart() {
        let summaries = [10, 20, 30].map(|value| Summary::of(&mut [value]));
        let words: Vec<u64> = summaries.iter().flat_map(Summary::to_words).collect();
        let report = Report::from_words(Program::Timer { interrupts: 1, period: 1 }, 1, &words);
        let [one_shot, periodic, deadline] = summaries;
        assert_eq!(report, Ok(Report::Timer(Box::new(TimerReport { one_shot, periodic, deadline }))));
    }
}
