//! Ranks with simulated memory whose operations are done as soon as they are begun.

use crate::hlrc::action::{Action, Outcome};
use crate::hlrc::node::Node;
use crate::hlrc::sim::memory::{Effect, Memory, Segments};
use crate::hlrc::{Config, ThreadId};
use crate::home::HomeMap;
use crate::id::{Access, Page, Rank};

/// The machine.
pub(super) struct Machine {
    pub(super) nodes: Vec<Node>,
    pub(super) memories: Vec<Memory>,
    pub(super) segments: Segments,
    /// Who was woken, and with what, since this was last emptied.
    pub(super) woken: Vec<(u16, ThreadId, Outcome)>,
    /// What was done, since this was last emptied.
    pub(super) done: Vec<(u16, Action)>,
}

/// A configuration of a rank; its pages are homed at rank 0.
pub(super) fn config(rank: u16, team: Vec<u16>, pages: u32) -> Config {
    let mut config = Config::new(Rank(rank), HomeMap::new([(pages, Rank(0))]).unwrap(), team);
    config.locks = 2;
    config
}

impl Machine {
    pub(super) fn new(team: &[u16], pages: u32, change: impl Fn(&mut Config)) -> Self {
        let ranks = u16::try_from(team.len()).unwrap();
        let node = |rank| {
            let mut config = config(rank, team.to_vec(), pages);
            change(&mut config);
            Node::with_any_limits(config).unwrap()
        };
        let homed = |rank| if rank == 0 { (0..pages).map(Page).collect() } else { Vec::new() };
        Self {
            nodes: (0..ranks).map(node).collect(),
            memories: (0..ranks).map(|rank| Memory::new(Rank(rank), homed(rank))).collect(),
            segments: Segments::default(),
            woken: Vec::new(),
            done: Vec::new(),
        }
    }

    pub(super) fn node(&mut self, rank: u16) -> &mut Node {
        &mut self.nodes[usize::from(rank)]
    }

    /// Does everything that is to be done.
    pub(super) fn settle(&mut self) {
        let mut goes_on = true;
        while goes_on {
            goes_on = false;
            for rank in 0..self.nodes.len() {
                while let Some(action) = self.nodes[rank].poll_action() {
                    goes_on = true;
                    self.execute(rank, action);
                }
                let watches = self.nodes[rank].watches();
                for watch in &watches {
                    let words = self.segments.words(self.nodes[rank].at(), watch.offset, watch.words);
                    self.nodes[rank].handle_words(*watch, &words);
                }
                goes_on |= self.nodes[rank].watches() != watches;
            }
        }
    }

    fn execute(&mut self, rank: usize, action: Action) {
        let name = u16::try_from(rank).unwrap();
        self.done.push((name, action.clone()));
        match self.memories[rank].execute(&mut self.segments, action).unwrap() {
            Effect::None | Effect::Lent(_) => {}
            Effect::Recalled(lock) => self.nodes[rank].handle_returned(lock).unwrap(),
            Effect::Woken(thread, outcome) => self.woken.push((name, thread, outcome)),
            Effect::Started(op, mut flight) => {
                flight.take_all_effect(&mut self.segments);
                let (completion, purpose, cells) = flight.end();
                self.memories[rank].receive(purpose, cells);
                self.nodes[rank].handle_completion(op, completion).unwrap();
            }
        }
    }

    fn fault(&mut self, rank: u16, page: Page, access: Access) {
        while self.memories[usize::from(rank)].access(page) < Some(access) {
            self.node(rank).handle_fault(ThreadId(0), page, access).unwrap();
            self.settle();
        }
    }

    /// The rank's first thread writes the first byte of a page.
    pub(super) fn write(&mut self, rank: u16, page: Page, value: u8) {
        self.fault(rank, page, Access::Write);
        assert!(self.memories[usize::from(rank)].write(&mut self.segments, page, 0, &[value]));
    }

    /// The rank's first thread reads it.
    pub(super) fn read(&mut self, rank: u16, page: Page) -> u8 {
        self.fault(rank, page, Access::Read);
        self.memories[usize::from(rank)].read(&self.segments, page).unwrap()[0]
    }
}
