//! The control port: messages to vincs, orders from it.

use crate::error::{InStep, SetupError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use vincs_guest_protocol::{FrameReader, FromGuest, ToGuest, encode_frame};

/// Bytes read at once; orders are small.
const READ_SIZE: usize = 4096;

/// The control port, not blocking.
#[derive(Debug)]
pub(crate) struct Control {
    port: OwnedFd,
    reader: FrameReader,
    /// False after vincs closed it or sent what is no message: nothing more can be understood then.
    listening: bool,
}

impl Control {
    pub(crate) fn new(port: OwnedFd) -> Self {
        Self { port, reader: FrameReader::default(), listening: true }
    }

    /// The port to wait for, while there is anything to expect from it.
    pub(crate) fn listening(&self) -> Option<BorrowedFd<'_>> {
        self.listening.then(|| self.port.as_fd())
    }

    /// The orders that have arrived. Not blocking.
    pub(crate) fn receive(&mut self) -> Vec<ToGuest> {
        let mut buffer = [0; READ_SIZE];
        let mut orders = Vec::new();
        while self.listening {
            match rustix::io::read(&self.port, &mut buffer) {
                Ok(0) => self.listening = false,
                Ok(length) => self.reader.push(buffer.get(..length).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.listening = false,
            }
            loop {
                match self.reader.next_message() {
                    Ok(Some(order)) => orders.push(order),
                    Ok(None) => break,
                    Err(_) => {
                        self.listening = false;
                        break;
                    }
                }
            }
        }
        orders
    }

    /// Sends all of a message, waiting at most `time` for vincs to take it.
    pub(crate) fn send(&mut self, message: &FromGuest, time: Duration) -> Result<(), SetupError> {
        let frame = encode_frame(message)?;
        let step = || "write to the control port".to_owned();
        let deadline = Instant::now() + time;
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            match rustix::io::write(&self.port, rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait_until_writable(deadline).step(step)?,
                Err(error) => return Err(error).step(step),
            }
        }
        Ok(())
    }

    /// Waits at most `time` for orders and returns those that have arrived.
    pub(crate) fn wait(&mut self, time: Duration) -> Vec<ToGuest> {
        let orders = self.receive();
        if !orders.is_empty() || !self.listening {
            return orders;
        }
        let limit = Timespec::try_from(time).ok();
        // Whatever ended the wait, the port tells what there is.
        let _ = poll(&mut [PollFd::new(&self.port, PollFlags::IN)], limit.as_ref());
        self.receive()
    }

    fn wait_until_writable(&self, deadline: Instant) -> Result<(), Errno> {
        let time = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(&self.port, PollFlags::OUT)];
        match poll(&mut fds, Some(&Timespec::try_from(time).map_err(|_| Errno::INVAL)?)) {
            Ok(0) => Err(Errno::TIMEDOUT),
            Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
            Ok(_) if fds[0].revents().contains(PollFlags::OUT) => Ok(()),
            Ok(_) => Err(Errno::PIPE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use vincs_guest_protocol::Ended;

    fn pair() -> (Control, UnixStream) {
        let (port, host) = UnixStream::pair().unwrap();
        port.set_nonblocking(true).unwrap();
        (Control::new(port.into()), host)
    }

    #[test]
    fn orders_arrive_in_pieces_and_several_at_once() {
        let (mut control, mut host) = pair();
        let frame = encode_frame(&ToGuest::Signal(15)).unwrap();
        host.write_all(&frame[..3]).unwrap();
        assert_eq!(control.receive(), []);
        host.write_all(&[&frame[3..], &frame].concat()).unwrap();
        assert_eq!(control.receive(), [ToGuest::Signal(15), ToGuest::Signal(15)]);
    }

    #[test]
    fn what_is_no_message_ends_the_listening_and_not_the_sending() {
        let (mut control, mut host) = pair();
        host.write_all(&[0xff; 64]).unwrap();
        assert_eq!(control.receive(), []);
        assert!(control.listening().is_none());
        control.send(&FromGuest::Ended(Ended::Exited(3)), Duration::from_secs(1)).unwrap();
        let mut reader = FrameReader::default();
        let mut bytes = [0; 64];
        let length = host.read(&mut bytes).unwrap();
        reader.push(&bytes[..length]);
        assert_eq!(reader.next_message().unwrap(), Some(FromGuest::Ended(Ended::Exited(3))));
    }

    #[test]
    fn nobody_who_takes_a_message_is_an_error_after_the_time() {
        let (mut control, host) = pair();
        let long = FromGuest::SetupFailed("x".repeat(60_000));
        let failed = (0..100).find_map(|_| control.send(&long, Duration::from_millis(20)).err());
        assert!(failed.unwrap().to_string().contains("control port"));
        drop(host);
        assert!(control.send(&FromGuest::Starting, Duration::from_secs(1)).is_err());
    }
}
