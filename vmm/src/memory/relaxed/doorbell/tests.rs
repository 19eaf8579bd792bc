//! Commands as a guest gives them, by the pages alone: right ones, wrong ones, and garbage.

use std::sync::atomic::{AtomicBool, AtomicU8};
use std::time::Duration;

use vincs_coherence::id::Rank;
use vincs_coherence::transport::Transport;
use vm_memory::{GuestAddress, GuestMemoryRegion as _, VolatileMemory as _};

use super::super::commands::LOCKS;
use super::*;
use crate::memory::hlrc::Prepared;
use crate::memory::relaxed::spread::{RaceLines, RelaxedShare, SpreadMemory, prepare};
use crate::test_transport::Hub;
use crate::topology::VcpuId;
use crate::vcpu::Samples;
use vincs_guest_commands::{
    ANSWERED, ASKED, BEGIN, COMMAND, DONE, FIRST, GIVE_BACK, HEAR, HELD, LENT_LOCKS, LENT_TAKEN, LENT_WANTED, LOCK,
    MAGIC, MEET, NO_COMMAND, NO_LOCK, NO_TEAM, NOT_HELD, RESULT, SECOND, TAKEN_OVER, TELL, THIRD, UNLOCK, VERSION,
    WORDS, lent, lent_at,
};

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

/// A rank, with a guest that writes to its pages.
struct Guest {
    memory: SpreadMemory,
    doorbell: Arc<Doorbell>,
    /// Why its memory has ended, if it has.
    ended: Arc<Mutex<Option<String>>>,
}

impl Guest {
    /// A machine of one rank.
    fn new() -> Self {
        Self::of(1).remove(0)
    }

    /// A machine of so many.
    fn of(ranks: u16) -> Vec<Self> {
        Self::looking_for_races(ranks, None)
    }

    /// The same, where races may be looked for.
    fn looking_for_races(ranks: u16, told: Option<RaceLines>) -> Vec<Self> {
        let prepared: Vec<_> = (0..ranks).map(|rank| prepare(Rank(rank), ranks, BYTES, told).unwrap()).collect();
        let ends = Hub::ends_over(ranks, prepared.iter().map(Prepared::segment).collect());
        let start = |((rank, prepared), channel): ((u16, Prepared), Arc<_>)| {
            let share = RelaxedShare { prepared, channel: channel as Arc<dyn Transport> };
            let (vcpu, _) = VcpuHandle::new(VcpuId(rank.into()), Arc::new(Samples::default()), false);
            let region = (START, RELAXED_HEADER + BYTES);
            let ended = Arc::new(Mutex::new(None));
            let told = Arc::clone(&ended);
            let memory = SpreadMemory::start(share, (Rank(rank), ranks), region, vec![(vcpu, true)], move |_, why| {
                *locked(&told) = Some(why.to_string());
            });
            let memory = memory.unwrap();
            Self { doorbell: memory.doorbell(), memory, ended }
        };
        (0..).zip(prepared).zip(ends).map(start).collect()
    }

    /// A byte of the shared part, as programs have it.
    fn byte(&self, at: u64) -> &AtomicU8 {
        let [_, (_, len, address)] = self.memory.pieces();
        assert!(at < len);
        let byte_of_array = (address + at) as *const AtomicU8;
        // SAFETY: the byte is in the array, which the memory keeps; it is accessed by atomics alone.
        unsafe { &*byte_of_array }
    }

    fn write(&self, at: u64, byte: u8) {
        self.byte(at).store(byte, Ordering::Relaxed);
    }

    /// Does something with the entry of a lock that may be lent.
    fn entry<T>(&self, lock: u32, of: impl FnOnce(&AtomicU64) -> T) -> T {
        let at = MemoryRegionAddress(RELAXED_HEADER + lent_at(lock) as u64);
        let slice = self.doorbell.slots.memory.get_slice(at, 8).unwrap();
        of(slice.get_atomic_ref::<AtomicU64>(0).unwrap())
    }

    /// A thread takes a lock that its rank lends, or gives it back; whether it does.
    fn exchange(&self, lock: u32, from: u64, to: u64) -> bool {
        let order = (Ordering::AcqRel, Ordering::Relaxed);
        self.entry(lock, |entry| entry.compare_exchange(from, to, order.0, order.1).is_ok())
    }

    /// Waits until a lock that a thread has is wanted.
    fn is_wanted(&self, lock: u32) {
        let deadline = Instant::now() + PATIENCE;
        while self.entry(lock, |entry| entry.load(Ordering::Relaxed)) & LENT_WANTED == 0 {
            assert!(Instant::now() < deadline, "nobody wants lock {lock}");
            std::thread::yield_now();
        }
    }

    /// A thread takes and gives back a lock twice: the second time nobody else has had it meanwhile.
    fn uses_alone(&self, slot: u16, lock: u32) {
        for command in [LOCK, UNLOCK, LOCK, UNLOCK] {
            assert_eq!(self.does(slot, command, [lock.into(), 0, 0]), DONE);
        }
    }

    fn put(&self, slot: u16, at: u16, bytes: &[u8]) {
        self.doorbell.slots.memory.write_slice(bytes, MemoryRegionAddress(slot_page(slot) + u64::from(at))).unwrap();
    }

    fn word(&self, slot: u16, at: u16) -> u32 {
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
fn programs_on_two_ranks_that_write_the_same_byte_are_told_of_where_they_do_not_synchronise() {
    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut guests = Guest::looking_for_races(2, Some(|line| locked(&TOLD).push(line)));
    let [first, second] = &guests[..] else { panic!("two ranks") };
    for guest in [first, second] {
        let flag: u32 = guest.doorbell.slots.memory.read_obj(MemoryRegionAddress(RELAXED_HEADER + 32)).unwrap();
        assert_eq!(flag, 1, "the header says so");
    }
    // One byte of each rank's pages, at the ends of two that follow each other.
    let bytes = [16 * PAGE_SIZE - 1, 16 * PAGE_SIZE];
    for (round, guest) in (1_u8..).zip([first, second, first]) {
        bytes.iter().for_each(|at| guest.write(*at, round));
        assert_eq!(guest.does(0, TELL, [0; 3]), DONE);
        // The next one sees it before it writes.
        for guest in [first, second] {
            assert_eq!(guest.does(0, HEAR, [0; 3]), DONE);
        }
    }
    assert_eq!(*locked(&TOLD), [""; 0]);
    first.write(bytes[0], 11);
    second.write(bytes[0], 12);
    second.write(bytes[1], 13);
    for guest in [first, second] {
        assert_eq!(guest.does(0, TELL, [0; 3]), DONE);
    }
    let place =
        format!("race: ranks 0 and 1 have both written byte {} of the device (page 15 ", RELAXED_CONTROL + bytes[0]);
    assert!(matches!(&locked(&TOLD)[..], [line] if line.starts_with(&place)), "{:?}", locked(&TOLD));
    guests.iter_mut().for_each(|guest| guest.memory.stop());
    assert_eq!(locked(&TOLD)[1..], ["races: 1 place"]);
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
    assert!(guest.doorbell.stats().memory.synchronising > 0, "slot 4 has waited");
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
fn a_lock_that_one_rank_uses_is_lent_to_its_threads_until_another_comes() {
    const LENT: u32 = 70;
    let (free, taken) = (lent(LENT), lent(LENT) | LENT_TAKEN);
    let guests = Guest::of(2);
    let [first, second] = &guests[..] else { panic!() };
    // Both ranks have a byte that the other one is the home of.
    let bytes = [0, 20 * PAGE_SIZE];
    first.uses_alone(3, LENT);
    let commands = first.doorbell.stats().rings.commands;
    for round in 1..=100 {
        assert!(first.exchange(LENT, free, taken), "round {round}");
        bytes.iter().for_each(|at| first.write(*at, round));
        assert!(first.exchange(LENT, taken, free));
    }
    // One that has the same entry is asked for as ever.
    first.uses_alone(3, LENT + u32::from(LENT_LOCKS));
    assert!(first.exchange(LENT, free, taken));
    assert_eq!(first.doorbell.stats().rings.commands, commands + 4);
    second.ring(5, LOCK, [LENT.into(), 0, 0]);
    first.is_wanted(LENT);
    assert!(second.doorbell.is_under_way(5));
    bytes.iter().for_each(|at| first.write(*at, 101));
    assert!(!first.exchange(LENT, taken, free));
    assert_eq!(first.does(4, GIVE_BACK, [LENT.into(), 0, 0]), DONE, "in whatever slot");
    assert_eq!(second.result(5), DONE);
    assert_eq!(bytes.map(|at| second.byte(at).load(Ordering::Relaxed)), [101; 2]);
    for guest in &guests {
        assert_eq!(guest.does(4, GIVE_BACK, [LENT.into(), 0, 0]), NOT_HELD);
        assert_eq!(guest.does(4, GIVE_BACK, [LOCKS.into(), 0, 0]), NOT_HELD);
        assert_eq!(guest.entry(LENT, |entry| entry.load(Ordering::Relaxed)), 0);
    }
    assert_eq!(second.does(5, UNLOCK, [LENT.into(), 0, 0]), DONE);
    // And one that nobody has goes at once.
    first.uses_alone(3, LENT);
    assert_eq!(second.does(5, LOCK, [LENT.into(), 0, 0]), DONE);
    assert!(!first.exchange(LENT, free, taken));
}

/// So do threads of one rank: those that wait are asked for it.
#[test]
fn a_lent_lock_goes_to_who_waits_on_the_same_rank() {
    let guest = Guest::new();
    guest.uses_alone(3, 7);
    assert!(guest.exchange(7, lent(7), lent(7) | LENT_TAKEN));
    guest.ring(4, LOCK, [7, 0, 0]);
    assert!(guest.doorbell.is_under_way(4));
    guest.is_wanted(7);
    assert_eq!(guest.does(3, GIVE_BACK, [7, 0, 0]), DONE);
    assert_eq!(guest.result(4), DONE);
    assert_eq!(guest.does(4, UNLOCK, [7, 0, 0]), DONE);
    assert!(guest.exchange(7, lent(7), lent(7) | LENT_TAKEN), "it is lent again");
}

#[test]
fn a_program_that_begins_has_lent_locks_back() {
    let guests = Guest::of(2);
    let [first, second] = &guests[..] else { panic!() };
    for lock in [7, 8, 9] {
        first.uses_alone(3, lock);
    }
    // One is taken, one is taken and wanted, one is free.
    for lock in [7, 8] {
        assert!(first.exchange(lock, lent(lock), lent(lock) | LENT_TAKEN));
    }
    second.ring(5, LOCK, [8, 0, 0]);
    first.is_wanted(8);
    assert_eq!(second.does(LAST, BEGIN, [0; 3]), DONE);
    assert_eq!(second.result(5), TAKEN_OVER);
    for lock in [7, 8, 9] {
        assert_eq!(first.entry(lock, |entry| entry.load(Ordering::Relaxed)), 0);
        assert_eq!(second.does(5, LOCK, [lock.into(), 0, 0]), DONE);
        assert_eq!(first.does(3, GIVE_BACK, [lock.into(), 0, 0]), NOT_HELD);
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
fn a_program_begins_though_members_of_a_dead_one_wait_for_each_others_locks() {
    // Two slots of one rank, then one of each.
    for (ranks, other) in [(1, (0, 1)), (2, (1, 0))] {
        let guests = Guest::of(ranks);
        let [one, other] = [(0, 0), other].map(|(rank, slot): (usize, u16)| (&guests[rank], slot));
        assert_eq!(one.0.does(one.1, LOCK, [1, 0, 0]), DONE);
        assert_eq!(other.0.does(other.1, LOCK, [2, 0, 0]), DONE);
        one.0.ring(one.1, LOCK, [2, 0, 0]);
        other.0.ring(other.1, LOCK, [1, 0, 0]);
        assert!(one.0.doorbell.is_under_way(one.1.into()) && other.0.doorbell.is_under_way(other.1.into()));
        assert_eq!(other.0.does(LAST, BEGIN, [0; 3]), DONE);
        for (guest, slot) in [one, other] {
            assert_eq!(guest.result(slot), TAKEN_OVER);
            for lock in [1, 2] {
                assert_eq!(guest.does(slot, UNLOCK, [lock, 0, 0]), NOT_HELD);
                assert_eq!([LOCK, UNLOCK].map(|command| guest.does(slot, command, [lock, 0, 0])), [DONE; 2]);
            }
        }
    }
}

#[test]
fn a_team_that_was_refused_leaves_nothing_of_its_name() {
    let guest = Guest::new();
    let second = |members: u64, here: u64, own: u64| members | here << 16 | own << 32;
    assert_ne!(guest.does(3, MEET, [5, second(2, 2, 2), 0]), DONE, "there is no member 2 of 2");
    assert_eq!(guest.does(3, MEET, [5, second(1, 1, 0), 0]), DONE, "the same name for another size");
}

#[test]
fn a_program_that_begins_has_many_locks_of_a_dead_one_given_back_at_once() {
    const MANY: u32 = 1500;
    for ranks in [1, 2] {
        let guests = Guest::of(ranks);
        let [first, last] = [&guests[0], &guests[guests.len() - 1]];
        for lock in 0..MANY {
            assert_eq!(first.does(u16::from(lock % 2 == 1), LOCK, [lock.into(), 0, 0]), DONE);
        }
        assert_eq!(last.does(LAST, BEGIN, [0; 3]), DONE);
        for lock in [0, 1, MANY - 1] {
            assert_eq!(last.does(2, LOCK, [lock.into(), 0, 0]), DONE);
        }
        let held = first.doorbell.stats().memory.protocol.locks_free;
        assert!(held >= MANY.into(), "{held}");
    }
}

/// Rings with garbage, of which half is likely to be commands.
fn garbage(guests: &[Guest], seed: u64, rounds: u32) {
    let mut seed = seed;
    let mut next = || {
        // Marsaglia's xorshift.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..rounds {
        let guest = &guests[usize::try_from(next()).unwrap() % guests.len()];
        // Few, so that commands meet what earlier ones have left.
        let slots = [u64::from(SLOTS), 4][usize::from(round % 4 == 0)];
        let slot = if round % 64 == 2 { LAST } else { u16::try_from(next() % slots).unwrap() };
        let mut bytes: Vec<u8> = (0..8).flat_map(|_| next().to_le_bytes()).collect();
        if round % 2 == 0 {
            // Numbers that may be.
            bytes[16..20].copy_from_slice(&(u32::try_from(next() % 8).unwrap()).to_le_bytes());
            bytes[24..32].copy_from_slice(&(next() % 5).to_le_bytes());
            bytes[32..40].copy_from_slice(&((next() % 4) | ((next() % 4) << 16) | ((next() % 4) << 32)).to_le_bytes());
        }
        guest.put(slot, 0, &bytes);
        if round % 8 == 1 {
            let entries = [0, LENT_TAKEN, LENT_WANTED, lent(1), lent(1) | LENT_TAKEN, next()];
            let entry = entries[usize::try_from(next()).unwrap() % entries.len()];
            guest.entry(round % 5, |word| word.store(entry, Ordering::Relaxed));
        }
        let number = if round % 16 == 0 { u32::try_from(next() >> 40).unwrap() } else { slot.into() };
        guest.doorbell.ring(number, Arc::new(Nobody));
        guest.doorbell.stop_waiting(number);
    }
}

#[test]
fn garbage_in_any_page_is_an_error_to_who_wrote_it() {
    for (ranks, seed) in [(1, 1), (1, 2), (2, 3), (2, 4), (2, 5)] {
        let guests = Guest::of(ranks);
        garbage(&guests, seed, 20_000);
        let first = &guests[0];
        assert!(
            !first.doorbell.ring(u32::MAX, Arc::new(Nobody)) && !first.doorbell.ring(SLOTS.into(), Arc::new(Nobody))
        );
        // Some wait for locks or others, which a program that begins ends.
        guests.iter().for_each(|guest| guest.wait(LAST));
        assert_eq!(guests[guests.len() - 1].does(LAST, BEGIN, [0; 3]), DONE, "seed {seed}");
        for guest in &guests {
            for slot in 0..SLOTS {
                assert!(!guest.doorbell.is_under_way(slot.into()), "seed {seed}, slot {slot}");
            }
            for lock in 0..u32::from(LENT_LOCKS) {
                assert_eq!(guest.entry(lock, |entry| entry.load(Ordering::Relaxed)), 0, "seed {seed}, lock {lock}");
            }
            let stats = guest.doorbell.stats();
            assert!(stats.rings.refused > 1000 && stats.rings.commands > 1000, "seed {seed}: {stats:?}");
        }
        for slot in 0..LAST {
            let guest = &guests[usize::from(slot) % guests.len()];
            guest.put(slot, ANSWERED, &[0; 4]);
            assert_eq!(guest.does(slot, LOCK, [u64::from(slot), 0, 0]), DONE, "seed {seed}");
        }
        for guest in &guests {
            assert_eq!([TELL, HEAR].map(|command| guest.does(0, command, [0; 3])), [DONE; 2], "seed {seed}");
            assert_eq!(*locked(&guest.ended), None, "seed {seed}");
        }
    }
}

#[test]
fn a_command_is_begun_once_however_often_it_is_rung_for() {
    const COMMANDS: u32 = 400;
    let guest = Guest::new();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                guest.doorbell.ring(2, Arc::new(Nobody));
                // A vCPU's way here takes longer than the answer; who rings without a pause keeps that from the slot.
                std::thread::yield_now();
            }
        });
        for asked in 1..=COMMANDS {
            // Taken and given back in turns: a second time would be refused.
            let command = if asked % 2 == 1 { LOCK } else { UNLOCK };
            guest.put(2, COMMAND, &command.to_le_bytes());
            guest.put(2, ASKED, &asked.to_le_bytes());
            let deadline = Instant::now() + PATIENCE;
            while guest.word(2, ANSWERED) != asked {
                assert!(Instant::now() < deadline, "command {asked} has no answer");
                std::thread::yield_now();
            }
            assert_eq!(guest.word(2, RESULT), DONE, "command {asked}");
        }
        ended.store(true, Ordering::Relaxed);
    });
    assert_eq!(guest.doorbell.stats().rings.commands, u64::from(COMMANDS));
}
