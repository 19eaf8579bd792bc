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
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Where the kernel lists its processors, `cpuN` each.
const PROCESSORS: &str = "/sys/devices/system/cpu";
/// What a processor's `online` says when it is down, and takes to bring it up.
const DOWN: &str = "0";
const UP: &str = "1";

/// Before the first visit. A command that takes less is not worth moving.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// A round of visits to all remote processors takes so long, at least and at most.
const ROUND: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// Between these, a visit takes one in so many moments of a round: it costs pages from other ranks, and where these share processors or a
/// slow network, much time.
const VISIT_SHARE: u32 = 50;

/// Brings up all processors that are not up yet, in the order of their numbers (kernel documentation, core-api/cpu_hotplug).
pub(crate) fn bring_up() -> Result<(), SetupError> {
    for switch in switches(Path::new(PROCESSORS))? {
        let step = || format!("bring up a processor by {}", switch.display());
        if fs::read_to_string(&switch).step(step)?.trim() == DOWN {
            fs::write(&switch, UP).step(step)?;
        }
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

/// The switches of all processors that have one, in the order of their numbers. The first one may have none: it is up.
fn switches(folder: &Path) -> Result<Vec<PathBuf>, SetupError> {
    let step = || format!("list {}", folder.display());
    let number = |name: &str| name.strip_prefix("cpu")?.parse::<usize>().ok();
    let mut switches = Vec::new();
    for entry in fs::read_dir(folder).step(step)? {
        let entry = entry.step(step)?;
        let switch = entry.path().join("online");
        if let Some(number) = entry.file_name().to_str().and_then(number)
            && switch.exists()
        {
            switches.push((number, switch));
        }
    }
    switches.sort();
    Ok(switches.into_iter().map(|(_, switch)| switch).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_taken_in_the_order_of_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["cpu10", "cpu2", "cpu1", "cpufreq", "cpu0", "hotplug"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        for name in ["cpu10", "cpu2", "cpu1", "cpufreq"] {
            fs::write(folder.path().join(name).join("online"), "0\n").unwrap();
        }
        let expected = [1, 2, 10].map(|number| folder.path().join(format!("cpu{number}")).join("online"));
        assert_eq!(switches(folder.path()).unwrap(), expected);
    }

    #[test]
    fn the_more_a_visit_takes_the_later_is_the_next() {
        let after = |visit| next_round(Duration::from_millis(visit)).as_millis();
        assert_eq!([after(0), after(5), after(6), after(600), after(601)], [250, 250, 300, 30_000, 30_000]);
        assert_eq!(next_round(Duration::MAX), ROUND.1);
    }
}
