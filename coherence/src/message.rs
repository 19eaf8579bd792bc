//! What nodes tell each other about pages.
//!
//! Messages between two nodes arrive in the order in which they were sent, each once. Between different pairs there is
//! no order. Bytes of pages travel beside a message as its body: those of its pages whose [`Content`] is
//! [`Content::Data`], in order.

use crate::id::{Access, Page, Rank, RankSet, Run, Version};

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

/// Where the copies of a page are that moves to another home.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum HandedState {
    /// Nobody has used it.
    Untouched,
    /// One rank, perhaps the new home, may read and write it.
    Owned(Rank),
    /// The new home gets a copy to read, and these others may have one.
    Shared(RankSet),
    /// A request waits until this owner gives it back.
    Recalling(Rank),
    /// A request waits until these ranks have given up their copies; the new home gets one.
    Invalidating(RankSet),
}

/// One page of [`Message::Entries`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Handed {
    /// Its version.
    pub version: Version,
    /// Where its copies are.
    pub state: HandedState,
    /// Where the bytes for the new home are; [`Content::Current`] when it needs none.
    pub content: Content,
}

/// A request that moves with its page.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Waiting {
    /// Whose.
    pub from: Rank,
    /// What for.
    pub access: Access,
    /// The version of the copy that it has.
    pub have: Version,
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
    /// From rank 0 to the home: hand these pages over.
    HandOver {
        /// Which.
        run: Run,
        /// To whom.
        to: Rank,
        /// The ranks of the machine.
        members: RankSet,
    },
    /// From the home: send nothing more about these pages until their new home says that it is.
    Freeze {
        /// Which.
        run: Run,
        /// The new home.
        to: Rank,
        /// The ranks of the machine.
        members: RankSet,
    },
    /// To the home: the sender sends nothing more about these pages.
    Frozen {
        /// Which.
        run: Run,
    },
    /// From the old home to the new one: requests for a page that move with it, in their order.
    Requests {
        /// Which.
        page: Page,
        /// Whether the first is under way.
        is_begun: bool,
        /// The requests.
        requests: Vec<Waiting>,
    },
    /// From the old home to the new one: it is the home of these pages now.
    Entries {
        /// The first page; the others follow it.
        first: Page,
        /// Ranks that have left the machine, which homes know.
        gone: RankSet,
        /// The pages in order.
        pages: Vec<Handed>,
    },
    /// From the new home: it is the home of these pages now.
    Moved {
        /// Which.
        run: Run,
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
            Self::Acquire { run, .. }
            | Self::Refuse { run }
            | Self::HandOver { run, .. }
            | Self::Freeze { run, .. }
            | Self::Frozen { run }
            | Self::Moved { run } => *run,
            Self::Grant { first, pages, .. } => {
                Run { first: *first, count: u16::try_from(pages.len()).unwrap_or(u16::MAX) }
            }
            Self::Entries { first, pages, .. } => {
                Run { first: *first, count: u16::try_from(pages.len()).unwrap_or(u16::MAX) }
            }
            Self::Invalidate { page }
            | Self::InvalidateAck { page }
            | Self::Recall { page, .. }
            | Self::WriteBack { page, .. }
            | Self::Requests { page, .. } => Run::one(*page),
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
            Self::Entries { first, pages, .. } => (first.0..)
                .zip(pages)
                .filter(|(_, handed)| handed.content == Content::Data)
                .map(|(page, _)| Page(page))
                .collect(),
            Self::WriteBack { page, content: Content::Data, .. } => vec![*page],
            Self::WriteBack { .. }
            | Self::Acquire { .. }
            | Self::Refuse { .. }
            | Self::Invalidate { .. }
            | Self::InvalidateAck { .. }
            | Self::Recall { .. }
            | Self::HandOver { .. }
            | Self::Freeze { .. }
            | Self::Frozen { .. }
            | Self::Requests { .. }
            | Self::Moved { .. }
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
            Self::Entries { first, pages, .. } => {
                for (page, handed) in (first.0..).zip(pages) {
                    if handed.content == Content::Data && is_zero(Page(page)) {
                        handed.content = Content::Zero;
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
            | Self::HandOver { .. }
            | Self::Freeze { .. }
            | Self::Frozen { .. }
            | Self::Requests { .. }
            | Self::Moved { .. }
            | Self::Leave
            | Self::LeaveAck => {}
        }
    }
}
