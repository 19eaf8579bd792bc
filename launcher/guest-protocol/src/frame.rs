//! Frames on the control port: a little-endian `u32` length, then that many bytes of postcard.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest payload of a frame in bytes; a longer one is an error on both sides.
pub const MAX_FRAME: usize = 64 * 1024;

const LENGTH_BYTES: usize = 4;

/// Why a frame cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length is over [`MAX_FRAME`].
    #[error("control frame of {0} bytes is over the limit of {MAX_FRAME}")]
    TooLong(usize),
    /// The payload is not a message of this version.
    #[error("control frame cannot be decoded: {0}")]
    Malformed(#[from] postcard::Error),
}

/// A message as the bytes of one frame.
///
/// # Errors
/// [`FrameError::TooLong`] when its payload is over [`MAX_FRAME`].
pub fn encode_frame<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let payload = postcard::to_stdvec(message)?;
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_FRAME);
    let length = length.ok_or(FrameError::TooLong(payload.len()))?;
    Ok([&length.to_le_bytes()[..], &payload].concat())
}

/// Puts frames together from bytes that arrive in pieces of any size.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffered: Vec<u8>,
}

impl FrameReader {
    /// Takes bytes as they arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffered.extend_from_slice(bytes);
    }

    /// The next whole message, or nothing until more bytes arrive.
    ///
    /// # Errors
    /// [`FrameError`] when the peer sent an oversized or undecodable frame; the stream is unusable after that.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some(length) = self.buffered.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        let Some(payload) = self.buffered.get(LENGTH_BYTES..LENGTH_BYTES + length) else { return Ok(None) };
        let message = postcard::from_bytes(payload)?;
        self.buffered.drain(..LENGTH_BYTES + length);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ended, FromGuest, ToGuest};
    use proptest::prelude::*;

    #[test]
    fn a_frame_split_at_every_byte_arrives_whole() {
        let sent = FromGuest::SetupFailed("mount /home: no such device".into());
        let bytes = encode_frame(&sent).unwrap();
        let mut reader = FrameReader::default();
        for (n, byte) in bytes.iter().enumerate() {
            assert_eq!(reader.next_message::<FromGuest>().unwrap(), None, "whole after {n} bytes");
            reader.push(&[*byte]);
        }
        assert_eq!(reader.next_message().unwrap(), Some(sent));
        assert_eq!(reader.next_message::<FromGuest>().unwrap(), None);
    }

    #[test]
    fn two_frames_in_one_piece_arrive_in_order() {
        let first = encode_frame(&FromGuest::Starting).unwrap();
        let second = encode_frame(&FromGuest::Ended(Ended::Killed(9))).unwrap();
        let mut reader = FrameReader::default();
        reader.push(&[first, second].concat());
        assert_eq!(reader.next_message().unwrap(), Some(FromGuest::Starting));
        assert_eq!(reader.next_message().unwrap(), Some(FromGuest::Ended(Ended::Killed(9))));
    }

    #[test]
    fn the_length_limit_holds_at_its_edge() {
        let mut reader = FrameReader::default();
        reader.push(&u32::try_from(MAX_FRAME).unwrap().to_le_bytes());
        assert!(matches!(reader.next_message::<ToGuest>(), Ok(None)), "the largest length waits for its bytes");
        let mut reader = FrameReader::default();
        reader.push(&u32::try_from(MAX_FRAME + 1).unwrap().to_le_bytes());
        assert!(matches!(reader.next_message::<ToGuest>(), Err(FrameError::TooLong(_))));
        assert!(matches!(encode_frame(&"x".repeat(MAX_FRAME)), Err(FrameError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_or_a_message_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let mut reader = FrameReader::default();
            reader.push(&bytes);
            while let Ok(Some(_)) = reader.next_message::<FromGuest>() {}
        }
    }
}
