//! Virtual processors that wait for pages too much come to rank 0, where the devices are and the kernel has booted.
//!
//! A vCPU is a few KiB of state, what it needs for one request to a device is some seventy pages. Where ranks have a processor each, it gets on by
//! itself while it waits less than it runs; where several share one, there is nothing to be gained by waiting at all. So a rank whose vCPUs wait
//! too much sends them to rank 0. They stay for a while and go back then, for longer each time, as nobody knows when they would wait less.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use vincs_vmm::machine::{Controller, VcpuPlace};

use crate::stats::ranks;

/// Where they come together.
const PLACE: u16 = 0;

/// How often to look how long was waited; each look asks all ranks for their counters.
const LOOK: Duration = Duration::from_secs(2);

/// Longest time that the ranks' counters may take.
const GATHER_TIME: Duration = Duration::from_secs(2);

/// A rank's vCPUs wait too much when together they wait for pages for so many hundredths of the time: with more than two ranks for a processor none
/// has it for more than a third.
const TOO_MUCH: u32 = 25;

/// So many looks in a row: one that has just come fetches its pages, and waits less later.
const LOOKS: u8 = 2;

/// How long one stays the first time; twice as long each further time.
const STAY: Duration = Duration::from_secs(30);

/// Longest time that one stays.
const LONGEST_STAY: Duration = Duration::from_secs(480);

/// Gathers vCPUs until it is dropped.
#[derive(Debug)]
pub(crate) struct Gatherer {
    /// Closed to end the thread.
    _quit: Sender<()>,
}

impl Gatherer {
    /// Starts to look. It is not waited for at the end: a machine that has ended has nowhere to move anything.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(crate) fn start(controller: Controller) -> io::Result<Self> {
        let (quit, quits) = channel();
        let started = Instant::now();
        let mut policy = Policy::default();
        let look = move || {
            while quits.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                if controller.is_paused() {
                    continue;
                }
                let waited = ranks::waited(&controller.gather_statistics(GATHER_TIME));
                for (vcpu, rank) in policy.decide(started.elapsed(), &waited, &controller.places()) {
                    tracing::debug!(vcpu, rank, "moves for the sake of its pages");
                    // It is not waited for: whether it has come is seen at the next look.
                    let _ = controller.migrate(vcpu, rank, Duration::ZERO);
                }
            }
        };
        thread::Builder::new().name("gather".into()).spawn(look)?;
        Ok(Self { _quit: quit })
    }
}

/// A vCPU that has been to rank 0.
#[derive(Clone, Copy, Debug)]
struct Visit {
    /// Where it came from.
    from: u16,
    /// When it goes back; nothing once it has been told to.
    until: Option<Duration>,
    /// How long it stays the next time.
    stay: Duration,
}

/// What is known of a rank.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// When it told last.
    at: Duration,
    /// How long its vCPUs had waited then since their start.
    waited: Duration,
    /// Times in a row that this was too much.
    looks: u8,
}

/// Decides who goes where.
#[derive(Debug, Default)]
struct Policy {
    ranks: BTreeMap<u16, Seen>,
    visits: BTreeMap<u32, Visit>,
}

impl Policy {
    /// Which vCPUs go to which rank. `waited`: how long those of each rank have waited for pages so far; a busy rank may not tell in time, and is looked
    /// at when it does.
    fn decide(&mut self, now: Duration, waited: &BTreeMap<u16, Duration>, places: &[VcpuPlace]) -> Vec<(u32, u16)> {
        for (rank, waited) in waited {
            let looks = self.ranks.get(rank).map_or(0, |seen| {
                let is_too_much = waited.saturating_sub(seen.waited) * 100 >= now.saturating_sub(seen.at) * TOO_MUCH;
                if is_too_much { seen.looks.saturating_add(1) } else { 0 }
            });
            self.ranks.insert(*rank, Seen { at: now, waited: *waited, looks });
        }
        let here = places.iter().filter(|place| place.moving_to.is_none());
        here.filter_map(|place| self.goes_to(now, place).map(|rank| (place.vcpu, rank))).collect()
    }

    fn goes_to(&mut self, now: Duration, place: &VcpuPlace) -> Option<u16> {
        if place.rank == PLACE {
            let visit = self.visits.get_mut(&place.vcpu)?;
            visit.until.take_if(|until| *until <= now)?;
            return Some(visit.from);
        }
        if self.ranks.get(&place.rank).is_none_or(|seen| seen.looks < LOOKS) {
            return None;
        }
        let stay = self.visits.get(&place.vcpu).map_or(STAY, |visit| visit.stay);
        let visit = Visit { from: place.rank, until: Some(now + stay), stay: (stay * 2).min(LONGEST_STAY) };
        self.visits.insert(place.vcpu, visit);
        Some(PLACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: [(u32, u16); 0] = [];

    /// A machine of three ranks with a vCPU each at its own, where ranks wait for so many hundredths of each second.
    struct Machine {
        policy: Policy,
        now: Duration,
        waited: BTreeMap<u16, Duration>,
        places: Vec<VcpuPlace>,
    }

    impl Machine {
        fn new() -> Self {
            let place = |rank: u16| VcpuPlace { vcpu: rank.into(), rank, moving_to: None };
            let waited = (1..3).map(|rank| (rank, Duration::ZERO)).collect();
            let (policy, now) = (Policy::default(), Duration::ZERO);
            Self { policy, now, waited, places: (0..3).map(place).collect() }
        }

        /// A second goes by, in which ranks 1 and 2 have waited for so many hundredths; all orders are obeyed.
        fn second(&mut self, hundredths: [u32; 2]) -> Vec<(u32, u16)> {
            self.now += Duration::from_secs(1);
            for (rank, hundredths) in (1..).zip(hundredths) {
                *self.waited.entry(rank).or_default() += Duration::from_millis(10) * hundredths;
            }
            let orders = self.policy.decide(self.now, &self.waited, &self.places);
            for (vcpu, rank) in &orders {
                self.places.iter_mut().filter(|place| place.vcpu == *vcpu).for_each(|place| place.rank = *rank);
            }
            orders
        }
    }

    #[test]
    fn only_one_that_waits_a_quarter_of_the_time_twice_in_a_row_comes() {
        let mut machine = Machine::new();
        assert_eq!(machine.second([90, 90]), NOBODY, "nothing was known before");
        assert_eq!(machine.second([25, 90]), NOBODY);
        assert_eq!(machine.second([24, 0]), NOBODY, "one has had one bad second, the other a good one since");
        assert_eq!(machine.second([25, 25]), NOBODY);
        assert_eq!(machine.second([25, 24]), [(1, 0)]);
        assert_eq!(machine.second([90, 0]), NOBODY, "nobody is there any more");
    }

    #[test]
    fn one_that_has_come_goes_back_and_stays_longer_the_next_time() {
        let mut machine = Machine::new();
        let mut stays = Vec::new();
        let mut came = Duration::ZERO;
        for _ in 0..3000 {
            match machine.second([100, 0])[..] {
                [] => {}
                [(1, 0)] => came = machine.now,
                [(1, 1)] => stays.push((machine.now - came).as_secs()),
                ref others => panic!("{others:?}"),
            }
        }
        assert_eq!(stays, [30, 60, 120, 240, 480, 480, 480, 480, 480]);
    }

    #[test]
    fn who_is_on_its_way_or_was_moved_by_others_is_left_alone() {
        let mut machine = Machine::new();
        machine.places[1].moving_to = Some(2);
        machine.places[2].rank = 0;
        assert_eq!((0..5).flat_map(|_| machine.second([100, 100])).collect::<Vec<_>>(), NOBODY);
    }

    #[test]
    fn a_rank_that_does_not_tell_in_time_is_looked_at_when_it_does() {
        let mut machine = Machine::new();
        machine.second([90, 0]);
        assert_eq!(machine.second([90, 0]), NOBODY);
        let (places, now) = (machine.places.clone(), machine.now + Duration::from_secs(1));
        assert_eq!(machine.policy.decide(now, &BTreeMap::new(), &places), NOBODY);
        // Three seconds have gone by, of which it has waited for a quarter.
        machine.now += Duration::from_secs(2);
        assert_eq!(machine.second([75, 0]), [(1, 0)]);
    }
}
