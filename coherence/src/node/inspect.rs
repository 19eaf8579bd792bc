//! What checkers may see of a node's state, and ask of it.

use super::deferral::Deferrals;
use super::directory::{Directory, DirectoryState};
use super::holds::Holds;
use super::moves::Moves;
use super::outbox::Outbox;
use super::{Config, ConfigError, Node};
use crate::id::{Page, Rank, RankSet};
use crate::window::Layout;

/// What a home knows of a page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DirectoryView {
    /// Who may write it, or is asked to give it back.
    pub owner: Option<Rank>,
    /// Who may have a copy ([`Node::holders`]).
    pub holders: RankSet,
    /// Whether requests wait for answers.
    pub is_busy: bool,
    /// Whether it is in the window, or marks of readers that it had there are not known yet: who has marked its slot may have a copy too.
    pub is_shown: bool,
}

impl Node {
    /// [`Self::new`] with a cache as small as asked for: one page is enough for the protocol, if not for a guest.
    ///
    /// # Errors
    /// [`ConfigError`] naming what else does not fit.
    pub fn with_any_cache(config: Config) -> Result<Self, ConfigError> {
        let cache_pages = config.cache_pages;
        let mut node = Self::new(Config { cache_pages: None, ..config })?;
        node.config.cache_pages = cache_pages;
        Ok(node)
    }

    /// What this home knows of a page; nothing when its home is elsewhere.
    #[must_use]
    pub fn directory(&self, page: Page) -> Option<DirectoryView> {
        let holders = self.holders(page)?;
        let state = self.directory.table.get(page).state;
        let owner = match state {
            DirectoryState::Owned(owner) | DirectoryState::Recalling { owner } => Some(owner),
            DirectoryState::Untouched
            | DirectoryState::Shared(_)
            | DirectoryState::Invalidating { .. }
            | DirectoryState::Collecting { .. } => None,
        };
        Some(DirectoryView { owner, holders, is_busy: state.is_transient(), is_shown: self.is_shown(page) })
    }

    /// The ranks that are homes of pages.
    #[must_use]
    pub fn homes(&self) -> RankSet {
        self.config.homes.ranks().collect()
    }

    /// The slot of a page in windows, if there are any.
    #[must_use]
    pub fn slot(&self, page: Page) -> Option<u32> {
        Some(Layout::new(self.config.window?.slots)?.slot(page))
    }

    /// What it has begun and not finished, in words; nothing when all is done and forgotten.
    #[must_use]
    pub fn unfinished(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut finished = Directory::new(0);
        finished.table.clone_from(&self.directory.table);
        if self.directory != finished {
            found.push("transactions".to_owned());
        }
        if self.deferrals != Deferrals::default() {
            found.push("pages to give up later".to_owned());
        }
        if self.holds != Holds::default() {
            found.push("holds of devices".to_owned());
        }
        if self.moves != Moves::default() {
            found.push("hand-overs".to_owned());
        }
        if self.leaving.is_under_way() {
            found.push("ranks that leave".to_owned());
        }
        if self.out != Outbox::default() {
            found.push("actions to do".to_owned());
        }
        for page in (0..self.config.homes.pages()).map(Page) {
            if self.cache.table.get(page).state.is_transient() {
                found.push(format!("an answer for page {} to wait for", page.0));
            }
            if self.directory.table.get(page).state.is_transient() {
                found.push(format!("a transaction of page {}", page.0));
            }
            if self.pins(page) > 0 {
                found.push(format!("devices that pin page {}", page.0));
            }
        }
        found
    }
}
