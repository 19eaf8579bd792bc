//! Port and memory-mapped I/O: which device an address belongs to.

use std::fmt::Debug;
use std::sync::Arc;

/// A device reached by IN and OUT.
pub trait PioDevice: Send + Sync + Debug {
    /// Reads `data.len()` bytes from an absolute port; leaves what it does not answer as it is (all ones).
    fn read(&self, port: u16, data: &mut [u8]);
    /// Writes to an absolute port.
    fn write(&self, port: u16, data: &[u8]);
}

/// A device reached by memory accesses.
pub trait MmioDevice: Send + Sync + Debug {
    /// Reads `data.len()` bytes at an offset into its range; leaves what it does not answer as it is (all ones).
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Writes at an offset into its range.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A range of addresses is taken already.
#[derive(Debug, thiserror::Error)]
#[error("I/O range {start:#x}+{len:#x} overlaps one that is taken")]
pub struct Overlap {
    start: u64,
    len: u64,
}

/// Devices by address. Addresses where there is none read as all ones and ignore writes, like an empty bus.
#[derive(Debug, Default)]
pub struct Bus {
    pio: Ranges<Arc<dyn PioDevice>>,
    mmio: Ranges<Arc<dyn MmioDevice>>,
}

impl Bus {
    /// Puts a device at `len` ports from `start`.
    ///
    /// # Errors
    /// [`Overlap`] when a port is taken.
    pub fn add_pio(&mut self, start: u16, len: u16, device: Arc<dyn PioDevice>) -> Result<(), Overlap> {
        self.pio.add(start.into(), len.into(), device)
    }

    /// Puts a device at `len` bytes from guest-physical address `start`.
    ///
    /// # Errors
    /// [`Overlap`] when an address is taken.
    pub fn add_mmio(&mut self, start: u64, len: u64, device: Arc<dyn MmioDevice>) -> Result<(), Overlap> {
        self.mmio.add(start, len, device)
    }

    pub(crate) fn pio_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((_, device)) = self.pio.find(port.into()) {
            each_access(data.len()).for_each(|part| device.read(port, &mut data[part]));
        }
    }

    pub(crate) fn pio_write(&self, port: u16, data: &[u8]) {
        if let Some((_, device)) = self.pio.find(port.into()) {
            each_access(data.len()).for_each(|part| device.write(port, &data[part]));
        }
    }

    pub(crate) fn mmio_read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, device)) = self.mmio.find(address) {
            device.read(offset, data);
        }
    }

    pub(crate) fn mmio_write(&self, address: u64, data: &[u8]) {
        if let Some((offset, device)) = self.mmio.find(address) {
            device.write(offset, data);
        }
    }
}

/// The accesses that `len` bytes at one port stand for: one, or with a string instruction many. KVM does not say
/// their width here; every device of ours that a string instruction makes sense on has ports of one byte.
fn each_access(len: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    const WIDEST: usize = 4;
    let width = if len <= WIDEST { len.max(1) } else { 1 };
    (0..len).step_by(width).map(move |start| start..start + width)
}

#[derive(Debug)]
struct Ranges<D>(Vec<Range<D>>);

#[derive(Debug)]
struct Range<D> {
    start: u64,
    len: u64,
    device: D,
}

impl<D> Default for Ranges<D> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<D> Ranges<D> {
    fn add(&mut self, start: u64, len: u64, device: D) -> Result<(), Overlap> {
        let at = self.0.partition_point(|range| range.start < start);
        let before = at.checked_sub(1).and_then(|index| self.0.get(index));
        // An end that cannot be told is beyond everything.
        let ends_after = |start: u64, len: u64, address: u64| start.checked_add(len).is_none_or(|end| end > address);
        let clash = before.is_some_and(|range| ends_after(range.start, range.len, start))
            || self.0.get(at).is_some_and(|range| ends_after(start, len, range.start));
        if clash {
            return Err(Overlap { start, len });
        }
        self.0.insert(at, Range { start, len, device });
        Ok(())
    }

    fn find(&self, address: u64) -> Option<(u64, &D)> {
        let at = self.0.partition_point(|range| range.start <= address);
        let range = self.0.get(at.checked_sub(1)?)?;
        let offset = address - range.start;
        (offset < range.len).then_some((offset, &range.device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_up_to_their_last_address() {
        let mut ranges = Ranges::default();
        ranges.add(0x100, 0x10, 'a').unwrap();
        ranges.add(0x110, 1, 'b').unwrap();
        ranges.add(0x80, 0x80, 'c').unwrap();
        assert_eq!(ranges.find(0x10f), Some((0xf, &'a')));
        assert_eq!(ranges.find(0x110), Some((0, &'b')));
        assert_eq!(ranges.find(0x111), None);
        assert_eq!(ranges.find(0x7f), None);
    }

    #[test]
    fn overlapping_ranges_are_refused() {
        let mut ranges = Ranges::default();
        ranges.add(0x100, 0x10, 'a').unwrap();
        for (start, len) in [(0x100, 1), (0x10f, 1), (0xff, 2), (0x80, 0x100)] {
            assert!(ranges.add(start, len, 'b').is_err(), "{start:#x}+{len:#x}");
        }
        ranges.add(u64::MAX, 1, 'c').unwrap();
        assert!(ranges.add(0x200, u64::MAX, 'd').is_err(), "its end overflows");
        assert_eq!((ranges.find(u64::MAX), ranges.find(u64::MAX - 1)), (Some((0, &'c')), None));
    }

    #[test]
    fn an_empty_bus_reads_all_ones() {
        let mut data = [0; 4];
        Bus::default().mmio_read(0xd000_0000, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn string_accesses_are_split_into_bytes() {
        assert_eq!((each_access(4).count(), each_access(4).next()), (1, Some(0..4)));
        assert_eq!(each_access(6).count(), 6);
    }
}
