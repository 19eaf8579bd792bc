//! Bugs of a home.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Access, Page, Rank, Version};
use crate::message::{Content, Message};
use crate::node::{Action, Body, Node};

use super::super::machine::Input;
use super::super::memory::Words;
use super::{Given, Mutation, Order, each, told};

/// Does not send invalidations, and makes up the acknowledgements.
#[derive(Debug, Default)]
pub(super) struct LosesInvalidation {
    lost: Vec<(Rank, Page)>,
}

impl Mutation for LosesInvalidation {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        let acks = self.lost.drain(..).map(|(rank, page)| told(rank, Message::InvalidateAck { page }));
        acks.chain([Given::Node(input)]).collect()
    }

    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| match action {
            Action::Send { to, message: Message::Invalidate { page }, .. } => {
                self.lost.push((to, page));
                Vec::new()
            }
            other => vec![Order::Do(other)],
        })
    }
}

/// Makes up the acknowledgements of the invalidations it sends, and swallows the real ones.
#[derive(Debug, Default)]
pub(super) struct GrantsEarly {
    sent: Vec<(Rank, Page)>,
    made_up: BTreeSet<(Rank, Page)>,
}

impl Mutation for GrantsEarly {
    fn incoming(&mut self, _: &Node, input: Input) -> Vec<Given> {
        let mut given = Vec::new();
        let acknowledges = match &input {
            Input::Message(from, parcel) => match parcel.message {
                Message::InvalidateAck { page } => Some((*from, page)),
                _ => None,
            },
            _ => None,
        };
        for (rank, page) in std::mem::take(&mut self.sent) {
            if acknowledges != Some((rank, page)) {
                self.made_up.insert((rank, page));
                given.push(told(rank, Message::InvalidateAck { page }));
            }
        }
        if !acknowledges.is_some_and(|acknowledged| self.made_up.remove(&acknowledged)) {
            given.push(Given::Node(input));
        }
        given
    }

    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| {
            if let Action::Send { to, message: Message::Invalidate { page }, .. } = action {
                self.sent.push((to, page));
            }
            vec![Order::Do(action)]
        })
    }
}

/// Forgets a request for a page that is busy.
#[derive(Debug)]
pub(super) struct DropsQueued;

impl Mutation for DropsQueued {
    fn incoming(&mut self, node: &Node, input: Input) -> Vec<Given> {
        let queued = match &input {
            Input::Message(_, parcel) => match &parcel.message {
                Message::Acquire { run, .. } => {
                    run.pages().any(|page| node.directory(page).is_some_and(|entry| entry.is_busy))
                }
                _ => false,
            },
            _ => false,
        };
        if queued { Vec::new() } else { vec![Given::Node(input)] }
    }
}

/// Says that the receiver has the bytes already.
#[derive(Debug)]
pub(super) struct SaysCurrent;

impl Mutation for SaysCurrent {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| vec![Order::Do(with_content(action, Content::Current))])
    }
}

/// Says that the bytes are all zeros.
#[derive(Debug)]
pub(super) struct SaysZero;

impl Mutation for SaysZero {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |action| vec![Order::Do(with_content(action, Content::Zero))])
    }
}

/// A grant with bytes, without them.
fn with_content(action: Action, content: Content) -> Action {
    match action {
        Action::Send { to, message: Message::Grant { first, access, mut pages }, body } => {
            let mut body = body;
            for granted in pages.iter_mut().filter(|granted| granted.content == Content::Data) {
                granted.content = content;
                body = Body::None;
            }
            Action::Send { to, message: Message::Grant { first, access, pages }, body }
        }
        other => other,
    }
}

/// Grants to read with the version before.
#[derive(Debug)]
pub(super) struct OldVersion;

impl Mutation for OldVersion {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |mut action| {
            if let Action::Send { message: Message::Grant { access: Access::Read, pages, .. }, .. } = &mut action {
                for granted in pages {
                    granted.version = Version(granted.version.0.saturating_sub(1));
                }
            }
            vec![Order::Do(action)]
        })
    }
}

/// Gives pages to be written to who asks to read them, though others have copies.
#[derive(Debug)]
pub(super) struct GrantsTooMuch;

impl Mutation for GrantsTooMuch {
    fn outgoing(&mut self, actions: Vec<Action>) -> Vec<Order> {
        each(actions, |mut action| {
            if let Action::Send { message: Message::Grant { access, .. }, .. } = &mut action {
                *access = Access::Write;
            }
            vec![Order::Do(action)]
        })
    }
}

/// Sends the bytes that it sent of a page the last time.
#[derive(Debug, Default)]
pub(super) struct OldBytes {
    last: BTreeMap<Page, Words>,
}

impl Mutation for OldBytes {
    fn body(&mut self, message: &Message, body: &mut [Words]) {
        for (page, words) in message.data_pages().into_iter().zip(body) {
            let new = *words;
            *words = self.last.insert(page, new).unwrap_or(new);
        }
    }
}
