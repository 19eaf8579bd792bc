//! Proof of knowing the machine's secret, both ways, before anything else on a connection is looked at.
//!
//! Four messages of fixed sizes. Each side sends a greeting (magic, version, 32 random bytes), the connecting side first;
//! then each proves that it knows the secret by an HMAC-SHA256 over its role and both greetings, again the connecting
//! side first. So whoever connects learns nothing before it has proved itself, no proof can be replayed or reflected,
//! and a stranger gets a version number and 32 random bytes at most. What follows on the connection is neither encrypted
//! nor authenticated piece by piece: the network between the ranks is trusted not to be written to.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::secret::{PROOF_BYTES, Secret, random};

/// First bytes of a greeting.
const MAGIC: [u8; 8] = *b"vincs\x00t\x01";

/// Version of everything on the wire: greetings, hellos and frames.
pub const PROTOCOL_VERSION: u32 = 3;

/// Time for whoever connects to prove itself.
pub const AUTH_TIME: Duration = Duration::from_secs(5);

/// Length of a greeting in bytes: magic, version, zeroes up to 16 bytes, a nonce.
const GREETING_BYTES: usize = 48;

const CONNECTS: &[u8] = b"vincs: the side that connects";
const ACCEPTS: &[u8] = b"vincs: the side that accepts";

/// A connection whose other end knows the secret too.
#[derive(Debug)]
pub struct Authenticated {
    stream: TcpStream,
    peer: SocketAddr,
}

/// Why a connection is of no use.
#[derive(Debug, thiserror::Error)]
#[error("{peer}: {cause}")]
pub struct AuthError {
    /// The address of the other end.
    pub peer: SocketAddr,
    /// What was wrong.
    pub cause: AuthFault,
}

/// What was wrong with a connection.
#[derive(Debug, thiserror::Error)]
pub enum AuthFault {
    /// It was not made.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// The other end does not know the secret, or knows another.
    #[error("the other end has another secret: it belongs to another machine")]
    WrongSecret,
    /// The other end speaks another version.
    #[error(
        "the other end speaks version {0} of the protocol, this is version {PROTOCOL_VERSION}: use the same vincs everywhere"
    )]
    OtherVersion(u32),
    /// The other end says something else.
    #[error("the other end is not vincs")]
    NotVincs,
    /// The other end has gone away.
    #[error("the other end closed the connection before it proved to know the secret")]
    Closed,
    /// It took too long.
    #[error("the other end did not prove in time to know the secret")]
    TimedOut,
    /// The connection or this host failed.
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
}

/// Why a frame was not read or written. The connection is of no use after that.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other end has gone away.
    #[error("the other end closed the connection")]
    Closed,
    /// It took too long.
    #[error("the other end did not answer in time")]
    TimedOut,
    /// Too long a frame.
    #[error("a frame of {length} bytes, of which at most {max} are taken")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The most in bytes.
        max: usize,
    },
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock};
        let kind = error.kind();
        if matches!(kind, TimedOut | WouldBlock) {
            Self::TimedOut
        } else if matches!(kind, UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe) {
            Self::Closed
        } else {
            Self::Io(error)
        }
    }
}

impl From<io::Error> for AuthFault {
    fn from(error: io::Error) -> Self {
        match FrameError::from(error) {
            FrameError::TimedOut => Self::TimedOut,
            FrameError::Closed | FrameError::TooLong { .. } => Self::Closed,
            FrameError::Io(error) => Self::Io(error),
        }
    }
}

/// Time left; an error when there is none.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Reads until the bytes are full: a trickle of bytes does not prolong the deadline.
fn read_all(mut stream: &TcpStream, bytes: &mut [u8], deadline: Instant) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(rest) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => rest = rest.get_mut(read..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_all(mut stream: &TcpStream, bytes: &[u8], deadline: Instant) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn greeting() -> io::Result<[u8; GREETING_BYTES]> {
    let mut bytes = [0; GREETING_BYTES];
    let (head, nonce) = bytes.split_at_mut(16);
    let (magic, rest) = head.split_at_mut(MAGIC.len());
    magic.copy_from_slice(&MAGIC);
    rest[..4].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    nonce.copy_from_slice(&random::<32>()?);
    Ok(bytes)
}

/// Reads a greeting of any version, the magic first: a stranger may say less than a greeting and wait for an answer.
fn read_greeting(stream: &TcpStream, deadline: Instant) -> Result<[u8; GREETING_BYTES], AuthFault> {
    let mut greeting = [0; GREETING_BYTES];
    let (magic, rest) = greeting.split_at_mut(MAGIC.len());
    read_all(stream, magic, deadline)?;
    if *magic != MAGIC {
        return Err(AuthFault::NotVincs);
    }
    read_all(stream, rest, deadline)?;
    Ok(greeting)
}

/// The version in a greeting, if it is one.
fn version(greeting: &[u8; GREETING_BYTES]) -> Option<u32> {
    let rest = greeting.strip_prefix(&MAGIC)?;
    rest.first_chunk().map(|version| u32::from_le_bytes(*version))
}

/// Whether a greeting is one of our version.
fn check(greeting: &[u8; GREETING_BYTES]) -> Result<(), AuthFault> {
    match version(greeting) {
        Some(PROTOCOL_VERSION) => Ok(()),
        Some(other) => Err(AuthFault::OtherVersion(other)),
        None => Err(AuthFault::NotVincs),
    }
}

/// Shakes hands as the side that has connected.
fn connected(stream: &TcpStream, secret: &Secret, deadline: Instant) -> Result<(), AuthFault> {
    stream.set_nodelay(true)?;
    let ours = greeting()?;
    write_all(stream, &ours, deadline)?;
    let theirs = read_greeting(stream, deadline)?;
    check(&theirs)?;
    write_all(stream, &secret.prove(&[CONNECTS, &ours, &theirs]), deadline)?;
    let mut proof = [0; PROOF_BYTES];
    read_all(stream, &mut proof, deadline)?;
    if secret.verify(&[ACCEPTS, &ours, &theirs], &proof) { Ok(()) } else { Err(AuthFault::WrongSecret) }
}

/// Shakes hands as the side that has been connected to.
fn accepted(stream: &TcpStream, secret: &Secret, deadline: Instant) -> Result<(), AuthFault> {
    stream.set_nodelay(true)?;
    let theirs = read_greeting(stream, deadline)?;
    let ours = greeting()?;
    // Answered to another version as well: so it can tell its user.
    write_all(stream, &ours, deadline)?;
    check(&theirs)?;
    let mut proof = [0; PROOF_BYTES];
    read_all(stream, &mut proof, deadline)?;
    if !secret.verify(&[CONNECTS, &theirs, &ours], &proof) {
        // No proof, which tells the other end that ours is another secret, as it would tell itself from any answer.
        write_all(stream, &[0; PROOF_BYTES], deadline)?;
        return Err(AuthFault::WrongSecret);
    }
    write_all(stream, &secret.prove(&[ACCEPTS, &theirs, &ours]), deadline)?;
    Ok(())
}

impl Authenticated {
    /// Shakes hands on a connection that somebody has made to this process. Usually [`AUTH_TIME`] is enough.
    ///
    /// # Errors
    /// [`AuthError`]; the connection is closed then.
    pub fn accept(stream: TcpStream, peer: SocketAddr, secret: &Secret, deadline: Instant) -> Result<Self, AuthError> {
        match accepted(&stream, secret, deadline) {
            Ok(()) => Ok(Self { stream, peer }),
            Err(cause) => Err(AuthError { peer, cause }),
        }
    }

    /// Connects and shakes hands. The other end may be slow to accept: the deadline is for all of it.
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn connect(peer: SocketAddr, secret: &Secret, deadline: Instant) -> Result<Self, AuthError> {
        let connect = || {
            let stream = TcpStream::connect_timeout(&peer, left(deadline)?).map_err(AuthFault::Connect)?;
            connected(&stream, secret, deadline)?;
            Ok(stream)
        };
        connect().map(|stream| Self { stream, peer }).map_err(|cause| AuthError { peer, cause })
    }

    /// Whether the other end has gone away, as far as this host knows. What it said before is still there to be read.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::net::recv(&self.stream, &mut [0_u8; 1], flags) {
            Ok((_, received)) => received == 0,
            Err(error) => !matches!(error, Errno::AGAIN | Errno::INTR),
        }
    }

    /// The address of the other end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The address of this end: of the interface that leads there.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// The same connection once more, for another thread to write to. Frames of two threads must not be written at the same time.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { stream: self.stream.try_clone()?, peer: self.peer })
    }

    /// Waits for a frame of at most `max` bytes.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn read_frame(&mut self, max: usize, deadline: Instant) -> Result<Vec<u8>, FrameError> {
        let mut length = [0; 4];
        read_all(&self.stream, &mut length, deadline)?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > max {
            return Err(FrameError::TooLong { length, max });
        }
        let mut bytes = vec![0; length];
        read_all(&self.stream, &mut bytes, deadline)?;
        Ok(bytes)
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn write_frame(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), FrameError> {
        let too_long = FrameError::TooLong { length: bytes.len(), max: u32::MAX as usize };
        let length = u32::try_from(bytes.len()).map_err(|_| too_long)?;
        // In one piece, so that it is one packet.
        write_all(&self.stream, &[&length.to_le_bytes(), bytes].concat(), deadline)?;
        Ok(())
    }

    /// The connection itself, which waits without limit again.
    ///
    /// # Errors
    /// The socket refuses.
    pub fn into_stream(self) -> io::Result<TcpStream> {
        self.stream.set_read_timeout(None)?;
        self.stream.set_write_timeout(None)?;
        Ok(self.stream)
    }
}

impl AsFd for Authenticated {
    /// Readable when a frame, or a part of it, has come, and when the other end has gone away.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests;
