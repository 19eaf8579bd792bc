//! Device threads ask for pages here, wait for them and give them back.
//!
//! A device's ranges become runs of pages, each shard's by itself. Shards are asked one after the other, in order:
//! within a shard the protocol pins pages in rising order, so all holds of a machine take pages in one order, and none
//! can wait for another in a circle.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use vincs_coherence::id::{Access, MAX_RUN, Page, Run};
use vincs_coherence::node::HoldId;

use super::frames::{Frames, Shard};
use super::mailbox::{Command, Mailbox, Refused, Waiter};
use super::stats::Recorder;
use crate::memory::{GuestRange, HoldError};

/// Most pages of one hold: 256 MiB. What a hold has may go beyond the rank's cache, so a guest must not make it as large as
/// it likes.
pub const MAX_HOLD_PAGES: usize = 65536;

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
        let pages = self.pages(ranges)?;
        let mut lease = Lease { held: Vec::new() };
        let started = Instant::now();
        for (shard, runs) in self.runs(&pages) {
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

    /// The pages of the ranges with what they are wanted for: to write, where ranges overlap and one of them is.
    fn pages(&self, ranges: &[(GuestRange, Access)]) -> Result<BTreeMap<Page, Access>, HoldError> {
        let mut wanted = BTreeMap::new();
        for (range, access) in ranges {
            let not_ram = || HoldError::NotRam { start: range.start.0, len: range.len };
            for part in self.frames.pages_of(*range).ok_or_else(not_ram)? {
                if part.len().saturating_add(wanted.len()) > MAX_HOLD_PAGES {
                    return Err(HoldError::TooMuch);
                }
                for page in part {
                    let wanted = wanted.entry(Page(page)).or_insert(*access);
                    *wanted = (*wanted).max(*access);
                }
            }
        }
        Ok(wanted)
    }

    /// Pages as runs by shard: adjacent pages, wanted for the same.
    fn runs(&self, pages: &BTreeMap<Page, Access>) -> BTreeMap<u16, Vec<(Run, Access)>> {
        let count = u16::try_from(self.shards.len()).unwrap_or(u16::MAX);
        let mut shards: BTreeMap<u16, Vec<(Run, Access)>> = BTreeMap::new();
        for (&page, &access) in pages {
            let runs = shards.entry(Shard::of(page, count)).or_default();
            match runs.last_mut() {
                Some((run, same)) if run.end() == page && *same == access && run.count < MAX_RUN => run.count += 1,
                _ => runs.push((Run::one(page), access)),
            }
        }
        shards
    }
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
    fn overlapping_ranges_become_runs_and_writing_wins() {
        let holds = holds(1, 16 << 20);
        let ranges = [
            range(0x3fff, 2, Access::Write),
            range(0, 0x5000, Access::Read),
            range(0x9000, 1, Access::Read),
            range(0xf_0000, 0, Access::Write),
        ];
        let runs = holds.runs(&holds.pages(&ranges).unwrap());
        let expected = vec![run(0, 3, Access::Read), run(3, 2, Access::Write), run(9, 1, Access::Read)];
        assert_eq!(runs, BTreeMap::from([(0, expected)]));
    }

    #[test]
    fn long_ranges_are_split_into_runs_that_a_message_can_name_and_by_shard() {
        let holds = holds(2, 256 << 20);
        let whole = 128 << 20;
        let runs = holds.runs(&holds.pages(&[range(0, whole, Access::Write)]).unwrap());
        assert_eq!(runs.keys().copied().collect::<Vec<_>>(), [0, 1]);
        assert!(runs.values().flatten().all(|(run, _)| run.count == MAX_RUN));
        assert_eq!(runs.values().flatten().count() as u64, whole / (u64::from(MAX_RUN) * 4096));
    }

    #[test]
    fn too_much_at_once_is_refused_at_the_limit() {
        let holds = holds(1, 300 << 20);
        let limit = MAX_HOLD_PAGES as u64 * 4096;
        assert!(holds.pages(&[range(0, limit, Access::Read)]).is_ok());
        assert!(matches!(holds.pages(&[range(0, limit + 1, Access::Read)]), Err(HoldError::TooMuch)));
        let two = [range(0, limit / 2, Access::Read), range(limit / 2, limit / 2 + 1, Access::Read)];
        assert!(matches!(holds.pages(&two), Err(HoldError::TooMuch)));
        assert!(matches!(holds.pages(&[range(300 << 20, 1, Access::Read)]), Err(HoldError::NotRam { .. })));
    }
}
