//! One output stream of the command, from the node's port to where it belongs.
//!
//! A port has no end of file: the node writes an end mark, random for each run, behind the last byte. Nothing ever follows it.

use std::io::{self, Read, Write};

/// Length of an end mark in bytes: 128 random bits in hexadecimal, so no output holds it by chance.
pub(crate) const END_MARK_LEN: usize = 32;

/// Bytes taken from a port at once.
const CHUNK: usize = 64 << 10;

/// Where a stream of the command goes.
#[derive(Default)]
pub enum Sink {
    /// Into [`Output`](crate::Output).
    #[default]
    Keep,
    /// Straight to a writer, flushed after each piece.
    Write(Box<dyn Write + Send>),
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Keep => "Keep",
            Self::Write(_) => "Write(..)",
        })
    }
}

/// How a stream ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The end mark came: every byte is there.
    pub(crate) whole: bool,
    /// The bytes, when they were to be kept.
    pub(crate) kept: Vec<u8>,
    /// Why the writer took no more.
    pub(crate) error: Option<io::Error>,
}

/// Copies `port` to `sink` up to the end mark or the end of the node.
pub(crate) fn pump(mut port: impl Read, sink: Sink, mark: &[u8; END_MARK_LEN]) -> Ended {
    let mut kept = Vec::new();
    let (whole, error) = match sink {
        Sink::Keep => copy(&mut port, &mut kept, mark),
        Sink::Write(mut writer) => copy(&mut port, &mut writer, mark),
    };
    Ended { whole, kept, error }
}

fn copy(port: &mut impl Read, sink: &mut impl Write, mark: &[u8; END_MARK_LEN]) -> (bool, Option<io::Error>) {
    let mut chunk = vec![0; CHUNK];
    // What may yet turn out to be the mark's beginning is held back, and nothing else.
    let mut held = Vec::new();
    loop {
        let got = match port.read(&mut chunk) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A killed QEMU resets the connection: the same as its end.
            Err(_) => 0,
        };
        if got == 0 {
            let error = sink.write_all(&held).and_then(|()| sink.flush()).err();
            return (false, error);
        }
        held.extend_from_slice(&chunk[..got]);
        let tail = mark_len_at_end(&held, mark);
        let body = held.len() - tail;
        if body > 0
            && let Err(error) = sink.write_all(&held[..body]).and_then(|()| sink.flush())
        {
            return (false, Some(error));
        }
        if tail == END_MARK_LEN {
            return (true, None);
        }
        held.drain(..body);
    }
}

/// Length of the longest end of `bytes` that is a beginning of the mark.
fn mark_len_at_end(bytes: &[u8], mark: &[u8; END_MARK_LEN]) -> usize {
    (1..=END_MARK_LEN).rev().find(|&len| bytes.ends_with(&mark[..len])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &[u8; END_MARK_LEN] = b"0123456789abcdef0123456789abcdef";

    /// Gives its pieces one by one.
    struct Pieces(Vec<Vec<u8>>);

    impl Read for Pieces {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let piece = self.0.remove(0);
            buf[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    fn run(pieces: &[&[u8]]) -> Ended {
        pump(Pieces(pieces.iter().map(|p| p.to_vec()).collect()), Sink::Keep, MARK)
    }

    #[test]
    fn the_mark_ends_the_stream_and_is_no_part_of_it() {
        let ended = run(&[b"hello\n\0\xff", MARK]);
        assert!(ended.whole);
        assert_eq!(ended.kept, b"hello\n\0\xff");
    }

    #[test]
    fn the_mark_may_come_in_any_two_pieces() {
        let stream = [b"xy".as_slice(), MARK].concat();
        for cut in 1..stream.len() {
            let ended = run(&[&stream[..cut], &stream[cut..]]);
            assert!(ended.whole, "cut at {cut}");
            assert_eq!(ended.kept, b"xy", "cut at {cut}");
        }
    }

    #[test]
    fn beginnings_of_the_mark_are_output() {
        let ended = run(&[b"a0123", b"4567", b"89abcdef0123456789abcde", b"x", b"0", MARK]);
        assert!(ended.whole);
        assert_eq!(ended.kept, b"a0123456789abcdef0123456789abcdex0");
    }

    #[test]
    fn a_lost_node_is_told_from_a_whole_stream_and_loses_no_byte() {
        let ended = run(&[b"part 0123"]);
        assert!(!ended.whole);
        assert_eq!(ended.kept, b"part 0123");
    }

    #[test]
    fn a_closed_writer_is_reported() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let ended = pump(&b"x"[..], Sink::Write(Box::new(Closed)), MARK);
        assert_eq!(ended.error.map(|e| e.kind()), Some(io::ErrorKind::BrokenPipe));
    }
}
