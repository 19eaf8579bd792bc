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
/// Bits that may be written to each LVT entry (SDM figure 12-8), in the order in which they are kept: CMCI; timer (vector,
/// mask, mode); thermal, performance; LINT0, LINT1 (polarity and trigger mode as well); error (vector, mask).
const LVT_WRITABLE: [u32; LVT_COUNT] = [0x1_07ff, 0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
/// Delivery status and remote IRR: read-only, so that what was read may be written back.
const LVT_READ_ONLY: u64 = 1 << 12 | 1 << 14;
const LVT_COUNT: usize = 7;
/// Reserved bits of the ICR (SDM figure 12-28). Bit 12, the delivery status of xAPIC mode, is ignored.
const ICR_RESERVED: u64 = 0xfff3_2000;
const ICR_DELIVERY_STATUS: u64 = 1 << 12;
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
            ICR if value & ICR_RESERVED == 0 => {
                self.icr = value & !ICR_DELIVERY_STATUS;
                return Ok(self.command(value));
            }
            LVT_CMCI | LVT_TIMER..=LVT_ERROR => {
                let entry = checked(value & !LVT_READ_ONLY, LVT_WRITABLE[lvt_index(index)])?;
                self.set_local_vector(index, entry);
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

    /// The vector to be delivered now, if one has a higher priority class than the processor's. Disabling the APIC by
    /// software keeps new ones out, not those that it holds already (SDM 12.4.7.2).
    #[must_use]
    pub fn pending(&self) -> Option<u8> {
        let vector = self.requested.highest()?;
        (vector >> 4 > self.processor_priority() >> 4).then_some(vector)
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
            self.request(vector);
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

    fn set_local_vector(&mut self, index: u32, entry: u32) {
        let before = self.timer_mode();
        let mask = if self.enabled() { 0 } else { LVT_MASKED };
        self.lvt[lvt_index(index)] = entry | mask;
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
mod tests;
