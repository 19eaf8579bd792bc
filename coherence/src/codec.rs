//! How messages look on the wire.

use crate::message::Message;

/// Version of everything that ranks send each other about pages; another one is refused.
pub const VERSION: u8 = 1;

/// Longest encoded message in bytes, without its body.
pub const MAX_ENCODED: usize = 4096;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Another version of the protocol.
    #[error("protocol version {0}, this is version {VERSION}; use the same vincs on all ranks")]
    Version(u8),
    /// It ends too early.
    #[error("a message that is cut off")]
    Short,
    /// There is more than the message.
    #[error("{0} bytes too many after a message")]
    Long(usize),
    /// A field has a value it cannot have.
    #[error("{0} with an impossible value")]
    Value(&'static str),
}

/// Puts a message at the end of `bytes`.
pub fn encode(message: &Message, bytes: &mut Vec<u8>) {
    let _ = (message, bytes);
}

/// Reads a message, which must be all of `bytes`.
///
/// # Errors
/// [`DecodeError`] saying what is wrong with the bytes.
pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
    let _ = bytes;
    Err(DecodeError::Short)
}
