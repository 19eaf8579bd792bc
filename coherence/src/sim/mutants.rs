//! Planted protocol bugs: each a filter around one rank's node, on what it is told or on what it wants done. A checker
//! that does not find them is none.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a filter is about one kind of action or message and leaves all others alone, new ones too"
)]

mod cacher;
mod device;
mod driver;
mod home;

use std::fmt::Debug;

use crate::id::{Rank, Run};
use crate::message::Message;
use crate::node::{Action, Config, Node};

use super::checkers::Checker;
use super::machine::Input;
use super::memory::Words;
use super::network::Parcel;

/// What a filter makes of an input.
#[derive(Clone, Debug)]
pub enum Given {
    /// The node is told this.
    Node(Input),
    /// This is sent past the node.
    Send(Rank, Parcel),
}

/// What a filter makes of an action.
#[derive(Clone, Debug)]
pub enum Order {
    /// Execute it.
    Do(Action),
    /// Execute it, but wake nobody.
    Silently(Action),
    /// Send this past the node.
    Send(Rank, Parcel),
}

/// A bug. What a method does unless it is replaced is right.
pub trait Mutation: Debug {
    /// Changes what the node is told at its start.
    fn config(&mut self, config: &mut Config) {
        let _ = config;
    }

    /// Changes what the node is told.
    fn incoming(&mut self, node: &Node, input: Input) -> Vec<Given> {
        let _ = node;
        vec![Given::Node(input)]
    }

    /// Changes what the node wants done after an input.
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        actions.into_iter().map(Order::Do).collect()
    }

    /// Changes the bytes that go with a message.
    fn body(&mut self, message: &Message, body: &mut [Words]) {
        let _ = (message, body);
    }
}

/// A bug in its place.
#[derive(Debug)]
pub struct Planted {
    /// The rank that has it.
    pub rank: Rank,
    /// The bug.
    pub mutation: Box<dyn Mutation>,
}

/// A known bug.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// What is wrong.
    pub name: &'static str,
    /// Makes the filter.
    pub plant: fn() -> Box<dyn Mutation>,
    /// The checkers that may be the first to find it.
    pub found_by: &'static [Checker],
}

/// All bugs.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "a home takes an invalidation for acknowledged without sending it",
        plant: || Box::new(home::LosesInvalidation::default()),
        found_by: &[Checker::Directory, Checker::Exclusive],
    },
    Mutant {
        name: "a home grants before all acknowledgements are in",
        plant: || Box::new(home::GrantsEarly::default()),
        found_by: &[Checker::Directory, Checker::Exclusive],
    },
    Mutant {
        name: "a home drops a request that should wait behind another",
        plant: || Box::new(home::DropsQueued),
        found_by: &[Checker::Progress],
    },
    Mutant {
        name: "a home says that a stale copy is current",
        plant: || Box::new(home::SaysCurrent),
        found_by: &[Checker::Protocol],
    },
    Mutant {
        name: "a home says that a page is zero which is not",
        plant: || Box::new(home::SaysZero),
        found_by: &[Checker::Values],
    },
    Mutant {
        name: "a home grants an old version to read",
        plant: || Box::new(home::OldVersion),
        found_by: &[Checker::Versions],
    },
    Mutant {
        name: "a rank sends older bytes of a page",
        plant: || Box::new(home::OldBytes::default()),
        found_by: &[Checker::Values],
    },
    Mutant {
        name: "a rank acknowledges an invalidation and keeps its copy",
        plant: || Box::new(cacher::KeepsInvalidated),
        found_by: &[Checker::Directory, Checker::Exclusive],
    },
    Mutant {
        name: "a rank acknowledges an invalidation twice",
        plant: || Box::new(cacher::AcksTwice),
        found_by: &[Checker::Protocol],
    },
    Mutant {
        name: "a rank evicts a modified page without giving it back",
        plant: || Box::new(cacher::EvictsSilently::default()),
        found_by: &[Checker::Progress, Checker::Protocol],
    },
    Mutant {
        name: "a rank allows itself to write when it asks for it",
        plant: || Box::new(cacher::AllowsEarly),
        found_by: &[Checker::Exclusive, Checker::Agreement],
    },
    Mutant {
        name: "a rank skips the hold time",
        plant: || Box::new(cacher::SkipsHold),
        found_by: &[Checker::HoldTime],
    },
    Mutant {
        name: "a rank takes its processors for asleep when they are not any more",
        plant: || Box::new(cacher::SleepsOn),
        found_by: &[Checker::HoldTime],
    },
    Mutant {
        name: "a rank forgets what waits for the end of the hold time",
        plant: || Box::new(cacher::LosesTimeouts),
        found_by: &[Checker::Progress],
    },
    Mutant {
        name: "a page given back to be shared can still be written",
        plant: || Box::new(driver::ForgetsProtect),
        found_by: &[Checker::Memory],
    },
    Mutant {
        name: "a page given back is still in view",
        plant: || Box::new(driver::KeepsDetached),
        found_by: &[Checker::Memory, Checker::Agreement, Checker::Exclusive],
    },
    Mutant {
        name: "the bytes of a page are dropped before they are sent",
        plant: || Box::new(driver::UnmapsFirst),
        found_by: &[Checker::Memory],
    },
    Mutant {
        name: "a page to be read is mapped to be written",
        plant: || Box::new(driver::MapsToWrite),
        found_by: &[Checker::Exclusive, Checker::Agreement],
    },
    Mutant {
        name: "nobody is woken",
        plant: || Box::new(driver::WakesNobody),
        // It goes on waiting, so the page that was not held for it may be missed first.
        found_by: &[Checker::Progress, Checker::HoldTime],
    },
    Mutant {
        name: "a device is told that it has its pages when it asks",
        plant: || Box::new(device::ReadyEarly::default()),
        found_by: &[Checker::Pins],
    },
    Mutant {
        name: "a device's pages are given up while it has them",
        plant: || Box::new(device::ForgetsPins::default()),
        found_by: &[Checker::Pins],
    },
];

/// A message without a body, as told to a node.
fn told(from: Rank, message: Message) -> Given {
    Given::Node(Input::Message(from, bare(message)))
}

fn bare(message: Message) -> Parcel {
    Parcel { message, body: Vec::new() }
}

/// Replaces every action by what `change` makes of it.
fn each(actions: Vec<Action>, change: impl FnMut(Action) -> Vec<Order>) -> Vec<Order> {
    actions.into_iter().flat_map(change).collect()
}

/// Whether two runs have a page in common.
fn overlap(a: Run, b: Run) -> bool {
    a.first < b.end() && b.first < a.end()
}
