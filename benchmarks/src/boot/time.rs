//! The guest's question for the time, which vincs answers in its own boots: unanswered, the guest waits seconds for it.

use std::io::{self, Read, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use vincs_guest_protocol::{FrameReader, FromGuest, ToGuest, encode_frame};

/// Bytes read from the port at once; frames are short.
const READ_SIZE: usize = 4096;

/// Waits for the guest's question on its control port and answers it. The guest asks before it starts the command, so
/// nothing is late that waits for this first.
///
/// # Errors
/// When the port fails or closes, or when the guest says something else first.
pub(super) fn answer(mut port: impl Read + Write) -> io::Result<()> {
    let mut reader = FrameReader::default();
    let mut bytes = [0; READ_SIZE];
    loop {
        match reader.next_message::<FromGuest>().map_err(io::Error::other)? {
            Some(FromGuest::AskTime) => break,
            Some(other) => {
                return Err(io::Error::other(format!("the guest says {other:?} before it asks for the time")));
            }
            None => {}
        }
        match port.read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => reader.push(bytes.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_nanoseconds = u64::try_from(since.as_nanos()).map_err(io::Error::other)?;
    port.write_all(&encode_frame(&ToGuest::Time { unix_nanoseconds }).map_err(io::Error::other)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// What the guest hears after it sent these bytes and closed its side for writing.
    fn heard(sent: &[u8]) -> (io::Result<()>, Option<ToGuest>) {
        let (mut guest, port) = UnixStream::pair().unwrap();
        guest.write_all(sent).unwrap();
        guest.shutdown(std::net::Shutdown::Write).unwrap();
        let result = answer(&port);
        drop(port);
        let (mut bytes, mut reader) = (Vec::new(), FrameReader::default());
        guest.read_to_end(&mut bytes).unwrap();
        reader.push(&bytes);
        (result, reader.next_message().unwrap())
    }

    #[test]
    fn the_question_is_answered_with_the_time() {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let (result, answer) = heard(&encode_frame(&FromGuest::AskTime).unwrap());
        let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        result.unwrap();
        let Some(ToGuest::Time { unix_nanoseconds }) = answer else { panic!("{answer:?}") };
        assert!((before..=after).contains(&u128::from(unix_nanoseconds)));
    }

    #[test]
    fn a_guest_that_does_not_ask_is_an_error() {
        let question = encode_frame(&FromGuest::AskTime).unwrap();
        let failed = encode_frame(&FromGuest::SetupFailed("no root".into())).unwrap();
        for (sent, told) in
            [(&failed[..], "no root"), (&question[..question.len() - 1], "end of file"), (&[], "end of file")]
        {
            let (result, answer) = heard(sent);
            let error = result.unwrap_err().to_string();
            assert!(error.contains(told) && answer.is_none(), "{error}");
        }
    }
}
