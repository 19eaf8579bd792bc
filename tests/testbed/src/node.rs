//! One run: nodes are started, the first runs one command, and all are ended.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vincs_guest_image::cache::Cache;
use vincs_guest_image::kernel::Kernel;

use crate::TestbedError;
use crate::command::{Command, Role, SYSTEM_PATH, node_env, on_script, release_dir, remote_program, start_script};
use crate::counter::Measurement;
use crate::hosts::{self, Card};
use crate::initramfs::{self, Files, ImageError};
use crate::preflight::{MissingError, Programs, check_shape};
use crate::progress::{Event, Progress, Streams, start_pumps};
use crate::qemu::{Machine, Qemu};
use crate::stream::{END_MARK_LEN, Ended, Sink};

/// How often QEMU's end, the time limit and an interrupt are looked at.
const POLL: Duration = Duration::from_millis(20);

/// How long a node may take from QEMU's start to its command's. Four to six seconds are usual, fifteen where several start on two
/// processors.
pub const BOOT_TIME: Duration = Duration::from_secs(90);

/// How the node's scripts begin a line on the console that says what they do next.
const STAGE: &str = "testbed: ";

/// Console lines told of a failed node: a kernel panic with its registers and call trace fits.
const CONSOLE_TAIL_LINES: usize = 60;

/// Processors of a node unless asked otherwise. With two, nested guests of several vCPUs now and then triple-fault, hang,
/// or take the node down with them; with one they did not (docs/testbed.md).
pub const DEFAULT_CPUS: u32 = 1;

/// A node, or several, to be started for one command.
#[derive(Debug, Clone)]
pub struct Testbed {
    /// Nodes, 1 to [`MAX_HOSTS`](crate::MAX_HOSTS): the command runs on the first, `node0`.
    pub hosts: u32,
    /// Processors of each.
    pub cpus: u32,
    /// Memory of each in bytes.
    pub memory: u64,
    /// How long boot and command together may take.
    pub timeout: Duration,
    /// Where the first node's console goes, and those of others with their names added; None for files that are gone after the run.
    pub log: Option<PathBuf>,
    /// Put first on the command's PATH.
    pub binaries: Option<PathBuf>,
    /// The command's working directory, here and in the node.
    pub dir: PathBuf,
    /// A signal's number, set by its handler, ends the run.
    pub interrupt: Arc<AtomicUsize>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The command ended with this status; 128 + N when signal N killed it, 127 when it was not found.
    Exited(u8),
    /// The time limit passed.
    TimedOut,
    /// The node ended before the command did; why, in one line.
    NodeLost(String),
    /// This signal asked for the end.
    Interrupted(usize),
}

/// What a run gave.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub end: End,
    /// The command's standard output, when kept; up to where the run ended.
    pub stdout: Vec<u8>,
    /// The command's standard error, likewise.
    pub stderr: Vec<u8>,
    /// The console's last lines; of several nodes each one's, under a line with its name.
    pub console_tail: String,
    /// From QEMU's start to the command's; None when it was not reached.
    pub boot: Option<Duration>,
}

/// What all nodes of a run are made of.
#[derive(Debug)]
struct Parts {
    kernel: Kernel,
    programs: Programs,
    /// Runs commands for other nodes; none where there are no others.
    remote: Option<PathBuf>,
    env: Vec<(OsString, OsString)>,
    /// The run's files, gone with it.
    work: TempDir,
    mark: [u8; END_MARK_LEN],
    counter_khz: u64,
}

/// One node of a run.
#[derive(Debug)]
struct Node {
    name: String,
    console: PathBuf,
    qemu: Qemu,
    events: Receiver<Event>,
    progress: Progress,
}

impl Default for Testbed {
    /// One node, one processor, 4 GiB, ten minutes, the release binaries, the current directory.
    fn default() -> Self {
        Self {
            hosts: 1,
            cpus: DEFAULT_CPUS,
            memory: 4 << 30,
            timeout: Duration::from_secs(600),
            log: None,
            binaries: release_dir(),
            dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            interrupt: Arc::default(),
        }
    }
}

impl Testbed {
    /// Boots a node, runs a `/bin/sh` script in it with nothing on standard input, and keeps its output.
    ///
    /// # Errors
    /// When no node can be started. A node that is lost, or out of time, is an [`Output`] too.
    pub fn run(&self, script: &str) -> Result<Output, TestbedError> {
        self.run_with(&Command::Shell(script.into()), Sink::Keep, Sink::Keep, None)
    }

    /// Boots a node and runs `command` in it with its streams where the caller wants them.
    ///
    /// # Errors
    /// As [`Testbed::run`].
    pub fn run_with(
        &self,
        command: &Command,
        stdout: Sink,
        stderr: Sink,
        stdin: Option<Box<dyn Read + Send>>,
    ) -> Result<Output, TestbedError> {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        check_shape(self.hosts, self.cpus, self.memory, &meminfo)?;
        let measurement = Measurement::start();
        let parts = self.parts(&measurement)?;
        let cards = hosts::cards(self.hosts).map_err(TestbedError::io("cannot make the network between the nodes"))?;
        let started = Instant::now();
        let mut streams = Some(Streams { stdout, stderr, stdin });
        let mut nodes = Vec::new();
        for (number, cards) in (0..).zip(cards) {
            // The first node has the command; the others do what it asks of them, and what they say meanwhile is nobody's.
            let streams = streams.take().unwrap_or_default();
            nodes.push(self.start(&parts, number, command, cards, streams)?);
        }
        let end = self.follow(&mut nodes, started)?;
        for node in &mut nodes {
            node.qemu.kill();
            node.progress.drain(&node.events);
        }
        let console_tail = told(&nodes);
        let progress = nodes.into_iter().next().map(|node| node.progress).unwrap_or_default();
        let kept = |stream: Option<Ended>| stream.map(|ended| ended.kept).unwrap_or_default();
        Ok(Output {
            end,
            boot: progress.boot,
            stdout: kept(progress.stdout),
            stderr: kept(progress.stderr),
            console_tail,
        })
    }

    /// What all nodes of a run are made of.
    fn parts(&self, counter: &Measurement) -> Result<Parts, TestbedError> {
        let cache = Cache::from_env().map_err(ImageError::from)?;
        let kernel = initramfs::node_kernel(&cache)?;
        let path = format!("{}:{SYSTEM_PATH}", std::env::var("PATH").unwrap_or_default());
        let programs = Programs::find(&path, &cache.tools())?;
        let remote = if self.hosts > 1 { Some(remote_program(self.binaries.as_deref())?) } else { None };
        let work = tempfile::Builder::new()
            .prefix("vincs-testbed-")
            .tempdir()
            .map_err(TestbedError::io("cannot make a folder for the run's files"))?;
        let env = node_env(std::env::vars_os(), self.binaries.as_deref(), cache.root(), remote.is_some());
        Ok(Parts { kernel, programs, remote, env, work, mark: end_mark()?, counter_khz: counter.khz() })
    }

    /// Starts one node of a run.
    fn start(
        &self,
        parts: &Parts,
        number: u32,
        command: &Command,
        cards: Vec<Card>,
        streams: Streams,
    ) -> Result<Node, TestbedError> {
        let role = match &parts.remote {
            None => Role::Alone,
            Some(program) if number == 0 => Role::First { program, others: self.hosts - 1 },
            Some(program) => Role::Other { program },
        };
        let image = initramfs::build(
            &parts.kernel,
            &parts.programs.busybox,
            &Files {
                command: start_script(command, role, &self.dir, &parts.env),
                script: command,
                end_mark: &parts.mark,
                stdin: streams.stdin.is_some(),
                place: (number, self.hosts),
                on: parts.remote.as_deref().map(on_script),
            },
        )?;
        let name = hosts::name(number);
        let file = |what: &str| parts.work.path().join(format!("{what}.{name}"));
        let initramfs = file("initramfs");
        std::fs::write(&initramfs, image).map_err(TestbedError::io(format!("cannot write {}", initramfs.display())))?;
        let console = self.log.as_deref().map_or_else(|| file("console"), |log| log_of(log, number));
        std::fs::write(&console, "").map_err(TestbedError::io(format!("cannot write {}", console.display())))?;
        let machine = Machine {
            cpus: self.cpus,
            memory: self.memory,
            kernel: &parts.kernel.image,
            initramfs: &initramfs,
            counter_khz: parts.counter_khz,
            console: &console,
            cards,
        };
        let (qemu, ports) = Qemu::start(&parts.programs.qemu, machine, file("qemu"))
            .map_err(TestbedError::io(format!("cannot start {}", parts.programs.qemu.display())))?;
        let events = start_pumps(ports, streams, parts.mark);
        Ok(Node { name, console, qemu, events, progress: Progress::default() })
    }

    /// Waits for the run's end, whichever comes first.
    fn follow(&self, nodes: &mut [Node], started: Instant) -> Result<End, TestbedError> {
        loop {
            thread::sleep(POLL);
            for (number, node) in nodes.iter_mut().enumerate() {
                while let Ok(event) = node.events.try_recv() {
                    node.progress.take(event, started);
                }
                // The command is the first node's; the others are there as long as it is, or until it ends them.
                match node.progress.end(&node.name) {
                    Some(End::Exited(_)) if number > 0 => {}
                    Some(end) => return Ok(end),
                    None => {}
                }
            }
            let signal = self.interrupt.load(Ordering::Relaxed);
            if signal != 0 {
                return Ok(End::Interrupted(signal));
            }
            if started.elapsed() >= self.timeout {
                return Ok(End::TimedOut);
            }
            for (number, node) in nodes.iter_mut().enumerate() {
                let Some(status) = node.qemu.ended().map_err(TestbedError::io("cannot wait for QEMU"))? else {
                    if node.progress.boot.is_none() && started.elapsed() >= BOOT_TIME {
                        return Ok(End::NodeLost(did_not_come_up(&node.name, &node.console)));
                    }
                    continue;
                };
                // Its last reports may still be on their way.
                node.progress.drain(&node.events);
                match node.progress.end(&node.name) {
                    Some(End::Exited(_)) if number > 0 => {}
                    Some(end) => return Ok(end),
                    // A command may power another host off, as it may happen to a host.
                    None if number > 0
                        && status.success()
                        && node.progress.boot.is_some()
                        && !has_panicked(&node.console) => {}
                    None => return Ok(End::NodeLost(ended_because(&node.name, status, node.qemu.last_message())?)),
                }
            }
        }
    }
}

/// Whether a node's kernel has stopped, as its console tells: QEMU then ends as after a power-off.
fn has_panicked(console: &Path) -> bool {
    let text = std::fs::read(console).unwrap_or_default();
    String::from_utf8_lossy(&text).contains("Kernel panic")
}

/// Why a QEMU that ended by itself did so, in one line; an error when it is a QEMU that cannot run any node.
fn ended_because(node: &str, status: ExitStatus, message: Option<String>) -> Result<String, MissingError> {
    if status.success() {
        return Ok(format!("{node} powered off, or its kernel stopped, before the command ended"));
    }
    match message {
        Some(message) if message.contains("support requested feature") => Err(MissingError::NoSvm(message)),
        Some(message) if message.contains("invalid accelerator") => Err(MissingError::NoSoftwareCpu(message)),
        Some(message) => Ok(format!("{node}: QEMU ended ({status}): {message}")),
        None => Ok(format!("{node}: QEMU ended ({status}) without a message")),
    }
}

/// That a node hangs on its way up, and where: the last thing that it said it does.
fn did_not_come_up(node: &str, console: &Path) -> String {
    let text = std::fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rev().find_map(|line| line.trim_end().split_once(STAGE)).map(|(_, stage)| stage);
    let last =
        last.unwrap_or("nothing was heard of its first program, so its kernel hangs, or this machine is too busy");
    format!("{node} did not come up within {} s; last: {last}", BOOT_TIME.as_secs())
}

/// Where the console of a node goes when it is kept: that of the first is the file itself.
fn log_of(log: &Path, number: u32) -> PathBuf {
    match number {
        0 => log.to_owned(),
        _ => {
            let mut name = log.as_os_str().to_owned();
            name.push(format!(".{}", hosts::name(number)));
            name.into()
        }
    }
}

/// The last lines of all consoles, each under its node's name where there are several.
fn told(nodes: &[Node]) -> String {
    match nodes {
        [node] => tail(&node.console),
        _ => nodes.iter().map(|node| format!("[{}]\n{}\n", node.name, tail(&node.console))).collect(),
    }
}

/// The console's last lines.
fn tail(console: &Path) -> String {
    let text = std::fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(CONSOLE_TAIL_LINES)..].join("\n")
}

/// A fresh end mark.
fn end_mark() -> Result<[u8; END_MARK_LEN], TestbedError> {
    let mut bits = [0; END_MARK_LEN / 2];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bits))
        .map_err(TestbedError::io("cannot read /dev/urandom"))?;
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' + value - 10 };
    Ok(std::array::from_fn(|i| digit(if i % 2 == 0 { bits[i / 2] >> 4 } else { bits[i / 2] & 15 })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qemu_that_cannot_run_nodes_is_told_from_one_that_failed() {
        use std::os::unix::process::ExitStatusExt;
        // wait(2) has the exit status in the second byte.
        let failed = ExitStatus::from_raw(1 << 8);
        let because = |message: &str| ended_because("node0", failed, Some(message.to_owned()));
        assert!(matches!(because("qemu: TCG doesn't support requested features"), Err(MissingError::NoSvm(_))));
        assert!(matches!(because("qemu: -accel tcg: invalid accelerator tcg"), Err(MissingError::NoSoftwareCpu(_))));
        assert_eq!(because("qemu: out of memory").unwrap(), "node0: QEMU ended (exit status: 1): qemu: out of memory");
        assert!(
            ended_because("node0", ExitStatus::default(), Some("a warning".to_owned()))
                .unwrap()
                .contains("kernel stopped")
        );
    }

    #[test]
    fn end_marks_differ() {
        let (one, other) = (end_mark().unwrap(), end_mark().unwrap());
        assert_ne!(one, other);
        assert!(one.iter().all(u8::is_ascii_hexdigit));
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("console");
        let text: Vec<String> = (0..100).map(|i| format!("line {i}\r\n\r\n")).collect();
        std::fs::write(&file, text.concat()).unwrap();
        let tail = tail(&file);
        assert_eq!(tail.lines().count(), CONSOLE_TAIL_LINES);
        assert_eq!(tail.lines().last(), Some("line 99"));
    }
}
