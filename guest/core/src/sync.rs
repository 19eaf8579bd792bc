//! What members of a team do together, behind one boundary: [`Group`].
//!
//! On one rank it is done by atomics in ordinary memory (`local.rs`, with `barrier.rs`, `lock.rs` and `reduction.rs`), on several by vincs (`ranks.rs`). Nothing
//! outside of this folder knows which.

mod barrier;
mod local;
mod lock;
mod ranks;
mod reduction;

use std::sync::Arc;

use local::Local;
pub use lock::LockError;
use ranks::OnRanks;

use crate::ranks::Device;

/// Locks of a team, numbered from 0.
pub const LOCKS: u32 = 1024;

/// The barrier, the locks and the reductions of so many members, numbered from 0.
#[derive(Debug)]
pub(crate) struct Group(Way);

#[derive(Debug)]
enum Way {
    Local(Local),
    Ranks(OnRanks),
}

impl Group {
    /// Of members on these processors, with the device of several ranks if there is one. Nothing when the program has too many teams on those.
    pub(crate) fn new(device: Option<Arc<Device>>, processors: &[usize]) -> Option<Self> {
        let way = match device {
            Some(device) => Way::Ranks(OnRanks::new(device, processors)?),
            None => Way::Local(Local::new(u32::try_from(processors.len()).unwrap_or(u32::MAX))),
        };
        Some(Self(way))
    }

    /// A member's thread is on its processor, and stays there until it [leaves](Self::leave); false when its rank has no place for it.
    pub(crate) fn enter(&self, member: u32) -> bool {
        match &self.0 {
            Way::Local(_) => true,
            Way::Ranks(ranks) => ranks.enter(member),
        }
    }

    /// A member's thread ends. On several ranks it gives back locks that it still has, and says so: another team will have these.
    pub(crate) fn leave(&self, member: u32) {
        if let Way::Ranks(ranks) = &self.0 {
            ranks.leave(member);
        }
    }

    /// Somebody is about to start a run: members see what it has written.
    pub(crate) fn before_run(&self) {
        if let Way::Ranks(ranks) = &self.0 {
            ranks.tell();
        }
    }

    /// All members have ended a run: whoever waited for that sees what they have written.
    pub(crate) fn after_run(&self) {
        if let Way::Ranks(ranks) = &self.0 {
            ranks.hear();
        }
    }

    /// A member begins a run.
    pub(crate) fn begin(&self, member: u32) {
        if let Way::Ranks(ranks) = &self.0 {
            ranks.begin(member);
        }
    }

    /// A member ends a run.
    pub(crate) fn end(&self, member: u32) {
        if let Way::Ranks(ranks) = &self.0 {
            ranks.end(member);
        }
    }

    /// Waits until all members are here.
    pub(crate) fn barrier(&self, member: u32) {
        match &self.0 {
            Way::Local(local) => local.barrier(),
            Way::Ranks(ranks) => drop(ranks.gather(member, 0)),
        }
    }

    /// Waits until nobody has the lock, and takes it, in the order of coming.
    pub(crate) fn lock(&self, member: u32, number: u32) -> Result<(), LockError> {
        match &self.0 {
            Way::Local(local) => local.lock(member, number),
            Way::Ranks(ranks) => ranks.lock(member, number),
        }
    }

    /// Gives the lock back.
    pub(crate) fn unlock(&self, member: u32, number: u32) -> Result<(), LockError> {
        match &self.0 {
            Way::Local(local) => local.unlock(member, number),
            Way::Ranks(ranks) => ranks.unlock(member, number),
        }
    }

    /// Every member's word, in the order of members, when all have given theirs. `turn` counts a member's calls.
    pub(crate) fn gather(&self, member: u32, turn: u64, word: u64) -> Vec<u64> {
        match &self.0 {
            Way::Local(local) => local.gather(member, turn, word),
            Way::Ranks(ranks) => ranks.gather(member, word),
        }
    }
}
