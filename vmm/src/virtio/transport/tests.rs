use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_mmio::*;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::testing::{
    Driver, END_OF_RAM, ENTRIES, EVENT_IDX, INDIRECT, INDIRECT_DESC, NEXT, PATIENCE, VERSION_1, WRITE,
};
use crate::virtio::{DeviceError, MAX_CHAIN_LEN, Queues, SHARE};

const OWN_FEATURE: u64 = 1 << 7;
/// Long enough for the worker to do what it must not do.
const A_WHILE: Duration = Duration::from_millis(50);

/// Gives back what it gets, reversed; "panic" makes it panic.
#[derive(Debug)]
struct Mirror;

impl VirtioDevice for Mirror {
    fn name(&self) -> &'static str {
        "mirror"
    }
    fn device_type(&self) -> u32 {
        42
    }
    fn features(&self) -> u64 {
        OWN_FEATURE
    }
    fn queue_sizes(&self) -> &[u16] {
        &[16, 1024]
    }
    fn config(&self) -> Vec<u8> {
        vec![1, 2, 3, 4, 5]
    }
    fn activate(&mut self, features: u64) {
        assert_eq!(features & VERSION_1, VERSION_1);
    }
    fn handle_queue(&mut self, queue: usize, queues: &mut Queues) -> Result<(), DeviceError> {
        use std::io::Write;
        while let Some(chain) = queues.pop(queue)? {
            let written = {
                let held = chain.hold(&queues.memory)?;
                let mut bytes = held.read_all(0x4000)?;
                assert_ne!(bytes, b"panic");
                bytes.reverse();
                let mut writer = held.writer();
                writer.write_all(&bytes).map_err(|error| chain.broken(&error.to_string()))?;
                writer.written()
            };
            queues.push_used(chain, written)?;
        }
        Ok(())
    }
    fn reset(&mut self) {}
}

fn read(driver: &Driver, offset: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0xaa; len];
    driver.transport.read(offset, &mut data);
    data
}

/// Waits until the device has published this used index.
fn wait_used_index(driver: &Driver, queue: usize, index: u16) {
    let start = Instant::now();
    let address = GuestAddress(Driver::ring(queue)[2] + 2);
    while driver.memory().load::<u16>(address, Ordering::SeqCst).unwrap() != index {
        assert!(start.elapsed() < PATIENCE, "used index {index} not reached");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_driver_finds_the_device_uses_it_and_finds_it_again() {
    let mut driver = Driver::new(Mirror);
    assert_eq!((driver.get(VIRTIO_MMIO_DEVICE_ID), driver.get(VIRTIO_MMIO_VENDOR_ID)), (42, VENDOR));
    for _ in 0..3 {
        driver.probe(u64::MAX);
        assert_eq!(driver.request(0, &[b"ab", b"", b"c"], &[1, 2]), b"cba");
        assert_eq!(driver.request(1, &[b"x"], &[8]), b"x");
        assert_eq!(driver.request(0, &[b""], &[]), b"");
    }
}

#[test]
fn features_are_negotiated() {
    let mut driver = Driver::new(Mirror);
    assert_eq!(driver.offered(), VERSION_1 | EVENT_IDX | INDIRECT_DESC | OWN_FEATURE);
    driver.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    assert_eq!(driver.get(VIRTIO_MMIO_DEVICE_FEATURES), 0, "there are 64 features");
    for (features, status) in
        [(0, 3), (OWN_FEATURE, 3), (VERSION_1 | 1 << 40, 3), (VERSION_1, 11), (VERSION_1 | OWN_FEATURE, 11)]
    {
        driver.reset();
        driver.set(VIRTIO_MMIO_STATUS, 3);
        driver.accept(features);
        driver.set(VIRTIO_MMIO_STATUS, 11);
        assert_eq!(driver.get(VIRTIO_MMIO_STATUS), status, "{features:#x}");
    }
    // Once accepted, they stay: the device sees them when it is activated.
    driver.probe_until_driver_ok(u64::MAX);
    driver.accept(0);
    driver.set(VIRTIO_MMIO_STATUS, 15);
    assert_eq!(driver.request(0, &[b"ab"], &[2]), b"ba");
}

#[test]
fn a_driver_without_event_idx_is_served_and_may_refuse_interrupts() {
    let mut driver = Driver::new(Mirror);
    driver.probe(VERSION_1);
    assert_eq!(driver.request(0, &[b"ab"], &[2]), b"ba");
    let pulses = driver.line.pulses();
    driver.memory().write_obj(1_u16, GuestAddress(Driver::ring(0)[1])).unwrap();
    driver.add(0, &[b"x"], &[1]);
    driver.kick(0);
    wait_used_index(&driver, 0, 2);
    std::thread::sleep(A_WHILE);
    assert_eq!(driver.line.pulses(), pulses);
}

#[test]
fn status_bits_come_in_order_and_go_by_reset_only() {
    let driver = Driver::new(Mirror);
    driver.reset();
    driver.set(VIRTIO_MMIO_STATUS, 7);
    assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 3, "DRIVER_OK before FEATURES_OK");
    driver.set(VIRTIO_MMIO_STATUS, 1);
    assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 3, "a bit taken back");
    driver.set(VIRTIO_MMIO_STATUS, u32::MAX);
    assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 0x83, "unknown bits, FAILED, NEEDS_RESET");
    driver.reset();
}

#[test]
fn wrong_accesses_read_zero_or_do_nothing() {
    let driver = Driver::ready(Mirror);
    assert_eq!(read(&driver, 0, 1), [0]);
    assert_eq!(read(&driver, 0, 8), [0; 8]);
    assert_eq!(read(&driver, 2, 4), [0; 4]);
    assert_eq!(read(&driver, u64::MAX, 4), [0; 4]);
    assert_eq!(read(&driver, 0x100, 8), [1, 2, 3, 4, 5, 0, 0, 0]);
    assert_eq!(read(&driver, 0x104, 1), [5]);
    assert_eq!(read(&driver, 0x105, 2), [0, 0]);
    assert_eq!(read(&driver, 0xfff, 8), [0; 8]);
    assert_eq!(read(&driver, u64::from(VIRTIO_MMIO_SHM_LEN_LOW), 4), [0xff; 4]);
    driver.transport.write(VIRTIO_MMIO_STATUS.into(), &[0]);
    driver.transport.write(VIRTIO_MMIO_STATUS.into(), &[0; 8]);
    driver.transport.write(0x100, &[9; 4]);
    driver.transport.write(u64::MAX, &[9; 4]);
    driver.transport.write(0, &[]);
    assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 15);
    assert_eq!(read(&driver, 0x100, 4), [1, 2, 3, 4]);
}

#[test]
fn only_a_queue_that_can_work_gets_ready() {
    let mut driver = Driver::new(Mirror);
    driver.probe_until_driver_ok(u64::MAX);
    let good = (16, [0x1000, 0x2000, 0x3000]);
    let set_up = |(size, [desc, avail, used]): (u32, [u64; 3])| {
        driver.set(VIRTIO_MMIO_QUEUE_SEL, 0);
        driver.set(VIRTIO_MMIO_QUEUE_READY, 0);
        driver.set(VIRTIO_MMIO_QUEUE_NUM, size);
        driver.set_address(VIRTIO_MMIO_QUEUE_DESC_LOW, desc);
        driver.set_address(VIRTIO_MMIO_QUEUE_AVAIL_LOW, avail);
        driver.set_address(VIRTIO_MMIO_QUEUE_USED_LOW, used);
        driver.set(VIRTIO_MMIO_QUEUE_READY, 1);
        driver.get(VIRTIO_MMIO_QUEUE_READY) == 1
    };
    assert!(set_up(good));
    assert!(set_up((1, good.1)));
    for size in [0, 3, 15, 17, 32, 0x1_0000, 0x1_0010, u32::MAX] {
        assert!(!set_up((size, good.1)), "size {size}");
    }
    // The largest addresses at which each part still is in RAM: 16 entries take 256, 38 and 134 bytes.
    let last = [END_OF_RAM - 256, END_OF_RAM - 38, END_OF_RAM - 136];
    for (part, align) in [(0, 16), (1, 2), (2, 4)] {
        let with = |address| {
            let mut addresses = good.1;
            addresses[part] = address;
            (16, addresses)
        };
        assert!(set_up(with(last[part])), "part {part}");
        for bad in [0, 0x1000 + align / 2, last[part] + align, END_OF_RAM, 1 << 40, u64::MAX, u64::MAX - 15] {
            assert!(!set_up(with(bad)), "part {part} at {bad:#x}");
        }
    }
    // A ready queue is not changed.
    assert!(set_up(good));
    driver.set_address(VIRTIO_MMIO_QUEUE_DESC_LOW, u64::MAX);
    driver.set(VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 1);
    // A queue that does not exist is not there.
    for queue in [2, 0x1_0000, u32::MAX] {
        driver.set(VIRTIO_MMIO_QUEUE_SEL, queue);
        driver.set(VIRTIO_MMIO_QUEUE_READY, 1);
        assert_eq!((driver.get(VIRTIO_MMIO_QUEUE_NUM_MAX), driver.get(VIRTIO_MMIO_QUEUE_READY)), (0, 0));
    }
}

#[test]
fn a_queue_that_is_not_set_up_is_not_served() {
    let mut driver = Driver::new(Mirror);
    driver.probe_until_driver_ok(u64::MAX);
    driver.set(VIRTIO_MMIO_QUEUE_SEL, 0);
    driver.set(VIRTIO_MMIO_QUEUE_READY, 0);
    driver.set(VIRTIO_MMIO_STATUS, 15);
    driver.add(0, &[b"x"], &[1]);
    driver.kick(0);
    assert_eq!(driver.request(1, &[b"ab"], &[2]), b"ba");
    assert!(driver.used(0).is_none());
}

#[test]
fn notifications_before_driver_ok_and_of_no_queue_do_no_harm() {
    let mut driver = Driver::new(Mirror);
    driver.kick(0);
    driver.probe_until_driver_ok(u64::MAX);
    driver.add(0, &[b"early"], &[5]);
    driver.kick(0);
    std::thread::sleep(A_WHILE);
    assert!(driver.used(0).is_none());
    driver.set(VIRTIO_MMIO_STATUS, 15);
    assert_eq!(driver.wait_used(0).bytes, b"ylrae");
    for queue in [2, 0x1_0000, u32::MAX] {
        driver.set(VIRTIO_MMIO_QUEUE_NOTIFY, queue);
    }
    assert_eq!(driver.request(0, &[b"ab"], &[2]), b"ba");
}

#[test]
fn the_notification_descriptors_notify_over_resets() {
    let mut driver = Driver::ready(Mirror);
    for _ in 0..2 {
        driver.add(1, &[b"ab"], &[2]);
        driver.transport.notify_fds()[1].write(1).unwrap();
        assert_eq!(driver.wait_used(1).bytes, b"ba");
        driver.probe(u64::MAX);
    }
}

#[test]
fn interrupts_are_acknowledged_bit_by_bit() {
    let mut driver = Driver::ready(Mirror);
    driver.add(0, &[b"x"], &[1]);
    let pulses = driver.line.pulses();
    driver.kick(0);
    wait_used_index(&driver, 0, 1);
    let start = Instant::now();
    while driver.line.pulses() == pulses {
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
    driver.set(VIRTIO_MMIO_INTERRUPT_ACK, !VIRTIO_MMIO_INT_VRING);
    assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
    driver.set(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
    assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn the_driver_is_interrupted_when_it_asked_for_it() {
    let mut driver = Driver::ready(Mirror);
    let used_event = GuestAddress(Driver::ring(0)[1] + 4 + 2 * u64::from(ENTRIES));
    driver.memory().store(2_u16, used_event, Ordering::SeqCst).unwrap();
    for done in 1..=2 {
        driver.add(0, &[b"x"], &[1]);
        driver.kick(0);
        wait_used_index(&driver, 0, done);
    }
    std::thread::sleep(A_WHILE);
    assert_eq!(driver.line.pulses(), 0);
    driver.add(0, &[b"x"], &[1]);
    driver.kick(0);
    let start = Instant::now();
    while driver.line.pulses() == 0 {
        assert!(start.elapsed() < PATIENCE, "no interrupt after the third chain");
    }
}

#[test]
fn an_idle_device_asks_to_be_notified() {
    let mut driver = Driver::ready(Mirror);
    for _ in 0..40 {
        driver.add(0, &[b"x"], &[1]);
        let start = Instant::now();
        while !driver.kick_wanted(0) {
            assert!(start.elapsed() < PATIENCE, "the device sleeps without asking for a notification");
        }
        driver.kick(0);
        driver.wait_used(0);
    }
}

#[test]
fn broken_chains_need_a_reset() {
    let mut driver = Driver::ready(Mirror);
    let ram = Driver::slot(0, 0);
    // Each: descriptors from index 0 on.
    let broken: [&[(u64, u32, u16, u16)]; 9] = [
        &[(ram, 1, NEXT, 0)],
        &[(ram, 1, NEXT, 1), (ram, 1, NEXT, 0)],
        &[(ram, 1, NEXT, ENTRIES)],
        &[(ram, 1, NEXT, u16::MAX)],
        &[(ram, 1, WRITE | NEXT, 1), (ram, 1, 0, 0)],
        &[(END_OF_RAM - 1, 2, 0, 0)],
        &[(u64::MAX, 1, 0, 0)],
        &[(u64::MAX - 1, u32::MAX, WRITE, 0)],
        &[(ram, u32::MAX, NEXT, 1), (ram, u32::MAX, 0, 0)],
    ];
    for descriptors in broken {
        for (index, descriptor) in (0..).zip(descriptors) {
            driver.write_descriptor(0, index, *descriptor);
        }
        driver.publish(0, 0);
        driver.kick(0);
        driver.wait_needs_reset();
        driver.probe(u64::MAX);
        assert_eq!(driver.request(0, &[b"ab"], &[2]), b"ba", "after {descriptors:?}");
    }
    for head in [ENTRIES, u16::MAX] {
        driver.publish(0, head);
        driver.kick(0);
        driver.wait_needs_reset();
        driver.probe(u64::MAX);
    }
}

#[test]
fn what_was_served_before_an_error_is_given_back() {
    let mut driver = Driver::ready(Mirror);
    driver.add(0, &[b"good"], &[4]);
    driver.add(0, &[b"bad"], &[1]);
    driver.kick(0);
    assert_eq!(driver.wait_used(0).bytes, b"doog");
    driver.wait_needs_reset();
}

#[test]
fn an_available_index_that_runs_ahead_needs_a_reset() {
    let mut driver = Driver::ready(Mirror);
    let index = GuestAddress(Driver::ring(0)[1] + 2);
    driver.memory().store(ENTRIES + 1, index, Ordering::SeqCst).unwrap();
    driver.kick(0);
    driver.wait_needs_reset();
    driver.probe(u64::MAX);
    assert_eq!(driver.request(0, &[b"ab"], &[2]), b"ba");
}

/// Publishes a chain whose only descriptor refers to a table of `len` bytes.
fn publish_indirect(driver: &mut Driver, table: u64, len: u32, entries: &[Descriptor]) {
    for (index, entry) in (0..).zip(entries) {
        driver.memory().write_obj(*entry, GuestAddress(table + 16 * index)).unwrap();
    }
    driver.write_descriptor(0, 0, (table, len, INDIRECT, 0));
    driver.publish(0, 0);
    driver.kick(0);
}

#[test]
fn indirect_tables_are_followed_up_to_the_limit() {
    const TABLE: u64 = 0x60_0000;
    let mut driver = Driver::ready(Mirror);
    let (from, to) = (0x50_0000, 0x51_0000);
    driver.memory().write_slice(b"abc", GuestAddress(from)).unwrap();
    // As many entries as are allowed: one readable byte each, all of the same three bytes, then one writable buffer.
    let limit = MAX_CHAIN_LEN;
    let mut entries: Vec<Descriptor> =
        (1..limit).map(|next| Descriptor::new(from + u64::from(next % 3), 1, NEXT, next)).collect();
    entries.push(Descriptor::new(to, limit.into(), WRITE, 0));
    publish_indirect(&mut driver, TABLE, u32::from(limit) * 16, &entries);
    driver.wait_used(0);
    let mut answer = vec![0; usize::from(limit) - 1];
    driver.memory().read_slice(&mut answer, GuestAddress(to)).unwrap();
    let expected: Vec<u8> = (1..limit).rev().map(|next| b"abc"[usize::from(next % 3)]).collect();
    assert_eq!(answer, expected);

    let whole = [Descriptor::new(from, 1, 0, 0)];
    let nested = [Descriptor::new(TABLE + 16, 16, INDIRECT, 0), Descriptor::new(from, 1, 0, 0)];
    let looping = [Descriptor::new(from, 1, NEXT, 0)];
    let beyond = [Descriptor::new(from, 1, NEXT, 1)];
    let broken: [(u64, u32, &[Descriptor]); 10] = [
        (TABLE, u32::from(limit) * 16 + 16, &entries),
        (TABLE, 0, &whole),
        (TABLE, 15, &whole),
        (TABLE, 17, &whole),
        (TABLE, u32::MAX, &whole),
        (TABLE, 0xffff_fff0, &whole),
        (TABLE, 32, &nested),
        (TABLE, 16, &looping),
        (TABLE, 16, &beyond),
        (END_OF_RAM - 16, 32, &[]),
    ];
    for (table, len, entries) in broken {
        publish_indirect(&mut driver, table, len, entries);
        driver.wait_needs_reset();
        driver.probe(u64::MAX);
    }
    publish_indirect(&mut driver, u64::MAX - 7, 16, &[]);
    driver.wait_needs_reset();
    // Not negotiated, not allowed.
    driver.probe(!INDIRECT_DESC);
    publish_indirect(&mut driver, TABLE, 16, &whole);
    driver.wait_needs_reset();
}

#[test]
fn a_chain_that_is_too_small_for_its_answer_needs_a_reset_and_the_next_driver_is_served() {
    let mut driver = Driver::ready(Mirror);
    driver.add(0, &[b"three"], &[4]);
    driver.kick(0);
    driver.wait_needs_reset();
    assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 15 | 64);
    driver.kick(0);
    driver.probe(u64::MAX);
    assert_eq!(driver.request(0, &[b"three"], &[5]), b"eerht");
}

#[test]
fn more_than_a_share_is_served_by_one_notification() {
    const RING: u64 = 0x40_0000;
    const AVAIL: u64 = RING + 0x8000;
    const USED: u64 = RING + 0xa000;
    for chains in [SHARE - 1, SHARE, SHARE + 1, 1024] {
        let mut driver = Driver::new(Mirror);
        driver.probe_until_driver_ok(u64::MAX);
        driver.set(VIRTIO_MMIO_QUEUE_SEL, 1);
        driver.set(VIRTIO_MMIO_QUEUE_READY, 0);
        driver.set(VIRTIO_MMIO_QUEUE_NUM, 1024);
        for (low, at) in [
            (VIRTIO_MMIO_QUEUE_DESC_LOW, RING),
            (VIRTIO_MMIO_QUEUE_AVAIL_LOW, AVAIL),
            (VIRTIO_MMIO_QUEUE_USED_LOW, USED),
        ] {
            driver.set_address(low, at);
        }
        driver.set(VIRTIO_MMIO_QUEUE_READY, 1);
        driver.set(VIRTIO_MMIO_STATUS, 15);
        let memory = driver.memory();
        for index in 0..chains {
            let descriptor = Descriptor::new(0x50_0000, 0, 0, 0);
            memory.write_obj(descriptor, GuestAddress(RING + 16 * u64::from(index))).unwrap();
            memory.write_obj(index, GuestAddress(AVAIL + 4 + 2 * u64::from(index))).unwrap();
        }
        memory.store(chains, GuestAddress(AVAIL + 2), Ordering::SeqCst).unwrap();
        driver.kick(1);
        let start = Instant::now();
        while memory.load::<u16>(GuestAddress(USED + 2), Ordering::SeqCst).unwrap() != chains {
            assert!(start.elapsed() < PATIENCE, "not all of {chains} chains are used");
        }
    }
}

#[test]
fn reset_works_in_any_state_and_while_busy() {
    let mut driver = Driver::new(Mirror);
    for status in [0, 1, 3, 11, 15, 0x80, 0x8f] {
        driver.reset();
        driver.accept(VERSION_1);
        driver.set(VIRTIO_MMIO_STATUS, status);
        driver.reset();
    }
    for _ in 0..20 {
        driver.probe(u64::MAX);
        for _ in 0..8 {
            driver.add(0, &[b"x"], &[1]);
            driver.kick(0);
        }
        driver.reset();
        let used: u16 = driver.memory().load(GuestAddress(Driver::ring(0)[2] + 2), Ordering::SeqCst).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        let later: u16 = driver.memory().load(GuestAddress(Driver::ring(0)[2] + 2), Ordering::SeqCst).unwrap();
        assert_eq!(used, later, "the device wrote after its reset");
        assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    }
}

#[test]
fn registers_may_be_used_by_several_processors_at_once() {
    let driver = Driver::ready(Mirror);
    std::thread::scope(|scope| {
        for seed in 0..4_u32 {
            let transport = &driver.transport;
            scope.spawn(move || {
                for step in 0..500_u32 {
                    let register = u64::from(step.wrapping_mul(seed + 1) % 0x40 * 4);
                    transport.write(register, &(step % 16).to_le_bytes());
                    transport.read(register, &mut [0; 4]);
                }
            });
        }
    });
    driver.reset();
}

#[test]
fn a_device_that_panicked_is_gone_but_its_registers_answer() {
    let mut driver = Driver::ready(Mirror);
    driver.add(0, &[b"panic"], &[5]);
    driver.kick(0);
    std::thread::sleep(A_WHILE);
    driver.set(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 64);
    driver.accept(VERSION_1);
    driver.set(VIRTIO_MMIO_STATUS, 15);
    assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 15 | 64);
}
