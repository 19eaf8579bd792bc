//! Bugs of ranks that leave, and of those that let them go.

use std::collections::BTreeSet;

use crate::id::{Page, Rank};
use crate::message::Message;
use crate::node::{Action, Node};

use super::super::machine::Input;
use super::{Given, Mutation, Order, bare, each};

/// Drops what it owns when it leaves.
#[derive(Debug, Default)]
pub(super) struct LeavesDirty {
    leaves: bool,
    recalled: BTreeSet<Page>,
}

impl Mutation for LeavesDirty {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        match &input {
            Input::Leave => self.leaves = true,
            Input::Message(_, parcel) => {
                if let Message::Recall { page, .. } = parcel.message {
                    self.recalled.insert(page);
                }
            }
            _ => {}
        }
        vec![Given::Node(input)]
    }

    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match &action {
            Action::Send { message: Message::WriteBack { page, .. }, .. }
                if self.leaves && !self.recalled.remove(page) =>
            {
                Vec::new()
            }
            _ => vec![Order::Do(action)],
        })
    }
}

/// Lets a rank go without looking which pages it is known to have.
#[derive(Debug)]
pub(super) struct KeepsKnowing;

impl Mutation for KeepsKnowing {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        match &input {
            Input::Message(from, parcel) if parcel.message == Message::Leave => {
                vec![Given::Send(*from, bare(Message::LeaveAck))]
            }
            _ => vec![Given::Node(input)],
        }
    }
}

/// Lets a rank go before it has answered about the pages that it was asked to give up.
#[derive(Debug, Default)]
pub(super) struct LetsGoEarly {
    told: BTreeSet<Rank>,
}

impl Mutation for LetsGoEarly {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        match &input {
            Input::Message(from, parcel) if parcel.message == Message::Leave => {
                self.told.insert(*from);
                let early = Given::Send(*from, bare(Message::LeaveAck));
                vec![early, Given::Node(input)]
            }
            _ => vec![Given::Node(input)],
        }
    }

    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match &action {
            Action::Send { to, message: Message::LeaveAck, .. } if self.told.contains(to) => Vec::new(),
            _ => vec![Order::Do(action)],
        })
    }
}

/// Tells the homes that it leaves before it has given up its pages.
#[derive(Debug, Default)]
pub(super) struct TellsEarly {
    told: bool,
}

impl Mutation for TellsEarly {
    fn incoming(&mut self, node: &Node, input: Input) -> Vec<Given> {
        let mut given = Vec::new();
        if matches!(input, Input::Leave) && !std::mem::replace(&mut self.told, true) {
            given.extend(node.homes().iter().map(|home| Given::Send(home, bare(Message::Leave))));
        }
        given.push(Given::Node(input));
        given
    }

    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match &action {
            Action::Send { message: Message::Leave, .. } => Vec::new(),
            _ => vec![Order::Do(action)],
        })
    }
}

/// Goes on to leave as if all homes had answered as soon as one has.
#[derive(Debug, Default)]
pub(super) struct GoesAfterOne {
    answered: bool,
}

impl Mutation for GoesAfterOne {
    fn incoming(&mut self, node: &Node, input: Input) -> Vec<Given> {
        match &input {
            Input::Message(_, parcel) if parcel.message == Message::LeaveAck => {
                if std::mem::replace(&mut self.answered, true) {
                    return Vec::new();
                }
                let all = node.homes();
                all.iter().map(|home| Given::Node(Input::Message(home, bare(Message::LeaveAck)))).collect()
            }
            _ => vec![Given::Node(input)],
        }
    }
}
