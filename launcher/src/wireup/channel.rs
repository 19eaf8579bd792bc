//! Messages on an authenticated connection.

use std::net::SocketAddr;
use std::time::Instant;

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
}

/// A connection between rank 0 and another rank.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: Authenticated,
}

impl Channel {
    pub(crate) fn new(stream: Authenticated) -> Self {
        Self { stream }
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
        let bytes = postcard::to_allocvec(message).map_err(|_| ChannelError::Garbage)?;
        if bytes.len() > MAX_MESSAGE {
            return Err(FrameError::TooLong { length: bytes.len(), max: MAX_MESSAGE }.into());
        }
        Ok(self.stream.write_frame(&bytes, deadline)?)
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
