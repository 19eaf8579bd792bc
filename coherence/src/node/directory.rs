//! What a home knows about the pages homed here.

use std::collections::{BTreeMap, VecDeque};

use super::deferral::Stamp;
use super::migratory::Migration;
use super::table::{MAX_PAGE_STATE, Table};
use crate::id::{Access, Page, Rank, RankSet, Version};

/// Where the copies of a page are. The home has no other state for its own copy: see [`DirectoryState::own_access`].
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(super) enum DirectoryState {
    /// Nobody has used it yet: all zeros, no copy anywhere.
    #[default]
    Untouched,
    /// One rank, perhaps the home itself, may read and write it; nobody else has a copy.
    Owned(Rank),
    /// The home has a copy to read, and these other ranks may have one; none where it was shown before anybody asked for it.
    Shared(RankSet),
    /// A transaction waits until this owner has given it back. The home itself does so when its minimum hold time and its devices allow.
    Recalling {
        /// Who has it.
        owner: Rank,
    },
    /// A transaction waits until these ranks have given up their copies. The home is one of them until its minimum hold time and its
    /// devices allow; its copy itself stays until the transaction ends.
    Invalidating {
        /// Who may still have a copy, or may not lose it yet.
        waiting: RankSet,
    },
    /// The page is being taken out of the window: these other ranks may have a copy, and whoever has marked its slot. Requests wait until that
    /// is known.
    Collecting {
        /// Who is known to.
        sharers: RankSet,
    },
}

impl DirectoryState {
    /// What the home itself may do with the page.
    pub(super) fn own_access(self, home: Rank) -> Option<Access> {
        match self {
            Self::Untouched => None,
            Self::Owned(owner) | Self::Recalling { owner } => (owner == home).then_some(Access::Write),
            Self::Shared(_) | Self::Invalidating { .. } | Self::Collecting { .. } => Some(Access::Read),
        }
    }

    /// Whether a transaction is under way.
    pub(super) fn is_transient(self) -> bool {
        match self {
            Self::Untouched | Self::Owned(_) | Self::Shared(_) => false,
            Self::Recalling { .. } | Self::Invalidating { .. } | Self::Collecting { .. } => true,
        }
    }
}

/// One page homed here.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct DirectoryEntry {
    pub(super) version: Version,
    pub(super) state: DirectoryState,
    /// When this home's own copy came.
    pub(super) came: Stamp,
    /// Devices of this rank that hold it.
    pub(super) pins: u16,
    /// It has been in the window in this version.
    pub(super) was_shown: bool,
    /// It has been in the window for the sake of a page near it, in any version.
    pub(super) was_near: bool,
    /// Whether its readers write it.
    pub(super) migration: Migration,
}

const _: () = assert!(size_of::<DirectoryEntry>() <= MAX_PAGE_STATE);

/// Somebody wants a page. A rank has one request for a page at most, so there are never more of them than ranks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Request {
    /// Who; perhaps the home itself.
    pub(super) from: Rank,
    /// What for.
    pub(super) access: Access,
    /// The version of the copy that the requester has.
    pub(super) have: Version,
}

/// Requests for one page.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Transaction {
    /// The one under way; none while all wait for the page to be taken out of the window.
    pub(super) current: Option<Request>,
    /// Those behind it, in the order in which they came.
    pub(super) queue: VecDeque<Request>,
}

/// All pages homed here.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Directory {
    pub(super) table: Table<DirectoryEntry>,
    /// Of pages in a transient state.
    transactions: BTreeMap<Page, Transaction>,
}

impl Directory {
    pub(super) fn new(pages: u32) -> Self {
        Self { table: Table::new(pages), transactions: BTreeMap::new() }
    }

    /// The request under way for a page.
    pub(super) fn current(&self, page: Page) -> Option<Request> {
        self.transactions.get(&page)?.current
    }

    /// Whether a rank has a request for this page that is not answered yet.
    pub(super) fn has_request(&self, page: Page, from: Rank) -> bool {
        let Some(Transaction { current, queue }) = self.transactions.get(&page) else { return false };
        current.iter().chain(queue).any(|request| request.from == from)
    }

    /// Whether somebody waits for this page, be it that a transaction is under way or that none could begin while it moved.
    pub(super) fn has_requests(&self, page: Page) -> bool {
        self.transactions.contains_key(&page)
    }

    /// The first page that a rank has asked for and has no answer for yet.
    pub(super) fn asked_for_by(&self, from: Rank) -> Option<Page> {
        self.transactions.keys().copied().find(|page| self.has_request(*page, from))
    }

    /// Who may have a copy of a page.
    pub(super) fn holders(&self, page: Page, home: Rank) -> RankSet {
        let (mut ranks, home_has) = match self.table.get(page).state {
            DirectoryState::Untouched => (RankSet::EMPTY, false),
            DirectoryState::Owned(owner) | DirectoryState::Recalling { owner } => (RankSet::one(owner), false),
            DirectoryState::Shared(sharers) | DirectoryState::Collecting { sharers } => (sharers, true),
            DirectoryState::Invalidating { waiting } => {
                // A requester that has a copy keeps it.
                let mut ranks = waiting;
                if let Some(request) = self.current(page).filter(|request| request.have != Version::NONE) {
                    ranks.insert(request.from);
                }
                (ranks, true)
            }
        };
        if home_has {
            ranks.insert(home);
        }
        ranks
    }

    /// A transaction for this request begins; those behind it, if any, stay behind it.
    pub(super) fn begin(&mut self, page: Page, request: Request) {
        self.transactions.entry(page).or_default().current = Some(request);
    }

    /// A request waits behind the one under way, or behind what else the page's state waits for.
    pub(super) fn queue(&mut self, page: Page, request: Request) {
        self.transactions.entry(page).or_default().queue.push_back(request);
    }

    /// A request whose turn it is waits for the page to be taken out of the window, before all others.
    pub(super) fn queue_first(&mut self, page: Page, request: Request) {
        self.transactions.entry(page).or_default().queue.push_front(request);
    }

    /// All requests for a page that moves to another home; none is left here.
    pub(super) fn take(&mut self, page: Page) -> Transaction {
        self.transactions.remove(&page).unwrap_or_default()
    }

    /// Requests for a page that has come from another home.
    pub(super) fn put(&mut self, page: Page, transaction: Transaction) {
        if transaction != Transaction::default() {
            self.transactions.insert(page, transaction);
        }
    }

    /// The request under way waits again, before all others.
    pub(super) fn put_back(&mut self, page: Page) {
        if let Some(Transaction { current, queue }) = self.transactions.get_mut(&page)
            && let Some(request) = current.take()
        {
            queue.push_front(request);
        }
    }

    /// The next request for a page whose transaction has ended; none is the end of all of them.
    pub(super) fn next(&mut self, page: Page) -> Option<Request> {
        let transaction = self.transactions.get_mut(&page)?;
        transaction.current = None;
        let next = transaction.queue.pop_front();
        if next.is_none() {
            self.transactions.remove(&page);
        }
        next
    }
}
