//! The gate before the `p9` crate's server: what a share promises is enforced here, message by message.
//!
//! Only message types named here get through. Each is checked against our own record of the fids ([`super::fids`])
//! before the server sees it, and the record follows the server's answers. What the gate answers by itself: errors,
//! symbolic links and FIFOs (which the server refuses to create), Tremove.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use p9::{Config, Server};
use rustix::fs::{FileType, Mode, OFlags, fstatfs, mknodat, open, symlinkat};
use rustix::io::Errno;

use super::P9Error;
use super::fids::{Fids, Node};
use super::wire::{self, Fields, HEADER_LEN, QID_LEN, QID_PATH};

/// Largest message in bytes, in either direction. Linux 6.1 asks for 500 KiB at most, which is what it gets.
pub const MSIZE: u32 = 1 << 20;
/// Fids the guest may have in use; one more is refused with ENFILE. Each takes two file descriptors of this process,
/// three while it is open. Linux keeps one for each file it has cached or open.
pub const MAX_FIDS: usize = 1 << 17;
/// Names in one Twalk (P9_MAXWELEM).
const MAX_WALK: u16 = 16;
/// Set in the qid path of what another mount covers; the mount's ID makes the rest.
const OTHER_MOUNT: u64 = 1 << 63;

/// File systems with regular files that can be read only when something happens, by their number in statfs(2).
const PSEUDO: [(u32, &str); 4] =
    [(0x9FA0, "procfs"), (0x6265_6572, "sysfs"), (0x6462_6720, "debugfs"), (0x7472_6163, "tracefs")];

/// Flags of Tlopen and Tlcreate: Linux's open flags in the numbers of x86.
const ACCESS_MODE: u32 = 0o3;
const CREATE: u32 = 0o100;
const TRUNCATE: u32 = 0o1000;
const APPEND: u32 = 0o2000;
const DIRECT: u32 = 0o4_0000;
/// P9_SETATTR_SIZE.
const SETATTR_SIZE: u32 = 1 << 3;

/// What the guest may do with the files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ShareMode {
    /// Look at them.
    ReadOnly,
    /// Whatever this process may do.
    ReadWrite,
}

/// One host directory as the guest may use it.
pub(super) struct Share {
    root: Node,
    mode: ShareMode,
    fids: Fids,
    /// Begins and ends with the client's session (Tversion).
    server: Option<Server>,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { root, mode, fids, server: _ } = self;
        f.debug_struct("Share").field("root", root).field("mode", mode).field("fids", fids).finish_non_exhaustive()
    }
}

impl Share {
    pub(super) fn new(root: &Path, mode: ShareMode) -> Result<Self, P9Error> {
        Self::with_limit(root, mode, MAX_FIDS)
    }

    /// A share with its own limit of fids.
    pub(super) fn with_limit(root: &Path, mode: ShareMode, max_fids: usize) -> Result<Self, P9Error> {
        let refused = |source: Errno| P9Error::Root { root: root.to_owned(), source: source.into() };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let node = open(root, flags, Mode::empty()).and_then(Node::of).map_err(refused)?;
        // On a descriptor that is open, statfs(2) fails only when it has no memory.
        let magic = fstatfs(&node.path).map_err(refused)?.f_type;
        if let Some((_, name)) = PSEUDO.into_iter().find(|(pseudo, _)| i64::from(*pseudo) == magic) {
            return Err(P9Error::Pseudo { root: root.to_owned(), name });
        }
        let share = Self { root: node, mode, fids: Fids::new(max_fids), server: None };
        match share.new_server() {
            Ok(_) => Ok(share),
            Err(source) => Err(P9Error::Proc { root: root.to_owned(), source }),
        }
    }

    /// Drops all of the guest's fids; its next message has to be Tversion.
    pub(super) fn reset(&mut self) {
        self.fids.clear();
        self.server = None;
    }

    /// Answers one message. The message is changed where the server must see something else; the reply stays empty
    /// when the message is too short to have a tag.
    pub(super) fn answer(&mut self, message: &mut [u8], reply: &mut Vec<u8>) {
        reply.clear();
        let Some((kind, tag)) = wire::type_and_tag(message) else { return };
        let answered = wire::exact(message).and_then(|message| {
            self.permit(kind, message, reply)?;
            self.serve(kind, tag, message, reply)
        });
        if let Err(error) = answered {
            wire::write_error(reply, tag, error);
        }
    }

    /// In a read-only share, refuses what changes anything, and opening for it.
    fn permit(&mut self, kind: u8, message: &mut [u8], reply: &mut Vec<u8>) -> Result<(), Errno> {
        if self.mode == ShareMode::ReadWrite {
            return Ok(());
        }
        match kind {
            wire::TLOPEN => {
                let mut fields = Fields::after_header(message);
                let (_fid, flags) = (fields.u32()?, fields.u32()?);
                if flags & (ACCESS_MODE | TRUNCATE | APPEND) == 0 { Ok(()) } else { Err(Errno::ROFS) }
            }
            wire::TREMOVE => {
                // It ends the fid even when it fails.
                self.clunk(Fields::after_header(message).u32()?, reply)?;
                Err(Errno::ROFS)
            }
            wire::TLCREATE
            | wire::TSYMLINK
            | wire::TMKNOD
            | wire::TRENAME
            | wire::TSETATTR
            | wire::TXATTRCREATE
            | wire::TLINK
            | wire::TMKDIR
            | wire::TRENAMEAT
            | wire::TUNLINKAT
            | wire::TWRITE => Err(Errno::ROFS),
            _ => Ok(()),
        }
    }

    fn serve(&mut self, kind: u8, tag: u16, message: &mut [u8], reply: &mut Vec<u8>) -> Result<(), Errno> {
        match kind {
            wire::TVERSION => self.version(message, reply),
            wire::TATTACH => self.attach(message, reply),
            wire::TWALK => self.walk(message, reply),
            wire::TLOPEN => self.open(message, reply),
            wire::TLCREATE => self.create(message, reply),
            wire::TGETATTR => self.getattr(message, reply),
            wire::TSETATTR => self.setattr(message, reply),
            wire::TWRITE => self.write(message, reply),
            wire::TSYMLINK => self.symlink(tag, message, reply),
            wire::TMKNOD => self.mknod(tag, message, reply),
            wire::TMKDIR | wire::TUNLINKAT | wire::TRENAMEAT | wire::TLINK => {
                self.check_names(kind, message)?;
                self.forward(message, reply)
            }
            wire::TCLUNK => {
                self.clunk(Fields::after_header(message).u32()?, reply)?;
                wire::write_reply(reply, wire::RCLUNK, tag, &[]);
                Ok(())
            }
            wire::TREMOVE => {
                // A fid does not say by which of its names to remove the file; Linux uses Tunlinkat.
                self.clunk(Fields::after_header(message).u32()?, reply)?;
                Err(Errno::OPNOTSUPP)
            }
            // On fids that are open, and only files and directories ever are; or without effect on the host.
            wire::TREAD | wire::TREADDIR | wire::TFSYNC | wire::TLOCK | wire::TGETLOCK => self.forward(message, reply),
            wire::TSTATFS | wire::TREADLINK | wire::TFLUSH => self.forward(message, reply),
            // Tauth, Trename, Txattrwalk, Txattrcreate: the server has none of them.
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    /// Lets the server answer. What it cannot make sense of it does not answer: EINVAL.
    fn forward(&mut self, message: &[u8], reply: &mut Vec<u8>) -> Result<(), Errno> {
        let server = self.server.as_mut().ok_or(Errno::INVAL)?;
        reply.clear();
        server.handle_message(&mut &*message, reply).map_err(|_| Errno::INVAL)
    }

    /// The server opens its root by path at every Tattach: name our descriptor, so that it stays the same directory.
    /// The dot at the end makes it follow that link.
    fn new_server(&self) -> io::Result<Server> {
        let root = PathBuf::from(format!("/proc/self/fd/{}/.", self.root.path.as_raw_fd()));
        Server::with_config(Config {
            root: root.into(),
            msize: MSIZE,
            uid_map: BTreeMap::new(),
            gid_map: BTreeMap::new(),
            ascii_casefold: false,
        })
    }

    /// A new session: a new server, as the old one would never raise its message size again.
    fn version(&mut self, message: &[u8], reply: &mut Vec<u8>) -> Result<(), Errno> {
        self.reset();
        let error = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        self.server = Some(self.new_server().map_err(error)?);
        self.forward(message, reply)?;
        if wire::is_error(reply) {
            self.reset();
        }
        Ok(())
    }

    fn attach(&mut self, message: &[u8], reply: &mut Vec<u8>) -> Result<(), Errno> {
        let fid = Fields::after_header(message).u32()?;
        self.fids.check_room(fid)?;
        let node = self.root.try_clone()?;
        self.forward(message, reply)?;
        if !wire::is_error(reply) {
            self.fids.set(fid, node);
        }
        Ok(())
    }

    /// Walks the way itself first, to know what it leads over, then lets the server do it.
    fn walk(&mut self, message: &[u8], reply: &mut Vec<u8>) -> Result<(), Errno> {
        let mut fields = Fields::after_header(message);
        let (fid, new_fid, count) = (fields.u32()?, fields.u32()?, fields.u16()?);
        if count > MAX_WALK {
            return Err(Errno::INVAL);
        }
        self.fids.check_room(new_fid)?;
        let start = self.fids.get(fid)?;
        let mut way: Vec<Node> = Vec::new();
        for _ in 0..count {
            let name = fields.name()?;
            let here = way.last().unwrap_or(start);
            self.check_enterable(here)?;
            // Where it ends early, so does the server's walk, and it says why.
            let Ok(next) = here.child(name) else { break };
            way.push(next);
        }
        let last = way.last().unwrap_or(start).try_clone()?;
        self.forward(message, reply)?;
        if wire::is_error(reply) {
            return Ok(());
        }
        let mut answer = Fields::after_header(reply);
        if answer.u16()? < count {
            // Only part of the way exists: no new fid.
            return Ok(());
        }
        if way.len() != usize::from(count) || !self.same_way(&way, answer) {
            // Somebody on the host changed the way meanwhile: we do not know what the new fid is.
            self.clunk(new_fid, reply)?;
            return Err(Errno::STALE);
        }
        for (n, node) in way.iter().enumerate() {
            self.correct_qid(node, reply, HEADER_LEN + 2 + n * QID_LEN);
        }
        self.fids.set(new_fid, last);
        Ok(())
    }

    /// Whether the qids that the server has found on its way are those of ours.
    fn same_way(&self, way: &[Node], mut qids: Fields<'_>) -> bool {
        way.iter().all(|node| {
            let (kind, version, path) = (qids.u8(), qids.u32(), qids.u64());
            let plain = node.qid();
            version.is_ok() && kind.ok() == plain.first().copied() && path == Ok(node.inode)
        })
    }

    /// Opens only what cannot block us: opening a FIFO or a device waits for somebody else, or does something.
    fn open(&mut self, message: &mut [u8], reply: &mut Vec<u8>) -> Result<(), Errno> {
        let mut fields = Fields::after_header(message);
        let (fid, flags) = (fields.u32()?, fields.u32()?);
        let node = self.fids.get(fid)?;
        self.check_enterable(node)?;
        match node.kind {
            FileType::RegularFile | FileType::Directory => {}
            FileType::Symlink => return Err(Errno::LOOP),
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => return Err(Errno::NXIO),
        }
        // The file exists, so there is nothing to create. Direct I/O would need aligned buffers, which the server
        // does not have; and it means the guest's cache, not the host's.
        wire::patch(message, HEADER_LEN + 4, &(flags & !(CREATE | DIRECT)).to_le_bytes());
        self.forward(message, reply)?;
        if !wire::is_error(reply) {
            self.correct_qid(self.fids.get(fid)?, reply, HEADER_LEN);
        }
        Ok(())
    }

    fn create(&mut self, message: &mut [u8], reply: &mut Vec<u8>) -> Result<(), Errno> {
        let mut fields = Fields::after_header(message);
        let fid = fields.u32()?;
        let name = fields.name()?.to_vec();
        let flags = fields.u32()?;
        self.directory(fid)?;
        wire::patch(message, HEADER_LEN + 4 + 2 + name.len(), &(flags & !DIRECT).to_le_bytes());
        self.forward(message, reply)?;
        if wire::is_error(reply) {
            return Ok(());
        }
        // From now on the fid is the new file's.
        match self.directory(fid)?.child(&name) {
            Ok(node) if self.same_way(std::slice::from_ref(&node), Fields::after_header(reply)) => {
                self.fids.set(fid, node);
                Ok(())
            }
            _ => {
                self.clunk(fid, reply)?;
                Err(Errno::STALE)
            }
        }
    }

    fn getattr(&mut self, message: &[u8], reply: &mut Vec<u8>) -> Result<(), Errno> {
        let fid = Fields::after_header(message).u32()?;
        self.fids.get(fid)?;
        self.forward(message, reply)?;
        if !wire::is_error(reply) {
            self.correct_qid(self.fids.get(fid)?, reply, HEADER_LEN + 8);
        }
        Ok(())
    }

    /// To change the size, the server may open the file.
    fn setattr(&mut self, message: &[u8], reply: &mut Vec<u8>) -> Result<(), Errno> {
        let mut fields = Fields::after_header(message);
        let (fid, valid) = (fields.u32()?, fields.u32()?);
        let node = self.fids.get(fid)?;
        self.check_enterable(node)?;
        if valid & SETATTR_SIZE != 0 && node.kind != FileType::RegularFile {
            return Err(if node.kind == FileType::Directory { Errno::ISDIR } else { Errno::INVAL });
        }
        self.forward(message, reply)
    }

    /// The server reserves memory for as much data as the message says it has.
    fn write(&mut self, message: &[u8], reply: &mut Vec<u8>) -> Result<(), Errno> {
        let mut fields = Fields::after_header(message);
        let (_fid, _offset, count) = (fields.u32()?, fields.u64()?, fields.u32()?);
        if count as usize != fields.remaining() {
            return Err(Errno::INVAL);
        }
        self.forward(message, reply)
    }

    fn symlink(&self, tag: u16, message: &[u8], reply: &mut Vec<u8>) -> Result<(), Errno> {
        let mut fields = Fields::after_header(message);
        let directory = self.directory(fields.u32()?)?;
        let (name, target) = (fields.name()?, fields.string()?);
        symlinkat(target, &directory.path, name)?;
        wire::write_reply(reply, wire::RSYMLINK, tag, &directory.child(name)?.qid());
        Ok(())
    }

    /// Files, FIFOs and sockets, which are only names for the guest's own use; never devices.
    fn mknod(&self, tag: u16, message: &[u8], reply: &mut Vec<u8>) -> Result<(), Errno> {
        let mut fields = Fields::after_header(message);
        let directory = self.directory(fields.u32()?)?;
        let (name, mode) = (fields.name()?, fields.u32()?);
        let kind = FileType::from_raw_mode(mode);
        if !matches!(kind, FileType::RegularFile | FileType::Fifo | FileType::Socket) {
            return Err(Errno::PERM);
        }
        mknodat(&directory.path, name, kind, Mode::from_raw_mode(mode), 0)?;
        wire::write_reply(reply, wire::RMKNOD, tag, &directory.child(name)?.qid());
        Ok(())
    }

    /// Checks the directories and names of a message that changes directory entries.
    fn check_names(&self, kind: u8, message: &[u8]) -> Result<(), Errno> {
        let mut fields = Fields::after_header(message);
        self.directory(fields.u32()?)?;
        if kind == wire::TLINK {
            self.fids.get(fields.u32()?)?;
        }
        fields.name()?;
        if kind == wire::TRENAMEAT {
            self.directory(fields.u32()?)?;
            fields.name()?;
        }
        Ok(())
    }

    /// Ends a fid here and in the server. `reply` is overwritten.
    fn clunk(&mut self, fid: u32, reply: &mut Vec<u8>) -> Result<(), Errno> {
        self.fids.remove(fid);
        let mut message = Vec::new();
        wire::write_reply(&mut message, wire::TCLUNK, 0, &fid.to_le_bytes());
        self.forward(&message, reply)?;
        if wire::is_error(reply) { Err(Errno::BADF) } else { Ok(()) }
    }

    /// The directory that a fid stands for.
    fn directory(&self, fid: u32) -> Result<&Node, Errno> {
        let node = self.fids.get(fid)?;
        self.check_enterable(node)?;
        if node.kind == FileType::Directory { Ok(node) } else { Err(Errno::NOTDIR) }
    }

    /// A share is one mount: a directory that another one covers can be seen, but not entered, listed or changed.
    fn check_enterable(&self, node: &Node) -> Result<(), Errno> {
        let covered = node.kind == FileType::Directory && node.mount != self.root.mount;
        if covered { Err(Errno::XDEV) } else { Ok(()) }
    }

    /// Inode numbers are unique in one file system only, and the guest takes equal qids for the same file: what
    /// another mount covers gets the mount's ID in place of its inode number.
    fn correct_qid(&self, node: &Node, reply: &mut [u8], offset: usize) {
        if node.mount != self.root.mount {
            wire::patch(reply, offset + QID_PATH, &(OTHER_MOUNT | node.mount).to_le_bytes());
        }
    }
}
