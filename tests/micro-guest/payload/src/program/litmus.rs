//! Litmus tests: processors access two words of memory at about the same time, again and again, and what they see is
//! counted.
//!
//! Every iteration has its own two words. The words x of [`BATCH`] iterations are on pages of their own, so are the words y,
//! and processors on different ranks take these pages from each other while they go through a batch: after each batch
//! all meet. Nothing is set back: the new values of a batch are larger than those of the one before.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use vincs_micro_guest_payload::litmus::{Litmus, OUTCOMES, Order, Shape};
use vincs_micro_guest_payload::protocol::PORT_REST;
use vincs_micro_guest_payload::walk::mix;

use crate::cpu::Cpu;
use crate::parameters::Parameters;
use crate::{memory, port, report, smp};

/// Words of a page.
const PAGE_WORDS: usize = 512;
/// Iterations between two meetings: four pages of each word.
const BATCH: usize = 4 * PAGE_WORDS;
/// Where the second words are; the first are at the start.
const SECOND: usize = BATCH;
/// Where the processors meet.
const MEETING: usize = 2 * BATCH;
/// Where the first processor finds what the others saw, a byte for each iteration, on pages of each processor's own.
const SEEN: usize = MEETING + PAGE_WORDS;
/// Iterations whose outcomes are in one word.
const PACKED: usize = 8;
/// Longest pause before an iteration, in spins, in batches that go fast: processors of one rank meet within an iteration.
const SHORT_PAUSE: u64 = 4;
/// The same in batches that go slowly: a page changes hands between ranks while they are in the middle of it.
const LONG_PAUSE: u64 = 256;

/// One processor's part.
struct Player {
    litmus: Litmus,
    role: usize,
    x: &'static [AtomicU64],
    y: &'static [AtomicU64],
    seed: u64,
    longest_pause: u64,
}

/// Runs the test on as many processors as it wants, from as many ranks as there are.
pub(super) fn run(cpu: Cpu, parameters: &Parameters) {
    let Some(litmus) = Litmus::from_number(parameters.test) else {
        report::fail(format_args!("there is no litmus test {}", parameters.test))
    };
    let players = litmus.processors();
    if parameters.vcpus < players {
        report::fail(format_args!("{} processors are too few for this test; it wants {players}", parameters.vcpus));
    }
    // Spread out, so that the players are of different ranks.
    let distance = parameters.vcpus / players;
    if cpu.id().is_multiple_of(distance) && cpu.id() / distance < players {
        play(cpu.id() / distance, litmus, parameters);
    }
    smp::finish(cpu, parameters);
}

fn play(role: usize, litmus: Litmus, parameters: &Parameters) {
    let players = litmus.processors();
    let (x, y) = (memory::shared(0, BATCH), memory::shared(SECOND, BATCH));
    let meeting = &memory::shared(MEETING, 1)[0];
    let seen = |role| memory::shared(SEEN + PAGE_WORDS * role, BATCH / PACKED);
    let seed = mix(parameters.seed.wrapping_add(role as u64));
    let mut player = Player { litmus, role, x, y, seed, longest_pause: SHORT_PAUSE };
    let mut own = [0; BATCH];
    let mut counts = [0; OUTCOMES];
    let mut met = 0;
    let patience = parameters.period.max(1);
    let mut meet = || {
        met += players as u64;
        meeting.fetch_add(1, Ordering::AcqRel);
        let mut spins = 0_u64;
        while meeting.load(Ordering::Acquire) < met {
            core::hint::spin_loop();
            spins += 1;
            // Whoever has waited long lets the host run something else.
            if spins.is_multiple_of(patience) {
                port::read(PORT_REST);
            }
        }
    };
    for batch in 0..parameters.iterations.div_ceil(BATCH as u64) {
        // Every other batch all begin in one place, otherwise each where it likes; every other one is slow.
        let shared = mix(parameters.seed ^ batch);
        let choice = if shared & 1 == 0 { shared } else { player.random() };
        let start = (choice >> 32) as usize % BATCH;
        player.longest_pause = if shared & 2 == 0 { SHORT_PAUSE } else { LONG_PAUSE };
        meet();
        for index in (start..BATCH).chain(0..start) {
            own[index] = player.iterate(index, batch + 1);
        }
        for (word, bytes) in seen(role).iter().zip(own.as_chunks().0) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        meet();
        if role == 0 {
            for (at, first) in (0..BATCH).step_by(PACKED).enumerate() {
                let all = (0..players).fold(0, |all, role| all | seen(role)[at].load(Ordering::Relaxed));
                for (index, seen) in (first..).zip(all.to_le_bytes()) {
                    let outcome = seen | player.ending(index, batch + 1);
                    counts[usize::from(outcome) % OUTCOMES] += 1;
                }
            }
        }
    }
    if role == 0 {
        report::words(&counts);
    }
}

impl Player {
    fn random(&mut self) -> u64 {
        self.seed = mix(self.seed);
        self.seed
    }

    /// One iteration of a batch numbered from 1; what this processor saw, as bits of the outcome.
    fn iterate(&mut self, index: usize, batch: u64) -> u8 {
        let pause = self.random();
        // Half of the time it goes on at once.
        if pause.is_multiple_of(2) {
            for _ in 0..(pause >> 32) % self.longest_pause {
                core::hint::spin_loop();
            }
        }
        let (x, y) = (&self.x[index], &self.y[index]);
        let Litmus { shape, order } = self.litmus;
        let new = |word: &AtomicU64| is_new(load(word), batch);
        match (shape, self.role) {
            (Shape::StoreBuffering, 0) => {
                store(x, batch, order);
                between(order);
                new(y)
            }
            (Shape::StoreBuffering, _) => {
                store(y, batch, order);
                between(order);
                new(x) << 1
            }
            (Shape::MessagePassing, 0) => {
                store(x, batch, order);
                between(order);
                store(y, batch, order);
                0
            }
            (Shape::MessagePassing, _) => two_reads(y, x, order, batch),
            (Shape::LoadBuffering, 0) => {
                let bit = load(x);
                between(order);
                store(y, batch, order);
                is_new(bit, batch)
            }
            (Shape::LoadBuffering, _) => {
                let bit = load(y);
                between(order);
                store(x, batch, order);
                is_new(bit, batch) << 1
            }
            (Shape::IndependentReads, 0) => {
                store(x, batch, order);
                0
            }
            (Shape::IndependentReads, 1) => {
                store(y, batch, order);
                0
            }
            (Shape::IndependentReads, 2) => two_reads(x, y, order, batch),
            (Shape::IndependentReads, _) => two_reads(y, x, order, batch) << 2,
            (Shape::TwoPlusTwoWrites, role) => {
                let (first, second) = if role == 0 { (x, y) } else { (y, x) };
                store(first, 2 * batch - 1, order);
                between(order);
                store(second, 2 * batch, order);
                0
            }
        }
    }

    /// What the words are after a batch, as bits of the outcome, where that counts.
    fn ending(&self, index: usize, batch: u64) -> u8 {
        if self.litmus.shape != Shape::TwoPlusTwoWrites {
            return 0;
        }
        let second = |word: &AtomicU64| match load(word) {
            value if value == 2 * batch => 1,
            value if value == 2 * batch - 1 => 0,
            value => report::fail(format_args!("batch {batch}: a word is {value}, which is of another batch")),
        };
        second(&self.x[index]) | second(&self.y[index]) << 1
    }
}

fn two_reads(first: &AtomicU64, second: &AtomicU64, order: Order, batch: u64) -> u8 {
    let found = load(first);
    between(order);
    let then = load(second);
    is_new(found, batch) | is_new(then, batch) << 1
}

/// Whether a word has the batch's value, not that of the batch before; anything else is not coherent.
fn is_new(value: u64, batch: u64) -> u8 {
    if value != batch && value != batch - 1 {
        report::fail(format_args!("batch {batch}: a word is {value}, which is of another batch"));
    }
    u8::from(value == batch)
}

/// One plain load, where it stands.
fn load(word: &AtomicU64) -> u64 {
    let value;
    // SAFETY: the word is alive and shared as an atomic; the compiler moves no access over this.
    unsafe {
        asm!("mov {value}, [{word}]", value = out(reg) value, word = in(reg) word.as_ptr(), options(nostack, preserves_flags))
    };
    value
}

/// One store, where it stands: plain, or a locked exchange.
fn store(word: &AtomicU64, value: u64, order: Order) {
    let word = word.as_ptr();
    match order {
        Order::Plain | Order::Fenced => {
            // SAFETY: the word is alive and shared as an atomic; the compiler moves no access over this.
            unsafe {
                asm!("mov [{word}], {value}", value = in(reg) value, word = in(reg) word, options(nostack, preserves_flags))
            };
        }
        Order::Locked => {
            // SAFETY: as above. An exchange with memory is locked by itself.
            unsafe {
                asm!("xchg [{word}], {value}", value = inout(reg) value => _, word = in(reg) word, options(nostack, preserves_flags))
            };
        }
    }
}

/// What is between two accesses.
fn between(order: Order) {
    if order == Order::Fenced {
        // SAFETY: a fence has no preconditions.
        unsafe { asm!("mfence", options(nostack, preserves_flags)) };
    }
}
