//! A rank from its coming to its leaving, as its user sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vincs_vmm::machine::Running;

use super::{End, Terms};
use crate::run::ending::{STATUS_BAD_INPUT, STATUS_OWN_FAILURE};
use crate::wireup::channel::{self, Channel};
use crate::wireup::message::ToMember;

/// How often it is told how far leaving is.
const PROGRESS_TIME: Duration = Duration::from_secs(1);

/// How long the rest of a message of rank 0 may take whose beginning is there.
const MESSAGE_TIME: Duration = Duration::from_secs(5);

/// What rank 0 says to a rank that has its seat.
enum Word {
    /// It takes part.
    Joined,
    /// It does not, for this reason.
    Refused(String),
    /// Nothing more that is of use to it.
    Over,
}

impl Word {
    fn of(zero: &mut Channel, deadline: Instant) -> Self {
        match zero.receive(deadline) {
            Ok(ToMember::Joined) => Self::Joined,
            Ok(ToMember::Refused { line, .. }) => Self::Refused(line),
            Ok(
                ToMember::Listen(_)
                | ToMember::Roster(_)
                | ToMember::Go
                | ToMember::Bye { .. }
                | ToMember::Wait
                | ToMember::Seat(_),
            )
            | Err(_) => Self::Over,
        }
    }
}

/// Why a rank that was to join has ended before it took part: its exit status and line. Nothing when rank 0 has said by `deadline` that it does take part: it ends with the
/// machine then.
pub(super) fn why_not_joined(rank: u16, end: &End, zero: &mut Channel, deadline: Instant) -> Option<(u8, String)> {
    let line = match end {
        End::Failed(cause) => return Some((STATUS_OWN_FAILURE, format!("rank {rank} cannot join: {cause}"))),
        End::Refused(line) => line.clone(),
        End::Ended | End::Lost { .. } | End::Left | End::Dropped => match (Word::of(zero, deadline), end) {
            (Word::Joined, _) => return None,
            (Word::Refused(line), _) => line,
            (Word::Over, End::Lost { rank: lost @ 1.., reason }) => format!("it has lost rank {lost}: {reason}"),
            (Word::Over, _) => "the machine has ended".to_owned(),
        },
    };
    Some((STATUS_BAD_INPUT, format!("rank {rank} does not join: {line}")))
}

/// How long a rank takes part.
#[derive(Debug)]
pub(super) struct Stay {
    rank: u16,
    /// The user wants it to leave.
    to_leave: Arc<AtomicBool>,
    /// It has asked rank 0 for that.
    asked: bool,
    /// How long that may take.
    grace: Duration,
    /// It has started the machine, or rank 0 has said that it takes part.
    takes_part: bool,
    leaving: Option<Leaving>,
}

#[derive(Debug)]
struct Leaving {
    deadline: Instant,
    told_late: bool,
    next_told: Instant,
    /// What was told last.
    told: String,
}

impl Stay {
    pub(super) fn new(rank: u16, to_leave: Arc<AtomicBool>, terms: Terms) -> Self {
        let Terms { joins, leaves: _, grace } = terms;
        Self { rank, to_leave, asked: false, grace, takes_part: !joins, leaving: None }
    }

    /// It has started the machine, or rank 0 has said that it takes part.
    pub(super) fn takes_part(&self) -> bool {
        self.takes_part
    }

    /// Does what is to be done now; the end, if this is one.
    pub(super) fn look(&mut self, running: &Running, zero: &mut Channel) -> Option<End> {
        if !self.takes_part {
            return self.look_whether_it_takes_part(zero);
        }
        if self.to_leave.load(Ordering::SeqCst) && !std::mem::replace(&mut self.asked, true) {
            running.leave();
        }
        if let Some(reason) = running.take_refusal() {
            crate::say(&reason);
            // It may ask again, when there is more room for instance.
            self.asked = false;
            self.to_leave.store(false, Ordering::SeqCst);
        }
        if self.leaving.is_none() && running.is_leaving() {
            self.leaving = Some(Leaving::begin(Instant::now(), self.grace));
            crate::say(&format!("rank {} leaves the machine", self.rank));
        }
        if let Some(leaving) = &mut self.leaving {
            let line = leaving.line(self.rank, self.grace, &running.remains(), Instant::now());
            line.iter().for_each(|line| crate::say(line));
        }
        None
    }

    /// It has left, perhaps before it has heard that it took part.
    pub(super) fn has_left(&mut self) {
        if !std::mem::replace(&mut self.takes_part, true) {
            crate::say(&format!("rank {} has joined the machine", self.rank));
        }
        crate::say(&format!("rank {} has left the machine", self.rank));
    }

    /// Until rank 0 has said so, a wish to leave waits: processors may be on their way here already.
    fn look_whether_it_takes_part(&mut self, zero: &mut Channel) -> Option<End> {
        if channel::wait_for([&*zero], Duration::ZERO).contains(&true) {
            match Word::of(zero, Instant::now() + MESSAGE_TIME) {
                Word::Joined => {
                    self.takes_part = true;
                    crate::say(&format!("rank {} has joined the machine", self.rank));
                }
                Word::Refused(line) => return Some(End::Refused(line)),
                Word::Over => return Some(End::Ended),
            }
        }
        None
    }
}

impl Leaving {
    fn begin(now: Instant, grace: Duration) -> Self {
        Self { deadline: now + grace, told_late: false, next_told: now, told: String::new() }
    }

    /// What is to be said now, if anything: how far it is, and once that the time is over.
    fn line(&mut self, rank: u16, grace: Duration, remains: &(Vec<u32>, u32), now: Instant) -> Option<String> {
        let left = what_is_left(remains);
        if now >= self.deadline && !self.told_late {
            self.told_late = true;
            let seconds = grace.as_secs();
            return Some(format!(
                "rank {rank} has not left within {seconds} s: {left} still here; it goes on, and whoever kills it ends the machine"
            ));
        }
        if now < self.next_told || left == self.told {
            return None;
        }
        self.next_told = now + PROGRESS_TIME;
        self.told.clone_from(&left);
        Some(format!("rank {rank} leaves: {left} still here"))
    }
}

/// What is still here, in words that go before "still here".
fn what_is_left((vcpus, pages): &(Vec<u32>, u32)) -> String {
    match (vcpus.len(), pages) {
        (0, pages) => format!("{pages} pages are"),
        (1, _) => format!("virtual processor {} is", crate::ctl::numbers(vcpus)),
        (_, _) => format!("virtual processors {} are", crate::ctl::numbers(vcpus)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireup::channel::tests::{pair, soon};

    fn guest() -> Stay {
        Stay::new(2, Arc::default(), Terms { joins: true, leaves: true, grace: Duration::from_secs(9) })
    }

    #[test]
    fn what_is_left_is_named() {
        assert_eq!(what_is_left(&(vec![0, 1, 2, 5], 0)), "virtual processors 0-2,5 are");
        assert_eq!(what_is_left(&(vec![7], 3)), "virtual processor 7 is");
        assert_eq!(what_is_left(&(vec![], 12)), "12 pages are");
    }

    #[test]
    fn a_rank_that_leaves_says_how_far_it_is_and_once_that_it_is_late() {
        let (start, grace) = (Instant::now(), Duration::from_secs(3));
        let mut leaving = Leaving::begin(start, grace);
        let mut at = |milliseconds, vcpus: &[u32], pages| {
            leaving.line(2, grace, &(vcpus.to_vec(), pages), start + Duration::from_millis(milliseconds))
        };
        assert_eq!(at(0, &[1], 0).unwrap(), "rank 2 leaves: virtual processor 1 is still here");
        assert_eq!(at(999, &[], 9), None, "a line a second at most");
        assert_eq!(at(1000, &[], 9).unwrap(), "rank 2 leaves: 9 pages are still here");
        assert_eq!(at(2999, &[], 9), None, "nothing new");
        let late = at(3000, &[], 9).unwrap();
        assert!(late.starts_with("rank 2 has not left within 3 s: 9 pages are still here"), "{late}");
        assert_eq!(at(3500, &[], 9), None);
        assert_eq!(at(3600, &[], 8).unwrap(), "rank 2 leaves: 8 pages are still here");
    }

    #[test]
    fn rank_0_says_whether_it_takes_part() {
        let (mut zero, mut own) = pair();
        let mut guest = guest();
        assert_eq!(guest.look_whether_it_takes_part(&mut own), None, "there is no word yet");
        zero.send(&ToMember::Joined, soon()).unwrap();
        channel::wait_for([&own], Duration::from_secs(20));
        assert_eq!((guest.look_whether_it_takes_part(&mut own), guest.takes_part), (None, true));
    }

    #[test]
    fn a_rank_that_is_not_wanted_says_why() {
        let (mut zero, mut own) = pair();
        zero.send(&ToMember::Refused { line: "no".into(), said: false }, soon()).unwrap();
        channel::wait_for([&own], Duration::from_secs(20));
        assert_eq!(guest().look_whether_it_takes_part(&mut own), Some(End::Refused("no".into())));
        drop(zero);
        channel::wait_for([&own], Duration::from_secs(20));
        assert_eq!(guest().look_whether_it_takes_part(&mut own), Some(End::Ended));
    }

    #[test]
    fn a_rank_that_takes_no_part_yet_says_why_it_does_not_join() {
        let lost = |rank| End::Lost { rank, reason: "closed".into() };
        let refused = ToMember::Refused { line: "it went".into(), said: false };
        for (end, word, status, named) in [
            (End::Failed("no KVM".into()), None, STATUS_OWN_FAILURE, "cannot join: no KVM"),
            (End::Refused("no".into()), None, 2, "does not join: no"),
            (lost(1), Some(refused.clone()), 2, "does not join: it went"),
            (lost(1), None, 2, "does not join: it has lost rank 1: closed"),
            (lost(0), Some(refused), 2, "does not join: it went"),
            (lost(0), None, 2, "does not join: the machine has ended"),
            (End::Ended, Some(ToMember::Bye { status: 0 }), 2, "does not join: the machine has ended"),
        ] {
            let (mut zero, mut own) = pair();
            word.iter().for_each(|word| zero.send(word, soon()).unwrap());
            drop(zero);
            let expected = Some((status, format!("rank 2 {named}")));
            assert_eq!(why_not_joined(2, &end, &mut own, soon()), expected, "{end:?} {word:?}");
        }
        let (mut zero, mut own) = pair();
        zero.send(&ToMember::Joined, soon()).unwrap();
        zero.send(&ToMember::Bye { status: 7 }, soon()).unwrap();
        assert_eq!(why_not_joined(2, &lost(0), &mut own, soon()), None, "it has come just before the end");
        assert_eq!(super::super::said_goodbye(&mut own, soon), Some(7));
    }
}
