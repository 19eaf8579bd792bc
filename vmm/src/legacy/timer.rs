//! The place of the interval timer (Intel 8254), which this machine does not have.

use crate::bus::PioDevice;

/// Counter and command ports, all of which read as zero. Linux tries to calibrate its clock by the timer before it
/// knows that there is none: on an empty bus, which reads as all ones, it would poll the counter 50000 times, an exit
/// each; from zero it learns at the first look. (It has the clock's rate from its command line and from CPUID.)
#[derive(Debug)]
pub struct NoIntervalTimer;

impl NoIntervalTimer {
    /// First port.
    pub const START: u16 = 0x40;
    /// How many ports it takes.
    pub const COUNT: u16 = 4;
}

impl PioDevice for NoIntervalTimer {
    fn read(&self, _port: u16, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _port: u16, _data: &[u8]) {}
}
