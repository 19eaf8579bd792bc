//! Brings up the processors of other ranks, and makes them take tasks.
//!
//! The kernel starts with rank 0's processors alone (`maxcpus`), so that nothing of the boot is left on the others when they move to their
//! ranks: no task, no timer, no page that they would go on with there.
//!
//! They run without ticks (`nohz_full`). Linux sends nobody to such a processor while it idles: it looks for tasks that wait elsewhere only
//! when it goes idle (kernel/sched/fair.c, the balancing of new idleness). So a thread goes from one to the next, and sleeps
//! on each at once. That the kernel moves tasks then, and which, is its own affair.

use crate::error::{InStep, SetupError};
use rustix::thread::CpuSet;
use std::fs;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

/// Before the first visit. A command that takes less is not worth moving.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// A round of visits to all remote processors takes so long, at least and at most.
const ROUND: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// Between these, a visit takes one in so many moments of a round: it costs pages from other ranks, and where these share processors or a
/// slow network, much time.
const VISIT_SHARE: u32 = 50;

/// Brings up these processors, in the order of their numbers (kernel documentation, core-api/cpu_hotplug).
pub(crate) fn bring_up(processors: Range<u32>) -> Result<(), SetupError> {
    for processor in processors {
        let switch = format!("/sys/devices/system/cpu/cpu{processor}/online");
        fs::write(&switch, "1").step(|| format!("bring up a processor by {switch}"))?;
    }
    Ok(())
}

/// Makes these processors take tasks, as long as this process runs its own program.
pub(crate) fn visit(processors: Range<u32>) -> Result<(), SetupError> {
    let visits = move || visit_for_ever(&processors);
    thread::Builder::new().name("visitor".into()).spawn(visits).step(|| "start the visitor's thread".to_owned())?;
    Ok(())
}

/// Goes from processor to processor, and sleeps on each.
fn visit_for_ever(processors: &Range<u32>) {
    let count = u32::try_from(processors.len()).unwrap_or(u32::MAX).max(1);
    let mut pause = FIRST_PAUSE;
    for processor in processors.clone().cycle() {
        let started = Instant::now();
        thread::sleep(pause);
        let mut next = CpuSet::new();
        next.set(processor as usize);
        // One that did not come up, or was taken down meanwhile, cannot be visited.
        let _ = rustix::thread::sched_setaffinity(None, &next);
        pause = next_round(started.elapsed().saturating_sub(pause)) / count;
    }
}

/// How long a round takes after a visit that took so long: its timer, the move, and the pages for both.
fn next_round(visit: Duration) -> Duration {
    let (shortest, longest) = ROUND;
    visit.saturating_mul(VISIT_SHARE).clamp(shortest, longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_a_visit_takes_the_later_is_the_next() {
        let after = |visit| next_round(Duration::from_millis(visit)).as_millis();
        assert_eq!([after(0), after(5), after(6), after(600), after(601)], [250, 250, 300, 30_000, 30_000]);
        assert_eq!(next_round(Duration::MAX), ROUND.1);
    }
}
