//! What is on a connection once it is up: frames, each a prefix of eight bytes, a header and a body.
//!
//! The prefix: kind (1 byte), zero (1 byte), length of the header (2 bytes), length of the body (4 bytes), little-endian like everything here.
//! Requests of one-sided operations are answered in the order in which they were made, so an answer names no request.

use vincs_coherence::transport::{MAX_BODY, MAX_HEADER};

/// Length of a prefix in bytes.
pub(crate) const PREFIX_BYTES: usize = 8;

/// Longest frame in bytes.
pub(crate) const MAX_FRAME: usize = PREFIX_BYTES + MAX_HEADER + MAX_BODY;

/// What a frame is. The header's length is fixed for all but messages; all but messages, puts, lists of puts, and answers with bytes are without a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A sign of life.
    Alive = 1,
    /// A message of the user's.
    Message = 2,
    /// Asks for bytes of the segment; header: offset, length.
    Get = 3,
    /// Brings bytes for the segment; header: offset.
    Put = 4,
    /// Compares and swaps a word; header: offset, expected, new.
    Swap = 5,
    /// Adds to a word; header: offset, what.
    Add = 6,
    /// Answers a get or a guarded read.
    Got = 7,
    /// Answers a put.
    Done = 8,
    /// Answers a swap or add; header: the word that was there.
    Old = 9,
    /// Answers any of them: there is no such memory.
    Refused = 10,
    /// Asks for a guarded read; header: where the mark goes, the mark, where the bytes are, length.
    Guard = 11,
    /// Brings runs of bytes for the segment, a [`vincs_coherence::transport::PutList`].
    List = 12,
}

/// All of them.
pub(crate) const KINDS: [Kind; 12] = [
    Kind::Alive,
    Kind::Message,
    Kind::Get,
    Kind::Put,
    Kind::Swap,
    Kind::Add,
    Kind::Got,
    Kind::Done,
    Kind::Old,
    Kind::Refused,
    Kind::Guard,
    Kind::List,
];

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        KINDS.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// The least and most bytes of its header, and the most of its body.
    pub(crate) fn limits(self) -> (usize, usize, usize) {
        match self {
            Self::Alive | Self::Done | Self::Refused => (0, 0, 0),
            Self::Message => (0, MAX_HEADER, MAX_BODY),
            Self::Get | Self::Add => (16, 16, 0),
            Self::Put => (8, 8, MAX_BODY),
            Self::Swap => (24, 24, 0),
            Self::Got | Self::List => (0, 0, MAX_BODY),
            Self::Old => (8, 8, 0),
            Self::Guard => (32, 32, 0),
        }
    }
}

/// The prefix of a frame; nothing if the lengths are beyond the limits of its kind.
pub(crate) fn prefix(kind: Kind, header: usize, body: usize) -> Option<[u8; PREFIX_BYTES]> {
    let (least, most, most_body) = kind.limits();
    if !(least..=most).contains(&header) || body > most_body {
        return None;
    }
    let [h0, h1] = u16::try_from(header).ok()?.to_le_bytes();
    let [b0, b1, b2, b3] = u32::try_from(body).ok()?.to_le_bytes();
    Some([kind as u8, 0, h0, h1, b0, b1, b2, b3])
}

/// Bytes that no peer of this version sends.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum FrameFault {
    #[error("sent a frame of the unknown kind {0}")]
    Kind(u8),
    #[error("sent a frame with {0} where a zero belongs")]
    Reserved(u8),
    #[error("sent a frame ({kind:?}) with a header of {header} and a body of {body} bytes, which it cannot have")]
    Lengths { kind: Kind, header: usize, body: usize },
}

/// A whole frame.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: Kind,
    pub(crate) header: &'a [u8],
    pub(crate) body: &'a [u8],
}

/// What the first received bytes are.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Parsed<'a> {
    /// A frame, and how many bytes it takes.
    Whole(Frame<'a>, usize),
    /// The beginning of one; this many bytes are needed to say more.
    Partial(usize),
}

/// Looks at the first frame of what has been received. Lengths are checked before anything waits for so many bytes.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed<'_>, FrameFault> {
    let Some((&[kind, zero, h0, h1, b0, b1, b2, b3], rest)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
        return Ok(Parsed::Partial(PREFIX_BYTES));
    };
    let kind = Kind::from_byte(kind).ok_or(FrameFault::Kind(kind))?;
    if zero != 0 {
        return Err(FrameFault::Reserved(zero));
    }
    let header = usize::from(u16::from_le_bytes([h0, h1]));
    let body = usize::try_from(u32::from_le_bytes([b0, b1, b2, b3])).unwrap_or(usize::MAX);
    let (least, most, most_body) = kind.limits();
    if !(least..=most).contains(&header) || body > most_body {
        return Err(FrameFault::Lengths { kind, header, body });
    }
    let whole = rest.split_at_checked(header).and_then(|(header, rest)| Some((header, rest.get(..body)?)));
    let length = PREFIX_BYTES + header + body;
    Ok(match whole {
        Some((header, body)) => Parsed::Whole(Frame { kind, header, body }, length),
        None => Parsed::Partial(length),
    })
}

/// The words of an operation's header. `parse` has checked that its length is that of `N` words; zeroes otherwise.
pub(crate) fn words<const N: usize>(header: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    let (bytes, _) = header.as_chunks::<8>();
    words.iter_mut().zip(bytes).for_each(|(word, bytes)| *word = u64::from_le_bytes(*bytes));
    words
}

/// An operation's header.
pub(crate) fn header<const N: usize, const BYTES: usize>(words: [u64; N]) -> [u8; BYTES] {
    const { assert!(BYTES == 8 * N) };
    let mut bytes = [0; BYTES];
    let (chunks, _) = bytes.as_chunks_mut::<8>();
    chunks.iter_mut().zip(words).for_each(|(bytes, word)| *bytes = word.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A frame as on the wire.
    fn frame(kind: Kind, header: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        Some([&prefix(kind, header.len(), body.len())?, header, body].concat())
    }

    #[test]
    fn a_message_may_have_the_longest_header_and_body_and_nothing_longer() {
        let (header, body) = (vec![1; MAX_HEADER], vec![2; MAX_BODY]);
        let bytes = frame(Kind::Message, &header, &body).unwrap();
        assert_eq!(bytes.len(), MAX_FRAME);
        let whole = Frame { kind: Kind::Message, header: &header, body: &body };
        assert_eq!(parse(&bytes), Ok(Parsed::Whole(whole, MAX_FRAME)));
        assert_eq!(prefix(Kind::Message, MAX_HEADER + 1, 0), None);
        assert_eq!(prefix(Kind::Message, 0, MAX_BODY + 1), None);
    }

    #[test]
    fn lengths_beyond_the_limits_are_refused_from_the_prefix_alone() {
        for (kind, header, body) in [
            (Kind::Message, MAX_HEADER + 1, 0),
            (Kind::Message, 0, MAX_BODY + 1),
            (Kind::Alive, 1, 0),
            (Kind::Get, 15, 0),
            (Kind::Get, 17, 0),
            (Kind::Guard, 24, 0),
            (Kind::Guard, 40, 0),
            (Kind::Put, 8, MAX_BODY + 1),
            (Kind::List, 8, 0),
            (Kind::List, 0, MAX_BODY + 1),
            (Kind::Refused, 0, 1),
        ] {
            let [h0, h1] = u16::try_from(header).unwrap().to_le_bytes();
            let [b0, b1, b2, b3] = u32::try_from(body).unwrap().to_le_bytes();
            let bytes = [kind as u8, 0, h0, h1, b0, b1, b2, b3];
            assert_eq!(parse(&bytes), Err(FrameFault::Lengths { kind, header, body }));
        }
    }

    #[test]
    fn kinds_are_the_known_ones() {
        let known = |byte: u8| parse(&[byte, 0, 0, 0, 0, 0, 0, 0]) != Err(FrameFault::Kind(byte));
        assert_eq!((0..=u8::MAX).filter(|byte| known(*byte)).collect::<Vec<_>>(), Vec::from_iter(1..=12));
        assert_eq!(parse(&[1, 9, 0, 0, 0, 0, 0, 0]), Err(FrameFault::Reserved(9)));
    }

    #[test]
    fn words_come_back_from_a_header() {
        let bytes: [u8; 24] = header([1, u64::MAX, 3]);
        assert_eq!(words(&bytes), [1, u64::MAX, 3]);
    }

    proptest! {
        #[test]
        fn a_frame_comes_back_whatever_follows_it(
            header in vec(any::<u8>(), 0..100),
            body in vec(any::<u8>(), 0..10_000),
            more in vec(any::<u8>(), 0..20),
        ) {
            let bytes = [frame(Kind::Message, &header, &body).unwrap(), more.clone()].concat();
            let used = bytes.len() - more.len();
            let whole = Frame { kind: Kind::Message, header: &header, body: &body };
            prop_assert_eq!(parse(&bytes), Ok(Parsed::Whole(whole, used)));
        }

        #[test]
        fn a_truncated_frame_is_partial_at_every_length(body in vec(any::<u8>(), 0..300), cut in any::<proptest::sample::Index>()) {
            let bytes = frame(Kind::Put, &[7; 8], &body).unwrap();
            let cut = cut.index(bytes.len());
            let needed = if cut < PREFIX_BYTES { PREFIX_BYTES } else { bytes.len() };
            prop_assert_eq!(parse(&bytes[..cut]), Ok(Parsed::Partial(needed)));
        }

        #[test]
        fn any_bytes_are_a_frame_a_beginning_or_a_fault_within_the_limits(bytes in vec(any::<u8>(), 0..64), kind in 0..15_u8) {
            let bytes: Vec<u8> = std::iter::once(kind).chain(bytes).collect();
            match parse(&bytes) {
                Ok(Parsed::Whole(frame, used)) => {
                    prop_assert!(used <= bytes.len());
                    prop_assert_eq!(used, PREFIX_BYTES + frame.header.len() + frame.body.len());
                }
                Ok(Parsed::Partial(needed)) => prop_assert!(needed > bytes.len() && needed <= MAX_FRAME),
                Err(_) => {}
            }
        }
    }
}
