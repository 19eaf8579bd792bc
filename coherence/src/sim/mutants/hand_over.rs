//! Bugs while homes move.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{MAX_RANKS, Page, Rank, RankSet, Run, Version};
use crate::message::{Content, Handed, HandedState, Message, Urgency};
use crate::node::{Action, Body, Node};

use super::super::machine::Input;
use super::{Given, Mutation, Order, bare, each, told};

/// Changes the entries that a home hands over.
fn with_entries(actions: Vec<Action>, change: impl Fn(&mut Handed)) -> Vec<Order> {
    each(actions, |mut action| {
        if let Action::Send { message: message @ Message::Entries { .. }, body, .. } = &mut action {
            if let Message::Entries { pages, .. } = message {
                pages.iter_mut().for_each(&change);
            }
            if message.data_pages().is_empty() {
                *body = Body::None;
            }
        }
        vec![Order::Do(action)]
    })
}

/// Forgets who has copies.
#[derive(Debug)]
pub(super) struct ForgetsSharers;

impl Mutation for ForgetsSharers {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        with_entries(actions, |handed| {
            if let HandedState::Shared(sharers) = &mut handed.state {
                *sharers = RankSet::EMPTY;
            }
        })
    }
}

/// Does not tell the new home who has left.
#[derive(Debug)]
pub(super) struct ForgetsGone;

impl Mutation for ForgetsGone {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |mut action| {
            if let Action::Send { message: Message::Entries { gone, .. }, .. } = &mut action {
                *gone = RankSet::EMPTY;
            }
            vec![Order::Do(action)]
        })
    }
}

/// Hands over with the version before.
#[derive(Debug)]
pub(super) struct LosesVersion;

impl Mutation for LosesVersion {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        with_entries(actions, |handed| {
            if handed.version > Version(1) {
                handed.version = Version(handed.version.0 - 1);
            }
        })
    }
}

/// Hands over without the bytes.
#[derive(Debug)]
pub(super) struct LosesBytes;

impl Mutation for LosesBytes {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        with_entries(actions, |handed| {
            if handed.content == Content::Data {
                handed.content = Content::Zero;
            }
        })
    }
}

/// Keeps what waits for a page, but for the request under way.
#[derive(Debug)]
pub(super) struct DropsQueue;

impl Mutation for DropsQueue {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |mut action| match &mut action {
            Action::Send { message: Message::Requests { is_begun: false, .. }, .. } => Vec::new(),
            Action::Send { message: Message::Requests { requests, .. }, .. } => {
                requests.truncate(1);
                vec![Order::Do(action)]
            }
            _ => vec![Order::Do(action)],
        })
    }
}

/// Takes everybody to have frozen the pages when it has asked for it.
#[derive(Debug, Default)]
pub(super) struct WaitsForNobody {
    asked: Vec<(Rank, Run)>,
    made_up: BTreeSet<(Rank, Run)>,
}

impl Mutation for WaitsForNobody {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        let mut given: Vec<Given> = Vec::new();
        let frozen = match &input {
            Input::Message(from, parcel) => match parcel.message {
                Message::Frozen { run } => Some((*from, run)),
                _ => None,
            },
            _ => None,
        };
        for (rank, run) in std::mem::take(&mut self.asked) {
            if frozen != Some((rank, run)) {
                self.made_up.insert((rank, run));
                given.push(told(rank, Message::Frozen { run }));
            }
        }
        if !frozen.is_some_and(|frozen| self.made_up.remove(&frozen)) {
            given.push(Given::Node(input));
        }
        given
    }

    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| {
            if let Action::Send { to, message: Message::Freeze { run, .. }, .. } = action {
                self.asked.push((to, run));
            }
            vec![Order::Do(action)]
        })
    }
}

/// Grants pages that it has had others freeze: the last one that it has granted without bytes, again.
#[derive(Debug, Default)]
pub(super) struct GrantsFrozen {
    granted: BTreeMap<(Rank, Page), Message>,
}

impl Mutation for GrantsFrozen {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| {
            let again = match &action {
                Action::Send { to, message: message @ Message::Grant { first, pages, .. }, body: Body::None }
                    if pages.len() == 1 =>
                {
                    self.granted.insert((*to, *first), message.clone());
                    None
                }
                Action::Send { to, message: Message::Freeze { run, .. }, .. } => {
                    let page = run.pages().find(|page| self.granted.contains_key(&(*to, *page)));
                    let message = page.and_then(|page| self.granted.remove(&(*to, page)));
                    message.map(|message| Order::Send(*to, bare(message)))
                }
                _ => None,
            };
            std::iter::once(Order::Do(action)).chain(again).collect()
        })
    }
}

/// Does not take pages that are to move out of the window, and takes nobody for a reader of them.
#[derive(Debug, Default)]
pub(super) struct MovesShown {
    is_asked: bool,
    moving: Vec<Run>,
    made_up: Vec<Page>,
}

impl Mutation for MovesShown {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        self.is_asked = false;
        if let Input::HandOver(run, ..) = &input {
            (self.is_asked, self.moving) = (true, vec![*run]);
        }
        if let Input::Message(_, parcel) = &input
            && let Message::HandOver { run, .. } = parcel.message
        {
            (self.is_asked, self.moving) = (true, vec![run]);
        }
        let hidden = self.made_up.drain(..).map(|page| Given::Node(Input::Collected(page, RankSet::EMPTY)));
        hidden.chain([Given::Node(input)]).collect()
    }

    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match action {
            Action::Hide { page } if self.is_asked && self.moving.iter().any(|run| run.contains(page)) => {
                self.made_up.push(page);
                Vec::new()
            }
            other => vec![Order::Do(other)],
        })
    }
}

/// Says that it has frozen pages, and goes on.
#[derive(Debug)]
pub(super) struct FreezesNothing;

impl Mutation for FreezesNothing {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        if let Input::Message(from, parcel) = &input
            && let Message::Freeze { run, .. } = parcel.message
        {
            return vec![Given::Send(*from, bare(Message::Frozen { run }))];
        }
        vec![Given::Node(input)]
    }
}

/// Sends a request again after it has said that it sends nothing more about the page.
#[derive(Debug, Default)]
pub(super) struct AsksLate {
    asked: BTreeMap<Page, Message>,
}

impl Mutation for AsksLate {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        if let Input::Message(_, parcel) = &input
            && let Message::Grant { .. } = parcel.message
        {
            parcel.message.run().pages().for_each(|page| _ = self.asked.remove(&page));
        }
        vec![Given::Node(input)]
    }

    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| {
            let mut again = None;
            match &action {
                Action::Send { message: message @ Message::Acquire { run, urgency: Urgency::Demand, .. }, .. }
                    if run.count == 1 =>
                {
                    self.asked.insert(run.first, message.clone());
                }
                Action::Send { to, message: Message::Frozen { run }, .. } => {
                    let asked = run.pages().find_map(|page| self.asked.remove(&page));
                    again = asked.map(|message| Order::Send(*to, bare(message)));
                }
                _ => {}
            }
            std::iter::once(Order::Do(action)).chain(again).collect()
        })
    }
}

/// Never tells the last rank that it has become the home.
#[derive(Debug)]
pub(super) struct TellsNotAll;

impl Mutation for TellsNotAll {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        let last = (0..MAX_RANKS).map(Rank).rfind(|rank| {
            let is_told = |action: &Action| matches!(action, Action::Send { to, message: Message::Moved { .. }, .. } if to == rank);
            actions.iter().any(is_told)
        });
        each(actions, |action| match &action {
            Action::Send { to, message: Message::Moved { .. }, .. } if Some(*to) == last => Vec::new(),
            _ => vec![Order::Do(action)],
        })
    }
}

/// Tells everybody that it is the home after it has gone on with what waits.
#[derive(Debug)]
pub(super) struct TellsLate;

impl Mutation for TellsLate {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        let mut orders: Vec<Order> = actions.into_iter().map(Order::Do).collect();
        orders.sort_by_key(|order| matches!(order, Order::Do(Action::Send { message: Message::Moved { .. }, .. })));
        orders
    }
}

/// Keeps copies of what it hands over.
#[derive(Debug)]
pub(super) struct KeepsCopies;

impl Mutation for KeepsCopies {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        let hands_over =
            actions.iter().any(|action| matches!(action, Action::Send { message: Message::Entries { .. }, .. }));
        each(actions, |action| match &action {
            Action::Unmap { .. } if hands_over => Vec::new(),
            _ => vec![Order::Do(action)],
        })
    }
}
