//! Simulated processors: each runs a program of memory accesses against its rank's view, and waits where that faults.
//!
//! With a store buffer they are the x86-TSO machine of Owens, Sarkar and Sewell ("A Better x86 Memory Model: x86-TSO",
//! 2009): stores leave a FIFO buffer at random moments, loads see their own buffer first, fences and locked instructions
//! wait until it is empty. A buffered store may fault only when it leaves; real processors know earlier, so what they can
//! do is a part of this.

use std::collections::VecDeque;

use crate::id::{Access, Page};

use super::memory::Memory;
use super::rng::Rng;

/// What an access does with its word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Op {
    /// Reads it.
    Read,
    /// Writes this.
    Write(u64),
    /// Adds this in one step (a locked instruction).
    Add(u64),
    /// Replaces it by this in one step (a locked instruction).
    Exchange(u64),
}

impl Op {
    /// What the view has to permit.
    #[must_use]
    pub fn access(self) -> Access {
        match self {
            Self::Read => Access::Read,
            Self::Write(_) | Self::Add(_) | Self::Exchange(_) => Access::Write,
        }
    }
}

/// An access of one word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Touch {
    /// The page.
    pub page: Page,
    /// Which of its words.
    pub word: usize,
    /// What for.
    pub op: Op,
}

/// One step of a program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Instruction {
    /// Needs all of these pages at the same time, as an instruction and its page tables do.
    Touch(Vec<Touch>),
    /// Waits until the store buffer is empty.
    Fence,
    /// Waits for so many microseconds.
    Pause(u64),
    /// Waits for all processors of the machine to come to their next meeting.
    Meet,
}

/// An access that has happened, with what it saw.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Performed {
    /// Which.
    pub touch: Touch,
    /// What was there: nothing for a plain write, which does not look.
    pub saw: Option<u64>,
    /// What is there now, if it writes.
    pub wrote: Option<u64>,
}

/// How a step ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Stepped {
    /// These accesses happened.
    Done(Vec<Performed>),
    /// The view does not permit this.
    Faulted(Page, Access),
    /// Nothing to do for so many microseconds.
    Paused(u64),
    /// It waits for the others.
    Meets,
    /// The program has ended and the store buffer is empty.
    Finished,
}

/// A fault that has not been answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Waiting {
    /// The page.
    pub page: Page,
    /// What for.
    pub access: Access,
    /// Whether the node knows of it.
    pub told: bool,
}

/// A processor.
#[derive(Clone, Debug)]
pub struct Vcpu {
    program: VecDeque<Instruction>,
    buffer: VecDeque<Touch>,
    /// Most stores in the buffer; 0 is none: the memory is then used directly.
    capacity: usize,
    /// What it waits for.
    pub waiting: Option<Waiting>,
    /// Counts its waits and wakes: tells an old event from one that is meant for now.
    pub token: u64,
    /// Faults of the instruction that it is at.
    pub retries: u32,
    /// What its reads and locked instructions saw, in order.
    pub registers: Vec<u64>,
    /// Whether it is at a meeting.
    pub met: bool,
    /// Whether it executes nothing: it pauses, waits at a meeting, or has finished.
    pub asleep: bool,
}

impl Vcpu {
    /// A processor at the start of a program.
    #[must_use]
    pub fn new(program: Vec<Instruction>, capacity: usize) -> Self {
        Self {
            program: program.into(),
            buffer: VecDeque::new(),
            capacity,
            waiting: None,
            token: 0,
            retries: 0,
            registers: Vec::new(),
            met: false,
            asleep: false,
        }
    }

    /// Whether it has nothing more to do.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.program.is_empty() && self.buffer.is_empty()
    }

    /// Whether stores wait in its buffer: they leave it where they were made.
    #[must_use]
    pub fn has_stores(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Does the next thing: an instruction, or a store that leaves the buffer.
    pub fn step(&mut self, memory: &mut Memory, rng: &mut Rng) -> Stepped {
        let must_drain = match self.program.front() {
            None | Some(Instruction::Fence | Instruction::Meet) => true,
            Some(Instruction::Pause(_)) => false,
            Some(Instruction::Touch(touches)) => match touches.as_slice() {
                [Touch { op: Op::Write(_), .. }] => self.buffer.len() >= self.capacity,
                [Touch { op: Op::Read, .. }] => false,
                _ => true,
            },
        };
        if !self.buffer.is_empty() && (must_drain || rng.one_in(3)) {
            return self.drain(memory);
        }
        match self.program.front() {
            None => Stepped::Finished,
            Some(Instruction::Fence) => self.next(Stepped::Done(Vec::new())),
            Some(Instruction::Pause(time)) => {
                let time = *time;
                self.next(Stepped::Paused(time))
            }
            Some(Instruction::Meet) => {
                self.met = true;
                self.next(Stepped::Meets)
            }
            Some(Instruction::Touch(touches)) => {
                let touches = touches.clone();
                self.touch(&touches, memory)
            }
        }
    }

    fn next(&mut self, stepped: Stepped) -> Stepped {
        self.program.pop_front();
        self.retries = 0;
        stepped
    }

    fn drain(&mut self, memory: &mut Memory) -> Stepped {
        let Some(store) = self.buffer.front().copied() else { return Stepped::Done(Vec::new()) };
        let Some(performed) = perform(store, memory) else { return Stepped::Faulted(store.page, Access::Write) };
        self.buffer.pop_front();
        self.retries = 0;
        Stepped::Done(vec![performed])
    }

    fn touch(&mut self, touches: &[Touch], memory: &mut Memory) -> Stepped {
        match touches {
            [store @ Touch { op: Op::Write(_), .. }] if self.capacity > 0 => {
                self.buffer.push_back(*store);
                return self.next(Stepped::Done(Vec::new()));
            }
            [load @ Touch { op: Op::Read, .. }] => {
                let same = |store: &&Touch| (store.page, store.word) == (load.page, load.word);
                if let Some(Touch { op: Op::Write(value), .. }) = self.buffer.iter().rev().find(same) {
                    self.registers.push(*value);
                    return self.next(Stepped::Done(Vec::new()));
                }
            }
            _ => {}
        }
        if let Some(missing) = touches.iter().find(|touch| !memory.permits(touch.page, touch.op.access())) {
            return Stepped::Faulted(missing.page, missing.op.access());
        }
        let done: Vec<Performed> = touches.iter().filter_map(|touch| perform(*touch, memory)).collect();
        self.registers.extend(done.iter().filter_map(|performed| performed.saw));
        self.next(Stepped::Done(done))
    }
}

/// Does an access, if the view permits it.
pub fn perform(touch: Touch, memory: &mut Memory) -> Option<Performed> {
    let old = memory.read(touch.page, touch.word)?;
    let (saw, wrote) = match touch.op {
        Op::Read => (Some(old), None),
        Op::Write(value) => (None, Some(value)),
        Op::Add(value) => (Some(old), Some(old.wrapping_add(value))),
        Op::Exchange(value) => (Some(old), Some(value)),
    };
    let done = wrote.is_none_or(|value| memory.write(touch.page, touch.word, value));
    done.then_some(Performed { touch, saw, wrote })
}
