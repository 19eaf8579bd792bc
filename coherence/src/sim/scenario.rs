//! What a simulation is about: the machine, its network, the mishaps, the guest's programs and the devices' holds.

use crate::home::HomeMap;
use crate::id::{Access, Rank, Run, Tick};
use crate::node::{Config, WindowConfig};

use super::guest::{Instruction, Touch};
use super::network::{Delays, Partition};

/// A processor's program.
#[derive(Clone, Debug)]
pub struct Program {
    /// Where it runs.
    pub rank: Rank,
    /// What.
    pub instructions: Vec<Instruction>,
    /// Most stores in the store buffer.
    pub buffer: usize,
}

/// What a device does once.
#[derive(Clone, Debug)]
pub struct DeviceJob {
    /// Where.
    pub rank: Rank,
    /// When it asks for its pages, in microseconds.
    pub at: u64,
    /// Which pages.
    pub runs: Vec<(Run, Access)>,
    /// What it does with them, one after the other, while it has them.
    pub touches: Vec<Touch>,
    /// How long it keeps them.
    pub keeps: u64,
    /// Whether it gives up when it does not have its pages after that time.
    pub gives_up: bool,
}

/// Pages that get another home.
#[derive(Clone, Copy, Debug)]
pub struct HandOver {
    /// When rank 0 orders it, in microseconds; it waits while some of the pages move.
    pub at: u64,
    /// The pages, of which those up to the end of a segment move.
    pub run: Run,
    /// The new home. If it is the old one, nothing happens.
    pub to: Rank,
}

/// A time in which a rank does nothing, or only its guest does.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    /// Which rank.
    pub rank: Rank,
    /// When it starts, in microseconds.
    pub from: u64,
    /// When it ends.
    pub until: u64,
    /// Whether its processors stall too.
    pub guest: bool,
}

/// A processor goes to another rank.
#[derive(Clone, Copy, Debug)]
pub struct Relocation {
    /// When it is told to, in microseconds; it goes at its next instruction boundary.
    pub at: u64,
    /// Which: its program's place in the scenario.
    pub vcpu: usize,
    /// Where.
    pub to: Rank,
}

/// A rank that has no devices leaves; pages that it is the home of go to another rank before.
#[derive(Clone, Copy, Debug)]
pub struct Departure {
    /// When it is told to, in microseconds.
    pub at: u64,
    /// Which.
    pub rank: Rank,
    /// Where its processors and its pages' homes go, a rank that stays.
    pub to: Rank,
}

/// Everything about a simulation that is not chance on its way.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Number of ranks.
    pub ranks: u16,
    /// Nodes of each rank, at least one; more than one with [`Scenario::split`] only.
    pub nodes: usize,
    /// The homes of the pages.
    pub homes: HomeMap,
    /// Minimum hold time.
    pub hold: Tick,
    /// Most cached pages of each rank.
    pub cache_pages: Option<u32>,
    /// Most pages asked for ahead.
    pub read_ahead: u16,
    /// Pages of a first touch.
    pub first_touch: u16,
    /// Most pages asked for together.
    pub companions: u16,
    /// Whether homes give pages that migrate to be written at once.
    pub migratory: bool,
    /// Windows, if there are any.
    pub window: Option<WindowConfig>,
    /// Longest time between two steps of a guarded read, in microseconds.
    pub nic_pause: u64,
    /// The network.
    pub delays: Delays,
    /// Its partitions.
    pub partitions: Vec<Partition>,
    /// Stalls of ranks.
    pub stalls: Vec<Stall>,
    /// A rank that crashes, and when.
    pub crash: Option<(Rank, u64)>,
    /// How many times slower than the others each rank is; at least 1.
    pub slowness: Vec<u64>,
    /// What each rank's clock shows at the start, in microseconds.
    pub clocks: Vec<u64>,
    /// Zero pages are left out of one message in so many; 0 is never.
    pub zeros_left_out_one_in: u64,
    /// The processors.
    pub programs: Vec<Program>,
    /// The devices.
    pub devices: Vec<DeviceJob>,
    /// Hand-overs of homes.
    pub hand_overs: Vec<HandOver>,
    /// Processors that move.
    pub relocations: Vec<Relocation>,
    /// Ranks that leave; with one node for each rank only.
    pub leaves: Vec<Departure>,
}

/// Longest wait of a rank between an input and its next, and of a processor between its steps, at slowness 1.
pub const LONGEST_STEP: u64 = 4;

impl Scenario {
    /// A machine on which nothing goes wrong: ranks of equal speed and clocks, no devices, no limits, no hold time, and pages alone, each when it
    /// is needed.
    #[must_use]
    pub fn calm(ranks: u16, homes: HomeMap, delays: Delays, programs: Vec<Program>) -> Self {
        Self {
            ranks,
            nodes: 1,
            homes,
            hold: Tick(0),
            cache_pages: None,
            read_ahead: 0,
            first_touch: 1,
            companions: 0,
            migratory: false,
            window: None,
            nic_pause: 0,
            delays,
            partitions: Vec::new(),
            stalls: Vec::new(),
            crash: None,
            slowness: vec![1; ranks.into()],
            clocks: vec![0; ranks.into()],
            zeros_left_out_one_in: 0,
            programs,
            devices: Vec::new(),
            hand_overs: Vec::new(),
            relocations: Vec::new(),
            leaves: Vec::new(),
        }
    }

    /// The same with several nodes of each rank, to which the pages are dealt out one by one; without what needs adjacent pages of one node.
    #[must_use]
    pub fn split(self, nodes: usize) -> Self {
        // A message is about pages of one node.
        let one = |hand_over: &HandOver| HandOver { run: Run::one(hand_over.run.first), ..*hand_over };
        let hand_overs = self.hand_overs.iter().map(one).collect();
        Self { nodes, read_ahead: 0, first_touch: 1, devices: Vec::new(), hand_overs, ..self }
    }

    /// The configuration of a rank's node.
    #[must_use]
    pub fn config(&self, rank: Rank) -> Config {
        Config {
            rank,
            ranks: self.ranks,
            homes: self.homes.clone(),
            hold: self.hold,
            cache_pages: self.cache_pages,
            read_ahead: self.read_ahead,
            first_touch: self.first_touch,
            companions: self.companions,
            migratory: self.migratory,
            window: self.window,
        }
    }

    /// How long a fault may wait in microseconds: everybody else comes first, each with a recall, its answer, a grant and
    /// the hold time, and every device keeps its pages once for each; the page moves each time that pages do; and whatever the mishaps take.
    #[must_use]
    pub fn answer_within(&self) -> u64 {
        let slowest = self.slowness.iter().copied().max().unwrap_or(1);
        let cut = self.partitions.iter().map(|partition| partition.until.saturating_sub(partition.from)).sum::<u64>();
        let stalled = self.stalls.iter().map(|stall| stall.until.saturating_sub(stall.from)).sum::<u64>();
        let kept = self.devices.iter().map(|device| device.keeps).sum::<u64>();
        let guarded = if self.window.is_some() { 8 * (self.delays.slow + self.nic_pause) } else { 0 };
        let turn = self.hold.0 + 8 * (self.delays.slow + slowest * LONGEST_STEP * 8) + guarded;
        let moves = self.hand_overs.len() as u64;
        let others = self.programs.len() as u64 + 4 * self.devices.len() as u64 + u64::from(self.ranks) + moves;
        4 * (cut + stalled + kept) + 8 * turn * others
    }
}
