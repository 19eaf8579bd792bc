//! `vincs ctl` by the machine's authenticated port: as from another host, without the socket of rank 0's.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;

use serde_json::Value;

use super::join::Machine;
use super::*;

/// What a greeting of rank 0's port begins with.
const MAGIC: [u8; 8] = *b"vincs\0t\x01";

/// Most connections to a machine.
const CLIENTS: usize = 16;

/// Somebody who has the address file, and no machine's socket.
struct Afar<'a> {
    machine: &'a Machine,
    /// Where no socket is.
    nowhere: TempDir,
}

impl<'a> Afar<'a> {
    fn from(machine: &'a Machine) -> Self {
        Self { machine, nowhere: tempfile::tempdir().unwrap() }
    }

    fn ctl(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vincs"));
        command.arg("ctl").args(args).current_dir(self.machine.place.dir.path());
        command.env("XDG_RUNTIME_DIR", self.nowhere.path()).output().unwrap()
    }

    fn done(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Status 2 and one line, which names all of `named`.
    fn refused(&self, args: &[&str], named: &[&str]) {
        let output = self.ctl(args);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{args:?}: {line}");
        assert!(line.starts_with("vincs: ") && output.stdout.is_empty(), "{line}");
        for name in named {
            assert!(line.contains(name), "{name} is not in: {line}");
        }
    }
}

#[test]
fn a_machine_is_ordered_about_by_its_address_file() {
    let Some(mut machine) = Machine::start(&[]) else { return };
    let afar = Afar::from(&machine);
    let by_file = |args: &[&str]| afar.done(&[&["--address-file", "a"], args].concat());
    let status: Value = serde_json::from_str(&by_file(&["--json", "status"])).unwrap();
    assert_eq!((&status["ranks"], &status["vcpus"]), (&machine.status()["ranks"], &machine.status()["vcpus"]));
    assert!(by_file(&["status"]).contains("4 virtual processors and 128 MiB on 2 ranks over tcp"));
    assert!(by_file(&["migrate", "0", "1"]).starts_with("virtual processor 0 went from rank 0 to rank 1 in "));
    assert_eq!(by_file(&["migrate", "0", "1"]), "virtual processor 0 was on rank 1 already\n");
    by_file(&["pause"]);
    assert_eq!(machine.status()["paused"], true);
    by_file(&["resume"]);
    assert_eq!(machine.status()["paused"], false);
    assert!(by_file(&["stats"]).contains("machine.all_vcpus.entries "));
    let before = machine.status()["vcpus"].clone();
    afar.refused(&["--address-file", "a", "migrate", "9", "0"], &["no vCPU 9"]);
    afar.refused(&["--address-file", "a", "remove", "0"], &["rank 0"]);
    afar.refused(&["--address-file", "a", "top"], &["a terminal"]);
    assert_eq!(machine.status()["vcpus"], before);

    let two = machine.joined(2);
    by_file(&["remove", "2"]);
    assert_eq!(two.end().status.code(), Some(0));

    // By host and port, whatever addresses the copy has.
    let card = machine.place.card();
    let port = format!("localhost:{}", card.address().port());
    machine.place.write_private("b", &card.0.to_string().replace(&card.address().to_string(), "127.0.0.1:1"));
    afar.done(&["status", "--machine", &port, "--address-file", "b"]);
    afar.refused(&["--machine", &port, "status"], &["--machine localhost", "prove nothing", "--address-file"]);
    afar.refused(&["--machine", &port, "--socket", "s", "status"], &["--machine", "--socket", "cannot be used with"]);

    let copy = fs::read_to_string(machine.place.path("a")).unwrap();
    machine.place.write_private("copy", &copy);
    by_file(&["stop"]);
    drop(afar);
    machine.ends(Vec::new());
    let afar = Afar::from(&machine);
    afar.refused(&["--address-file", "a", "status"], &["--address-file a: address file a: it is not there"]);
    let named = ["--address-file copy", "rank 0 on", "cannot connect", "see that the machine runs"];
    afar.refused(&["--address-file", "copy", "status"], &named);
}

#[test]
fn who_does_not_belong_to_the_machine_gets_a_line_and_changes_nothing() {
    let Some(machine) = Machine::start(&[]) else { return };
    let afar = Afar::from(&machine);
    let card = machine.place.card();
    let before = machine.status()["vcpus"].clone();
    let other = Secret::random().unwrap().to_hex();
    machine.place.write_private("other", &card.0.to_string().replace(&card.secret().to_hex(), &other));
    afar.refused(&["--address-file", "other", "stop"], &["--address-file other", "the other end has another secret"]);
    fs::write(machine.place.path("open"), card.0.to_string()).unwrap();
    afar.refused(&["--address-file", "open", "status"], &["others than its owner may read"]);

    // A rank 0 of another version, as far as its greeting goes.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    machine.place.write_private("newer", &card.0.to_string().replace(&card.address().to_string(), &address));
    let newer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut theirs = [0; 48];
        stream.read_exact(&mut theirs).unwrap();
        stream.write_all(&[&MAGIC[..], &99_u32.to_le_bytes(), &[0; 36]].concat()).unwrap();
    });
    afar.refused(&["--address-file", "newer", "status"], &["version 99", "use the same vincs everywhere"]);
    newer.join().unwrap();

    // Lines of another version, and what is no line: over a connection that has come so far.
    let says = |line: &[u8]| {
        let mut stream = introduce_controls(&card);
        stream.write_all(line).unwrap();
        let mut answer = String::new();
        // A connection that is closed before all has been read ends with an error.
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    };
    assert!(says(b"{\"version\":3,\"do\":\"stop\"}\n").contains("version 2 of the control protocol, not 3"));
    assert!(says(b"nonsense\n").starts_with("{\"refused\":\"a line that makes no sense"));
    assert!(says(&[&[b'x'; 4096][..], b"\n"].concat()).contains("more than 4096 bytes"));
    assert_eq!(machine.status()["vcpus"], before);
    machine.stop(Vec::new());
}

#[test]
fn connections_from_afar_count_as_those_to_the_socket_do() {
    let Some(machine) = Machine::start(&[]) else { return };
    let afar = Afar::from(&machine);
    let card = machine.place.card();
    let sockets = machine.place.dir.path().join("vincs");
    let socket = fs::read_dir(sockets).unwrap().next().unwrap().unwrap().path();
    let mut held: Vec<Box<dyn Read>> = Vec::new();
    let by_file = || afar.ctl(&["--address-file", "a", "status"]);
    let by_socket = || machine.ctl(&["status"]);
    for ask in [&by_file as &dyn Fn() -> Output, &by_socket] {
        let full = (0..10 * CLIENTS).find_map(|number| {
            if number.is_multiple_of(2) {
                held.push(Box::new(UnixStream::connect(&socket).unwrap()));
            } else {
                held.push(Box::new(introduce_controls(&card)));
            }
            let output = ask();
            (!output.status.success()).then_some(output)
        });
        let line = String::from_utf8(full.unwrap().stderr).unwrap();
        assert!(line.contains("16 connections to the machine are open already"), "{line}");
    }
    drop(held);
    assert!((0..200).any(|_| by_file().status.success()));
    machine.stop(Vec::new());
}

/// A connection on which lines of `vincs ctl` may follow.
fn introduce_controls(card: &Card) -> TcpStream {
    let who = u32::MAX - 1;
    introduce(card, 1, who, who, "0").into_stream().unwrap()
}
