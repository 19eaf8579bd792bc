//! Commands on other nodes of a run: `on HOST CMD…` does there what `ssh HOST CMD…` does on a cluster, with nothing to set up and nobody to ask for
//! a key, as the network leads nowhere else.
//!
//! One connection for each command. Both sides send frames: a byte for the kind, the length in four bytes (little-endian), the bytes. First the client
//! sends the command, then its standard input, each piece when the one before it was taken, an empty frame at its end; the server sends both outputs,
//! and the status last. Who loses the connection before that has lost the other: the client says so, the server hangs the command up, also one that
//! leaves its input unread: no bytes wait in the connection that its end would be behind.

mod client;
mod server;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};

use crate::hosts::control_name;

pub use client::{OnError, await_hosts, on};
pub use server::serve;

/// The port that nodes serve on: rsh's own ("shell", RFC 1700).
pub const PORT: u16 = 514;

/// Most bytes of a frame, and so of a command.
const MAX_FRAME: usize = 1 << 20;

/// Bytes taken from a stream at once.
const CHUNK: usize = 64 << 10;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A command for `/bin/sh`.
    Command = 1,
    /// Standard input; empty at its end.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The exit status, one byte.
    Status,
    /// The last piece of standard input was taken, or is not wanted: empty.
    Taken,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Command, Self::Stdin, Self::Stdout, Self::Stderr, Self::Status, Self::Taken]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Where this node serves: its address on the network for commands.
///
/// # Errors
/// This machine has no such address, as it is no emulated node with others beside it.
pub fn control_address() -> io::Result<SocketAddr> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = control_name(&host);
    let missing =
        || io::Error::new(io::ErrorKind::AddrNotAvailable, format!("{name} is no address of an emulated node"));
    let addresses = (name.as_str(), PORT).to_socket_addrs();
    addresses.ok().and_then(|mut addresses| addresses.next()).ok_or_else(missing)
}

/// Writes a frame, whole.
fn write_frame(stream: &mut impl Write, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    let len =
        u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= MAX_FRAME).ok_or(io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&[kind as u8], len.to_le_bytes().as_slice(), bytes].concat())
}

/// Reads a frame. A stream that ends before it is whole, or holds something else, is an error.
fn read_frame(stream: &mut impl Read) -> io::Result<(Kind, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let [kind, len @ ..] = head;
    let len = usize::try_from(u32::from_le_bytes(len)).unwrap_or(usize::MAX);
    let kind = Kind::of(kind).filter(|_| len <= MAX_FRAME).ok_or(io::ErrorKind::InvalidData)?;
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes)?;
    Ok((kind, bytes))
}

/// Calls `take` with what a stream gives, until its end or until `take` refuses. One that cannot be read has ended.
fn pieces(mut stream: impl Read, mut take: impl FnMut(&[u8]) -> bool) {
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(got) if !take(&chunk[..got]) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    /// A server on this machine.
    fn server() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || serve(&listener));
        address
    }

    /// A command's status and outputs.
    fn run(command: &str, input: &'static [u8]) -> (u8, Vec<u8>, Vec<u8>) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let stream = TcpStream::connect(server()).unwrap();
        let status = client::follow(stream, command.as_ref(), input, &mut out, &mut err).unwrap();
        (status, out, err)
    }

    #[test]
    fn streams_and_the_status_come_through() {
        assert_eq!(run("cat; echo apart >&2; exit 3", b"in\0\xff"), (3, b"in\0\xff".to_vec(), b"apart\n".to_vec()));
        assert_eq!(run("kill -9 $$", b"").0, 128 + 9);
        assert_eq!(run("exec no-such-program", b"").0, 127);
    }

    #[test]
    fn much_output_arrives_whole_and_input_may_be_left_unread() {
        let (status, out, _) = run("exec </dev/null; head -c 3000000 /dev/zero", &[1; 1 << 20]);
        assert_eq!((status, out.len()), (0, 3_000_000));
    }

    /// A command that says when it is hung up, after what this does to its connection.
    fn hung_up_after(what: impl FnOnce(TcpStream)) {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("hung-up");
        let mut stream = TcpStream::connect(server()).unwrap();
        let command = format!("trap 'echo >{}; exit' HUP; echo ready; while :; do sleep 0.02; done", mark.display());
        write_frame(&mut stream, Kind::Command, command.as_bytes()).unwrap();
        assert_eq!(read_frame(&mut stream).unwrap(), (Kind::Stdout, b"ready\n".to_vec()));
        what(stream);
        let limit = Instant::now() + Duration::from_secs(20);
        while !mark.exists() {
            assert!(Instant::now() < limit, "the command goes on");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_command_whose_client_is_gone_is_hung_up() {
        hung_up_after(drop);
    }

    #[test]
    fn a_command_that_leaves_its_input_unread_is_hung_up_too() {
        // Far more than a pipe holds.
        hung_up_after(|mut stream| write_frame(&mut stream, Kind::Stdin, &[1; MAX_FRAME]).unwrap());
    }

    #[test]
    fn input_waits_for_a_command_that_reads_late_and_comes_whole() {
        let (status, out, _) = run("sleep 0.3; wc -c", &[1; 1 << 20]);
        assert_eq!((status, String::from_utf8_lossy(&out).trim()), (0, "1048576"));
    }

    #[test]
    fn an_output_that_is_closed_here_is_no_lost_node() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let follow = |address: SocketAddr| {
            let stream = TcpStream::connect(address).unwrap();
            client::follow(stream, "echo; sleep 1000".as_ref(), io::empty(), &mut Closed, &mut Closed).unwrap_err()
        };
        let broken = follow(server());
        assert!(
            matches!(&broken, client::Broken::Output(error) if error.kind() == io::ErrorKind::BrokenPipe),
            "{broken:?}"
        );
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let gone = listener.local_addr().unwrap();
        let leaves = thread::spawn(move || drop(listener.accept()));
        let lost = follow(gone);
        assert!(matches!(lost, client::Broken::Connection(_)), "{lost:?}");
        leaves.join().unwrap();
    }

    #[test]
    fn frames_are_bounded() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, Kind::Stdin, &vec![1; MAX_FRAME]).unwrap();
        assert_eq!(read_frame(&mut bytes.as_slice()).unwrap().1.len(), MAX_FRAME);
        assert!(write_frame(&mut bytes, Kind::Stdin, &vec![1; MAX_FRAME + 1]).is_err());
        for wrong in [&[9, 0, 0, 0, 0][..], &[2, 0xff, 0xff, 0xff, 0xff], &[2, 1, 0, 0, 0], &[2]] {
            assert!(read_frame(&mut &wrong[..]).is_err(), "{wrong:?}");
        }
    }
}
