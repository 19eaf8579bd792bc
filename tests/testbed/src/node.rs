//! One run: a node is started, runs one command, and is ended.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use vincs_guest_image::cache::Cache;

use crate::TestbedError;
use crate::command::{Command, SYSTEM_PATH, node_env, release_dir, start_script};
use crate::initramfs::{self, Files, ImageError};
use crate::preflight::{MissingError, Programs, check_shape};
use crate::qemu::{Machine, Ports, Qemu};
use crate::report::Report;
use crate::stream::{END_MARK_LEN, Ended, Sink, pump};

/// How often QEMU's end, the time limit and an interrupt are looked at.
const POLL: Duration = Duration::from_millis(20);

/// How long the streams may take to drain once QEMU has ended. They are local and short; a writer that takes no more could
/// otherwise hold a run past its time limit.
const DRAIN: Duration = Duration::from_secs(2);

/// Console lines told of a failed node: a kernel panic with its registers and call trace fits.
const CONSOLE_TAIL_LINES: usize = 60;

/// Longest report line in bytes.
const MAX_REPORT: u64 = 4096;

/// Processors of a node unless asked otherwise. With two, nested guests of several vCPUs now and then triple-fault, hang,
/// or take the node down with them; with one they did not (docs/testbed.md).
pub const DEFAULT_CPUS: u32 = 1;

/// A node to be started for one command.
#[derive(Debug, Clone)]
pub struct Testbed {
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// How long boot and command together may take.
    pub timeout: Duration,
    /// Where the node's console goes; None for a file that is gone after the run.
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
    /// The console's last lines.
    pub console_tail: String,
    /// From QEMU's start to the command's; None when it was not reached.
    pub boot: Option<Duration>,
}

enum Event {
    Report(Report),
    Stdout(Ended),
    Stderr(Ended),
}

/// What has come from the node so far.
#[derive(Default)]
struct Progress {
    status: Option<u8>,
    failed: Option<String>,
    boot: Option<Duration>,
    stdout: Option<Ended>,
    stderr: Option<Ended>,
}

impl Default for Testbed {
    /// Two processors, 4 GiB, ten minutes, the release binaries, the current directory.
    fn default() -> Self {
        Self {
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
        check_shape(self.cpus, self.memory, &meminfo)?;
        let cache = Cache::from_env().map_err(ImageError::from)?;
        let kernel = initramfs::node_kernel(&cache)?;
        let path = format!("{}:{SYSTEM_PATH}", std::env::var("PATH").unwrap_or_default());
        let programs = Programs::find(&path, &cache.tools())?;
        let mark = end_mark()?;
        let env = node_env(std::env::vars_os(), self.binaries.as_deref(), cache.root());
        let image = initramfs::build(
            &kernel,
            &programs.busybox,
            &Files {
                command: start_script(command, &self.dir, &env),
                script: command,
                end_mark: &mark,
                stdin: stdin.is_some(),
            },
        )?;

        let work = tempfile::Builder::new()
            .prefix("vincs-testbed-")
            .tempdir()
            .map_err(TestbedError::io("cannot make a folder for the run's files"))?;
        let initramfs = work.path().join("initramfs");
        std::fs::write(&initramfs, image).map_err(TestbedError::io(format!("cannot write {}", initramfs.display())))?;
        let console = self.log.clone().unwrap_or_else(|| work.path().join("console"));
        std::fs::write(&console, "").map_err(TestbedError::io(format!("cannot write {}", console.display())))?;
        let machine = Machine {
            cpus: self.cpus,
            memory: self.memory,
            kernel: &kernel.image,
            initramfs: &initramfs,
            console: &console,
        };

        let started = Instant::now();
        let (mut qemu, ports) = Qemu::start(&programs.qemu, &machine, work.path().join("qemu"))
            .map_err(TestbedError::io(format!("cannot start {}", programs.qemu.display())))?;
        let events = start_pumps(ports, stdout, stderr, stdin, mark);
        let mut progress = Progress::default();
        let end = self.follow(&mut qemu, &events, started, &mut progress)?;
        qemu.kill();
        progress.drain(&events);
        let kept = |stream: Option<Ended>| stream.map(|ended| ended.kept).unwrap_or_default();
        Ok(Output {
            end,
            boot: progress.boot,
            stdout: kept(progress.stdout),
            stderr: kept(progress.stderr),
            console_tail: tail(&console),
        })
    }

    /// Waits for the run's end, whichever comes first.
    fn follow(
        &self,
        qemu: &mut Qemu,
        events: &Receiver<Event>,
        started: Instant,
        progress: &mut Progress,
    ) -> Result<End, TestbedError> {
        loop {
            match events.recv_timeout(POLL) {
                Ok(event) => progress.take(event, started),
                Err(RecvTimeoutError::Timeout) => {}
                // Every pump has ended, so QEMU is about to.
                Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL),
            }
            if let Some(end) = progress.end() {
                return Ok(end);
            }
            let signal = self.interrupt.load(Ordering::Relaxed);
            if signal != 0 {
                return Ok(End::Interrupted(signal));
            }
            if started.elapsed() >= self.timeout {
                return Ok(End::TimedOut);
            }
            let Some(status) = qemu.ended().map_err(TestbedError::io("cannot wait for QEMU"))? else { continue };
            // Its last reports may still be on their way.
            progress.drain(events);
            if let Some(end) = progress.end() {
                return Ok(end);
            }
            return Ok(End::NodeLost(ended_because(status, qemu.last_message())?));
        }
    }
}

impl Progress {
    fn take(&mut self, event: Event, started: Instant) {
        match event {
            Event::Report(Report::Ready { .. }) => self.boot = Some(started.elapsed()),
            Event::Report(Report::Exit(status)) => self.status = Some(status),
            Event::Report(Report::Failed(why)) => self.failed = Some(why),
            Event::Stdout(ended) => self.stdout = Some(ended),
            Event::Stderr(ended) => self.stderr = Some(ended),
        }
    }

    /// The end, once everything that belongs to it is there.
    fn end(&self) -> Option<End> {
        if let Some(why) = &self.failed {
            return Some(End::NodeLost(format!("the node could not be set up: {why}")));
        }
        let streams = [("standard output", &self.stdout), ("standard error", &self.stderr)];
        for (name, stream) in &streams {
            if let Some(error) = stream.as_ref().and_then(|ended| ended.error.as_ref()) {
                return Some(End::NodeLost(format!("{name} cannot be written: {error}")));
            }
        }
        let whole = streams.iter().all(|(_, stream)| stream.as_ref().is_some_and(|ended| ended.whole));
        self.status.filter(|_| whole).map(End::Exited)
    }

    /// Takes what is still on its way after QEMU's end.
    fn drain(&mut self, events: &Receiver<Event>) {
        let now = Instant::now();
        while self.stdout.is_none() || self.stderr.is_none() {
            let Ok(event) = events.recv_timeout(DRAIN.saturating_sub(now.elapsed())) else { return };
            self.take(event, now);
        }
        while let Ok(event) = events.try_recv() {
            self.take(event, now);
        }
    }
}

/// Starts a thread for each of the node's ports. They end with QEMU, at the latest.
fn start_pumps(
    ports: Ports,
    stdout: Sink,
    stderr: Sink,
    stdin: Option<Box<dyn Read + Send>>,
    mark: [u8; END_MARK_LEN],
) -> Receiver<Event> {
    let (send, events) = mpsc::channel();
    let stream = |port: UnixStream, sink: Sink, event: fn(Ended) -> Event| {
        let send = send.clone();
        // The receiver is gone only when nobody wants to know any more.
        thread::spawn(move || send.send(event(pump(port, sink, &mark))));
    };
    stream(ports.stdout, stdout, Event::Stdout);
    stream(ports.stderr, stderr, Event::Stderr);
    thread::spawn(move || read_reports(ports.report, &send));
    thread::spawn(move || {
        if let Some(mut input) = stdin {
            // The command may end without reading all of its input.
            let _ = std::io::copy(&mut input, &mut &ports.stdin);
        }
        let _ = ports.stdin.shutdown(std::net::Shutdown::Write);
        // QEMU takes a closed connection for the end of both directions, and what it has not read yet for lost.
        let _ = (&ports.stdin).read(&mut [0]);
    });
    events
}

fn read_reports(port: UnixStream, send: &Sender<Event>) {
    let mut port = BufReader::new(port);
    let mut line = Vec::new();
    while port.by_ref().take(MAX_REPORT).read_until(b'\n', &mut line).is_ok_and(|got| got > 0) {
        if let Some(report) = Report::parse(String::from_utf8_lossy(&line).trim_end()) {
            // As above: a receiver that is gone wants nothing.
            let _ = send.send(Event::Report(report));
        }
        line.clear();
    }
}

/// Why a QEMU that ended by itself did so, in one line; an error when it is a QEMU that cannot run any node.
fn ended_because(status: ExitStatus, message: Option<String>) -> Result<String, MissingError> {
    if status.success() {
        return Ok("the node powered off, or its kernel stopped, before the command ended".to_owned());
    }
    match message {
        Some(message) if message.contains("support requested feature") => Err(MissingError::NoSvm(message)),
        Some(message) if message.contains("invalid accelerator") => Err(MissingError::NoSoftwareCpu(message)),
        Some(message) => Ok(format!("QEMU ended ({status}): {message}")),
        None => Ok(format!("QEMU ended ({status}) without a message")),
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

    fn whole(bytes: &[u8]) -> Ended {
        Ended { whole: true, kept: bytes.to_vec(), error: None }
    }

    #[test]
    fn a_run_ends_when_the_status_and_both_streams_are_there() {
        let mut progress = Progress::default();
        let now = Instant::now();
        progress.take(Event::Report(Report::Exit(3)), now);
        assert_eq!(progress.end(), None);
        progress.take(Event::Stdout(whole(b"out")), now);
        assert_eq!(progress.end(), None);
        progress.take(Event::Stderr(whole(b"")), now);
        assert_eq!(progress.end(), Some(End::Exited(3)));
    }

    #[test]
    fn a_stream_that_broke_off_is_no_end() {
        let mut progress = Progress::default();
        let now = Instant::now();
        progress.take(Event::Report(Report::Exit(0)), now);
        progress.take(Event::Stdout(Ended { whole: false, kept: Vec::new(), error: None }), now);
        progress.take(Event::Stderr(whole(b"")), now);
        assert_eq!(progress.end(), None);
    }

    #[test]
    fn failed_set_up_and_closed_output_end_a_run() {
        let now = Instant::now();
        let mut progress = Progress::default();
        progress.take(Event::Report(Report::Failed("no eth0".to_owned())), now);
        assert_eq!(progress.end(), Some(End::NodeLost("the node could not be set up: no eth0".to_owned())));

        let mut progress = Progress::default();
        let error = Some(std::io::ErrorKind::BrokenPipe.into());
        progress.take(Event::Stdout(Ended { whole: false, kept: Vec::new(), error }), now);
        assert!(matches!(progress.end(), Some(End::NodeLost(why)) if why.starts_with("standard output")));
    }

    #[test]
    fn a_qemu_that_cannot_run_nodes_is_told_from_one_that_failed() {
        use std::os::unix::process::ExitStatusExt;
        // wait(2) has the exit status in the second byte.
        let failed = ExitStatus::from_raw(1 << 8);
        let because = |message: &str| ended_because(failed, Some(message.to_owned()));
        assert!(matches!(because("qemu: TCG doesn't support requested features"), Err(MissingError::NoSvm(_))));
        assert!(matches!(because("qemu: -accel tcg: invalid accelerator tcg"), Err(MissingError::NoSoftwareCpu(_))));
        assert_eq!(because("qemu: out of memory").unwrap(), "QEMU ended (exit status: 1): qemu: out of memory");
        assert!(ended_because(ExitStatus::default(), Some("a warning".to_owned())).unwrap().contains("kernel stopped"));
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
