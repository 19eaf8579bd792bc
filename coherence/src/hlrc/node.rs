//! One rank's share of the relaxed protocol: its copies of pages, its intervals, its place in the queues of locks, its part of barriers.
//!
//! Inputs are the `handle_*` methods; after each of them the driver takes [`Node::poll_action`] until there is nothing left and executes the actions
//! in that order. It gives in what comes of operations ([`Node::handle_completion`]). After each input, and whenever others may have put something into this
//! rank's own segment, it looks at the stretches that [`Node::watches`] names, and gives in what is in those that are not all zero, also if it has
//! done so before ([`Node::handle_words`]). Nothing depends on time.
//!
//! `pages.rs` has the copies and faults; `claim.rs` who writes a page; `flush.rs` how changes get home; `jobs.rs` what release and acquire have to do, one
//! after the other; `acquire.rs` how notices are read; `locks.rs`, `kept.rs`, `barrier.rs` and `reduction.rs` the synchronisation, `told.rs` that of the
//! driver's own; `threads.rs` who waits and who has ended.

mod acquire;
mod barrier;
mod claim;
mod error;
mod flush;
mod inspect;
mod jobs;
mod kept;
mod locks;
mod pages;
mod reduction;
#[cfg(test)]
mod tests;
mod threads;
mod told;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

pub use error::{
    AcquireError, BarrierError, CompletionError, FaultError, ReleaseError, SeeError, ThreadError, TouchError,
};
pub use inspect::CopyView;
pub use kept::KEPT_LOCKS;
pub use locks::LOCAL_TURNS;
pub use pages::MAX_SCAN;
pub use reduction::Reduction;
pub use threads::Ended;

use crate::id::{Page, Rank};

use super::action::{Action, Completion, Failure, OpId, Watch};
use super::clock::{Clock, Position};
use super::config::{Config, ConfigError};
use super::layout::Layout;
use super::stats::Stats;
use super::{LockId, ThreadId};
use pages::Copy;

/// Least cache and least number of written pages: what one instruction needs, many times over.
pub const MIN_PAGES: u32 = 256;

/// What an operation under way is for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Pending {
    /// A page to read.
    Fetch(Page),
    /// The writer word, before a page is written.
    Claim(claim::Claiming),
    /// The writer word, before a page is brought home.
    Turn(claim::Claiming),
    /// A page into its shadow; whether before it is written here, its home, or before it is brought home.
    Save(claim::Claiming),
    /// The shadow of a page that was written alone.
    Shadow(Page),
    /// Pages on their way home.
    Flush,
    /// Something that nobody waits for.
    Free,
    /// Notices of a rank from a position on.
    Notices(Rank, Position),
    /// A lock's word, to queue.
    Tail(LockId),
    /// A free lock's record.
    Record(LockId),
    /// A lock's record, before it is free.
    Store(LockId),
    /// A lock's word, to free it.
    Unlock(LockId),
    /// The record that hands a lock over.
    Grant(LockId),
}

/// The protocol's state at one rank. Two nodes are equal, and have the same hash, when they will do the same from now on.
#[derive(Clone, Debug)]
pub struct Node {
    config: Arc<Config>,
    layout: Arc<Layout>,
    stats: Stats,
    out: VecDeque<Action>,
    ops: BTreeMap<OpId, Pending>,
    /// Names below the highest ever given that are free: what of these is in use is in `ops`, so that says the same.
    free: BTreeSet<OpId>,
    copies: BTreeMap<Page, Copy>,
    /// Pages of other homes that can be written now.
    written: BTreeSet<Page>,
    /// Pages homed here that can be written now.
    written_here: BTreeSet<Page>,
    /// Pages written in this interval.
    interval: BTreeSet<Page>,
    /// How many pages of other homes are in view.
    mapped: usize,
    /// Where to look for a page to evict.
    hand: Page,
    clock: Clock,
    jobs: jobs::Jobs,
    /// Those that are in use.
    locks: BTreeMap<LockId, locks::Lock>,
    kept: kept::Kept,
    barrier: barrier::Barrier,
    threads: Vec<threads::Thread>,
    /// Clocks of what threads have published and nobody has taken yet.
    published: BTreeMap<ThreadId, Clock>,
    failure: Option<Failure>,
}

impl Node {
    /// A node of a machine in which no page has been touched and all words of the segments are zero.
    ///
    /// # Errors
    /// [`ConfigError`] naming what does not fit.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        if config.written_pages < MIN_PAGES {
            return Err(ConfigError::WrittenPages(config.written_pages));
        }
        match config.cache_pages {
            Some(pages) if pages < MIN_PAGES => Err(ConfigError::CachePages(pages)),
            _ => Self::with_any_limits(config),
        }
    }

    /// One that may have room for fewer pages than an instruction may need, for simulations with accesses to one page at a time.
    ///
    /// # Errors
    /// [`ConfigError`] naming what does not fit.
    pub fn with_any_limits(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            layout: Arc::new(Layout::new(&config)),
            stats: Stats::default(),
            out: VecDeque::new(),
            ops: BTreeMap::new(),
            free: BTreeSet::new(),
            copies: BTreeMap::new(),
            written: BTreeSet::new(),
            interval: BTreeSet::new(),
            written_here: BTreeSet::new(),
            mapped: 0,
            hand: Page(0),
            clock: Clock::new(config.ranks()),
            jobs: jobs::Jobs::default(),
            locks: BTreeMap::new(),
            kept: kept::Kept::default(),
            barrier: barrier::Barrier::new(config.ranks()),
            threads: vec![threads::Thread::Running; config.threads().into()],
            published: BTreeMap::new(),
            failure: None,
            config: Arc::new(config),
        })
    }

    /// What has come of an operation. After a failure they all mean nothing.
    ///
    /// # Errors
    /// [`CompletionError`] when there is no such operation, or that cannot come of it: a mistake of the driver's.
    pub fn handle_completion(&mut self, op: OpId, completion: Completion) -> Result<(), CompletionError> {
        if self.failure.is_some() {
            return Ok(());
        }
        let pending = self.ops.remove(&op).ok_or(CompletionError::Unknown(op.0))?;
        self.free.insert(op);
        match (pending, completion) {
            (Pending::Fetch(page), Completion::Done) => self.fetched(page),
            (Pending::Claim(claiming), Completion::Old(old)) => self.claimed(claiming, old),
            (Pending::Turn(claiming), Completion::Old(old)) => self.turned(claiming, old),
            (Pending::Save(claiming), Completion::Done) => self.saved(claiming),
            (Pending::Shadow(page), Completion::Done) => self.shadow_got(page),
            (Pending::Flush, Completion::Done) => self.flushed(),
            (Pending::Free, Completion::Done | Completion::Old(_)) => {}
            (Pending::Notices(rank, at), Completion::Words(words)) => self.notices_got(rank, at, &words),
            (Pending::Tail(lock), Completion::Old(old)) => self.queued(lock, old),
            (Pending::Record(lock), Completion::Words(words)) => self.record_got(lock, &words),
            (Pending::Store(lock), Completion::Done) => self.stored(lock),
            (Pending::Unlock(lock), Completion::Old(old)) => self.unlocked(lock, old),
            (Pending::Grant(lock), Completion::Done) => self.granted(lock),
            (_, Completion::Done | Completion::Old(_) | Completion::Words(_)) => {
                return Err(CompletionError::Kind(op.0));
            }
        }
        self.work();
        Ok(())
    }

    /// What is in a stretch that this node watches. One that it does not watch any more means nothing.
    pub fn handle_words(&mut self, watch: Watch, words: &[u64]) {
        if self.failure.is_some() || !self.watches().contains(&watch) {
            return;
        }
        if !self.barrier_words(watch, words) {
            self.lock_words(watch, words);
        }
        self.work();
    }

    /// A rank is lost: all waits end, and so does every later one.
    pub fn handle_lost(&mut self, rank: Rank) {
        self.fail(Failure::Lost(rank));
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.out.pop_front()
    }

    /// The stretches of this rank's own segment to look at.
    #[must_use]
    pub fn watches(&self) -> Vec<Watch> {
        if self.failure.is_some() {
            return Vec::new();
        }
        self.lock_watches().chain(self.barrier_watch()).collect()
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Where everything is in the segments of the machine.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// All that what it does from now on depends on.
    fn state(&self) -> impl Eq + Hash {
        let Self {
            config: _,
            layout: _,
            stats: _,
            free: _,
            out,
            ops,
            copies,
            written,
            written_here,
            interval,
            mapped,
            ..
        } = self;
        let Self { hand, clock, jobs, locks, kept, barrier, threads, published, failure, .. } = self;
        (
            (out, ops, copies, written, written_here, interval, mapped),
            (hand, clock, jobs, locks, kept, barrier, threads, published, failure),
        )
    }

    fn rank(&self) -> Rank {
        self.config.rank
    }

    /// Whether a page is this rank's, to be written in place. Where races are looked for none is.
    fn is_home(&self, page: Page) -> bool {
        !self.config.check_races && self.config.homes.home(page) == Some(self.config.rank)
    }

    /// The lowest name that is free, so that equal states have equal names.
    fn begin(&mut self, pending: Pending) -> OpId {
        let beyond = || OpId(u32::try_from(self.ops.len()).unwrap_or(u32::MAX));
        let op = self.free.pop_first().unwrap_or_else(beyond);
        self.ops.insert(op, pending);
        op
    }

    fn do_next(&mut self, action: Action) {
        self.out.push_back(action);
    }

    fn swap(&mut self, pending: Pending, (target, offset): (Rank, u64), expected: u64, new: u64) {
        let op = self.begin(pending);
        self.do_next(Action::CompareAndSwap { op, target, offset, expected, new });
    }

    fn put(&mut self, pending: Pending, (target, offset): (Rank, u64), words: Vec<u64>) {
        let op = self.begin(pending);
        self.do_next(Action::Put { op, target, offset, words });
    }

    fn get(&mut self, pending: Pending, (target, offset): (Rank, u64), words: u64) {
        let op = self.begin(pending);
        self.do_next(Action::Get { op, target, offset, words: u32::try_from(words).unwrap_or(u32::MAX) });
    }

    /// Nothing can go on. The first reason stays.
    fn fail(&mut self, failure: Failure) {
        if self.failure.is_some() {
            return;
        }
        self.failure = Some(failure);
        self.ops.clear();
        self.free.clear();
        self.jobs = jobs::Jobs::default();
        self.fail_threads(failure);
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.state() == other.state()
    }
}

impl Eq for Node {}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.state().hash(state);
    }
}
