//! The IOAPIC: device lines in, interrupt messages out (Intel 82093AA data sheet, section 3).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::icr::decode_destination;
use super::vectors::halves;
use super::{Delivery, Message, Router};
use crate::interrupt::InterruptLine;

/// Input pins; pin n is global system interrupt n.
pub const IO_APIC_PINS: usize = 48;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const ID: u8 = 0x00;
const VERSION: u8 = 0x01;
const ARBITRATION: u8 = 0x02;
const FIRST_ENTRY: u8 = 0x10;
/// Version 11H has no EOI register: ends of level-triggered interrupts arrive from the local APICs.
const VERSION_VALUE: u32 = 0x11;
const LAST_PIN: u32 = 47;
const _: () = assert!(LAST_PIN as usize == IO_APIC_PINS - 1);
const ID_BITS: u32 = 0x0f00_0000;

const ENTRY_REMOTE_IRR: u64 = 1 << 14;
const ENTRY_LEVEL: u64 = 1 << 15;
const ENTRY_MASKED: u64 = 1 << 16;
const ENTRY_LOGICAL: u64 = 1 << 11;
/// Delivery status (bit 12) and remote IRR (bit 14) are read-only.
const ENTRY_WRITABLE: u64 = 0xff00_0000_0001_afff;
const ENTRY_DESTINATION_SHIFT: u32 = 56;

/// The IOAPIC's registers and lines.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct IoApicState {
    select: u8,
    id: u32,
    entries: Vec<u64>,
    lines: Vec<Line>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct Line {
    up: bool,
    /// It rose since the last message. Kept while the pin is masked, because Linux masks a pin to move it to another
    /// processor and would otherwise lose the device's interrupt.
    edge: bool,
}

/// A saved state does not have the pins of this IOAPIC.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an IOAPIC state of {0} pins does not fit this machine's {IO_APIC_PINS}; use the same vincs on both sides")]
pub struct PinsError(usize);

impl Default for IoApicState {
    fn default() -> Self {
        Self { select: 0, id: 0, entries: vec![ENTRY_MASKED; IO_APIC_PINS], lines: vec![Line::default(); IO_APIC_PINS] }
    }
}

impl IoApicState {
    /// Reads a register of its memory-mapped page.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            SELECT => self.select.into(),
            WINDOW => self.read_selected(),
            _ => 0,
        }
    }

    /// Writes a register; returns a message to send if that unmasks a raised level-triggered line.
    pub fn write(&mut self, offset: u64, value: u32) -> Option<Message> {
        match offset {
            SELECT => self.select = value.to_le_bytes()[0],
            WINDOW => return self.write_selected(value),
            _ => {}
        }
        None
    }

    /// A line goes up and down again.
    pub fn pulse(&mut self, pin: usize) -> Option<Message> {
        let message = self.set_line(pin, true);
        self.set_line(pin, false);
        message
    }

    /// A line goes up or down; returns a message to send.
    pub fn set_line(&mut self, pin: usize, up: bool) -> Option<Message> {
        let line = self.lines.get_mut(pin)?;
        let rising = up && !line.up;
        line.up = up;
        line.edge |= rising;
        if up { self.send(pin) } else { None }
    }

    /// A level-triggered interrupt with this vector has ended; messages to send again for lines that are still up.
    pub fn end_of_interrupt(&mut self, vector: u8) -> Vec<Message> {
        let ended = |entry: u64| entry & ENTRY_LEVEL != 0 && entry.to_le_bytes()[0] == vector;
        (0..self.entries.len())
            .filter_map(|pin| {
                if !ended(self.entries[pin]) {
                    return None;
                }
                self.entries[pin] &= !ENTRY_REMOTE_IRR;
                self.send(pin)
            })
            .collect()
    }

    /// The message that a pin owes now, if it is not masked.
    fn send(&mut self, pin: usize) -> Option<Message> {
        let (entry, line) = (self.entries.get_mut(pin)?, self.lines.get_mut(pin)?);
        let level = *entry & ENTRY_LEVEL != 0;
        let owed = if level { line.up && *entry & ENTRY_REMOTE_IRR == 0 } else { line.edge };
        if !owed || *entry & ENTRY_MASKED != 0 {
            return None;
        }
        line.edge = false;
        let delivery = match (*entry >> 8) & 7 {
            0 => Delivery::Fixed,
            1 => Delivery::LowestPriority,
            4 => Delivery::Nmi,
            5 => Delivery::Init,
            _ => return None,
        };
        if level {
            *entry |= ENTRY_REMOTE_IRR;
        }
        let field = u32::from((*entry >> ENTRY_DESTINATION_SHIFT).to_le_bytes()[0]);
        // The field has eight bits, all of them set meaning everybody.
        let field = if field == 0xff { u32::MAX } else { field };
        let destination = decode_destination(field, *entry & ENTRY_LOGICAL != 0);
        Some(Message { destination, delivery, vector: entry.to_le_bytes()[0], level })
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            ID | ARBITRATION => self.id,
            VERSION => VERSION_VALUE | LAST_PIN << 16,
            select => match self.selected_entry(select) {
                Some((pin, high)) => halves(self.entries[pin])[usize::from(high)],
                None => 0,
            },
        }
    }

    fn write_selected(&mut self, value: u32) -> Option<Message> {
        if self.select == ID {
            self.id = value & ID_BITS;
            return None;
        }
        let (pin, high) = self.selected_entry(self.select)?;
        let entry = &mut self.entries[pin];
        let (kept, shift) = if high { (0xffff_ffff, 32) } else { (0xffff_ffff << 32, 0) };
        let written = (*entry & kept) | u64::from(value) << shift;
        *entry = (written & ENTRY_WRITABLE) | (*entry & !ENTRY_WRITABLE);
        if *entry & ENTRY_LEVEL == 0 {
            *entry &= !ENTRY_REMOTE_IRR;
        }
        self.send(pin)
    }

    fn selected_entry(&self, select: u8) -> Option<(usize, bool)> {
        let index = usize::from(select.checked_sub(FIRST_ENTRY)?);
        (index / 2 < self.entries.len()).then_some((index / 2, index % 2 == 1))
    }
}

/// The IOAPIC of the machine: its state, shared between vCPUs and devices, and the way to the local APICs.
#[derive(Debug)]
pub struct IoApic {
    /// Never held while a message is delivered.
    state: Mutex<IoApicState>,
    router: Arc<Router>,
}

impl IoApic {
    /// An IOAPIC with all pins masked.
    #[must_use]
    pub fn new(router: Arc<Router>) -> Self {
        Self { state: Mutex::default(), router }
    }

    /// Reads a register of its memory-mapped page.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        self.state().read(offset)
    }

    /// Writes a register of its memory-mapped page.
    pub fn write(&self, offset: u64, value: u32) {
        let message = self.state().write(offset, value);
        self.deliver(message);
    }

    /// A level-triggered interrupt with this vector has ended.
    pub fn end_of_interrupt(&self, vector: u8) {
        let messages = self.state().end_of_interrupt(vector);
        self.deliver(messages);
    }

    /// Its state, to be saved.
    #[must_use]
    pub fn save(&self) -> IoApicState {
        self.state().clone()
    }

    /// Puts a saved state in place.
    ///
    /// # Errors
    /// [`PinsError`] when the state belongs to another kind of IOAPIC; nothing changes then.
    pub fn restore(&self, state: IoApicState) -> Result<(), PinsError> {
        if [state.entries.len(), state.lines.len()] != [IO_APIC_PINS; 2] {
            return Err(PinsError(state.entries.len()));
        }
        *self.state() = state;
        Ok(())
    }

    fn deliver(&self, messages: impl IntoIterator<Item = Message>) {
        messages.into_iter().for_each(|message| self.router.deliver(message));
    }

    fn state(&self) -> MutexGuard<'_, IoApicState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A device's line into the IOAPIC.
#[derive(Debug)]
pub struct IoApicPin {
    controller: Arc<IoApic>,
    pin: usize,
}

impl IoApicPin {
    /// The line to this pin.
    #[must_use]
    pub fn new(controller: Arc<IoApic>, pin: usize) -> Self {
        Self { controller, pin }
    }
}

impl InterruptLine for IoApicPin {
    fn pulse(&self) {
        let message = self.controller.state().pulse(self.pin);
        self.controller.deliver(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apic::Destination;
    use proptest::prelude::*;

    fn program(io: &mut IoApicState, pin: u8, entry: u64) -> Option<Message> {
        io.write(SELECT, u32::from(FIRST_ENTRY + 2 * pin + 1));
        let high = io.write(WINDOW, halves(entry)[1]);
        io.write(SELECT, u32::from(FIRST_ENTRY + 2 * pin));
        io.write(WINDOW, halves(entry)[0]).or(high)
    }

    #[test]
    fn an_edge_sends_its_vector_to_its_destination() {
        let mut io = IoApicState::default();
        assert_eq!(program(&mut io, 16, 2 << 56 | 0x31), None);
        let expected =
            Message { destination: Destination::Physical(2), delivery: Delivery::Fixed, vector: 0x31, level: false };
        assert_eq!(io.pulse(16), Some(expected));
        assert_eq!(io.pulse(16), Some(expected), "every edge counts");
        assert_eq!(io.pulse(17), None, "masked");
        assert_eq!(io.pulse(IO_APIC_PINS), None, "no such pin");
    }

    #[test]
    fn an_edge_while_masked_is_sent_on_unmasking() {
        let mut io = IoApicState::default();
        program(&mut io, 5, 0x31 | ENTRY_MASKED);
        assert_eq!(io.pulse(5), None);
        assert_eq!(program(&mut io, 5, 0x31).map(|message| message.vector), Some(0x31));
        assert_eq!(program(&mut io, 5, 0x31), None, "once");
    }

    #[test]
    fn a_level_line_is_sent_again_at_its_end_while_it_is_up() {
        let mut io = IoApicState::default();
        program(&mut io, 5, 0x31 | ENTRY_LEVEL);
        assert!(io.set_line(5, true).is_some_and(|message| message.level));
        assert_eq!(io.set_line(5, true), None, "not before its end");
        assert_eq!(io.end_of_interrupt(0x31).len(), 1);
        assert_eq!(io.set_line(5, false), None);
        assert_eq!(io.end_of_interrupt(0x31), []);
    }

    #[test]
    fn registers_read_back_and_read_only_bits_stay() {
        let mut io = IoApicState::default();
        io.write(SELECT, VERSION.into());
        assert_eq!(io.read(WINDOW), 0x002f_0011);
        program(&mut io, 47, u64::MAX);
        io.write(SELECT, u32::from(FIRST_ENTRY + 94));
        assert_eq!(io.read(WINDOW), 0x0001_afff);
        io.write(SELECT, u32::from(FIRST_ENTRY + 96));
        assert_eq!(io.read(WINDOW), 0, "beyond the last pin");
        assert_eq!(io.read(0x20), 0);
    }

    #[test]
    fn a_saved_state_goes_on_in_another_ioapic() {
        let ioapic = || IoApic::new(Arc::new(Router::new(Vec::new())));
        let (first, second) = (ioapic(), ioapic());
        program(&mut first.state(), 5, 0x31 | ENTRY_MASKED);
        first.state().pulse(5);
        let mut json = serde_json::to_value(first.save()).unwrap();
        second.restore(serde_json::from_value(json.clone()).unwrap()).unwrap();
        assert_eq!(second.save(), first.save());
        assert!(program(&mut second.state(), 5, 0x31).is_some(), "the edge has come along");

        json["lines"].as_array_mut().unwrap().pop();
        let error = second.restore(serde_json::from_value(json).unwrap()).unwrap_err();
        assert!(error.to_string().contains("48"), "{error}");
    }

    proptest! {
        #[test]
        fn any_sequence_of_accesses_is_survived(
            steps in prop::collection::vec((0u8..4, any::<u64>(), any::<u32>()), 1..200)
        ) {
            let mut io = IoApicState::default();
            for (action, address, value) in steps {
                match action {
                    0 => { let _ = io.read(address & 0x3f); }
                    1 => { io.write(address & 0x10, value); }
                    2 => { io.pulse((address & 0x3f) as usize); }
                    _ => { io.end_of_interrupt(value.to_le_bytes()[0]); }
                }
            }
        }
    }
}
