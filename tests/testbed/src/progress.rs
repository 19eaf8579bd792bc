//! What has come from a node so far, and the threads that take it from its ports.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::node::End;
use crate::qemu::Ports;
use crate::report::Report;
use crate::stream::{END_MARK_LEN, Ended, Sink, pump};

/// How long the streams may take to drain once QEMU has ended. They are local and short; a writer that takes no more could
/// otherwise hold a run past its time limit.
const DRAIN: Duration = Duration::from_secs(2);

/// Longest report line in bytes.
const MAX_REPORT: u64 = 4096;

/// Something that came from a node.
#[derive(Debug)]
pub(crate) enum Event {
    Report(Report),
    Stdout(Ended),
    Stderr(Ended),
}

/// Where the streams of a node's command go, and come from.
#[derive(Default)]
pub(crate) struct Streams {
    pub(crate) stdout: Sink,
    pub(crate) stderr: Sink,
    pub(crate) stdin: Option<Box<dyn Read + Send>>,
}

/// What has come from a node so far.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    status: Option<u8>,
    failed: Option<String>,
    /// From QEMU's start to the command's.
    pub(crate) boot: Option<Duration>,
    pub(crate) stdout: Option<Ended>,
    pub(crate) stderr: Option<Ended>,
}

impl Progress {
    pub(crate) fn take(&mut self, event: Event, started: Instant) {
        match event {
            Event::Report(Report::Ready { .. }) => self.boot = Some(started.elapsed()),
            Event::Report(Report::Exit(status)) => self.status = Some(status),
            Event::Report(Report::Failed(why)) => self.failed = Some(why),
            Event::Stdout(ended) => self.stdout = Some(ended),
            Event::Stderr(ended) => self.stderr = Some(ended),
        }
    }

    /// The end, once everything that belongs to it is there. `node` names the node.
    pub(crate) fn end(&self, node: &str) -> Option<End> {
        if let Some(why) = &self.failed {
            return Some(End::NodeLost(format!("{node} could not be set up: {why}")));
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
    pub(crate) fn drain(&mut self, events: &Receiver<Event>) {
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

/// Starts a thread for each of a node's ports. They end with QEMU, at the latest.
pub(crate) fn start_pumps(ports: Ports, streams: Streams, mark: [u8; END_MARK_LEN]) -> Receiver<Event> {
    let (send, events) = mpsc::channel();
    let stream = |port: UnixStream, sink: Sink, event: fn(Ended) -> Event| {
        let send = send.clone();
        // The receiver is gone only when nobody wants to know any more.
        thread::spawn(move || send.send(event(pump(port, sink, &mark))));
    };
    stream(ports.stdout, streams.stdout, Event::Stdout);
    stream(ports.stderr, streams.stderr, Event::Stderr);
    thread::spawn(move || read_reports(ports.report, &send));
    thread::spawn(move || {
        if let Some(mut input) = streams.stdin {
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
        assert_eq!(progress.end("node0"), None);
        progress.take(Event::Stdout(whole(b"out")), now);
        assert_eq!(progress.end("node0"), None);
        progress.take(Event::Stderr(whole(b"")), now);
        assert_eq!(progress.end("node0"), Some(End::Exited(3)));
    }

    #[test]
    fn a_stream_that_broke_off_is_no_end() {
        let mut progress = Progress::default();
        let now = Instant::now();
        progress.take(Event::Report(Report::Exit(0)), now);
        progress.take(Event::Stdout(Ended { whole: false, kept: Vec::new(), error: None }), now);
        progress.take(Event::Stderr(whole(b"")), now);
        assert_eq!(progress.end("node0"), None);
    }

    #[test]
    fn failed_set_up_and_closed_output_end_a_run() {
        let now = Instant::now();
        let mut progress = Progress::default();
        progress.take(Event::Report(Report::Failed("no eth0".to_owned())), now);
        assert_eq!(progress.end("node1"), Some(End::NodeLost("node1 could not be set up: no eth0".to_owned())));

        let mut progress = Progress::default();
        let error = Some(std::io::ErrorKind::BrokenPipe.into());
        progress.take(Event::Stdout(Ended { whole: false, kept: Vec::new(), error }), now);
        assert!(matches!(progress.end("node0"), Some(End::NodeLost(why)) if why.starts_with("standard output")));
    }
}
