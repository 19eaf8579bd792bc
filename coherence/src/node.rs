//! One rank's share of the strict protocol: a home's directory for the pages homed here, a cache's states for the others.
//!
//! Inputs are the `handle_*` methods; after each of them the driver takes [`Node::poll_action`] until there is nothing
//! left and executes the actions in that order, before the next input and while the body of the message it gave in, if it
//! was one, is at hand. Then [`Node::poll_timeout`] says when [`Node::handle_timeout`] is due.

mod action;
mod config;
mod stats;

pub use action::{Action, Body, HoldId, Source};
pub use config::{Config, ConfigError, MIN_CACHE_PAGES};
pub use stats::Stats;

use crate::id::{Access, Page, Rank, Run, Tick};
use crate::message::Message;

/// A message that the sender had no right to send.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("rank {from} sent what the protocol does not allow: {what}", from = from.0)]
pub struct ProtocolError {
    /// The sender.
    pub from: Rank,
    /// What is wrong with it.
    pub what: String,
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
}

/// The protocol's state at one rank.
#[derive(Clone, Debug)]
pub struct Node {
    config: Config,
}

impl Node {
    /// A node of a machine in which no page has been touched.
    ///
    /// # Errors
    /// [`ConfigError`] naming what does not fit.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self { config })
    }

    /// A processor of this rank wants a page. An action wakes it: [`Action::Map`], [`Action::Allow`] or [`Action::Wake`].
    pub fn handle_fault(&mut self, now: Tick, page: Page, access: Access) {
        let _ = (now, page, access, &self.config);
    }

    /// A message has arrived.
    ///
    /// # Errors
    /// [`ProtocolError`] when it makes no sense; the state is unchanged then, and the sender is not to be trusted.
    pub fn handle_message(&mut self, now: Tick, from: Rank, message: &Message) -> Result<(), ProtocolError> {
        let _ = (now, from, message);
        Ok(())
    }

    /// A device wants all of these pages at once, and to keep them until [`Self::handle_release`]. When it has them,
    /// [`Action::HoldReady`] says so.
    ///
    /// # Errors
    /// [`HoldError`]; nothing is held then.
    pub fn handle_hold(&mut self, now: Tick, id: HoldId, runs: &[(Run, Access)]) -> Result<(), HoldError> {
        let _ = (now, id, runs);
        Ok(())
    }

    /// A device is done with its pages, or gives up waiting for them.
    pub fn handle_release(&mut self, now: Tick, id: HoldId) {
        let _ = (now, id);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Tick) {
        let _ = now;
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        None
    }

    /// When to call [`Self::handle_timeout`]. May be in the past.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        None
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// What this rank may do with a page now, by what it has been granted: nothing, read, or read and write.
    #[must_use]
    pub fn access(&self, page: Page) -> Option<Access> {
        let _ = page;
        None
    }
}
