//! Pages get another home: what all ranks but the old home do, the new home among them. The old one is in `hand_over.rs`.

use std::collections::BTreeMap;

use super::action::{Action, Body, Source};
use super::cache::{CacheEntry, CacheState};
use super::deferral::{GiveUp, Stamp};
use super::directory::{DirectoryEntry, DirectoryState, Request, Transaction};
use super::moves::{Brought, Move, Stage};
use super::{Node, ProtocolError};
use crate::id::{Access, Page, Rank, RankSet, Run, Tick, Version};
use crate::message::{Content, Handed, HandedState, Message, Waiting};

impl Node {
    /// [`Message::Freeze`].
    pub(super) fn handle_freeze(
        &mut self,
        from: Rank,
        run: Run,
        to: Rank,
        members: RankSet,
    ) -> Result<(), ProtocolError> {
        self.check_run(from, run, from)?;
        self.check_move(from, run, to, members)?;
        if to == from || !members.contains(from) {
            return Err(ProtocolError::new(from, "it has pages move to where they are, or is no rank of the machine"));
        }
        let (stage, held, brought) = (Stage::Frozen { told: false }, Vec::new(), BTreeMap::new());
        self.moves.by_first.insert(run.first, Move { run, to, members, stage, held, brought });
        self.tell_frozen(run.first);
        Ok(())
    }

    /// Says that this rank has frozen the pages, once it reads none of them in the home's window any more.
    pub(super) fn tell_frozen(&mut self, page: Page) {
        let Some(Move { run, stage: Stage::Frozen { told: false }, .. }) = self.moves.of(page) else { return };
        let run = *run;
        let is_read = |page| match self.cache.table.get(page).state {
            CacheState::GuardedWait | CacheState::GuardedLost => true,
            CacheState::Invalid
            | CacheState::ReadWait
            | CacheState::WriteWait
            | CacheState::UpgradeWait
            | CacheState::AheadWait
            | CacheState::AheadWanted
            | CacheState::Shared
            | CacheState::Modified => false,
        };
        let Some(home) = self.config.homes.home(run.first) else { return };
        if run.pages().any(is_read) {
            return;
        }
        if let Some(moving) = self.moves.of_mut(page) {
            moving.stage = Stage::Frozen { told: true };
        }
        self.out.send(home, Message::Frozen { run }, Body::None);
    }

    /// The hand-over of this page in which another rank is at this step, if it may be: `new_home` sends, or is this rank.
    fn moving(&self, from: Rank, page: Page, new_home: Rank) -> Result<&Move, ProtocolError> {
        let moving = self.moves.of(page).filter(|moving| moving.to == new_home);
        let moving = moving.filter(|moving| moving.stage == Stage::Frozen { told: true });
        let what = || format!("it hands page {} over, which does not move there, or not yet", page.0);
        moving.ok_or_else(|| ProtocolError::new(from, what()))
    }

    /// [`Message::Requests`] at the new home.
    pub(super) fn handle_requests(
        &mut self,
        from: Rank,
        page: Page,
        is_begun: bool,
        requests: &[Waiting],
    ) -> Result<(), ProtocolError> {
        self.check_run(from, Run::one(page), from)?;
        let moving = self.moving(from, page, self.rank())?;
        let mut ranks = RankSet::EMPTY;
        let mut is_new = |request: &Waiting| request.from.0 < self.config.ranks && ranks.insert(request.from);
        if moving.brought.contains_key(&page) || requests.is_empty() || !requests.iter().all(&mut is_new) {
            let what =
                format!("requests for page {} that are none, or of a rank twice, or of one that there is not", page.0);
            return Err(ProtocolError::new(from, what));
        }
        let me = self.rank();
        let as_here = |Waiting { from, access, have }: &Waiting| {
            let have = if *from == me { Version::NONE } else { *have };
            Request { from: *from, access: *access, have }
        };
        let brought = Brought { is_begun, requests: requests.iter().map(as_here).collect() };
        if let Some(moving) = self.moves.of_mut(page) {
            moving.brought.insert(page, brought);
        }
        Ok(())
    }

    /// [`Message::Entries`] at the new home.
    pub(super) fn handle_entries(
        &mut self,
        now: Tick,
        from: Rank,
        first: Page,
        gone: RankSet,
        pages: &[Handed],
    ) -> Result<(), ProtocolError> {
        let run = Run { first, count: u16::try_from(pages.len()).unwrap_or(u16::MAX) };
        self.check_run(from, run, from)?;
        let moving = self.moving(from, first, self.rank())?;
        if moving.run != run {
            return Err(ProtocolError::new(from, "it hands over others than those that move"));
        }
        let all = RankSet::below(self.config.ranks);
        if !all.contains_all(gone) || gone.iter().any(|rank| moving.members.contains(rank)) {
            return Err(ProtocolError::new(from, "it hands pages over to ranks of which it says that they have left"));
        }
        for (page, handed) in run.pages().zip(pages) {
            if let Some(fault) = self.handed_fault(moving, page, *handed) {
                return Err(ProtocolError::new(from, format!("it hands page {} over, {fault}", page.0)));
            }
        }
        let Some(mut moving) = self.moves.by_first.remove(&first) else { return Ok(()) };
        let me = self.rank();
        self.stats.homes_taken += u64::from(run.count);
        self.config.homes.hand_over(run, me);
        self.leaving.add_gone(gone);
        for ask in std::mem::take(&mut moving.held) {
            let request = Request { from: me, access: ask.access, have: Version::NONE };
            moving.brought.entry(ask.page).or_default().requests.push(request);
        }
        let mut at = 0;
        for (page, handed) in run.pages().zip(pages) {
            let brought = moving.brought.remove(&page).unwrap_or_default();
            let source = match handed.content {
                Content::Data => {
                    at += 1;
                    Some(Source::Received { at: at - 1 })
                }
                Content::Zero => Some(Source::Zero),
                Content::Current => None,
            };
            self.take_page(now, page, *handed, brought, source);
        }
        for rank in moving.members.iter().filter(|rank| *rank != me) {
            self.out.send(rank, Message::Moved { run }, Body::None);
        }
        for page in run.pages() {
            self.go_on_with_page(now, page);
            // Devices that wait for what is to be given up ask as the home's do, in the queue.
            self.page_changed(page);
        }
        self.is_over(run);
        Ok(())
    }

    /// What is wrong with a page that is handed over, if anything.
    fn handed_fault(&self, moving: &Move, page: Page, handed: Handed) -> Option<&'static str> {
        let me = self.rank();
        let here = self.cache.table.get(page);
        let has = here.state.access();
        let is_to_go = self.deferrals.contains(page);
        let is_begun = moving.brought.get(&page).is_some_and(|brought| brought.is_begun);
        let has_bytes = handed.content != Content::Current;
        let is_current = has != Some(Access::Read) || here.version == handed.version;
        let all = RankSet::below(self.config.ranks);
        let (is_right, begins) = match handed.state {
            HandedState::Untouched => (has.is_none() && !has_bytes, false),
            HandedState::Owned(owner) if owner == me => {
                (has == if has_bytes { None } else { Some(Access::Write) }, false)
            }
            HandedState::Owned(owner) => (has.is_none() && !has_bytes && all.contains(owner), false),
            HandedState::Recalling(owner) if owner == me => {
                (has == Some(Access::Write) && is_to_go && !has_bytes, true)
            }
            HandedState::Recalling(owner) => (has.is_none() && !has_bytes && all.contains(owner), true),
            HandedState::Shared(sharers) => {
                (has != Some(Access::Write) && is_current && has_bytes && all.contains_all(sharers), false)
            }
            HandedState::Invalidating(waiting) => {
                let is_known = waiting.contains(me) == is_to_go && (!is_to_go || has.is_some());
                let is_right = has != Some(Access::Write) && is_current && has_bytes && is_known;
                (is_right && all.contains_all(waiting), true)
            }
        };
        let is_named = (handed.version == Version::NONE) == (handed.state == HandedState::Untouched);
        match () {
            () if !is_right => Some("of which it knows other than is here"),
            () if begins != is_begun => Some("with a request under way in a state without, or the other way round"),
            () if !is_named => Some("in no version, or in one before anybody has used it"),
            () => None,
        }
    }

    /// Makes a home's entry of a cacher's.
    fn take_page(&mut self, now: Tick, page: Page, handed: Handed, brought: Brought, source: Option<Source>) {
        let me = self.rank();
        let cached = self.cache.table.get(page);
        let has = cached.state.access();
        let is_wanted = brought.requests.iter().any(|request| request.from == me);
        let (mut version, access) = (handed.version, Access::Read);
        let (state, access) = match handed.state {
            HandedState::Untouched => (DirectoryState::Untouched, access),
            HandedState::Owned(owner) => (DirectoryState::Owned(owner), Access::Write),
            HandedState::Recalling(owner) => (DirectoryState::Recalling { owner }, access),
            HandedState::Shared(mut sharers) => {
                sharers.remove(me);
                (DirectoryState::Shared(sharers), access)
            }
            HandedState::Invalidating(waiting) => (DirectoryState::Invalidating { waiting }, access),
        };
        let came = match has {
            Some(_) => cached.came,
            None if is_wanted => Stamp::at(now),
            None => Stamp::free(now, self.longest_hold()),
        };
        let gone = CacheEntry {
            state: CacheState::Invalid,
            version: Version::NONE,
            came: Stamp::default(),
            pins: 0,
            ..cached
        };
        self.set_cache(page, gone);
        let source = source.filter(|_| has.is_none());
        if source.is_some() && access == Access::Write {
            // It has another owner, so another version.
            version = version.next();
        }
        let entry = DirectoryEntry { version, state, came, pins: cached.pins, ..DirectoryEntry::default() };
        self.directory.table.set(page, entry);
        let mut queue: std::collections::VecDeque<Request> = brought.requests.into();
        let current = if brought.is_begun { queue.pop_front() } else { None };
        self.directory.put(page, Transaction { current, queue });
        self.deferrals.change(page, GiveUp::Own);
        if let Some(source) = source {
            self.map(page, access, source);
        }
    }

    /// The new home goes on with what the old one has begun, and then with what waits.
    fn go_on_with_page(&mut self, now: Tick, page: Page) {
        let me = self.rank();
        let entry = self.directory.table.get(page);
        if let DirectoryState::Invalidating { mut waiting } = entry.state
            && let Some(request) = self.directory.current(page)
        {
            let is_kept = request.from == me || self.is_free(now, page, entry.came, entry.pins);
            if waiting.is_empty() && is_kept {
                self.pass_on(now, page, entry, request);
            } else if !is_kept && waiting.insert(me) {
                // A copy that has come for somebody here stays as long as any.
                let state = DirectoryState::Invalidating { waiting };
                self.directory.table.set(page, DirectoryEntry { state, ..entry });
                self.give_up_when_free(now, page, entry.came, entry.pins, GiveUp::Own);
            }
        }
        self.serve_queue(now, page);
        self.give_up_if_due(now, page);
    }

    /// [`Message::Moved`].
    pub(super) fn handle_moved(&mut self, now: Tick, from: Rank, run: Run) -> Result<(), ProtocolError> {
        let moving = self.moving(from, run.first, from)?;
        if moving.run != run {
            return Err(ProtocolError::new(from, "it has taken over others than those that move"));
        }
        let Some(moving) = self.moves.by_first.remove(&run.first) else { return Ok(()) };
        self.config.homes.hand_over(run, from);
        for ask in moving.held {
            self.acquire(from, ask);
        }
        run.pages().for_each(|page| self.give_up_if_due(now, page));
        self.is_over(run);
        Ok(())
    }

    /// A hand-over is over: who has ordered it is told.
    fn is_over(&mut self, run: Run) {
        if let Some((_, to)) = self.moves.ordered.remove(&run.first) {
            self.out.push(Action::HandedOver { run, to });
        }
    }
}
