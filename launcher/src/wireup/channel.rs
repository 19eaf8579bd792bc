//! Messages on an authenticated connection.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use vincs_transport_tcp::auth::{Authenticated, FrameError};

/// Longest message in bytes: an argument list may be long.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;

/// Why a message did not get through. The connection is of no use after that.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("it said something that no rank of this version says")]
    Garbage,
    #[error("it has been silent for {} s: its process or its host stands still, or its network is cut", .0.as_secs())]
    Silent(Duration),
}

/// A connection between rank 0 and another rank.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: Authenticated,
    /// Held by the one who writes.
    turn: Arc<Mutex<()>>,
}

/// The end of a channel for another thread to send by.
#[derive(Debug)]
pub(crate) struct Sender {
    stream: Authenticated,
    turn: Arc<Mutex<()>>,
}

impl Sender {
    /// Sends a message.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub(crate) fn send(&mut self, message: &impl Serialize, deadline: Instant) -> Result<(), ChannelError> {
        send(&mut self.stream, &self.turn, message, || deadline)
    }

    /// Sends a message of a few bytes that may as well be left out, within so much time from when it is this sender's turn: whether it was sent.
    ///
    /// # Errors
    /// [`ChannelError`], unless it is that there was no time.
    pub(crate) fn send_or_leave_out(&mut self, message: &impl Serialize, time: Duration) -> Result<bool, ChannelError> {
        match send(&mut self.stream, &self.turn, message, || Instant::now() + time) {
            Ok(()) => Ok(true),
            Err(ChannelError::Frame(FrameError::TimedOut)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The deadline is asked for once it is this sender's turn.
fn send(
    stream: &mut Authenticated,
    turn: &Mutex<()>,
    message: &impl Serialize,
    deadline: impl FnOnce() -> Instant,
) -> Result<(), ChannelError> {
    let bytes = postcard::to_allocvec(message).map_err(|_| ChannelError::Garbage)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(FrameError::TooLong { length: bytes.len(), max: MAX_MESSAGE }.into());
    }
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(stream.write_frame(&bytes, deadline())?)
}

impl Channel {
    pub(crate) fn new(stream: Authenticated) -> Self {
        Self { stream, turn: Arc::default() }
    }

    /// Another end to send by.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub(crate) fn sender(&self) -> io::Result<Sender> {
        Ok(Sender { stream: self.stream.try_clone()?, turn: Arc::clone(&self.turn) })
    }

    /// The connection itself, where no messages follow. Its times are to be set.
    ///
    /// # Errors
    /// The socket refuses.
    pub(crate) fn into_stream(self) -> io::Result<TcpStream> {
        self.stream.into_stream()
    }

    /// The other end's address.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.stream.peer()
    }

    /// This end's address.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        self.stream.local_address().ok()
    }

    /// Whether the other end has gone away.
    pub(crate) fn is_gone(&self) -> bool {
        self.stream.is_gone()
    }

    /// Sends a message.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub(crate) fn send(&mut self, message: &impl Serialize, deadline: Instant) -> Result<(), ChannelError> {
        send(&mut self.stream, &self.turn, message, || deadline)
    }

    /// Waits for a message. Bytes behind it are garbage.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub(crate) fn receive<T: DeserializeOwned>(&mut self, deadline: Instant) -> Result<T, ChannelError> {
        let bytes = self.stream.read_frame(MAX_MESSAGE, deadline)?;
        match postcard::take_from_bytes(&bytes) {
            Ok((message, [])) => Ok(message),
            Ok(_) | Err(_) => Err(ChannelError::Garbage),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Waits until one of these has something to receive, an end included, or the time is over: for each whether it has.
pub(crate) fn wait_for<'a>(channels: impl IntoIterator<Item = &'a Channel>, time: Duration) -> Vec<bool> {
    let poll_fd = |channel: &'a Channel| PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN);
    let mut fds: Vec<_> = channels.into_iter().map(poll_fd).collect();
    // It fails only when a signal arrives; then the next look comes sooner.
    let _: rustix::io::Result<usize> = poll(&mut fds, Timespec::try_from(time).ok().as_ref());
    fds.iter().map(|fd| !fd.revents().is_empty()).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use vincs_transport_tcp::secret::Secret;

    use super::*;
    use crate::wireup::message::{ToCoordinator, ToMember};

    /// Both ends of a connection.
    pub(crate) fn pair() -> (Channel, Channel) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, secret) = (listener.local_addr().unwrap(), Secret::random().unwrap());
        let own = secret.clone();
        let connecting = std::thread::spawn(move || Authenticated::connect(address, &own, soon()).unwrap());
        let (stream, peer) = listener.accept().unwrap();
        let accepted = Authenticated::accept(stream, peer, &secret, soon()).unwrap();
        (Channel::new(accepted), Channel::new(connecting.join().unwrap()))
    }

    pub(crate) fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn a_message_arrives_as_it_was_sent() {
        let (mut one, mut other) = pair();
        let said = ToMember::Refused { line: "no".into(), said: true };
        one.send(&said, soon()).unwrap();
        assert_eq!(other.receive::<ToMember>(soon()).unwrap(), said);
    }

    #[test]
    fn what_may_be_left_out_is_left_out_when_there_is_no_time_and_the_channel_stays() {
        let (zero, mut member) = pair();
        let mut sender = zero.sender().unwrap();
        assert!(!sender.send_or_leave_out(&ToMember::Wait, Duration::ZERO).unwrap());
        assert!(sender.send_or_leave_out(&ToMember::Wait, Duration::from_secs(20)).unwrap());
        assert_eq!(member.receive::<ToMember>(soon()).unwrap(), ToMember::Wait);
        drop(member);
        let until = soon();
        while sender.send_or_leave_out(&ToMember::Wait, Duration::from_secs(1)).is_ok() {
            assert!(Instant::now() < until, "an end that is gone is noticed");
        }
    }

    #[test]
    fn a_message_is_bounded_at_its_edge() {
        let (mut one, mut other) = pair();
        let bytes = |length| ToCoordinator::Failed("x".repeat(length));
        // One byte says which message it is, four how long the text is.
        let most = MAX_MESSAGE - 5;
        let receiving = std::thread::spawn(move || other.receive::<ToCoordinator>(soon()).unwrap());
        one.send(&bytes(most), soon()).unwrap();
        assert_eq!(receiving.join().unwrap(), bytes(most));
        assert!(matches!(one.send(&bytes(most + 1), soon()), Err(ChannelError::Frame(FrameError::TooLong { .. }))));
    }

    #[test]
    fn garbage_and_an_end_are_told_apart() {
        let (mut one, mut other) = pair();
        one.stream.write_frame(&[0xff; 8], soon()).unwrap();
        assert!(matches!(other.receive::<ToMember>(soon()), Err(ChannelError::Garbage)));
        one.send(&(ToMember::Go, 1_u8), soon()).unwrap();
        assert!(matches!(other.receive::<ToMember>(soon()), Err(ChannelError::Garbage)), "bytes behind a message");
        drop(one);
        assert!(matches!(other.receive::<ToMember>(soon()), Err(ChannelError::Frame(FrameError::Closed))));
    }
}
