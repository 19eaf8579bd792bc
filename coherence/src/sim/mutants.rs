//! Planted protocol bugs: each a filter around one rank's node, on what it is told or on what it wants done. A checker
//! that does not find them is none.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a filter is about one kind of action or message and leaves all others alone, new ones too"
)]

mod cacher;
mod device;
mod driver;
mod hand_over;
mod home;
mod leaving;
mod window;

use std::fmt::Debug;

use crate::home::HomeMapError;
use crate::id::{Rank, Run};
use crate::message::Message;
use crate::node::{Action, Config, Node};

use super::checkers::Checker;
use super::machine::Input;
use super::memory::Words;
use super::network::Parcel;
use super::rng::Rng;
use super::scenario::Scenario;
use super::window::{HomeStep, NicStep};
use super::workload::{Mishaps, leavers, random, readers, with_hand_overs, with_leavers};

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

    /// Changes what the driver does at the rank's window.
    fn home_steps(&mut self, steps: Vec<HomeStep>) -> Vec<HomeStep> {
        steps
    }

    /// Changes what the rank's NIC does at the windows of others.
    fn nic_steps(&mut self, steps: Vec<NicStep>) -> Vec<NicStep> {
        steps
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
    /// Makes the machines in which it is found.
    pub scenario: fn(&mut Rng) -> Result<Scenario, HomeMapError>,
    /// The checkers that may be the first to find it.
    pub found_by: &'static [Checker],
}

/// Anything, without mishaps.
fn anything(rng: &mut Rng) -> Result<Scenario, HomeMapError> {
    random(rng, Mishaps::None)
}

/// The same while homes move.
fn moving(rng: &mut Rng) -> Result<Scenario, HomeMapError> {
    let scenario = anything(rng)?;
    Ok(with_hand_overs(rng, scenario))
}

/// Pages in windows while homes move.
fn moving_readers(rng: &mut Rng) -> Result<Scenario, HomeMapError> {
    let scenario = readers(rng)?;
    Ok(with_hand_overs(rng, scenario))
}

/// Pages in windows of homes that move, and ranks that have read there and leave.
fn leaving_readers(rng: &mut Rng) -> Result<Scenario, HomeMapError> {
    let scenario = readers(rng)?;
    let scenario = with_leavers(rng, scenario);
    Ok(with_hand_overs(rng, scenario))
}

/// Ranks that leave, without mishaps.
fn ranks_leave(rng: &mut Rng) -> Result<Scenario, HomeMapError> {
    leavers(rng, Mishaps::None)
}

/// All bugs.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "a home takes an invalidation for acknowledged without sending it",
        plant: || Box::new(home::LosesInvalidation::default()),
        scenario: anything,
        found_by: &[Checker::Directory, Checker::Exclusive],
    },
    Mutant {
        name: "a home grants before all acknowledgements are in",
        plant: || Box::new(home::GrantsEarly::default()),
        scenario: anything,
        found_by: &[Checker::Directory, Checker::Exclusive],
    },
    Mutant {
        name: "a home drops a request that should wait behind another",
        plant: || Box::new(home::DropsQueued),
        scenario: anything,
        found_by: &[Checker::Progress],
    },
    Mutant {
        name: "a home says that a stale copy is current",
        plant: || Box::new(home::SaysCurrent),
        scenario: anything,
        found_by: &[Checker::Protocol],
    },
    Mutant {
        name: "a home says that a page is zero which is not",
        plant: || Box::new(home::SaysZero),
        scenario: anything,
        found_by: &[Checker::Values],
    },
    Mutant {
        name: "a home grants an old version to read",
        plant: || Box::new(home::OldVersion),
        scenario: anything,
        found_by: &[Checker::Versions],
    },
    Mutant {
        name: "a home gives a page to be written that others can read",
        plant: || Box::new(home::GrantsTooMuch),
        scenario: anything,
        found_by: &[Checker::Exclusive, Checker::Agreement],
    },
    Mutant {
        name: "a rank sends older bytes of a page",
        plant: || Box::new(home::OldBytes::default()),
        scenario: anything,
        found_by: &[Checker::Values],
    },
    Mutant {
        name: "a rank acknowledges an invalidation and keeps its copy",
        plant: || Box::new(cacher::KeepsInvalidated),
        scenario: anything,
        found_by: &[Checker::Directory, Checker::Exclusive],
    },
    Mutant {
        name: "a rank acknowledges an invalidation twice",
        plant: || Box::new(cacher::AcksTwice),
        scenario: anything,
        found_by: &[Checker::Protocol],
    },
    Mutant {
        name: "a rank evicts a modified page without giving it back",
        plant: || Box::new(cacher::EvictsSilently::default()),
        scenario: anything,
        found_by: &[Checker::Progress, Checker::Protocol],
    },
    Mutant {
        name: "a rank allows itself to write when it asks for it",
        plant: || Box::new(cacher::AllowsEarly),
        scenario: anything,
        found_by: &[Checker::Exclusive, Checker::Agreement],
    },
    Mutant {
        name: "a rank skips the hold time",
        plant: || Box::new(cacher::SkipsHold),
        scenario: anything,
        found_by: &[Checker::HoldTime],
    },
    Mutant {
        name: "a rank takes its processors for asleep when they are not any more",
        plant: || Box::new(cacher::SleepsOn),
        scenario: anything,
        found_by: &[Checker::HoldTime],
    },
    Mutant {
        name: "a rank forgets what waits for the end of the hold time",
        plant: || Box::new(cacher::LosesTimeouts),
        scenario: anything,
        found_by: &[Checker::Progress],
    },
    Mutant {
        name: "a page given back to be shared can still be written",
        plant: || Box::new(driver::ForgetsProtect),
        scenario: anything,
        found_by: &[Checker::Memory],
    },
    Mutant {
        name: "a page given back is still in view",
        plant: || Box::new(driver::KeepsDetached),
        scenario: anything,
        found_by: &[Checker::Memory, Checker::Agreement, Checker::Exclusive],
    },
    Mutant {
        name: "the bytes of a page are dropped before they are sent",
        plant: || Box::new(driver::UnmapsFirst),
        scenario: anything,
        found_by: &[Checker::Memory],
    },
    Mutant {
        name: "a page to be read is mapped to be written",
        plant: || Box::new(driver::MapsToWrite),
        scenario: anything,
        found_by: &[Checker::Exclusive, Checker::Agreement],
    },
    Mutant {
        name: "nobody is woken",
        plant: || Box::new(driver::WakesNobody),
        scenario: anything,
        // It goes on waiting, so the page that was not held for it may be missed first.
        found_by: &[Checker::Progress, Checker::HoldTime],
    },
    Mutant {
        name: "a device is told that it has its pages when it asks",
        plant: || Box::new(device::ReadyEarly::default()),
        scenario: anything,
        found_by: &[Checker::Pins],
    },
    Mutant {
        name: "a device's pages are given up while it has them",
        plant: || Box::new(device::ForgetsPins::default()),
        scenario: anything,
        found_by: &[Checker::Pins],
    },
    Mutant {
        name: "a home does not clear the hash",
        plant: || Box::new(window::NeverBusy),
        scenario: readers,
        found_by: &[Checker::Values, Checker::Directory, Checker::Exclusive],
    },
    Mutant {
        name: "a home collects the marks before it clears the hash",
        plant: || Box::new(window::CollectsFirst),
        scenario: readers,
        found_by: &[Checker::Directory, Checker::Exclusive],
    },
    Mutant {
        name: "a home ignores the marks",
        plant: || Box::new(window::IgnoresMarks),
        scenario: readers,
        found_by: &[Checker::Directory, Checker::Exclusive],
    },
    Mutant {
        name: "a reader marks a slot after it has looked at the word",
        plant: || Box::new(window::MarksLate),
        scenario: readers,
        found_by: &[Checker::Directory, Checker::Exclusive],
    },
    Mutant {
        name: "a reader does not mark what it reads",
        plant: || Box::new(window::NeverMarks),
        scenario: readers,
        found_by: &[Checker::Marks, Checker::Directory],
    },
    Mutant {
        name: "a reader ignores the hash",
        plant: || Box::new(window::IgnoresHash),
        scenario: readers,
        found_by: &[Checker::Values, Checker::Directory, Checker::Exclusive],
    },
    Mutant {
        name: "a reader takes another page in the slot for its own",
        plant: || Box::new(window::IgnoresTag),
        scenario: readers,
        found_by: &[Checker::Values, Checker::Directory, Checker::Exclusive],
    },
    Mutant {
        name: "a reader uses a page that was invalidated while it read it",
        plant: || Box::new(window::UsesLost::default()),
        scenario: readers,
        found_by: &[Checker::Directory, Checker::Exclusive],
    },
    Mutant {
        name: "a home hands pages over without their sharers",
        plant: || Box::new(hand_over::ForgetsSharers),
        scenario: moving,
        found_by: &[Checker::Directory, Checker::Exclusive],
    },
    Mutant {
        name: "a home hands a page over in an older version",
        plant: || Box::new(hand_over::LosesVersion),
        scenario: moving,
        found_by: &[Checker::Versions, Checker::Protocol],
    },
    Mutant {
        name: "a home hands a page over as if it was zero",
        plant: || Box::new(hand_over::LosesBytes),
        scenario: moving,
        found_by: &[Checker::Values],
    },
    Mutant {
        name: "a home hands a page over without its queue",
        plant: || Box::new(hand_over::DropsQueue),
        scenario: moving,
        found_by: &[Checker::Progress],
    },
    Mutant {
        name: "a home hands pages over before all have frozen them",
        plant: || Box::new(hand_over::WaitsForNobody::default()),
        scenario: moving,
        found_by: &[Checker::Protocol, Checker::Directory],
    },
    Mutant {
        name: "an old home still grants",
        plant: || Box::new(hand_over::GrantsFrozen::default()),
        scenario: moving,
        found_by: &[Checker::Protocol, Checker::Versions],
    },
    Mutant {
        name: "an old home keeps copies of what it has handed over",
        plant: || Box::new(hand_over::KeepsCopies),
        scenario: moving,
        found_by: &[Checker::Directory, Checker::Exclusive, Checker::Agreement],
    },
    Mutant {
        name: "a home hands a page over that is in its window",
        plant: || Box::new(hand_over::MovesShown::default()),
        scenario: moving_readers,
        found_by: &[Checker::Directory, Checker::Exclusive, Checker::Values],
    },
    Mutant {
        name: "a rank says that it has frozen pages and goes on",
        plant: || Box::new(hand_over::FreezesNothing),
        scenario: moving,
        found_by: &[Checker::Protocol, Checker::Directory],
    },
    Mutant {
        name: "a request is overtaken by the word that no more come",
        plant: || Box::new(hand_over::AsksLate::default()),
        scenario: moving,
        found_by: &[Checker::Protocol],
    },
    Mutant {
        name: "a new home does not tell all that it is",
        plant: || Box::new(hand_over::TellsNotAll),
        scenario: moving,
        found_by: &[Checker::Progress, Checker::Protocol, Checker::Quiescence],
    },
    Mutant {
        name: "a new home goes on before it says that it is",
        plant: || Box::new(hand_over::TellsLate),
        scenario: moving,
        found_by: &[Checker::Protocol],
    },
    Mutant {
        name: "a home hands pages over and does not say who has left",
        plant: || Box::new(hand_over::ForgetsGone),
        scenario: leaving_readers,
        found_by: &[Checker::Leaving],
    },
    Mutant {
        name: "a rank leaves with a page that it owns",
        plant: || Box::new(leaving::LeavesDirty::default()),
        scenario: ranks_leave,
        found_by: &[Checker::Protocol],
    },
    Mutant {
        name: "a rank leaves while a home knows of a copy",
        plant: || Box::new(leaving::KeepsKnowing),
        scenario: ranks_leave,
        found_by: &[Checker::Leaving],
    },
    Mutant {
        name: "a home lets a rank go that owes an answer",
        plant: || Box::new(leaving::LetsGoEarly::default()),
        scenario: ranks_leave,
        found_by: &[Checker::Leaving],
    },
    Mutant {
        name: "a rank says that it leaves before it has given up its pages",
        plant: || Box::new(leaving::TellsEarly::default()),
        scenario: ranks_leave,
        found_by: &[Checker::Protocol, Checker::Leaving],
    },
    Mutant {
        name: "a rank leaves when one of the homes has let it go",
        plant: || Box::new(leaving::GoesAfterOne::default()),
        scenario: ranks_leave,
        found_by: &[Checker::Leaving],
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
