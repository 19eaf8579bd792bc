//! Entropy device (virtio 1.2 section 5.4): fills the driver's buffers with random bytes of the host kernel.

use std::io::{self, Write};

use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::{DeviceError, Queues, VirtioDevice};

/// Buffers the driver may have waiting; Linux keeps one.
const QUEUE_SIZES: [u16; 1] = [16];

/// Random bytes given for one buffer at most. A device may fill less than the buffer (section 5.4.6.2), which bounds
/// the work that one request asks for.
const MAX_BYTES: usize = 4096;

/// The entropy device.
#[derive(Debug)]
pub struct Rng {
    name: String,
}

impl Rng {
    /// An entropy device of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }
}

impl VirtioDevice for Rng {
    fn name(&self) -> &str {
        &self.name
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn activate(&mut self, _features: u64) {}

    fn handle_queue(&mut self, queue: usize, queues: &mut Queues) -> Result<(), DeviceError> {
        let failed = |source| DeviceError::Host { what: "cannot get random bytes".into(), source };
        while let Some(chain) = queues.pop(queue)? {
            let written = {
                let room = usize::try_from(chain.writable_len()).unwrap_or(MAX_BYTES);
                let mut bytes = vec![0; room.min(MAX_BYTES)];
                fill(&mut bytes).map_err(failed)?;
                let held = chain.hold_writable(&queues.memory)?;
                let mut to = held.writer();
                to.write_all(&bytes).map_err(failed)?;
                to.written()
            };
            queues.push_used(chain, written)?;
        }
        Ok(())
    }

    fn reset(&mut self) {}
}

fn fill(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match getrandom(&mut *bytes, GetRandomFlags::empty()) {
            Ok(count) => bytes = std::mem::take(&mut bytes).get_mut(count..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::Driver;

    #[test]
    fn buffers_are_filled_with_different_bytes() {
        let mut driver = Driver::ready(Rng::new("rng"));
        let first = driver.request(0, &[], &[64, 64]);
        let second = driver.request(0, &[], &[128]);
        assert_eq!((first.len(), second.len()), (128, 128));
        assert_ne!(first, second);
        assert_ne!(first[..64], first[64..]);
    }

    #[test]
    fn a_large_buffer_is_filled_up_to_the_limit() {
        let mut driver = Driver::ready(Rng::new("rng"));
        assert_eq!(driver.request(0, &[], &[4096, 1]).len(), MAX_BYTES);
        assert_eq!(driver.request(0, &[], &[4095]).len(), MAX_BYTES - 1);
    }

    #[test]
    fn a_request_without_room_comes_back_empty() {
        let mut driver = Driver::ready(Rng::new("rng"));
        assert_eq!(driver.request(0, &[b"what?"], &[]), b"");
        assert_eq!(driver.request(0, &[], &[0]), b"");
    }
}
