//! One rank's share of the strict protocol: a home's directory for the pages homed here, a cache's states for the others.
//!
//! Inputs are the `handle_*` methods; after each of them the driver takes [`Node::poll_action`] until there is nothing
//! left and executes the actions in that order, before the next input and while the body of the message it gave in, if it
//! was one, is at hand. Then [`Node::poll_timeout`] says when [`Node::handle_timeout`] is due. A rank may have several nodes, each for its own
//! pages; they work by themselves but for [`Node::awaited`] and [`Node::handle_awaited`].
//!
//! The home's side is in `home.rs` with its states in `directory.rs`, the cacher's side with its states in `cache.rs`, with `eviction.rs` and
//! `read_ahead.rs`; homes move by `hand_over.rs` and `take_over.rs`, with what they share in `moves.rs`; `window.rs` has both sides of reading without the home's processor. Both give pages up through `deferral.rs`, later when `patience.rs` says so, and devices keep pages through `holds.rs`. docs/coherence.md
//! has the protocol as tables.

mod action;
mod cache;
mod companions;
mod config;
mod deferral;
mod directory;
mod eviction;
mod hand_over;
mod hints;
mod holds;
mod home;
mod inspect;
mod leave;
mod migratory;
mod moves;
mod outbox;
mod patience;
mod read_ahead;
mod stats;
mod table;
mod take_over;
#[cfg(test)]
mod tests;
mod window;

use std::hash::{Hash, Hasher};

pub use action::{Action, Body, HoldId, Source};
pub use companions::MAX_COMPANIONS;
pub use config::{Config, ConfigError, MIN_CACHE_PAGES, WindowConfig};
pub use hand_over::HandOverError;
pub use holds::{MAX_HOLD_PAGES, MAX_HOLDS};
pub use inspect::DirectoryView;
pub use leave::{LEAVE_STEP, Leave, LeaveError};
pub use moves::{HomesError, MAX_HAND_OVER_PAGES, MAX_HAND_OVERS};
pub use patience::Awaited;
pub use stats::Stats;

use crate::id::{Access, MAX_RUN, Page, Rank, RankSet, Run, Tick};
use crate::message::Message;
use crate::window::Seen;

/// A message that the sender had no right to send.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("rank {from} sent what the protocol does not allow: {what}", from = from.0)]
pub struct ProtocolError {
    /// The sender.
    pub from: Rank,
    /// What is wrong with it.
    pub what: String,
}

impl ProtocolError {
    fn new(from: Rank, what: impl Into<String>) -> Self {
        Self { from, what: what.into() }
    }
}

/// Why a hold cannot be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HoldError {
    /// A page that does not exist.
    #[error("page {0} is not RAM")]
    NotRam(u32),
    /// The id is in use.
    #[error("hold {0} is there already")]
    InUse(u64),
    /// Too many holds at once.
    #[error("{MAX_HOLDS} holds at once are there already")]
    TooMany,
    /// Too many pages.
    #[error("a hold of {0} pages; one has at most {MAX_HOLD_PAGES}")]
    TooLong(u32),
}

/// The protocol's state at one rank. Two nodes are equal, and have the same hash, when they will do the same from now on; what they have
/// counted so far does not matter.
#[derive(Clone, Debug)]
pub struct Node {
    config: Config,
    /// The minimum hold time in microseconds.
    hold: u32,
    stats: Stats,
    out: outbox::Outbox,
    directory: directory::Directory,
    cache: cache::Cache,
    deferrals: deferral::Deferrals,
    holds: holds::Holds,
    streams: read_ahead::Streams,
    patience: patience::Patience,
    companions: companions::Companions,
    shown: window::Shown,
    hints: hints::Hints,
    moves: moves::Moves,
    leaving: leave::Leaving,
}

impl Node {
    /// A node of a machine in which no page has been touched.
    ///
    /// # Errors
    /// [`ConfigError`] naming what does not fit.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        let pages = config.homes.pages();
        Ok(Self {
            hold: u32::try_from(config.hold.0).unwrap_or(u32::MAX),
            config,
            stats: Stats::default(),
            out: outbox::Outbox::default(),
            directory: directory::Directory::new(pages),
            cache: cache::Cache::new(pages),
            deferrals: deferral::Deferrals::default(),
            holds: holds::Holds::default(),
            streams: read_ahead::Streams::default(),
            patience: patience::Patience::default(),
            companions: companions::Companions::default(),
            shown: window::Shown::default(),
            hints: hints::Hints::default(),
            moves: moves::Moves::default(),
            leaving: leave::Leaving::default(),
        })
    }

    /// A processor of this rank wants a page. An action wakes it: [`Action::Map`], [`Action::Allow`] or [`Action::Wake`]; it may
    /// have to ask again then. A page that does not exist is nobody's to grant: nothing happens. Nor does it on a rank that has left.
    pub fn handle_fault(&mut self, now: Tick, page: Page, access: Access) {
        if self.leaving.has_told() {
            return;
        }
        let was_asked_for = self.is_asked_for(page);
        let wanted = if self.access(page) < Some(access) { self.access_to_ask_for(page, access) } else { access };
        match self.config.homes.home(page) {
            Some(home) if home == self.config.rank => self.home_fault(now, page, wanted),
            Some(home) => self.cache_fault(now, home, page, wanted),
            None => {}
        }
        if self.is_asked_for(page) {
            if !was_asked_for {
                self.ask_for_companions(now, page, wanted);
            }
            self.is_waited_for(page);
        }
        self.settle(now);
    }

    /// A message has arrived.
    ///
    /// # Errors
    /// [`ProtocolError`] when it makes no sense; the state is unchanged then, and the sender is not to be trusted.
    pub fn handle_message(&mut self, now: Tick, from: Rank, message: &Message) -> Result<(), ProtocolError> {
        if from == self.config.rank || from.0 >= self.config.ranks {
            return Err(ProtocolError::new(from, "it is no other rank of this machine"));
        }
        self.check_still(from, message)?;
        self.check_gone(from, message)?;
        match message {
            Message::Acquire { run, access, urgency, have } => {
                self.handle_acquire(now, from, *run, *access, *urgency, have)
            }
            Message::Grant { first, access, pages } => self.handle_grant(now, from, *first, *access, pages),
            Message::Refuse { run } => self.handle_refuse(now, from, *run),
            Message::Invalidate { page } => self.handle_invalidate(now, from, *page),
            Message::InvalidateAck { page } => self.handle_invalidate_ack(now, from, *page),
            Message::Recall { page, keep } => self.handle_recall(now, from, *page, *keep),
            Message::WriteBack { page, version, keep, content } => {
                self.handle_write_back(now, from, *page, *version, *keep, *content)
            }
            Message::HandOver { run, to, members } => self.handle_hand_over_order(from, *run, *to, *members),
            Message::Freeze { run, to, members } => self.handle_freeze(from, *run, *to, *members),
            Message::Frozen { run } => self.handle_frozen(now, from, *run),
            Message::Requests { page, is_begun, requests } => self.handle_requests(from, *page, *is_begun, requests),
            Message::Entries { first, gone, pages } => self.handle_entries(now, from, *first, *gone, pages),
            Message::Moved { run } => self.handle_moved(now, from, *run),
            Message::Leave => self.handle_leave_of(from),
            Message::LeaveAck => self.handle_leave_ack(from),
        }?;
        self.settle(now);
        Ok(())
    }

    /// A device wants all of these pages at once, and to keep them until [`Self::handle_release`]. When it has them,
    /// [`Action::HoldReady`] says so. Runs may overlap, be of any length and have different homes.
    ///
    /// # Errors
    /// [`HoldError`]; nothing is held then.
    pub fn handle_hold(&mut self, now: Tick, id: HoldId, runs: &[(Run, Access)]) -> Result<(), HoldError> {
        self.hold_pages(now, id, runs)?;
        self.settle(now);
        Ok(())
    }

    /// A device is done with its pages, or gives up waiting for them. An unknown hold is none.
    pub fn handle_release(&mut self, now: Tick, id: HoldId) {
        self.release_pages(now, id);
        self.settle(now);
    }

    /// The marks of a page's slot after [`Action::Hide`]: the ranks that may have read it in the window.
    pub fn handle_collected(&mut self, now: Tick, page: Page, marks: RankSet) {
        self.collected(now, page, marks);
        self.settle(now);
    }

    /// A read that [`Action::GuardedRead`] began has ended. The bytes are at hand as those of a message's body are: one page.
    /// `seen` is nothing if it could not be begun.
    pub fn handle_guarded_read(&mut self, now: Tick, page: Page, seen: Option<Seen>) {
        self.guarded_read_ended(now, page, seen);
        self.settle(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Tick) {
        self.hold_times_end(now, now);
        self.settle(now);
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.out.pop()
    }

    /// When to call [`Self::handle_timeout`]. May be in the past.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.deferrals.next()
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats.clone()
    }

    /// What this rank may do with a page now, by what it has been granted: nothing, read, or read and write.
    #[must_use]
    pub fn access(&self, page: Page) -> Option<Access> {
        if self.config.homes.home(page)? == self.config.rank {
            self.directory.table.get(page).state.own_access(self.config.rank)
        } else {
            self.cache.table.get(page).state.access()
        }
    }

    /// Who may have a copy of a page homed here, by what this home knows: everybody who has one is among them, and perhaps ranks that
    /// have dropped theirs to make room. None for pages of other homes.
    #[must_use]
    pub fn holders(&self, page: Page) -> Option<RankSet> {
        let home = self.config.rank;
        if self.config.homes.home(page)? != home {
            return None;
        }
        Some(self.directory.holders(page, home))
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> Rank {
        self.config.rank
    }

    /// Ends the handling of an input.
    fn settle(&mut self, now: Tick) {
        self.go_on_with_holds(now);
        self.look_who_waits(now);
        self.out.flush();
    }

    /// Whether a message may be about these pages: they exist, and have this one home.
    fn check_run(&self, from: Rank, run: Run, home: Rank) -> Result<(), ProtocolError> {
        let fault = match self.config.homes.home_of_run(run) {
            _ if !(1..=MAX_RUN).contains(&run.count) => "a run has 1 to 256",
            None => "which are not all RAM with one home",
            Some(at) if at != home => "which have another home",
            Some(_) => return Ok(()),
        };
        Err(ProtocolError::new(from, format!("a message about {} pages from {} on: {fault}", run.count, run.first.0)))
    }

    /// A processor waits for a page that nobody here has asked for; `have` is what it could do with it before.
    fn count_fault(&mut self, have: Option<Access>, access: Access) {
        match (have, access) {
            (_, Access::Read) => self.stats.read_faults += 1,
            (None, Access::Write) => self.stats.write_faults += 1,
            (Some(_), Access::Write) => self.stats.upgrade_faults += 1,
        }
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            config,
            hold,
            stats: _,
            out,
            directory,
            cache,
            deferrals,
            holds,
            streams,
            patience,
            companions,
            shown,
            hints,
            moves,
            leaving,
        } = self;
        (hold, out, directory, cache, deferrals)
            == (&other.hold, &other.out, &other.directory, &other.cache, &other.deferrals)
            && (holds, streams, patience, companions)
                == (&other.holds, &other.streams, &other.patience, &other.companions)
            && (shown, hints, leaving) == (&other.shown, &other.hints, &other.leaving)
            && (moves, &config.homes) == (&other.moves, &other.config.homes)
    }
}

impl Eq for Node {}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self {
            config,
            hold: _,
            stats: _,
            out: _,
            directory,
            cache,
            deferrals,
            holds,
            streams,
            patience,
            companions,
            shown,
            hints,
            moves,
            leaving,
        } = self;
        (directory, cache, deferrals, holds, streams, patience, companions, shown, hints, leaving).hash(state);
        (moves, &config.homes).hash(state);
    }
}
