//! Copies of pages: how they come, who waits for them, how they go.

use crate::hlrc::action::{Action, Outcome};
use crate::hlrc::{MAX_THREADS, ThreadId};
use crate::id::{Access, Page};

use super::claim::Claim;
use super::threads::Thread;
use super::{FaultError, Node, Pending, TouchError};

/// Most pages looked at in vain to make room for one.
pub const MAX_SCAN: usize = 64;

/// Whom a page is for that nobody waits for.
const NOBODY: ThreadId = ThreadId(u16::MAX);

const _: () = assert!(MAX_THREADS < NOBODY.0);

/// What is under way for a page before it can be used.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Coming {
    /// Its bytes. Those that come are no good if a notice has named it meanwhile.
    Fetch {
        /// A notice has.
        stale: bool,
    },
    /// The right to write it. It is no good if the copy has gone meanwhile.
    Claim {
        /// It has.
        stale: bool,
    },
}

/// What this rank has of a page. A page without an entry has the value that a new one has.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Copy {
    /// What can be done with it. For a page homed here nothing is reading.
    pub(super) view: Option<Access>,
    /// What is known of its writers.
    pub(super) claim: Claim,
    /// What is under way.
    pub(super) coming: Option<Coming>,
    /// It has a twin.
    pub(super) twin: bool,
    /// It is on its way home, and must not change.
    pub(super) flushing: bool,
    /// Who waits, in order.
    pub(super) waiting: Vec<(ThreadId, Access)>,
}

impl Node {
    /// A thread wants to read or write a page and cannot. [`Outcome::Access`] tells when to try again; that it can be lost again before is the
    /// driver's to see.
    ///
    /// # Errors
    /// [`FaultError`]; nothing has happened then.
    pub fn handle_fault(&mut self, thread: ThreadId, page: Page, access: Access) -> Result<(), FaultError> {
        self.check_thread(thread)?;
        if self.config.homes.home(page).is_none() {
            return Err(FaultError::NoPage(page.0));
        }
        if self.wait(thread, Thread::Faulting) {
            self.copy(page).waiting.push((thread, access));
            self.go_on_with(page);
            self.work();
        }
        Ok(())
    }

    /// Somebody wants to read or write a page and cannot. Says whether that can be done now; otherwise it can when [`Action::Map`] tells of the page, for
    /// reading, or [`Action::Allow`]. Nobody is woken by name: it is for drivers that wake all who wait for a page, whoever they are, and who touch it
    /// again if it is not enough or is lost again. So it may be told twice, and of who has gone away.
    ///
    /// # Errors
    /// [`TouchError`]; nothing has happened then.
    pub fn handle_touch(&mut self, page: Page, access: Access) -> Result<bool, TouchError> {
        if let Some(failure) = self.failure {
            return Err(TouchError::Failed(failure));
        }
        if self.config.homes.home(page).is_none() {
            return Err(TouchError::NoPage(page.0));
        }
        if Some(access) <= self.permitted(page) {
            return Ok(true);
        }
        let copy = self.copy(page);
        if !copy.waiting.iter().any(|(_, awaited)| *awaited >= access) {
            copy.waiting.push((NOBODY, access));
        }
        self.go_on_with(page);
        self.work();
        Ok(false)
    }

    /// A thread will soon want to read or write a page. Nobody waits for it and is told of it. A page of another home is only got to be read; one homed here
    /// that is not written after all is named in vain when the interval ends, which costs others a fetch.
    pub fn handle_hint(&mut self, page: Page, access: Access) {
        let access = if self.is_home(page) { access } else { Access::Read };
        let no_page = self.config.homes.home(page).is_none();
        if self.failure.is_some() || no_page || Some(access) <= self.permitted(page) {
            return;
        }
        let copy = self.copy(page);
        if copy.coming.is_none() && !copy.flushing && copy.waiting.is_empty() {
            copy.waiting.push((NOBODY, access));
            self.stats.hints += 1;
            self.go_on_with(page);
            self.work();
        }
    }

    /// The entry of a page, made if it has none.
    pub(super) fn copy(&mut self, page: Page) -> &mut Copy {
        self.copies.entry(page).or_default()
    }

    /// What can be done with a page now.
    pub(super) fn permitted(&self, page: Page) -> Option<Access> {
        let view = self.copies.get(&page).and_then(|copy| copy.view);
        if self.is_home(page) { view.or(Some(Access::Read)) } else { view }
    }

    /// Wakes who can go on with a page, and does the next thing for who cannot.
    pub(super) fn go_on_with(&mut self, page: Page) {
        let permitted = self.permitted(page);
        let copy = self.copy(page);
        let (ready, waiting) = copy.waiting.drain(..).partition::<Vec<_>, _>(|(_, access)| Some(*access) <= permitted);
        let wanted = waiting.iter().map(|(_, access)| *access).max();
        copy.waiting = waiting;
        let busy = copy.coming.is_some() || copy.flushing;
        for (thread, access) in ready.into_iter().filter(|(thread, _)| *thread != NOBODY) {
            self.wake(thread, Outcome::Access(page, access));
        }
        match wanted {
            None => self.forget_if_new(page),
            Some(_) if busy => {}
            Some(_) if permitted.is_none() => self.fetch(page),
            Some(_) => self.prepare_to_write(page),
        }
    }

    fn forget_if_new(&mut self, page: Page) {
        if self.copies.get(&page) == Some(&Copy::default()) {
            self.copies.remove(&page);
        }
    }

    fn fetch(&mut self, page: Page) {
        let Some(home) = self.config.homes.home(page) else { return };
        self.copy(page).coming = Some(Coming::Fetch { stale: false });
        self.stats.fetches += 1;
        let op = self.begin(Pending::Fetch(page));
        self.do_next(Action::Fetch { op, page, home });
    }

    /// The bytes of a page have come.
    pub(super) fn fetched(&mut self, page: Page) {
        if self.copy(page).coming == Some(Coming::Fetch { stale: true }) {
            self.stats.stale_fetches += 1;
            self.fetch(page);
            return;
        }
        let copy = self.copy(page);
        copy.coming = None;
        copy.view = Some(Access::Read);
        self.mapped += 1;
        self.do_next(Action::Map { page });
        self.go_on_with(page);
        self.evict(page);
    }

    /// A thread waits to write a page that can be read.
    fn prepare_to_write(&mut self, page: Page) {
        let in_place = self.is_home(page);
        if !in_place && self.away_from_home() >= self.config.written_pages as usize {
            self.jobs.relieve(page);
            return;
        }
        let claim = self.copy(page).claim;
        match claim {
            Claim::Unknown if self.config.has_single_writers() => self.claim(page),
            Claim::Alone => {
                self.stats.writes_alone += 1;
                self.allow(page);
            }
            Claim::Unknown | Claim::Other(_) | Claim::Many => {
                if in_place {
                    self.stats.writes_in_place += 1;
                } else {
                    self.stats.twins += 1;
                    self.copy(page).twin = true;
                    self.do_next(Action::Twin { page });
                }
                self.allow(page);
            }
        }
    }

    /// How many pages of other homes are written or on their way home: no more have twins.
    pub(super) fn away_from_home(&self) -> usize {
        self.written.len() + self.jobs.flushing()
    }

    fn allow(&mut self, page: Page) {
        self.copy(page).view = Some(Access::Write);
        let written = if self.is_home(page) { &mut self.written_here } else { &mut self.written };
        written.insert(page);
        self.interval.insert(page);
        self.do_next(Action::Allow { page });
        self.go_on_with(page);
    }

    /// Takes a copy that is not on its way home out of view. A fetch or claim under way is in vain.
    pub(super) fn unmap(&mut self, page: Page) {
        let copy = self.copy(page);
        match &mut copy.coming {
            Some(Coming::Fetch { stale } | Coming::Claim { stale }) => *stale = true,
            None => {}
        }
        // Whoever has no copy cannot say any more what of a new one it has changed itself since it was alone.
        if copy.claim == Claim::Alone {
            copy.claim = Claim::Unknown;
        }
        copy.twin = false;
        let was_mapped = copy.view.take().is_some();
        self.written.remove(&page);
        if was_mapped {
            self.mapped -= 1;
            self.do_next(Action::Unmap { page });
        }
        self.forget_if_new(page);
    }

    /// Makes room, going round in the order of pages, past those that have been written or are about to be.
    fn evict(&mut self, newest: Page) {
        let Some(most) = self.config.cache_pages else { return };
        while self.mapped - self.written.len() > most as usize {
            let round = self.copies.range(self.hand..).chain(self.copies.range(..self.hand));
            let can_go = |(page, copy): &(&Page, &Copy)| {
                let clean = copy.view == Some(Access::Read) && !copy.flushing && copy.coming.is_none();
                clean && **page != newest && !self.is_home(**page)
            };
            let Some((page, _)) = round.take(MAX_SCAN).find(can_go) else {
                self.hand = self.copies.range(self.hand..).nth(MAX_SCAN).map_or(Page(0), |(page, _)| *page);
                return;
            };
            let page = *page;
            self.hand = Page(page.0.saturating_add(1));
            self.stats.evictions += 1;
            self.unmap(page);
        }
    }
}
