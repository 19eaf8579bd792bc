//! How notices are read: out of the rings of those that wrote them, each with one get, or two where the ring ends.

use crate::hlrc::action::Failure;
use crate::hlrc::clock::{Clock, Position};
use crate::hlrc::notice;
use crate::id::Rank;

use super::{Node, Pending};

impl Node {
    /// Begins to read the notices that a clock covers and this rank's own does not.
    pub(super) fn read_notices(&mut self, clock: &Clock) {
        let ring = u64::from(self.layout.log_words());
        for rank in self.others() {
            let (from, to) = (self.clock.of(rank), clock.of(rank));
            let Some(count) = to.0.checked_sub(from.0).filter(|count| *count > 0) else { continue };
            if count > ring {
                self.overrun();
                continue;
            }
            let to_the_end = (ring - from.0 % ring).min(count);
            self.read_piece(rank, from, to_the_end);
            self.read_piece(rank, Position(from.0 + to_the_end), count - to_the_end);
        }
    }

    fn read_piece(&mut self, rank: Rank, from: Position, count: u64) {
        if count == 0 {
            return;
        }
        if let Some(current) = &mut self.jobs.current {
            current.reading += 1;
        }
        self.stats.notices_read += count;
        let offset = self.layout.notice(rank, from);
        self.get(Pending::Notices(rank, from), (rank, offset), count);
    }

    /// Notices have come. One of another time round says that the ring has gone on meanwhile.
    pub(super) fn notices_got(&mut self, rank: Rank, from: Position, words: &[u64]) {
        let ring = self.layout.log_words();
        let runs: Option<Vec<_>> =
            { (0..).zip(words) }.map(|(index, word)| notice::decode(*word, from.after(index), ring)).collect();
        let end = self.config.homes.pages();
        if runs.iter().flatten().any(|run| run.first.0.checked_add(run.count.into()).is_none_or(|last| last > end)) {
            return self.fail(Failure::Nonsense(rank));
        }
        let Some(current) = &mut self.jobs.current else { return };
        current.reading -= 1;
        match runs {
            Some(runs) => current.named.extend(runs),
            None => self.overrun(),
        }
    }

    /// What has changed cannot be told any more.
    fn overrun(&mut self) {
        if let Some(current) = &mut self.jobs.current {
            current.overrun = true;
        }
    }
}
