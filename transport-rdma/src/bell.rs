//! What wakes the poller of an endpoint when there is something to do that neither the NIC nor the lifeline tells.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// A bell: any thread rings it, one answers. Its descriptor is readable until that one has slept on it and answers then.
#[derive(Debug)]
pub(crate) struct Bell {
    fd: OwnedFd,
    /// Somebody has said so since the last answer.
    rung: AtomicBool,
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd, rung: AtomicBool::new(false) })
    }

    /// Ends the next sleep, or the one that is; one call of the kernel for all who ring before an answer.
    pub(crate) fn ring(&self) {
        if self.say() {
            self.write();
        }
    }

    /// Whether it was rung since the last answer. Whoever asks has slept on the descriptor since then, or not.
    pub(crate) fn answer(&self, slept: bool) -> bool {
        self.answer_amid(slept, || {})
    }

    /// The same, while others do something before each of its steps.
    ///
    /// The descriptor is emptied first, and what was said is taken then. Whoever rings says so first and writes then, unless it was said already.
    /// So what is emptied here was said before, and is taken here; who says something between the two is answered, too, and if he was
    /// the first, ends the next sleep once too soon; and who says something after both writes what nobody has emptied. The other way
    /// round, or taking only what was said before the descriptor was emptied, would leave a bell that is said to be rung, with nothing to wake by, and
    /// nobody would write any more.
    fn answer_amid(&self, slept: bool, mut amid: impl FnMut()) -> bool {
        amid();
        if !slept && !self.rung.load(Ordering::Acquire) {
            return false;
        }
        amid();
        let mut count = [0; size_of::<u64>()];
        // It fails when there is nothing.
        let _: rustix::io::Result<usize> = rustix::io::read(&self.fd, &mut count);
        amid();
        self.rung.swap(false, Ordering::AcqRel)
    }

    /// Says that it is rung; whether nobody else had.
    fn say(&self) -> bool {
        !self.rung.swap(true, Ordering::AcqRel)
    }

    fn write(&self) {
        // It takes one more, as it is far below its limit.
        let _: rustix::io::Result<usize> = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::time::Timespec;

    use super::*;

    /// Places before, between and after the steps of two answers.
    const PLACES: usize = 7;

    fn is_readable(bell: &Bell) -> bool {
        let mut fds = [PollFd::new(bell, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
    }

    /// Threads that ring the bell: each says so at the first of two places, and writes at the second if it was the first one to say so.
    struct Ringers<'a> {
        bell: &'a Bell,
        rings: [(usize, usize); 2],
        writes: [bool; 2],
        place: usize,
        unanswered: bool,
    }

    impl Ringers<'_> {
        fn go_on(&mut self) {
            for ((said, written), writes) in self.rings.iter().zip(&mut self.writes) {
                if *said == self.place {
                    *writes = self.bell.say();
                    self.unanswered = true;
                }
                if *written == self.place && *writes {
                    self.bell.write();
                }
            }
            self.place += 1;
        }

        fn is_in_between(&self) -> bool {
            self.rings.iter().any(|(said, written)| (*said..*written).contains(&self.place.saturating_sub(1)))
        }
    }

    /// Whatever two threads do between the steps of a third one that answers twice, asleep before or not.
    #[test]
    fn whoever_rings_is_answered_or_ends_the_next_sleep() {
        let places: Vec<_> = (0..PLACES).flat_map(|said| (said..PLACES).map(move |written| (said, written))).collect();
        for (&one, &other) in places.iter().flat_map(|one| places.iter().map(move |other| (one, other))) {
            for slept in [[false; 2], [false, true], [true, false], [true; 2]] {
                let bell = Bell::new().unwrap();
                let (rings, writes) = ([one, other], [false; 2]);
                let mut ringers = Ringers { bell: &bell, rings, writes, place: 0, unanswered: false };
                for slept in slept {
                    if bell.answer_amid(slept, || ringers.go_on()) {
                        assert!(ringers.unanswered, "nobody rang");
                        ringers.unanswered = false;
                    }
                    let is_there = !ringers.unanswered || is_readable(&bell) || ringers.is_in_between();
                    assert!(is_there, "a sleeper is not woken: {one:?} {other:?} {slept:?}");
                }
                // An answer that finds nothing takes fewer steps.
                while ringers.place < PLACES {
                    ringers.go_on();
                }
                assert!(!ringers.unanswered || is_readable(&bell), "not woken: {one:?} {other:?} {slept:?}");
                assert_eq!(bell.answer(true), ringers.unanswered, "{one:?} {other:?} {slept:?}");
                assert!(!is_readable(&bell), "a sleeper is woken for nothing, for ever");
                bell.ring();
                assert!(is_readable(&bell) && bell.answer(true) && !bell.answer(true));
            }
        }
    }

    #[test]
    fn what_was_answered_without_a_sleep_ends_the_next_one_once_at_most() {
        let bell = Bell::new().unwrap();
        assert!(!bell.answer(false) && !bell.answer(true) && !is_readable(&bell));
        bell.ring();
        bell.ring();
        assert!(bell.answer(false) && !bell.answer(false));
        assert!(!bell.answer(true) && !is_readable(&bell));
    }
}
