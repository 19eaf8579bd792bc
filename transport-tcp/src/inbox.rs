//! What has been received from one peer and not been handed out yet: one buffer, used again and again.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::frame::{Frame, FrameFault, MAX_FRAME, Parsed, parse};

/// Size of the buffer in bytes until a longer frame comes: many small ones are taken by one system call and still fit in a processor's
/// second-level cache.
const BUFFER_BYTES: usize = 256 << 10;

const _: () = assert!(BUFFER_BYTES <= MAX_FRAME);

/// What a receive has brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Received {
    /// Bytes.
    Some,
    /// None for now.
    Nothing,
    /// No more will come.
    End,
}

/// Received bytes of one connection. `buffer[start..end]` are the ones not handed out.
#[derive(Debug)]
pub(crate) struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Length of the frame that is at the start, as far as it is known.
    needed: usize,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES], start: 0, end: 0, needed: 0 }
    }

    /// Whether part of a frame is waiting for the rest.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Makes room for the whole frame that has begun, by moving its beginning to the front: at most one move for a full buffer.
    fn make_room(&mut self) {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        } else if self.start + self.needed > self.buffer.len() || self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.needed > self.buffer.len() {
            // Once per connection: every frame fits then.
            self.buffer.resize(MAX_FRAME, 0);
        }
    }

    /// Takes what the socket has, as far as there is room. Frames that are there already are to be handed out before.
    pub(crate) fn receive(&mut self, socket: impl AsFd) -> Result<Received, Errno> {
        self.make_room();
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        match recv(socket, room, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Ok(Received::End),
            Ok((_, received)) => {
                self.end += received;
                Ok(Received::Some)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Received::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Gives every whole frame to `take`, in order, until it refuses one.
    pub(crate) fn hand_out<E: From<FrameFault>>(
        &mut self,
        mut take: impl FnMut(Frame<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            match parse(self.buffer.get(self.start..self.end).unwrap_or_default())? {
                Parsed::Whole(frame, used) => {
                    self.start += used;
                    take(frame)?;
                }
                Parsed::Partial(needed) => {
                    self.needed = needed;
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use vincs_coherence::transport::MAX_BODY;

    use super::*;
    use crate::frame::{Kind, prefix};

    /// Sends the frames in pieces of these sizes, cyclically, and gives the bodies that come out.
    fn through(bodies: &[Vec<u8>], pieces: &[usize]) -> Vec<Vec<u8>> {
        let (mut here, there) = UnixStream::pair().unwrap();
        let wire: Vec<u8> = bodies
            .iter()
            .flat_map(|body| [prefix(Kind::Message, 0, body.len()).unwrap().to_vec(), body.clone()].concat())
            .collect();
        let mut inbox = Inbox::new();
        let mut out = Vec::new();
        let mut rest = wire.as_slice();
        for piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            here.write_all(now).unwrap();
            while inbox.receive(&there).unwrap() == Received::Some {
                inbox
                    .hand_out(|frame| {
                        out.push(frame.body.to_vec());
                        Ok::<_, FrameFault>(())
                    })
                    .unwrap();
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        assert!(inbox.is_empty());
        drop(here);
        assert_eq!(inbox.receive(&there), Ok(Received::End));
        out
    }

    #[test]
    fn frames_longer_than_the_buffer_come_out_whole() {
        let bodies: Vec<_> = [1, MAX_BODY, 0, MAX_BODY, 5].map(|length| vec![7; length]).into();
        assert_eq!(through(&bodies, &[100_000]), bodies);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            lengths in vec((0..9_000_usize, any::<u8>()), 1..80),
            pieces in vec(1..100_000_usize, 1..10),
        ) {
            let bodies: Vec<_> = lengths.iter().map(|(length, byte)| vec![*byte; *length]).collect();
            prop_assert_eq!(through(&bodies, &pieces), bodies);
        }
    }
}
