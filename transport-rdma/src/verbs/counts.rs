//! What NICs were given, and what they told, counted: what an operation costs is known by these, whatever the machine's speed.

use std::iter::Sum;
use std::sync::atomic::{AtomicU64, Ordering};

/// So much since the beginning.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Work requests that send a message, or a slot of one.
    pub messages: u64,
    /// Work requests for one-sided operations, signs of life among them.
    pub one_sided: u64,
    /// Work requests to receive.
    pub receives: u64,
    /// Times that the NIC was told of work to send or to receive, each with one work request or more.
    pub doorbells: u64,
    /// Completions taken.
    pub completions: u64,
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, more| Self {
            messages: sum.messages + more.messages,
            one_sided: sum.one_sided + more.one_sided,
            receives: sum.receives + more.receives,
            doorbells: sum.doorbells + more.doorbells,
            completions: sum.completions + more.completions,
        })
    }
}

/// Counts that go on.
#[derive(Debug, Default)]
pub(super) struct Counters {
    messages: AtomicU64,
    one_sided: AtomicU64,
    receives: AtomicU64,
    doorbells: AtomicU64,
}

impl Counters {
    /// The NIC was told of so much to send.
    pub(super) fn sent(&self, messages: usize, one_sided: usize) {
        self.messages.fetch_add(messages as u64, Ordering::Relaxed);
        self.one_sided.fetch_add(one_sided as u64, Ordering::Relaxed);
        self.doorbells.fetch_add(1, Ordering::Relaxed);
    }

    /// The NIC was told of so much to receive.
    pub(super) fn received(&self, receives: usize) {
        self.receives.fetch_add(receives as u64, Ordering::Relaxed);
        self.doorbells.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            messages: read(&self.messages),
            one_sided: read(&self.one_sided),
            receives: read(&self.receives),
            doorbells: read(&self.doorbells),
            completions: 0,
        }
    }
}
