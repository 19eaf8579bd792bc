//! Bugs of a rank that caches pages of others.

use std::collections::BTreeSet;

use crate::id::{Access, Page, Tick, Version};
use crate::message::{Message, Urgency};
use crate::node::{Action, Config, Node};

use super::super::machine::Input;
use super::{Given, Mutation, Order, bare, each};

/// Acknowledges an invalidation without looking at it.
#[derive(Debug)]
pub(super) struct KeepsInvalidated;

impl Mutation for KeepsInvalidated {
    fn incoming(&mut self, node: &Node, input: Input) -> Vec<Given> {
        if let Input::Message(from, parcel) = &input
            && let Message::Invalidate { page } = parcel.message
            && node.access(page) == Some(Access::Read)
        {
            return vec![Given::Send(*from, bare(Message::InvalidateAck { page }))];
        }
        vec![Given::Node(input)]
    }
}

/// Sends every acknowledgement twice.
#[derive(Debug)]
pub(super) struct AcksTwice;

impl Mutation for AcksTwice {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match &action {
            Action::Send { to, message: message @ Message::InvalidateAck { .. }, .. } => {
                let again = Order::Send(*to, bare(message.clone()));
                vec![Order::Do(action), again]
            }
            _ => vec![Order::Do(action)],
        })
    }
}

/// Does not send write-backs that nobody asked for.
#[derive(Debug, Default)]
pub(super) struct EvictsSilently {
    recalled: BTreeSet<Page>,
}

impl Mutation for EvictsSilently {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        if let Input::Message(_, parcel) = &input
            && let Message::Recall { page, .. } = parcel.message
        {
            self.recalled.insert(page);
        }
        vec![Given::Node(input)]
    }

    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match &action {
            Action::Send { message: Message::WriteBack { page, .. }, .. } if !self.recalled.remove(page) => Vec::new(),
            _ => vec![Order::Do(action)],
        })
    }
}

/// Writes a copy as soon as it has asked for that.
#[derive(Debug)]
pub(super) struct AllowsEarly;

impl Mutation for AllowsEarly {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| {
            let allowed = match &action {
                Action::Send {
                    message: Message::Acquire { run, access: Access::Write, urgency: Urgency::Demand, have },
                    ..
                } => {
                    let has_all = have.len() == usize::from(run.count) && !have.contains(&Version::NONE);
                    has_all.then_some(Order::Do(Action::Allow { run: *run }))
                }
                _ => None,
            };
            std::iter::once(Order::Do(action)).chain(allowed).collect()
        })
    }
}

/// Works without a hold time.
#[derive(Debug)]
pub(super) struct SkipsHold;

impl Mutation for SkipsHold {
    fn config(&mut self, config: &mut Config) {
        config.hold = Tick(0);
    }
}

/// Never learns that a processor is awake again.
#[derive(Debug)]
pub(super) struct SleepsOn;

impl Mutation for SleepsOn {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        if matches!(input, Input::Sleep(false)) { Vec::new() } else { vec![Given::Node(input)] }
    }
}

/// Never learns that time has passed.
#[derive(Debug)]
pub(super) struct LosesTimeouts;

impl Mutation for LosesTimeouts {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        if matches!(input, Input::Timeout) { Vec::new() } else { vec![Given::Node(input)] }
    }
}
