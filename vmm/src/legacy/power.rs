//! The power registers of a hardware-reduced ACPI machine (ACPI 6.5, sections 4.8.3.6 and 4.8.3.7).

use std::fmt;

use crate::acpi::{POWER_OFF_VALUE, PowerPorts, RESET_VALUE};
use crate::bus::PioDevice;
use crate::layout::POWER_PORT;

/// What the guest asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PowerEvent {
    /// Power off.
    Off,
    /// Reset.
    Reset,
}

/// Sleep control, sleep status and reset, one port each.
pub struct PowerRegisters {
    report: Box<dyn Fn(PowerEvent) + Send + Sync>,
}

impl fmt::Debug for PowerRegisters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PowerRegisters").finish_non_exhaustive()
    }
}

impl PowerRegisters {
    /// Where the registers are.
    pub const PORTS: PowerPorts =
        PowerPorts { sleep_control: POWER_PORT, sleep_status: POWER_PORT + 1, reset: POWER_PORT + 2 };
    /// How many ports they take.
    pub const COUNT: u16 = 3;

    /// Registers that tell `report` what the guest asks for.
    #[must_use]
    pub fn new(report: Box<dyn Fn(PowerEvent) + Send + Sync>) -> Self {
        Self { report }
    }
}

impl PioDevice for PowerRegisters {
    fn read(&self, _port: u16, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, port: u16, data: &[u8]) {
        let ports = Self::PORTS;
        match data {
            [POWER_OFF_VALUE] if port == ports.sleep_control => (self.report)(PowerEvent::Off),
            [RESET_VALUE] if port == ports.reset => (self.report)(PowerEvent::Reset),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn only_the_right_values_in_the_right_registers_count() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let registers = PowerRegisters::new(Box::new(move |event| sink.lock().unwrap().push(event)));
        let ports = PowerRegisters::PORTS;
        registers.write(ports.sleep_control, &[0x3c]);
        registers.write(ports.sleep_status, &[POWER_OFF_VALUE]);
        registers.write(ports.reset, &[0, 0]);
        assert!(seen.lock().unwrap().is_empty());
        registers.write(ports.sleep_control, &[POWER_OFF_VALUE]);
        registers.write(ports.reset, &[RESET_VALUE]);
        assert_eq!(*seen.lock().unwrap(), [PowerEvent::Off, PowerEvent::Reset]);
    }
}
