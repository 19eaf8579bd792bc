//! Keeps timer interrupts from filling all of a vCPU's time when its memory is on other ranks.
//!
//! The guest's clock goes on while a vCPU waits for a page. A tick's handler that waits for several pages thus lasts longer than a
//! tick, the next one is due when it returns, and the guest never gets to anything else. So a timer does not fire again before the
//! vCPU has run for as long as it has waited since, within a limit. A vCPU that hardly waits is not affected.
//!
//! One that has nothing to do takes its tick's pages from those that have: each tick costs them as long as it waited itself, and more. So it
//! sleeps several times as long as it has waited, within a limit too. What others send it wakes it at once.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Longest time that a vCPU has to run between two timer interrupts. A tick of a processor that shares its host with others, and its pages with more of them, was
/// seen to wait for as long.
const MAX_RUN: Duration = Duration::from_millis(500);

/// An idle vCPU sleeps for so many times as long as its last timer interrupt has waited for pages: ranks that work have the rest of the time.
const REST: u32 = 4;

/// Longest time by which that makes a timer of an idle vCPU late.
const MAX_REST: Duration = Duration::from_millis(500);

/// Shortest time after which to look again.
const LOOK: Duration = Duration::from_micros(100);

/// Times at a moment: the wall clock's, and the processor time that this thread had until then.
#[derive(Clone, Copy, Debug)]
struct Moment {
    wall: Instant,
    run: Duration,
}

impl Moment {
    fn now() -> Self {
        let run = clock_gettime(ClockId::ThreadCPUTime);
        let seconds = u64::try_from(run.tv_sec).unwrap_or_default();
        let nanoseconds = u64::try_from(run.tv_nsec).unwrap_or_default();
        Self { wall: Instant::now(), run: Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds) }
    }
}

/// When a vCPU's timer may fire.
#[derive(Debug)]
pub(super) struct Pace {
    fired: Option<Moment>,
    /// How long it has slept since then.
    slept: Duration,
    paced: bool,
}

impl Pace {
    /// Of a vCPU whose memory is on other ranks too, if `paced`; else the timer may always fire.
    pub(super) fn new(paced: bool) -> Self {
        Self { fired: None, slept: Duration::ZERO, paced }
    }

    /// The timer fires now.
    pub(super) fn fire(&mut self) {
        self.fired = self.paced.then(Moment::now);
        self.slept = Duration::ZERO;
    }

    /// The vCPU was somewhere else, or stopped: what it waited for then is not the guest's doing.
    pub(super) fn forget(&mut self) {
        self.fired = None;
    }

    /// The vCPU has slept.
    pub(super) fn slept(&mut self, time: Duration) {
        self.slept = self.slept.saturating_add(time);
    }

    /// How long the timer of a vCPU that runs must not fire yet; zero when it may. Called by the vCPU's thread.
    pub(super) fn wait(&self) -> Duration {
        match self.owed() {
            Duration::ZERO => Duration::ZERO,
            owed => owed.max(LOOK),
        }
    }

    /// The same of a vCPU that sleeps.
    pub(super) fn wait_asleep(&self) -> Duration {
        (self.wait() * REST).min(MAX_REST.saturating_sub(self.slept))
    }

    fn owed(&self) -> Duration {
        self.fired.map_or(Duration::ZERO, |fired| owed(fired, Moment::now(), self.slept))
    }
}

/// What a vCPU still has to run before its timer may fire again.
fn owed(fired: Moment, now: Moment, slept: Duration) -> Duration {
    if slept >= MAX_REST {
        return Duration::ZERO;
    }
    let run = now.run.saturating_sub(fired.run);
    let waited = now.wall.saturating_duration_since(fired.wall).saturating_sub(run).saturating_sub(slept);
    waited.min(MAX_RUN).saturating_sub(run).saturating_sub(slept / REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is owed after so many microseconds of wall time, of which the vCPU ran and slept for so many.
    fn after(wall: u64, run: u64, slept: u64) -> u64 {
        let fired = Moment { wall: Instant::now(), run: Duration::from_secs(5) };
        let [wall, run, slept] = [wall, run, slept].map(Duration::from_micros);
        let now = Moment { wall: fired.wall + wall, run: fired.run + run };
        u64::try_from(owed(fired, now, slept).as_micros()).unwrap()
    }

    #[test]
    fn a_vcpu_runs_as_long_as_it_has_waited() {
        assert_eq!(after(4000, 4000, 0), 0, "it has not waited");
        assert_eq!(after(4000, 2000, 0), 0, "it has run for as long as it has waited");
        assert_eq!(after(4000, 1000, 0), 2000);
    }

    #[test]
    fn an_idle_vcpu_sleeps_several_times_as_long_as_it_has_waited() {
        assert_eq!(after(2000, 0, 0), 2000);
        assert_eq!(after(6000, 0, 4000), 1000);
        assert_eq!(after(10_000, 0, 8000), 0);
        assert_eq!(after(11_000, 1000, 4000), 4000, "it ran a little and waited for 6 ms");
    }

    #[test]
    fn a_long_wait_is_not_owed_whole() {
        assert_eq!(after(1_000_000, 500_000, 0), 0);
        assert_eq!(after(10_000_000, 499_000, 0), 1000);
        assert_eq!(after(10_000_000, 500_000, 0), 0);
        assert_eq!(after(10_000_000, 0, 499_999), 375_000, "asleep it would wait for one more microsecond of that");
        assert_eq!(after(10_000_000, 0, 500_000), 0);
    }

    #[test]
    fn a_timer_waits_for_a_vcpu_that_waited_and_for_none_that_is_alone() {
        let mut pace = Pace::new(true);
        assert_eq!((pace.wait(), pace.wait_asleep()), (Duration::ZERO, Duration::ZERO), "nothing has fired yet");
        pace.fire();
        std::thread::sleep(Duration::from_millis(20));
        assert!(pace.wait() >= Duration::from_millis(10), "{:?}", pace.wait());
        let asleep = pace.wait_asleep();
        assert!((Duration::from_millis(40)..=MAX_REST).contains(&asleep), "{asleep:?}");
        pace.slept(MAX_REST - Duration::from_millis(1));
        assert!(pace.wait_asleep() <= Duration::from_millis(1));
        pace.slept(Duration::from_millis(1));
        assert_eq!((pace.wait(), pace.wait_asleep()), (Duration::ZERO, Duration::ZERO), "it has slept enough");
        pace.fire();
        std::thread::sleep(Duration::from_millis(5));
        pace.forget();
        assert_eq!(pace.wait(), Duration::ZERO, "it was stopped");
        pace.fire();
        assert_eq!(pace.slept, Duration::ZERO, "each interrupt counts for itself");
        let mut alone = Pace::new(false);
        alone.fire();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!((alone.wait(), alone.wait_asleep()), (Duration::ZERO, Duration::ZERO));
    }
}
