//! A rank gives up all pages of others, as it leaves the machine.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::mailbox::{Command, Mailbox, locked};

/// What all shards of an engine that gives up its pages share.
pub(in crate::memory) struct Leaving {
    /// Shards that are not done.
    left: AtomicUsize,
    /// Pages of others that are still here, of all shards.
    pages: Arc<AtomicU32>,
    done: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaving").field("left", &self.left).field("pages", &self.pages).finish_non_exhaustive()
    }
}

impl Leaving {
    /// A shard has none left, and no home knows of one any more.
    pub(super) fn shard_is_done(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            (self.done)();
        }
    }

    /// A shard that had so many pages of others when it was asked last has so many now.
    pub(super) fn tell_pages(&self, before: u32, now: u32) {
        self.pages.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }
}

/// Has an engine give up its pages, from any thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaver {
    mailboxes: Vec<Arc<Mailbox>>,
    pages: Arc<AtomicU32>,
    said: Arc<Mutex<Said>>,
}

/// What rank 0 has said of leaving.
#[derive(Debug, Default)]
struct Said {
    is_announced: bool,
    /// Why this rank stays, until somebody has looked.
    refusal: Option<String>,
}

impl Leaver {
    pub(super) fn new(mailboxes: Vec<Arc<Mailbox>>) -> Self {
        Self { mailboxes, ..Self::default() }
    }

    /// This rank is to leave: its processors go, then the homes of its pages, and then it begins.
    pub(crate) fn announce(&self) {
        locked(&self.said).is_announced = true;
    }

    /// Whether it is to leave.
    pub(crate) fn is_announced(&self) -> bool {
        locked(&self.said).is_announced
    }

    /// It stays, though it wanted to leave, for this reason.
    pub(crate) fn refuse(&self, reason: String) {
        locked(&self.said).refusal = Some(reason);
    }

    /// Why it stays; each reason once.
    pub(crate) fn take_refusal(&self) -> Option<String> {
        locked(&self.said).refusal.take()
    }

    /// Begins; `done` is called when no page of another home is here and no home knows of one, on the last thread that was busy with it. No processor may execute
    /// anything here any more, and this rank must be nobody's home. To be called once.
    pub(crate) fn begin(&self, done: impl Fn() + Send + Sync + 'static) {
        if self.mailboxes.is_empty() {
            return done();
        }
        let (left, pages) = (AtomicUsize::new(self.mailboxes.len()), Arc::clone(&self.pages));
        let leaving = Arc::new(Leaving { left, pages, done: Box::new(done) });
        self.mailboxes.iter().for_each(|mailbox| mailbox.push(Command::Leave(Arc::clone(&leaving))));
    }

    /// Pages of others that are here still, since [`Self::begin`].
    pub(crate) fn pages(&self) -> u32 {
        self.pages.load(Ordering::Relaxed)
    }
}
