//! What a rank knows about its copies of pages of other homes, and its side of the protocol.

use std::collections::VecDeque;

use super::action::{Action, Body, Source};
use super::deferral::{GiveUp, Stamp};
use super::moves::Ask;
use super::table::{MAX_PAGE_STATE, Table};
use super::{Node, ProtocolError};
use crate::id::{Access, Page, Rank, Run, Tick, Version};
use crate::message::{Content, Granted, Keep, Message, Urgency};

/// This rank's copy of a page of another home.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(super) enum CacheState {
    /// No copy.
    #[default]
    Invalid,
    /// No copy; asked for one to read.
    ReadWait,
    /// No copy; asked for one to write.
    WriteWait,
    /// A copy to read; asked to write it.
    UpgradeWait,
    /// No copy; asked for one to read, on a guess.
    AheadWait,
    /// No copy; asked for one to read on a guess, and meanwhile somebody waits for it.
    AheadWanted,
    /// No copy; it is being read in its home's window.
    GuardedWait,
    /// No copy; it is being read in its home's window, and the home has invalidated it meanwhile: what comes is not to be used.
    GuardedLost,
    /// A copy to read.
    Shared,
    /// The only copy.
    Modified,
}

impl CacheState {
    /// What this rank may do with the page.
    pub(super) fn access(self) -> Option<Access> {
        match self {
            Self::Invalid
            | Self::ReadWait
            | Self::WriteWait
            | Self::AheadWait
            | Self::AheadWanted
            | Self::GuardedWait
            | Self::GuardedLost => None,
            Self::Shared | Self::UpgradeWait => Some(Access::Read),
            Self::Modified => Some(Access::Write),
        }
    }

    /// Whether the page is asked for.
    pub(super) fn is_transient(self) -> bool {
        match self {
            Self::Invalid | Self::Shared | Self::Modified => false,
            Self::ReadWait
            | Self::WriteWait
            | Self::UpgradeWait
            | Self::AheadWait
            | Self::AheadWanted
            | Self::GuardedWait
            | Self::GuardedLost => true,
        }
    }
}

/// One page of another home.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct CacheEntry {
    /// Of the copy; none without one.
    pub(super) version: Version,
    /// When the copy came.
    pub(super) came: Stamp,
    /// Devices of this rank that hold it.
    pub(super) pins: u16,
    pub(super) state: CacheState,
    /// Whether it is in [`Cache::order`].
    pub(super) is_listed: bool,
}

// A list that grows by doubling has up to twice the room that it needs.
const _: () = assert!(size_of::<CacheEntry>() + 2 * size_of::<Page>() <= MAX_PAGE_STATE);

/// All pages of other homes.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Cache {
    pub(super) table: Table<CacheEntry>,
    /// How many pages are here or asked for.
    pub(super) used: u32,
    /// Those pages in the order in which they were asked for first, and some that are gone by now; each page once. Empty when there
    /// is no limit.
    pub(super) order: VecDeque<Page>,
}

impl Cache {
    pub(super) fn new(pages: u32) -> Self {
        Self { table: Table::new(pages), used: 0, order: VecDeque::new() }
    }
}

impl Node {
    /// A processor wants a page of another home.
    pub(super) fn cache_fault(&mut self, now: Tick, home: Rank, page: Page, access: Access) {
        let entry = self.cache.table.get(page);
        match (entry.state, access) {
            (CacheState::Modified, Access::Read | Access::Write)
            | (CacheState::Shared | CacheState::UpgradeWait, Access::Read) => {
                self.stats.late_faults += 1;
                self.out.push(Action::Wake { run: Run::one(page) });
            }
            (
                CacheState::ReadWait
                | CacheState::WriteWait
                | CacheState::AheadWanted
                | CacheState::GuardedWait
                | CacheState::GuardedLost,
                Access::Read | Access::Write,
            )
            | (CacheState::UpgradeWait, Access::Write) => self.stats.joined_faults += 1,
            (CacheState::AheadWait, Access::Read | Access::Write) => {
                self.stats.joined_faults += 1;
                self.set_cache(page, CacheEntry { state: CacheState::AheadWanted, ..entry });
                self.read_ahead(now, home, page);
            }
            (CacheState::Invalid, Access::Read) => {
                self.count_fault(None, access);
                if !self.look_into_window(now, home, page) {
                    self.ask(now, home, page, access, Urgency::Demand);
                }
                self.read_ahead(now, home, page);
            }
            (CacheState::Invalid, Access::Write) | (CacheState::Shared, Access::Write) => {
                self.count_fault(entry.state.access(), access);
                self.ask(now, home, page, access, Urgency::Demand);
            }
        }
    }

    /// A device wants a page of another home.
    pub(super) fn cache_want(&mut self, now: Tick, home: Rank, page: Page, access: Access) {
        let entry = self.cache.table.get(page);
        match (entry.state, access) {
            (CacheState::Invalid, Access::Read | Access::Write) | (CacheState::Shared, Access::Write) => {
                self.ask(now, home, page, access, Urgency::Demand);
            }
            (CacheState::AheadWait, Access::Read | Access::Write) => {
                self.set_cache(page, CacheEntry { state: CacheState::AheadWanted, ..entry });
            }
            // Here, or asked for; if the answer is not enough, it is asked for again.
            (CacheState::Shared, Access::Read)
            | (
                CacheState::Modified
                | CacheState::ReadWait
                | CacheState::WriteWait
                | CacheState::UpgradeWait
                | CacheState::AheadWanted
                | CacheState::GuardedWait
                | CacheState::GuardedLost,
                Access::Read | Access::Write,
            ) => {}
        }
    }

    /// Asks the home for a page of which there is no copy, or one to read that is to be written.
    pub(super) fn ask(&mut self, now: Tick, home: Rank, page: Page, access: Access, urgency: Urgency) {
        let entry = self.cache.table.get(page);
        let has_copy = entry.state.access().is_some();
        if !has_copy {
            self.make_room(now, 1);
        }
        let state = match (access, urgency) {
            (Access::Read, Urgency::Ahead) => CacheState::AheadWait,
            (Access::Read, Urgency::Demand) => CacheState::ReadWait,
            (Access::Write, Urgency::Demand | Urgency::Ahead) if has_copy => CacheState::UpgradeWait,
            (Access::Write, Urgency::Demand | Urgency::Ahead) => CacheState::WriteWait,
        };
        self.set_cache(page, CacheEntry { state, ..entry });
        self.acquire(home, Ask { page, access, urgency, have: entry.version });
    }

    /// [`Message::Grant`] at the cacher.
    pub(super) fn handle_grant(
        &mut self,
        now: Tick,
        from: Rank,
        first: Page,
        access: Access,
        pages: &[Granted],
    ) -> Result<(), ProtocolError> {
        let count = u16::try_from(pages.len()).unwrap_or(u16::MAX);
        let run = Run { first, count };
        self.check_run(from, run, from)?;
        for (page, granted) in run.pages().zip(pages) {
            let is_to_go = self.deferrals.contains(page);
            if let Some(fault) = grant_fault(self.cache.table.get(page), is_to_go, access, *granted) {
                return Err(ProtocolError::new(from, format!("it grants page {}, {fault}", page.0)));
            }
        }
        let mut at = 0;
        for (page, granted) in run.pages().zip(pages) {
            let entry = self.cache.table.get(page);
            let is_wanted = entry.state != CacheState::AheadWait;
            let came = if is_wanted { Stamp::at(now) } else { Stamp::free(now, self.longest_hold()) };
            let state = match access {
                Access::Read => CacheState::Shared,
                Access::Write => CacheState::Modified,
            };
            self.set_cache(page, CacheEntry { version: granted.version, came, state, ..entry });
            self.out.push(match granted.content {
                Content::Data => {
                    at += 1;
                    Action::Map { run: Run::one(page), access, source: Source::Received { at: at - 1 } }
                }
                Content::Zero => Action::Map { run: Run::one(page), access, source: Source::Zero },
                Content::Current => Action::Allow { run: Run::one(page) },
            });
            self.page_changed(page);
        }
        Ok(())
    }

    /// [`Message::Refuse`] at the cacher.
    pub(super) fn handle_refuse(&mut self, now: Tick, from: Rank, run: Run) -> Result<(), ProtocolError> {
        self.check_run(from, run, from)?;
        for page in run.pages() {
            match self.cache.table.get(page).state {
                CacheState::AheadWait | CacheState::AheadWanted => {}
                CacheState::Invalid
                | CacheState::ReadWait
                | CacheState::WriteWait
                | CacheState::UpgradeWait
                | CacheState::GuardedWait
                | CacheState::GuardedLost
                | CacheState::Shared
                | CacheState::Modified => {
                    let what = format!("it refuses page {}, which is not asked for ahead", page.0);
                    return Err(ProtocolError::new(from, what));
                }
            }
        }
        self.stats.refused += u64::from(run.count);
        self.streams.refused(run);
        for page in run.pages() {
            let entry = self.cache.table.get(page);
            self.set_cache(page, CacheEntry { state: CacheState::Invalid, ..entry });
            if entry.state == CacheState::AheadWanted {
                self.ask(now, from, page, Access::Read, Urgency::Demand);
            }
        }
        Ok(())
    }

    /// [`Message::Invalidate`] at the cacher.
    pub(super) fn handle_invalidate(&mut self, now: Tick, from: Rank, page: Page) -> Result<(), ProtocolError> {
        self.check_run(from, Run::one(page), from)?;
        let entry = self.cache.table.get(page);
        match entry.state {
            // Dropped to make room, unknown to the home.
            CacheState::Invalid
            | CacheState::ReadWait
            | CacheState::WriteWait
            | CacheState::AheadWait
            | CacheState::AheadWanted
            | CacheState::GuardedLost => self.out.send(from, Message::InvalidateAck { page }, Body::None),
            CacheState::GuardedWait => {
                self.set_cache(page, CacheEntry { state: CacheState::GuardedLost, ..entry });
                self.out.send(from, Message::InvalidateAck { page }, Body::None);
            }
            CacheState::Shared | CacheState::UpgradeWait => {
                if self.deferrals.contains(page) {
                    return Err(ProtocolError::new(from, format!("it invalidates page {} twice", page.0)));
                }
                self.give_up_when_free(now, page, entry.came, entry.pins, GiveUp::Copy);
            }
            CacheState::Modified => {
                return Err(ProtocolError::new(from, format!("it invalidates page {}, which is owned here", page.0)));
            }
        }
        Ok(())
    }

    /// [`Message::Recall`] at the cacher.
    pub(super) fn handle_recall(&mut self, now: Tick, from: Rank, page: Page, keep: Keep) -> Result<(), ProtocolError> {
        self.check_run(from, Run::one(page), from)?;
        let entry = self.cache.table.get(page);
        match entry.state {
            CacheState::Modified => {
                if self.deferrals.contains(page) {
                    return Err(ProtocolError::new(from, format!("it recalls page {} twice", page.0)));
                }
                self.give_up_when_free(now, page, entry.came, entry.pins, GiveUp::Ownership { keep });
            }
            // It has been given back meanwhile: that write-back is the answer.
            CacheState::Invalid
            | CacheState::ReadWait
            | CacheState::WriteWait
            | CacheState::AheadWait
            | CacheState::AheadWanted
            | CacheState::GuardedWait
            | CacheState::GuardedLost => {}
            // The same, and the page has been read in its home's window since, which messages do not overtake.
            CacheState::Shared | CacheState::UpgradeWait if self.config.window.is_some() => {}
            CacheState::Shared | CacheState::UpgradeWait => {
                let what = format!("it recalls page {}, of which there is a copy to read only", page.0);
                return Err(ProtocolError::new(from, what));
            }
        }
        Ok(())
    }

    /// The copy to read goes, and the home is told.
    pub(super) fn give_up_copy(&mut self, page: Page) {
        let Some(home) = self.config.homes.home(page) else { return };
        self.stats.invalidations += 1;
        self.lost_to_others(page);
        self.drop_copy(page);
        self.out.send(home, Message::InvalidateAck { page }, Body::None);
    }

    /// The copy to read goes.
    pub(super) fn drop_copy(&mut self, page: Page) {
        let entry = self.cache.table.get(page);
        let state = match entry.state {
            // What it has been asked for is not to be had without the bytes now: the home sees that by its version.
            CacheState::UpgradeWait => CacheState::WriteWait,
            CacheState::Shared => CacheState::Invalid,
            CacheState::Invalid
            | CacheState::ReadWait
            | CacheState::WriteWait
            | CacheState::AheadWait
            | CacheState::AheadWanted
            | CacheState::GuardedWait
            | CacheState::GuardedLost
            | CacheState::Modified => return,
        };
        self.out.push(Action::Unmap { run: Run::one(page) });
        self.set_cache(page, CacheEntry { state, version: Version::NONE, came: Stamp::default(), ..entry });
        self.page_changed(page);
    }

    /// The only copy goes back to the home, wholly or but for the right to write.
    pub(super) fn give_up_ownership(&mut self, page: Page, keep: Keep) {
        self.stats.recalls += 1;
        self.lost_to_others(page);
        self.write_back(page, keep);
    }

    /// Sends an owned page to its home.
    pub(super) fn write_back(&mut self, page: Page, keep: Keep) {
        let Some(home) = self.config.homes.home(page) else { return };
        let run = Run::one(page);
        let entry = self.cache.table.get(page);
        let message = Message::WriteBack { page, version: entry.version, keep, content: Content::Data };
        match keep {
            Keep::Shared => {
                self.set_cache(page, CacheEntry { state: CacheState::Shared, ..entry });
                self.out.push(Action::Protect { run });
                self.out.send(home, message, Body::Own);
            }
            Keep::Nothing => {
                let (state, version, came) = (CacheState::Invalid, Version::NONE, Stamp::default());
                self.set_cache(page, CacheEntry { state, version, came, ..entry });
                self.out.push(Action::Detach { run });
                self.out.send(home, message, Body::Own);
                self.out.push(Action::Unmap { run });
            }
        }
        self.page_changed(page);
    }

    /// Replaces a page's entry.
    pub(super) fn set_cache(&mut self, page: Page, mut entry: CacheEntry) {
        let old = self.cache.table.get(page);
        match (old.state == CacheState::Invalid, entry.state == CacheState::Invalid) {
            (true, false) => {
                self.cache.used += 1;
                if self.config.cache_pages.is_some() && !entry.is_listed {
                    entry.is_listed = true;
                    self.cache.order.push_back(page);
                }
            }
            (false, true) => self.cache.used -= 1,
            (true, true) | (false, false) => {}
        }
        self.cache.table.set(page, entry);
    }
}

/// What is wrong with a granted page, if anything. `is_to_go`: the home has asked for the copy that is here, and has no answer yet.
fn grant_fault(entry: CacheEntry, is_to_go: bool, access: Access, granted: Granted) -> Option<&'static str> {
    if granted.version == Version::NONE {
        return Some("in no version");
    }
    match (entry.state, access) {
        (
            CacheState::Invalid
            | CacheState::GuardedWait
            | CacheState::GuardedLost
            | CacheState::Shared
            | CacheState::Modified,
            Access::Read | Access::Write,
        ) => Some("which is not asked for"),
        (CacheState::WriteWait | CacheState::UpgradeWait, Access::Read) => Some("which is asked for to be written"),
        // The home waits for the answer, and the request behind it for what comes then.
        (CacheState::UpgradeWait, Access::Write) if is_to_go => Some("whose copy here it has asked for"),
        (CacheState::UpgradeWait, Access::Write) => match granted.content {
            Content::Current if granted.version.0.checked_sub(1) == Some(entry.version.0) => None,
            Content::Current => Some("in a version that does not follow that of the copy here"),
            Content::Data | Content::Zero => Some("with bytes that are here already"),
        },
        (CacheState::ReadWait | CacheState::AheadWait | CacheState::AheadWanted, Access::Read | Access::Write)
        | (CacheState::WriteWait, Access::Write) => {
            (granted.content == Content::Current).then_some("without its bytes, and there is no copy here")
        }
    }
}
