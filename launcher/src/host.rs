//! What the host is: its memory, processors and mounted file systems.

pub(crate) mod mounts;
pub(crate) mod paging;

use std::path::PathBuf;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

/// The host's memory in bytes, from the text of /proc/meminfo (proc_meminfo(5): `MemTotal` in KiB).
pub(crate) fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// How many host processors vincs may run on.
pub(crate) fn available_cpus() -> u32 {
    rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count())
}

/// How many processors were busy in the last minute, in hundredths, from the text of /proc/loadavg (proc_loadavg(5): the first number; tasks
/// that wait for disks count, too).
pub(crate) fn busy(loadavg: &str) -> Option<u32> {
    let (whole, part) = loadavg.split_whitespace().next()?.split_once('.')?;
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part.parse::<u32>().ok().filter(|part| *part < 100)?)
}

/// The host's name, which becomes the guest's: /etc/hosts, which it shares, knows it.
pub(crate) fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Where a program is on PATH.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Which host this is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    /// Its name.
    pub(crate) host: String,
    /// What tells this boot of it from all others; empty where the kernel does not tell.
    pub(crate) boot_id: String,
}

impl Place {
    /// This one.
    pub(crate) fn here() -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { host: name(), boot_id: boot_id.trim().to_owned() }
    }
}

/// Makes this process fit to serve files: a file that the guest knows of takes two or three descriptors here, so the
/// soft limit on them goes up to the hard one; and modes come from the guest, with its mask applied already.
pub(crate) fn serve_files() -> rustix::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    umask(Mode::empty());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(total_memory("MemTotal:       24684084 kB\nMemFree: 1 kB\n"), Some(24_684_084 * 1024));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
        let here = total_memory(&std::fs::read_to_string("/proc/meminfo").unwrap()).unwrap();
        assert!(here > 64 << 20, "{here}");
    }

    #[test]
    fn how_busy_it_is_is_read_in_hundredths() {
        assert_eq!(busy("12.07 9.20 3.00 2/512 4711\n"), Some(1207));
        for odd in ["", "x", "1", "1.", "1.100 2", "-1.00", "99999999.00"] {
            assert_eq!(busy(odd), None, "{odd}");
        }
        assert!(busy(&std::fs::read_to_string("/proc/loadavg").unwrap()).is_some());
    }

    #[test]
    fn a_shell_is_on_path_and_nonsense_is_not() {
        assert!(on_path("sh").is_some());
        assert_eq!(on_path("no such program"), None);
    }

    #[test]
    fn this_boot_has_a_name() {
        assert_eq!((Place::here().boot_id.len(), Place::here()), (36, Place::here()));
    }

    #[test]
    fn there_is_a_processor_to_run_on() {
        assert!(available_cpus() >= 1);
    }
}
