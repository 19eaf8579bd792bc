//! Programs without data races, at random: between two barriers each variable is one thread's alone, or nobody's to write, or a lock's. So there is one
//! value that a read may see, whatever the order of events: that of a sequential run.

use std::collections::BTreeMap;

use crate::hlrc::LockId;
use crate::hlrc::node::Reduction;
use crate::id::{Page, Rank};
use crate::sim::rng::Rng;

use super::memory::CELLS;

/// Adjacent bytes of a page that are used together.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Variable {
    /// Its page.
    pub page: Page,
    /// Its first byte.
    pub at: usize,
    /// Its length, at most 8.
    pub len: usize,
}

impl Variable {
    /// A number, cut to its bytes.
    #[must_use]
    pub fn bytes(self, value: u64) -> Vec<u8> {
        value.to_le_bytes().into_iter().take(self.len).collect()
    }

    /// Its value in a page.
    #[must_use]
    pub fn value(self, cells: &[u8]) -> u64 {
        let bytes = cells.iter().skip(self.at).take(self.len);
        bytes.rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

/// What a thread does next.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Step {
    /// Reads.
    Read(Variable),
    /// Writes.
    Write(Variable, u64),
    /// Adds one.
    Add(Variable),
    /// Takes a lock.
    Acquire(LockId),
    /// Gives it back.
    Release(LockId),
    /// Publishes what its rank has written, and tells whoever waits for this word of it.
    Tell(u32),
    /// Waits for the word, and sees what has been published with it.
    Hear(u32),
    /// Waits for all.
    Barrier,
    /// Waits for all; they give this, and get that.
    Reduce(Reduction, u64, u64),
    /// Ends, with the locks that it has.
    End,
}

/// Most ranks of a planted race.
pub const MAX_RACING: u32 = 6;

/// A thread's steps.
pub type Program = Vec<Step>;

/// Who may use a variable until the next barrier.
#[derive(Clone, Copy, Debug)]
enum Role {
    Owned(usize),
    Constant,
    Locked(LockId),
}

/// What a program is made for.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Pages.
    pub pages: u32,
    /// Locks.
    pub locks: u32,
    /// Stretches between barriers.
    pub phases: u32,
    /// Most accesses and critical sections of a thread in each.
    pub steps: u64,
}

/// A race that is in programs on purpose.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Planted {
    /// What is written without synchronisation, and by nobody else.
    pub variable: Variable,
    /// By whom; each has one thread.
    pub ranks: Vec<Rank>,
    /// In which stretch between barriers first.
    pub phase: u32,
}

/// Programs for threads on ranks, `team[rank]` of them on each; in the order of ranks and threads.
#[must_use]
pub fn random(rng: &mut Rng, team: &[u16], size: Size) -> Vec<Program> {
    make(rng, team, size, &mut Vec::new(), Vec::new())
}

/// The same with races, of which there are at most so many, at least one if two ranks have one thread each. Locks from `size.locks` on are for these alone.
#[must_use]
pub fn racy(rng: &mut Rng, team: &[u16], size: Size, races: usize) -> (Vec<Program>, Vec<Planted>) {
    let mut variables = variables(rng, size.pages);
    let single: Vec<Rank> =
        (0..).map(Rank).zip(team).filter(|(_, threads)| **threads == 1).map(|(rank, _)| rank).collect();
    let mut planted = Vec::new();
    while planted.len() < races && variables.len() > 1 && single.len() > 1 {
        let variable = variables.swap_remove(rng.index(variables.len()));
        let mut ranks = single.clone();
        let count = if rng.one_in(3) { ranks.len() } else { 2 };
        while ranks.len() > count {
            ranks.swap_remove(rng.index(ranks.len()));
        }
        planted.push(Planted { variable, ranks, phase: rng.below_u32(size.phases) });
    }
    let programs = make(rng, team, size, &mut planted, variables);
    (programs, planted)
}

fn make(rng: &mut Rng, team: &[u16], size: Size, planted: &mut [Planted], given: Vec<Variable>) -> Vec<Program> {
    let ranks: Vec<usize> = { (0..).zip(team) }.flat_map(|(rank, threads)| vec![rank; usize::from(*threads)]).collect();
    let variables = if planted.is_empty() { variables(rng, size.pages) } else { given };
    let mut programs = vec![Program::new(); ranks.len()];
    let mut living = vec![true; ranks.len()];
    let mut words = 0;
    for phase_number in 0..size.phases {
        plant(rng, &ranks, planted, (phase_number, size), &mut programs, &mut words);
        let roles: Vec<(Variable, Role)> =
            variables.iter().map(|variable| (*variable, role(rng, ranks.len(), size.locks))).collect();
        for (thread, program) in programs.iter_mut().enumerate().filter(|(thread, _)| living[*thread]) {
            phase(rng, thread, program, &roles, size.steps);
        }
        if rng.one_in(2) {
            hand_on(rng, &living, &mut programs, &roles, &mut words);
        }
        if rng.one_in(4) {
            end_one(rng, &ranks, &mut living, &mut programs, size.locks);
        }
        meet(rng, &living, &mut programs);
    }
    programs
}

/// Has planted races happen in a phase if it is their first, or sometimes if it is a later one: before their threads do anything else, so that nothing
/// orders them. Some write under a lock that nobody else takes, some are told afterwards that another one has written.
fn plant(
    rng: &mut Rng,
    ranks: &[usize],
    planted: &[Planted],
    (phase, size): (u32, Size),
    programs: &mut [Program],
    words: &mut u32,
) {
    let (mut tells, mut hears) = (Vec::new(), Vec::new());
    for (index, Planted { variable, ranks: racing, phase: first }) in (0..).zip(planted) {
        if phase < *first || phase > *first && rng.one_in(2) {
            continue;
        }
        let threads = racing.iter().filter_map(|rank| ranks.iter().position(|of| *of == usize::from(rank.0)));
        let threads: Vec<usize> = threads.collect();
        for (number, thread) in (0..).zip(&threads) {
            // No byte is ever written with what it is already.
            let byte = 1 + (phase * 8 + index) * MAX_RACING + number;
            let write = Step::Write(*variable, u64::from(byte % 255 + 1) * 0x0101_0101_0101_0101);
            let Some(program) = programs.get_mut(*thread) else { continue };
            if rng.one_in(2) {
                let lock = LockId(size.locks + index * MAX_RACING + number);
                program.extend([Step::Acquire(lock), write, Step::Release(lock)]);
            } else {
                program.push(write);
            }
        }
        if rng.one_in(2)
            && let [first, rest @ ..] = &threads[..]
        {
            tells.push((*first, Step::Tell(*words)));
            hears.extend(rest.iter().map(|thread| (*thread, Step::Hear(*words))));
            *words += 1;
        }
    }
    for (thread, step) in tells.into_iter().chain(hears) {
        if let Some(program) = programs.get_mut(thread) {
            program.push(step);
        }
    }
}

/// Pages cut into variables, some bytes left out.
fn variables(rng: &mut Rng, pages: u32) -> Vec<Variable> {
    let mut variables = Vec::new();
    for page in (0..pages).map(Page) {
        let mut at = rng.index(4);
        while at < CELLS {
            let len = rng.pick(&[1, 1, 2, 3, 4, 8]).unwrap_or(1).min(CELLS - at);
            variables.push(Variable { page, at, len });
            at += len + rng.pick(&[0, 0, 0, 5]).unwrap_or(0);
        }
    }
    variables
}

fn role(rng: &mut Rng, threads: usize, locks: u32) -> Role {
    match rng.below(5) {
        0 | 1 => Role::Owned(rng.index(threads)),
        2 => Role::Constant,
        _ => Role::Locked(LockId(rng.below_u32(locks))),
    }
}

fn phase(rng: &mut Rng, thread: usize, program: &mut Program, roles: &[(Variable, Role)], steps: u64) {
    for _ in 0..rng.below(steps + 1) {
        let Some((variable, role)) = rng.pick(roles) else { return };
        match role {
            Role::Owned(owner) if owner == thread => program.push(access(rng, variable)),
            Role::Owned(_) => {}
            Role::Constant => program.push(Step::Read(variable)),
            Role::Locked(lock) => critical_section(rng, program, roles, lock),
        }
    }
}

fn access(rng: &mut Rng, variable: Variable) -> Step {
    match rng.below(3) {
        0 => Step::Read(variable),
        1 => Step::Write(variable, rng.next_u64()),
        _ => Step::Add(variable),
    }
}

/// Some accesses under a lock, or under it and a higher one.
fn critical_section(rng: &mut Rng, program: &mut Program, roles: &[(Variable, Role)], lock: LockId) {
    let locked = |lock: LockId| -> Vec<Variable> {
        let of =
            |(variable, role): &(Variable, Role)| matches!(role, Role::Locked(by) if *by == lock).then_some(*variable);
        roles.iter().filter_map(of).collect()
    };
    let mut variables = locked(lock);
    let second = LockId(lock.0 + 1);
    let nested = rng.one_in(4) && !locked(second).is_empty();
    program.push(Step::Acquire(lock));
    if nested {
        variables.extend(locked(second));
        program.push(Step::Acquire(second));
    }
    for _ in 0..rng.between(1, 4) {
        if let Some(variable) = rng.pick(&variables) {
            program.push(access(rng, variable));
        }
    }
    if nested {
        program.push(Step::Release(second));
    }
    program.push(Step::Release(lock));
}

/// A thread tells another one of what it has written and is done with, which uses it too and may tell a third one of both.
fn hand_on(rng: &mut Rng, living: &[bool], programs: &mut [Program], roles: &[(Variable, Role)], words: &mut u32) {
    let mut threads: Vec<usize> = (0..living.len()).filter(|thread| living[*thread]).collect();
    let mut known: Vec<Variable> = Vec::new();
    let mut before = None;
    for _ in 0..rng.between(2, 3) {
        if threads.is_empty() {
            return;
        }
        let thread = threads.swap_remove(rng.index(threads.len()));
        if let Some(word) = before {
            programs[thread].push(Step::Hear(word));
            for _ in 0..rng.between(1, 3) {
                if let Some(variable) = rng.pick(&known) {
                    programs[thread].push(access(rng, variable));
                }
            }
        }
        let own =
            |(variable, role): &(Variable, Role)| matches!(role, Role::Owned(by) if *by == thread).then_some(*variable);
        known.extend(roles.iter().filter_map(own));
        programs[thread].push(Step::Tell(*words));
        before = Some(*words);
        *words += 1;
    }
}

/// A thread ends with a lock, if another one of its rank lives on. It has changed nothing under the lock, as nobody could say what of it is seen.
fn end_one(rng: &mut Rng, ranks: &[usize], living: &mut [bool], programs: &mut [Program], locks: u32) {
    let thread = rng.index(ranks.len());
    let others = (0..ranks.len()).filter(|other| *other != thread && living[*other] && ranks[*other] == ranks[thread]);
    if living[thread] && others.count() > 0 {
        living[thread] = false;
        programs[thread].extend([Step::Acquire(LockId(rng.below_u32(locks))), Step::End]);
    }
}

fn meet(rng: &mut Rng, living: &[bool], programs: &mut [Program]) {
    let all = programs.iter_mut().zip(living).filter(|(_, living)| **living).map(|(program, _)| program);
    let reduction = if rng.one_in(2) { rng.pick(&Reduction::ALL) } else { None };
    let Some(reduction) = reduction else { return all.for_each(|program| program.push(Step::Barrier)) };
    // Small doubles, so that no sum depends on the order: how ranks group them is their own.
    let mut word = || match reduction {
        Reduction::SumFloat | Reduction::MinFloat | Reduction::MaxFloat => f64::from(rng.below_u32(1000)).to_bits(),
        Reduction::Sum | Reduction::Min | Reduction::Max | Reduction::And | Reduction::Or | Reduction::Xor => {
            rng.next_u64()
        }
    };
    let all: Vec<(&mut Program, u64)> = all.map(|program| (program, word())).collect();
    let result = all.iter().map(|(_, word)| *word).reduce(|one, other| reduction.join(one, other)).unwrap_or(0);
    all.into_iter().for_each(|(program, word)| program.push(Step::Reduce(reduction, word, result)));
}

/// The machine's memory in a sequential run.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Reference(BTreeMap<Page, [u8; CELLS]>);

impl Reference {
    /// The value of a variable.
    #[must_use]
    pub fn value(&self, variable: Variable) -> u64 {
        self.0.get(&variable.page).map_or(0, |cells| variable.value(cells))
    }

    /// A variable is written.
    pub fn write(&mut self, variable: Variable, value: u64) {
        let cells = self.0.entry(variable.page).or_insert([0; CELLS]);
        let to = cells.iter_mut().skip(variable.at);
        to.zip(variable.bytes(value)).for_each(|(to, byte)| *to = byte);
    }

    /// A page.
    #[must_use]
    pub fn page(&self, page: Page) -> [u8; CELLS] {
        self.0.get(&page).copied().unwrap_or([0; CELLS])
    }
}
