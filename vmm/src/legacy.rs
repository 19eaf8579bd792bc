//! The few devices of a PC that this machine has: a serial port, a real-time clock, and registers for power.

mod clock;
mod power;
mod serial;
mod timer;

pub use clock::RealTimeClock;
pub use power::{PowerEvent, PowerRegisters};
pub use serial::SerialConsole;
pub use timer::NoIntervalTimer;
