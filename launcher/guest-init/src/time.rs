//! The guest's clock, set by the host's.

use crate::control::Control;
use crate::error::{InStep, SetupError};
use rustix::time::{ClockId, Timespec, clock_settime};
use std::time::{Duration, Instant};
use vincs_guest_protocol::{FromGuest, ToGuest};

/// How long to wait for vincs's answer; it takes well under a millisecond where the host is not overloaded.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Asks vincs for the time and sets the clock by it; false when no answer came.
///
/// The whole round trip is added, so that the clock is never behind the host's: a file that the host dates now is then
/// never from the guest's future.
pub(crate) fn set_from_host(control: &mut Control) -> Result<bool, SetupError> {
    let asked = Instant::now();
    control.send(&FromGuest::AskTime, ANSWER_TIME)?;
    while let Some(left) = ANSWER_TIME.checked_sub(asked.elapsed()) {
        let mut times = control.wait(left).into_iter().filter_map(|order| match order {
            ToGuest::Time { unix_nanoseconds } => Some(unix_nanoseconds),
            ToGuest::Signal(_) | ToGuest::Resize(_) => None,
        });
        if let Some(told) = times.next().filter(|told| *told != 0) {
            let now = Duration::from_nanos(told) + asked.elapsed();
            let now = Timespec::try_from(now).map_err(std::io::Error::other).step(|| "read vincs's time".to_owned())?;
            clock_settime(ClockId::Realtime, now).step(|| "set the clock".to_owned())?;
            return Ok(true);
        }
        if control.listening().is_none() {
            break;
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn nobody_who_answers_leaves_the_clock_alone() {
        let (port, host) = UnixStream::pair().unwrap();
        port.set_nonblocking(true).unwrap();
        let mut control = Control::new(port.into());
        let closing = std::thread::spawn(move || drop(host));
        // Either the question cannot be sent or no answer comes, and it does not take the whole time.
        let start = Instant::now();
        assert!(!matches!(set_from_host(&mut control), Ok(true)));
        assert!(start.elapsed() < ANSWER_TIME);
        closing.join().unwrap();
    }
}
