//! Bugs with pages.

use std::collections::BTreeSet;

use crate::hlrc::action::{Action, Completion, Flush, OpId};
use crate::hlrc::node::Node;
use crate::hlrc::writer::Writer;
use crate::id::Page;

use super::{Mutation, Order, each};

/// Takes puts for done when they begin.
#[derive(Debug)]
pub(super) struct EndsEarly;

impl Mutation for EndsEarly {
    fn actions(&mut self, _: &Node, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match action {
            Action::Flush { op, .. } => vec![Order::Unheeded(action), Order::Finish(op, Completion::Done)],
            other => vec![Order::Do(other)],
        })
    }
}

/// Leaves a page out.
#[derive(Debug)]
pub(super) struct ForgetsPage;

impl Mutation for ForgetsPage {
    fn actions(&mut self, _: &Node, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |mut action| {
            if let Action::Flush { pages, .. } = &mut action {
                pages.pop();
            }
            vec![Order::Do(action)]
        })
    }
}

/// Puts all of a page.
#[derive(Debug)]
pub(super) struct PutsWhole;

impl Mutation for PutsWhole {
    fn actions(&mut self, _: &Node, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |mut action| {
            if let Action::Flush { pages, .. } = &mut action {
                pages.iter_mut().for_each(|(_, how)| *how = Flush::Whole);
            }
            vec![Order::Do(action)]
        })
    }
}

/// Takes the writer word for what it was when this rank was alone.
#[derive(Debug, Default)]
pub(super) struct TakesNoTurn {
    swaps: Vec<(OpId, u64)>,
}

impl Mutation for TakesNoTurn {
    fn actions(&mut self, node: &Node, actions: Vec<Action>) -> Vec<Order> {
        for action in &actions {
            if let Action::CompareAndSwap { op, expected, new, .. } = action
                && *expected == Writer::One(node.at()).encode()
                && *new == Writer::Putting(node.at()).encode()
            {
                self.swaps.push((*op, *expected));
            }
        }
        actions.into_iter().map(Order::Do).collect()
    }

    fn completion(&mut self, _: &Node, op: OpId, completion: Completion) -> Completion {
        match self.swaps.iter().position(|(swap, _)| *swap == op) {
            Some(at) => Completion::Old(self.swaps.swap_remove(at).1),
            None => completion,
        }
    }
}

/// Saves no page in its shadow.
#[derive(Debug)]
pub(super) struct SavesNothing;

impl Mutation for SavesNothing {
    fn actions(&mut self, _: &Node, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match action {
            Action::Save { op, .. } => vec![Order::Finish(op, Completion::Done)],
            other => vec![Order::Do(other)],
        })
    }
}

/// Makes no twin.
#[derive(Debug)]
pub(super) struct MakesNoTwin;

impl Mutation for MakesNoTwin {
    fn actions(&mut self, _: &Node, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match action {
            Action::Twin { .. } => Vec::new(),
            other => vec![Order::Do(other)],
        })
    }
}

/// Takes no right to write away.
#[derive(Debug)]
pub(super) struct ForgetsProtect;

impl Mutation for ForgetsProtect {
    fn actions(&mut self, _: &Node, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match action {
            Action::Protect { .. } => Vec::new(),
            other => vec![Order::Do(other)],
        })
    }
}

/// Keeps what is to go.
#[derive(Debug)]
pub(super) struct ForgetsUnmap;

impl Mutation for ForgetsUnmap {
    fn actions(&mut self, _: &Node, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match action {
            Action::Unmap { .. } => Vec::new(),
            other => vec![Order::Do(other)],
        })
    }
}

/// Does not get a page again that has come in vain.
#[derive(Debug, Default)]
pub(super) struct UsesStale {
    come: BTreeSet<Page>,
}

impl Mutation for UsesStale {
    fn actions(&mut self, _: &Node, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match action {
            Action::Fetch { op, page, .. } if !self.come.insert(page) => vec![Order::Finish(op, Completion::Done)],
            Action::Map { page } => {
                self.come.remove(&page);
                vec![Order::Do(action)]
            }
            other => vec![Order::Do(other)],
        })
    }
}
