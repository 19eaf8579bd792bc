//! The real-time clock (Motorola MC146818), from which the guest takes the date when it boots. It shows the host's
//! time in UTC, in decimal digits (BCD) and 24-hour form, which is what Linux on x86 takes for granted whatever the
//! status register says; setting it has no effect.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::bus::PioDevice;
use crate::layout::CLOCK_PORT;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_D: u8 = 0x0d;
/// Where Linux and ACPI firmware keep the century when the FADT says nothing else.
const CENTURY: u8 = 0x32;

/// Oscillator on, no update in progress.
const A_RUNNING: u8 = 0x26;
/// Decimal digits, 24-hour form.
const B_BCD_24_HOURS: u8 = 0x02;
const D_VALID: u8 = 0x80;
/// The top bit of the index port masks NMIs on a PC; it is not part of the index.
const INDEX: u8 = 0x7f;

/// The clock's index and data ports.
#[derive(Debug, Default)]
pub struct RealTimeClock {
    index: AtomicU8,
}

impl RealTimeClock {
    /// How many ports it takes.
    pub const COUNT: u16 = 2;

    fn register(index: u8, unix_seconds: u64) -> u8 {
        let date = Date::from_unix(unix_seconds);
        match index {
            SECONDS => bcd(date.second),
            MINUTES => bcd(date.minute),
            HOURS => bcd(date.hour),
            WEEKDAY => date.weekday,
            DAY => bcd(date.day),
            MONTH => bcd(date.month),
            YEAR => bcd((date.year % 100).to_le_bytes()[0]),
            CENTURY => bcd((date.year / 100 % 100).to_le_bytes()[0]),
            STATUS_A => A_RUNNING,
            STATUS_B => B_BCD_24_HOURS,
            STATUS_D => D_VALID,
            _ => 0,
        }
    }
}

/// A number below 100 as two decimal digits.
fn bcd(number: u8) -> u8 {
    (number / 10) << 4 | (number % 10)
}

impl PioDevice for RealTimeClock {
    fn read(&self, port: u16, data: &mut [u8]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if let ([value], true) = (data, port != CLOCK_PORT) {
            *value = Self::register(self.index.load(Ordering::Relaxed), now);
        }
    }

    fn write(&self, port: u16, data: &[u8]) {
        if let ([value], true) = (data, port == CLOCK_PORT) {
            self.index.store(value & INDEX, Ordering::Relaxed);
        }
    }
}

/// A date and time in UTC.
#[derive(Debug, Eq, PartialEq)]
struct Date {
    year: u64,
    month: u8,
    day: u8,
    /// 1 is Sunday.
    weekday: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Date {
    /// The proleptic Gregorian date. Days are counted from 1 March of year 0, so that leap days end their year.
    fn from_unix(seconds: u64) -> Self {
        const SECONDS_PER_DAY: u64 = 86_400;
        const DAYS_PER_ERA: u64 = 146_097;
        const DAYS_FROM_MARCH_OF_YEAR_0: u64 = 719_468;
        let small = |number: u64| number.to_le_bytes()[0];
        let (days, time) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
        let since_march = days + DAYS_FROM_MARCH_OF_YEAR_0;
        let (era, day_of_era) = (since_march / DAYS_PER_ERA, since_march % DAYS_PER_ERA);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let months_from_march = (5 * day_of_year + 2) / 153;
        let month = if months_from_march < 10 { months_from_march + 3 } else { months_from_march - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month: small(month),
            day: small(day_of_year - (153 * months_from_march + 2) / 5 + 1),
            weekday: small((days + 4) % 7 + 1),
            hour: small(time / 3600),
            minute: small(time / 60 % 60),
            second: small(time % 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(year: u64, month: u8, day: u8, weekday: u8, [hour, minute, second]: [u8; 3]) -> Date {
        Date { year, month, day, weekday, hour, minute, second }
    }

    #[test]
    fn dates_are_right_around_leap_days_and_centuries() {
        assert_eq!(Date::from_unix(0), date(1970, 1, 1, 5, [0, 0, 0]));
        assert_eq!(Date::from_unix(951_782_399), date(2000, 2, 28, 2, [23, 59, 59]));
        assert_eq!(Date::from_unix(951_782_400), date(2000, 2, 29, 3, [0, 0, 0]));
        assert_eq!(Date::from_unix(1_709_251_199), date(2024, 2, 29, 5, [23, 59, 59]));
        assert_eq!(Date::from_unix(1_795_364_430), date(2026, 11, 22, 1, [16, 20, 30]));
        assert_eq!(Date::from_unix(4_107_542_400), date(2100, 3, 1, 2, [0, 0, 0]));
    }

    #[test]
    fn registers_are_read_through_the_index() {
        let clock = RealTimeClock::default();
        let read = |index: u8| {
            clock.write(CLOCK_PORT, &[index]);
            let mut data = [0xff];
            clock.read(CLOCK_PORT + 1, &mut data);
            data[0]
        };
        assert_eq!((read(STATUS_B), read(0x80 | STATUS_D)), (B_BCD_24_HOURS, D_VALID));
        assert_eq!(read(CENTURY), 0x20);
        assert_eq!(RealTimeClock::register(YEAR, 1_795_364_430), 0x26);
        assert_eq!(RealTimeClock::register(DAY, 1_795_364_430), 0x22);
        assert_eq!(RealTimeClock::register(MINUTES, 1_795_364_430), 0x20);
    }
}
