//! A raw disk image or host block device: opened and locked, read and written in sectors.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use vm_memory::VolatileSlice;

use super::{SECTOR_BYTES, part, total};

/// Buffers that one preadv(2) or pwritev(2) takes (IOV_MAX).
const MAX_IOVECS: usize = 1024;

/// Why a disk cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenDiskError {
    /// It is missing, or not permitted, or cannot be examined.
    #[error("cannot open disk {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// A directory, pipe, socket or terminal.
    #[error("disk {} is neither a regular file nor a block device (give a raw disk image)", path.display())]
    NotADisk {
        /// The file.
        path: PathBuf,
    },
    /// It is empty or its end is inside a sector.
    #[error(
        "disk {} has {bytes} bytes, which is not one or more whole sectors of {SECTOR_BYTES} (`truncate -s %{SECTOR_BYTES}` \
         rounds a raw image up; other formats must be converted to raw)",
        path.display()
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Another process has it open as a disk.
    #[error("disk {} is locked by another run (wait for it to end, or give the disk as read-only to both)", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
}

/// Why a request on a disk fails.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Part of the request is beyond the end of the disk.
    #[error("beyond the end of the disk")]
    OutOfRange,
    /// The length is no multiple of the sector's.
    #[error("not a whole number of sectors")]
    PartOfSector,
    /// A write to a disk that was opened read-only.
    #[error("the disk is read-only")]
    ReadOnly,
    /// The host failed; nothing is known of the data.
    #[error("the host failed: {0}")]
    Host(#[from] io::Error),
    /// An earlier flush failed, so writes that were not synced may be lost although the host reports them no more.
    #[error("an earlier flush failed")]
    EarlierFlush,
}

/// An open disk; its lock is kept until it is dropped.
#[derive(Debug)]
pub struct Disk {
    file: File,
    sectors: u64,
    read_only: bool,
    /// A flush failed; nothing is known any more of what was written before it.
    pub(super) flush_failed: bool,
}

impl Disk {
    /// Opens and locks a disk: alone for writing, shared with other readers for reading.
    ///
    /// # Errors
    /// [`OpenDiskError`] names the file and what to do.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, OpenDiskError> {
        let failed = |source| OpenDiskError::Open { path: path.to_owned(), source };
        // Looked at before it is opened: opening a pipe or a terminal may wait or do something.
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenDiskError::NotADisk { path: path.to_owned() });
        }
        let mut file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(failed)?;
        let lock =
            if read_only { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
        flock(&file, lock).map_err(|error| match error {
            Errno::WOULDBLOCK => OpenDiskError::Locked { path: path.to_owned() },
            other => failed(other.into()),
        })?;
        let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if bytes == 0 || !bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(OpenDiskError::Size { path: path.to_owned(), bytes });
        }
        Ok(Self { file, sectors: bytes / SECTOR_BYTES, read_only, flush_failed: false })
    }

    /// Size in sectors of [`SECTOR_BYTES`].
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether writes are refused.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Fills the buffers from this sector on.
    ///
    /// # Errors
    /// [`DiskError`]; the buffers may be partly filled.
    pub fn read(&self, sector: u64, buffers: &[VolatileSlice<'_>]) -> Result<(), DiskError> {
        let offset = self.offset(sector, buffers)?;
        transfer(buffers, offset, |iovecs, count, offset| {
            // SAFETY: the iovecs describe guest RAM that is mapped as long as the buffers are borrowed; it is only
            // ever accessed as volatile memory, so the kernel may write to it while the guest uses it.
            unsafe { libc::preadv(self.file.as_raw_fd(), iovecs, count, offset) }
        })
    }

    /// Writes the buffers from this sector on.
    ///
    /// # Errors
    /// [`DiskError`]; part of the buffers may be written.
    pub fn write(&self, sector: u64, buffers: &[VolatileSlice<'_>]) -> Result<(), DiskError> {
        if self.read_only {
            return Err(DiskError::ReadOnly);
        }
        let offset = self.offset(sector, buffers)?;
        transfer(buffers, offset, |iovecs, count, offset| {
            // SAFETY: the iovecs describe guest RAM that is mapped as long as the buffers are borrowed.
            unsafe { libc::pwritev(self.file.as_raw_fd(), iovecs, count, offset) }
        })
    }

    /// Puts everything written on stable storage. The kernel reports a lost write once; from then on every flush fails.
    ///
    /// # Errors
    /// [`DiskError`] when this or an earlier flush failed.
    pub fn flush(&mut self) -> Result<(), DiskError> {
        if self.flush_failed {
            return Err(DiskError::EarlierFlush);
        }
        self.file.sync_data().map_err(|error| {
            self.flush_failed = true;
            DiskError::Host(error)
        })
    }

    /// The offset of a request in bytes, once it is known to be within the disk.
    fn offset(&self, sector: u64, buffers: &[VolatileSlice<'_>]) -> Result<u64, DiskError> {
        let len = total(buffers) as u64;
        if !len.is_multiple_of(SECTOR_BYTES) {
            return Err(DiskError::PartOfSector);
        }
        let end = sector.checked_add(len / SECTOR_BYTES).ok_or(DiskError::OutOfRange)?;
        if end > self.sectors {
            return Err(DiskError::OutOfRange);
        }
        sector.checked_mul(SECTOR_BYTES).ok_or(DiskError::OutOfRange)
    }
}

/// Moves all the buffers by calls of a vectored system call, which may move less than it was asked for.
fn transfer(
    buffers: &[VolatileSlice<'_>],
    offset: u64,
    call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
) -> Result<(), DiskError> {
    let mut rest = buffers.to_vec();
    let mut offset = offset;
    while !rest.is_empty() {
        // The guards only mark the borrow: the RAM stays mapped without them.
        let iovec = |slice: &VolatileSlice<'_>| libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        };
        let iovecs: Vec<libc::iovec> = rest.iter().take(MAX_IOVECS).map(iovec).collect();
        let count = libc::c_int::try_from(iovecs.len()).map_err(io::Error::other)?;
        let at = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        match usize::try_from(call(iovecs.as_ptr(), count, at)) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(moved) => {
                rest = part(&rest, moved, usize::MAX);
                offset = offset.saturating_add(moved as u64);
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error.into());
                }
            }
        }
    }
    Ok(())
}
