//! A 9P2000.L client that checks the frame of every reply.

use std::path::Path;

use crate::virtio::p9::share::{Share, ShareMode};
use crate::virtio::p9::wire::*;

pub(super) const TAG: u16 = 0x1234;
/// The fid that [`Client::new`] attaches to the root.
pub(super) const ROOT: u32 = 0;
pub(super) const RDONLY: u32 = 0;
pub(super) const WRONLY: u32 = 1;
pub(super) const RDWR: u32 = 2;

/// An error number, or the fields of the reply.
pub(super) type Reply<T = Vec<u8>> = Result<T, i32>;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Qid {
    pub(super) kind: u8,
    pub(super) path: u64,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) share: Share,
}

/// A whole message.
pub(super) fn message(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
    let mut message = Vec::new();
    write_reply(&mut message, kind, TAG, &fields.concat());
    message
}

/// A string field.
pub(super) fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&u16::try_from(text.len()).unwrap().to_le_bytes(), text].concat()
}

pub(super) fn version(msize: u32) -> Vec<u8> {
    message(TVERSION, &[&msize.to_le_bytes(), &string("9P2000.L")])
}

pub(super) fn attach(fid: u32) -> Vec<u8> {
    let (no_fid, root) = (u32::MAX.to_le_bytes(), 0_u32.to_le_bytes());
    message(TATTACH, &[&fid.to_le_bytes(), &no_fid, &string("root"), &string(""), &root])
}

pub(super) fn walk(fid: u32, new_fid: u32, names: &[&str]) -> Vec<u8> {
    let count = u16::try_from(names.len()).unwrap().to_le_bytes();
    let names: Vec<u8> = names.iter().flat_map(string).collect();
    message(TWALK, &[&fid.to_le_bytes(), &new_fid.to_le_bytes(), &count, &names])
}

/// The tag and fields of a reply of this kind; panics when the frame is wrong.
pub(super) fn parse_reply(kind: u8, reply: &[u8]) -> Reply {
    let mut fields = Fields::of(reply);
    assert_eq!(fields.u32().unwrap() as usize, reply.len());
    let (reply_kind, tag) = (fields.u8().unwrap(), fields.u16().unwrap());
    assert_eq!(tag, TAG);
    if reply_kind == RLERROR {
        assert_eq!(reply.len(), 11);
        return Err(i32::try_from(fields.u32().unwrap()).unwrap());
    }
    assert_eq!(reply_kind, kind + 1);
    Ok(reply[HEADER_LEN..].to_vec())
}

fn qid(fields: &mut Fields<'_>) -> Qid {
    let (kind, _version) = (fields.u8().unwrap(), fields.u32().unwrap());
    Qid { kind, path: fields.u64().unwrap() }
}

impl Client {
    /// A client whose fid [`ROOT`] is the root of the share.
    pub(super) fn new(root: &Path, mode: ShareMode) -> Self {
        Self::of(Share::new(root, mode).unwrap())
    }

    pub(super) fn of(share: Share) -> Self {
        let mut client = Self { share };
        client.send(&version(1 << 17)).unwrap();
        client.send(&attach(ROOT)).unwrap();
        client
    }

    pub(super) fn send(&mut self, message: &[u8]) -> Reply {
        let mut reply = Vec::new();
        self.share.answer(&mut message.to_vec(), &mut reply);
        parse_reply(message[4], &reply)
    }

    pub(super) fn call(&mut self, kind: u8, fields: &[&[u8]]) -> Reply {
        self.send(&message(kind, fields))
    }

    pub(super) fn walk(&mut self, fid: u32, new_fid: u32, names: &[&str]) -> Reply<Vec<Qid>> {
        let reply = self.send(&walk(fid, new_fid, names))?;
        let mut fields = Fields::of(&reply);
        Ok((0..fields.u16().unwrap()).map(|_| qid(&mut fields)).collect())
    }

    pub(super) fn open(&mut self, fid: u32, flags: u32) -> Reply<Qid> {
        let reply = self.call(TLOPEN, &[&fid.to_le_bytes(), &flags.to_le_bytes()])?;
        Ok(qid(&mut Fields::of(&reply)))
    }

    /// Walks to a file from the root and opens it.
    pub(super) fn open_path(&mut self, fid: u32, names: &[&str], flags: u32) -> Reply<Qid> {
        self.walk(ROOT, fid, names)?;
        self.open(fid, flags)
    }

    pub(super) fn create(&mut self, fid: u32, name: &str, flags: u32) -> Reply {
        let (mode, gid) = (0o644_u32.to_le_bytes(), 0_u32.to_le_bytes());
        self.call(TLCREATE, &[&fid.to_le_bytes(), &string(name), &flags.to_le_bytes(), &mode, &gid])
    }

    pub(super) fn read(&mut self, fid: u32, offset: u64, count: u32) -> Reply {
        let reply = self.call(TREAD, &[&fid.to_le_bytes(), &offset.to_le_bytes(), &count.to_le_bytes()])?;
        assert_eq!(Fields::of(&reply).u32().unwrap() as usize, reply.len() - 4);
        Ok(reply[4..].to_vec())
    }

    pub(super) fn write(&mut self, fid: u32, offset: u64, data: &[u8]) -> Reply<u32> {
        let count = u32::try_from(data.len()).unwrap().to_le_bytes();
        let reply = self.call(TWRITE, &[&fid.to_le_bytes(), &offset.to_le_bytes(), &count, data])?;
        Ok(Fields::of(&reply).u32().unwrap())
    }

    /// Qid, mode and size.
    pub(super) fn getattr(&mut self, fid: u32) -> Reply<(Qid, u32, u64)> {
        let reply = self.call(TGETATTR, &[&fid.to_le_bytes(), &0x7FF_u64.to_le_bytes()])?;
        let mut fields = Fields::of(&reply[8..]);
        let (qid, mode) = (qid(&mut fields), fields.u32().unwrap());
        Ok((qid, mode, u64::from_le_bytes(reply[49..57].try_into().unwrap())))
    }

    pub(super) fn set_size(&mut self, fid: u32, size: u64) -> Reply {
        let size_is_valid = 8_u32.to_le_bytes();
        self.call(TSETATTR, &[&fid.to_le_bytes(), &size_is_valid, &[0; 12], &size.to_le_bytes(), &[0; 32]])
    }

    /// The names in an open directory, sorted.
    pub(super) fn list(&mut self, fid: u32) -> Reply<Vec<String>> {
        let (mut names, mut offset) = (Vec::new(), 0_u64);
        loop {
            let count = 100_u32.to_le_bytes();
            let reply = self.call(TREADDIR, &[&fid.to_le_bytes(), &offset.to_le_bytes(), &count])?;
            let mut fields = Fields::of(&reply[4..]);
            if fields.remaining() == 0 {
                names.sort();
                return Ok(names);
            }
            while fields.remaining() > 0 {
                qid(&mut fields);
                (offset, _) = (fields.u64().unwrap(), fields.u8().unwrap());
                names.push(String::from_utf8(fields.string().unwrap().to_vec()).unwrap());
            }
        }
    }

    pub(super) fn clunk(&mut self, fid: u32) -> Reply {
        self.call(TCLUNK, &[&fid.to_le_bytes()])
    }

    pub(super) fn unlink(&mut self, fid: u32, name: &str, flags: u32) -> Reply {
        self.call(TUNLINKAT, &[&fid.to_le_bytes(), &string(name), &flags.to_le_bytes()])
    }

    pub(super) fn rename(&mut self, from: u32, old: &str, to: u32, new: &str) -> Reply {
        self.call(TRENAMEAT, &[&from.to_le_bytes(), &string(old), &to.to_le_bytes(), &string(new)])
    }

    pub(super) fn mkdir(&mut self, fid: u32, name: &str) -> Reply {
        self.call(TMKDIR, &[&fid.to_le_bytes(), &string(name), &0o755_u32.to_le_bytes(), &[0; 4]])
    }

    pub(super) fn symlink(&mut self, fid: u32, name: &str, target: &str) -> Reply {
        self.call(TSYMLINK, &[&fid.to_le_bytes(), &string(name), &string(target), &[0; 4]])
    }

    pub(super) fn mknod(&mut self, fid: u32, name: &str, mode: u32) -> Reply {
        self.call(TMKNOD, &[&fid.to_le_bytes(), &string(name), &mode.to_le_bytes(), &[0; 12]])
    }

    pub(super) fn link(&mut self, directory: u32, fid: u32, name: &str) -> Reply {
        self.call(TLINK, &[&directory.to_le_bytes(), &fid.to_le_bytes(), &string(name)])
    }

    pub(super) fn fsync(&mut self, fid: u32) -> Reply {
        self.call(TFSYNC, &[&fid.to_le_bytes(), &0_u32.to_le_bytes()])
    }
}
