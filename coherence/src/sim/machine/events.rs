//! Where events happen, and which of them have to wait.

use crate::id::Rank;

use super::super::scenario::Stall;
use super::{Event, Machine};

impl Machine<'_> {
    /// Where an event happens.
    pub(super) fn rank_of(&self, event: &Event) -> Rank {
        match event {
            Event::Arrival { to: rank, .. }
            | Event::Timer { rank, .. }
            | Event::Sleep { rank }
            | Event::Nic { reader: rank, .. }
            | Event::Brought { reader: rank, .. }
            | Event::Crash { rank }
            | Event::Leave { rank, .. }
            | Event::GiveUpPages { rank } => *rank,
            Event::HandOver { .. } => Rank(0),
            Event::Relocate { vcpu, .. }
            | Event::Step { vcpu, .. }
            | Event::Fault { vcpu, .. }
            | Event::Answered { vcpu, .. } => self.home_of(*vcpu),
            Event::Hold { job } | Event::GiveUp { job } | Event::Use { job, .. } | Event::HoldOver { job } => {
                self.scenario.devices.get(*job).map_or(Rank(0), |device| device.rank)
            }
        }
    }

    /// Until when the event has to wait, because its rank stalls or its service thread is busy.
    pub(super) fn put_off(&self, rank: Rank, event: &Event) -> Option<u64> {
        let (service, guest) = match event {
            Event::Arrival { .. }
            | Event::Fault { .. }
            | Event::Timer { .. }
            | Event::Sleep { .. }
            | Event::Brought { .. }
            | Event::HandOver { .. }
            | Event::GiveUpPages { .. }
            | Event::Hold { .. } => (true, false),
            Event::Step { .. } | Event::Use { .. } | Event::GiveUp { .. } => (false, true),
            // A NIC works whatever its rank does.
            Event::Answered { .. }
            | Event::HoldOver { .. }
            | Event::Nic { .. }
            | Event::Crash { .. }
            | Event::Relocate { .. }
            | Event::Leave { .. } => (false, false),
        };
        let stalls = |stall: &&Stall| {
            stall.rank == rank && (stall.from..stall.until).contains(&self.now) && (service || (guest && stall.guest))
        };
        let stalled = self.scenario.stalls.iter().find(stalls).map(|stall| stall.until);
        let busy = self.hosts.get(usize::from(rank.0)).filter(|host| service && host.free_at > self.now);
        stalled.or(busy.map(|host| host.free_at))
    }
}
