//! One simulated rank without its guest: the node under test and the memory on which its actions are executed. The
//! simulator and the model checker both drive it.

use crate::id::Rank;
use crate::node::Node;

use super::memory::Memory;

/// A rank's protocol state and memory.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Site {
    /// The node under test.
    pub node: Node,
    /// What its actions have made of the rank's memory.
    pub memory: Memory,
}

impl Site {
    /// A rank that has nothing yet.
    #[must_use]
    pub fn new(node: Node) -> Self {
        Self { node, memory: Memory::default() }
    }
}

/// The ranks of these sites, in order.
pub fn ranks<T>(sites: &[T]) -> impl Iterator<Item = (Rank, &T)> {
    (0..).map(Rank).zip(sites)
}
