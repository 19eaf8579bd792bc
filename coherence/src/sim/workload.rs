//! Random scenarios.

use crate::home::{HomeMap, HomeMapError};
use crate::id::{Access, Page, Rank, Run, Tick};
use crate::node::WindowConfig;

use super::guest::{Instruction, Op, Touch};
use super::memory::WORDS;
use super::network::{Delays, Partition};
use super::rng::Rng;
use super::scenario::{Departure, DeviceJob, HandOver, LONGEST_STEP, Program, Relocation, Scenario, Stall};

/// Which mishaps happen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mishaps {
    /// None.
    None,
    /// Stalls, slow ranks, partitions; at times the crash of a rank.
    Any,
}

/// How processors choose their pages.
#[derive(Clone, Copy, Debug)]
enum Pattern {
    /// Few pages, everybody the same.
    Hot,
    /// Any page.
    Uniform,
    /// Page after page, at times from somewhere else.
    Sequential,
}

/// Pages that everybody wants in [`Pattern::Hot`].
const HOT_PAGES: u32 = 3;

/// Hand-overs that [`with_hand_overs`] adds, some of which find their pages where they are to go.
const MOST_HAND_OVERS: usize = 20;

/// Rounds of [`readers`].
const ROUNDS: u32 = 36;

struct Author<'a> {
    rng: &'a mut Rng,
    pages: u32,
    ranks: u16,
    /// Most pages of one instruction.
    widest: usize,
    /// One access in so many writes.
    writes: u64,
    /// Next value to be written: all are different.
    value: u64,
}

/// A random machine with random programs.
///
/// # Errors
/// [`HomeMapError`] never, as what is made here has pages; it is passed on rather than ignored.
pub fn random(rng: &mut Rng, mishaps: Mishaps) -> Result<Scenario, HomeMapError> {
    let ranks = if rng.one_in(8) { 8 } else { 2 + rng.below_u16(3) };
    let small = !rng.one_in(3);
    let most_pages = if small { 4 } else { 40 };
    let segments = u64::from(ranks) * rng.between(1, 2);
    let sizes: Vec<(u32, Rank)> = (0..segments)
        .map(|index| (1 + rng.below_u32(most_pages), Rank(u16::try_from(index).unwrap_or(0) % ranks)))
        .collect();
    let homes = HomeMap::new(sizes)?;
    let longest = rng.pick(&[3, 20, 200]).unwrap_or(3);
    let delays = Delays { shortest: 1, longest, slow: longest * rng.between(1, 10) };
    let hold = Tick(rng.pick(&[0, 10, 8 * delays.longest, 4 * delays.slow + 100]).unwrap_or(0));
    // Instructions that need several pages end in a bounded number of tries only when pages are held long enough, and when
    // those of all processors of a rank fit into its cache.
    let widest = if hold.0 >= 8 * delays.longest { 4 } else { 1 };
    let writes = rng.pick(&[2, 3, 10]).unwrap_or(2);
    let mut author = Author { pages: homes.pages(), ranks, widest, writes, value: 1 << 32, rng };
    let programs = author.programs();
    let devices = author.devices(hold);
    let mut scenario = Scenario {
        hold,
        cache_pages: rng
            .pick(if widest > 1 { &[None, Some(32), Some(64)] } else { &[None, Some(1), Some(8)] })
            .flatten(),
        read_ahead: rng.pick(&[0, 2, 8, 32]).unwrap_or(0),
        first_touch: rng.pick(&[1, 2, 8]).unwrap_or(1),
        // A look ahead, so that all that follows is as it was before there were companions, for the seeds that are kept.
        companions: rng.clone().pick(&[0, 3, 32]).unwrap_or(0),
        migratory: rng.clone().next_u64() >> 63 == 0,
        window: window(&mut rng.clone()),
        nic_pause: longest,
        clocks: (0..ranks).map(|_| clock(rng)).collect(),
        zeros_left_out_one_in: rng.below(4),
        devices,
        ..Scenario::calm(ranks, homes, delays, programs)
    };
    if mishaps == Mishaps::Any {
        add_mishaps(rng, &mut scenario);
    }
    Ok(scenario)
}

/// A random machine with ranks beside the homes, some of whose processors move at random moments, and whose ranks without homes come
/// and leave while the others work.
///
/// # Errors
/// [`HomeMapError`] never, as what is made here has pages; it is passed on rather than ignored.
pub fn leavers(rng: &mut Rng, mishaps: Mishaps) -> Result<Scenario, HomeMapError> {
    let scenario = random(rng, mishaps)?;
    Ok(with_leavers(rng, scenario))
}

/// The same machine with such ranks.
#[must_use]
pub fn with_leavers(rng: &mut Rng, mut scenario: Scenario) -> Scenario {
    let stay = scenario.ranks;
    for _ in 0..rng.between(1, 2) {
        scenario.ranks += 1;
        scenario.slowness.push(1);
        scenario.clocks.push(clock(rng));
    }
    let guest = |rng: &mut Rng, ranks| Rank(stay + rng.below_u16(ranks - stay));
    let lasts = 60 * (scenario.delays.longest + LONGEST_STEP);
    for vcpu in 0..scenario.programs.len() {
        if let Some(program) = scenario.programs.get_mut(vcpu).filter(|_| rng.one_in(3)) {
            program.rank = guest(rng, scenario.ranks);
        }
        for _ in 0..rng.below(3) {
            let to = if rng.one_in(2) { guest(rng, scenario.ranks) } else { Rank(rng.below_u16(stay)) };
            scenario.relocations.push(Relocation { at: rng.below(lasts), vcpu, to });
        }
    }
    for rank in (stay..scenario.ranks).map(Rank) {
        scenario.leaves.push(Departure { at: rng.below(lasts), rank, to: Rank(rng.below_u16(stay)) });
    }
    scenario
}

/// The same machine, in which those that leave are homes as well at first: all ranks are, of pieces of random lengths.
#[must_use]
pub fn of_many_homes(rng: &mut Rng, scenario: Scenario) -> Scenario {
    let mut homes = scenario.homes.clone();
    let mut first = 0;
    while first < homes.pages() {
        let run = Run { first: Page(first), count: 1 + rng.below_u16(6) };
        homes.hand_over(run, Rank(rng.below_u16(scenario.ranks)));
        first = run.end().0;
    }
    Scenario { homes, ..scenario }
}

/// A machine in which many read a few pages again and again, and one or the other writes them: what windows are for, and what goes
/// wrong in them if anything does.
///
/// # Errors
/// [`HomeMapError`] never, as there are pages; it is passed on rather than ignored.
pub fn readers(rng: &mut Rng) -> Result<Scenario, HomeMapError> {
    let ranks = 3 + rng.below_u16(3);
    let (pages, slots) = rng.pick(&[(2, 1), (4, 1), (24, 6), (24, 24)]).unwrap_or((2, 1));
    let writes = rng.pick(&[4, 8, 16]).unwrap_or(4);
    let longest = rng.pick(&[2, 6, 20]).unwrap_or(2);
    let mut value = 0;
    let mut program = |rank| {
        let mut instructions = Vec::new();
        // All are at the same few pages of one home at about the same time.
        for round in 0..ROUNDS {
            if round % 4 == 0 {
                instructions.push(Instruction::Meet);
            }
            for _ in 0..rng.between(1, 4) {
                value += 1;
                let op = if rng.one_in(writes) { Op::Write(value) } else { Op::Read };
                let page = Page(round % u32::from(ranks) * pages + (round + rng.below_u32(3)) % pages);
                instructions.push(Instruction::Touch(vec![Touch { page, word: rng.index(WORDS), op }]));
            }
        }
        Program { rank, instructions, buffer: 0 }
    };
    let programs = (0..ranks).chain(1..ranks).map(Rank).map(&mut program).collect();
    let wait = rng.pick(&[0, 1, 3]).unwrap_or(0);
    // What is near is shown before anybody has asked for it.
    let near = rng.clone().pick(&[1, 1, 2, 8]).unwrap_or(1);
    let window = WindowConfig { slots, readers: 1, near, wait };
    let homes = HomeMap::new((0..ranks).map(|rank| (pages, Rank(rank))))?;
    let delays = Delays { shortest: 1, longest, slow: 3 * longest };
    Ok(Scenario {
        cache_pages: rng.pick(&[None, Some(1), Some(1), Some(2)]).flatten(),
        window: Some(window),
        nic_pause: rng.pick(&[longest, 8 * longest, 30 * longest]).unwrap_or(longest),
        ..Scenario::calm(ranks, homes, delays, programs)
    })
}

/// The same machine, in which homes move at random moments: some pages at once or one after the other, to and fro or all over.
#[must_use]
pub fn with_hand_overs(rng: &mut Rng, scenario: Scenario) -> Scenario {
    let pages = scenario.homes.pages();
    let until = rng.pick(&[100, 500, 4000]).unwrap_or(100);
    // Those that leave are the last.
    let stay = (0..scenario.ranks).filter(|rank| scenario.leaves.iter().all(|leaves| leaves.rank.0 != *rank)).count();
    let stay = u16::try_from(stay).unwrap_or(1);
    let few = if rng.one_in(2) { pages.min(HOT_PAGES) } else { pages };
    let longest = rng.pick(&[1, 2, 16]).unwrap_or(1);
    let hand_over = |_| {
        let run = Run { first: Page(rng.below_u32(few)), count: 1 + rng.below_u16(longest) };
        HandOver { at: rng.below(until), run, to: Rank(rng.below_u16(stay)) }
    };
    let hand_overs = (0..MOST_HAND_OVERS).map(hand_over).collect();
    Scenario { hand_overs, ..scenario }
}

/// Windows of random sizes, or none.
fn window(rng: &mut Rng) -> Option<WindowConfig> {
    // The first number is that of the companions.
    rng.next_u64();
    let slots = rng.pick(&[None, Some(1), Some(3), Some(64)]).flatten()?;
    let (readers, wait) = (rng.pick(&[1, 1, 2])?, rng.pick(&[0, 0, 2])?);
    let near = rng.pick(&[1, 1, 4, 16])?;
    Some(WindowConfig { slots, readers, near, wait })
}

/// What a rank's clock shows at the start: at times shortly before 32 bits of it overflow.
fn clock(rng: &mut Rng) -> u64 {
    let at = rng.between(0, 3000);
    if rng.one_in(2) { at } else { (1 << 32) - at }
}

fn add_mishaps(rng: &mut Rng, scenario: &mut Scenario) {
    let some_rank = |rng: &mut Rng| Rank(rng.below_u16(scenario.ranks));
    for _ in 0..rng.below(3) {
        let from = rng.below(5000);
        let (rank, guest) = (some_rank(rng), rng.one_in(2));
        scenario.stalls.push(Stall { rank, from, until: from + rng.between(1, 5000), guest });
    }
    for _ in 0..rng.below(3) {
        let from = rng.below(5000);
        let between = (some_rank(rng), some_rank(rng));
        scenario.partitions.push(Partition { between, from, until: from + rng.between(1, 5000) });
    }
    if rng.one_in(3) {
        let slow = rng.index(scenario.slowness.len());
        if let Some(slowness) = scenario.slowness.get_mut(slow) {
            *slowness = rng.between(2, 20);
        }
    }
    if rng.one_in(8) {
        scenario.crash = Some((some_rank(rng), rng.between(1, 4000)));
    }
}

impl Author<'_> {
    fn programs(&mut self) -> Vec<Program> {
        let mut programs = Vec::new();
        let length = self.rng.between(5, 50);
        for rank in (0..self.ranks).map(Rank) {
            for _ in 0..self.rng.between(0, 3) {
                let pattern = [Pattern::Hot, Pattern::Hot, Pattern::Uniform, Pattern::Sequential];
                let pattern = self.rng.pick(&pattern).unwrap_or(Pattern::Hot);
                let buffer = self.rng.pick(&[0, 0, 4]).unwrap_or(0);
                programs.push(Program { rank, instructions: self.program(length, pattern), buffer });
            }
        }
        programs
    }

    fn program(&mut self, length: u64, pattern: Pattern) -> Vec<Instruction> {
        let mut at = self.rng.below_u32(self.pages);
        let mut program = Vec::new();
        for _ in 0..length {
            if self.rng.one_in(10) {
                program.push(Instruction::Pause(self.rng.below(100)));
            }
            let wide = if self.rng.one_in(4) { 1 + self.rng.index(self.widest) } else { 1 };
            let mut touches = Vec::new();
            for _ in 0..wide {
                at = match pattern {
                    Pattern::Hot => self.rng.below_u32(self.pages.min(HOT_PAGES)),
                    Pattern::Uniform => self.rng.below_u32(self.pages),
                    Pattern::Sequential if self.rng.one_in(12) => self.rng.below_u32(self.pages),
                    Pattern::Sequential => (at + 1) % self.pages.max(1),
                };
                touches.push(self.touch(Page(at), Access::Write));
            }
            program.push(Instruction::Touch(touches));
        }
        program
    }

    fn touch(&mut self, page: Page, at_most: Access) -> Touch {
        self.value += 1;
        let op = match (at_most, self.rng.one_in(self.writes)) {
            (Access::Read, _) | (_, false) => Op::Read,
            (Access::Write, true) => match self.rng.below(3) {
                0 => Op::Add(1),
                // Pages become zero again, for the copies that are left out of messages.
                1 if self.rng.one_in(4) => Op::Write(0),
                1 => Op::Exchange(self.value),
                _ => Op::Write(self.value),
            },
        };
        Touch { page, word: self.rng.index(WORDS), op }
    }

    fn devices(&mut self, hold: Tick) -> Vec<DeviceJob> {
        (0..self.rng.below(6)).map(|_| self.device(hold)).collect()
    }

    fn device(&mut self, hold: Tick) -> DeviceJob {
        let mut runs = Vec::new();
        let mut touches = Vec::new();
        for _ in 0..self.rng.between(1, 3) {
            let first = self.rng.below_u32(self.pages);
            let most = (self.pages - first).min(if self.rng.one_in(3) { 40 } else { 4 });
            let count = 1 + self.rng.below_u16(u16::try_from(most).unwrap_or(1));
            let run = Run { first: Page(first), count };
            let access = if self.rng.one_in(2) { Access::Read } else { Access::Write };
            runs.push((run, access));
            for page in run.pages() {
                touches.push(self.touch(page, access));
            }
        }
        DeviceJob {
            rank: Rank(self.rng.below_u16(self.ranks)),
            at: self.rng.below(3000),
            runs,
            touches,
            keeps: self.rng.below(2 * hold.0 + 100 * LONGEST_STEP),
            gives_up: self.rng.one_in(4),
        }
    }
}
