//! Bugs in windows, at homes and at readers.

use std::collections::BTreeSet;

use crate::id::{Page, RankSet};
use crate::message::Message;
use crate::node::{Action, Node};
use crate::window::{Seen, Word};

use super::super::machine::Input;
use super::super::window::{HomeStep, NicStep};
use super::{Given, Mutation, Order, bare};

/// Does not clear the hash.
#[derive(Debug)]
pub(super) struct NeverBusy;

impl Mutation for NeverBusy {
    fn home_steps(&mut self, mut steps: Vec<HomeStep>) -> Vec<HomeStep> {
        steps.retain(|step| *step != HomeStep::Busy);
        steps
    }
}

/// Collects the marks and clears the hash then.
#[derive(Debug)]
pub(super) struct CollectsFirst;

impl Mutation for CollectsFirst {
    fn home_steps(&mut self, mut steps: Vec<HomeStep>) -> Vec<HomeStep> {
        steps.sort_by_key(|step| *step == HomeStep::Busy);
        steps
    }
}

/// Takes nobody for a reader.
#[derive(Debug)]
pub(super) struct IgnoresMarks;

impl Mutation for IgnoresMarks {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        let input = match input {
            Input::Collected(page, _) => Input::Collected(page, RankSet::EMPTY),
            other => other,
        };
        vec![Given::Node(input)]
    }
}

/// Marks a slot after it has looked at the word.
#[derive(Debug)]
pub(super) struct MarksLate;

impl Mutation for MarksLate {
    fn nic_steps(&mut self, mut steps: Vec<NicStep>) -> Vec<NicStep> {
        steps.sort_by_key(|step| *step == NicStep::Mark);
        steps
    }
}

/// Marks nothing.
#[derive(Debug)]
pub(super) struct NeverMarks;

impl Mutation for NeverMarks {
    fn nic_steps(&mut self, mut steps: Vec<NicStep>) -> Vec<NicStep> {
        steps.retain(|step| *step != NicStep::Mark);
        steps
    }
}

/// Does not look at the hash.
#[derive(Debug)]
pub(super) struct IgnoresHash;

impl Mutation for IgnoresHash {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        let input = match input {
            Input::Brought(page, seen, words) => Input::Brought(page, Seen { is_whole: true, ..seen }, words),
            other => other,
        };
        vec![Given::Node(input)]
    }
}

/// Takes whatever is in the slot for the page that it wants.
#[derive(Debug)]
pub(super) struct IgnoresTag;

impl Mutation for IgnoresTag {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        let input = match input {
            Input::Brought(page, seen, words) => {
                let other = Page(u32::try_from(seen.word.0 >> u32::BITS).unwrap_or(u32::MAX));
                let as_wanted = seen.word.version_of(other).and_then(|version| Word::shown(page, version));
                Input::Brought(page, Seen { word: as_wanted.unwrap_or(Word::NONE), ..seen }, words)
            }
            other => other,
        };
        vec![Given::Node(input)]
    }
}

/// Says that it has no copy of a page that it is reading, and uses what comes.
#[derive(Debug, Default)]
pub(super) struct UsesLost {
    reading: BTreeSet<Page>,
}

impl Mutation for UsesLost {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        match &input {
            Input::Message(from, parcel) => {
                if let Message::Invalidate { page } = parcel.message
                    && self.reading.contains(&page)
                {
                    return vec![Given::Send(*from, bare(Message::InvalidateAck { page }))];
                }
            }
            Input::Brought(page, ..) => _ = self.reading.remove(page),
            _ => {}
        }
        vec![Given::Node(input)]
    }

    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        for action in &actions {
            if let Action::GuardedRead { page, .. } = action {
                self.reading.insert(*page);
            }
        }
        actions.into_iter().map(Order::Do).collect()
    }
}
