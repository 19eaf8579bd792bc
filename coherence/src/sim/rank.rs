//! One simulated rank without its guest: the nodes under test and the memory on which their actions are executed. The
//! simulator and the model checker both drive it.

use crate::id::{Page, Rank};
use crate::node::Node;

use super::memory::Memory;

/// A rank's protocol state and memory.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Site {
    /// The nodes under test, at least one. Pages are dealt out to them one by one.
    pub nodes: Vec<Node>,
    /// What their actions have made of the rank's memory.
    pub memory: Memory,
}

impl Site {
    /// A rank that has nothing yet.
    #[must_use]
    pub fn new(nodes: Vec<Node>) -> Self {
        Self { nodes, memory: Memory::default() }
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
}

/// The ranks of these sites, in order.
pub fn ranks<T>(sites: &[T]) -> impl Iterator<Item = (Rank, &T)> {
    (0..).map(Rank).zip(sites)
}
