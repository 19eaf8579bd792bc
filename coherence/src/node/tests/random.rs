//! Random histories of small machines: processors, devices and time in any order. What each step checks is in the machine.

use super::machine::Machine;
use crate::id::{Access, Page, Rank, RankSet, Run, Version};
use crate::message::{Content, Granted, Handed, HandedState, Keep, Message, Urgency, Waiting};
use crate::node::WindowConfig;

/// A xorshift generator (Marsaglia, "Xorshift RNGs", 2003).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }

    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[usize::try_from(self.below(values.len() as u64)).expect("an index")]
    }

    pub(super) fn rank(&mut self, ranks: u16) -> u16 {
        u16::try_from(self.below(ranks.into())).expect("a rank")
    }

    pub(super) fn access(&mut self) -> Access {
        if self.below(2) == 0 { Access::Read } else { Access::Write }
    }
}

const RANKS: u16 = 3;
const PAGES: u32 = 4;
const STEPS: u32 = 400;

/// One step of a random history; `holds` counts the holds made so far.
pub(super) fn step(machine: &mut Machine, random: &mut Random, holds: &mut u64) {
    let rank = random.rank(RANKS);
    let page = u32::try_from(random.below((u32::from(RANKS) * PAGES).into())).expect("a page");
    match random.below(24) {
        0..8 => {
            machine.deliver(rank, random.rank(RANKS));
        }
        8..13 => machine.touch(rank, page, random.access()),
        13 => machine.retry(),
        14 => machine.pass(random.below(30)),
        15 => {
            *holds += 1;
            let count = u16::try_from(1 + random.below((u32::from(RANKS) * PAGES - page).into())).expect("a run");
            let mut runs = vec![(Run { first: Page(page), count }, random.access())];
            if random.below(3) == 0 {
                runs.push((Run::one(Page(0)), random.access()));
            }
            machine.hold(rank, *holds, &runs);
        }
        16 | 17 => {
            let ids: Vec<u64> = machine.holds[usize::from(rank)].keys().map(|id| id.0).collect();
            let may_give_up = random.below(8) == 0;
            for id in ids {
                let is_ready = machine.holds[usize::from(rank)][&crate::node::HoldId(id)].1;
                if (is_ready || may_give_up) && random.below(2) == 0 {
                    machine.release(rank, id);
                }
            }
        }
        18 => {
            let reads = machine.reads() as u64;
            machine.read_on(usize::try_from(random.below(reads.max(1))).expect("an index"));
        }
        19..22 => _ = machine.read_on(0),
        22 => machine.tell_marks(),
        _ => {
            // A reader of pages in order.
            (0..PAGES).for_each(|at| machine.touch(rank, at, Access::Read));
        }
    }
}

/// Everybody who waits gets what it waits for, and every hold becomes ready as long as others are released.
fn end(machine: &mut Machine) {
    for _ in 0..1000 {
        machine.run();
        for rank in 0..RANKS {
            let holds = &machine.holds[usize::from(rank)];
            let ready: Vec<u64> = holds.iter().filter(|(_, (_, is_ready))| *is_ready).map(|(id, _)| id.0).collect();
            ready.into_iter().for_each(|id| machine.release(rank, id));
        }
        if !machine.has_waiters() && machine.holds.iter().all(|holds| holds.is_empty()) {
            return machine.run();
        }
    }
    panic!("somebody waits for ever");
}

/// A machine with some of the settings that there are.
pub(super) fn random_machine(seed: u64) -> (Random, Machine) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
    let (hold, ahead) = (random.pick(&[0, 7, 20]), random.pick(&[0, 1, 3, 8]));
    let window = random.pick(&[None, Some(1), Some(3)]);
    let near = random.pick(&[1, 2, 4]);
    let (first_touch, cache) = (random.pick(&[1, 2, 4]), random.pick(&[None, Some(2), Some(4)]));
    let migratory = seed % 4 == 3;
    let mut machine = Machine::new(RANKS, PAGES, |config| {
        config.hold.0 = hold;
        config.read_ahead = ahead;
        config.first_touch = first_touch;
        config.migratory = migratory;
        config.window = window.map(|slots| WindowConfig { slots, readers: 1, near, wait: 0 });
    });
    machine.marks_are_late = random.below(2) == 0;
    // Smaller than a real cache may be.
    machine.nodes.iter_mut().for_each(|node| node.config.cache_pages = cache);
    if migratory {
        // A history by chance has few of these.
        for (rank, page) in [(1, 0), (0, 0), (1, 0), (0, 0), (0, 4), (2, 4), (0, 4)] {
            machine.touch_and_run(rank, page, Access::Read);
            machine.touch_and_run(rank, page, Access::Write);
        }
    }
    (random, machine)
}

/// Ranks, most often those that there are.
fn ranks(random: &mut Random) -> RankSet {
    random.pick(&[
        RankSet::below(RANKS),
        RankSet::below(RANKS),
        RankSet::one(Rank(1)),
        RankSet::EMPTY,
        RankSet::below(4),
    ])
}

/// A message with values that may make sense here.
pub(super) fn random_message(random: &mut Random) -> Message {
    let page = Page(u32::try_from(random.below(14)).expect("a page"));
    let run = Run { first: page, count: random.pick(&[0, 1, 1, 1, 1, 2, 3, 300]) };
    let version = |random: &mut Random| Version(random.pick(&[0, 1, 1, 2, 2, 3, 4, 5, u64::MAX]));
    let content = random.pick(&[Content::Data, Content::Zero, Content::Current]);
    let keep = random.pick(&[Keep::Nothing, Keep::Shared]);
    match random.below(13) {
        0 => {
            let have = (0..random.pick(&[0, 0, run.count])).map(|_| version(random)).collect();
            let urgency = random.pick(&[Urgency::Demand, Urgency::Ahead]);
            Message::Acquire { run, access: random.access(), urgency, have }
        }
        1 => {
            let pages = (0..run.count).map(|_| Granted { version: version(random), content }).collect();
            Message::Grant { first: page, access: random.access(), pages }
        }
        2 => Message::Refuse { run },
        3 => Message::Invalidate { page },
        4 => Message::InvalidateAck { page },
        5 => Message::Recall { page, keep },
        6 => Message::WriteBack { page, version: version(random), keep, content },
        7 => Message::HandOver { run, to: Rank(random.rank(4)), members: ranks(random) },
        8 => Message::Freeze { run, to: Rank(random.rank(4)), members: ranks(random) },
        9 => Message::Frozen { run },
        10 => {
            let waiting = |random: &mut Random| Waiting {
                from: Rank(random.rank(4)),
                access: random.access(),
                have: version(random),
            };
            let requests = (0..random.below(3)).map(|_| waiting(random)).collect();
            Message::Requests { page, is_begun: random.below(2) == 0, requests }
        }
        11 => {
            let handed = |random: &mut Random| {
                let rank = Rank(random.rank(4));
                let state = match random.below(5) {
                    0 => HandedState::Untouched,
                    1 => HandedState::Owned(rank),
                    2 => HandedState::Shared(ranks(random)),
                    3 => HandedState::Recalling(rank),
                    _ => HandedState::Invalidating(ranks(random)),
                };
                Handed { version: version(random), state, content }
            };
            Message::Entries {
                first: page,
                gone: RankSet::EMPTY,
                pages: (0..run.count).map(|_| handed(random)).collect(),
            }
        }
        _ => Message::Moved { run },
    }
}

#[test]
fn random_histories_are_coherent_and_come_to_rest() {
    for seed in 1..=300 {
        println!("seed {seed}");
        let (mut random, mut machine) = random_machine(seed);
        let mut holds = 0;
        for _ in 0..STEPS {
            step(&mut machine, &mut random, &mut holds);
        }
        end(&mut machine);
    }
}

/// Pages of one home move to another at any moment, some at once, some to and fro.
#[test]
fn random_histories_in_which_homes_move_are_coherent_and_come_to_rest() {
    let mut moved = 0;
    for seed in 1..=300 {
        println!("seed {seed}");
        let (mut random, mut machine) = random_machine(seed);
        let mut holds = 0;
        for _ in 0..STEPS {
            step(&mut machine, &mut random, &mut holds);
            if random.below(8) == 0 {
                hand_over(&mut machine, &mut random);
            }
        }
        end(&mut machine);
        assert!(machine.moving.is_empty(), "{:?} never get to their new home", machine.moving);
        moved += machine.nodes.iter().map(|node| node.stats().homes_taken).sum::<u64>();
    }
    assert!(moved > 3000, "{moved} pages moved");
}

/// Some pages are to get another home.
pub(super) fn hand_over(machine: &mut Machine, random: &mut Random) {
    let first = Page(u32::try_from(random.below((u32::from(RANKS) * PAGES).into())).expect("a page"));
    let run = Run { first, count: random.pick(&[1, 1, 2, 4]) };
    let to = random.rank(RANKS);
    machine.hand_over(run, to);
}
