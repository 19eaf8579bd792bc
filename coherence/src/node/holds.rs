//! Pages that devices need all at once.
//!
//! What is missing is asked for at once. But pages are *pinned*, that is kept from everybody else, in rising order only: a hold waits
//! for its lowest page that is not pinned, and has pinned none above it. So no two holds, on whatever ranks, wait for each
//! other. What is lost before its turn is asked for again when its turn comes.

use std::collections::{BTreeMap, BTreeSet};

use super::action::{Action, HoldId};
use super::cache::CacheEntry;
use super::directory::{DirectoryEntry, DirectoryState};
use super::{HoldError, Node};
use crate::id::{Access, Page, Run, Tick};

/// Most holds at once: more than all requests of all devices that a guest can have under way.
pub const MAX_HOLDS: usize = 4096;

/// Most pages of one hold: 256 MiB. They may be more than the rank's cache has room for, so a guest must not make a hold as large as it
/// likes.
pub const MAX_HOLD_PAGES: u32 = 1 << 16;

const _: () = assert!(MAX_HOLDS <= u16::MAX as usize, "pins of a page are counted in 16 bits");

/// Adjacent pages wanted for the same.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Span {
    first: Page,
    end: Page,
    access: Access,
}

/// One device request.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Hold {
    /// In rising order, without overlap.
    spans: Vec<Span>,
    /// Index of the span that it waits in; their number when it has all.
    at: usize,
    /// The page that it waits for; those before it are pinned.
    next: Page,
}

impl Hold {
    /// The page to pin next, and what for.
    fn wants(&self) -> Option<(Page, Access)> {
        self.spans.get(self.at).map(|span| (self.next, span.access))
    }

    /// That page is pinned.
    fn go_on(&mut self) {
        self.next = Page(self.next.0.saturating_add(1));
        if self.spans.get(self.at).is_some_and(|span| self.next >= span.end) {
            self.at += 1;
            self.next = self.spans.get(self.at).map_or(self.next, |span| span.first);
        }
    }

    /// The pages that are pinned.
    fn pinned(&self) -> impl Iterator<Item = Page> {
        let whole = self.spans.iter().take(self.at).map(|span| (span.first, span.end));
        let part = self.spans.get(self.at).map(|span| (span.first, self.next));
        whole.chain(part).flat_map(|(first, end)| (first.0..end.0).map(Page))
    }
}

/// All holds.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Holds {
    by_id: BTreeMap<HoldId, Hold>,
    /// The pages that holds wait for.
    waiting: BTreeSet<(Page, HoldId)>,
    /// Holds whose page has come or gone since they were looked at.
    changed: BTreeSet<HoldId>,
}

/// Puts runs in order; where they overlap, writing wins.
fn spans(runs: &[(Run, Access)]) -> Vec<Span> {
    // Where runs begin and end, with the change in the numbers of runs to read and to write there.
    let mut edges: BTreeMap<Page, (i64, i64)> = BTreeMap::new();
    for (run, access) in runs.iter().filter(|(run, _)| run.count > 0) {
        for (page, change) in [(run.first, 1), (run.end(), -1)] {
            let edge = edges.entry(page).or_default();
            match access {
                Access::Read => edge.0 += change,
                Access::Write => edge.1 += change,
            }
        }
    }
    let mut spans: Vec<Span> = Vec::new();
    let (mut readers, mut writers) = (0, 0);
    let mut open: Option<(Page, Access)> = None;
    for (page, (read, write)) in edges {
        (readers, writers) = (readers + read, writers + write);
        let now = match (readers > 0, writers > 0) {
            (_, true) => Some(Access::Write),
            (true, false) => Some(Access::Read),
            (false, false) => None,
        };
        if open.map(|(_, access)| access) != now {
            spans.extend(open.map(|(first, access)| Span { first, end: page, access }));
            open = now.map(|access| (page, access));
        }
    }
    spans
}

impl Node {
    /// See [`Node::handle_hold`].
    pub(super) fn hold_pages(&mut self, now: Tick, id: HoldId, runs: &[(Run, Access)]) -> Result<(), HoldError> {
        let pages = self.config.homes.pages();
        for (run, _) in runs.iter().filter(|(run, _)| run.count > 0) {
            let last = u64::from(run.first.0) + u64::from(run.count) - 1;
            if last >= u64::from(pages) {
                return Err(HoldError::NotRam(run.first.0.max(pages)));
            }
        }
        if self.holds.by_id.contains_key(&id) {
            return Err(HoldError::InUse(id.0));
        }
        if self.holds.by_id.len() >= MAX_HOLDS {
            return Err(HoldError::TooMany);
        }
        let spans = spans(runs);
        let wanted: u32 = spans.iter().map(|span| span.end.0 - span.first.0).sum();
        if wanted > MAX_HOLD_PAGES {
            return Err(HoldError::TooLong(wanted));
        }
        let next = spans.first().map_or(Page(0), |span| span.first);
        self.holds.by_id.insert(id, Hold { spans: spans.clone(), at: 0, next });
        // First what is here already, so that asking for the rest does not drive it out.
        self.go_on_with_hold(now, id);
        for span in spans {
            for page in (span.first.0..span.end.0).map(Page) {
                if self.access(page) < Some(span.access) {
                    self.want(now, page, span.access);
                }
            }
        }
        Ok(())
    }

    /// See [`Node::handle_release`].
    pub(super) fn release_pages(&mut self, now: Tick, id: HoldId) {
        let Some(hold) = self.holds.by_id.remove(&id) else { return };
        self.holds.changed.remove(&id);
        self.holds.waiting.remove(&(hold.next, id));
        for page in hold.pinned() {
            self.set_pins(page, self.pins(page).saturating_sub(1));
            self.give_up_if_due(now, page);
        }
    }

    /// How many devices hold a page.
    pub(super) fn pins(&self, page: Page) -> u16 {
        if self.config.homes.home(page) == Some(self.rank()) {
            self.directory.table.get(page).pins
        } else {
            self.cache.table.get(page).pins
        }
    }

    fn set_pins(&mut self, page: Page, pins: u16) {
        if self.config.homes.home(page) == Some(self.rank()) {
            let entry = self.directory.table.get(page);
            self.directory.table.set(page, DirectoryEntry { pins, ..entry });
        } else {
            let entry = self.cache.table.get(page);
            self.cache.table.set(page, CacheEntry { pins, ..entry });
        }
    }

    /// A page has come or gone. Whoever waits for it pins it before anybody can take it away again.
    pub(super) fn page_changed(&mut self, page: Page) {
        if self.holds.waiting.is_empty() {
            return;
        }
        let ids: Vec<HoldId> =
            self.holds.waiting.range((page, HoldId(0))..=(page, HoldId(u64::MAX))).map(|(_, id)| *id).collect();
        for id in ids {
            self.pin_next(id);
            self.holds.changed.insert(id);
        }
    }

    /// Goes on with the holds whose pages have come or gone.
    pub(super) fn go_on_with_holds(&mut self, now: Tick) {
        while let Some(id) = self.holds.changed.pop_first() {
            self.go_on_with_hold(now, id);
        }
    }

    /// Pins what can be pinned, and asks for the page that is missing then.
    fn go_on_with_hold(&mut self, now: Tick, id: HoldId) {
        loop {
            while self.pin_next(id) {}
            match self.holds.by_id.get(&id).map(Hold::wants) {
                None => return,
                Some(None) => return self.out.push(Action::HoldReady { id }),
                Some(Some((page, access))) => {
                    self.want(now, page, access);
                    if !self.can_pin(page, access) {
                        self.holds.waiting.insert((page, id));
                        return;
                    }
                }
            }
        }
    }

    /// Pins the page that a hold waits for, if it may; says whether it has.
    fn pin_next(&mut self, id: HoldId) -> bool {
        let Some((page, access)) = self.holds.by_id.get(&id).and_then(Hold::wants) else { return false };
        if !self.can_pin(page, access) {
            return false;
        }
        self.set_pins(page, self.pins(page).saturating_add(1));
        self.holds.waiting.remove(&(page, id));
        if let Some(hold) = self.holds.by_id.get_mut(&id) {
            hold.go_on();
        }
        true
    }

    /// Whether the page is here for that, and not to be given up as soon as it may: devices that take turns with a page would never
    /// let go of it.
    fn can_pin(&self, page: Page, access: Access) -> bool {
        if self.config.homes.home(page) == Some(self.rank()) {
            match self.directory.table.get(page).state {
                DirectoryState::Owned(owner) => owner == self.rank(),
                DirectoryState::Shared(_) => access == Access::Read,
                DirectoryState::Untouched
                | DirectoryState::Recalling { .. }
                | DirectoryState::Invalidating { .. }
                | DirectoryState::Collecting { .. } => false,
            }
        } else {
            self.cache.table.get(page).state.access() >= Some(access) && !self.deferrals.contains(page)
        }
    }

    /// Asks for a page, unless it is asked for already.
    pub(super) fn want(&mut self, now: Tick, page: Page, access: Access) {
        match self.config.homes.home(page) {
            Some(home) if home == self.rank() => self.home_want(now, page, access),
            Some(home) => self.cache_want(now, home, page, access),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u32, end: u32, access: Access) -> Span {
        Span { first: Page(first), end: Page(end), access }
    }

    #[test]
    fn runs_are_put_in_order_and_writing_wins() {
        let run = |first, count, access| (Run { first: Page(first), count }, access);
        let runs = [
            run(8, 2, Access::Read),
            run(0, 6, Access::Read),
            run(2, 2, Access::Write),
            run(3, 2, Access::Write),
            run(6, 2, Access::Read),
            run(5, 0, Access::Write),
        ];
        let expected = [span(0, 2, Access::Read), span(2, 5, Access::Write), span(5, 10, Access::Read)];
        assert_eq!(spans(&runs), expected);
    }
}
