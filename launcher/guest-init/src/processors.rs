//! Brings up the processors of other ranks, and makes them take tasks.
//!
//! The kernel starts with rank 0's processors alone (`maxcpus`), so that nothing of the boot is left on the others when they move to their
//! ranks: no task, no timer, no page that they would go on with there.
//!
//! They run without ticks (`nohz_full`). Linux sends nobody to such a processor while it idles: it looks for tasks that wait elsewhere only
//! when it goes idle (kernel/sched/fair.c, the balancing of new idleness). So a thread visits one after the other while tasks wait, and sleeps
//! there for a moment. That the kernel moves tasks then, and which, is its own affair.

use crate::error::{InStep, SetupError};
use rustix::thread::CpuSet;
use std::fs;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

/// Before the first look at whether tasks wait. A command that takes less is not worth moving.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Between two looks, at least and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// Asleep on a processor that is visited.
const VISIT: Duration = Duration::from_millis(1);
/// A look and a visit take one in so many moments: they cost pages from other ranks, and where these share processors or a slow network,
/// much time.
const VISIT_SHARE: u32 = 5;
/// Where the kernel says how many tasks run or wait for a processor (proc(5), fourth field).
const LOAD: &str = "/proc/loadavg";

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

/// Goes from processor to processor while tasks wait, and sleeps on each for a moment.
fn visit_for_ever(processors: &Range<u32>) {
    let mut pace = Pace::new();
    let home = rustix::thread::sched_getaffinity(None);
    for processor in processors.clone().cycle() {
        let running = loop {
            thread::sleep(pace.pause);
            let running = fs::read_to_string(LOAD).ok().as_deref().and_then(running).unwrap_or(u32::MAX);
            if running > 1 {
                break running;
            }
            pace.nobody_waits();
        };
        let started = Instant::now();
        let mut next = CpuSet::new();
        next.set(processor as usize);
        // One that did not come up, or was taken down meanwhile, cannot be visited.
        let _ = rustix::thread::sched_setaffinity(None, &next);
        thread::sleep(VISIT);
        if let Ok(home) = &home {
            let _ = rustix::thread::sched_setaffinity(None, home);
        }
        pace.visited(running, started.elapsed());
    }
}

/// When to look next: soon when tasks have come, later and later while they are the same.
#[derive(Debug)]
struct Pace {
    pause: Duration,
    /// Tasks that ran at the last look.
    running: u32,
}

impl Pace {
    fn new() -> Self {
        Self { pause: FIRST_PAUSE, running: 0 }
    }

    /// All tasks have a processor already, or there are none.
    fn nobody_waits(&mut self) {
        (self.pause, self.running) = (PAUSE.0, 0);
    }

    /// So many tasks ran, and a visit took so long.
    fn visited(&mut self, running: u32, visit: Duration) {
        let again = if running > self.running { PAUSE.0 } else { self.pause.saturating_mul(2) };
        self.pause = again.max(visit.saturating_mul(VISIT_SHARE)).min(PAUSE.1);
        self.running = running;
    }
}

/// How many tasks run or wait, without the one that asks: of `0.20 0.18 0.12 3/80 11206` it is 2.
fn running(load: &str) -> Option<u32> {
    let (running, _) = load.split_whitespace().nth(3)?.split_once('/')?;
    running.parse::<u32>().ok()?.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_a_visit_takes_the_later_is_the_next() {
        let after = |visit| {
            let mut pace = Pace::new();
            pace.visited(2, Duration::from_millis(visit));
            pace.pause.as_millis()
        };
        assert_eq!([after(0), after(50), after(51), after(6000), after(6001)], [250, 250, 255, 30_000, 30_000]);
    }

    #[test]
    fn visits_get_rare_until_tasks_come() {
        let mut pace = Pace::new();
        let mut pauses = [4, 4, 3, 4, 4].map(|running| {
            pace.visited(running, Duration::ZERO);
            pace.pause.as_millis()
        });
        assert_eq!(pauses, [250, 500, 1000, 250, 500]);
        pauses = [4; 5].map(|running| {
            (0..10).for_each(|_| pace.visited(running, Duration::ZERO));
            pace.pause.as_millis()
        });
        assert_eq!(pauses, [30_000; 5]);
        pace.nobody_waits();
        assert_eq!(pace.pause, PAUSE.0);
    }

    #[test]
    fn the_running_tasks_are_read_without_the_reader() {
        assert_eq!(running("0.20 0.18 0.12 3/80 11206\n"), Some(2));
        assert_eq!([running(""), running("0 0 0 0/80 1"), running("0 0 0 x/80 1")], [None; 3]);
    }
}
