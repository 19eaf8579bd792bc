//! Homes that move: how rank 0 has pages get another home. The protocol does the rest, on all ranks (docs/coherence.md, "Homes that move").

use std::sync::Arc;

use vincs_coherence::id::{Rank, RankSet, Run};
use vincs_coherence::node::HandOverError;

use super::Engine;
use super::frames::Shard;
use super::mailbox::{Command, Waiter};

/// Why pages have not got another home.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MoveError {
    /// They cannot.
    #[error(transparent)]
    Unfit(#[from] HandOverError),
    /// The engine has ended.
    #[error("the memory of this rank has ended; pages do not move any more")]
    Ended,
}

impl Engine {
    /// Has pages get another home, and waits until they have it: some round trips and the time that their bytes take. For rank 0; `members`: all ranks
    /// that are part of the machine. Who calls this again and again sets the rate at which homes move.
    ///
    /// # Errors
    /// [`MoveError`] when they cannot, or when the engine ends meanwhile.
    pub fn hand_over(&self, run: Run, to: Rank, members: RankSet) -> Result<(), MoveError> {
        let count = u16::try_from(self.mailboxes.len()).unwrap_or(u16::MAX);
        let shard = Shard { index: Shard::of(run.first, count), count };
        let mailbox = self.mailboxes.get(usize::from(shard.index)).filter(|_| run.count > 0 && shard.has(run));
        let Some(mailbox) = mailbox else {
            return Err(HandOverError::Pages { first: run.first.0, count: run.count }.into());
        };
        let waiter = Arc::new(Waiter::default());
        mailbox.push(Command::HandOver { run, to, members, waiter: Arc::clone(&waiter) });
        waiter.wait()
    }
}
