//! Keeps timer interrupts from filling all of a vCPU's time when its memory is on other ranks.
//!
//! The guest's clock goes on while a vCPU waits for a page. A tick's handler that waits for several pages thus lasts longer than a
//! tick, the next one is due when it returns, and the guest never gets to anything else. So a timer does not fire again before the
//! vCPU has run for as long as it has waited since, within a limit. A vCPU that hardly waits is not affected; one that sleeps
//! is woken in time.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Longest time that a vCPU has to run between two timer interrupts. A tick of a processor that shares its host with others, and its pages with more of them, was
/// seen to wait for as long.
const MAX_RUN: Duration = Duration::from_millis(500);

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
    paced: bool,
}

impl Pace {
    /// Of a vCPU whose memory is on other ranks too, if `paced`; else the timer may always fire.
    pub(super) fn new(paced: bool) -> Self {
        Self { fired: None, paced }
    }

    /// The timer fires now.
    pub(super) fn fire(&mut self) {
        self.fired = self.paced.then(Moment::now);
    }

    /// The vCPU sleeps: what it waits for then is the timer itself.
    pub(super) fn sleep(&mut self) {
        self.fired = None;
    }

    /// How long the timer must not fire yet; zero when it may. Called by the vCPU's thread.
    pub(super) fn wait(&self) -> Duration {
        self.fired.map_or(Duration::ZERO, |fired| owed(fired, Moment::now()))
    }
}

/// What a vCPU still has to run before its timer may fire again.
fn owed(fired: Moment, now: Moment) -> Duration {
    let run = now.run.saturating_sub(fired.run);
    let waited = now.wall.saturating_duration_since(fired.wall).saturating_sub(run);
    match waited.min(MAX_RUN).saturating_sub(run) {
        Duration::ZERO => Duration::ZERO,
        owed => owed.max(LOOK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is owed after so many microseconds of wall time and of processor time.
    fn after(wall: u64, run: u64) -> u64 {
        let fired = Moment { wall: Instant::now(), run: Duration::from_secs(5) };
        let (wall, run) = (Duration::from_micros(wall), Duration::from_micros(run));
        let now = Moment { wall: fired.wall + wall, run: fired.run + run };
        u64::try_from(owed(fired, now).as_micros()).unwrap()
    }

    #[test]
    fn a_vcpu_runs_as_long_as_it_has_waited() {
        assert_eq!(after(4000, 4000), 0, "it has not waited");
        assert_eq!(after(4000, 2000), 0, "it has run for as long as it has waited");
        assert_eq!(after(4000, 1000), 2000);
        assert_eq!(after(4000, 1990), 100, "but not looked at more often than that");
    }

    #[test]
    fn a_long_wait_is_not_owed_whole() {
        assert_eq!(after(1_000_000, 500_000), 0);
        assert_eq!(after(10_000_000, 499_000), 1000);
        assert_eq!(after(10_000_000, 500_000), 0);
    }

    #[test]
    fn a_vcpu_that_sleeps_or_is_alone_is_not_paced() {
        let mut pace = Pace::new(true);
        assert_eq!(pace.wait(), Duration::ZERO, "nothing has fired yet");
        pace.fire();
        std::thread::sleep(Duration::from_millis(20));
        assert!(pace.wait() > Duration::ZERO);
        pace.sleep();
        assert_eq!(pace.wait(), Duration::ZERO);
        let mut alone = Pace::new(false);
        alone.fire();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(alone.wait(), Duration::ZERO);
    }
}
