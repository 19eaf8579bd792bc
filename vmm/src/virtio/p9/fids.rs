//! What each fid of the guest stands for: our own record, beside the server's, of kind, inode and mount.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, openat, statx};
use rustix::io::Errno;

use super::wire::QID_LEN;

/// A file of the host, by a descriptor that can neither read nor write it (O_PATH) and so never blocks.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) path: OwnedFd,
    pub(super) kind: FileType,
    pub(super) inode: u64,
    /// The mount it was reached through.
    pub(super) mount: u64,
    /// Modification time in seconds, modulo 2^32: the version in its qid.
    version: u32,
}

impl Node {
    pub(super) fn of(path: OwnedFd) -> Result<Self, Errno> {
        let mask = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MTIME | StatxFlags::MNT_ID;
        let stat = statx(&path, c"", AtFlags::EMPTY_PATH, mask)?;
        let seconds = stat.stx_mtime.tv_sec.rem_euclid(1 << 32);
        Ok(Self {
            path,
            kind: FileType::from_raw_mode(stat.stx_mode.into()),
            inode: stat.stx_ino,
            mount: stat.stx_mnt_id,
            version: u32::try_from(seconds).unwrap_or_default(),
        })
    }

    /// An entry of this directory; a symbolic link is not followed.
    pub(super) fn child(&self, name: &[u8]) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Self::of(openat(&self.path, name, flags, Mode::empty())?)
    }

    pub(super) fn try_clone(&self) -> Result<Self, Errno> {
        Ok(Self { path: rustix::io::fcntl_dupfd_cloexec(&self.path, 0)?, ..*self })
    }

    /// Its qid, with the inode number for its path.
    pub(super) fn qid(&self) -> [u8; QID_LEN] {
        let kind = match self.kind {
            FileType::Directory => 0x80,
            FileType::Symlink => 0x02,
            FileType::RegularFile
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => 0,
        };
        let mut qid = [kind; QID_LEN];
        let bytes = self.version.to_le_bytes().into_iter().chain(self.inode.to_le_bytes());
        qid.iter_mut().skip(1).zip(bytes).for_each(|(to, from)| *to = from);
        qid
    }
}

/// The guest's fids, as many as it may have.
#[derive(Debug)]
pub(super) struct Fids {
    nodes: BTreeMap<u32, Node>,
    limit: usize,
}

impl Fids {
    pub(super) fn new(limit: usize) -> Self {
        Self { nodes: BTreeMap::new(), limit }
    }

    pub(super) fn get(&self, fid: u32) -> Result<&Node, Errno> {
        self.nodes.get(&fid).ok_or(Errno::BADF)
    }

    pub(super) fn contains(&self, fid: u32) -> bool {
        self.nodes.contains_key(&fid)
    }

    /// Whether this fid may be set; ENFILE when it would be one too many.
    pub(super) fn check_room(&self, fid: u32) -> Result<(), Errno> {
        if self.contains(fid) || self.nodes.len() < self.limit { Ok(()) } else { Err(Errno::NFILE) }
    }

    pub(super) fn set(&mut self, fid: u32, node: Node) {
        self.nodes.insert(fid, node);
    }

    pub(super) fn remove(&mut self, fid: u32) {
        self.nodes.remove(&fid);
    }

    pub(super) fn clear(&mut self) {
        self.nodes.clear();
    }
}
