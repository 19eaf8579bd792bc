//! Planted bugs: each a filter around one rank's node, on what it wants done or on what it is told. A check that does not find them is none.

use std::fmt::Debug;

use crate::hlrc::action::{Action, Completion, OpId, Watch};
use crate::hlrc::node::Node;

use super::checks::Check;

/// What a filter makes of an action.
#[derive(Clone, Debug)]
pub enum Order {
    /// Execute it.
    Do(Action),
    /// Execute nothing, and tell the node that this has come of it.
    Finish(OpId, Completion),
}

/// A bug. What a method does unless it is replaced is right.
pub trait Mutation: Debug {
    /// Changes what the node wants done.
    fn actions(&mut self, node: &Node, actions: Vec<Action>) -> Vec<Order> {
        let _ = node;
        actions.into_iter().map(Order::Do).collect()
    }

    /// Changes what has come of an operation.
    fn completion(&mut self, node: &Node, op: OpId, completion: Completion) -> Completion {
        let _ = (node, op);
        completion
    }

    /// Changes what is in the rank's own segment.
    fn words(&mut self, node: &Node, watch: Watch, words: Vec<u64>) -> Vec<u64> {
        let _ = (node, watch);
        words
    }
}

/// A known bug.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// What is wrong.
    pub name: &'static str,
    /// Makes the filter.
    pub plant: fn() -> Box<dyn Mutation>,
    /// The checks that may be the first to find it.
    pub found_by: &'static [Check],
}

/// All bugs.
pub const MUTANTS: &[Mutant] = &[];
