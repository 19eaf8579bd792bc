//! Bugs with the queues of locks.

use std::collections::BTreeSet;

use crate::hlrc::LockId;
use crate::hlrc::action::{Action, Completion, OpId, Watch};
use crate::hlrc::layout::HERE;
use crate::hlrc::node::Node;

use super::{Mutation, Order, each};

/// Whether it is an exchange of a lock word that queues this rank, behind another one or not.
fn queues(node: &Node, action: &Action) -> bool {
    let Action::CompareAndSwap { target, offset, new, .. } = action else { return false };
    let is_lock = (0..8).any(|lock| node.layout().lock(LockId(lock)) == (*target, *offset));
    is_lock && *new == u64::from(node.at().0) + 1
}

/// Takes every lock word for zero.
#[derive(Debug, Default)]
pub(super) struct TakesForFree {
    swaps: BTreeSet<OpId>,
}

impl Mutation for TakesForFree {
    fn actions(&mut self, node: &Node, actions: Vec<Action>) -> Vec<Order> {
        for action in &actions {
            if let (true, Action::CompareAndSwap { op, .. }) = (queues(node, action), action) {
                self.swaps.insert(*op);
            }
        }
        actions.into_iter().map(Order::Do).collect()
    }

    fn completion(&mut self, _: &Node, op: OpId, completion: Completion) -> Completion {
        if self.swaps.remove(&op) { Completion::Old(0) } else { completion }
    }
}

/// Puts nothing into the next one's queue node.
#[derive(Debug)]
pub(super) struct KeepsLock;

impl Mutation for KeepsLock {
    fn actions(&mut self, node: &Node, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match &action {
            Action::Put { op, target, offset, .. }
                if (0..8).any(|lock| node.layout().grant(*target, LockId(lock)) == *offset) =>
            {
                vec![Order::Finish(*op, Completion::Done)]
            }
            _ => vec![Order::Do(action)],
        })
    }
}

/// Does not queue behind another one, but tries again whether the lock is free.
#[derive(Debug)]
pub(super) struct Spins;

impl Mutation for Spins {
    fn actions(&mut self, node: &Node, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match &action {
            Action::CompareAndSwap { op, expected, .. } if *expected != 0 && queues(node, &action) => {
                vec![Order::Finish(*op, Completion::Old(0))]
            }
            _ => vec![Order::Do(action)],
        })
    }
}

/// Does not put its name into the queue node of the one before.
#[derive(Debug)]
pub(super) struct HidesInQueue;

impl Mutation for HidesInQueue {
    fn actions(&mut self, node: &Node, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match &action {
            Action::Put { op, words, .. } if words[..] == [HERE | (u64::from(node.at().0) + 1)] => {
                vec![Order::Finish(*op, Completion::Done)]
            }
            _ => vec![Order::Do(action)],
        })
    }
}

/// Whether a rank looks there who comes for a lock that it keeps.
fn watches_kept(node: &Node, watch: Watch) -> bool {
    let is_it = |lock| node.keeps(lock) && node.layout().next(node.at(), lock) == watch.offset;
    (0..8).map(LockId).any(is_it)
}

/// Does not look at its queue node while it keeps the lock.
#[derive(Debug)]
pub(super) struct KeepsForEver;

impl Mutation for KeepsForEver {
    fn words(&mut self, node: &Node, watch: Watch, words: Vec<u64>) -> Vec<u64> {
        if watches_kept(node, watch) { vec![0; words.len()] } else { words }
    }
}

/// Does not bring home what is to go there first after somebody has come for a kept lock.
#[derive(Debug, Default)]
pub(super) struct KeepsChanges {
    /// Somebody has come for a lock that was kept.
    is_asked: bool,
}

impl Mutation for KeepsChanges {
    fn words(&mut self, node: &Node, watch: Watch, words: Vec<u64>) -> Vec<u64> {
        self.is_asked |= words.iter().any(|word| *word != 0) && watches_kept(node, watch);
        words
    }

    fn actions(&mut self, _: &Node, actions: Vec<Action>) -> Vec<Order> {
        let flushes = actions.iter().any(|action| matches!(action, Action::Flush { .. }));
        let is_asked = self.is_asked && flushes;
        self.is_asked &= !flushes;
        each(actions, |action| match action {
            Action::Flush { op, .. } if is_asked => vec![Order::Finish(op, Completion::Done)],
            _ => vec![Order::Do(action)],
        })
    }
}
