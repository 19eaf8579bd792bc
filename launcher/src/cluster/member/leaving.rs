//! A rank that has joined, from its coming to its leaving, as its user sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vincs_vmm::machine::Running;

use super::End;
use crate::wireup::channel::{self, Channel};
use crate::wireup::message::ToMember;

/// How often it is told how far leaving is.
const PROGRESS_TIME: Duration = Duration::from_secs(1);

/// How long the rest of a message of rank 0 may take whose beginning is there.
const MESSAGE_TIME: Duration = Duration::from_secs(5);

/// How a rank takes part.
#[derive(Debug)]
pub(super) enum Stay {
    /// It has started the machine, and is the home of a part of its memory.
    Founder,
    /// It has joined.
    Guest(Guest),
}

/// A rank that joins and leaves.
#[derive(Debug)]
pub(super) struct Guest {
    rank: u16,
    /// The user wants it to leave.
    to_leave: Arc<AtomicBool>,
    /// How long that may take.
    grace: Duration,
    /// Rank 0 has said that it takes part.
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

impl Guest {
    pub(super) fn new(rank: u16, to_leave: Arc<AtomicBool>, grace: Duration) -> Self {
        Self { rank, to_leave, grace, takes_part: false, leaving: None }
    }

    /// Does what is to be done now; the end, if this is one.
    pub(super) fn look(&mut self, running: &Running, zero: &mut Channel) -> Option<End> {
        if !self.takes_part {
            return self.look_whether_it_takes_part(zero);
        }
        if self.to_leave.load(Ordering::SeqCst) && self.leaving.is_none() {
            running.leave();
            let now = Instant::now();
            let (told_late, told) = (false, String::new());
            self.leaving = Some(Leaving { deadline: now + self.grace, told_late, next_told: now, told });
            crate::say(&format!("rank {} leaves the machine", self.rank));
        }
        if let Some(leaving) = &mut self.leaving {
            leaving.tell(self.rank, self.grace, &running.remains());
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
            match zero.receive(Instant::now() + MESSAGE_TIME) {
                Ok(ToMember::Joined) => {
                    self.takes_part = true;
                    crate::say(&format!("rank {} has joined the machine", self.rank));
                    return None;
                }
                Ok(ToMember::Refused { line, .. }) => return Some(End::Refused(line)),
                Ok(
                    ToMember::Listen(_)
                    | ToMember::Roster(_)
                    | ToMember::Go
                    | ToMember::Bye { .. }
                    | ToMember::Wait
                    | ToMember::Seat(_),
                )
                | Err(_) => {
                    return Some(End::Refused(
                        "rank 0 has gone before this rank had joined: the machine has ended".into(),
                    ));
                }
            }
        }
        None
    }
}

impl Leaving {
    /// Tells how far it is, and once when the time is over.
    fn tell(&mut self, rank: u16, grace: Duration, remains: &(Vec<u32>, u32)) {
        let now = Instant::now();
        let left = what_is_left(remains);
        if now >= self.deadline && !self.told_late {
            self.told_late = true;
            crate::say(&format!(
                "rank {rank} has not left within {} s: {left} still here; it goes on, and whoever kills it ends the machine",
                grace.as_secs()
            ));
        } else if now >= self.next_told && left != self.told {
            self.next_told = now + PROGRESS_TIME;
            crate::say(&format!("rank {rank} leaves: {left} still here"));
            self.told = left;
        }
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

    fn guest() -> Guest {
        Guest::new(2, Arc::default(), Duration::from_secs(9))
    }

    #[test]
    fn what_is_left_is_named() {
        assert_eq!(what_is_left(&(vec![0, 1, 2, 5], 0)), "virtual processors 0-2,5 are");
        assert_eq!(what_is_left(&(vec![7], 3)), "virtual processor 7 is");
        assert_eq!(what_is_left(&(vec![], 12)), "12 pages are");
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
        assert!(matches!(guest().look_whether_it_takes_part(&mut own), Some(End::Refused(_))));
    }
}
