//! Block device (virtio 1.2 section 5.2) over a raw file or a host block device.
//!
//! Data moves with preadv(2) and pwritev(2) straight between the file and the guest's buffers. The driver sees a
//! write-back cache, the host's page cache: what a flush answers with success is on stable storage. A driver that
//! does not accept flushes gets every write synced before it is answered.

use std::io::Read;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vm_memory::{Bytes, VolatileSlice};

use super::{Chain, DeviceError, HeldChain, Queues, VirtioDevice};

mod disk;

pub use disk::{Disk, DiskError, OpenDiskError};

/// Requests the driver may have waiting, in descriptors.
const QUEUE_SIZES: [u16; 1] = [256];
/// Data buffers of one request: all descriptors but those of the header and the status.
const SEG_MAX: u32 = 254;
/// Unit of addresses and lengths in bytes, whatever the disk's own (section 5.2.6).
pub const SECTOR_BYTES: u64 = 512;
/// Length in bytes of a request's header: type, reserved, sector.
const HEADER_BYTES: usize = 16;

const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;

/// The block device.
#[derive(Debug)]
pub struct Blk {
    name: String,
    disk: Disk,
    write_through: bool,
}

/// Why a request fails.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("not supported")]
    Unsupported,
    #[error("{0}")]
    Disk(#[from] DiskError),
}

impl Failure {
    /// The status byte that says so (section 5.2.6).
    fn status(&self) -> u32 {
        match self {
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP,
            Self::Disk(_) => VIRTIO_BLK_S_IOERR,
        }
    }
}

impl Blk {
    /// A block device of this name on a disk. The name's first 20 bytes are its serial number.
    #[must_use]
    pub fn new(name: &str, disk: Disk) -> Self {
        Self { name: name.to_owned(), disk, write_through: false }
    }

    /// Serves one request and returns how many bytes of it were written.
    fn serve(&mut self, chain: &Chain, held: &HeldChain<'_>) -> Result<usize, DeviceError> {
        let mut header = [0; HEADER_BYTES];
        if held.reader().read_exact(&mut header).is_err() {
            return Err(chain.broken(&format!("a request header under {HEADER_BYTES} bytes")));
        }
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let (kind, sector) = (u32::from_le_bytes([t0, t1, t2, t3]), u64::from_le_bytes(sector));
        let writable = held.writable_slices();
        let room = room(chain, &writable)?;
        let answer = part(&writable, 0, room);
        let result = self.answer(kind, sector, &part(&held.readable_slices(), HEADER_BYTES, usize::MAX), &answer);
        let (status, answered) = match result {
            Ok(answered) => (VIRTIO_BLK_S_OK, answered),
            Err(failure) => {
                tracing::debug!("{}: request {kind} at sector {sector}: {failure}", self.name);
                (failure.status(), 0)
            }
        };
        set_status(chain, &writable, status)?;
        // What is used counts from the first writable byte without a gap (section 2.7.8.2), and the status is the last.
        Ok(if answered == room { room + 1 } else { answered })
    }

    /// Answers a request with data where no device reads or writes it; the status is the driver's own.
    fn refuse(&self, chain: &Chain, queues: &Queues) -> Result<usize, DeviceError> {
        tracing::debug!("{}: a request with data outside of RAM", self.name);
        set_status(chain, &chain.hold_last(&queues.memory)?.writable_slices(), VIRTIO_BLK_S_IOERR)?;
        // Of what goes before the status nothing is written.
        Ok(0)
    }

    /// Does what a request asks for and returns how many bytes of `answer` it filled.
    fn answer(
        &mut self,
        kind: u32,
        sector: u64,
        data: &[VolatileSlice<'_>],
        answer: &[VolatileSlice<'_>],
    ) -> Result<usize, Failure> {
        match kind {
            VIRTIO_BLK_T_IN => self.disk.read(sector, answer)?,
            VIRTIO_BLK_T_OUT => self.write(sector, data)?,
            VIRTIO_BLK_T_FLUSH => self.disk.flush()?,
            VIRTIO_BLK_T_GET_ID => return Ok(self.write_id(answer)),
            _ => return Err(Failure::Unsupported),
        }
        Ok(if kind == VIRTIO_BLK_T_IN { total(answer) } else { 0 })
    }

    fn write(&mut self, sector: u64, data: &[VolatileSlice<'_>]) -> Result<(), DiskError> {
        self.disk.write(sector, data)?;
        if self.write_through { self.disk.flush() } else { Ok(()) }
    }

    /// Writes the serial number, zero-padded but not terminated (section 5.2.6.1), as far as there is room.
    fn write_id(&self, room: &[VolatileSlice<'_>]) -> usize {
        let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
        id.iter_mut().zip(self.name.bytes()).for_each(|(to, from)| *to = from);
        let mut written = 0;
        for slice in part(room, 0, id.len()) {
            slice.copy_from(id.get(written..).unwrap_or_default());
            written += slice.len();
        }
        written
    }
}

impl VirtioDevice for Blk {
    fn name(&self) -> &str {
        &self.name
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        FLUSH | 1 << VIRTIO_BLK_F_SEG_MAX | if self.disk.read_only() { 1 << VIRTIO_BLK_F_RO } else { 0 }
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// Capacity in sectors, SIZE_MAX (not offered), SEG_MAX (section 5.2.4).
    fn config(&self) -> Vec<u8> {
        let capacity = self.disk.sectors().to_le_bytes();
        [&capacity[..], &0_u32.to_le_bytes(), &SEG_MAX.to_le_bytes()].concat()
    }

    fn activate(&mut self, features: u64) {
        self.write_through = features & FLUSH == 0;
    }

    fn handle_queue(&mut self, queue: usize, queues: &mut Queues) -> Result<(), DeviceError> {
        while let Some(chain) = queues.pop(queue)? {
            let written = if chain.is_reached(&queues.memory) {
                self.serve(&chain, &chain.hold(&queues.memory)?)?
            } else {
                self.refuse(&chain, queues)?
            };
            queues.push_used(chain, written)?;
        }
        Ok(())
    }

    fn reset(&mut self) {}
}

/// Bytes of the buffers of an answer ahead of its last one, which is the status.
fn room(chain: &Chain, writable: &[VolatileSlice<'_>]) -> Result<usize, DeviceError> {
    total(writable).checked_sub(1).ok_or_else(|| chain.broken("a request without room for its status"))
}

/// Writes the last byte of an answer's buffers.
fn set_status(chain: &Chain, writable: &[VolatileSlice<'_>], status: u32) -> Result<(), DeviceError> {
    for last in part(writable, room(chain, writable)?, 1) {
        last.write_obj(status.to_le_bytes()[0], 0).map_err(|error| chain.broken(&error.to_string()))?;
    }
    Ok(())
}

/// Length of all slices together in bytes.
fn total(slices: &[VolatileSlice<'_>]) -> usize {
    slices.iter().map(VolatileSlice::len).sum()
}

/// The bytes from `start` on, `len` at most, of the slices taken as one.
fn part<'a>(slices: &[VolatileSlice<'a>], start: usize, len: usize) -> Vec<VolatileSlice<'a>> {
    let (mut skip, mut left) = (start, len);
    let cut = |slice: &VolatileSlice<'a>| {
        let from = skip.min(slice.len());
        let count = left.min(slice.len() - from);
        (skip, left) = (skip - from, left - count);
        slice.subslice(from, count).ok().filter(|part| !part.is_empty())
    };
    slices.iter().filter_map(cut).collect()
}

#[cfg(test)]
mod tests;
