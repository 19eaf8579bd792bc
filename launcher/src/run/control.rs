//! The control port: frames to and from the guest's first program.

use std::cell::Cell;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::SyncSender;

use rustix::net::{SendFlags, send};
use vincs_guest_protocol::{FrameReader, FromGuest, ToGuest, encode_frame};

use crate::run::supervision::Event;

/// Bytes read from the port at once; frames are short.
const READ_SIZE: usize = 4096;

/// vincs's side of the control port.
#[derive(Debug)]
pub(crate) struct Control {
    stream: UnixStream,
    /// A frame was sent in part: whatever follows, the guest would read as the rest of it.
    cut: Cell<bool>,
}

/// Why a message did not get to the control port.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error(transparent)]
    Frame(#[from] vincs_guest_protocol::FrameError),
    #[error("the guest does not read its control port: {0}")]
    Port(#[from] rustix::io::Errno),
    #[error("the guest does not read its control port: a frame was cut")]
    Cut,
}

impl Control {
    /// A pair of vincs's side and the device's; frames that arrive become events.
    ///
    /// # Errors
    /// When the sockets or the thread cannot be created.
    pub(crate) fn connect(events: SyncSender<Event>) -> io::Result<(Self, OwnedFd)> {
        let (stream, device) = UnixStream::pair()?;
        let incoming = stream.try_clone()?;
        std::thread::Builder::new().name("control".into()).spawn(move || receive(incoming, &events))?;
        Ok((Self { stream, cut: Cell::new(false) }, device.into()))
    }

    /// Sends a message, without waiting for a guest that does not read. After a frame that was cut nothing more is sent.
    ///
    /// # Errors
    /// [`SendError`] when it was not sent.
    pub(crate) fn send(&self, message: &ToGuest) -> Result<(), SendError> {
        if self.cut.get() {
            return Err(SendError::Cut);
        }
        self.send_frame(&encode_frame(message)?)
    }

    fn send_frame(&self, frame: &[u8]) -> Result<(), SendError> {
        let sent = send(&self.stream, frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        self.cut.set(sent != frame.len());
        if self.cut.get() { Err(SendError::Cut) } else { Ok(()) }
    }
}

/// Until the device closes its side; the machine's end says why it did.
fn receive(mut incoming: impl Read, events: &SyncSender<Event>) {
    let mut reader = FrameReader::default();
    let mut bytes = [0; READ_SIZE];
    loop {
        match reader.next_message::<FromGuest>() {
            Ok(Some(message)) => {
                if events.send(Event::Guest(message)).is_err() {
                    return;
                }
                continue;
            }
            Ok(None) => {}
            Err(error) => {
                // Nobody to tell means that the run is over.
                let _ = events.send(Event::ControlLost(error.to_string()));
                return;
            }
        }
        match incoming.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => reader.push(bytes.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let _ = events.send(Event::ControlLost(error.to_string()));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::mpsc::sync_channel;

    #[test]
    fn frames_cross_both_ways() {
        let (events, arrived) = sync_channel(8);
        let (control, device) = Control::connect(events).unwrap();
        let mut device = UnixStream::from(device);
        device.write_all(&encode_frame(&FromGuest::Starting).unwrap()).unwrap();
        assert_eq!(arrived.recv().unwrap(), Event::Guest(FromGuest::Starting));
        control.send(&ToGuest::Signal(2)).unwrap();
        let mut frame = vec![0; encode_frame(&ToGuest::Signal(2)).unwrap().len()];
        device.read_exact(&mut frame).unwrap();
        let mut reader = FrameReader::default();
        reader.push(&frame);
        assert_eq!(reader.next_message().unwrap(), Some(ToGuest::Signal(2)));
    }

    #[test]
    fn garbage_from_the_guest_is_an_event() {
        let (events, arrived) = sync_channel(8);
        let (_control, device) = Control::connect(events).unwrap();
        UnixStream::from(device).write_all(&[0xff; 8]).unwrap();
        assert!(matches!(arrived.recv().unwrap(), Event::ControlLost(_)));
    }

    #[test]
    fn nothing_follows_a_frame_that_was_cut() {
        let (events, _arrived) = sync_channel(8);
        let (control, device) = Control::connect(events).unwrap();
        // Larger than the socket's buffer takes, which frames are not.
        assert!(matches!(control.send_frame(&vec![0; 16 << 20]), Err(SendError::Cut)));
        let mut device = UnixStream::from(device);
        device.set_nonblocking(true).unwrap();
        let read_all = |device: &mut UnixStream| device.read_to_end(&mut Vec::new()).unwrap_err().kind();
        assert_eq!(read_all(&mut device), io::ErrorKind::WouldBlock, "there is room again");
        assert!(matches!(control.send(&ToGuest::Signal(2)), Err(SendError::Cut)));
        assert_eq!(device.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_guest_that_does_not_read_never_blocks_vincs() {
        let (events, _arrived) = sync_channel(8);
        let (control, _device) = Control::connect(events).unwrap();
        let result = (0..10_000_000).find_map(|_| control.send(&ToGuest::Signal(10)).err());
        assert!(matches!(result, Some(SendError::Port(_) | SendError::Cut)), "{result:?}");
    }
}
