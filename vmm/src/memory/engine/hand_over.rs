//! Homes that move: how rank 0 has pages get another home, and how a rank that comes learns where they are. The protocol does the rest, on
//! all ranks (docs/coherence.md, "Homes that move").

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use vincs_coherence::home::HomeMap;
use vincs_coherence::id::{Rank, RankSet, Run};
use vincs_coherence::node::{HandOverError, HomesError};

use super::Engine;
use super::frames::Shard;
use super::mailbox::{Command, Mailbox};

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

/// Who is told what has become of a hand-over.
pub(crate) struct WhenMoved(Box<dyn FnOnce(Result<(), MoveError>) + Send>);

impl WhenMoved {
    /// Tells.
    pub(crate) fn tell(self, moved: Result<(), MoveError>) {
        (self.0)(moved);
    }
}

impl fmt::Debug for WhenMoved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WhenMoved").finish_non_exhaustive()
    }
}

type WhenKnown = Box<dyn Fn(Result<(), HomesError>) + Send + Sync>;

/// The homes, for all shards of an engine that has just come.
pub(in crate::memory) struct ToldHomes {
    homes: HomeMap,
    /// Shards that do not know them.
    left: AtomicUsize,
    done: WhenKnown,
}

impl ToldHomes {
    /// What they are.
    pub(super) fn homes(&self) -> &HomeMap {
        &self.homes
    }

    /// A shard knows them, or cannot take them. The last that knows them says so, and each that cannot.
    pub(super) fn shard_knows(&self, known: Result<(), HomesError>) {
        if known.is_err() || self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            (self.done)(known);
        }
    }
}

impl fmt::Debug for ToldHomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToldHomes").field("left", &self.left).finish_non_exhaustive()
    }
}

/// Has homes move, from any thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mover {
    mailboxes: Vec<Arc<Mailbox>>,
}

impl Mover {
    /// At rank 0: has pages get another home; `members`: all ranks that are part of the machine. `done` is told when they have it, some
    /// round trips and the time that their bytes take later, or that they will not; on a thread of memory, which must not wait. Whoever
    /// calls this sets the rate at which homes move.
    pub(crate) fn begin(
        &self,
        run: Run,
        to: Rank,
        members: RankSet,
        done: impl FnOnce(Result<(), MoveError>) + Send + 'static,
    ) {
        let count = u16::try_from(self.mailboxes.len()).unwrap_or(u16::MAX);
        let shard = Shard { index: Shard::of(run.first, count), count };
        let mailbox = self.mailboxes.get(usize::from(shard.index)).filter(|_| run.count > 0 && shard.has(run));
        let Some(mailbox) = mailbox else {
            return done(Err(HandOverError::Pages { first: run.first.0, count: run.count }.into()));
        };
        mailbox.push(Command::HandOver { run, to, members, done: WhenMoved(Box::new(done)) });
    }

    /// At a rank that comes, before any of its processors executes anything: where the homes are. `done` is told, on a thread of memory,
    /// when all shards know.
    pub(crate) fn tell_homes(&self, homes: HomeMap, done: impl Fn(Result<(), HomesError>) + Send + Sync + 'static) {
        if self.mailboxes.is_empty() {
            return done(Ok(()));
        }
        let left = AtomicUsize::new(self.mailboxes.len());
        let told = Arc::new(ToldHomes { homes, left, done: Box::new(done) });
        self.mailboxes.iter().for_each(|mailbox| mailbox.push(Command::Homes(Arc::clone(&told))));
    }
}

impl Engine {
    /// What has homes move.
    pub(crate) fn mover(&self) -> Mover {
        Mover { mailboxes: self.mailboxes.clone() }
    }

    /// At rank 0 of ranks that are no machine, as a benchmark's are: has pages get another home, and waits until they have it. `members`: all ranks.
    ///
    /// # Errors
    /// [`MoveError`] when they cannot, or when the engine ends meanwhile.
    pub fn hand_over(&self, run: Run, to: Rank, members: RankSet) -> Result<(), MoveError> {
        let (done, moved) = channel();
        // Who waits below is there as long as this is.
        self.mover().begin(run, to, members, move |result| _ = done.send(result));
        moved.recv().unwrap_or(Err(MoveError::Ended))
    }
}

/// Hand-overs that a test carries out.
#[cfg(test)]
pub(crate) struct Orders(Arc<Mailbox>);

#[cfg(test)]
impl Mover {
    /// One whose orders a test carries out.
    pub(crate) fn by_hand() -> (Self, Orders) {
        let mailbox = Arc::new(Mailbox::new().unwrap());
        (Self { mailboxes: vec![Arc::clone(&mailbox)] }, Orders(mailbox))
    }
}

#[cfg(test)]
impl Orders {
    /// Those that have come since.
    pub(crate) fn take(&self) -> Vec<(Run, Rank, RankSet, WhenMoved)> {
        let order = |command| {
            let Command::HandOver { run, to, members, done } = command else { panic!("{command:?}") };
            (run, to, members, done)
        };
        self.0.take().into_iter().map(order).collect()
    }
}
