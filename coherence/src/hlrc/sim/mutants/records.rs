//! Bugs with notices and with the records of locks and barriers.

use std::collections::BTreeSet;

use crate::hlrc::LockId;
use crate::hlrc::action::{Action, Completion, OpId, Watch};
use crate::hlrc::clock::Position;
use crate::hlrc::layout::HERE;
use crate::hlrc::node::Node;

use super::{Mutation, Order, each};

/// The bits of a notice for its page.
const PAGE: u64 = u32::MAX as u64;

/// Whether an offset is in the ring of this rank's notices.
fn is_in_ring(node: &Node, offset: u64) -> bool {
    let start = node.layout().notice(node.at(), Position(0));
    (start..start + 8 * u64::from(node.layout().log_words())).contains(&offset)
}

fn is_slot(node: &Node, words: usize) -> bool {
    words as u64 == node.layout().slot_words()
}

/// Whether an offset is that of a free lock's record.
fn is_lock_record(node: &Node, at: (crate::id::Rank, u64)) -> bool {
    (0..8).any(|lock| node.layout().lock_record(LockId(lock)) == at)
}

/// All notices are about the first page.
#[derive(Debug)]
pub(super) struct WritesWrongNotice;

impl Mutation for WritesWrongNotice {
    fn actions(&mut self, node: &Node, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |mut action| {
            if let Action::Store { offset, words } = &mut action
                && is_in_ring(node, *offset)
            {
                words.iter_mut().for_each(|word| *word &= !PAGE);
            }
            vec![Order::Do(action)]
        })
    }
}

/// All notices of others are about the first page.
#[derive(Debug, Default)]
pub(super) struct ReadsWrongNotice {
    gets: BTreeSet<OpId>,
}

impl Mutation for ReadsWrongNotice {
    fn actions(&mut self, node: &Node, actions: Vec<Action>) -> Vec<Order> {
        for action in &actions {
            if let Action::Get { op, target, offset, .. } = action
                && !is_lock_record(node, (*target, *offset))
            {
                self.gets.insert(*op);
            }
        }
        actions.into_iter().map(Order::Do).collect()
    }

    fn completion(&mut self, _: &Node, op: OpId, completion: Completion) -> Completion {
        match completion {
            Completion::Words(words) if self.gets.remove(&op) => {
                Completion::Words(words.into_iter().map(|word| word & !PAGE).collect())
            }
            other => other,
        }
    }
}

/// Changes the words of puts that satisfy this.
fn change_puts(
    node: &Node,
    actions: Vec<Action>,
    which: impl Fn(&Node, (crate::id::Rank, u64), usize) -> bool,
    change: impl Fn(&Node, &mut [u64]),
) -> Vec<Order> {
    each(actions, |mut action| {
        if let Action::Put { target, offset, words, .. } = &mut action
            && which(node, (*target, *offset), words.len())
        {
            change(node, words);
        }
        vec![Order::Do(action)]
    })
}

fn forget_clock(node: &Node, words: &mut [u64]) {
    let ranks = usize::try_from(node.layout().record_words()).unwrap_or(0) - 1;
    words.iter_mut().skip(1).take(ranks).for_each(|word| *word = HERE);
}

/// Puts an empty clock beside a lock before it is free.
#[derive(Debug)]
pub(super) struct StoresNoClock;

impl Mutation for StoresNoClock {
    fn actions(&mut self, node: &Node, actions: Vec<Action>) -> Vec<Order> {
        change_puts(node, actions, |node, at, _| is_lock_record(node, at), forget_clock)
    }
}

/// Puts an empty clock into the next one's queue node.
#[derive(Debug)]
pub(super) struct GrantsNoClock;

impl Mutation for GrantsNoClock {
    fn actions(&mut self, node: &Node, actions: Vec<Action>) -> Vec<Order> {
        let is_grant =
            |node: &Node, at, words| words as u64 == node.layout().record_words() && !is_lock_record(node, at);
        change_puts(node, actions, is_grant, forget_clock)
    }
}

/// Puts an empty clock into the slots of barriers.
#[derive(Debug)]
pub(super) struct DisseminatesNoClock;

impl Mutation for DisseminatesNoClock {
    fn actions(&mut self, node: &Node, actions: Vec<Action>) -> Vec<Order> {
        change_puts(node, actions, |node, _, words| is_slot(node, words), forget_clock)
    }
}

/// Puts no contribution but its own into the slots of barriers.
#[derive(Debug)]
pub(super) struct DisseminatesOwnOnly;

impl Mutation for DisseminatesOwnOnly {
    fn actions(&mut self, node: &Node, actions: Vec<Action>) -> Vec<Order> {
        let forget = |node: &Node, words: &mut [u64]| {
            let start = usize::try_from(node.layout().record_words()).unwrap_or(0);
            let own = start + 2 * usize::from(node.at().0);
            let others = words.iter_mut().enumerate().skip(start).filter(|(at, _)| !(own..own + 2).contains(at));
            others.for_each(|(_, word)| *word = HERE);
        };
        change_puts(node, actions, |node, _, words| is_slot(node, words), forget)
    }
}

/// Takes its own record for that of the rank that it waits for.
#[derive(Debug, Default)]
pub(super) struct WaitsForNoRound {
    own: Vec<u64>,
}

impl Mutation for WaitsForNoRound {
    fn actions(&mut self, node: &Node, actions: Vec<Action>) -> Vec<Order> {
        for action in &actions {
            if let Action::Put { words, .. } = action
                && is_slot(node, words.len())
            {
                self.own.clone_from(words);
            }
        }
        actions.into_iter().map(Order::Do).collect()
    }

    fn words(&mut self, node: &Node, watch: Watch, words: Vec<u64>) -> Vec<u64> {
        if is_slot(node, words.len()) && watch.words as usize == self.own.len() { self.own.clone() } else { words }
    }
}
