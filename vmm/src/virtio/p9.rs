//! File server (virtio 1.2 section 5.1, device ID 9): a host directory for the guest, by the 9P2000.L protocol.
//!
//! Three layers: this file moves messages between the queue and `share::Share`, which decides what is allowed and
//! keeps its own record of the guest's fids, and hands what it allows to the `p9` crate's server. `docs/devices.md`
//! has the rules of a share.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use virtio_bindings::virtio_ids::VIRTIO_ID_9P;

use super::{Chain, DeviceError, Queues, VirtioDevice};
use share::Share;

mod fids;
mod share;
mod wire;

#[cfg(test)]
mod tests;

pub use share::{MAX_FIDS, MSIZE, ShareMode};

/// Longest mount tag in bytes.
pub const MAX_TAG_LEN: usize = 255;

/// VIRTIO_9P_MOUNT_TAG: the configuration holds the tag.
const F_MOUNT_TAG: u64 = 1 << 0;
/// Linux's client puts one message on up to 128 descriptors; this leaves room for several messages under way.
const QUEUE_SIZES: [u16; 1] = [512];

/// Why a directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum P9Error {
    /// The guest names the share by its tag.
    #[error("the 9p mount tag {tag:?} must have 1 to {MAX_TAG_LEN} bytes, none of them zero")]
    Tag {
        /// The tag.
        tag: String,
    },
    /// The root is missing, not a directory or not permitted.
    #[error("cannot share {}: {source}", root.display())]
    Root {
        /// The directory.
        root: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// Some of its files keep their reader waiting for ever, and with it the whole share.
    #[error("{} is a {name}, whose files can wait for ever; let the guest mount its own instead", root.display())]
    Pseudo {
        /// The directory.
        root: PathBuf,
        /// Name of the file system.
        name: &'static str,
    },
    /// Files are opened again through /proc/self/fd.
    #[error("cannot share {}: /proc is not usable: {source}; mount it", root.display())]
    Proc {
        /// The directory.
        root: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
}

/// The file server for one directory.
#[derive(Debug)]
pub struct P9 {
    name: String,
    tag: String,
    share: Share,
    /// Buffers that live on from message to message; they grow to [`MSIZE`] at most.
    message: Vec<u8>,
    reply: Vec<u8>,
}

impl P9 {
    /// Serves the directory `root`, which the guest mounts by `tag`.
    ///
    /// # Errors
    /// [`P9Error`] when the tag cannot be one or the host does not let us open the directory.
    pub fn new(tag: &str, root: &Path, mode: ShareMode) -> Result<Self, P9Error> {
        if tag.is_empty() || tag.len() > MAX_TAG_LEN || tag.contains('\0') {
            return Err(P9Error::Tag { tag: tag.to_owned() });
        }
        let share = Share::new(root, mode)?;
        let (name, tag) = (format!("9p-{tag}"), tag.to_owned());
        Ok(Self { name, tag, share, message: Vec::new(), reply: Vec::new() })
    }

    /// Answers one request; the number of bytes written.
    fn serve(&mut self, chain: &Chain, queues: &Queues) -> Result<usize, DeviceError> {
        if !chain.is_reached(&queues.memory) {
            return self.refuse(chain, queues);
        }
        let failed = |source| DeviceError::Host { what: "cannot copy a 9p message".into(), source };
        self.message.clear();
        // What lies beyond the largest message cannot be one: the share finds the message cut short.
        chain
            .hold_readable(&queues.memory)?
            .reader()
            .take(MSIZE.into())
            .read_to_end(&mut self.message)
            .map_err(failed)?;

        // Not held here: the host's files may keep us waiting.
        self.share.answer(&mut self.message, &mut self.reply);

        let held = chain.hold_writable(&queues.memory)?;
        let mut to = held.writer();
        if self.reply.len() > to.remaining() {
            wire::shrink_to_error(&mut self.reply);
        }
        if self.reply.len() <= to.remaining() {
            to.write_all(&self.reply).map_err(failed)?;
        }
        Ok(to.written())
    }

    /// Answers a request to read or write data where no device does it: Linux's client has a program's own memory for that, and its own for what goes
    /// before the data, both ways.
    fn refuse(&mut self, chain: &Chain, queues: &Queues) -> Result<usize, DeviceError> {
        let held = chain.hold_reached(&queues.memory)?;
        let mut header = [0; wire::HEADER_LEN];
        let tag = held.reader().read_exact(&mut header).ok().and_then(|()| wire::type_and_tag(&header));
        let Some((_, tag)) = tag else {
            return Err(chain.broken("a 9p message that begins outside of RAM"));
        };
        wire::write_error(&mut self.reply, tag, Errno::FAULT);
        let mut to = held.writer();
        to.write_all(&self.reply).map_err(|_| chain.broken("room for a 9p reply that begins outside of RAM"))?;
        Ok(to.written())
    }
}

impl VirtioDevice for P9 {
    fn name(&self) -> &str {
        &self.name
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_9P
    }

    fn features(&self) -> u64 {
        F_MOUNT_TAG
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// Length of the tag (16 bits), the tag.
    fn config(&self) -> Vec<u8> {
        let len = u16::try_from(self.tag.len()).unwrap_or(u16::MAX);
        [&len.to_le_bytes(), self.tag.as_bytes()].concat()
    }

    fn activate(&mut self, _features: u64) {}

    fn handle_queue(&mut self, queue: usize, queues: &mut Queues) -> Result<(), DeviceError> {
        while let Some(chain) = queues.pop(queue)? {
            let written = self.serve(&chain, queues)?;
            queues.push_used(chain, written)?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.share.reset();
    }
}
