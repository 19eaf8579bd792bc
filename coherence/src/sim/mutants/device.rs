//! Bugs in the pages of devices.

use std::collections::BTreeSet;

use crate::node::{Action, HoldId, Node};

use super::super::machine::Input;
use super::{Given, Mutation, Order, each};

/// Tells a device that it has its pages when it asks for them.
#[derive(Debug, Default)]
pub(super) struct ReadyEarly {
    asked: Vec<HoldId>,
}

impl Mutation for ReadyEarly {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        if let Input::Hold(job) = input {
            self.asked.push(HoldId(job as u64));
        }
        vec![Given::Node(input)]
    }

    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        let ready = self.asked.drain(..).map(|id| Order::Do(Action::HoldReady { id }));
        let rest = each(actions, |action| match action {
            Action::HoldReady { .. } => Vec::new(),
            other => vec![Order::Do(other)],
        });
        rest.into_iter().chain(ready).collect()
    }
}

/// Forgets a hold as soon as it has all its pages.
#[derive(Debug, Default)]
pub(super) struct ForgetsPins {
    ready: Vec<HoldId>,
    forgotten: BTreeSet<u64>,
}

impl Mutation for ForgetsPins {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        let mut given = Vec::new();
        for id in std::mem::take(&mut self.ready) {
            if self.forgotten.insert(id.0) {
                given.push(Given::Node(Input::Release(usize::try_from(id.0).unwrap_or(0))));
            }
        }
        let released = matches!(input, Input::Release(job) if self.forgotten.contains(&(job as u64)));
        if !released {
            given.push(Given::Node(input));
        }
        given
    }

    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| {
            if let Action::HoldReady { id } = action {
                self.ready.push(id);
            }
            vec![Order::Do(action)]
        })
    }
}
