//! Processors that go to other ranks, and ranks that leave.

use super::super::checkers::leaving;
use super::{Checked, Event, Input, Machine};
use crate::id::Rank;
use crate::node::Leave;

/// How often a driver asks again when something has to come first, in microseconds.
const ASK_AGAIN: u64 = 20;

/// How far a rank is on its way out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Departure {
    /// It stays.
    #[default]
    Stays,
    /// Its processors go to this rank first.
    Empties(Rank),
    /// It has no processor any more; the pages that it is the home of go to this rank.
    HandsOver(Rank),
    /// Its node gives up what it has.
    GivesUp,
    /// It has left.
    Left,
}

impl Machine<'_> {
    /// A processor is to go to another rank as soon as it is at an instruction boundary, unless that rank leaves.
    pub(super) fn relocate(&mut self, vcpu: usize, to: Rank) -> Checked {
        if self.host(to).departure == Departure::Stays {
            self.goes[vcpu] = Some(to);
            self.go_if_it_can(vcpu)?;
        }
        Ok(())
    }

    /// A rank is to leave: its processors go to another one first, and those that are on their way to it.
    pub(super) fn leave(&mut self, rank: Rank, to: Rank) -> Checked {
        self.host(rank).departure = Departure::Empties(to);
        for vcpu in 0..self.vcpus.len() {
            if self.goes[vcpu] == Some(rank) {
                let place = self.home_of(vcpu);
                self.goes[vcpu] = match self.host(place).departure {
                    Departure::Empties(to) => Some(to),
                    Departure::Stays | Departure::HandsOver(_) | Departure::GivesUp | Departure::Left => None,
                };
            }
            if self.home_of(vcpu) == rank {
                self.goes[vcpu] = Some(to);
                self.go_if_it_can(vcpu)?;
            }
        }
        self.give_up_when_empty(rank);
        Ok(())
    }

    /// Lets a processor go that is to, if it waits for nothing here.
    pub(super) fn go_if_it_can(&mut self, vcpu: usize) -> Checked {
        let Some(to) = self.goes[vcpu] else { return Ok(()) };
        if self.vcpus[vcpu].waiting.is_some() || self.vcpus[vcpu].has_stores() {
            return Ok(());
        }
        self.goes[vcpu] = None;
        let from = std::mem::replace(&mut self.places[vcpu], to);
        self.trace.note(self.now, || format!("vcpu {vcpu} goes from rank {} to rank {}", from.0, to.0));
        // It may have been woken by one of its rank's actions, which come before that rank's next input.
        self.schedule(self.now, Event::Sleep { rank: from });
        self.look_who_sleeps(to)?;
        self.give_up_when_empty(from);
        Ok(())
    }

    fn give_up_when_empty(&mut self, rank: Rank) {
        let is_empty = self.places.iter().all(|place| *place != rank);
        if let Departure::Empties(to) = self.host(rank).departure
            && is_empty
        {
            self.host(rank).departure = Departure::HandsOver(to);
            let at = self.now + self.moment(rank);
            self.schedule(at, Event::GiveUpPages { rank });
        }
    }

    /// The driver of a rank that leaves goes on.
    pub(super) fn give_up_pages(&mut self, rank: Rank) -> Checked {
        if self.crashed() {
            // What it waits for may never come.
            return Ok(());
        }
        if let Departure::HandsOver(to) = self.host(rank).departure {
            if self.order_hand_overs_of(rank, to)? {
                self.host(rank).departure = Departure::GivesUp;
            }
            let at = self.now + self.moment(rank) + ASK_AGAIN;
            self.schedule(at, Event::GiveUpPages { rank });
            return Ok(());
        }
        if !self.moving.is_empty() {
            // Those that rank 0 has ordered come first, and it orders no others until this rank has left.
            let at = self.now + self.moment(rank) + ASK_AGAIN;
            self.schedule(at, Event::GiveUpPages { rank });
            return Ok(());
        }
        self.input(rank, &Input::Leave)?;
        let wait = match self.host(rank).progress {
            None | Some(Leave::GoesOn) => 0,
            Some(Leave::Waits) => ASK_AGAIN,
            Some(Leave::Left) => {
                self.host(rank).departure = Departure::Left;
                self.trace.note(self.now, || format!("rank {} has left", rank.0));
                return leaving::check(&self.sites, &self.network, self.scenario.homes.pages(), rank);
            }
        };
        let at = self.now + self.moment(rank) + wait;
        self.schedule(at, Event::GiveUpPages { rank });
        Ok(())
    }

    /// Nobody speaks to a rank that has left, and it does not speak.
    pub(super) fn check_left(&mut self, from: Rank, to: Rank) -> Checked {
        let gone = [from, to].into_iter().find(|rank| self.host(*rank).departure == Departure::Left);
        gone.map_or(Ok(()), |gone| Err(leaving::spoke(from, to, gone)))
    }

    /// All that were to leave have.
    pub(super) fn check_all_left(&self) -> Checked {
        let stays = self
            .scenario
            .leaves
            .iter()
            .map(|leaves| leaves.rank)
            .find(|rank| self.hosts.get(usize::from(rank.0)).is_some_and(|host| host.departure != Departure::Left));
        stays.map_or(Ok(()), |rank| Err(leaving::never(rank)))
    }
}
