//! One simulated rank without its guest: the nodes under test and the memory on which their actions are executed. The
//! simulator and the model checker both drive it.

use crate::id::{Page, Rank};
use crate::node::Node;

use super::memory::Memory;
use super::window::{Slot, Window};

/// A rank's protocol state and memory.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Site {
    /// The nodes under test, at least one. Pages are dealt out to them one by one.
    pub nodes: Vec<Node>,
    /// What their actions have made of the rank's memory.
    pub memory: Memory,
    /// The windows of its nodes.
    pub windows: Vec<Window>,
}

impl Site {
    /// A rank that has nothing yet.
    #[must_use]
    pub fn new(nodes: Vec<Node>) -> Self {
        let windows = vec![Window::default(); nodes.len()];
        Self { nodes, memory: Memory::default(), windows }
    }

    /// The place of the node that a page belongs to.
    #[must_use]
    pub fn place_of(&self, page: Page) -> usize {
        page.0 as usize % self.nodes.len()
    }

    /// The node that a page belongs to.
    #[must_use]
    pub fn node_of(&self, page: Page) -> &Node {
        &self.nodes[self.place_of(page)]
    }

    /// The number of a page's slot in windows.
    #[must_use]
    pub fn slot_number(&self, page: Page) -> u32 {
        self.node_of(page).slot(page).unwrap_or_default()
    }

    /// What is in the slot of a page that is homed here.
    #[must_use]
    pub fn slot_of(&self, page: Page) -> Slot {
        self.windows[self.place_of(page)].slot(self.slot_number(page))
    }

    /// The window that a page homed here has its slot in.
    pub fn window_of(&mut self, page: Page) -> &mut Window {
        let place = self.place_of(page);
        &mut self.windows[place]
    }
}

/// The ranks of these sites, in order.
pub fn ranks<T>(sites: &[T]) -> impl Iterator<Item = (Rank, &T)> {
    (0..).map(Rank).zip(sites)
}
