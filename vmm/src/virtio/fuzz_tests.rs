//! Drivers that do anything at all to every device: it survives, writes only where it was told to, and serves the
//! next driver.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Instant;

use proptest::prelude::*;
use proptest::sample::select;
use virtio_bindings::virtio_mmio::*;
use vm_memory::{Bytes, GuestAddress};

use super::blk::{Blk, Disk};
use super::console::{Console, Port};
use super::testing::{Driver, END_OF_RAM, ENTRIES, PATIENCE};
use super::{Rng, VirtioDevice};

/// Drivers tried on each device.
const DRIVERS: u32 = 128;
/// Steps of each driver.
const STEPS: usize = 60;
/// Part of RAM that no generated address names; nothing may write there.
const UNNAMED: std::ops::Range<u64> = 0x70_0000..0x7f_0000;

/// One thing a driver does.
#[derive(Clone, Debug)]
enum Step {
    WriteRegister(u32, u32),
    WriteBytes(u64, Vec<u8>),
    Read(u64, usize),
    Descriptor {
        queue: usize,
        index: u16,
        fields: (u64, u32, u16, u16),
    },
    /// An entry of the indirect table that descriptors may refer to.
    Indirect {
        index: u64,
        fields: (u64, u32, u16, u16),
    },
    Request {
        queue: usize,
        kind: u32,
        sector: u64,
        room: u32,
    },
    Publish {
        queue: usize,
        head: u16,
    },
    AvailIndex {
        queue: usize,
        index: u16,
    },
    Kick(usize),
    Reset,
    Probe(u64),
}

const INDIRECT_TABLE: u64 = 0x60_0000;
/// Entries of it that are ever written; longer tables go on with zeros.
const INDIRECT_ENTRIES: u64 = 16;

fn value() -> impl Strategy<Value = u32> {
    let rings: Vec<u32> = (0..4).flat_map(Driver::ring).map(|address| u32::try_from(address).unwrap()).collect();
    prop_oneof![
        4 => 0..20_u32,
        2 => select(rings),
        1 => select(vec![64, 127, 128, 256, 512, 0x8000, 0x1_0000, u32::MAX, u32::MAX - 15]),
        1 => 0..0x6f_0000_u32,
        1 => Just(u32::try_from(END_OF_RAM).unwrap() - 16),
    ]
}

fn register() -> impl Strategy<Value = u32> {
    let known = vec![
        VIRTIO_MMIO_DRIVER_FEATURES,
        VIRTIO_MMIO_QUEUE_SEL,
        VIRTIO_MMIO_QUEUE_NUM,
        VIRTIO_MMIO_QUEUE_READY,
        VIRTIO_MMIO_QUEUE_NOTIFY,
        VIRTIO_MMIO_INTERRUPT_ACK,
        VIRTIO_MMIO_STATUS,
        VIRTIO_MMIO_QUEUE_DESC_LOW,
        VIRTIO_MMIO_QUEUE_AVAIL_LOW,
        VIRTIO_MMIO_QUEUE_USED_LOW,
    ];
    prop_oneof![3 => select(known), 1 => 0..0x140_u32]
}

fn fields() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let address = prop_oneof![
        6 => (0..4_usize, 0..ENTRIES).prop_map(|(queue, index)| Driver::slot(queue, index)),
        1 => Just(INDIRECT_TABLE),
        1 => 0x1000..0x6f_0000_u64,
        1 => select(vec![END_OF_RAM - 512, END_OF_RAM - 1, END_OF_RAM, 1 << 40, u64::MAX - 511, u64::MAX]),
    ];
    let len = select(vec![0_u32, 1, 2, 8, 16, 17, 64, 256, 512, 513, 4096, 0x3000, 0xffff_fff0, u32::MAX]);
    (address, len, 0..8_u16, 0..=ENTRIES)
}

fn step(queues: usize) -> impl Strategy<Value = Step> {
    let queue = 0..queues;
    let sector = prop_oneof![0..70_u64, Just(u64::MAX)];
    prop_oneof![
        4 => (register(), value()).prop_map(|(register, value)| Step::WriteRegister(register, value)),
        1 => (any::<u64>(), prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(at, bytes)| Step::WriteBytes(at, bytes)),
        1 => (0..0x200_u64, 0..9_usize).prop_map(|(at, len)| Step::Read(at, len)),
        8 => (queue.clone(), 0..ENTRIES, fields()).prop_map(|(queue, index, fields)| Step::Descriptor { queue, index, fields }),
        4 => (0..INDIRECT_ENTRIES, fields()).prop_map(|(index, fields)| Step::Indirect { index, fields }),
        6 => (queue.clone(), 0..14_u32, sector, 0..0x1002_u32)
            .prop_map(|(queue, kind, sector, room)| Step::Request { queue, kind, sector, room }),
        6 => (queue.clone(), 0..=ENTRIES).prop_map(|(queue, head)| Step::Publish { queue, head }),
        1 => (queue.clone(), any::<u16>()).prop_map(|(queue, index)| Step::AvailIndex { queue, index }),
        6 => queue.prop_map(Step::Kick),
        1 => Just(Step::Reset),
        4 => any::<u64>().prop_map(Step::Probe),
    ]
}

/// Does what the steps say, then sees whether the device still works for a driver that keeps the rules.
fn drive(device: impl VirtioDevice + 'static, steps: &[Step]) {
    let start = Instant::now();
    let mut driver = Driver::ready(device);
    for step in steps {
        match step.clone() {
            Step::WriteRegister(register, value) => driver.set(register, value),
            Step::WriteBytes(offset, bytes) => driver.transport.write(offset, &bytes),
            Step::Read(offset, len) => driver.transport.read(offset, &mut vec![0; len]),
            Step::Descriptor { queue, index, fields } => driver.write_descriptor(queue, index, fields),
            Step::Indirect { index, fields: (address, len, flags, next) } => {
                let descriptor = virtio_queue::desc::split::Descriptor::new(address, len, flags, next);
                driver.memory().write_obj(descriptor, GuestAddress(INDIRECT_TABLE + 16 * index)).unwrap();
            }
            Step::Request { queue, kind, sector, room } => {
                // A block request, and a control message of the console when its sector is small.
                let header =
                    [&kind.to_le_bytes()[..], &[u8::try_from(kind % 8).unwrap(), 0, 1, 0], &sector.to_le_bytes()];
                if driver.room(queue) >= 2 {
                    driver.add(queue, &[&header.concat()], &[room]);
                    driver.kick(queue);
                }
            }
            Step::Publish { queue, head } => driver.publish(queue, head),
            Step::AvailIndex { queue, index } => {
                let at = GuestAddress(Driver::ring(queue)[1] + 2);
                driver.memory().store(index, at, Ordering::SeqCst).unwrap();
            }
            Step::Kick(queue) => driver.kick(queue),
            Step::Reset => driver.reset(),
            Step::Probe(features) => driver.probe(features | 1 << 32),
        }
    }
    // A device whose thread panicked would need a reset for ever.
    driver.probe(u64::MAX);
    let mut unnamed = vec![0; usize::try_from(UNNAMED.end - UNNAMED.start).unwrap()];
    driver.memory().read_slice(&mut unnamed, GuestAddress(UNNAMED.start)).unwrap();
    assert!(unnamed.iter().all(|byte| *byte == 0), "written where nothing was to be written");
    drop(driver);
    assert!(start.elapsed() < PATIENCE, "took {:?}", start.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(DRIVERS))]

    #[test]
    fn rng_survives_any_driver(steps in prop::collection::vec(step(1), 1..STEPS)) {
        drive(Rng::new("rng"), &steps);
    }

    #[test]
    fn blk_survives_any_driver(steps in prop::collection::vec(step(1), 1..STEPS)) {
        let mut image = tempfile::NamedTempFile::new().unwrap();
        image.write_all(&[0xb1; 64 * 512]).unwrap();
        drive(Blk::new("blk", Disk::open(image.path(), false).unwrap()), &steps);
        prop_assert_eq!(image.as_file().metadata().unwrap().len(), 64 * 512);
    }

    #[test]
    fn console_survives_any_driver(steps in prop::collection::vec(step(8), 1..STEPS)) {
        let open = |path: &str| Some(File::options().read(true).write(true).open(path).unwrap().into());
        let (reader, _writer) = std::io::pipe().unwrap();
        let ports = vec![
            Port { input: open("/dev/zero"), output: open("/dev/null"), ..Port::new("endless") },
            Port { input: open("/dev/null"), output: open("/dev/full"), ..Port::new("full") },
            Port { input: Some(reader.into()), ..Port::new("quiet") },
        ];
        drive(Console::new("console", ports).with_ordered_port(0), &steps);
    }
}
