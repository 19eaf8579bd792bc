//! Whether this rank's processors sleep: then no page is kept for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::mailbox::Mailbox;

/// The processors that touch an engine's memory. Each tells when it goes to sleep and when it is awake again; one that never does is
/// always awake.
#[derive(Debug)]
pub struct Processors {
    awake: AtomicU32,
    /// Of the threads that are to know when the last one goes to sleep.
    mailboxes: Vec<Arc<Mailbox>>,
}

impl Processors {
    /// So many, all awake.
    pub(super) fn new(processors: u32, mailboxes: Vec<Arc<Mailbox>>) -> Self {
        Self { awake: AtomicU32::new(processors), mailboxes }
    }

    /// One of them will execute nothing until [`Self::wakes`].
    pub fn sleeps(&self) {
        if self.awake.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.mailboxes.iter().for_each(|mailbox| mailbox.ring_if_it_keeps_pages());
        }
    }

    /// One that slept goes on.
    pub fn wakes(&self) {
        self.awake.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether all sleep.
    pub(super) fn all_sleep(&self) -> bool {
        self.awake.load(Ordering::SeqCst) == 0
    }
}
