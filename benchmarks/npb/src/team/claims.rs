//! Who may touch which bytes of a segment.
//!
//! A member claims bytes before it touches them, to read or to write. A claim that is in conflict with another is refused, while
//! the other is held, and also after that until the next barrier: without a barrier between the two nothing tells which of them
//! comes first, even if it went well this time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// The claims on one segment. Bytes are counted from its start.
#[derive(Debug, Default)]
pub struct Claims {
    table: Mutex<Table>,
}

/// The claims of one interval between two barriers, and those of earlier ones that are still held.
#[derive(Debug, Default)]
struct Table {
    interval: u64,
    reads: Vec<Read>,
    /// By their first byte. No two of them overlap.
    writes: BTreeMap<usize, Write>,
}

#[derive(Debug)]
struct Read {
    bytes: Range<usize>,
    member: usize,
    /// How many claims of just these bytes are held.
    held: usize,
}

#[derive(Debug)]
struct Write {
    end: usize,
    member: usize,
    held: bool,
}

impl Claims {
    /// Lets `member`, which has passed `interval` barriers, read these bytes until [`Self::end_read`].
    ///
    /// # Panics
    ///
    /// When the member itself has claimed some of them for writing, or another has since the last barrier.
    pub(super) fn read(&self, member: usize, interval: u64, bytes: &Range<usize>) {
        self.with_table(|table| {
            table.enter(interval);
            for (_, write) in table.overlapping_writes(bytes) {
                assert!(write.member == member && !write.held, "{}", conflict(member, "reads", bytes, write.member));
            }
            match table.reads.iter_mut().find(|read| read.member == member && read.bytes == *bytes) {
                Some(read) => read.held += 1,
                None => table.reads.push(Read { bytes: bytes.clone(), member, held: 1 }),
            }
        });
    }

    /// Ends a claim of [`Self::read`].
    pub(super) fn end_read(&self, member: usize, bytes: &Range<usize>) {
        self.with_table(|table| {
            let same = |read: &&mut Read| read.held > 0 && read.member == member && read.bytes == *bytes;
            if let Some(read) = table.reads.iter_mut().find(same) {
                read.held -= 1;
            }
        });
    }

    /// Lets `member`, which has passed `interval` barriers, write these bytes until [`Self::end_write`].
    ///
    /// # Panics
    ///
    /// When the member itself has claimed some of them, or another has since the last barrier.
    pub(super) fn write(&self, member: usize, interval: u64, bytes: &Range<usize>) {
        self.with_table(|table| {
            table.enter(interval);
            for read in table.reads.iter().filter(|read| overlap(&read.bytes, bytes)) {
                assert!(read.member == member && read.held == 0, "{}", conflict(member, "writes", bytes, read.member));
            }
            for (_, write) in table.overlapping_writes(bytes) {
                assert!(write.member == member && !write.held, "{}", conflict(member, "writes", bytes, write.member));
            }
            let earlier: Vec<_> = table.overlapping_writes(bytes).map(|(start, write)| (start, write.end)).collect();
            for (start, end) in earlier {
                table.writes.remove(&start);
                // Of the earlier claim, what the new one does not cover stays.
                for rest in [start..bytes.start, bytes.end..end].into_iter().filter(|rest| !rest.is_empty()) {
                    table.writes.insert(rest.start, Write { end: rest.end, member, held: false });
                }
            }
            table.writes.insert(bytes.start, Write { end: bytes.end, member, held: true });
        });
    }

    /// Ends a claim of [`Self::write`].
    pub(super) fn end_write(&self, bytes: &Range<usize>) {
        self.with_table(|table| {
            // A claim that is held overlaps no other, so its first byte tells which it is.
            if let Some(write) = table.writes.get_mut(&bytes.start) {
                write.held = false;
            }
        });
    }

    fn with_table<R>(&self, with: impl FnOnce(&mut Table) -> R) -> R {
        with(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Table {
    /// Forgets what was before the last barrier. No member can be in an earlier interval any more when one is in this.
    fn enter(&mut self, interval: u64) {
        if interval != self.interval {
            assert!(interval > self.interval, "a member has missed a barrier");
            self.interval = interval;
            self.reads.retain(|read| read.held > 0);
            self.writes.retain(|_, write| write.held);
        }
    }

    fn overlapping_writes(&self, bytes: &Range<usize>) -> impl Iterator<Item = (usize, &Write)> {
        // They do not overlap each other, so the ends are in the order of the starts.
        let before_end = self.writes.range(..bytes.end).rev();
        before_end.map(|(start, write)| (*start, write)).take_while(|(_, write)| write.end > bytes.start)
    }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

fn conflict(member: usize, does: &str, bytes: &Range<usize>, other: usize) -> String {
    format!("member {member} {does} bytes {bytes:?} of a segment of which member {other} has claimed some")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the claim is refused. The claims are as they were before if it is.
    fn refused(claim: impl FnOnce()) -> bool {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(claim)).is_err()
    }

    #[test]
    fn a_byte_is_read_by_many_or_written_by_one() {
        let claims = Claims::default();
        claims.read(0, 0, &(0..10));
        claims.read(1, 0, &(5..15));
        assert!(refused(|| claims.write(2, 0, &(14..20))));
        claims.write(2, 0, &(15..20));
        assert!(refused(|| claims.write(1, 0, &(19..21))));
        assert!(refused(|| claims.read(1, 0, &(0..16))));
        claims.write(1, 0, &(20..21));
    }

    #[test]
    fn what_a_member_holds_it_cannot_claim_again_for_writing() {
        let claims = Claims::default();
        claims.write(0, 0, &(0..4));
        assert!(refused(|| claims.read(0, 0, &(3..5))));
        claims.end_write(&(0..4));
        claims.read(0, 0, &(3..5));
        claims.read(0, 0, &(3..5));
        claims.end_read(0, &(3..5));
        assert!(refused(|| claims.write(0, 0, &(4..6))));
        claims.end_read(0, &(3..5));
        claims.write(0, 0, &(4..6));
    }

    #[test]
    fn only_a_barrier_makes_others_bytes_free() {
        let claims = Claims::default();
        claims.write(0, 0, &(0..8));
        claims.end_write(&(0..8));
        claims.write(0, 0, &(2..4));
        claims.end_write(&(2..4));
        for bytes in [0..2, 3..4, 7..9] {
            assert!(refused(|| claims.read(1, 0, &bytes)), "{bytes:?}");
        }
        claims.read(1, 1, &(0..8));
        claims.end_read(1, &(0..8));
        assert!(refused(|| claims.write(0, 1, &(7..8))));
        claims.write(0, 2, &(7..8));
    }

    #[test]
    fn a_claim_that_is_held_outlives_a_barrier() {
        let claims = Claims::default();
        claims.write(0, 0, &(0..8));
        claims.read(0, 0, &(8..9));
        assert!(refused(|| claims.read(1, 1, &(7..8))));
        assert!(refused(|| claims.write(1, 1, &(8..9))));
    }

    #[test]
    fn a_member_that_lags_is_refused() {
        let claims = Claims::default();
        claims.read(0, 3, &(0..1));
        assert!(refused(|| claims.read(1, 2, &(5..6))));
    }
}
