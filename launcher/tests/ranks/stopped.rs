//! Ranks that are stopped (SIGSTOP) before their machine runs and when it has ended: the others end within 10 s with one line.

use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::*;

/// A way to rank 0 for one rank, which passes on what that rank says, and nothing of rank 0's from the moment on that all ranks are there.
struct Gate {
    /// Told when rank 0 wants to say something after that.
    held: Receiver<()>,
}

/// Bytes that rank 0 sends to a rank that comes before all are there: its greeting, and after the rank's proof its own.
const HANDSHAKE: [usize; 2] = [48, 32];

impl Gate {
    /// Writes the address file `b`, by which a rank comes through the gate.
    fn open(place: &Place) -> Self {
        let card = place.card();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (zero, gate) = (card.address(), listener.local_addr().unwrap());
        place.write_private("b", &card.0.to_string().replace(&zero.to_string(), &gate.to_string()));
        let (sender, held) = channel();
        thread::spawn(move || pass(&listener.accept().unwrap().0, &TcpStream::connect(zero).unwrap(), &sender));
        Self { held }
    }

    fn wait(&self) {
        self.held.recv_timeout(LONG).unwrap();
    }
}

fn pass(member: &TcpStream, zero: &TcpStream, held: &Sender<()>) {
    let (from, mut to) = (member.try_clone().unwrap(), zero.try_clone().unwrap());
    thread::spawn(move || std::io::copy(&mut &from, &mut to));
    for length in HANDSHAKE {
        let mut answer = vec![0; length];
        (&*zero).read_exact(&mut answer).unwrap();
        (&*member).write_all(&answer).unwrap();
    }
    // Read, so that rank 0 is not held up, and thrown away.
    let mut anything = [0; 1];
    while matches!((&*zero).read(&mut anything), Ok(1)) {
        // The test may be over.
        let _ = held.send(());
    }
}

/// Three ranks that are all there but not connected, as rank 2 has not heard of it.
fn three_ranks(place: &Place) -> Option<([Rank; 3], Gate)> {
    if !place.has_machine() {
        return None;
    }
    let zero = place.rank_of("3", "0", "a", PATIENT, &GOOD);
    let gate = Gate::open(place);
    let [one, two] = [("1", "a"), ("2", "b")].map(|(rank, file)| place.rank_of("3", rank, file, PATIENT, &GOOD));
    gate.wait();
    Some(([zero, one, two], gate))
}

#[test]
fn a_rank_0_that_is_stopped_once_all_are_there() {
    let place = Place::new();
    let Some(([zero, one, two], _gate)) = three_ranks(&place) else { return };
    signal(&zero, Signal::STOP);
    let start = Instant::now();
    one.refuses(&["rank 1 on", &host(), "rank 0 left the wire-up", "silent for 5 s"]);
    assert!(start.elapsed() < END_TIME, "after {:?}", start.elapsed());
    drop(two);
    // It goes on later, and finds itself alone.
    signal(&zero, Signal::CONT);
    zero.refuses(&[" left the wire-up", &host()]);
}

#[test]
fn another_rank_that_says_nothing_once_all_are_there() {
    let place = Place::new();
    let Some(([zero, one, _two], _gate)) = three_ranks(&place) else { return };
    let start = Instant::now();
    zero.refuses(&["rank 2 on", &host(), "left the wire-up", "silent for 5 s"]);
    one.ends_silently();
    assert!(start.elapsed() < END_TIME, "after {:?}", start.elapsed());
}

/// A pipe with no room left: who writes to it waits.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (out, into) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let size = rustix::pipe::fcntl_getpipe_size(&into).unwrap();
    assert_eq!(rustix::io::write(&into, &vec![b'x'; size]).unwrap(), size);
    (out, into)
}

/// The machine ends at once, as its kernel is none; rank 0 cannot say so, as nobody reads its standard error, and has the others wait. Then it is stopped.
#[test]
fn a_rank_0_that_is_stopped_between_the_end_and_its_last_word() {
    let place = Place::new();
    if !place.has_machine() {
        return;
    }
    let (_out, into) = full_pipe();
    let options = ["--ranks", "2", "--address-file", "a", "--net-if", "lo", "--stats", "stats"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_vincs-rank"));
    command.args(["--rank", "0"]).args(options).args(GOOD).current_dir(place.dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(into.as_fd().try_clone_to_owned().unwrap());
    LAUNCHERS.iter().for_each(|variable| _ = command.env_remove(variable));
    let zero = Rank(Some(command.spawn().unwrap()));
    let mut one = place.spawn(
        Path::new(env!("CARGO_BIN_EXE_vincs-rank")),
        &[&["--rank", "1"], &options[..], &GOOD].concat(),
        &[],
    );
    // Longer than rank 1 waits for a rank 0 that says nothing.
    let start = Instant::now();
    while start.elapsed() < 2 * END_TIME {
        assert!(!one.has_ended(), "{:?}", one.end());
        thread::sleep(Duration::from_millis(100));
    }
    signal(&zero, Signal::STOP);
    let start = Instant::now();
    one.ends_with(RANK_LOST, &["rank 0 on", &host(), "does not say how"]);
    assert!(start.elapsed() < END_TIME, "after {:?}", start.elapsed());
}
