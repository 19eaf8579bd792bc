//! A home hands pages over to another rank, when rank 0 says so: it takes them out of its window, has everybody freeze them
//! (`moves.rs`), and sends their directory entries, what waits for them and their bytes. The new home is in `take_over.rs`.
//!
//! Transactions move as they are: who has been asked for a page answers the new home. What this rank's devices or hold times keep stays here,
//! as a copy of a cacher; all else that is here goes.

use std::collections::BTreeMap;

use super::action::{Action, Body, Source};
use super::cache::{CacheEntry, CacheState};
use super::deferral::GiveUp;
use super::directory::{DirectoryEntry, DirectoryState, Request};
use super::home::kept_for;
use super::moves::{MAX_HAND_OVER_PAGES, MAX_HAND_OVERS, Move, Stage};
use super::{Node, ProtocolError};
use crate::id::{Access, Page, Rank, RankSet, Run, Tick, Version};
use crate::message::{Content, Handed, HandedState, Message, Waiting};

/// The rank that orders hand-overs.
const COORDINATOR: Rank = Rank(0);

/// Why pages do not move to another home.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HandOverError {
    /// It is for rank 0 to say.
    #[error("rank {0} orders a hand-over; rank 0 does")]
    Coordinator(u16),
    /// Not so many, or not of one home.
    #[error("a hand-over of {count} pages from {first} on; give 1 to {MAX_HAND_OVER_PAGES} that have one home")]
    Pages {
        /// The first.
        first: u32,
        /// How many.
        count: u16,
    },
    /// The new home, the old one or rank 0 is not among the ranks of the machine.
    #[error("a hand-over without rank {0}, which takes part in it")]
    Member(u16),
    /// The new home is the old one.
    #[error("the pages have their home at rank {0} already")]
    Same(u16),
    /// This rank knows of a rank of the machine that it leaves, or has left.
    #[error("a hand-over with rank {0}, which leaves or has left; wait until it has, and leave it out")]
    Leaves(u16),
    /// Some of the pages move already.
    #[error("pages from {0} on move already; wait until that is over")]
    UnderWay(u32),
    /// Too many at once.
    #[error("{MAX_HAND_OVERS} hand-overs are under way; wait until one is over")]
    TooMany,
}

/// What a home does with its own copy of a page that it hands over.
struct Parted {
    state: HandedState,
    /// What the copy is good for that stays here.
    stays: Option<Access>,
    /// Whether the new home needs the bytes.
    sends: bool,
}

impl Node {
    /// Rank 0 has these pages get another home; all ranks of the machine are told. [`Action::HandedOver`] says when it is done.
    ///
    /// # Errors
    /// [`HandOverError`]; nothing happens then.
    pub fn handle_hand_over(&mut self, now: Tick, run: Run, to: Rank, members: RankSet) -> Result<(), HandOverError> {
        let home = self.check_hand_over(run, to, members)?;
        self.moves.ordered.insert(run.first, (run, to));
        if home == self.rank() {
            self.begin_hand_over(run, to, members);
        } else {
            self.out.send(home, Message::HandOver { run, to, members }, Body::None);
        }
        self.settle(now);
        Ok(())
    }

    /// Whether pages may move so; gives their home.
    fn check_hand_over(&self, run: Run, to: Rank, members: RankSet) -> Result<Rank, HandOverError> {
        if self.rank() != COORDINATOR {
            return Err(HandOverError::Coordinator(self.rank().0));
        }
        let home = self.config.homes.home_of_run(run).filter(|_| run.count <= MAX_HAND_OVER_PAGES);
        let home = home.ok_or(HandOverError::Pages { first: run.first.0, count: run.count })?;
        let all = RankSet::below(self.config.ranks);
        let is_member = |rank: Rank| rank.0 < self.config.ranks && members.contains(rank);
        if let Some(other) = members.iter().find(|rank| !all.contains(*rank)) {
            return Err(HandOverError::Member(other.0));
        }
        if let Some(missing) = [COORDINATOR, home, to].into_iter().find(|rank| !is_member(*rank)) {
            return Err(HandOverError::Member(missing.0));
        }
        if let Some(leaves) = self.leaving.leaver(members) {
            return Err(HandOverError::Leaves(leaves.0));
        }
        if home == to {
            return Err(HandOverError::Same(to.0));
        }
        if self.moves.is_ordered(run) {
            return Err(HandOverError::UnderWay(run.first.0));
        }
        if self.moves.ordered.len() >= MAX_HAND_OVERS {
            return Err(HandOverError::TooMany);
        }
        Ok(home)
    }

    /// [`Message::HandOver`] at the home.
    pub(super) fn handle_hand_over_order(
        &mut self,
        from: Rank,
        run: Run,
        to: Rank,
        members: RankSet,
    ) -> Result<(), ProtocolError> {
        self.check_run(from, run, self.rank())?;
        if from != COORDINATOR {
            return Err(ProtocolError::new(from, "it orders a hand-over, which is for rank 0 to do"));
        }
        self.check_move(from, run, to, members)?;
        if to == self.rank() {
            return Err(ProtocolError::new(from, "it has pages move to where they are"));
        }
        self.begin_hand_over(run, to, members);
        Ok(())
    }

    /// Whether pages may begin to move.
    pub(super) fn check_move(&self, from: Rank, run: Run, to: Rank, members: RankSet) -> Result<(), ProtocolError> {
        let all = RankSet::below(self.config.ranks);
        let fault = if run.count > MAX_HAND_OVER_PAGES {
            "too many pages at once"
        } else if !all.contains_all(members)
            || ![to, self.rank(), COORDINATOR].iter().all(|rank| members.contains(*rank))
        {
            "without a rank that takes part in it, or with one that there is not"
        } else if self.leaving.leaver(members).is_some() || self.leaving.has_begun() {
            "while a rank leaves, or with one that has left"
        } else if self.moves.overlapping(run).next().is_some() {
            "which move already"
        } else {
            return Ok(());
        };
        Err(ProtocolError::new(from, format!("it has {} pages from {} on move, {fault}", run.count, run.first.0)))
    }

    /// First the pages leave the window.
    fn begin_hand_over(&mut self, run: Run, to: Rank, members: RankSet) {
        let (held, brought) = (Vec::new(), BTreeMap::new());
        self.moves.by_first.insert(run.first, Move { run, to, members, stage: Stage::Hiding, held, brought });
        for page in run.pages().filter(|page| self.is_shown(*page)).collect::<Vec<_>>() {
            let entry = self.directory.table.get(page);
            if let DirectoryState::Shared(sharers) = entry.state {
                self.hide(page, entry, sharers);
            }
        }
        self.freeze_when_hidden(run.first);
    }

    /// Has everybody freeze pages to be handed over, when none of them is in the window any more.
    pub(super) fn freeze_when_hidden(&mut self, page: Page) {
        let Some(Move { run, to, members, stage: Stage::Hiding, .. }) = self.moves.of(page) else { return };
        let (run, to, members) = (*run, *to, *members);
        if run.pages().any(|page| self.is_shown(page)) {
            return;
        }
        let mut waiting = members;
        waiting.remove(self.rank());
        if let Some(moving) = self.moves.of_mut(page) {
            moving.stage = Stage::Freezing { waiting };
        }
        for rank in waiting.iter() {
            self.out.send(rank, Message::Freeze { run, to, members }, Body::None);
        }
    }

    /// [`Message::Frozen`] at the home.
    pub(super) fn handle_frozen(&mut self, now: Tick, from: Rank, run: Run) -> Result<(), ProtocolError> {
        let moving = self.moves.by_first.get_mut(&run.first).filter(|moving| moving.run == run);
        if let Some(Stage::Freezing { waiting }) = moving.map(|moving| &mut moving.stage)
            && waiting.remove(from)
        {
            if waiting.is_empty() {
                self.hand_over(now, run.first);
            }
            return Ok(());
        }
        let what = format!("it freezes {} pages from {} on unasked", run.count, run.first.0);
        Err(ProtocolError::new(from, what))
    }

    /// Nothing is under way about these pages but at ranks that have them: they go.
    fn hand_over(&mut self, now: Tick, first: Page) {
        let Some(Move { run, to, .. }) = self.moves.by_first.get(&first) else { return };
        let (run, to) = (*run, *to);
        let mut pages = Vec::with_capacity(run.count.into());
        let mut gone = Vec::new();
        for page in run.pages() {
            let had = self.directory.table.get(page).state.own_access(self.rank());
            let (handed, stays) = self.hand_page_over(now, page, to);
            if had == Some(Access::Write) && stays.is_none() {
                self.out.push(Action::Detach { run: Run::one(page) });
            }
            gone.extend((had.is_some() && stays.is_none()).then_some(page));
            pages.push(handed);
        }
        self.stats.homes_given += u64::from(run.count);
        self.config.homes.hand_over(run, to);
        if let Some(moving) = self.moves.of_mut(first) {
            moving.stage = Stage::Frozen { told: true };
        }
        let has_bytes = pages.iter().any(|handed| handed.content == Content::Data);
        let body = if has_bytes { Body::Own } else { Body::None };
        self.out.send(to, Message::Entries { first, gone: self.leaving.gone(), pages }, body);
        gone.into_iter().for_each(|page| self.out.push(Action::Unmap { run: Run::one(page) }));
        // Devices that wait for what has gone ask the new home for it.
        run.pages().for_each(|page| self.page_changed(page));
    }

    /// Makes a cacher's entry of a home's, and tells the new home what waits for the page. What becomes of its copy here is left to do.
    fn hand_page_over(&mut self, now: Tick, page: Page, to: Rank) -> (Handed, Option<Access>) {
        let entry = self.directory.table.get(page);
        let transaction = self.directory.take(page);
        let begun = transaction.current;
        let Parted { state, stays, sends } = self.part(now, page, entry, begun, to);
        let (mut requests, mut waits) = (Vec::new(), CacheState::Invalid);
        for request in begun.iter().chain(&transaction.queue).copied() {
            if request.from != self.rank() {
                requests.push(waiting(request));
            } else if stays < Some(request.access) {
                // It was a home's request, and is a cacher's from now on.
                let (state, have) = match (request.access, stays) {
                    (Access::Read, _) => (CacheState::ReadWait, Version::NONE),
                    (Access::Write, None) => (CacheState::WriteWait, Version::NONE),
                    (Access::Write, Some(_)) => (CacheState::UpgradeWait, entry.version),
                };
                waits = state;
                requests.push(waiting(Request { have, ..request }));
            } else {
                // It has what it asked for; who has joined it for more is to try again.
                self.out.push(Action::Wake { run: Run::one(page) });
            }
        }
        if !requests.is_empty() {
            self.out.send(to, Message::Requests { page, is_begun: begun.is_some(), requests }, Body::None);
        }
        if let Some(request) = begun {
            // This rank's own copy is asked for, as by the new home.
            let is_recalled = matches!(state, HandedState::Recalling(_));
            let what = if is_recalled { GiveUp::Ownership { keep: kept_for(request.access) } } else { GiveUp::Copy };
            self.deferrals.change(page, what);
        }
        let state_here = match (waits, stays) {
            (CacheState::Invalid, Some(Access::Read)) => CacheState::Shared,
            (CacheState::Invalid, Some(Access::Write)) => CacheState::Modified,
            (waits, _) => waits,
        };
        let (version, came) = if stays.is_some() { (entry.version, entry.came) } else { Default::default() };
        let listed = self.cache.table.get(page);
        self.set_cache(page, CacheEntry { version, came, pins: entry.pins, state: state_here, ..listed });
        self.directory.table.set(page, DirectoryEntry::default());
        let content = if sends { Content::Data } else { Content::Current };
        (Handed { version: entry.version, state, content }, stays)
    }

    /// What the new home is told of a page, and what of it stays here.
    fn part(&self, now: Tick, page: Page, entry: DirectoryEntry, begun: Option<Request>, to: Rank) -> Parted {
        let home = self.rank();
        let is_free = self.is_free(now, page, entry.came, entry.pins);
        match entry.state {
            DirectoryState::Untouched => Parted { state: HandedState::Untouched, stays: None, sends: false },
            DirectoryState::Owned(owner) if owner == home && is_free => {
                Parted { state: HandedState::Owned(to), stays: None, sends: true }
            }
            DirectoryState::Owned(owner) => {
                let stays = (owner == home).then_some(Access::Write);
                Parted { state: HandedState::Owned(owner), stays, sends: false }
            }
            DirectoryState::Recalling { owner } => {
                let stays = (owner == home).then_some(Access::Write);
                Parted { state: HandedState::Recalling(owner), stays, sends: false }
            }
            DirectoryState::Shared(mut sharers) | DirectoryState::Collecting { mut sharers } => {
                if !is_free {
                    sharers.insert(home);
                }
                sharers.remove(to);
                let stays = (!is_free).then_some(Access::Read);
                Parted { state: HandedState::Shared(sharers), stays, sends: true }
            }
            DirectoryState::Invalidating { waiting } => {
                let is_own = begun.is_some_and(|request| request.from == home);
                let stays = (is_own || waiting.contains(home)).then_some(Access::Read);
                Parted { state: HandedState::Invalidating(waiting), stays, sends: true }
            }
        }
    }

    /// A page has come back for a request that the new home is to serve: the request waits for that before all others. `sharers` have kept
    /// a copy to read.
    pub(super) fn keep_for_new_home(
        &mut self,
        now: Tick,
        page: Page,
        entry: DirectoryEntry,
        sharers: RankSet,
        source: Source,
    ) {
        let home = self.rank();
        let came = self.came_back(now, page);
        self.directory.put_back(page);
        if sharers.is_empty() {
            self.set_owner(page, DirectoryEntry { came, ..entry }, home);
            self.map(page, Access::Write, source);
        } else {
            let state = DirectoryState::Shared(sharers);
            self.directory.table.set(page, DirectoryEntry { state, came, ..entry });
            self.map(page, Access::Read, source);
        }
    }
}

fn waiting(Request { from, access, have }: Request) -> Waiting {
    Waiting { from, access, have }
}
