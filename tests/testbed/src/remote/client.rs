//! The side that asks for a command.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::{Kind, PORT, pieces, read_frame, write_frame};
use crate::hosts;
use crate::node::BOOT_TIME;

/// How long a host may take to answer.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// A host that is silent for so long is asked whether it is there, and again after each [`PROBE_TIME`].
const IDLE_TIME: Duration = Duration::from_secs(20);

/// See [`IDLE_TIME`].
const PROBE_TIME: Duration = Duration::from_secs(5);

/// How often it is asked before it is taken for gone.
const PROBES: u32 = 4;

/// Why a command on another node has no status. Each message names the node.
#[derive(Debug, thiserror::Error)]
pub enum OnError {
    /// No node has this name.
    #[error("{0} is no node of this run: /etc/hosts has their names")]
    Unknown(String),
    /// The node does not answer.
    #[error("cannot reach {host}: {source}")]
    Unreachable {
        /// The node.
        host: String,
        /// What the system said of the last attempt.
        source: io::Error,
    },
    /// The connection ended before the command did.
    #[error("{host} is lost: {source}")]
    Lost {
        /// The node.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody reads the command's output any more: it is hung up.
    #[error("nobody reads the output of the command on {0} any more")]
    Unread(String),
    /// What takes the command's output fails: the command is hung up.
    #[error("the output of the command on {host} cannot be written: {source}")]
    Output {
        /// The node.
        host: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a command that runs is not followed any more.
#[derive(Debug)]
pub(super) enum Broken {
    /// Its connection has ended, or says what it may not.
    Connection(io::Error),
    /// An output of this side.
    Output(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Connection(error)
    }
}

/// Runs a command on a node with these standard streams, and returns its status; 128 + N when signal N killed it. As with ssh, the words go to a
/// shell there, with blanks between them.
///
/// # Errors
/// [`OnError`] when the node cannot be reached or goes, or an output of this side does, before the command has ended.
pub fn on(
    host: &str,
    words: &[OsString],
    stdin: impl Read + Send + 'static,
    stdout: &mut impl Write,
    stderr: &mut impl Write,
) -> Result<u8, OnError> {
    let stream = connect(host)?;
    let command = words.join(OsStr::new(" "));
    let host = || host.to_owned();
    follow(stream, &command, stdin, stdout, stderr).map_err(|broken| match broken {
        Broken::Connection(source) => OnError::Lost { host: host(), source },
        Broken::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => OnError::Unread(host()),
        Broken::Output(source) => OnError::Output { host: host(), source },
    })
}

/// Waits until so many other nodes, `node1` and on, do what they are asked to.
///
/// # Errors
/// [`OnError`] of the first that does not in [`BOOT_TIME`].
pub fn await_hosts(others: u32) -> Result<(), OnError> {
    let began = Instant::now();
    for host in (1..=others).map(hosts::name) {
        while let Err(error) = connect(&host) {
            if began.elapsed() > BOOT_TIME {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn connect(host: &str) -> Result<TcpStream, OnError> {
    let addresses: Vec<SocketAddr> =
        (hosts::control_name(host).as_str(), PORT).to_socket_addrs().into_iter().flatten().collect();
    let [address, ..] = addresses[..] else { return Err(OnError::Unknown(host.to_owned())) };
    let connected = TcpStream::connect_timeout(&address, CONNECT_TIME).and_then(|stream| {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, IDLE_TIME)?;
        sockopt::set_tcp_keepintvl(&stream, PROBE_TIME)?;
        sockopt::set_tcp_keepcnt(&stream, PROBES)?;
        Ok(stream)
    });
    connected.map_err(|source| OnError::Unreachable { host: host.to_owned(), source })
}

/// Asks for the command and passes its streams on until it has ended.
pub(super) fn follow(
    mut stream: TcpStream,
    command: &OsStr,
    stdin: impl Read + Send + 'static,
    stdout: &mut impl Write,
    stderr: &mut impl Write,
) -> Result<u8, Broken> {
    write_frame(&mut stream, Kind::Command, command.as_bytes())?;
    let mut input = stream.try_clone()?;
    let (take, taken) = mpsc::channel();
    // A command that has ended, or a host that is gone, takes no more: the other direction says so.
    thread::spawn(move || {
        pieces(stdin, |piece| write_frame(&mut input, Kind::Stdin, piece).is_ok() && taken.recv().is_ok());
        write_frame(&mut input, Kind::Stdin, &[])
    });
    loop {
        match read_frame(&mut stream)? {
            (Kind::Stdout, bytes) => put(stdout, &bytes)?,
            (Kind::Stderr, bytes) => put(stderr, &bytes)?,
            (Kind::Status, status) => return status.first().copied().ok_or_else(no_answer),
            // Its thread may have ended.
            (Kind::Taken, _) => drop(take.send(())),
            (Kind::Command | Kind::Stdin, _) => return Err(no_answer()),
        }
    }
}

/// The other side says what no server does.
fn no_answer() -> Broken {
    Broken::Connection(io::ErrorKind::InvalidData.into())
}

/// Puts a piece of output where it belongs, at once.
fn put(output: &mut impl Write, bytes: &[u8]) -> Result<(), Broken> {
    output.write_all(bytes).and_then(|()| output.flush()).map_err(Broken::Output)
}
