//! Reading without the home's processor: the home shows clean pages in its window, and other ranks read them there.
//!
//! At the home, a page in the window is [`DirectoryState::Shared`], and stays as it is until it is hidden: the hash is cleared, and then
//! the marks are collected. Whoever has read it there by then has marked its slot before it looked at the hash, and so is among
//! those marked. Until they are known the page is [`DirectoryState::Collecting`].
//!
//! At the reader, a page that is being read there is [`CacheState::GuardedWait`]. Messages overtake the end of such a read: one that the
//! home invalidates meanwhile is [`CacheState::GuardedLost`], and what the read brings is not used.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::Node;
use super::action::{Action, Source};
use super::cache::{CacheEntry, CacheState};
use super::config::WindowConfig;
use super::deferral::Stamp;
use super::directory::{DirectoryEntry, DirectoryState};
use super::moves::Ask;
use crate::id::{Access, Page, Rank, RankSet, Run, Tick, Version};
use crate::message::Urgency;
use crate::window::{Layout, Seen, Word};

/// What a home has in its window.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Shown {
    /// The pages that are shown, or not hidden yet, by slot.
    pages: BTreeMap<u32, Page>,
    /// Pages that wait for another to be hidden, by slot.
    next: BTreeMap<u32, Page>,
}

impl Node {
    fn layout(&self) -> Option<(WindowConfig, Layout)> {
        let window = self.config.window?;
        Some((window, Layout::new(window.slots)?))
    }

    /// Whether a page homed here is in the window, or marks of readers that it had there are not known yet.
    pub(super) fn is_shown(&self, page: Page) -> bool {
        self.layout().is_some_and(|(_, layout)| self.shown.pages.get(&layout.slot(page)) == Some(&page))
    }

    /// A page has been granted to be read, and these other ranks have read it since it was written; `again`: it was granted to one that may have had
    /// a copy before. It is shown if others may want it as well. If another page is in its slot, that has to go first.
    pub(super) fn show(&mut self, page: Page, readers: RankSet, again: bool) {
        let Some((window, layout)) = self.layout() else { return };
        let entry = self.directory.table.get(page);
        let is_worth_it = again || readers.len() >= window.readers.into();
        if entry.was_shown || !is_worth_it || self.is_moving(page) || Word::shown(page, entry.version).is_none() {
            return;
        }
        let slot = layout.slot(page);
        if let Some(other) = self.shown.pages.get(&slot).copied() {
            self.shown.next.insert(slot, page);
            let entry = self.directory.table.get(other);
            if let DirectoryState::Shared(sharers) = entry.state {
                self.hide(other, entry, sharers);
            }
            return;
        }
        self.put_into_window(page, entry, slot);
    }

    fn put_into_window(&mut self, page: Page, entry: DirectoryEntry, slot: u32) {
        self.shown.pages.insert(slot, page);
        self.directory.table.set(page, DirectoryEntry { was_shown: true, ..entry });
        self.stats.shown += 1;
        self.out.push_later(Action::Show { page, version: entry.version });
    }

    /// Another rank wants to read a page: it may well want those near it, so what the home alone has of these and nobody needs now is shown. Where a
    /// guess was wrong, the home's next write costs a fault; so each page is shown for such a reason once.
    pub(super) fn show_near(&mut self, now: Tick, page: Page) {
        let Some((window, layout)) = self.layout() else { return };
        let home = self.rank();
        let near = u32::from(window.near);
        let first = page.0 - page.0 % near;
        let block = (first..first.saturating_add(near)).map(Page).filter(|other| *other != page);
        let is_idle = |other: &Page| {
            let entry = self.directory.table.get(*other);
            let is_own = self.config.homes.home(*other) == Some(home) && entry.state == DirectoryState::Owned(home);
            let fits =
                is_own && !entry.was_near && !self.is_moving(*other) && Word::shown(*other, entry.version).is_some();
            fits && self.is_free(now, *other, entry.came, entry.pins)
        };
        let mut shown = Vec::new();
        for other in block.filter(is_idle).collect::<Vec<_>>() {
            if let Entry::Vacant(free) = self.shown.pages.entry(layout.slot(other)) {
                free.insert(other);
                self.out.push_later(Action::Protect { run: Run::one(other) });
                shown.push(other);
            }
        }
        for other in shown {
            let state = DirectoryState::Shared(RankSet::EMPTY);
            let entry = DirectoryEntry { state, was_near: true, ..self.directory.table.get(other) };
            self.put_into_window(other, entry, layout.slot(other));
        }
    }

    /// A page in the window has to go from there. What is wanted of it waits until its readers are known.
    pub(super) fn hide(&mut self, page: Page, entry: DirectoryEntry, sharers: RankSet) {
        self.directory.table.set(page, DirectoryEntry { state: DirectoryState::Collecting { sharers }, ..entry });
        self.stats.hidden += 1;
        self.out.hide(page);
    }

    /// The ranks that have marked the slot of a page that has gone from there. They may have a copy of it, or have read another one there
    /// before; who has none says so when it is asked.
    pub(super) fn collected(&mut self, now: Tick, page: Page, marks: RankSet) {
        let Some((_, layout)) = self.layout() else { return };
        let entry = self.directory.table.get(page);
        let DirectoryState::Collecting { mut sharers } = entry.state else { return };
        for rank in
            self.leaving.without_gone(marks).iter().filter(|rank| *rank != self.rank() && rank.0 < self.config.ranks)
        {
            sharers.insert(rank);
        }
        let slot = layout.slot(page);
        self.shown.pages.remove(&slot);
        self.directory.table.set(page, DirectoryEntry { state: DirectoryState::Shared(sharers), ..entry });
        self.serve_queue(now, page);
        self.freeze_when_hidden(page);
        // It may have been written meanwhile.
        if let Some(next) = self.shown.next.remove(&slot)
            && let DirectoryState::Shared(sharers) = self.directory.table.get(next).state
        {
            self.show(next, sharers, true);
        }
    }

    /// A processor wants to read a page of which there is no copy: looks into its home's window, if that may pay; says whether it does.
    pub(super) fn look_into_window(&mut self, now: Tick, home: Rank, page: Page) -> bool {
        let Some(window) = self.config.window else { return false };
        if self.is_frozen(page) || !self.hints.tries(page, window.wait) {
            return false;
        }
        self.make_room(now, 1);
        let entry = self.cache.table.get(page);
        self.set_cache(page, CacheEntry { state: CacheState::GuardedWait, ..entry });
        self.out.push(Action::GuardedRead { home, page });
        true
    }

    /// A guarded read has ended; nothing is seen by one that was not begun.
    pub(super) fn guarded_read_ended(&mut self, now: Tick, page: Page, seen: Option<Seen>) {
        let entry = self.cache.table.get(page);
        let version = match entry.state {
            CacheState::GuardedWait => seen.and_then(|seen| seen.version_of(page)),
            CacheState::GuardedLost => None,
            // Nothing is read: the driver is mistaken.
            CacheState::Invalid
            | CacheState::ReadWait
            | CacheState::WriteWait
            | CacheState::UpgradeWait
            | CacheState::AheadWait
            | CacheState::AheadWanted
            | CacheState::Shared
            | CacheState::Modified => return,
        };
        match version {
            Some(version) => self.guarded_read_hit(now, page, entry, version),
            None => {
                let Some(home) = self.config.homes.home(page) else { return };
                if seen.is_some() {
                    self.stats.guarded_reads += 1;
                    self.stats.guarded_misses += 1;
                    self.hints.miss(page, self.config.window.map_or(0, |window| window.wait));
                }
                self.set_cache(page, CacheEntry { state: CacheState::ReadWait, ..entry });
                let (access, urgency, have) = (Access::Read, Urgency::Demand, Version::NONE);
                self.acquire(home, Ask { page, access, urgency, have });
            }
        }
        self.tell_frozen(page);
    }

    fn guarded_read_hit(&mut self, now: Tick, page: Page, entry: CacheEntry, version: Version) {
        self.stats.guarded_reads += 1;
        self.stats.guarded_hits += 1;
        self.hints.hit(page);
        self.set_cache(page, CacheEntry { version, came: Stamp::at(now), state: CacheState::Shared, ..entry });
        self.out.push(Action::Map { run: Run::one(page), access: Access::Read, source: Source::Received { at: 0 } });
        self.page_changed(page);
    }
}
