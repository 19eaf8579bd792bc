//! Planted bugs: each a filter around one rank's node, on what it wants done or on what it is told. A check that does not find them is none.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a filter is about one kind of action and leaves all others alone, new ones too"
)]

mod locks;
mod pages;
mod records;

use std::fmt::Debug;

use crate::hlrc::action::{Action, Completion, OpId, Watch};
use crate::hlrc::node::Node;

use super::checks::Check;

/// What a filter makes of an action.
#[derive(Clone, Debug)]
pub enum Order {
    /// Execute it.
    Do(Action),
    /// Execute it, and do not tell the node when it is done.
    Unheeded(Action),
    /// Tell the node that this has come of an operation.
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
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "an interval ends before its changes are home",
        plant: || Box::new(pages::EndsEarly),
        found_by: &[Check::Values],
    },
    Mutant {
        name: "the last page of an interval is not brought home",
        plant: || Box::new(pages::ForgetsPage),
        found_by: &[Check::Values, Check::Twins],
    },
    Mutant {
        name: "a page that others write too is put whole",
        plant: || Box::new(pages::PutsWhole),
        found_by: &[Check::Values, Check::Twins],
    },
    Mutant {
        name: "a page that others write too is put whole when this rank was alone once",
        plant: || Box::new(pages::TakesNoTurn::default()),
        found_by: &[Check::Values],
    },
    Mutant {
        name: "no shadow is left for who was alone",
        plant: || Box::new(pages::SavesNothing),
        found_by: &[Check::Values],
    },
    Mutant {
        name: "no twin is made",
        plant: || Box::new(pages::MakesNoTwin),
        found_by: &[Check::Twins, Check::Memory],
    },
    Mutant {
        name: "a page that is home can still be written",
        plant: || Box::new(pages::ForgetsProtect),
        found_by: &[Check::Memory, Check::Agreement],
    },
    Mutant {
        name: "a page that a notice names stays",
        plant: || Box::new(pages::ForgetsUnmap),
        found_by: &[Check::Agreement, Check::Memory],
    },
    Mutant {
        name: "a page that came before its notice is used",
        plant: || Box::new(pages::UsesStale::default()),
        found_by: &[Check::Values],
    },
    Mutant {
        name: "a notice names another page",
        plant: || Box::new(records::WritesWrongNotice),
        found_by: &[Check::Values],
    },
    Mutant {
        name: "notices of others are not heeded",
        plant: || Box::new(records::ReadsWrongNotice::default()),
        found_by: &[Check::Values],
    },
    Mutant {
        name: "a free lock is left with no clock",
        plant: || Box::new(records::StoresNoClock),
        found_by: &[Check::Values],
    },
    Mutant {
        name: "a lock is handed over with no clock",
        plant: || Box::new(records::GrantsNoClock),
        found_by: &[Check::Values],
    },
    Mutant {
        name: "a barrier's clock is not passed on",
        plant: || Box::new(records::DisseminatesNoClock),
        found_by: &[Check::Values],
    },
    Mutant {
        name: "what others give to a reduction is not passed on",
        plant: || Box::new(records::DisseminatesOwnOnly),
        found_by: &[Check::Barrier],
    },
    Mutant {
        name: "a rank does not wait for a round of a barrier",
        plant: || Box::new(records::WaitsForNoRound::default()),
        found_by: &[Check::Barrier, Check::Values, Check::Protocol],
    },
    Mutant {
        name: "every lock is taken for free",
        plant: || Box::new(locks::TakesForFree::default()),
        found_by: &[Check::Exclusion, Check::Values, Check::Protocol],
    },
    Mutant { name: "a lock is not handed over", plant: || Box::new(locks::KeepsLock), found_by: &[Check::Progress] },
    Mutant {
        name: "a rank tries for a lock until it is free",
        plant: || Box::new(locks::Spins),
        found_by: &[Check::Queues],
    },
    Mutant {
        name: "a rank that keeps a lock does not look who comes for it",
        plant: || Box::new(locks::KeepsForEver),
        found_by: &[Check::Progress],
    },
    Mutant {
        name: "a kept lock is handed over before what was written is home",
        plant: || Box::new(locks::KeepsChanges::default()),
        found_by: &[Check::Values, Check::Twins],
    },
    Mutant {
        name: "a rank does not tell who is before it in a queue",
        plant: || Box::new(locks::HidesInQueue),
        found_by: &[Check::Progress],
    },
];

/// Replaces every action by what `change` makes of it.
fn each(actions: Vec<Action>, change: impl FnMut(Action) -> Vec<Order>) -> Vec<Order> {
    actions.into_iter().flat_map(change).collect()
}
