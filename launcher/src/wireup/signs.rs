//! Signs of life on the channels of the wire-up: a rank that hangs is known by its silence, and a step that takes long on a busy host is no failure.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
pub(crate) use vincs_transport_tcp::endpoint::{SIGN_OF_LIFE, SILENCE};

use crate::wireup::channel::{self, Channel, ChannelError, Sender};

/// How long a sign of life may take to get out: it is a few bytes, for which there is room unless the other end has read nothing for long. One that
/// takes longer is left out.
const SEND_TIME: Duration = Duration::from_millis(100);

/// How long the rest of a message may take whose beginning is there.
pub(crate) const MESSAGE_TIME: Duration = SILENCE;

/// A look that comes so late after the last one says that this process was stopped itself, perhaps with the others.
const PAUSE: Duration = Duration::from_secs(2 * SIGN_OF_LIFE.as_secs());

/// Says at once and again and again that this rank is alive, on a thread of its own, until it is dropped: nothing of it comes later.
#[derive(Debug)]
pub(crate) struct Signs {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Signs {
    /// Says `sign` by each of these.
    ///
    /// # Errors
    /// There is no thread.
    pub(crate) fn show(mut senders: Vec<Sender>, sign: impl Serialize + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let show = move || {
            loop {
                // Whoever is gone is noticed by who listens.
                senders.retain_mut(|sender| sender.send_or_leave_out(&sign, SEND_TIME).is_ok());
                if stopped.recv_timeout(SIGN_OF_LIFE) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("wireup-alive".into()).spawn(show)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Signs {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of it has ended the process already.
            let _ = thread.join();
        }
    }
}

/// How long another rank has said nothing, as somebody knows who looks at least each [`SIGN_OF_LIFE`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    heard: Instant,
    looked: Instant,
}

impl Silence {
    /// It says something now.
    pub(crate) fn broken(now: Instant) -> Self {
        Self { heard: now, looked: now }
    }

    /// It says nothing now: whether that is so for too long. A rank that was stopped itself gives the other all of its time anew.
    pub(crate) fn is_too_long(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.looked) > PAUSE {
            self.heard = now;
        }
        self.looked = now;
        now.saturating_duration_since(self.heard) >= SILENCE
    }
}

/// What comes next that is no sign of life.
///
/// # Errors
/// [`ChannelError`], also when the other end is silent for too long, or says nothing else until the deadline.
pub(crate) fn listen<T: DeserializeOwned + PartialEq>(
    channel: &mut Channel,
    sign: &T,
    deadline: Instant,
) -> Result<T, ChannelError> {
    let mut silence = Silence::broken(Instant::now());
    loop {
        let said = channel::wait_for([&*channel], SIGN_OF_LIFE).contains(&true);
        let now = Instant::now();
        if said {
            let message: T = channel.receive(now + MESSAGE_TIME)?;
            if message != *sign {
                return Ok(message);
            }
            silence = Silence::broken(Instant::now());
        } else if silence.is_too_long(now) {
            return Err(ChannelError::Silent(SILENCE));
        }
        if now >= deadline {
            return Err(io::Error::from(io::ErrorKind::TimedOut)).map_err(|error| ChannelError::Frame(error.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireup::channel::tests::{pair, soon};
    use crate::wireup::message::ToMember;

    #[test]
    fn signs_come_at_once_and_again_until_they_are_dropped() {
        let (zero, mut member) = pair();
        let signs = Signs::show(vec![zero.sender().unwrap()], ToMember::Wait).unwrap();
        for _ in 0..2 {
            assert_eq!(member.receive::<ToMember>(soon()).unwrap(), ToMember::Wait);
        }
        drop(signs);
        while channel::wait_for([&member], Duration::ZERO) == [true] {
            assert_eq!(member.receive::<ToMember>(soon()).unwrap(), ToMember::Wait);
        }
        assert_eq!(channel::wait_for([&member], 2 * SIGN_OF_LIFE), [false]);
        drop(zero);
        assert_eq!(channel::wait_for([&member], SIGN_OF_LIFE), [true], "an end is something");
    }

    #[test]
    fn silence_is_too_long_at_its_edge() {
        let start = Instant::now();
        let mut silence = Silence::broken(start);
        let at = |step: u32| start + SIGN_OF_LIFE * step;
        let steps = u32::try_from(SILENCE.as_secs() / SIGN_OF_LIFE.as_secs()).unwrap();
        assert!((1..steps).all(|step| !silence.is_too_long(at(step))));
        assert!(silence.is_too_long(at(steps)));
    }

    #[test]
    fn a_rank_that_was_stopped_itself_blames_nobody_for_that() {
        let start = Instant::now();
        let mut silence = Silence::broken(start);
        let later = start + PAUSE + SILENCE;
        assert!(!silence.is_too_long(later));
        assert!(!silence.is_too_long(later + SIGN_OF_LIFE));
        let mut silence = Silence { heard: start, looked: later - PAUSE };
        assert!(silence.is_too_long(later), "no pause");
    }

    #[test]
    fn a_slow_rank_is_heard_and_a_silent_one_is_lost() {
        let (zero, mut member) = pair();
        let signs = Signs::show(vec![zero.sender().unwrap()], ToMember::Wait).unwrap();
        let mut late = zero.sender().unwrap();
        let step = thread::spawn(move || {
            thread::sleep(SILENCE + SIGN_OF_LIFE);
            late.send(&ToMember::Go, soon()).unwrap();
        });
        assert_eq!(listen(&mut member, &ToMember::Wait, soon()).unwrap(), ToMember::Go);
        step.join().unwrap();
        let brief = Instant::now() + SIGN_OF_LIFE;
        assert!(matches!(listen(&mut member, &ToMember::Wait, brief), Err(ChannelError::Frame(_))), "signs alone");
        drop(signs);
        let silent = listen(&mut member, &ToMember::Wait, soon()).unwrap_err();
        assert!(silent.to_string().starts_with("it has been silent for 5 s"), "{silent}");
        drop(zero);
        assert!(matches!(listen(&mut member, &ToMember::Wait, soon()), Err(ChannelError::Frame(_))));
    }
}
