//! Stopping all vCPUs of the machine, as rank 0 sees it.

use std::sync::mpsc::Sender;

use vincs_coherence::id::{Rank, RankSet};

/// Calls a function when it is dropped: when the last of those who share it has.
pub(super) struct WhenDropped<F: Fn()>(pub(super) F);

impl<F: Fn()> Drop for WhenDropped<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// The pause that is asked for, if one is.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    /// Of the last pause.
    number: u32,
    /// Whose vCPUs have not stopped yet.
    missing: RankSet,
    /// Who waits for them.
    waiting: Vec<Sender<()>>,
    /// All are to stay stopped.
    stands: bool,
}

impl Pauses {
    /// All are to stop: the number to tell them. Answers to earlier pauses count no more.
    pub(super) fn begin(&mut self, ranks: impl Iterator<Item = Rank>, done: Sender<()>) -> u32 {
        self.number = self.number.wrapping_add(1);
        self.missing = ranks.collect();
        self.waiting.push(done);
        self.stands = true;
        self.number
    }

    /// A rank's vCPUs have stopped for the pause with this number.
    pub(super) fn paused(&mut self, rank: Rank, number: u32) {
        if number == self.number && self.missing.remove(rank) && self.missing.is_empty() {
            for done in self.waiting.drain(..) {
                // Whoever asked may not wait any more.
                let _ = done.send(());
            }
        }
    }

    /// All go on: nobody waits for their stop any more.
    pub(super) fn end(&mut self) {
        self.number = self.number.wrapping_add(1);
        self.waiting.clear();
        self.stands = false;
    }

    /// The number to tell a rank that comes while all are to be stopped.
    pub(super) fn standing(&self) -> Option<u32> {
        self.stands.then_some(self.number)
    }

    /// A rank takes no part any more: it has no vCPU that could stop.
    pub(super) fn gone(&mut self, rank: Rank) {
        self.paused(rank, self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{TryRecvError, channel};

    use super::*;

    #[test]
    fn a_pause_is_over_when_all_have_stopped_for_it() {
        let mut pauses = Pauses::default();
        let both = || [Rank(0), Rank(1)].into_iter();
        let (sender, first) = channel();
        let early = pauses.begin(both(), sender);
        pauses.paused(Rank(0), early);
        let (sender, second) = channel();
        let number = pauses.begin(both(), sender);
        pauses.paused(Rank(1), early);
        pauses.paused(Rank(1), number);
        pauses.paused(Rank(1), number);
        assert_eq!((first.try_recv(), second.try_recv()), (Err(TryRecvError::Empty), Err(TryRecvError::Empty)));
        pauses.paused(Rank(0), number);
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(()), Ok(())));
        let (sender, third) = channel();
        let number = pauses.begin(both(), sender);
        assert_eq!(pauses.standing(), Some(number));
        pauses.end();
        assert_eq!(pauses.standing(), None);
        assert_eq!(third.try_recv(), Err(TryRecvError::Disconnected), "it went on before it had stopped");
        let (sender, fourth) = channel();
        let number = pauses.begin(both(), sender);
        pauses.paused(Rank(0), number);
        pauses.gone(Rank(1));
        assert_eq!(fourth.try_recv(), Ok(()), "the one that was waited for is gone");
    }
}
