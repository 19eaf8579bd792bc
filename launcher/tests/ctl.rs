//! `vincs ctl` against a machine of two ranks that runs the micro-guest on this machine's own KVM, and against no machine.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails the test")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write, stderr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::Value;
use tempfile::TempDir;
use vincs_launcher::ctl::{Facts, Hosts, Server};
use vincs_micro_guest::{Program, Ranks, RunError, Session};
use vincs_vmm::kvm::DEFAULT_KVM_PATH;
use vincs_vmm::machine::StopReason;

const LIMIT: Duration = Duration::from_secs(60);

/// A user's directory for sockets, with nothing in it yet.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(place.sockets()).unwrap();
        fs::set_permissions(place.sockets(), fs::Permissions::from_mode(0o700)).unwrap();
        place
    }

    fn sockets(&self) -> PathBuf {
        self.dir.path().join("vincs")
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.sockets().join(name)
    }

    /// Runs `vincs ctl`; what other machines of this user run here are not to be found.
    fn ctl(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vincs"));
        command.arg("ctl").args(args).env("XDG_RUNTIME_DIR", self.dir.path()).output().unwrap()
    }

    fn done(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.done(&[&["--json"], args].concat())).unwrap()
    }

    /// The line with which an order is refused.
    fn refused(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(output.stdout.is_empty());
        let line = String::from_utf8(output.stderr).unwrap();
        assert!(line.starts_with("vincs: ") && line.ends_with('\n') && line.lines().count() == 1, "{args:?}: {line:?}");
        line
    }
}

/// A machine of two ranks that checks itself, its socket, and whether it was told to stop.
struct Machine {
    place: Place,
    session: Session,
    server: Server,
    stopped: Arc<AtomicBool>,
}

/// Nothing where there is no KVM, which is said past the test runner's capture.
fn machine(test: &str) -> Option<Machine> {
    if !Path::new(DEFAULT_KVM_PATH).exists() {
        let reason = format!("\n*** SKIPPED, NOT DONE: {test}: there is no {DEFAULT_KVM_PATH} on this machine ***\n");
        stderr().write_all(reason.as_bytes()).unwrap();
        return None;
    }
    let place = Place::new();
    let program = Program::SelfCheck { rounds: 20_000, period: 5_000_000 };
    let session = Session::start_gathered(program, 2, &Ranks::new(2)).unwrap();
    session.self_check_window(LIMIT).unwrap();
    let facts = Facts {
        command: "self-check".into(),
        memory: 64 << 20,
        hosts: Hosts::of(&["n0", "n1"]),
        transport: Some("tcp".into()),
    };
    let stopped = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&stopped);
    let controller = session.controller().unwrap();
    let server =
        Server::start(controller, facts, move || stop.store(true, Ordering::SeqCst), Some(&place.socket("1.sock")));
    Some(Machine { place, session, server: server.unwrap(), stopped })
}

#[test]
fn a_machine_is_found_asked_and_ordered_about() {
    let Some(Machine { place, session, server, stopped }) = machine("vincs ctl") else { return };
    let status = place.json(&["status"]);
    assert_eq!((&status["command"], &status["paused"]), (&"self-check".into(), &false.into()));
    assert_eq!(status["ranks"][0]["vcpus"], serde_json::json!([0, 1]));

    assert!(place.done(&["migrate", "1", "1"]).starts_with("virtual processor 1 went from rank 0 to rank 1 in "));
    assert_eq!(place.done(&["migrate", "1", "1"]), "virtual processor 1 was on rank 1 already\n");
    let text = place.done(&["status"]);
    assert!(text.contains("2 virtual processors and 64 MiB on 2 ranks over tcp"), "{text}");
    assert!(text.contains("rank 0 on n0: 0\nrank 1 on n1: 1\n"), "{text}");
    assert_eq!(place.json(&["migrate", "0", "1"])["from"], 0, "the bootstrap processor, too");

    place.done(&["pause"]);
    assert_eq!(place.json(&["status"])["paused"], true);
    place.done(&["resume"]);
    assert_eq!(place.json(&["status"])["paused"], false);

    let stats = place.json(&["stats"]);
    assert!(stats["machine"]["all_vcpus"]["entries"].as_u64() > Some(0), "{stats}");
    assert!(place.done(&["stats"]).contains("machine.all_vcpus.entries "));

    let before = place.json(&["status"])["vcpus"].clone();
    assert!(place.refused(&["migrate", "2", "0"]).contains("no vCPU 2: this machine has 0 to 1"));
    assert!(place.refused(&["migrate", "0", "7"]).contains("no rank 7: this machine has 0 to 1"));
    assert!(place.refused(&["migrate", "x", "0"]).contains("'x'"));
    assert!(place.refused(&["remove", "0"]).contains("rank 0 has the machine's devices"));
    assert!(place.refused(&["remove", "2"]).contains("no rank 2"));
    assert_eq!(place.json(&["status"])["vcpus"], before);

    let homes = |status: &Value| [0, 1].map(|rank| status["ranks"][rank]["homes"].as_u64().unwrap());
    let [zero, one] = homes(&place.json(&["status"]));
    assert_eq!((zero, one), (8192, 8192), "half of 64 MiB each");
    assert_eq!(place.done(&["remove", "1"]), "");
    let status = place.json(&["status"]);
    assert_eq!((homes(&status), &status["ranks"][1]["state"]), ([zero + one, 0], &"left".into()));
    let text = place.done(&["status"]);
    assert!(text.contains("on 1 ranks over tcp") && text.contains("rank 1 on n1: none, left\n"), "{text}");
    assert!(place.refused(&["remove", "1"]).contains("rank 1 has left already"));

    assert!(!stopped.load(Ordering::SeqCst));
    place.done(&["stop"]);
    assert!(stopped.load(Ordering::SeqCst));
    session.ask_to_stop();
    // Whichever of the two ranks is seen to end first.
    let ended = session.wait(LIMIT);
    assert!(matches!(ended, Ok(_) | Err(RunError::Stopped(StopReason::Left))), "{ended:?}");
    let output = place.ctl(&["status"]);
    assert!(output.status.success(), "its socket is there as long as its server");
    let path = server.path().to_owned();
    drop(server);
    assert!(!path.exists());
    assert!(place.refused(&["status"]).contains("no machine of this user runs on this host"));
}

/// The command's side of a terminal, and ours.
fn terminal() -> (fs::File, fs::File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    tcsetwinsize(&theirs, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    (theirs, ours.into())
}

#[test]
fn top_shows_the_machine_on_a_terminal_until_it_is_left() {
    let Some(Machine { place, session, server: _server, .. }) = machine("vincs ctl top") else { return };
    assert!(place.refused(&["top"]).contains("a terminal"));
    assert!(place.refused(&["--json", "top"]).contains("--json"));
    let (theirs, mut ours) = terminal();
    // A session of its own, so that it does not see the terminal that this test may have.
    let mut command = Command::new("setsid");
    command
        .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_vincs"), "ctl", "top"])
        .env("XDG_RUNTIME_DIR", place.dir.path());
    command.env("TERM", "xterm").stdin(theirs.try_clone().unwrap()).stdout(theirs);
    let mut top = command.spawn().unwrap();
    drop(command);
    let mut seen = String::new();
    let mut until = |what: &str| {
        while !seen.contains(what) {
            let mut bytes = [0; 4096];
            let read = ours.read(&mut bytes).unwrap();
            seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    };
    until("self-check");
    until("hottest");
    place.done(&["migrate", "1", "1"]);
    // It is drawn where it differs from what was there, so its words may come apart.
    until("went");
    ours.write_all(b"q").unwrap();
    assert!(top.wait().unwrap().success());
    session.ask_to_stop();
    session.wait(LIMIT).unwrap();
}

#[test]
fn lines_that_make_no_sense_are_answered_and_change_nothing() {
    let Some(Machine { place, session, server, .. }) = machine("bad lines") else { return };
    let answer = |line: &[u8]| {
        let mut stream = UnixStream::connect(server.path()).unwrap();
        stream.write_all(line).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    };
    let long = [&[b'x'; 4096][..], b"\n"].concat();
    for (line, what) in [
        (&b"nonsense\n"[..], "makes no sense"),
        (b"{\"version\":2,\"do\":\"dance\"}\n", "dance"),
        (b"{\"version\":2,\"do\":\"migrate\",\"vcpu\":-1,\"rank\":0}\n", "makes no sense"),
        (b"{\"version\":3,\"do\":\"status\"}\n", "version 2"),
        (b"{\"version\":3,\"do\":\"dance\",\"to\":7}\n", "version 2"),
        (b"{\"do\":\"status\"}\n", "version"),
        (&long, "more than 4096 bytes"),
    ] {
        let answer = answer(line);
        assert!(answer.starts_with("{\"refused\":\"") && answer.contains(what), "{answer}");
    }
    // More connections than it takes: those that are idle keep their places. Those from before may have theirs for a moment still.
    let mut held = Vec::new();
    let one_more = || {
        held.push(UnixStream::connect(server.path()).unwrap());
        place.ctl(&["status"])
    };
    let full = std::iter::repeat_with(one_more).take(200).find(|output| !output.status.success());
    assert!(String::from_utf8(full.unwrap().stderr).unwrap().contains("16 connections"), "one too many");
    drop(held);
    let free = std::iter::repeat_with(|| place.ctl(&["status"])).take(200).any(|output| output.status.success());
    assert!(free);
    session.ask_to_stop();
    session.wait(LIMIT).unwrap();
}

#[test]
fn without_a_machine_there_is_one_line() {
    let place = Place::new();
    // Whoever runs this may have machines of their own, in directories that every user has.
    let others = place.ctl(&["status"]).status.code() != Some(2);
    if !others {
        assert!(place.refused(&["status"]).contains("--socket PATH"));
    }
    let dead = place.socket("7.sock");
    drop(UnixListener::bind(&dead).unwrap());
    let given = dead.to_str().unwrap();
    assert!(place.refused(&["--socket", given, "pause"]).contains(given));
    assert!(place.refused(&["--socket", "/no/such/socket", "stop"]).contains("/no/such/socket"));
    let _ = place.ctl(&["status"]);
    assert!(!dead.exists(), "what a dead machine has left is removed");
    let alive: Vec<_> =
        ["8.sock", "9.sock"].iter().map(|name| UnixListener::bind(place.socket(name)).unwrap()).collect();
    let line = place.refused(&["status"]);
    assert!(line.contains("8.sock") && line.contains("9.sock") && line.contains("--socket"), "{line}");
    drop(alive);
    assert!(place.refused(&["dance"]).contains("dance"));
    assert!(place.refused(&["migrate", "0"]).contains("RANK"));
    assert!(place.refused(&[]).contains("vincs"));
}
