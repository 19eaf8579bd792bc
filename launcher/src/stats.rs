//! `--stats FILE.json`: what a run took, written at its end.
//!
//! Keys: `config` (the machine), `ending` and `status` (how it ended), `times` (see [`Times`], seconds), `machine` (the
//! vmm's counters), of several ranks also `ranks` (each one's) and `hottest_pages`. Keys may be added; the meaning of a key does not change.

pub(crate) mod hottest;
pub(crate) mod ranks;
pub(crate) mod symbols;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;
use tempfile::NamedTempFile;
use vincs_vmm::machine::MachineStats;

use crate::cluster::Others;
use crate::input::machine_size::MachineSize;
use crate::prepare::Machine;
use hottest::HottestPage;

/// The mode of a new file before the user's mask is taken off, as of any program's output.
const FILE_MODE: u32 = 0o666;

/// Why the statistics cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StatsError {
    #[error("--stats {0}: not a regular file: name a new file or one to replace")]
    NotAFile(PathBuf),
    #[error("--stats {0}: cannot be written: {1}: name a file in a directory that this user may write to")]
    Unwritable(PathBuf, io::Error),
    #[error("--stats {0}: cannot be written: {1}")]
    Json(PathBuf, serde_json::Error),
}

/// The file to write to: a temporary one beside it until all is written, so that a reader never sees half of it.
#[derive(Debug)]
pub(crate) struct StatsFile {
    path: PathBuf,
    file: NamedTempFile,
}

impl StatsFile {
    /// Makes sure, before anything starts, that the file can be written.
    ///
    /// # Errors
    /// [`StatsError`] when it cannot.
    pub(crate) fn create(path: &Path) -> Result<Self, StatsError> {
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            return Err(StatsError::NotAFile(path.to_owned()));
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".vincs-stats-").permissions(Permissions::from_mode(FILE_MODE));
        let file = builder.tempfile_in(dir).map_err(|error| StatsError::Unwritable(path.to_owned(), error))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Writes the statistics and puts the file in its place.
    ///
    /// # Errors
    /// [`StatsError`] when the file system does not take them.
    pub(crate) fn write(self, stats: &Stats) -> Result<(), StatsError> {
        let Self { path, mut file } = self;
        serde_json::to_writer_pretty(&mut file, stats).map_err(|error| StatsError::Json(path.clone(), error))?;
        file.persist(&path).map_err(|error| StatsError::Unwritable(path.clone(), error.error))?;
        Ok(())
    }
}

/// What is written.
#[derive(Debug, Serialize)]
pub(crate) struct Stats {
    /// The machine that ran.
    pub(crate) config: Config,
    /// How it ended: `exited`, `killed`, `not started`, `console`, `panic`, `triple fault`, `boot hang`, `powered off`,
    /// `reset`, `failed`, `rank lost` or `signal`.
    pub(crate) ending: &'static str,
    /// vincs's exit status.
    pub(crate) status: u8,
    /// When things happened.
    pub(crate) times: Times,
    /// The machine's own counters, if it was started and stopped.
    #[serde(flatten)]
    pub(crate) counters: Option<Counters>,
    /// The pages that ranks took from each other most; none for one rank.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hottest_pages: Vec<HottestPage>,
}

/// What a machine has counted.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Counters {
    /// Of the whole machine, the ranks' counters added up: exits of its virtual processors by kind, and more.
    pub(crate) machine: Value,
    /// Of each rank by itself, by rank; null where it told nothing in time. Only when there are several. They have more hot pages than are written.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "hottest::shorten")]
    pub(crate) ranks: Vec<Value>,
}

impl Counters {
    /// Of a machine of one rank.
    pub(crate) fn alone(stats: &MachineStats) -> Self {
        Self { machine: serde_json::to_value(stats).unwrap_or_default(), ranks: Vec::new() }
    }
}

/// The machine that ran.
#[derive(Debug, Serialize)]
pub(crate) struct Config {
    /// Its size: `vcpus`, `numa_nodes`, `memory` and `relaxed` in bytes.
    #[serde(flatten)]
    pub(crate) size: MachineSize,
    /// The kernel's file.
    pub(crate) kernel: PathBuf,
    /// The kernel's command line, before the vmm's additions.
    pub(crate) cmdline: String,
    /// Bytes of the initial RAM disk.
    pub(crate) initrd_bytes: usize,
    /// Directories shared with the guest, outer before inner.
    pub(crate) shares: Vec<String>,
    /// The name of each rank's host, by rank. Only when there are several ranks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hosts: Vec<String>,
    /// What connects its ranks: `tcp` or `rdma`; null for one rank.
    pub(crate) transport: Option<&'static str>,
}

impl Config {
    /// What is told of a machine.
    pub(crate) fn of(machine: &Machine, kernel: PathBuf, others: Option<&Others>) -> Self {
        let shares = machine.shares.iter().map(|share| String::from_utf8_lossy(&share.path).into_owned());
        Self {
            size: machine.size,
            kernel,
            cmdline: machine.cmdline.clone(),
            initrd_bytes: machine.initrd.len(),
            shares: shares.collect(),
            hosts: others.map(|others| others.hosts().into_values().collect()).unwrap_or_default(),
            transport: others.map(Others::transport),
        }
    }
}

/// Wall times in seconds; those that did not happen are null.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Times {
    /// From vincs's start to the kernel's entry: checks, building the initramfs, setting the machine up.
    pub(crate) start_to_kernel_entry: Option<f64>,
    /// From the kernel's entry to just before CMD's: the boot.
    pub(crate) kernel_entry_to_command: Option<f64>,
    /// From the kernel's entry to the first byte that CMD wrote to stdout.
    pub(crate) kernel_entry_to_first_byte: Option<f64>,
    /// From the kernel's entry to the end of CMD or the machine.
    pub(crate) kernel_entry_to_end: Option<f64>,
}

/// When things happened.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    kernel_entry: OnceLock<Instant>,
    command: OnceLock<Instant>,
    first_byte: OnceLock<Instant>,
}

/// What a [`Clock`] is told of, once each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mark {
    /// The kernel is entered.
    KernelEntry,
    /// CMD starts.
    Command,
    /// The first byte of stdout is there.
    FirstByte,
}

impl Clock {
    /// vincs was started now.
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
            kernel_entry: OnceLock::new(),
            command: OnceLock::new(),
            first_byte: OnceLock::new(),
        }
    }

    /// It happened now, unless it did before.
    pub(crate) fn mark(&self, mark: Mark) {
        let cell = match mark {
            Mark::KernelEntry => &self.kernel_entry,
            Mark::Command => &self.command,
            Mark::FirstByte => &self.first_byte,
        };
        cell.get_or_init(Instant::now);
    }

    /// The times, with the end now.
    pub(crate) fn times(&self) -> Times {
        let entry = self.kernel_entry.get();
        let since_entry = |then: Option<&Instant>| Some(then?.duration_since(*entry?).as_secs_f64());
        Times {
            start_to_kernel_entry: entry.map(|entry| entry.duration_since(self.start).as_secs_f64()),
            kernel_entry_to_command: since_entry(self.command.get()),
            kernel_entry_to_first_byte: since_entry(self.first_byte.get()),
            kernel_entry_to_end: since_entry(Some(&Instant::now())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats() -> Stats {
        let size = MachineSize { vcpus: 2, numa_nodes: 1, memory: 1 << 30, relaxed: 0 };
        let config = Config {
            size,
            kernel: "/k".into(),
            cmdline: "quiet".into(),
            initrd_bytes: 5,
            shares: vec!["/".into()],
            hosts: vec!["a".into(), "b".into()],
            transport: Some("rdma"),
        };
        Stats {
            config,
            ending: "exited",
            status: 3,
            times: Clock::start().times(),
            counters: Some(Counters { machine: serde_json::json!({"x": 1}), ranks: Vec::new() }),
            hottest_pages: Vec::new(),
        }
    }

    #[test]
    fn the_documented_keys_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats.json");
        StatsFile::create(&path).unwrap().write(&stats()).unwrap();
        let read: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!((&read["config"]["vcpus"], &read["config"]["memory"]), (&2.into(), &(1u64 << 30).into()));
        assert_eq!(read["config"]["transport"], "rdma");
        assert_eq!((&read["status"], &read["ending"], &read["machine"]["x"]), (&3.into(), &"exited".into(), &1.into()));
        assert_eq!(read["config"]["hosts"], serde_json::json!(["a", "b"]));
        assert!(read["times"]["kernel_entry_to_first_byte"].is_null());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn each_rank_has_its_ten_hottest_pages_written() {
        let pages: Vec<u32> = (0..11).collect();
        let rank = serde_json::json!({"vcpus": [], "ranks": {"memory": {"hottest": pages, "waits": 1}}});
        let counters = Counters { machine: Value::Null, ranks: vec![rank, Value::Null] };
        let written = serde_json::to_value(Stats { counters: Some(counters), ..stats() }).unwrap();
        assert_eq!(written["ranks"][0]["ranks"]["memory"], serde_json::json!({"hottest": pages[..10], "waits": 1}));
        assert_eq!((&written["ranks"][0]["vcpus"], &written["ranks"][1]), (&serde_json::json!([]), &Value::Null));
    }

    #[test]
    fn an_unused_file_leaves_nothing_and_an_old_one_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats.json");
        std::fs::write(&path, "old").unwrap();
        drop(StatsFile::create(&path).unwrap());
        assert_eq!(
            (std::fs::read(&path).unwrap(), std::fs::read_dir(dir.path()).unwrap().count()),
            (b"old".to_vec(), 1)
        );
    }

    #[test]
    fn what_cannot_be_written_is_found_before_the_start() {
        assert!(matches!(StatsFile::create(Path::new("/dev/null")), Err(StatsError::NotAFile(_))));
        assert!(matches!(StatsFile::create(Path::new("/no/such/dir/x")), Err(StatsError::Unwritable(..))));
        assert!(matches!(StatsFile::create(Path::new("/proc/x.json")), Err(StatsError::Unwritable(..))));
    }

    #[test]
    fn times_count_from_the_kernels_entry() {
        let clock = Clock::start();
        clock.mark(Mark::FirstByte);
        assert!(clock.times().kernel_entry_to_first_byte.is_none() && clock.times().kernel_entry_to_end.is_none());
        let clock = Clock::start();
        clock.mark(Mark::KernelEntry);
        clock.mark(Mark::Command);
        let times = clock.times();
        assert!(times.kernel_entry_to_command.unwrap() <= times.kernel_entry_to_end.unwrap());
        assert!(times.start_to_kernel_entry.unwrap() >= 0.0 && times.kernel_entry_to_first_byte.is_none());
    }
}
