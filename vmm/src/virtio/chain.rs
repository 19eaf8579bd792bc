//! One request of the driver: a chain of descriptors (virtio 1.2 section 2.7.5), checked, then held, then read and
//! written.

use std::io;

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

use super::DeviceError;
use crate::memory::{Access, DeviceMemory, GuestRange, Held};

/// Longest chain in descriptors, through an indirect table too; what one preadv(2) takes (IOV_MAX).
pub const MAX_CHAIN_LEN: u16 = 1024;

/// Size of a descriptor in guest memory, in bytes (section 2.7.5).
pub(super) const DESCRIPTOR_BYTES: u32 = 16;

/// Longest chain in bytes (section 2.7.5.2).
const MAX_CHAIN_BYTES: u64 = 1 << 32;

/// A request taken from a queue: where its buffers are. The descriptors are checked, the buffers not yet. Give it
/// back with [`super::Queues::push_used`].
#[derive(Debug)]
pub struct Chain {
    queue: usize,
    head: u16,
    readable: Vec<GuestRange>,
    writable: Vec<GuestRange>,
}

/// How far a walk along the descriptors came.
#[derive(Debug)]
pub(super) enum Walk {
    /// To the end.
    Whole(Chain),
    /// To an indirect table, which has the rest.
    Indirect(Chain, Table),
}

/// Where the descriptors of a chain are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    /// First descriptor.
    pub(super) start: GuestAddress,
    /// Number of descriptors.
    pub(super) entries: u16,
    /// Whether the driver may use indirect tables (VIRTIO_F_INDIRECT_DESC).
    pub(super) indirect_allowed: bool,
}

impl Chain {
    /// Follows the chain that begins at `head` of a table that is held. At an indirect table it stops, as that is not held.
    pub(super) fn walk(memory: &GuestMemoryMmap, queue: usize, table: Table, head: u16) -> Result<Walk, DeviceError> {
        let chain = Self { queue, head, readable: Vec::new(), writable: Vec::new() };
        chain.follow(memory, table, head)
    }

    /// Goes on with the indirect table at which [`Self::walk`] stopped.
    pub(super) fn walk_indirect(self, memory: &DeviceMemory, table: Table) -> Result<Self, DeviceError> {
        let held = memory.hold(&[(table.range(), Access::Read)]).map_err(|error| self.broken(&error.to_string()))?;
        match self.follow(&held, table, 0)? {
            Walk::Whole(chain) | Walk::Indirect(chain, _) => Ok(chain),
        }
    }

    /// Adds the buffers of the descriptors from this one on.
    fn follow(mut self, memory: &GuestMemoryMmap, table: Table, first: u16) -> Result<Walk, DeviceError> {
        let (queue, head) = (self.queue, self.head);
        let broken = |what: String| DeviceError::Ring { queue, what: format!("chain {head}: {what}") };
        let (mut index, mut left, mut bytes) = (first, table.entries, self.readable_len() + self.writable_len());
        loop {
            if index >= table.entries {
                return Err(broken(format!("descriptor {index} is outside its table of {}", table.entries)));
            }
            left = left.checked_sub(1).ok_or_else(|| broken("descriptors form a loop".into()))?;
            let offset = u64::from(index) * u64::from(DESCRIPTOR_BYTES);
            let address = table.start.0.checked_add(offset).map(GuestAddress);
            let descriptor = address.and_then(|at| memory.read_obj::<Descriptor>(at).ok());
            let descriptor = descriptor.ok_or_else(|| broken(format!("descriptor {index} cannot be read")))?;
            if descriptor.refers_to_indirect_table() {
                // Within an indirect table no further one is allowed.
                if !table.indirect_allowed {
                    return Err(broken(format!("descriptor {index} may not be indirect")));
                }
                return Ok(Walk::Indirect(self, Table::indirect(descriptor).map_err(broken)?));
            }
            bytes += u64::from(descriptor.len());
            if bytes > MAX_CHAIN_BYTES {
                return Err(broken("longer than 4 GiB".into()));
            }
            self.add(descriptor).map_err(broken)?;
            if !descriptor.has_next() {
                return Ok(Walk::Whole(self));
            }
            index = descriptor.next();
        }
    }

    fn add(&mut self, descriptor: Descriptor) -> Result<(), String> {
        let range = GuestRange { start: descriptor.addr(), len: u64::from(descriptor.len()) };
        if self.readable.len() + self.writable.len() >= usize::from(MAX_CHAIN_LEN) {
            return Err(format!("more than {MAX_CHAIN_LEN} buffers"));
        }
        if descriptor.is_write_only() {
            self.writable.push(range);
        } else if self.writable.is_empty() {
            self.readable.push(range);
        } else {
            return Err("a readable buffer after a writable one".into());
        }
        Ok(())
    }

    /// Index of the queue it was taken from.
    #[must_use]
    pub fn queue(&self) -> usize {
        self.queue
    }

    /// Index of its first descriptor, which names it in the used ring.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Length in bytes of what the driver has written for the device.
    #[must_use]
    pub fn readable_len(&self) -> u64 {
        length(&self.readable)
    }

    /// Length in bytes of the room for the device's answer.
    #[must_use]
    pub fn writable_len(&self) -> u64 {
        length(&self.writable)
    }

    /// Whether devices reach all of its buffers. A program's relaxed memory on several ranks they do not, and a driver that has the program's own memory
    /// read or written cannot know that.
    #[must_use]
    pub fn is_reached(&self, memory: &DeviceMemory) -> bool {
        reached(memory, &self.readable, Access::Read) == self.readable.len()
            && reached(memory, &self.writable, Access::Write) == self.writable.len()
    }

    /// Makes all of its buffers accessible until the returned guard is dropped. A thread has one hold at a time, and waits
    /// for nothing else but the host's disks while it has one.
    ///
    /// # Errors
    /// [`DeviceError::Ring`] when a buffer is not wholly guest RAM, or they are too long.
    pub fn hold<'a>(&'a self, memory: &'a DeviceMemory) -> Result<HeldChain<'a>, DeviceError> {
        self.hold_parts(memory, &self.readable, &self.writable)
    }

    /// Like [`Self::hold`], but only of what the driver has written for the device; the rest reads as if there were none.
    ///
    /// # Errors
    /// As [`Self::hold`].
    pub fn hold_readable<'a>(&'a self, memory: &'a DeviceMemory) -> Result<HeldChain<'a>, DeviceError> {
        self.hold_parts(memory, &self.readable, &[])
    }

    /// Like [`Self::hold`], but only of the room for the device's answer; the rest reads as if there were none.
    ///
    /// # Errors
    /// As [`Self::hold`].
    pub fn hold_writable<'a>(&'a self, memory: &'a DeviceMemory) -> Result<HeldChain<'a>, DeviceError> {
        self.hold_parts(memory, &[], &self.writable)
    }

    /// Like [`Self::hold`], but only of what is ahead of the first buffer that devices do not reach, of both kinds.
    ///
    /// # Errors
    /// As [`Self::hold`].
    pub fn hold_reached<'a>(&'a self, memory: &'a DeviceMemory) -> Result<HeldChain<'a>, DeviceError> {
        let (readable, _) = self.readable.split_at(reached(memory, &self.readable, Access::Read));
        let (writable, _) = self.writable.split_at(reached(memory, &self.writable, Access::Write));
        self.hold_parts(memory, readable, writable)
    }

    /// Like [`Self::hold`], but only of the last buffer that the device writes.
    ///
    /// # Errors
    /// As [`Self::hold`].
    pub fn hold_last<'a>(&'a self, memory: &'a DeviceMemory) -> Result<HeldChain<'a>, DeviceError> {
        let last = self.writable.len().saturating_sub(1);
        self.hold_parts(memory, &[], self.writable.get(last..).unwrap_or_default())
    }

    fn hold_parts<'a>(
        &'a self,
        memory: &'a DeviceMemory,
        readable: &'a [GuestRange],
        writable: &'a [GuestRange],
    ) -> Result<HeldChain<'a>, DeviceError> {
        let to_read = readable.iter().map(|range| (*range, Access::Read));
        let ranges: Vec<_> = to_read.chain(writable.iter().map(|range| (*range, Access::Write))).collect();
        let held = memory.hold(&ranges).map_err(|error| self.broken(&error.to_string()))?;
        Ok(HeldChain { chain: self, held, readable, writable })
    }

    /// The error that says what is wrong with this chain.
    #[must_use]
    pub fn broken(&self, what: &str) -> DeviceError {
        DeviceError::Ring { queue: self.queue, what: format!("chain {}: {what}", self.head) }
    }
}

/// How many of these there are ahead of the first one that devices do not reach.
fn reached(memory: &DeviceMemory, ranges: &[GuestRange], access: Access) -> usize {
    ranges.iter().take_while(|range| memory.check(&[(**range, access)]).is_ok()).count()
}

/// Length of all ranges together in bytes.
fn length(ranges: &[GuestRange]) -> u64 {
    ranges.iter().map(|range| range.len).sum()
}

impl Table {
    pub(super) fn range(&self) -> GuestRange {
        GuestRange { start: self.start, len: u64::from(self.entries) * u64::from(DESCRIPTOR_BYTES) }
    }

    /// The table an indirect descriptor refers to (section 2.7.5.3).
    fn indirect(descriptor: Descriptor) -> Result<Self, String> {
        let len = descriptor.len();
        let entries = u16::try_from(len / DESCRIPTOR_BYTES).ok().filter(|entries| *entries <= MAX_CHAIN_LEN);
        match entries {
            Some(entries) if entries > 0 && len.is_multiple_of(DESCRIPTOR_BYTES) => {
                Ok(Self { start: descriptor.addr(), entries, indirect_allowed: false })
            }
            _ => Err(format!("an indirect table of {len} bytes")),
        }
    }
}

/// A chain whose buffers are held.
#[derive(Debug)]
pub struct HeldChain<'a> {
    chain: &'a Chain,
    held: Held<'a>,
    readable: &'a [GuestRange],
    writable: &'a [GuestRange],
}

impl HeldChain<'_> {
    /// Reads what the driver has written for the device, from its first byte.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        Reader(Slices::new(self.readable_slices()))
    }

    /// Writes the device's answer, from its first byte.
    #[must_use]
    pub fn writer(&self) -> Writer<'_> {
        Writer { slices: Slices::new(self.writable_slices()), written: 0 }
    }

    /// All that the driver has written for the device.
    ///
    /// # Errors
    /// [`DeviceError::Ring`] when that is more than `limit` bytes.
    pub fn read_all(&self, limit: usize) -> Result<Vec<u8>, DeviceError> {
        let len = usize::try_from(length(self.readable)).ok().filter(|len| *len <= limit);
        let len = len.ok_or_else(|| self.chain.broken(&format!("a request of more than {limit} bytes")))?;
        let mut bytes = vec![0; len];
        let read = Slices::new(self.readable_slices()).copy_to(&mut bytes);
        bytes.truncate(read);
        Ok(bytes)
    }

    /// The readable buffers in host memory, for vectored I/O.
    #[must_use]
    pub fn readable_slices(&self) -> Vec<VolatileSlice<'_>> {
        slices_of(&self.held, self.readable, Permissions::Read)
    }

    /// The writable buffers in host memory, for vectored I/O.
    #[must_use]
    pub fn writable_slices(&self) -> Vec<VolatileSlice<'_>> {
        slices_of(&self.held, self.writable, Permissions::Write)
    }
}

/// The held ranges in host memory; a range that spans regions gives several slices, an empty one gives none.
fn slices_of<'a>(held: &'a Held<'_>, ranges: &[GuestRange], access: Permissions) -> Vec<VolatileSlice<'a>> {
    let of_range = |range: &GuestRange| {
        let len = usize::try_from(range.len).unwrap_or(0);
        // Being held, the range is RAM, so no error is dropped here.
        held.get_slices(range.start, len, access).into_iter().flatten().flatten()
    };
    ranges.iter().flat_map(of_range).collect()
}

/// A position in a row of slices.
#[derive(Debug)]
struct Slices<'a> {
    slices: Vec<VolatileSlice<'a>>,
    /// Index of the slice of the next byte.
    current: usize,
    /// Offset of the next byte in that slice.
    offset: usize,
}

impl<'a> Slices<'a> {
    fn new(slices: Vec<VolatileSlice<'a>>) -> Self {
        Self { slices, current: 0, offset: 0 }
    }

    /// Gives the rest of the current slice, `want` bytes at most, and moves past it.
    fn take(&mut self, want: usize) -> Option<VolatileSlice<'a>> {
        while let Some(slice) = self.slices.get(self.current) {
            let count = want.min(slice.len().saturating_sub(self.offset));
            if count > 0 {
                let part = slice.subslice(self.offset, count).ok()?;
                self.offset += count;
                return Some(part);
            }
            if want == 0 {
                return None;
            }
            (self.current, self.offset) = (self.current + 1, 0);
        }
        None
    }

    fn copy_to(&mut self, mut to: &mut [u8]) -> usize {
        let wanted = to.len();
        while let Some(part) = self.take(to.len()) {
            let (now, later) = std::mem::take(&mut to).split_at_mut(part.len());
            part.copy_to(now);
            to = later;
        }
        wanted - to.len()
    }

    fn copy_from(&mut self, mut from: &[u8]) -> usize {
        let wanted = from.len();
        while let Some(part) = self.take(from.len()) {
            let (now, later) = from.split_at(part.len());
            part.copy_from(now);
            from = later;
        }
        wanted - from.len()
    }

    fn remaining(&self) -> usize {
        let slices = self.slices.get(self.current..).unwrap_or_default();
        slices.iter().map(VolatileSlice::len).sum::<usize>().saturating_sub(self.offset)
    }
}

/// Reads the readable buffers of a held chain in order; at their end it reads nothing.
#[derive(Debug)]
pub struct Reader<'a>(Slices<'a>);

impl Reader<'_> {
    /// Bytes not read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.0.remaining()
    }

    /// Passes over the next bytes, as far as there are any.
    pub fn skip(&mut self, bytes: usize) {
        let mut left = bytes;
        while let Some(part) = self.0.take(left) {
            left -= part.len();
        }
    }
}

impl io::Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.copy_to(buf))
    }
}

/// Writes the writable buffers of a held chain in order; at their end it writes nothing.
#[derive(Debug)]
pub struct Writer<'a> {
    slices: Slices<'a>,
    written: usize,
}

impl Writer<'_> {
    /// Room left in bytes.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.slices.remaining()
    }

    /// Bytes written so far: the length to give to [`super::Queues::push_used`].
    #[must_use]
    pub fn written(&self) -> usize {
        self.written
    }
}

impl io::Write for Writer<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = self.slices.copy_from(buf);
        self.written += count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
