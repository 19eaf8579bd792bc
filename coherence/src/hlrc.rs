//! Home-based lazy release consistency: relaxed memory that many ranks write at once, made consistent where threads synchronise.
//!
//! - [`node`]: one rank's share of the protocol. [`config`], [`action`], [`stats`]: what goes in and what comes out.
//! - [`diff`]: what a rank has changed of a page.
//! - [`clock`], [`notice`]: who has seen what; [`writer`]: who writes a page.
//! - [`race`]: who has written the same bytes without synchronising.
//! - [`layout`]: where all that is in the segments that ranks reach in each other.
//! - [`sim`]: a simulated machine to prove it on.
//!
//! It needs nothing but gets, puts and compare-and-swap on the segments of other ranks: no rank ever asks another one's processor for anything.
//! docs/relaxed-memory.md tells what programs may rely on, and how it works.

pub mod action;
pub mod clock;
pub mod config;
pub mod diff;
pub mod layout;
pub mod node;
pub mod notice;
pub mod race;
pub mod sim;
pub mod stats;
pub mod writer;

use std::fmt;

pub use action::{Action, Completion, Failure, Flush, OpId, Outcome, Watch};
pub use config::{Config, ConfigError, MAX_LOCKS, MAX_LOG_WORDS, MAX_THREADS};
pub use node::Node;
pub use stats::Stats;

/// A thread of this rank, numbered from 0.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ThreadId(pub u16);

/// A lock of the machine, numbered from 0.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LockId(pub u32);

impl fmt::Display for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {}", self.0)
    }
}

impl fmt::Display for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lock {}", self.0)
    }
}
