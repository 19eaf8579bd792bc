//! Commands as a guest gives them, by the pages alone: right ones, wrong ones, and garbage.

use std::time::{Duration, Instant};

use vincs_coherence::id::Rank;
use vincs_coherence::transport::Transport;
use vm_memory::GuestAddress;

use super::commands::{
    ANSWERED, ASKED, BEGIN, COMMAND, DONE, FIRST, HEAR, HELD, LOCK, LOCKS, MAGIC, MEET, NO_COMMAND, NO_LOCK, NO_TEAM,
    NOT_HELD, RESULT, SECOND, TAKEN_OVER, TELL, THIRD, UNLOCK, VERSION, WORDS,
};
use super::*;
use crate::memory::relaxed::spread::{RelaxedShare, SpreadMemory, prepare};
use crate::test_transport::Hub;
use crate::topology::VcpuId;
use crate::vcpu::Samples;

const START: GuestAddress = GuestAddress(4 << 30);
const BYTES: u64 = 8 << 20;
/// Longest wait for something that happens at once.
const PATIENCE: Duration = Duration::from_secs(60);
const LAST: u16 = SLOTS - 1;

#[derive(Debug)]
struct Nobody;

impl Waker for Nobody {
    fn wake(&self) {}
}

/// A rank alone, with a guest that writes to its pages.
struct Guest {
    _memory: SpreadMemory,
    doorbell: Arc<Doorbell>,
}

impl Guest {
    fn new() -> Self {
        let prepared = prepare(Rank(0), 1, BYTES).unwrap();
        let share = RelaxedShare { prepared, channel: Arc::clone(&Hub::ends(1)[0]) as Arc<dyn Transport> };
        let (vcpu, _) = VcpuHandle::new(VcpuId(0), Arc::new(Samples::default()), false);
        let region = (START, RELAXED_HEADER + BYTES);
        let memory = SpreadMemory::start(share, (Rank(0), 1), region, vec![(vcpu, true)], |_, why| {
            tracing::error!(why, "relaxed memory has ended");
        });
        let memory = memory.unwrap();
        Self { doorbell: memory.doorbell(), _memory: memory }
    }

    fn put(&self, slot: u16, at: u64, bytes: &[u8]) {
        self.doorbell.slots.memory.write_slice(bytes, MemoryRegionAddress(slot_page(slot) + at)).unwrap();
    }

    fn word(&self, slot: u16, at: u64) -> u32 {
        u32::from_le_bytes(self.doorbell.slots.read(slot, at))
    }

    /// Rings for a command, and does not wait.
    fn ring(&self, slot: u16, command: u32, numbers: [u64; 3]) {
        self.put(slot, COMMAND, &command.to_le_bytes());
        for (at, number) in [FIRST, SECOND, THIRD].into_iter().zip(numbers) {
            self.put(slot, at, &number.to_le_bytes());
        }
        self.put(slot, ASKED, &self.word(slot, ANSWERED).wrapping_add(1).to_le_bytes());
        self.doorbell.ring(slot.into(), Arc::new(Nobody));
    }

    /// Waits until a slot's command has ended.
    fn wait(&self, slot: u16) {
        let deadline = Instant::now() + PATIENCE;
        while self.doorbell.is_under_way(slot.into()) {
            assert!(Instant::now() < deadline, "slot {slot} has no answer");
            std::thread::yield_now();
        }
    }

    fn result(&self, slot: u16) -> u32 {
        self.wait(slot);
        assert_eq!(self.word(slot, ANSWERED), self.word(slot, ASKED));
        self.word(slot, RESULT)
    }

    fn does(&self, slot: u16, command: u32, numbers: [u64; 3]) -> u32 {
        self.ring(slot, command, numbers);
        self.result(slot)
    }
}

#[test]
fn the_header_says_what_there_is() {
    let guest = Guest::new();
    let header: [u8; 32] = {
        let mut header = [0; 32];
        guest.doorbell.slots.memory.read_slice(&mut header, MemoryRegionAddress(RELAXED_HEADER)).unwrap();
        header
    };
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    assert_eq!(header[..8], MAGIC.to_le_bytes());
    assert_eq!([8, 12, 16, 20, 24, 28].map(word), [VERSION, 1, 0, SLOTS.into(), LOCKS, 16]);
    assert_eq!(guest.doorbell.read(), 1, "rank 0, and the vCPU is in its place");
    let end = START.0 + DOORBELL;
    let at = [end - 1, end, end + PAGE_SIZE - 1, end + PAGE_SIZE];
    assert_eq!(at.map(|address| guest.doorbell.is_at(address)), [false, true, true, false]);
}

#[test]
fn commands_are_done_and_mistakes_are_told() {
    let guest = Guest::new();
    assert_eq!(guest.does(3, LOCK, [7, 0, 0]), DONE);
    assert_eq!(guest.does(3, LOCK, [7, 0, 0]), HELD);
    assert_eq!(guest.does(4, UNLOCK, [7, 0, 0]), NOT_HELD);
    guest.ring(4, LOCK, [7, 0, 0]);
    assert!(guest.doorbell.is_under_way(4), "it is another slot's");
    assert_eq!(guest.does(3, UNLOCK, [7, 0, 0]), DONE);
    assert_eq!(guest.result(4), DONE);
    assert_eq!(guest.does(3, LOCK, [LOCKS.into(), 0, 0]), NO_LOCK);
    assert_eq!(guest.does(3, LOCK, [(LOCKS - 1).into(), 0, 0]), DONE);
    assert_eq!([TELL, HEAR].map(|command| guest.does(3, command, [0; 3])), [DONE; 2]);
    assert_eq!(guest.does(3, BEGIN, [0; 3]), NO_COMMAND);
    assert_eq!(guest.does(LAST, TELL, [0; 3]), NO_COMMAND);
    let second = |members: u64, here: u64, own: u64| members | here << 16 | own << 32;
    assert_eq!(guest.does(3, MEET, [1, second(2, 3, 0), 0]), NO_TEAM);
    guest.ring(0, MEET, [9, second(2, 2, 1), 111]);
    assert!(guest.doorbell.is_under_way(0), "the other one has not come");
    assert_eq!(guest.does(1, MEET, [9, second(2, 2, 0), 222]), DONE);
    assert_eq!(guest.result(0), DONE);
    for slot in [0, 1] {
        let words = [0, 8].map(|at| u64::from_le_bytes(guest.doorbell.slots.read(slot, WORDS + at)));
        assert_eq!(words, [222, 111], "in the order of members");
    }
}

#[test]
fn a_program_that_begins_frees_what_a_dead_one_had() {
    let guest = Guest::new();
    assert_eq!(guest.does(0, LOCK, [1, 0, 0]), DONE);
    guest.ring(1, LOCK, [1, 0, 0]);
    guest.ring(2, MEET, [1, 2 | 2 << 16, 0]);
    assert_eq!(guest.does(LAST, BEGIN, [0; 3]), DONE);
    assert_eq!([guest.result(1), guest.result(2)], [TAKEN_OVER; 2]);
    assert_eq!(guest.does(5, LOCK, [1, 0, 0]), DONE);
}

#[test]
fn garbage_in_any_page_is_an_error_to_who_wrote_it() {
    let guest = Guest::new();
    let mut seed = 1u64;
    let mut next = || {
        // Marsaglia's xorshift.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..20_000 {
        let slot = u16::try_from(next() % u64::from(SLOTS)).unwrap();
        let small = round % 2 == 0;
        let mut bytes: Vec<u8> = (0..8).flat_map(|_| next().to_le_bytes()).collect();
        if small {
            // Likely to be a command, with numbers that may be.
            bytes[16..20].copy_from_slice(&(u32::try_from(next() % 8).unwrap()).to_le_bytes());
            bytes[24..32].copy_from_slice(&(next() % 5).to_le_bytes());
            bytes[32..40].copy_from_slice(&((next() % 4) | ((next() % 4) << 16) | ((next() % 4) << 32)).to_le_bytes());
        }
        guest.put(slot, 0, &bytes);
        let number = if round % 16 == 0 { u32::try_from(next() >> 40).unwrap() } else { slot.into() };
        guest.doorbell.ring(number, Arc::new(Nobody));
        guest.doorbell.stop_waiting(number);
    }
    assert!(!guest.doorbell.ring(u32::MAX, Arc::new(Nobody)) && !guest.doorbell.ring(SLOTS.into(), Arc::new(Nobody)));
    // Some wait for locks or others, which a program that begins ends.
    guest.wait(LAST);
    assert_eq!(guest.does(LAST, BEGIN, [0; 3]), DONE);
    for slot in 0..SLOTS {
        assert!(!guest.doorbell.is_under_way(slot.into()), "slot {slot}");
    }
    let stats = guest.doorbell.stats();
    assert!(stats.rings.refused > 1000 && stats.rings.commands > 1000, "{stats:?}");
    for slot in 0..LAST {
        guest.put(slot, ANSWERED, &[0; 4]);
        assert_eq!(guest.does(slot, LOCK, [u64::from(slot), 0, 0]), DONE);
    }
}
