//! What a node wants done, and what comes of it.

use crate::id::{Access, Page, Rank, Run};

use super::{LockId, ThreadId};

/// Names an operation under way, for [`super::Node::handle_completion`]; the node's own to choose, and used again when it is over.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct OpId(pub u32);

/// How a written page is brought home.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Flush {
    /// What differs from its twin, to the byte ([`super::diff`]); the twin is dropped then.
    Changed,
    /// All of it: nobody else writes it.
    Whole,
}

/// Something to do, in the order given. Operations under way are ordered only by their completions. `target` and `home` may be this rank itself: its own
/// segment is reached in the same way then, by loopback where a NIC does compare-and-swap, as a NIC's are atomic among each other only.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Action {
    /// Get words of a segment and give them in as [`Completion::Words`].
    Get {
        /// Its name.
        op: OpId,
        /// Whose segment.
        target: Rank,
        /// Where in it, in bytes.
        offset: u64,
        /// How many words of 8 bytes.
        words: u32,
    },
    /// Put words into a segment.
    Put {
        /// Its name.
        op: OpId,
        /// Whose segment.
        target: Rank,
        /// Where in it, in bytes.
        offset: u64,
        /// The words.
        words: Vec<u64>,
    },
    /// Replace a word if it is what is expected, and give in what it was as [`Completion::Old`].
    CompareAndSwap {
        /// Its name.
        op: OpId,
        /// Whose segment.
        target: Rank,
        /// Where in it, in bytes.
        offset: u64,
        /// What it has to be.
        expected: u64,
        /// What it becomes.
        new: u64,
    },
    /// Get a page from its home, and keep its bytes for the [`Action::Map`] that may follow.
    Fetch {
        /// Its name.
        op: OpId,
        /// Which.
        page: Page,
        /// Its home.
        home: Rank,
    },
    /// Get the shadow of a page from its home: that is its twin from now on.
    FetchTwin {
        /// Its name.
        op: OpId,
        /// Which.
        page: Page,
        /// Its home.
        home: Rank,
    },
    /// Get a page from its home and put it into its shadow there.
    Save {
        /// Its name.
        op: OpId,
        /// Which.
        page: Page,
        /// Its home.
        home: Rank,
    },
    /// Bring pages, which can only be read now, home: puts, all under way at once. One completion when the last of them is done.
    Flush {
        /// Its name.
        op: OpId,
        /// Their home; this rank only where races are looked for.
        home: Rank,
        /// Which, and how.
        pages: Vec<(Page, Flush)>,
    },
    /// Change words of this rank's own segment, before the next action.
    Store {
        /// Where, in bytes.
        offset: u64,
        /// The words.
        words: Vec<u64>,
    },
    /// Put the page that has been fetched into view, to be read.
    Map {
        /// Which.
        page: Page,
    },
    /// Copy a page that is in view, to be read, to its twin.
    Twin {
        /// Which.
        page: Page,
    },
    /// From now on a page can be written.
    Allow {
        /// Which.
        page: Page,
    },
    /// From now on pages can only be read.
    Protect {
        /// Which.
        run: Run,
    },
    /// Take a page out of view and drop its bytes, and its twin if it has one.
    Unmap {
        /// Which.
        page: Page,
    },
    /// Threads may have a lock that this rank keeps, and give it back, among themselves, until it is asked for.
    Lend {
        /// Which.
        lock: LockId,
    },
    /// Nobody may take this lock any more, which may have been lent. [`Node::handle_returned`](crate::hlrc::node::Node::handle_returned) tells when nobody has
    /// it.
    Recall {
        /// Which.
        lock: LockId,
    },
    /// A thread's wait is over.
    Wake {
        /// Which thread.
        thread: ThreadId,
        /// What of.
        outcome: Outcome,
    },
}

/// What comes of an operation.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Completion {
    /// It is done.
    Done,
    /// What the word was.
    Old(u64),
    /// The words.
    Words(Vec<u64>),
}

/// What a thread has waited for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// The page is there, for this; the access is to be tried again.
    Access(Page, Access),
    /// It has the lock.
    Acquired {
        /// The last holder died with it: what that one wrote under the lock is gone, or must be looked at with suspicion.
        abandoned: bool,
    },
    /// It no longer has the lock.
    Released,
    /// What its rank has written is home, and others see it by the clock that goes with it.
    Published,
    /// Its rank sees what others have published up to the clock that it was told.
    Seen,
    /// Everybody has come to the barrier; the result of a reduction.
    Passed(Option<u64>),
    /// It will not be.
    Failed(Failure),
}

/// Why nothing goes on any more.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum Failure {
    /// A rank is lost, and its pages and locks with it.
    #[error("rank {} is lost, and with it its part of relaxed memory", .0.0)]
    Lost(Rank),
    /// Ranks are at different barriers.
    #[error("rank {} is at another barrier or reduction, or one of another team; all threads have to go through the same ones", .0.0)]
    Mismatch(Rank),
    /// What a rank has written into a segment makes no sense.
    #[error("what rank {} has written makes no sense", .0.0)]
    Nonsense(Rank),
}

/// A stretch of this rank's own segment that other ranks put words into.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Watch {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How many words.
    pub words: u32,
}
