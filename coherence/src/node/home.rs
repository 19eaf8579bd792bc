//! The home's side of the protocol: requests for pages homed here, of other ranks and of this one, are answered one by one per page.

use super::action::{Action, Body, Source};
use super::deferral::{GiveUp, Stamp};
use super::directory::{DirectoryEntry, DirectoryState, Request};
use super::{Node, ProtocolError};
use crate::id::{Access, Page, Rank, RankSet, Run, Tick, Version};
use crate::message::{Content, Granted, Keep, Message, Urgency};

impl Node {
    /// A processor of the home wants a page homed here.
    pub(super) fn home_fault(&mut self, now: Tick, page: Page, access: Access) {
        let entry = self.directory.table.get(page);
        let own = entry.state.own_access(self.rank());
        if own >= Some(access) {
            self.stats.late_faults += 1;
            self.out.push(Action::Wake { run: Run::one(page) });
        } else if self.directory.has_request(page, self.rank()) {
            self.stats.joined_faults += 1;
        } else {
            self.count_fault(own, access);
            self.serve(now, page, Request { from: self.rank(), access, have: Version::NONE });
        }
    }

    /// A device of the home wants a page homed here.
    pub(super) fn home_want(&mut self, now: Tick, page: Page, access: Access) {
        if !self.directory.has_request(page, self.rank()) {
            self.serve(now, page, Request { from: self.rank(), access, have: Version::NONE });
        }
    }

    /// [`Message::Acquire`] at the home.
    pub(super) fn handle_acquire(
        &mut self,
        now: Tick,
        from: Rank,
        run: Run,
        access: Access,
        urgency: Urgency,
        have: &[Version],
    ) -> Result<(), ProtocolError> {
        self.check_acquire(from, run, access, urgency, have)?;
        let mut refused: Option<Run> = None;
        for (index, page) in run.pages().enumerate() {
            let request = Request { from, access, have: have.get(index).copied().unwrap_or_default() };
            match urgency {
                Urgency::Demand => self.serve(now, page, request),
                // Nothing is refused while a page moves: the refusal would be the old home's.
                Urgency::Ahead if self.is_grantable(now, page) || self.is_frozen(page) => {
                    self.serve(now, page, request)
                }
                Urgency::Ahead => match &mut refused {
                    Some(run) if run.end() == page => run.count += 1,
                    Some(_) | None => {
                        self.refuse(from, refused);
                        refused = Some(Run::one(page));
                    }
                },
            }
        }
        self.refuse(from, refused);
        if (urgency, access, run.count) == (Urgency::Demand, Access::Read, 1) {
            self.show_near(now, run.first);
        }
        Ok(())
    }

    fn refuse(&mut self, to: Rank, refused: Option<Run>) {
        if let Some(run) = refused {
            self.out.send(to, Message::Refuse { run }, Body::None);
        }
    }

    /// Whether another rank may ask so.
    fn check_acquire(
        &self,
        from: Rank,
        run: Run,
        access: Access,
        urgency: Urgency,
        have: &[Version],
    ) -> Result<(), ProtocolError> {
        self.check_run(from, run, self.rank())?;
        if !have.is_empty() && have.len() != usize::from(run.count) {
            return Err(ProtocolError::new(from, format!("{} versions for {} pages", have.len(), run.count)));
        }
        if urgency == Urgency::Ahead && access == Access::Write {
            return Err(ProtocolError::new(from, "a guess that it will write"));
        }
        for (index, page) in run.pages().enumerate() {
            let entry = self.directory.table.get(page);
            let fault = match entry.state {
                DirectoryState::Owned(owner) | DirectoryState::Recalling { owner } if owner == from => {
                    Some("which it owns")
                }
                // Requests wait there only while the page moves.
                DirectoryState::Untouched
                | DirectoryState::Shared(_)
                | DirectoryState::Owned(_)
                | DirectoryState::Recalling { .. }
                | DirectoryState::Invalidating { .. }
                | DirectoryState::Collecting { .. } => {
                    self.directory.has_request(page, from).then_some("which it has asked for before")
                }
            };
            if let Some(fault) = fault {
                return Err(ProtocolError::new(from, format!("it asks for page {}, {fault}", page.0)));
            }
            if have.get(index).is_some_and(|have| *have > entry.version) {
                return Err(ProtocolError::new(from, format!("it has a version of page {} that never was", page.0)));
            }
        }
        Ok(())
    }

    /// Whether another rank's request to read would be granted at once.
    fn is_grantable(&self, now: Tick, page: Page) -> bool {
        let entry = self.directory.table.get(page);
        match entry.state {
            DirectoryState::Untouched | DirectoryState::Shared(_) => true,
            DirectoryState::Owned(owner) => {
                let is_free = owner == self.rank() && self.is_free(now, page, entry.came, entry.pins);
                // Who guesses is not to have it before who reads it and writes it.
                is_free && !entry.migration.is_expected()
            }
            DirectoryState::Recalling { .. }
            | DirectoryState::Invalidating { .. }
            | DirectoryState::Collecting { .. } => false,
        }
    }

    /// Answers a request, begins a transaction for it, or puts it behind the one under way; behind all that wait, if the page is on its way to
    /// another home.
    fn serve(&mut self, now: Tick, page: Page, request: Request) {
        if self.is_frozen(page) {
            self.stats.queued += 1;
            return self.directory.queue(page, request);
        }
        let mut entry = self.directory.table.get(page);
        let home = self.rank();
        match entry.state {
            DirectoryState::Untouched if request.from == home => self.first_touch(now, page),
            DirectoryState::Untouched => {
                self.set_owner(page, entry, request.from);
                self.send_grant(page, request.from, Access::Write, Content::Zero, false);
            }
            DirectoryState::Owned(owner) if owner == request.from => self.wake(now, page, entry),
            DirectoryState::Owned(owner) if owner == home && self.is_free(now, page, entry.came, entry.pins) => {
                let request = self.foresee(&mut entry, request);
                self.give_away(now, page, entry, request);
            }
            DirectoryState::Owned(owner) => {
                let request = self.foresee(&mut entry, request);
                // Nobody but the owner has a copy.
                let request = Request { have: Version::NONE, ..request };
                self.directory.begin(page, request);
                self.directory.table.set(page, DirectoryEntry { state: DirectoryState::Recalling { owner }, ..entry });
                if owner == home {
                    self.give_up_when_free(now, page, entry.came, entry.pins, GiveUp::Own);
                } else {
                    let message = Message::Recall { page, keep: kept_for(request.access) };
                    self.out.send(owner, message, Body::None);
                }
            }
            DirectoryState::Shared(_) if request.access == Access::Read && request.from == home => {
                self.wake(now, page, entry);
            }
            DirectoryState::Shared(sharers) if request.access == Access::Read => {
                self.note_read(&mut entry, request.from, false);
                self.share(page, entry, sharers, request);
            }
            DirectoryState::Shared(sharers) if self.is_shown(page) => {
                self.hide(page, entry, sharers);
                self.directory.queue_first(page, request);
            }
            DirectoryState::Shared(sharers) => self.invalidate(now, page, entry, sharers, request),
            DirectoryState::Recalling { .. }
            | DirectoryState::Invalidating { .. }
            | DirectoryState::Collecting { .. } => {
                self.stats.queued += 1;
                self.directory.queue(page, request);
            }
        }
    }

    /// Answers the requests behind a transaction that has ended, up to the next that has to wait.
    pub(super) fn serve_queue(&mut self, now: Tick, page: Page) {
        if self.is_frozen(page) {
            return;
        }
        while !self.directory.table.get(page).state.is_transient()
            && let Some(request) = self.directory.next(page)
        {
            self.serve(now, page, request);
        }
    }

    /// The home is the first to use a page: it takes the untouched pages around it as well.
    fn first_touch(&mut self, now: Tick, page: Page) {
        let block = u32::from(self.config.first_touch);
        let start = page.0 - page.0 % block;
        let is_free = |at: &u32| {
            self.config.homes.home(Page(*at)) == Some(self.rank())
                && self.directory.table.get(Page(*at)).state == DirectoryState::Untouched
                && !self.is_frozen(Page(*at))
                && !self.directory.has_requests(Page(*at))
        };
        let first = (start..page.0).rev().take_while(is_free).last().unwrap_or(page.0);
        let last = (page.0..=start.saturating_add(block - 1)).take_while(is_free).last().unwrap_or(page.0);
        self.stats.first_touches += 1;
        for at in (first..=last).map(Page) {
            let came = if at == page { Stamp::at(now) } else { Stamp::free(now, self.longest_hold()) };
            self.set_owner(at, DirectoryEntry { came, ..self.directory.table.get(at) }, self.rank());
            self.map(at, Access::Write, Source::Zero);
        }
    }

    /// A rank reads a page that the home can read.
    fn share(&mut self, page: Page, entry: DirectoryEntry, mut sharers: RankSet, request: Request) {
        let again = !sharers.insert(request.from);
        self.directory.table.set(page, DirectoryEntry { state: DirectoryState::Shared(sharers), ..entry });
        self.send_grant(page, request.from, Access::Read, Content::Data, false);
        self.show(page, sharers, again);
    }

    /// Somebody is to write a shared page: all others lose their copies, at the same time.
    fn invalidate(&mut self, now: Tick, page: Page, mut entry: DirectoryEntry, sharers: RankSet, mut request: Request) {
        let home = self.rank();
        self.note_write(&mut entry, request.from);
        let mut waiting = sharers;
        if !waiting.remove(request.from) {
            request.have = Version::NONE;
        }
        let others = waiting;
        let is_free = request.from == home || self.is_free(now, page, entry.came, entry.pins);
        if !is_free {
            waiting.insert(home);
        }
        if waiting.is_empty() {
            return self.pass_on(now, page, entry, request);
        }
        self.directory.begin(page, request);
        self.directory.table.set(page, DirectoryEntry { state: DirectoryState::Invalidating { waiting }, ..entry });
        for sharer in others.iter() {
            self.out.send(sharer, Message::Invalidate { page }, Body::None);
        }
        if !is_free {
            self.give_up_when_free(now, page, entry.came, entry.pins, GiveUp::Own);
        }
    }

    /// The home's own copy may go, for a transaction that waits for that.
    pub(super) fn own_copy_is_free(&mut self, now: Tick, page: Page) {
        let entry = self.directory.table.get(page);
        match entry.state {
            DirectoryState::Recalling { .. } => {
                if let Some(request) = self.directory.current(page) {
                    self.give_away(now, page, entry, request);
                    self.serve_queue(now, page);
                }
            }
            DirectoryState::Invalidating { waiting } => self.is_gone(now, page, entry, waiting, self.rank()),
            DirectoryState::Untouched
            | DirectoryState::Owned(_)
            | DirectoryState::Shared(_)
            | DirectoryState::Collecting { .. } => {}
        }
    }

    /// The home owns a page that another rank wants, and is free to part with it.
    fn give_away(&mut self, now: Tick, page: Page, mut entry: DirectoryEntry, request: Request) {
        match request.access {
            Access::Read => {
                self.note_read(&mut entry, request.from, true);
                self.lost_to_others(page);
                self.out.push(Action::Protect { run: Run::one(page) });
                self.share(page, entry, RankSet::EMPTY, request);
            }
            Access::Write => self.pass_on(now, page, entry, Request { have: Version::NONE, ..request }),
        }
    }

    /// [`Message::InvalidateAck`] at the home.
    pub(super) fn handle_invalidate_ack(&mut self, now: Tick, from: Rank, page: Page) -> Result<(), ProtocolError> {
        self.check_run(from, Run::one(page), self.rank())?;
        let entry = self.directory.table.get(page);
        match entry.state {
            DirectoryState::Invalidating { waiting } if waiting.contains(from) => {
                self.is_gone(now, page, entry, waiting, from);
                Ok(())
            }
            DirectoryState::Invalidating { .. }
            | DirectoryState::Recalling { .. }
            | DirectoryState::Untouched
            | DirectoryState::Owned(_)
            | DirectoryState::Shared(_)
            | DirectoryState::Collecting { .. } => {
                Err(ProtocolError::new(from, format!("it gives up page {} unasked", page.0)))
            }
        }
    }

    /// One of those whose copies a transaction waits for has none any more.
    fn is_gone(&mut self, now: Tick, page: Page, entry: DirectoryEntry, mut waiting: RankSet, who: Rank) {
        waiting.remove(who);
        self.directory.table.set(page, DirectoryEntry { state: DirectoryState::Invalidating { waiting }, ..entry });
        if waiting.is_empty()
            && !self.is_frozen(page)
            && let Some(request) = self.directory.current(page)
        {
            self.pass_on(now, page, entry, request);
            self.serve_queue(now, page);
        }
        self.owes_one_less(who);
    }

    /// Only the home and perhaps the requester have a copy: the requester owns the page from now on.
    pub(super) fn pass_on(&mut self, now: Tick, page: Page, entry: DirectoryEntry, request: Request) {
        if request.from == self.rank() {
            self.set_owner(page, DirectoryEntry { came: Stamp::at(now), ..entry }, request.from);
            self.out.push(Action::Allow { run: Run::one(page) });
            return self.page_changed(page);
        }
        self.lost_to_others(page);
        // A copy of the requester's own is as good as this one, if it has the same version.
        let current = entry.version == request.have;
        self.set_owner(page, DirectoryEntry { came: Stamp::default(), ..entry }, request.from);
        if current {
            self.out.push(Action::Unmap { run: Run::one(page) });
            self.send_grant(page, request.from, Access::Write, Content::Current, false);
        } else {
            self.out.push(Action::Detach { run: Run::one(page) });
            self.send_grant(page, request.from, Access::Write, Content::Data, true);
        }
    }

    /// [`Message::WriteBack`] at the home.
    pub(super) fn handle_write_back(
        &mut self,
        now: Tick,
        from: Rank,
        page: Page,
        version: Version,
        keep: Keep,
        content: Content,
    ) -> Result<(), ProtocolError> {
        self.check_run(from, Run::one(page), self.rank())?;
        let entry = self.directory.table.get(page);
        let wrong = |what: &str| Err(ProtocolError::new(from, format!("it gives page {} back, {what}", page.0)));
        let source = match content {
            Content::Data => Source::Received { at: 0 },
            Content::Zero => Source::Zero,
            Content::Current => return wrong("with bytes that the home has not"),
        };
        if version != entry.version {
            return wrong("in a version that it was not granted");
        }
        match entry.state {
            DirectoryState::Owned(owner) if owner == from => match keep {
                Keep::Nothing => {
                    let came = self.came_back(now, page);
                    self.set_owner(page, DirectoryEntry { came, ..entry }, self.rank());
                    self.map(page, Access::Write, source);
                    Ok(())
                }
                Keep::Shared => wrong("unasked, and keeps a copy"),
            },
            DirectoryState::Recalling { owner } if owner == from => {
                let Some(request) = self.directory.current(page) else { return wrong("for nobody") };
                if keep == Keep::Shared && request.access == Access::Write {
                    return wrong("and keeps a copy that it may not keep");
                }
                let sharers = if keep == Keep::Shared { RankSet::one(from) } else { RankSet::EMPTY };
                if self.is_frozen(page) {
                    self.keep_for_new_home(now, page, entry, sharers, source);
                    return Ok(());
                }
                self.pass_on_received(now, page, entry, request, sharers, source);
                self.serve_queue(now, page);
                Ok(())
            }
            DirectoryState::Owned(_)
            | DirectoryState::Recalling { .. }
            | DirectoryState::Untouched
            | DirectoryState::Shared(_)
            | DirectoryState::Invalidating { .. }
            | DirectoryState::Collecting { .. } => wrong("which it does not own"),
        }
    }

    /// When a page came that has come back: now, if somebody here waits for it; who waits here for its own turn goes on with what came for another.
    pub(super) fn came_back(&self, now: Tick, page: Page) -> Stamp {
        let is_wanted = self.directory.has_request(page, self.rank());
        if is_wanted { Stamp::at(now) } else { Stamp::free(now, self.longest_hold()) }
    }

    /// The page has come back for a request; `sharers` have kept a copy to read.
    fn pass_on_received(
        &mut self,
        now: Tick,
        page: Page,
        mut entry: DirectoryEntry,
        request: Request,
        mut sharers: RankSet,
        source: Source,
    ) {
        let home = self.rank();
        let (content, body) = match source {
            Source::Received { at } => (Content::Data, Body::Received { at }),
            Source::Zero => (Content::Zero, Body::None),
        };
        let is_local = request.from == home;
        let came = self.came_back(now, page);
        match request.access {
            // Nobody else has a copy, so the home may write it even if it only wants to read.
            Access::Read | Access::Write if is_local && sharers.is_empty() => {
                self.set_owner(page, DirectoryEntry { came, ..entry }, home);
                self.map(page, Access::Write, source);
            }
            Access::Read => {
                if !is_local {
                    sharers.insert(request.from);
                }
                self.note_read(&mut entry, request.from, true);
                let state = DirectoryState::Shared(sharers);
                self.directory.table.set(page, DirectoryEntry { state, came, ..entry });
                self.map(page, Access::Read, source);
                if !is_local {
                    self.forward(page, request.from, Access::Read, Granted { version: entry.version, content }, body);
                    // Who has written it has no need to read it again.
                    self.show(page, RankSet::one(request.from), false);
                }
            }
            Access::Write => {
                self.set_owner(page, entry, request.from);
                let version = self.directory.table.get(page).version;
                self.forward(page, request.from, Access::Write, Granted { version, content }, body);
            }
        }
    }

    /// A new owner, and so a new version.
    pub(super) fn set_owner(&mut self, page: Page, entry: DirectoryEntry, owner: Rank) {
        let state = DirectoryState::Owned(owner);
        let entry = DirectoryEntry { version: entry.version.next(), was_shown: false, state, ..entry };
        self.directory.table.set(page, entry);
    }

    /// The home's own view of a page begins.
    pub(super) fn map(&mut self, page: Page, access: Access, source: Source) {
        self.out.push(Action::Map { run: Run::one(page), access, source });
        self.page_changed(page);
    }

    /// The home has the page since it was taken back for another rank, whose request was before the home's own: it is wanted here
    /// from now on.
    fn wake(&mut self, now: Tick, page: Page, entry: DirectoryEntry) {
        self.directory.table.set(page, DirectoryEntry { came: Stamp::at(now), ..entry });
        self.out.push(Action::Wake { run: Run::one(page) });
        self.page_changed(page);
    }

    /// Grants a page with the home's own bytes, or without any. `unmap`: its own copy, detached by now, goes after that.
    fn send_grant(&mut self, page: Page, to: Rank, access: Access, content: Content, unmap: bool) {
        let version = self.directory.table.get(page).version;
        self.stats.dataless_grants += u64::from(content != Content::Data);
        self.out.grant(to, page, access, Granted { version, content }, unmap);
    }

    /// Grants a page with the bytes that have just come for it.
    fn forward(&mut self, page: Page, to: Rank, access: Access, granted: Granted, body: Body) {
        self.stats.dataless_grants += u64::from(granted.content != Content::Data);
        self.out.send(to, Message::Grant { first: page, access, pages: vec![granted] }, body);
    }
}

/// What an owner keeps of a page that somebody else wants.
pub(super) fn kept_for(access: Access) -> Keep {
    match access {
        Access::Read => Keep::Shared,
        Access::Write => Keep::Nothing,
    }
}
