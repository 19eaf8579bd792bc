//! Locks: each a queue of ranks (Mellor-Crummey and Scott, "Algorithms for Scalable Synchronization on Shared-Memory Multiprocessors", 1991), with
//! compare-and-swap alone. The lock word, at the rank that keeps the lock, names the last in the queue. Whoever comes puts its name into the
//! queue node of the one before, and waits for words in its own segment; whoever leaves puts the lock there, with its clock. While a rank has the lock, its
//! own threads take turns without the network. One that a rank takes again and again stays with it when no thread has it (`kept.rs`).

use std::collections::{BTreeSet, VecDeque};

use crate::hlrc::action::{Action, Failure, Outcome, Watch};
use crate::hlrc::clock::Clock;
use crate::hlrc::layout::{HERE, read_record, record};
use crate::hlrc::{LockId, ThreadId};
use crate::id::Rank;

use super::jobs::{Job, Then};
use super::threads::Thread;
use super::{AcquireError, Node, Pending, ReleaseError, ThreadError};

/// How often threads of one rank may hand a lock to each other while another rank waits for it.
pub const LOCAL_TURNS: u32 = 16;

/// In the header of a record: the last holder ended with the lock.
const ABANDONED: u64 = 1;

/// Where this rank is with a lock.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Stage {
    /// Not in the queue.
    Out,
    /// It exchanges the lock word.
    Asking(u64),
    /// It is behind another rank.
    Queued,
    /// The lock was free: it reads the record.
    Reading,
    /// It takes over what others have changed.
    Applying,
    /// A thread has it.
    Held(ThreadId),
    /// This rank has it, and none of its threads, but those that it was lent to.
    Kept,
    /// It was asked for and is not back.
    Wanted,
    /// The interval ends.
    Releasing,
    /// It puts the record for whoever comes.
    Storing,
    /// It exchanges the lock word back.
    Freeing,
    /// Another rank has come, whose name is not there yet.
    Expecting,
    /// It hands the lock to the next.
    Granting,
}

/// A lock that is in use here.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Lock {
    stage: Stage,
    /// Threads that wait for it, in order.
    waiting: VecDeque<ThreadId>,
    /// The next rank in the queue.
    next: Option<Rank>,
    /// How often it was handed on within this rank.
    turns: u32,
    /// How often this rank has taken it in a row, after the first time.
    again: u32,
    /// Its last holder ended with it, which nobody has been told yet.
    abandoned: bool,
}

impl Default for Lock {
    fn default() -> Self {
        Self { stage: Stage::Out, waiting: VecDeque::new(), next: None, turns: 0, again: 0, abandoned: false }
    }
}

impl Node {
    /// A thread wants a lock; [`Outcome::Acquired`] tells that it has it.
    ///
    /// # Errors
    /// [`AcquireError`]; nothing has happened then.
    pub fn handle_acquire(&mut self, thread: ThreadId, lock: LockId) -> Result<(), AcquireError> {
        self.check_thread(thread)?;
        if lock.0 >= self.config.locks {
            return Err(AcquireError::NoLock { lock: lock.0, locks: self.config.locks });
        }
        if self.locks.get(&lock).is_some_and(|lock| lock.stage == Stage::Held(thread)) {
            return Err(AcquireError::Held(lock.0));
        }
        if self.wait(thread, Thread::Acquiring) {
            let entry = self.locks.entry(lock).or_default();
            entry.waiting.push_back(thread);
            if entry.stage == Stage::Out {
                self.ask(lock);
            } else if entry.stage == Stage::Kept {
                self.recall(lock);
            }
            self.work();
        }
        Ok(())
    }

    /// A thread gives a lock back. [`Outcome::Released`] tells when what it wrote is home, or at once if the lock stays at this rank: then it goes home before
    /// another rank has the lock.
    ///
    /// # Errors
    /// [`ReleaseError`]; nothing has happened then.
    pub fn handle_release(&mut self, thread: ThreadId, lock: LockId) -> Result<(), ReleaseError> {
        self.check_thread(thread)?;
        let held = self.locks.get_mut(&lock).filter(|lock| lock.stage == Stage::Held(thread));
        let Some(entry) = held else { return Err(ReleaseError::NotHeld(lock.0)) };
        let stays = !entry.waiting.is_empty() && (entry.next.is_none() || entry.turns < LOCAL_TURNS);
        let is_asked_for = !entry.waiting.is_empty() || entry.next.is_some();
        let is_kept = !is_asked_for && entry.again >= self.config.keep_after && !self.config.check_races;
        if !stays {
            entry.stage = if is_kept { Stage::Kept } else { Stage::Releasing };
        }
        if !self.wait(thread, Thread::Releasing) {
            return Ok(());
        }
        if stays {
            self.wake(thread, Outcome::Released);
            self.pass_on_here(lock);
        } else if is_kept {
            self.wake(thread, Outcome::Released);
            self.keep(lock);
        } else {
            self.jobs.add(Job::Release(thread, lock));
            self.work();
        }
        Ok(())
    }

    /// A thread gives back all the locks that it has, with one interval for all. [`Outcome::Released`] tells when what it wrote is home; at once if it
    /// has none.
    ///
    /// # Errors
    /// [`ThreadError`]; nothing has happened then.
    pub fn handle_give_up(&mut self, thread: ThreadId) -> Result<(), ThreadError> {
        self.check_thread(thread)?;
        let held = self.locks_of(thread);
        if !self.wait(thread, Thread::Releasing) {
            return Ok(());
        }
        for lock in &held {
            self.lock(*lock).stage = Stage::Releasing;
        }
        if held.is_empty() {
            self.wake(thread, Outcome::Released);
        } else {
            self.jobs.add(Job::GiveUp(thread, held));
            self.work();
        }
        Ok(())
    }

    /// Threads that have locks.
    #[must_use]
    pub fn holders(&self) -> BTreeSet<ThreadId> {
        let holder = |lock: &Lock| if let Stage::Held(thread) = lock.stage { Some(thread) } else { None };
        self.locks.values().filter_map(holder).collect()
    }

    /// A kept lock is asked for.
    pub(super) fn want(&mut self, lock: LockId) {
        self.lock(lock).stage = Stage::Wanted;
    }

    /// The locks that were asked for and are not back.
    pub(super) fn wanted(&self) -> Vec<LockId> {
        self.locks.iter().filter(|(_, lock)| lock.stage == Stage::Wanted).map(|(lock, _)| *lock).collect()
    }

    pub(super) fn is_wanted(&self, lock: LockId) -> bool {
        self.locks.get(&lock).is_some_and(|lock| lock.stage == Stage::Wanted)
    }

    /// A kept lock is back: a thread of this rank gets it, if one waits, before others do. Else it goes on when what was written is home.
    pub(super) fn returned(&mut self, lock: LockId) {
        if self.lock(lock).waiting.is_empty() {
            self.lock(lock).stage = Stage::Releasing;
            self.jobs.add(Job::PassOn(lock));
        } else {
            self.stats.locks_kept += 1;
            self.pass_on_here(lock);
        }
    }

    fn lock(&mut self, lock: LockId) -> &mut Lock {
        self.locks.entry(lock).or_default()
    }

    /// This rank as a lock word has it.
    fn name(&self) -> u64 {
        u64::from(self.rank().0) + 1
    }

    /// The rank that a word names: another one of this machine.
    fn named(&self, word: u64) -> Option<Rank> {
        let rank = Rank(u16::try_from(word.checked_sub(1)?).ok()?);
        (rank.0 < self.config.ranks() && rank != self.rank()).then_some(rank)
    }

    /// Begins to queue, with a queue node that is empty.
    fn ask(&mut self, lock: LockId) {
        let entry = self.lock(lock);
        entry.next = None;
        entry.turns = 0;
        entry.again = 0;
        let offset = self.layout.next(self.rank(), lock);
        let words = 1 + usize::try_from(self.layout.record_words()).unwrap_or(usize::MAX);
        self.do_next(Action::Store { offset, words: vec![0; words] });
        self.try_tail(lock, 0);
    }

    fn try_tail(&mut self, lock: LockId, expected: u64) {
        self.lock(lock).stage = Stage::Asking(expected);
        self.stats.lock_swaps += 1;
        let (place, name) = (self.layout.lock(lock), self.name());
        self.swap(Pending::Tail(lock), place, expected, name);
    }

    /// The lock word is known.
    pub(super) fn queued(&mut self, lock: LockId, old: u64) {
        let place = self.layout.lock(lock);
        let Stage::Asking(expected) = self.lock(lock).stage else { return };
        let before = self.named(old);
        if old != 0 && before.is_none() {
            return self.fail(Failure::Nonsense(place.0));
        }
        match before {
            _ if old != expected => self.try_tail(lock, old),
            None => {
                self.stats.locks_free += 1;
                self.lock(lock).stage = Stage::Reading;
                let (record, words) = (self.layout.lock_record(lock), self.layout.record_words());
                self.get(Pending::Record(lock), record, words);
            }
            Some(before) => {
                self.lock(lock).stage = Stage::Queued;
                let (next, word) = (self.layout.next(before, lock), self.name() | HERE);
                self.put(Pending::Free, (before, next), vec![word]);
            }
        }
    }

    /// The record of a free lock has come: nothing but zeros if nobody has had it.
    pub(super) fn record_got(&mut self, lock: LockId, words: &[u64]) {
        let keeper = self.layout.lock(lock).0;
        let nobody = words.iter().all(|word| *word == 0);
        match read_record(words) {
            None if !nobody => self.fail(Failure::Nonsense(keeper)),
            None => self.take_over(lock, keeper, 0, Clock::new(self.config.ranks())),
            Some((header, clock)) => {
                self.lock(lock).again = self.turns_before(lock, &clock).min(self.config.keep_after);
                self.take_over(lock, keeper, header, clock);
            }
        }
    }

    fn take_over(&mut self, lock: LockId, from: Rank, header: u64, clock: Clock) {
        if clock.positions().len() != usize::from(self.config.ranks()) || header > ABANDONED {
            return self.fail(Failure::Nonsense(from));
        }
        let entry = self.lock(lock);
        entry.abandoned = header == ABANDONED;
        entry.stage = Stage::Applying;
        self.jobs.add(Job::Apply(clock, Then::Lock(lock)));
    }

    /// This rank has the lock, and has taken over what others have changed.
    pub(super) fn hold(&mut self, lock: LockId) {
        if self.lock(lock).waiting.is_empty() {
            self.pass_on(lock);
        } else {
            self.pass_on_here(lock);
        }
    }

    /// Gives the lock to the next thread of this rank.
    fn pass_on_here(&mut self, lock: LockId) {
        let entry = self.lock(lock);
        let Some(thread) = entry.waiting.pop_front() else { return };
        let abandoned = std::mem::take(&mut entry.abandoned);
        if matches!(entry.stage, Stage::Held(_)) {
            entry.turns = entry.turns.saturating_add(1);
            self.stats.locks_local += 1;
        }
        self.lock(lock).stage = Stage::Held(thread);
        self.wake(thread, Outcome::Acquired { abandoned });
    }

    /// Gives the lock to the next rank, if there is one; what it is to see is home.
    pub(super) fn pass_on(&mut self, lock: LockId) {
        if self.lock(lock).next.is_some() {
            return self.grant(lock);
        }
        let entry = self.lock(lock);
        entry.stage = Stage::Storing;
        let again = entry.again;
        self.leave_turns(lock, again);
        let place = self.layout.lock_record(lock);
        let words = self.lock_record(lock);
        self.put(Pending::Store(lock), place, words);
    }

    fn lock_record(&mut self, lock: LockId) -> Vec<u64> {
        let header = if self.lock(lock).abandoned { ABANDONED } else { 0 };
        record(header, &self.clock)
    }

    pub(super) fn stored(&mut self, lock: LockId) {
        self.lock(lock).stage = Stage::Freeing;
        self.stats.lock_swaps += 1;
        let (place, name) = (self.layout.lock(lock), self.name());
        self.swap(Pending::Unlock(lock), place, name, 0);
    }

    /// The lock word is known again: another rank is behind this one if it was not this one's name.
    pub(super) fn unlocked(&mut self, lock: LockId, old: u64) {
        if old == self.name() {
            self.leave(lock);
        } else if self.named(old).is_none() {
            self.fail(Failure::Nonsense(self.layout.lock(lock).0));
        } else if self.lock(lock).next.is_some() {
            self.grant(lock);
        } else {
            self.lock(lock).stage = Stage::Expecting;
        }
    }

    fn grant(&mut self, lock: LockId) {
        let entry = self.lock(lock);
        let Some(next) = entry.next.take() else { return };
        entry.stage = Stage::Granting;
        self.forget_turns(lock);
        let words = self.lock_record(lock);
        let place = (next, self.layout.grant(next, lock));
        self.put(Pending::Grant(lock), place, words);
    }

    /// The next rank has it.
    pub(super) fn granted(&mut self, lock: LockId) {
        self.leave(lock);
    }

    /// This rank is out of the queue, and in again behind the others if its threads wait.
    fn leave(&mut self, lock: LockId) {
        let entry = self.lock(lock);
        entry.stage = Stage::Out;
        entry.abandoned = false;
        if entry.waiting.is_empty() {
            self.locks.remove(&lock);
        } else {
            self.ask(lock);
        }
    }

    /// What to look at: the name of the next, and the lock itself.
    pub(super) fn lock_watches(&self) -> impl Iterator<Item = Watch> {
        let words = u32::try_from(self.layout.record_words()).unwrap_or(u32::MAX);
        self.locks.iter().flat_map(move |(lock, entry)| {
            let (next, grant) = (self.layout.next(self.rank(), *lock), self.layout.grant(self.rank(), *lock));
            let in_queue = !matches!(entry.stage, Stage::Out | Stage::Asking(_) | Stage::Granting);
            let next = (in_queue && entry.next.is_none()).then_some(Watch { offset: next, words: 1 });
            let grant = (entry.stage == Stage::Queued).then_some(Watch { offset: grant, words });
            next.into_iter().chain(grant)
        })
    }

    /// Something is in a queue node.
    pub(super) fn lock_words(&mut self, watch: Watch, words: &[u64]) {
        let me = self.rank();
        let at = |lock: &LockId| {
            let (next, grant) = (self.layout.next(me, *lock), self.layout.grant(me, *lock));
            (watch.offset == next || watch.offset == grant).then_some((*lock, watch.offset == next))
        };
        let Some((lock, is_next)) = self.locks.keys().find_map(at) else { return };
        if is_next {
            self.next_is_there(lock, words);
        } else if let Some((header, clock)) = read_record(words) {
            self.stats.locks_handed += 1;
            let keeper = self.layout.lock(lock).0;
            self.take_over(lock, keeper, header, clock);
        }
    }

    fn next_is_there(&mut self, lock: LockId, words: &[u64]) {
        let Some(word) = words.first().filter(|word| **word & HERE != 0) else { return };
        let Some(next) = self.named(word & !HERE) else {
            return self.fail(Failure::Nonsense(self.layout.lock(lock).0));
        };
        let entry = self.lock(lock);
        entry.next = Some(next);
        if entry.stage == Stage::Expecting {
            self.grant(lock);
        } else if entry.stage == Stage::Kept {
            self.recall(lock);
        }
    }

    /// Locks that a thread holds.
    #[must_use]
    pub fn locks_of(&self, thread: ThreadId) -> Vec<LockId> {
        self.locks.iter().filter(|(_, lock)| lock.stage == Stage::Held(thread)).map(|(lock, _)| *lock).collect()
    }

    /// Whether another thread of this rank has handed the lock to its holder, with changes that are not home.
    pub(super) fn was_handed_here(&self, lock: LockId) -> bool {
        self.locks.get(&lock).is_some_and(|lock| lock.turns > 0)
    }

    /// The holder of a lock has ended: the next one gets it, after this rank's changes are home if they are to be seen.
    pub(super) fn abandon(&mut self, lock: LockId, has_changes: bool) {
        let entry = self.lock(lock);
        entry.abandoned = true;
        if entry.waiting.is_empty() && has_changes {
            entry.stage = Stage::Releasing;
            self.jobs.add(Job::PassOn(lock));
        } else {
            self.hold(lock);
        }
    }

    /// A thread waits for no lock any more. One that comes for nobody is passed on.
    pub(super) fn leave_queues(&mut self, thread: ThreadId) {
        self.locks.values_mut().for_each(|lock| lock.waiting.retain(|waiter| *waiter != thread));
    }
}
