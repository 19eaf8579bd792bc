//! Barriers by dissemination (Hensgen, Finkel and Manber, "Two Algorithms for Barrier Synchronization", 1988): in round k a rank puts what it knows to the rank 2^k further
//! on, so after a logarithm of rounds everybody has heard of everybody. What it knows is a clock and contributions to a reduction: a barrier takes no more messages
//! for that. There are two sets of slots, as a rank may come to the next barrier before the last one has seen the end of this one.

use std::collections::BTreeMap;

use crate::hlrc::ThreadId;
use crate::hlrc::action::{Action, Failure, Outcome, Watch};
use crate::hlrc::clock::{Clock, Position};
use crate::hlrc::layout::{HERE, record};
use crate::id::Rank;

use super::jobs::{Job, Then};
use super::threads::Thread;
use super::{BarrierError, Node, Pending, Reduction};

/// Bits of the header for what it is; the size of the team follows.
const CODE_BITS: u32 = 8;
/// In half of a contribution: it is known. The half itself is in the bits below.
const KNOWN: u64 = 1 << 32;

/// Where this rank is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Stage {
    /// Its threads come.
    Gathering,
    /// All of them have: the interval ends.
    Ending,
    /// It waits for a round's record.
    Round(u32),
    /// It takes over what others have changed.
    Applying,
}

/// The barrier that is at hand.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Barrier {
    stage: Stage,
    /// Which set of slots.
    odd: bool,
    kind: Option<Reduction>,
    /// Who has come, and with what.
    come: BTreeMap<ThreadId, u64>,
    /// What is known of all ranks.
    clock: Clock,
    values: Vec<Option<u64>>,
}

impl Barrier {
    pub(super) fn new(ranks: u16) -> Self {
        Self {
            stage: Stage::Gathering,
            odd: false,
            kind: None,
            come: BTreeMap::new(),
            clock: Clock::new(ranks),
            values: vec![None; ranks.into()],
        }
    }
}

impl Node {
    /// A thread has come to a barrier of so many threads; [`Outcome::Passed`] tells that all have. With a reduction and a word it gets the result with that.
    ///
    /// # Errors
    /// [`BarrierError`]; nothing has happened then.
    pub fn handle_barrier(
        &mut self,
        thread: ThreadId,
        members: u32,
        reduce: Option<(Reduction, u64)>,
    ) -> Result<(), BarrierError> {
        self.check_thread(thread)?;
        let team = self.config.members();
        if members != team {
            return Err(BarrierError::Team { given: members, team });
        }
        let kind = reduce.map(|(reduction, _)| reduction);
        if !self.barrier.come.is_empty() && self.barrier.kind != kind {
            return Err(BarrierError::Other);
        }
        if self.wait(thread, Thread::AtBarrier) {
            self.barrier.kind = kind;
            self.barrier.come.insert(thread, reduce.map_or(0, |(_, word)| word));
            self.come_to_barrier();
            self.work();
        }
        Ok(())
    }

    /// If all threads that live have come, the rank has.
    pub(super) fn come_to_barrier(&mut self) {
        let gathered = self.living().all(|thread| self.barrier.come.contains_key(&thread));
        if self.barrier.stage != Stage::Gathering || self.barrier.come.is_empty() || !gathered {
            return;
        }
        self.barrier.stage = Stage::Ending;
        self.jobs.add(Job::Meet);
    }

    /// This rank's interval has ended.
    pub(super) fn meet(&mut self) {
        let me = usize::from(self.rank().0);
        self.barrier.clock.clone_from(&self.clock);
        let words = self.barrier.come.values().copied();
        let own = self.barrier.kind.and_then(|kind| words.reduce(|one, other| kind.join(one, other)));
        self.barrier.values.fill(None);
        if let Some(value) = self.barrier.values.get_mut(me) {
            *value = own;
        }
        self.begin_round(0);
    }

    fn header(&self) -> u64 {
        Reduction::code(self.barrier.kind) | u64::from(self.config.members()) << CODE_BITS
    }

    /// The rank so many further on, round the ring.
    fn further(&self, by: u32) -> Rank {
        let ranks = u32::from(self.config.ranks());
        Rank(u16::try_from((u32::from(self.rank().0) + by) % ranks).unwrap_or(0))
    }

    fn begin_round(&mut self, round: u32) {
        if round == self.layout.rounds() {
            return self.all_have_come();
        }
        self.barrier.stage = Stage::Round(round);
        let to = self.further(1 << round);
        let mut words = record(self.header(), &self.barrier.clock);
        words.extend(self.barrier.values.iter().flat_map(|value| halves(*value)));
        let offset = self.layout.slot(to, self.barrier.odd, round);
        self.put(Pending::Free, (to, offset), words);
    }

    pub(super) fn barrier_watch(&self) -> Option<Watch> {
        let Stage::Round(round) = self.barrier.stage else { return None };
        let offset = self.layout.slot(self.rank(), self.barrier.odd, round);
        Some(Watch { offset, words: u32::try_from(self.layout.slot_words()).unwrap_or(u32::MAX) })
    }

    /// Something is in the slot of a round; false if that is no barrier's.
    pub(super) fn barrier_words(&mut self, watch: Watch, words: &[u64]) -> bool {
        let (true, Stage::Round(round)) = (self.barrier_watch() == Some(watch), self.barrier.stage) else {
            return false;
        };
        if words.iter().all(|word| word & HERE != 0) {
            self.heard(round, words);
        }
        true
    }

    fn heard(&mut self, round: u32, words: &[u64]) {
        let ranks = u32::from(self.config.ranks());
        let from = self.further(ranks - (1 << round));
        let Some((header, rest)) = words.split_first() else { return };
        if header & !HERE != self.header() {
            return self.fail(Failure::Mismatch(from));
        }
        let (clock, values) = rest.split_at_checked(self.config.ranks().into()).unwrap_or_default();
        let clock = clock.iter().map(|word| Position(word & !HERE)).collect();
        self.barrier.clock.merge(&Clock::from_positions(clock));
        let (pairs, _) = values.as_chunks::<2>();
        for (mine, heard) in self.barrier.values.iter_mut().zip(pairs) {
            *mine = mine.or(whole(*heard));
        }
        self.begin_round(round + 1);
    }

    /// Everybody has come. Nobody puts into this set of slots before this rank has come to the next barrier.
    fn all_have_come(&mut self) {
        self.barrier.stage = Stage::Applying;
        let words = u64::from(self.layout.rounds()) * self.layout.slot_words();
        if words > 0 {
            let offset = self.layout.slot(self.rank(), self.barrier.odd, 0);
            let words = usize::try_from(words).unwrap_or(usize::MAX);
            self.do_next(Action::Store { offset, words: vec![0; words] });
        }
        self.jobs.add(Job::Apply(self.barrier.clock.clone(), Then::Barrier));
    }

    /// What others have changed is taken over: all threads go on.
    pub(super) fn pass_barrier(&mut self) {
        let next = Barrier { odd: !self.barrier.odd, ..Barrier::new(self.config.ranks()) };
        let barrier = std::mem::replace(&mut self.barrier, next);
        let values = barrier.values.iter().copied().flatten();
        let result = barrier.kind.and_then(|kind| values.reduce(|one, other| kind.join(one, other)));
        self.stats.barriers += 1;
        self.stats.reductions += u64::from(barrier.kind.is_some());
        for thread in barrier.come.into_keys() {
            self.wake(thread, Outcome::Passed(result));
        }
    }
}

/// A contribution as two words, each with its mark.
fn halves(value: Option<u64>) -> [u64; 2] {
    let known = if value.is_some() { HERE | KNOWN } else { HERE };
    let value = value.unwrap_or(0);
    [known | value >> u32::BITS, known | value & u64::from(u32::MAX)]
}

/// The contribution that two words are.
fn whole([high, low]: [u64; 2]) -> Option<u64> {
    let half = |word: u64| word & u64::from(u32::MAX);
    (high & low & KNOWN != 0).then(|| half(high) << u32::BITS | half(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contributions_are_read_as_they_were_written() {
        for value in [None, Some(0), Some(1), Some(u64::MAX), Some(1 << 63), Some(0x1234_5678_9abc_def0)] {
            assert_eq!(whole(halves(value)), value);
        }
    }
}
