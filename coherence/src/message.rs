//! What nodes tell each other about pages.
//!
//! Messages between two nodes arrive in the order in which they were sent, each once. Between different pairs there is
//! no order. Bytes of pages travel beside a message as its body: those of its pages whose [`Content`] is
//! [`Content::Data`], in order.

use crate::id::{Access, Page, Run, Version};

/// How much a request matters.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Urgency {
    /// Somebody waits.
    Demand,
    /// A guess: what is not free at once is refused.
    Ahead,
}

/// Where the bytes of a granted or returned page are.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Content {
    /// In the message's body.
    Data,
    /// The page is all zeros.
    Zero,
    /// The receiver has them already.
    Current,
}

/// What an owner keeps of a page that it gives back.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Keep {
    /// A copy to read.
    Shared,
    /// Nothing.
    Nothing,
}

/// One page of a [`Message::Grant`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Granted {
    /// Its version from now on.
    pub version: Version,
    /// Where its bytes are.
    pub content: Content,
}

/// A message about one page or a run of pages with one home.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Message {
    /// To the home: the sender wants these pages.
    Acquire {
        /// Which.
        run: Run,
        /// What for.
        access: Access,
        /// How much it matters.
        urgency: Urgency,
        /// Versions of the copies the sender has, one per page; empty when it has none.
        have: Vec<Version>,
    },
    /// From the home: the receiver has these pages now.
    Grant {
        /// The first page; the others follow it.
        first: Page,
        /// What for. May be more than was asked.
        access: Access,
        /// The pages in order.
        pages: Vec<Granted>,
    },
    /// From the home: these pages were asked for [`Urgency::Ahead`] and are not to be had at once.
    Refuse {
        /// Which.
        run: Run,
    },
    /// From the home: give up the copy of this page, if there is one.
    Invalidate {
        /// Which.
        page: Page,
    },
    /// To the home: the sender has no copy of this page.
    InvalidateAck {
        /// Which.
        page: Page,
    },
    /// From the home: give this page back.
    Recall {
        /// Which.
        page: Page,
        /// What may be kept.
        keep: Keep,
    },
    /// To the home: the owner gives the page back, asked or not.
    WriteBack {
        /// Which.
        page: Page,
        /// Its version.
        version: Version,
        /// What the sender keeps.
        keep: Keep,
        /// Where its bytes are.
        content: Content,
    },
    /// To every home: the sender has no pages, waits for none, and will ask for none any more.
    Leave,
    /// From the home: it knows of no copy of the receiver's any more, and has no more to say to it.
    LeaveAck,
}

impl Message {
    /// The pages that it is about; none for what is about a rank.
    #[must_use]
    pub fn run(&self) -> Run {
        match self {
            Self::Acquire { run, .. } | Self::Refuse { run } => *run,
            Self::Grant { first, pages, .. } => {
                Run { first: *first, count: u16::try_from(pages.len()).unwrap_or(u16::MAX) }
            }
            Self::Invalidate { page }
            | Self::InvalidateAck { page }
            | Self::Recall { page, .. }
            | Self::WriteBack { page, .. } => Run::one(*page),
            Self::Leave | Self::LeaveAck => Run { first: Page(0), count: 0 },
        }
    }

    /// The pages whose bytes are in the body, in order.
    #[must_use]
    pub fn data_pages(&self) -> Vec<Page> {
        match self {
            Self::Grant { first, pages, .. } => (first.0..)
                .zip(pages)
                .filter(|(_, granted)| granted.content == Content::Data)
                .map(|(page, _)| Page(page))
                .collect(),
            Self::WriteBack { page, content: Content::Data, .. } => vec![*page],
            Self::WriteBack { .. }
            | Self::Acquire { .. }
            | Self::Refuse { .. }
            | Self::Invalidate { .. }
            | Self::InvalidateAck { .. }
            | Self::Recall { .. }
            | Self::Leave
            | Self::LeaveAck => Vec::new(),
        }
    }

    /// Leaves the bytes of pages that are all zeros out of the body: `is_zero` says which are.
    pub fn leave_out_zeros(&mut self, mut is_zero: impl FnMut(Page) -> bool) {
        match self {
            Self::Grant { first, pages, .. } => {
                for (page, granted) in (first.0..).zip(pages) {
                    if granted.content == Content::Data && is_zero(Page(page)) {
                        granted.content = Content::Zero;
                    }
                }
            }
            Self::WriteBack { page, content, .. } => {
                if *content == Content::Data && is_zero(*page) {
                    *content = Content::Zero;
                }
            }
            Self::Acquire { .. }
            | Self::Refuse { .. }
            | Self::Invalidate { .. }
            | Self::InvalidateAck { .. }
            | Self::Recall { .. }
            | Self::Leave
            | Self::LeaveAck => {}
        }
    }
}
