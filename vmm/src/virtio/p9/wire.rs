//! 9P2000.L messages as bytes: only what the share has to look at or answer by itself.
//!
//! A message is its length (32 bits, all of it), its type (8 bits), the client's tag (16 bits) and fields by type;
//! all numbers little-endian, a string is a 16-bit length and so many bytes. The types and fields are those of
//! Linux's include/net/9p/9p.h.

use rustix::io::Errno;

/// Length of length, type and tag.
pub(super) const HEADER_LEN: usize = 7;
/// Length of a qid: type (8 bits), version (32), path (64).
pub(super) const QID_LEN: usize = 13;
/// Offset of the path in a qid.
pub(super) const QID_PATH: usize = 5;

pub(super) const RLERROR: u8 = 7;
pub(super) const TSTATFS: u8 = 8;
pub(super) const TLOPEN: u8 = 12;
pub(super) const TLCREATE: u8 = 14;
pub(super) const TSYMLINK: u8 = 16;
pub(super) const RSYMLINK: u8 = 17;
pub(super) const TMKNOD: u8 = 18;
pub(super) const RMKNOD: u8 = 19;
pub(super) const TRENAME: u8 = 20;
pub(super) const TREADLINK: u8 = 22;
pub(super) const TGETATTR: u8 = 24;
pub(super) const TSETATTR: u8 = 26;
pub(super) const TXATTRCREATE: u8 = 32;
pub(super) const TREADDIR: u8 = 40;
pub(super) const TFSYNC: u8 = 50;
pub(super) const TLOCK: u8 = 52;
pub(super) const TGETLOCK: u8 = 54;
pub(super) const TLINK: u8 = 70;
pub(super) const TMKDIR: u8 = 72;
pub(super) const TRENAMEAT: u8 = 74;
pub(super) const TUNLINKAT: u8 = 76;
pub(super) const TVERSION: u8 = 100;
pub(super) const TATTACH: u8 = 104;
pub(super) const TFLUSH: u8 = 108;
pub(super) const TWALK: u8 = 110;
pub(super) const TREAD: u8 = 116;
pub(super) const TWRITE: u8 = 118;
pub(super) const TCLUNK: u8 = 120;
pub(super) const RCLUNK: u8 = 121;
pub(super) const TREMOVE: u8 = 122;

/// Type and tag of a message; nothing when there are not even those.
pub(super) fn type_and_tag(message: &[u8]) -> Option<(u8, u16)> {
    let mut fields = Fields::of(message.get(4..)?);
    Some((fields.u8().ok()?, fields.u16().ok()?))
}

/// The message without what follows it; an error when it says to be longer than it is, or shorter than its header.
pub(super) fn exact(message: &mut [u8]) -> Result<&mut [u8], Errno> {
    let len = Fields::of(message).u32()? as usize;
    message.get_mut(..len).filter(|message| message.len() >= HEADER_LEN).ok_or(Errno::INVAL)
}

/// Whether a reply is an error.
pub(super) fn is_error(reply: &[u8]) -> bool {
    reply.get(4) == Some(&RLERROR)
}

/// Puts a whole reply together.
pub(super) fn write_reply(reply: &mut Vec<u8>, kind: u8, tag: u16, fields: &[u8]) {
    reply.clear();
    let len = u32::try_from(HEADER_LEN + fields.len()).unwrap_or(u32::MAX);
    reply.extend_from_slice(&len.to_le_bytes());
    reply.push(kind);
    reply.extend_from_slice(&tag.to_le_bytes());
    reply.extend_from_slice(fields);
}

/// Puts an error reply together.
pub(super) fn write_error(reply: &mut Vec<u8>, tag: u16, error: Errno) {
    write_reply(reply, RLERROR, tag, &error.raw_os_error().unsigned_abs().to_le_bytes());
}

/// Replaces a reply that is larger than the client's buffer.
pub(super) fn shrink_to_error(reply: &mut Vec<u8>) {
    if let Some((_, tag)) = type_and_tag(reply) {
        write_error(reply, tag, Errno::MSGSIZE);
    }
}

/// Overwrites bytes of a message at an offset; past its end it does nothing.
pub(super) fn patch(message: &mut [u8], offset: usize, bytes: &[u8]) {
    let place = message.get_mut(offset..).and_then(|rest| rest.get_mut(..bytes.len()));
    if let Some(place) = place {
        place.copy_from_slice(bytes);
    }
}

/// Reads the fields of a message in order; every read past the end is EINVAL.
#[derive(Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// All of these bytes.
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The fields after the header.
    pub(super) fn after_header(message: &'a [u8]) -> Self {
        Self(message.get(HEADER_LEN..).unwrap_or_default())
    }

    /// Bytes not read yet.
    pub(super) fn remaining(&self) -> usize {
        self.0.len()
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Errno> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        self.take(N)?.try_into().map_err(|_| Errno::INVAL)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Errno> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Errno> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Errno> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Errno> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string of any bytes.
    pub(super) fn string(&mut self) -> Result<&'a [u8], Errno> {
        let len = self.u16()?;
        self.take(len.into())
    }

    /// The name of one directory entry. A name that could lead elsewhere than to an entry of its directory is
    /// refused: the empty one, `.`, `..`, and any with a slash or a zero byte. Linux resolves the dots itself and
    /// never sends such a name.
    pub(super) fn name(&mut self) -> Result<&'a [u8], Errno> {
        let name = self.string()?;
        let leads_elsewhere = matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0);
        if leads_elsewhere { Err(Errno::INVAL) } else { Ok(name) }
    }
}
