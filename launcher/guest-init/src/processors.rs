//! Brings up the processors of other ranks, and makes them take tasks.
//!
//! The kernel starts with rank 0's processors alone (`maxcpus`), as all of it would bounce between ranks otherwise, and the others run
//! without ticks (`nohz_full`). Linux sends nobody to such a processor while it idles: it looks for tasks that wait elsewhere only when it
//! goes idle (kernel/sched/fair.c, the balancing of new idleness). So each gets a thread that wakes from time to time and goes
//! to sleep at once. That the kernel moves tasks then, and which, is its own affair.

use crate::error::{InStep, SetupError};
use rustix::thread::CpuSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use vincs_guest_protocol::GuestConfig;

/// Where the kernel lists its processors, `cpuN` each.
const PROCESSORS: &str = "/sys/devices/system/cpu";
/// What a processor's `online` says when it is down, and takes to bring it up.
const DOWN: &str = "0";
const UP: &str = "1";

/// How often a remote processor looks for tasks, at most and at least.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// Looking takes one in so many of a processor's moments at most: a wake costs pages from other ranks, and where they share
/// processors or a slow network, much time.
const LOOK_SHARE: u32 = 50;

/// Brings up all processors that are not up yet, if that is wanted, in the order of their numbers (kernel documentation,
/// core-api/cpu_hotplug). Gives those numbers.
pub(crate) fn bring_up(config: &GuestConfig) -> Result<Vec<usize>, SetupError> {
    let mut brought_up = Vec::new();
    if !config.bring_up_processors {
        return Ok(brought_up);
    }
    for (number, switch) in switches(Path::new(PROCESSORS))? {
        let step = || format!("bring up a processor by {}", switch.display());
        if fs::read_to_string(&switch).step(step)?.trim() == DOWN {
            fs::write(&switch, UP).step(step)?;
            brought_up.push(number);
        }
    }
    Ok(brought_up)
}

/// Makes these processors take tasks, as long as this process runs its own program.
pub(crate) fn look_for_tasks(processors: Vec<usize>) -> Result<(), SetupError> {
    for number in processors {
        let step = || format!("start a thread for processor {number}");
        thread::Builder::new().name(format!("look{number}")).spawn(move || wake_up_on(number)).step(step)?;
    }
    Ok(())
}

/// Wakes a processor from time to time, for ever.
fn wake_up_on(processor: usize) {
    let mut own = CpuSet::new();
    own.set(processor);
    // A processor that was taken down meanwhile has nothing to look for.
    if rustix::thread::sched_setaffinity(None, &own).is_err() {
        return;
    }
    let (mut interval, _) = LOOK_EVERY;
    loop {
        let started = Instant::now();
        thread::sleep(interval);
        interval = next_interval(started.elapsed().saturating_sub(interval));
    }
}

/// How long to wait for the next look, after one that came so late: its timer and the thread's wake took as long.
fn next_interval(late: Duration) -> Duration {
    let (shortest, longest) = LOOK_EVERY;
    late.saturating_mul(LOOK_SHARE).clamp(shortest, longest)
}

/// The switches of all processors that have one, with their numbers and in their order. The first one may have none: it is up.
fn switches(folder: &Path) -> Result<Vec<(usize, PathBuf)>, SetupError> {
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
    Ok(switches)
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
        let expected = [1, 2, 10].map(|number| (number, folder.path().join(format!("cpu{number}")).join("online")));
        assert_eq!(switches(folder.path()).unwrap(), expected);
    }

    #[test]
    fn the_more_a_look_takes_the_later_is_the_next() {
        let after = |late| next_interval(Duration::from_millis(late)).as_millis();
        assert_eq!([after(0), after(5), after(6), after(600), after(601)], [250, 250, 300, 30_000, 30_000]);
        assert_eq!(next_interval(Duration::MAX), LOOK_EVERY.1);
    }
}
