//! The local APIC of one vCPU, in x2APIC mode (Intel SDM volume 3, sections 12.4 to 12.8 and 12.12).
//!
//! Plain state: it can be saved, restored and moved to another process at any instruction boundary. The time-stamp
//! counter is an input of every operation that depends on time.

use serde::{Deserialize, Serialize};

use super::icr::logical_id;
use super::{Icr, Timer, TimerMode, VectorSet};

/// IA32_APIC_BASE.
pub(crate) const MSR_APIC_BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
pub(crate) const MSR_TSC_DEADLINE: u32 = 0x6e0;
const MSR_FIRST: u32 = 0x800;
const MSR_LAST: u32 = 0x8ff;

const ID: u32 = 0x802;
const VERSION: u32 = 0x803;
const TPR: u32 = 0x808;
const PPR: u32 = 0x80a;
const EOI: u32 = 0x80b;
const LDR: u32 = 0x80d;
const SVR: u32 = 0x80f;
const ISR: u32 = 0x810;
const TMR: u32 = 0x818;
const IRR: u32 = 0x820;
const ESR: u32 = 0x828;
const LVT_CMCI: u32 = 0x82f;
const ICR: u32 = 0x830;
const LVT_TIMER: u32 = 0x832;
const LVT_ERROR: u32 = 0x837;
const INITIAL_COUNT: u32 = 0x838;
const CURRENT_COUNT: u32 = 0x839;
const DIVIDE: u32 = 0x83e;
const SELF_IPI: u32 = 0x83f;

/// Version 14H with seven LVT entries (timer, CMCI, LINT0, LINT1, error, performance, thermal); no EOI-broadcast suppression.
const VERSION_VALUE: u64 = 0x14 | 6 << 16;
const SVR_ENABLED: u32 = 1 << 8;
const SVR_WRITABLE: u32 = 0x1ff;
const LVT_MASKED: u32 = 1 << 16;
/// Vector, delivery mode, polarity, remote IRR's neighbours, mask and timer mode.
const LVT_WRITABLE: u32 = 0x7_a7ff;
const LVT_TIMER_WRITABLE: u32 = 0x7_00ff;
const LVT_COUNT: usize = 7;
const DIVIDE_WRITABLE: u64 = 0xb;
/// Vectors below this one are reserved; sending or receiving one is an error (SDM 12.5.3).
const FIRST_VECTOR: u8 = 16;
const ESR_SEND_ILLEGAL: u32 = 1 << 5;
const ESR_RECEIVE_ILLEGAL: u32 = 1 << 6;

const BASE_ADDRESS: u64 = 0xfee0_0000;
const BASE_BOOTSTRAP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLED: u64 = 1 << 11;

/// The access is one that hardware answers with a general-protection exception.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("access to a reserved register or bit of the local APIC")]
pub struct GeneralProtection;

/// What a register write asks of the rest of the machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ApicWrite {
    /// Nothing.
    Done,
    /// Send this inter-processor interrupt.
    Send(Icr),
    /// A level-triggered interrupt with this vector has ended: tell the IOAPIC.
    EndOfLevel(u8),
}

/// The local APIC of one vCPU.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LocalApic {
    id: u32,
    base: u64,
    task_priority: u8,
    spurious: u32,
    requested: VectorSet,
    in_service: VectorSet,
    level: VectorSet,
    lvt: [u32; LVT_COUNT],
    error: u32,
    error_latched: u32,
    icr: u64,
    timer: Timer,
}

impl LocalApic {
    /// The local APIC with this id after power-up, in x2APIC mode as firmware leaves it. Id 0 is the bootstrap processor.
    #[must_use]
    pub fn new(id: u32) -> Self {
        let bootstrap = if id == 0 { BASE_BOOTSTRAP } else { 0 };
        Self {
            id,
            base: BASE_ADDRESS | BASE_ENABLED | BASE_X2APIC | bootstrap,
            task_priority: 0,
            spurious: 0xff,
            requested: VectorSet::default(),
            in_service: VectorSet::default(),
            level: VectorSet::default(),
            lvt: [LVT_MASKED; LVT_COUNT],
            error: 0,
            error_latched: 0,
            icr: 0,
            timer: Timer::default(),
        }
    }

    /// What INIT does to it (SDM 12.12.5.1): everything but id and mode returns to the state after power-up.
    pub fn reset(&mut self) {
        *self = Self { base: self.base, ..Self::new(self.id) };
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The value of IA32_APIC_BASE.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Whether an MSR belongs to it.
    #[must_use]
    pub fn owns_msr(index: u32) -> bool {
        matches!(index, MSR_APIC_BASE | MSR_TSC_DEADLINE | MSR_FIRST..=MSR_LAST)
    }

    /// Reads one of its MSRs at time `now`.
    ///
    /// # Errors
    /// [`GeneralProtection`] for registers that are reserved or write-only.
    pub fn read_msr(&self, index: u32, now: u64) -> Result<u64, GeneralProtection> {
        Ok(match index {
            MSR_APIC_BASE => self.base,
            MSR_TSC_DEADLINE => match self.timer_mode() {
                TimerMode::Deadline => self.timer.deadline(),
                TimerMode::OneShot | TimerMode::Periodic => 0,
            },
            ID => self.id.into(),
            VERSION => VERSION_VALUE,
            TPR => self.task_priority.into(),
            PPR => self.processor_priority().into(),
            LDR => logical_id(self.id).into(),
            SVR => self.spurious.into(),
            ISR..=0x817 => self.in_service.register(index - ISR).into(),
            TMR..=0x81f => self.level.register(index - TMR).into(),
            IRR..=0x827 => self.requested.register(index - IRR).into(),
            ESR => self.error_latched.into(),
            ICR => self.icr,
            LVT_CMCI | LVT_TIMER..=LVT_ERROR => self.lvt[lvt_index(index)].into(),
            INITIAL_COUNT => self.timer.initial_count().into(),
            CURRENT_COUNT => match self.timer_mode() {
                TimerMode::Deadline => 0,
                TimerMode::OneShot | TimerMode::Periodic => self.timer.current_count(now).into(),
            },
            DIVIDE => self.timer.divide().into(),
            _ => return Err(GeneralProtection),
        })
    }

    /// Writes one of its MSRs at time `now`.
    ///
    /// # Errors
    /// [`GeneralProtection`] for registers that are reserved or read-only, and for values with reserved bits.
    pub fn write_msr(&mut self, index: u32, value: u64, now: u64) -> Result<ApicWrite, GeneralProtection> {
        match index {
            // Leaving x2APIC mode is not supported, so nothing but the value it has may be written.
            MSR_APIC_BASE if value == self.base => {}
            MSR_TSC_DEADLINE => {
                if self.timer_mode() == TimerMode::Deadline {
                    self.timer.set_deadline(value);
                }
            }
            TPR => self.task_priority = u8::try_from(value).map_err(|_| GeneralProtection)?,
            EOI if value == 0 => return Ok(self.end_of_interrupt()),
            SVR => {
                self.spurious = checked(value, SVR_WRITABLE)?;
                if self.spurious & SVR_ENABLED == 0 {
                    self.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
                }
            }
            ESR if value == 0 => self.error_latched = std::mem::take(&mut self.error),
            ICR => {
                self.icr = value;
                return Ok(self.command(value));
            }
            LVT_TIMER => self.set_timer_entry(checked(value, LVT_TIMER_WRITABLE)?),
            LVT_CMCI | LVT_TIMER..=LVT_ERROR => {
                let mask = if self.enabled() { 0 } else { LVT_MASKED };
                self.lvt[lvt_index(index)] = checked(value, LVT_WRITABLE)? | mask;
            }
            INITIAL_COUNT => {
                let count = u32::try_from(value).map_err(|_| GeneralProtection)?;
                if self.timer_mode() != TimerMode::Deadline {
                    self.timer.set_initial_count(count, now);
                }
            }
            DIVIDE if value & !DIVIDE_WRITABLE == 0 => self.timer.set_divide(value.to_le_bytes()[0].into()),
            SELF_IPI => {
                let vector = u8::try_from(value).map_err(|_| GeneralProtection)?;
                self.request(vector);
            }
            _ => return Err(GeneralProtection),
        }
        Ok(ApicWrite::Done)
    }

    /// The task priority as CR8 shows it.
    #[must_use]
    pub fn cr8(&self) -> u64 {
        u64::from(self.task_priority >> 4)
    }

    /// The guest has written CR8.
    pub fn set_cr8(&mut self, value: u64) {
        self.task_priority = value.to_le_bytes()[0] << 4;
    }

    /// Takes up to 64 vectors from the mailbox, vector `64 * word` being the lowest bit; `level` says which of them are level-triggered.
    pub(super) fn accept(&mut self, word: usize, bits: u64, level: u64) {
        if !self.enabled() {
            return;
        }
        self.requested.insert_word(word, bits);
        for bit in (0..64).filter(|bit| bits >> bit & 1 != 0) {
            let vector = (word * 64 + bit).to_le_bytes()[0];
            if level >> bit & 1 != 0 {
                self.level.insert(vector)
            } else {
                self.level.remove(vector)
            }
            self.check_received(vector);
        }
    }

    /// When the timer fires next, as a value of the time-stamp counter.
    #[must_use]
    pub fn timer_expiry(&self) -> Option<u64> {
        self.timer.expiry()
    }

    /// Lets the timer fire if it is due.
    pub fn advance(&mut self, now: u64) {
        if self.timer.fire(now, self.timer_mode()) {
            let entry = self.lvt[lvt_index(LVT_TIMER)];
            if entry & LVT_MASKED == 0 {
                self.request(entry.to_le_bytes()[0]);
            }
        }
    }

    /// The vector to be delivered now, if one has a higher priority class than the processor's.
    #[must_use]
    pub fn pending(&self) -> Option<u8> {
        let vector = self.requested.highest()?;
        (self.enabled() && vector >> 4 > self.processor_priority() >> 4).then_some(vector)
    }

    /// The processor has taken this vector, which [`Self::pending`] named.
    pub fn acknowledge(&mut self, vector: u8) {
        self.requested.remove(vector);
        self.in_service.insert(vector);
    }

    fn enabled(&self) -> bool {
        self.spurious & SVR_ENABLED != 0
    }

    fn request(&mut self, vector: u8) {
        if self.enabled() && self.check_received(vector) {
            self.requested.insert(vector);
            self.level.remove(vector);
        }
    }

    /// Notes the error of receiving a reserved vector, which is dropped.
    fn check_received(&mut self, vector: u8) -> bool {
        let legal = vector >= FIRST_VECTOR;
        if !legal {
            self.requested.remove(vector);
            self.raise_error(ESR_RECEIVE_ILLEGAL);
        }
        legal
    }

    fn raise_error(&mut self, bit: u32) {
        self.error |= bit;
        let entry = self.lvt[lvt_index(LVT_ERROR)];
        let vector = entry.to_le_bytes()[0];
        if entry & LVT_MASKED == 0 && vector >= FIRST_VECTOR {
            self.requested.insert(vector);
        }
    }

    /// SDM 12.8.3.1: the higher of the task priority and the class of what is in service.
    fn processor_priority(&self) -> u8 {
        let in_service = self.in_service.highest().unwrap_or(0) & 0xf0;
        if self.task_priority >> 4 >= in_service >> 4 { self.task_priority } else { in_service }
    }

    fn end_of_interrupt(&mut self) -> ApicWrite {
        let Some(vector) = self.in_service.highest() else { return ApicWrite::Done };
        self.in_service.remove(vector);
        if self.level.contains(vector) { ApicWrite::EndOfLevel(vector) } else { ApicWrite::Done }
    }

    fn command(&mut self, value: u64) -> ApicWrite {
        let Some(icr) = Icr::decode(value) else { return ApicWrite::Done };
        let has_vector = matches!(icr.message.delivery, super::Delivery::Fixed | super::Delivery::LowestPriority);
        if has_vector && icr.message.vector < FIRST_VECTOR {
            self.raise_error(ESR_SEND_ILLEGAL);
            return ApicWrite::Done;
        }
        ApicWrite::Send(icr)
    }

    fn timer_mode(&self) -> TimerMode {
        match (self.lvt[lvt_index(LVT_TIMER)] >> 17) & 3 {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            _ => TimerMode::Deadline,
        }
    }

    fn set_timer_entry(&mut self, entry: u32) {
        let before = self.timer_mode();
        let mask = if self.enabled() { 0 } else { LVT_MASKED };
        self.lvt[lvt_index(LVT_TIMER)] = entry | mask;
        // SDM 12.5.4.1: a change between deadline mode and the others disarms the timer.
        if (before == TimerMode::Deadline) != (self.timer_mode() == TimerMode::Deadline) {
            self.timer.disarm();
        }
    }
}

/// Where an LVT register, which must be one, is kept.
fn lvt_index(msr: u32) -> usize {
    if msr == LVT_CMCI { 0 } else { (msr - LVT_TIMER + 1) as usize }
}

/// A 32-bit register value without bits outside `writable`.
fn checked(value: u64, writable: u32) -> Result<u32, GeneralProtection> {
    u32::try_from(value).ok().filter(|value| value & !writable == 0).ok_or(GeneralProtection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apic::{Delivery, Destination, Shorthand};
    use proptest::prelude::*;

    fn enabled() -> LocalApic {
        let mut apic = LocalApic::new(3);
        apic.write_msr(SVR, 0x1ff, 0).unwrap();
        apic
    }

    fn deliver(apic: &mut LocalApic, vector: u8, level: bool) {
        let bit = 1 << (vector % 64);
        apic.accept(usize::from(vector) / 64, bit, if level { bit } else { 0 });
    }

    #[test]
    fn after_power_up_it_is_in_x2apic_mode_and_software_disabled() {
        let mut apic = LocalApic::new(0x25);
        assert_eq!(apic.read_msr(ID, 0), Ok(0x25));
        assert_eq!(apic.read_msr(LDR, 0), Ok(0x0002_0020));
        assert_eq!(apic.read_msr(MSR_APIC_BASE, 0), Ok(0xfee0_0c00));
        assert_eq!(LocalApic::new(0).base(), 0xfee0_0d00);
        deliver(&mut apic, 0x40, false);
        assert_eq!(apic.pending(), None, "a disabled APIC accepts nothing");
    }

    #[test]
    fn higher_priority_classes_interrupt_lower_ones() {
        let mut apic = enabled();
        deliver(&mut apic, 0x41, false);
        deliver(&mut apic, 0x52, false);
        assert_eq!(apic.pending(), Some(0x52));
        apic.acknowledge(0x52);
        assert_eq!(apic.pending(), None, "0x41 waits for the end of 0x52");
        deliver(&mut apic, 0x5f, false);
        assert_eq!(apic.pending(), None, "the same class does not nest");
        deliver(&mut apic, 0x60, false);
        assert_eq!(apic.pending(), Some(0x60));
        assert_eq!(apic.write_msr(EOI, 0, 0), Ok(ApicWrite::Done));
        apic.acknowledge(0x60);
        apic.write_msr(EOI, 0, 0).unwrap();
        assert_eq!(apic.pending(), Some(0x5f));
    }

    #[test]
    fn the_task_priority_holds_interrupts_back() {
        let mut apic = enabled();
        deliver(&mut apic, 0x41, false);
        apic.set_cr8(4);
        assert_eq!((apic.pending(), apic.read_msr(PPR, 0)), (None, Ok(0x40)));
        apic.write_msr(TPR, 0x3f, 0).unwrap();
        assert_eq!((apic.pending(), apic.cr8()), (Some(0x41), 3));
    }

    #[test]
    fn the_end_of_a_level_interrupt_goes_to_the_ioapic() {
        let mut apic = enabled();
        deliver(&mut apic, 0x41, true);
        apic.acknowledge(0x41);
        assert_eq!(apic.write_msr(EOI, 0, 0), Ok(ApicWrite::EndOfLevel(0x41)));
        deliver(&mut apic, 0x41, false);
        apic.acknowledge(0x41);
        assert_eq!(apic.write_msr(EOI, 0, 0), Ok(ApicWrite::Done));
        assert_eq!(apic.write_msr(EOI, 0, 0), Ok(ApicWrite::Done), "nothing in service");
    }

    #[test]
    fn the_timer_fires_in_each_mode() {
        let mut apic = enabled();
        apic.write_msr(DIVIDE, 0xb, 0).unwrap();
        apic.write_msr(LVT_TIMER, 0xec, 0).unwrap();
        apic.write_msr(INITIAL_COUNT, 50_000, 1_000).unwrap();
        assert_eq!(apic.read_msr(CURRENT_COUNT, 11_000), Ok(40_000));
        apic.advance(50_999);
        assert_eq!(apic.pending(), None);
        apic.advance(51_000);
        assert_eq!(apic.pending(), Some(0xec));
        apic.acknowledge(0xec);
        apic.write_msr(EOI, 0, 0).unwrap();

        apic.write_msr(LVT_TIMER, 0x4_00ec, 0).unwrap();
        apic.write_msr(MSR_TSC_DEADLINE, 90_000, 60_000).unwrap();
        assert_eq!((apic.timer_expiry(), apic.read_msr(MSR_TSC_DEADLINE, 0)), (Some(90_000), Ok(90_000)));
        apic.advance(90_000);
        assert_eq!((apic.pending(), apic.read_msr(MSR_TSC_DEADLINE, 0)), (Some(0xec), Ok(0)));
    }

    #[test]
    fn a_masked_timer_and_a_change_of_mode_fire_nothing() {
        let mut apic = enabled();
        apic.write_msr(LVT_TIMER, 0x5_00ec, 0).unwrap();
        apic.write_msr(MSR_TSC_DEADLINE, 10, 0).unwrap();
        apic.advance(11);
        assert_eq!(apic.pending(), None);
        apic.write_msr(LVT_TIMER, 0x4_00ec, 0).unwrap();
        apic.write_msr(MSR_TSC_DEADLINE, 20, 0).unwrap();
        apic.write_msr(LVT_TIMER, 0xec, 0).unwrap();
        assert_eq!(apic.timer_expiry(), None);
    }

    #[test]
    fn commands_are_decoded_and_illegal_vectors_noted() {
        let mut apic = enabled();
        let sent = apic.write_msr(ICR, 7 << 32 | 0xfd, 0).unwrap();
        let ApicWrite::Send(icr) = sent else { panic!("{sent:?}") };
        assert_eq!((icr.message.destination, icr.message.vector), (Destination::Physical(7), 0xfd));
        assert_eq!((icr.message.delivery, icr.shorthand), (Delivery::Fixed, Shorthand::None));
        assert_eq!(apic.write_msr(ICR, 0x05, 0), Ok(ApicWrite::Done));
        assert_eq!(apic.read_msr(ESR, 0), Ok(0), "errors show after a write");
        apic.write_msr(ESR, 0, 0).unwrap();
        assert_eq!(apic.read_msr(ESR, 0), Ok(u64::from(ESR_SEND_ILLEGAL)));
        deliver(&mut apic, 0x0e, false);
        assert_eq!(apic.pending(), None);
    }

    #[test]
    fn reserved_bits_and_registers_are_refused() {
        let mut apic = enabled();
        for (msr, value) in [(SVR, 0x1000), (EOI, 1), (ID, 1), (DIVIDE, 4), (TPR, 0x100), (0x80e, 0), (ISR, 0)] {
            assert_eq!(apic.write_msr(msr, value, 0), Err(GeneralProtection), "{msr:#x} = {value:#x}");
        }
        assert_eq!(apic.write_msr(MSR_APIC_BASE, 0xfee0_0800, 0), Err(GeneralProtection), "xAPIC mode");
        for msr in [EOI, SELF_IPI, 0x800, 0x8ff, 0x80e] {
            assert_eq!(apic.read_msr(msr, 0), Err(GeneralProtection), "{msr:#x}");
        }
    }

    #[test]
    fn init_resets_all_but_id_and_mode() {
        let mut apic = enabled();
        deliver(&mut apic, 0x41, false);
        apic.reset();
        assert_eq!(apic, LocalApic::new(3));
    }

    proptest! {
        #[test]
        fn any_sequence_of_accesses_keeps_the_state_sound(
            steps in prop::collection::vec((0x7f0u32..0x910, any::<u64>(), any::<u8>(), 0u8..6), 1..200)
        ) {
            let mut apic = enabled();
            for (now, (msr, value, vector, action)) in steps.into_iter().enumerate() {
                let now = now as u64 * 10_000;
                match action {
                    0 => { let _ = apic.read_msr(msr, now); }
                    1 => { let _ = apic.write_msr(msr, value & 0xfff, now); }
                    2 => { let _ = apic.write_msr(msr, value, now); }
                    3 => deliver(&mut apic, vector, value & 1 != 0),
                    4 => apic.advance(now),
                    _ => if let Some(vector) = apic.pending() { apic.acknowledge(vector) },
                }
                if let Some(vector) = apic.pending() {
                    prop_assert!(vector >= FIRST_VECTOR);
                    prop_assert!(u64::from(vector) >> 4 > apic.read_msr(PPR, now).unwrap() >> 4);
                }
            }
        }
    }
}
