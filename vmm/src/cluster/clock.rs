//! One time-stamp counter for all ranks: what another rank has to add to its host's to have rank 0's.
//!
//! A rank asks rank 0 for the guest's counter many times and keeps the answer that came back fastest: the counter was
//! read between question and answer, so their middle is off by half of the round trip at most. Ranks of one boot of one
//! host read the same counter and take rank 0's offset exactly; that it is one is measured all the same, as virtual
//! machines that are restored from one snapshot have one boot id too, and a counter each.

use std::fs;

use serde::Serialize;

use super::message::ClockReading;

/// Round trips of which the best gives the offset at the start.
pub(crate) const START_PROBES: u32 = 64;
/// Round trips of which the best tells of drift, later on.
pub(crate) const DRIFT_PROBES: u32 = 8;
/// Round trips after which ranks of one boot may be content that their counter is one.
const SHARED_PROBES: u32 = 8;
/// By how many ticks more than its uncertainty a measurement of one and the same counter may be wrong: processors may
/// read it this much before or after the instructions around, and have it set this far apart.
const SHARED_MARGIN: u64 = 1000;
/// Where Linux names the boot of this host.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How far the rates of two hosts' counters may be apart in parts per million: hosts of one kind measure their own rate
/// with errors of this size. KVM takes rates this near for equal too.
const RATE_TOLERANCE: u64 = 250;

/// How well this rank's counter goes with rank 0's.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct ClockStats {
    /// Both are the counter of one host: there is nothing to measure.
    pub same_counter: bool,
    /// How far this rank's guest counter was ahead of rank 0's when last measured, in nanoseconds.
    pub skew_nanoseconds: i64,
    /// The largest such distance, without its sign.
    pub worst_skew_nanoseconds: u64,
    /// By how much the last measurement may be wrong: half of its round trip, in nanoseconds.
    pub uncertainty_nanoseconds: u64,
    /// Measurements since the start.
    pub measurements: u64,
}

/// Why this rank cannot have rank 0's clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ClockError {
    /// The counters' rates differ.
    #[error(
        "this host's time-stamp counter runs at {own} kHz, that of rank 0 at {first} kHz; use hosts of one rate, vincs does not scale counters"
    )]
    Rate {
        /// This host's in kHz.
        own: u32,
        /// Rank 0's in kHz.
        first: u32,
    },
    /// KVM does not add what it was asked to.
    #[error(
        "this host's KVM cannot shift the guest's time-stamp counter to that of rank 0; use ranks on one host only"
    )]
    Offset,
    /// Rank 0 does not answer.
    #[error("rank 0 did not tell its clock in {0} s")]
    Silent(u64),
}

/// A finished measurement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Measured {
    /// What to add to this host's counter.
    pub(crate) offset: u64,
    /// By how much it may be wrong, in ticks.
    pub(crate) uncertainty: u64,
    /// The counter is rank 0's own.
    pub(crate) same_counter: bool,
    /// Rank 0's rate in kHz.
    pub(crate) khz: u32,
}

impl Measured {
    /// Whether the offset may be this one.
    fn agrees(&self, offset: u64) -> bool {
        let apart = self.offset.wrapping_sub(offset).cast_signed().unsigned_abs();
        apart <= self.uncertainty.saturating_add(SHARED_MARGIN)
    }
}

/// What to do after an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Next {
    /// Send a probe with this number.
    Probe(u32),
    /// It is done.
    Done(Measured),
}

/// A measurement of rank 0's clock. Times are values of this host's counter.
#[derive(Debug)]
pub(crate) struct Measurement {
    boot_id: Option<[u8; 16]>,
    number: u32,
    answers: u32,
    left: u32,
    sent: u64,
    best: Option<Measured>,
}

impl Measurement {
    /// One of so many round trips, whose first probe, with `number`, is sent now. With the boot of this host, the counter may turn
    /// out to be rank 0's own.
    pub(crate) fn start(boot_id: Option<[u8; 16]>, number: u32, probes: u32, now: u64) -> Self {
        Self { boot_id, number, answers: 0, left: probes, sent: now, best: None }
    }

    /// An answer has come. Nothing for one that is not to the last probe.
    pub(crate) fn answer(&mut self, number: u32, reading: ClockReading, now: u64) -> Option<Next> {
        if number != self.number || self.left == 0 {
            return None;
        }
        let khz = reading.khz;
        let trip = now.wrapping_sub(self.sent);
        let middle = self.sent.wrapping_add(trip / 2);
        let offset = reading.ticks.wrapping_sub(middle);
        let measured = Measured { offset, uncertainty: trip.div_ceil(2), same_counter: false, khz };
        let best = *self.best.insert(match self.best {
            Some(best) if best.uncertainty <= measured.uncertainty => best,
            _ => measured,
        });
        self.left -= 1;
        self.answers += 1;
        let is_one_boot = self.boot_id == Some(reading.boot_id);
        if is_one_boot && (self.left == 0 || self.answers >= SHARED_PROBES) && best.agrees(reading.offset) {
            self.left = 0;
            return Some(Next::Done(Measured { offset: reading.offset, uncertainty: 0, same_counter: true, khz }));
        }
        if self.left == 0 {
            return Some(Next::Done(best));
        }
        (self.number, self.sent) = (self.number.wrapping_add(1), now);
        Some(Next::Probe(self.number))
    }

    /// The number of the last probe.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }
}

impl ClockStats {
    /// Takes in a measurement by a rank whose guest counter is the host's plus `applied` at `khz`.
    pub(crate) fn measured(&mut self, measured: Measured, applied: u64, khz: u32) {
        let ahead = applied.wrapping_sub(measured.offset).cast_signed();
        let nanoseconds = |ticks: i64| i128::from(ticks) * 1_000_000 / i128::from(khz.max(1));
        self.same_counter = measured.same_counter;
        self.skew_nanoseconds = i64::try_from(nanoseconds(ahead)).unwrap_or(i64::MAX);
        self.worst_skew_nanoseconds = self.worst_skew_nanoseconds.max(self.skew_nanoseconds.unsigned_abs());
        let uncertainty = i64::try_from(measured.uncertainty).unwrap_or(i64::MAX);
        self.uncertainty_nanoseconds = u64::try_from(nanoseconds(uncertainty)).unwrap_or(u64::MAX);
        self.measurements += 1;
    }
}

/// Whether two counters' rates are so near that they pass for equal.
pub(crate) fn same_rate(own: u32, first: u32) -> bool {
    u64::from(own.abs_diff(first)) * 1_000_000 <= u64::from(first) * RATE_TOLERANCE
}

/// Which boot of which host this is, if the kernel tells.
#[must_use]
pub(crate) fn boot_id() -> Option<[u8; 16]> {
    let text = fs::read_to_string(BOOT_ID).ok()?;
    parse_boot_id(&text)
}

fn parse_boot_id(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|digit| *digit != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32).then_some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Option<[u8; 16]> = Some([1; 16]);

    fn reading(ticks: u64) -> ClockReading {
        ClockReading { ticks, offset: 77, khz: 1_000_000, boot_id: [2; 16] }
    }

    #[test]
    fn the_fastest_of_all_round_trips_counts() {
        // This host's counter is 1000 behind rank 0's guest; trips take 100, 20 and 50 ticks, the answer in their middle
        // but for the slow one.
        let mut measurement = Measurement::start(HERE, 5, 3, 1000);
        assert_eq!(measurement.answer(5, reading(2090), 1100), Some(Next::Probe(6)));
        assert_eq!(measurement.answer(5, reading(0), 1105), None, "an answer to another probe");
        assert_eq!(measurement.answer(6, reading(2110), 1120), Some(Next::Probe(7)));
        let best = Measured { offset: 1000, uncertainty: 10, same_counter: false, khz: 1_000_000 };
        assert_eq!(measurement.answer(7, reading(2140), 1170), Some(Next::Done(best)));
        assert_eq!(measurement.answer(7, reading(0), 1171), None, "it is done");
    }

    /// What comes of round trips of 100 ticks to a rank 0 of boot 2 whose answers are `wrong` ticks off, and how many.
    fn measure(boot_id: Option<[u8; 16]>, probes: u32, wrong: u64) -> (Measured, u32) {
        let mut measurement = Measurement::start(boot_id, 0, probes, 0);
        let mut trips = 0;
        loop {
            let sent = u64::from(trips) * 100;
            trips += 1;
            match measurement.answer(trips - 1, reading((sent + 50 + 77).wrapping_add(wrong)), sent + 100) {
                Some(Next::Probe(_)) => {}
                next => {
                    let Some(Next::Done(measured)) = next else { unreachable!() };
                    assert_eq!(measurement.answer(trips, reading(0), sent + 200), None, "it is done");
                    return (measured, trips);
                }
            }
        }
    }

    #[test]
    fn ranks_of_one_boot_share_the_counter_exactly() {
        let shared = Measured { offset: 77, uncertainty: 0, same_counter: true, khz: 1_000_000 };
        for (probes, wrong, trips) in [(64, 0, SHARED_PROBES), (2, 0, 2), (64, 50 + SHARED_MARGIN, SHARED_PROBES)] {
            assert_eq!(measure(Some([2; 16]), probes, wrong), (shared, trips));
        }
        let (measured, trips) = measure(None, 10, 0);
        assert!(!measured.same_counter && (measured.offset, trips) == (77, 10), "the boot is not known");
    }

    #[test]
    fn clones_of_one_snapshot_have_a_counter_each() {
        for wrong in [50 + SHARED_MARGIN + 1, 1 << 40, 5000_u64.wrapping_neg()] {
            let own = Measured { offset: wrong.wrapping_add(77), uncertainty: 50, same_counter: false, khz: 1_000_000 };
            assert_eq!(measure(Some([2; 16]), 64, wrong), (own, 64));
        }
    }

    #[test]
    fn an_offset_may_be_negative() {
        let mut measurement = Measurement::start(HERE, 0, 1, 5000);
        let Some(Next::Done(measured)) = measurement.answer(0, reading(1005), 5010) else { unreachable!() };
        assert_eq!(measured.offset, 4000u64.wrapping_neg());
        let mut stats = ClockStats::default();
        stats.measured(measured, 4100u64.wrapping_neg(), 1_000_000);
        assert_eq!((stats.skew_nanoseconds, stats.worst_skew_nanoseconds), (-100, 100));
        stats.measured(measured, 3970u64.wrapping_neg(), 500_000);
        assert_eq!((stats.skew_nanoseconds, stats.worst_skew_nanoseconds), (60, 100));
        assert_eq!((stats.uncertainty_nanoseconds, stats.measurements), (10, 2));
    }

    #[test]
    fn rates_pass_for_equal_up_to_the_tolerance() {
        assert!(same_rate(1_000_250, 1_000_000) && same_rate(999_750, 1_000_000));
        assert!(!same_rate(1_000_251, 1_000_000) && !same_rate(999_749, 1_000_000));
    }

    #[test]
    fn a_boot_id_is_read_as_the_kernel_writes_it() {
        let id = parse_boot_id("00112233-4455-6677-8899-aabbccddeeff\n").unwrap();
        assert_eq!((id[0], id[1], id[15]), (0x00, 0x11, 0xff));
        assert_eq!(parse_boot_id("0011"), None);
        assert_eq!(parse_boot_id("g0112233-4455-6677-8899-aabbccddeeff"), None);
        assert!(boot_id().is_some());
    }
}
