use super::*;
use rustix::process::{getegid, geteuid, getgroups};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use vincs_guest_protocol::{Stdio, WindowSize, encode_frame};

/// Longer than any of these commands takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn command(argv: &[&str]) -> Command {
    Command {
        argv: argv.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        env: vec![b"PATH=/usr/bin:/bin".to_vec(), b"GREETING=hello there".to_vec()],
        cwd: b"/".to_vec(),
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        groups: getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect(),
        umask: 0o027,
        stdio: Stdio::Pipes,
    }
}

fn shell(script: &str) -> Command {
    command(&["sh", "-c", script])
}

fn terminal(script: &str, stderr: bool) -> Command {
    Command { stdio: Stdio::Terminal { stderr, size: WindowSize { rows: 33, columns: 101 } }, ..shell(script) }
}

/// The processes of other tests are not to be waited for.
fn wait_for_it(pid: Pid) -> Result<Option<(Pid, WaitStatus)>, Errno> {
    rustix::process::waitpid(Some(pid), WaitOptions::empty())
}

/// A command that runs, seen from the host's side of its ports.
struct Running {
    stdin: UnixStream,
    stdout: UnixStream,
    stderr: UnixStream,
    control: UnixStream,
    outcome: mpsc::Receiver<Result<Outcome, SetupError>>,
}

fn port() -> (OwnedFd, UnixStream) {
    let (port, host) = UnixStream::pair().unwrap();
    port.set_nonblocking(true).unwrap();
    host.set_read_timeout(Some(LONG)).unwrap();
    (port.into(), host)
}

fn start(command: Command) -> Running {
    let [(stdin_port, stdin), (stdout_port, stdout), (stderr_port, stderr), (control_port, control)] =
        [port(), port(), port(), port()];
    let (sender, outcome) = mpsc::channel();
    thread::spawn(move || {
        let own_stderr = !matches!(command.stdio, Stdio::Terminal { stderr: true, .. });
        let ports = Ports { stdin: stdin_port, stdout: stdout_port, stderr: own_stderr.then_some(stderr_port) };
        let _ = sender.send(run(&command, ports, &mut Control::new(control_port), wait_for_it));
    });
    Running { stdin, stdout, stderr, control, outcome }
}

impl Running {
    fn outcome(&self) -> Outcome {
        self.outcome.recv_timeout(LONG).unwrap().unwrap()
    }

    /// What it wrote, once it has written this.
    fn wait_for(&mut self, text: &str) -> String {
        let (mut said, mut byte) = (Vec::new(), [0]);
        while !said.ends_with(text.as_bytes()) {
            assert_eq!(
                self.stdout.read(&mut byte).unwrap(),
                1,
                "{:?} ends without {text:?}",
                String::from_utf8_lossy(&said)
            );
            said.push(byte[0]);
        }
        String::from_utf8(said).unwrap()
    }

    fn order(&mut self, order: &ToGuest) {
        self.control.write_all(&encode_frame(order).unwrap()).unwrap();
    }
}

fn outcome(command: Command) -> Outcome {
    start(command).outcome()
}

fn text(stream: &mut UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn statuses_are_told_exactly() {
    for status in [0, 3, 255] {
        assert_eq!(outcome(shell(&format!("exit {status}"))), Outcome::Ended(Ended::Exited(status)));
    }
    assert_eq!(outcome(shell("kill -KILL $$")), Outcome::Ended(Ended::Killed(9)));
    assert_eq!(outcome(shell("kill -TERM $$")), Outcome::Ended(Ended::Killed(15)));
}

#[test]
fn a_command_that_cannot_start_tells_why() {
    let not_started = |errno: Errno| Outcome::NotStarted { errno: errno.raw_os_error() };
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "exit 0").unwrap();
    assert_eq!(outcome(command(&["there-is-no-such-program"])), not_started(Errno::NOENT));
    assert_eq!(outcome(command(&["/nowhere/program"])), not_started(Errno::NOENT));
    assert_eq!(outcome(command(&[plain.to_str().unwrap()])), not_started(Errno::ACCESS));
    assert_eq!(outcome(command(&["/etc"])), not_started(Errno::ACCESS));
}

#[test]
fn a_script_without_an_interpreter_is_run_by_the_shell_and_found_along_its_own_path() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("vincs-test-script");
    std::fs::write(&script, "exit 7\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("PATH={}:/usr/bin:/bin", folder.path().display()).into_bytes();
    let found = Command { env: vec![path], ..command(&["vincs-test-script"]) };
    assert_eq!(outcome(found), Outcome::Ended(Ended::Exited(7)));
}

#[test]
fn what_is_no_command_is_an_error_in_one_line() {
    let failed = |command| start(command).outcome.recv_timeout(LONG).unwrap().unwrap_err().to_string();
    let message = failed(Command { cwd: b"/nowhere".to_vec(), ..shell("true") });
    assert!(message.contains("/nowhere") && message.contains("--share"), "{message}");
    assert!(failed(command(&[])).contains("without a name"));
    assert!(failed(command(&["a\0b"])).contains("start"));
}

#[test]
fn environment_directory_mask_and_session_are_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let cwd = folder.path().canonicalize().unwrap();
    let script = "echo $GREETING; env | wc -l; pwd; umask; cut -d' ' -f1,5,6 /proc/$$/stat";
    let mut running = start(Command { cwd: cwd.to_str().unwrap().into(), ..shell(script) });
    assert_eq!(running.outcome(), Outcome::Ended(Ended::Exited(0)));
    let said = text(&mut running.stdout);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!((lines[0], lines[2], lines[3]), ("hello there", cwd.to_str().unwrap(), "0027"));
    // The shell adds PWD and _, and nothing else may be there.
    assert!(lines[1].trim().parse::<u32>().unwrap() <= 5, "{said}");
    let numbers: BTreeSet<_> = lines[4].split(' ').collect();
    assert_eq!(numbers.len(), 1, "process, group and session have one number: {said}");
}

#[test]
fn output_and_errors_stay_apart() {
    let mut running = start(shell("echo out; echo err >&2; echo out2 > /dev/stdout"));
    assert_eq!(running.outcome(), Outcome::Ended(Ended::Exited(0)));
    assert_eq!((text(&mut running.stdout), text(&mut running.stderr)), ("out\nout2\n".into(), "err\n".into()));
}

#[test]
fn ten_megabytes_pass_unchanged() {
    let running = start(command(&["cat"]));
    let bytes: Vec<u8> = (0..2_500_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let (mut stdin, sent) = (running.stdin.try_clone().unwrap(), bytes.clone());
    let writer = thread::spawn(move || {
        stdin.write_all(&sent).unwrap();
        stdin.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    (&running.stdout).read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert_eq!(running.outcome(), Outcome::Ended(Ended::Exited(0)));
    assert!(received == bytes);
}

#[test]
fn a_command_that_does_not_read_does_not_block_its_end() {
    let mut running = start(shell("exec <&-; echo closed; sleep 0.1; exit 4"));
    running.stdin.set_write_timeout(Some(LONG)).unwrap();
    running.wait_for("closed\n");
    while running.stdin.write_all(&[0; 65536]).is_ok() {}
    assert_eq!(running.outcome(), Outcome::Ended(Ended::Exited(4)));
}

#[test]
fn a_host_that_stops_reading_ends_the_command_with_sigpipe() {
    let mut running = start(command(&["yes"]));
    running.wait_for("y\n");
    running.stdout.shutdown(Shutdown::Both).unwrap();
    assert_eq!(running.outcome(), Outcome::Ended(Ended::Killed(Signal::PIPE.as_raw())));
}

#[test]
fn a_slow_host_gets_all_of_it_after_the_end() {
    let running = start(shell("head -c 300000 /dev/zero"));
    thread::sleep(Duration::from_millis(200));
    let mut received = Vec::new();
    (&running.stdout).read_to_end(&mut received).unwrap();
    assert_eq!((received.len(), running.outcome()), (300_000, Outcome::Ended(Ended::Exited(0))));
}

#[test]
fn background_processes_that_hold_the_streams_are_not_waited_for() {
    let started = Instant::now();
    let mut running = start(shell("sleep 1000 & echo $!; exit 5"));
    assert_eq!(running.outcome(), Outcome::Ended(Ended::Exited(5)));
    assert!(started.elapsed() < LONG);
    let background = text(&mut running.stdout).trim().parse().unwrap();
    rustix::process::kill_process(Pid::from_raw(background).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_background_process_that_writes_forever_does_not_keep_the_machine() {
    let mut running = start(shell("yes & echo $! >&2; sleep 0.2; exit 6"));
    let mut stdout = running.stdout.try_clone().unwrap();
    let reader = thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()).unwrap());
    assert_eq!(running.outcome(), Outcome::Ended(Ended::Exited(6)));
    assert!(reader.join().unwrap() > 0);
    let background = text(&mut running.stderr).trim().parse().unwrap();
    // SIGPIPE may have ended it already.
    let _ = rustix::process::kill_process(Pid::from_raw(background).unwrap(), Signal::KILL);
}

#[test]
fn signals_reach_the_whole_group() {
    let mut running = start(shell("trap 'echo caught; exit 8' USR1; (sleep 1000; echo survived) & echo ready; wait"));
    running.wait_for("ready\n");
    running.order(&ToGuest::Signal(Signal::USR1.as_raw()));
    running.wait_for("caught\n");
    assert_eq!(running.outcome(), Outcome::Ended(Ended::Exited(8)));

    let mut running = start(shell("echo ready; sleep 1000"));
    running.wait_for("ready\n");
    running.order(&ToGuest::Signal(4711));
    running.order(&ToGuest::Resize(WindowSize::default()));
    running.order(&ToGuest::Signal(Signal::TERM.as_raw()));
    assert_eq!(running.outcome(), Outcome::Ended(Ended::Killed(15)));
}

#[test]
fn a_terminal_has_the_size_it_was_given_and_is_the_controlling_one() {
    let mut running = start(terminal("stty size; test -t 0 -a -t 1 -a -t 2 && echo all; echo tty > /dev/tty", true));
    assert_eq!(running.outcome(), Outcome::Ended(Ended::Exited(0)));
    assert_eq!(text(&mut running.stdout), "33 101\r\nall\r\ntty\r\n");
}

#[test]
fn stderr_can_be_apart_from_the_terminal() {
    let mut running = start(terminal("echo out; echo err >&2", false));
    assert_eq!(running.outcome(), Outcome::Ended(Ended::Exited(0)));
    assert_eq!((text(&mut running.stdout), text(&mut running.stderr)), ("out\r\n".into(), "err\n".into()));
}

#[test]
fn a_new_size_is_told_to_the_foreground() {
    let mut running = start(terminal("trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done", true));
    running.wait_for("ready\r\n");
    running.order(&ToGuest::Resize(WindowSize { rows: 50, columns: 132 }));
    running.wait_for("50 132\r\n");
    assert_eq!(running.outcome(), Outcome::Ended(Ended::Exited(0)));
}

#[test]
fn a_terminals_keys_and_signals_reach_its_foreground_group() {
    // With job control, the command has a group of its own, is in the foreground before it says a word, and the shell goes on after it.
    let script = "trap : INT; set -m; sh -c 'echo ready; exec sleep 1000'; echo $?";
    let mut by_key = start(terminal(script, true));
    by_key.wait_for("ready\r\n");
    by_key.stdin.write_all(b"\x03").unwrap();
    by_key.wait_for("130\r\n");
    assert_eq!(by_key.outcome(), Outcome::Ended(Ended::Exited(0)));

    let mut by_order = start(terminal(script, true));
    by_order.wait_for("ready\r\n");
    by_order.order(&ToGuest::Signal(Signal::TERM.as_raw()));
    by_order.wait_for("143\r\n");
    assert_eq!(by_order.outcome(), Outcome::Ended(Ended::Exited(0)));
}
