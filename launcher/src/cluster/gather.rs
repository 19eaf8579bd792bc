//! Virtual processors that wait for pages most of the time come to rank 0, where the devices are and the kernel has booted.
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

/// Longest time that the ranks' counters may take: less than a look.
const GATHER_TIME: Duration = Duration::from_secs(1);

/// A rank's vCPUs wait too much when together they wait for pages for so many hundredths of the time.
const TOO_MUCH: u32 = 50;

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
                for (vcpu, rank) in policy.decide(started.elapsed(), waited, &controller.places()) {
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

/// Decides who goes where.
#[derive(Debug, Default)]
struct Policy {
    /// When it looked last.
    last: Duration,
    /// How long each rank's vCPUs had waited then since their start.
    waited: BTreeMap<u16, Duration>,
    /// Looks in a row at which they had waited too much.
    looks: BTreeMap<u16, u8>,
    visits: BTreeMap<u32, Visit>,
}

impl Policy {
    /// Which vCPUs go to which rank. `waited`: how long those of each rank have waited for pages so far, as far as that is known.
    fn decide(&mut self, now: Duration, waited: BTreeMap<u16, Duration>, places: &[VcpuPlace]) -> Vec<(u32, u16)> {
        let passed = now.saturating_sub(self.last);
        let mut looks = BTreeMap::new();
        for (rank, waited) in &waited {
            let Some(before) = self.waited.get(rank) else { continue };
            if waited.saturating_sub(*before) * 100 >= passed * TOO_MUCH {
                looks.insert(*rank, self.looks.get(rank).copied().unwrap_or_default().saturating_add(1));
            }
        }
        (self.last, self.waited, self.looks) = (now, waited, looks);
        let here = places.iter().filter(|place| place.moving_to.is_none());
        here.filter_map(|place| self.goes_to(now, place).map(|rank| (place.vcpu, rank))).collect()
    }

    fn goes_to(&mut self, now: Duration, place: &VcpuPlace) -> Option<u16> {
        if place.rank == PLACE {
            let visit = self.visits.get_mut(&place.vcpu)?;
            visit.until.take_if(|until| *until <= now)?;
            return Some(visit.from);
        }
        if self.looks.get(&place.rank).copied().unwrap_or_default() < LOOKS {
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

    /// A machine of three ranks with a vCPU each at its own, where ranks wait for so many hundredths of each second.
    struct Machine {
        policy: Policy,
        now: Duration,
        waited: BTreeMap<u16, Duration>,
        places: Vec<VcpuPlace>,
    }

    impl Machine {
        fn new() -> Self {
            let place = |rank| VcpuPlace { vcpu: rank.into(), rank, moving_to: None };
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
            let orders = self.policy.decide(self.now, self.waited.clone(), &self.places);
            for (vcpu, rank) in &orders {
                self.places.iter_mut().filter(|place| place.vcpu == *vcpu).for_each(|place| place.rank = *rank);
            }
            orders
        }
    }

    #[test]
    fn only_one_that_waits_half_of_the_time_twice_in_a_row_comes() {
        let mut machine = Machine::new();
        assert_eq!(machine.second([90, 90]), [], "nothing was known before");
        assert_eq!(machine.second([50, 90]), []);
        assert_eq!(machine.second([49, 0]), [], "one has had one bad second, the other a good one since");
        assert_eq!(machine.second([50, 50]), []);
        assert_eq!(machine.second([50, 49]), [(1, 0)]);
        assert_eq!(machine.second([90, 0]), [], "nobody is there any more");
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
        assert_eq!(stays, [30, 60, 120, 240, 480, 480, 480, 480]);
    }

    #[test]
    fn who_is_on_its_way_or_was_moved_by_others_is_left_alone() {
        let mut machine = Machine::new();
        machine.places[1].moving_to = Some(2);
        machine.places[2].rank = 0;
        assert_eq!((0..5).flat_map(|_| machine.second([100, 100])).collect::<Vec<_>>(), []);
    }

    #[test]
    fn a_rank_that_says_nothing_is_left_alone() {
        let mut machine = Machine::new();
        machine.second([100, 100]);
        machine.second([100, 100]);
        machine.waited.clear();
        assert_eq!(machine.policy.decide(machine.now, BTreeMap::new(), &machine.places), []);
    }
}
