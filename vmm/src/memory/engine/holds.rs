//! Device threads ask for pages here, wait for them and give them back.
//!
//! A device's ranges become runs of pages, each shard's by itself. Shards are asked one after the other, in order:
//! within a shard the protocol pins pages in rising order, so all holds of a machine take pages in one order, and none
//! can wait for another in a circle.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use vincs_coherence::id::{Access, Page, Run, STRIPE_PAGES};
use vincs_coherence::node::{HoldId, MAX_HOLD_PAGES};

use super::frames::{Frames, Shard};
use super::mailbox::{Command, Mailbox, Refused, Waiter};
use super::stats::Recorder;
use crate::memory::{GuestRange, HoldError};

const _: () = assert!(STRIPE_PAGES <= u16::MAX as u32, "a run counts the pages of a stripe");

/// Where devices hold pages.
#[derive(Debug)]
pub(in crate::memory) struct Holds {
    frames: Arc<Frames>,
    shards: Vec<Arc<Mailbox>>,
    next: AtomicU64,
    recorder: Arc<Recorder>,
}

/// Pages held for a device until this is dropped.
#[derive(Debug)]
pub(in crate::memory) struct Lease {
    held: Vec<(Arc<Mailbox>, HoldId)>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        for (mailbox, id) in self.held.drain(..) {
            mailbox.push(Command::Release(id));
        }
    }
}

impl Holds {
    pub(super) fn new(frames: Arc<Frames>, shards: Vec<Arc<Mailbox>>, recorder: Arc<Recorder>) -> Self {
        Self { frames, shards, next: AtomicU64::new(0), recorder }
    }

    /// Waits until the pages of all ranges are here.
    ///
    /// # Errors
    /// [`HoldError`]; nothing is held then.
    pub(in crate::memory) fn hold(&self, ranges: &[(GuestRange, Access)]) -> Result<Lease, HoldError> {
        let wanted = self.runs(ranges)?;
        let mut lease = Lease { held: Vec::new() };
        let started = Instant::now();
        for (shard, runs) in wanted {
            let Some(mailbox) = self.shards.get(usize::from(shard)) else { continue };
            let id = HoldId(self.next.fetch_add(1, Ordering::Relaxed));
            let waiter = Arc::new(Waiter::default());
            mailbox.push(Command::Hold { id, runs, waiter: Arc::clone(&waiter) });
            waiter.wait().map_err(|refused| match refused {
                Refused::Unfit(why) => HoldError::Unfit(why),
                Refused::Ended => HoldError::Ended,
            })?;
            lease.held.push((Arc::clone(mailbox), id));
        }
        self.recorder.held(started.elapsed());
        Ok(lease)
    }

    /// The pages of the ranges by shard, as the ranges have them: the protocol puts them in order.
    fn runs(&self, ranges: &[(GuestRange, Access)]) -> Result<BTreeMap<u16, Vec<(Run, Access)>>, HoldError> {
        let mut wanted = Vec::new();
        for (range, access) in ranges {
            let not_ram = || HoldError::NotRam { start: range.start.0, len: range.len };
            let parts = self.frames.pages_of(*range).ok_or_else(not_ram)?;
            wanted.extend(parts.into_iter().map(|part| (part, *access)));
        }
        wanted.sort_unstable_by_key(|(part, _)| part.start);
        if distinct(&wanted) > u64::from(MAX_HOLD_PAGES) {
            return Err(HoldError::TooMuch);
        }
        let count = u16::try_from(self.shards.len()).unwrap_or(u16::MAX);
        let mut shards: BTreeMap<u16, Vec<(Run, Access)>> = BTreeMap::new();
        for (part, access) in wanted {
            let mut first = Page(part.start);
            while first.0 < part.end {
                let end = Shard::stripe_end(first).min(part.end);
                let run = Run { first, count: u16::try_from(end - first.0).unwrap_or(u16::MAX) };
                shards.entry(Shard::of(first, count)).or_default().push((run, access));
                first = run.end();
            }
        }
        Ok(shards)
    }
}

/// How many pages there are in parts that are sorted by where they begin, and may overlap.
fn distinct(parts: &[(Range<u32>, Access)]) -> u64 {
    let (mut pages, mut end) = (0, 0);
    for (part, _) in parts {
        pages += u64::from(part.end.saturating_sub(part.start.max(end)));
        end = end.max(part.end);
    }
    pages
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;
    use crate::memory::GuestRam;

    fn holds(shards: usize, bytes: usize) -> Holds {
        let ram = GuestRam::new(&[(GuestAddress(0), bytes)]).unwrap();
        let mailboxes = (0..shards).map(|_| Arc::new(Mailbox::new().unwrap())).collect();
        Holds::new(Arc::new(Frames::new(&ram).unwrap()), mailboxes, Arc::new(Recorder::default()))
    }

    fn range(start: u64, len: u64, access: Access) -> (GuestRange, Access) {
        (GuestRange { start: GuestAddress(start), len }, access)
    }

    fn run(first: u32, count: u16, access: Access) -> (Run, Access) {
        (Run { first: Page(first), count }, access)
    }

    #[test]
    fn ranges_become_runs_of_whole_pages() {
        let holds = holds(1, 16 << 20);
        let ranges = [
            range(0x3fff, 2, Access::Write),
            range(0, 0x5000, Access::Read),
            range(0x9000, 1, Access::Read),
            range(0xf_0000, 0, Access::Write),
        ];
        let expected = vec![run(0, 5, Access::Read), run(3, 2, Access::Write), run(9, 1, Access::Read)];
        assert_eq!(holds.runs(&ranges).unwrap(), BTreeMap::from([(0, expected)]));
    }

    #[test]
    fn long_ranges_are_split_by_shard() {
        let holds = holds(2, 256 << 20);
        let stripe = u16::try_from(STRIPE_PAGES).unwrap();
        let runs = holds.runs(&[range(4096, 128 << 20, Access::Write)]).unwrap();
        let first = vec![run(1, stripe - 1, Access::Write), run(2 * STRIPE_PAGES, 1, Access::Write)];
        let second = vec![run(STRIPE_PAGES, stripe, Access::Write)];
        assert_eq!(runs, BTreeMap::from([(0, first), (1, second)]));
    }

    #[test]
    fn too_much_at_once_is_refused_at_the_limit() {
        let holds = holds(2, 300 << 20);
        let limit = u64::from(MAX_HOLD_PAGES) * 4096;
        assert!(holds.runs(&[range(0, limit, Access::Read)]).is_ok());
        assert!(matches!(holds.runs(&[range(0, limit + 1, Access::Read)]), Err(HoldError::TooMuch)));
        let two = [range(0, limit / 2, Access::Read), range(limit / 2, limit / 2 + 1, Access::Read)];
        assert!(matches!(holds.runs(&two), Err(HoldError::TooMuch)));
        assert!(matches!(holds.runs(&[range(300 << 20, 1, Access::Read)]), Err(HoldError::NotRam { .. })));
    }

    #[test]
    fn pages_that_ranges_share_count_once() {
        let holds = holds(1, 300 << 20);
        let limit = u64::from(MAX_HOLD_PAGES) * 4096;
        let within = range(4096, limit / 2, Access::Write);
        let same = [within, range(0, limit, Access::Read), range(0, limit, Access::Write)];
        assert!(holds.runs(&same).is_ok());
        assert!(matches!(holds.runs(&[&same[..], &[range(limit, 1, Access::Read)]].concat()), Err(HoldError::TooMuch)));
    }
}
