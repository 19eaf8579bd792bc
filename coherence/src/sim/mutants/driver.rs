//! Bugs in what is done to the guest's view.

use crate::id::{Access, Run};
use crate::node::Action;

use super::{Mutation, Order, each, overlap};

/// Does not protect pages.
#[derive(Debug)]
pub(super) struct ForgetsProtect;

impl Mutation for ForgetsProtect {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match action {
            Action::Protect { .. } => Vec::new(),
            other => vec![Order::Do(other)],
        })
    }
}

/// Does not take pages away whose bytes were sent.
#[derive(Debug)]
pub(super) struct KeepsDetached;

impl Mutation for KeepsDetached {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        let detached = detached(&actions);
        each(actions, |action| match action {
            Action::Detach { .. } => Vec::new(),
            Action::Unmap { run } if detached.iter().any(|other| overlap(run, *other)) => Vec::new(),
            other => vec![Order::Do(other)],
        })
    }
}

/// Takes pages away, bytes and all, where they should be detached.
#[derive(Debug)]
pub(super) struct UnmapsFirst;

impl Mutation for UnmapsFirst {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        let detached = detached(&actions);
        each(actions, |action| match action {
            Action::Detach { run } => vec![Order::Do(Action::Unmap { run })],
            Action::Unmap { run } if detached.iter().any(|other| overlap(run, *other)) => Vec::new(),
            other => vec![Order::Do(other)],
        })
    }
}

fn detached(actions: &[Action]) -> Vec<Run> {
    let run = |action: &Action| if let Action::Detach { run } = action { Some(*run) } else { None };
    actions.iter().filter_map(run).collect()
}

/// Maps everything to be written.
#[derive(Debug)]
pub(super) struct MapsToWrite;

impl Mutation for MapsToWrite {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match action {
            Action::Map { run, source, .. } => vec![Order::Do(Action::Map { run, access: Access::Write, source })],
            other => vec![Order::Do(other)],
        })
    }
}

/// Wakes nobody.
#[derive(Debug)]
pub(super) struct WakesNobody;

impl Mutation for WakesNobody {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        actions.into_iter().map(Order::Silently).collect()
    }
}
