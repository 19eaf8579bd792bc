//! Carries one stream's bytes from one file to another, neither of which may block.

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Bytes carried at once: as many as a pipe holds, because each write to a port stops the virtual machine.
const BUFFER_SIZE: usize = 64 * 1024;

/// One direction of a stream. Both ends are closed as soon as nothing can follow: the end of what is read, or nobody who
/// takes what is written.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Where from and where to, until it is finished.
    ends: Option<(OwnedFd, OwnedFd)>,
    buffer: Box<[u8]>,
    /// The part of the buffer that is yet to be written.
    start: usize,
    end: usize,
    /// How many more bytes may be read.
    left: Option<usize>,
    /// Nothing more will be read.
    ended: bool,
}

impl Relay {
    /// A relay between two files that do not block.
    pub(crate) fn new(from: OwnedFd, to: OwnedFd) -> Self {
        let buffer = vec![0; BUFFER_SIZE].into_boxed_slice();
        Self { ends: Some((from, to)), buffer, start: 0, end: 0, left: None, ended: false }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.ends.is_none()
    }

    /// From now on, read only what is there already, and at most `bytes`: others may write to it forever.
    pub(crate) fn drain(&mut self, bytes: usize) {
        self.left = Some(bytes);
    }

    /// What to wait for before the next turn.
    pub(crate) fn interests(&self) -> impl Iterator<Item = PollFd<'_>> {
        let empty = self.start == self.end;
        self.ends.iter().flat_map(move |(from, to)| {
            let reading = (empty && !self.ended).then(|| PollFd::new(from, PollFlags::IN));
            // Also when there is nothing to write: a reader that went away is reported with any interest.
            let writing = PollFd::new(to, if empty { PollFlags::empty() } else { PollFlags::OUT });
            reading.into_iter().chain([writing])
        })
    }

    /// Carries what can be carried now. `reports` is what came of the interests, in their order.
    pub(crate) fn turn(&mut self, reports: &[PollFlags]) {
        let gone = reports.last().is_some_and(|to| to.intersects(PollFlags::HUP | PollFlags::ERR));
        if gone || self.carry().is_err() || (self.ended && self.start == self.end) {
            self.ends = None;
        }
    }

    fn carry(&mut self) -> Result<(), Errno> {
        let Some((from, to)) = &self.ends else { return Ok(()) };
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            while !self.ended && self.end < self.buffer.len() {
                let room = self.left.unwrap_or(usize::MAX).min(self.buffer.len() - self.end);
                let free = self.buffer.get_mut(self.end..self.end + room).unwrap_or_default();
                match rustix::io::read(from, free) {
                    Ok(0) => self.ended = true,
                    Ok(length) => {
                        self.end += length;
                        self.left = self.left.map(|left| left - length);
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => {
                        self.ended = self.left.is_some();
                        break;
                    }
                    // A terminal that nobody has open any more says so with EIO.
                    Err(_) => self.ended = true,
                }
            }
        }
        while self.start < self.end {
            match rustix::io::write(to, self.buffer.get(self.start..self.end).unwrap_or_default()) {
                Ok(written) => self.start += written,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap()
    }

    fn turn(relay: &mut Relay) {
        let reports: Vec<_> = {
            let mut fds: Vec<_> = relay.interests().collect();
            rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap();
            fds.iter().map(PollFd::revents).collect()
        };
        relay.turn(&reports);
    }

    #[test]
    fn bytes_wait_for_a_slow_reader_and_none_is_lost() {
        let ((read, write), (port, mut host)) = (pipe(), UnixStream::pair().unwrap());
        port.set_nonblocking(true).unwrap();
        host.set_nonblocking(true).unwrap();
        let mut relay = Relay::new(read, port.into());
        let (mut sent, mut received, mut write) = (0u32, Vec::new(), Some(write));
        while !relay.is_finished() {
            while sent < 500_000 && write.as_ref().is_some_and(|to| rustix::io::write(to, &sent.to_le_bytes()).is_ok())
            {
                sent += 1;
            }
            if sent == 500_000 {
                write = None;
            }
            turn(&mut relay);
            let mut some = [0; 30_000];
            let length = host.read(&mut some).unwrap_or(0);
            received.extend_from_slice(&some[..length]);
        }
        let _ = host.set_nonblocking(false);
        host.read_to_end(&mut received).unwrap();
        assert!(received == (0..500_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    }

    #[test]
    fn a_reader_that_is_gone_ends_it_at_once() {
        let ((read, write), (port, host)) = (pipe(), UnixStream::pair().unwrap());
        let mut relay = Relay::new(read, port.into());
        turn(&mut relay);
        assert!(!relay.is_finished());
        drop(host);
        turn(&mut relay);
        assert!(relay.is_finished());
        assert_eq!(rustix::io::write(&write, b"x"), Err(Errno::PIPE));
    }

    #[test]
    fn draining_takes_what_is_there_and_does_not_wait_for_writers() {
        let ((read, write), (port, mut host)) = (pipe(), UnixStream::pair().unwrap());
        let mut relay = Relay::new(read, port.into());
        rustix::io::write(&write, b"the rest").unwrap();
        relay.drain(1000);
        turn(&mut relay);
        assert!(relay.is_finished());
        let mut received = String::new();
        host.read_to_string(&mut received).unwrap();
        assert_eq!(received, "the rest");
    }

    #[test]
    fn draining_ends_at_its_limit() {
        for limit in [3, 4] {
            let ((read, write), (port, mut host)) = (pipe(), UnixStream::pair().unwrap());
            let mut relay = Relay::new(read, port.into());
            std::fs::File::from(write).write_all(b"1234").unwrap();
            relay.drain(limit);
            turn(&mut relay);
            assert!(relay.is_finished());
            let mut received = Vec::new();
            host.read_to_end(&mut received).unwrap();
            assert_eq!(received, b"1234"[..limit]);
        }
    }
}
