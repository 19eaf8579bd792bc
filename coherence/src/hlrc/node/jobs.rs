//! What synchronisation makes a rank do, one job after the other: ending an interval, and taking over what others have changed.

use std::collections::{BTreeSet, VecDeque};

use crate::hlrc::action::{Action, Outcome};
use crate::hlrc::clock::{Clock, Position};
use crate::hlrc::notice::{self, MAX_INTERVAL};
use crate::hlrc::{LockId, ThreadId};
use crate::id::{Page, Rank, Run};

use super::Node;
use super::flush::Flushing;

/// Who goes on when others' changes have been taken over.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Then {
    /// The threads that wait for a lock.
    Lock(LockId),
    /// All threads.
    Barrier,
    /// The one that was told of a clock.
    Thread(ThreadId),
}

/// A job.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Job {
    /// End the interval, then pass a lock on.
    Release(ThreadId, LockId),
    /// End the interval, then pass on all these locks.
    GiveUp(ThreadId, Vec<LockId>),
    /// End the interval, then pass on a lock that no thread has: its holder has ended, or the rank has kept it.
    PassOn(LockId),
    /// End the interval, for a thread that will tell others itself.
    Publish(ThreadId),
    /// End the interval, then meet the other ranks.
    Meet,
    /// Take over all that this clock covers.
    Apply(Clock, Then),
    /// Bring pages home for room.
    Relieve,
}

/// The job at work.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Current {
    pub(super) job: Job,
    /// Gets of notices under way.
    pub(super) reading: usize,
    /// What they have brought.
    pub(super) named: BTreeSet<Run>,
    /// A ring has gone round before its notices were read.
    pub(super) overrun: bool,
    /// Pages are on their way home.
    flushing: bool,
    /// Pages of the interval that ends.
    changed: BTreeSet<Page>,
    /// Pages to drop when they are home.
    dropped: Vec<Page>,
}

/// All jobs.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Jobs {
    pub(super) current: Option<Current>,
    waiting: VecDeque<Job>,
    /// Pages on their way home, for the job at work.
    pub(super) flushing: Flushing,
    /// Pages that wait until fewer are written.
    pub(super) starved: BTreeSet<Page>,
}

impl Jobs {
    /// How many pages are on their way home.
    pub(super) fn flushing(&self) -> usize {
        self.flushing.len()
    }

    pub(super) fn add(&mut self, job: Job) {
        self.waiting.push_back(job);
    }

    /// A page waits until fewer are written.
    pub(super) fn relieve(&mut self, page: Page) {
        self.starved.insert(page);
        if !self.waiting.contains(&Job::Relieve) {
            self.waiting.push_back(Job::Relieve);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.current.is_none() && self.waiting.is_empty()
    }
}

impl Node {
    /// Goes on with the job at work, and then with the next ones.
    pub(super) fn work(&mut self) {
        while self.failure.is_none() {
            match &self.jobs.current {
                None => match self.jobs.waiting.pop_front() {
                    Some(job) => self.start(job),
                    None => return,
                },
                Some(current) if current.reading > 0 => return,
                Some(current) if current.flushing => {
                    if !self.is_flushed() {
                        return;
                    }
                    // Before anybody is let in again: what was written to a page that is dropped then would be lost.
                    let dropped = self.jobs.current.as_mut().map(|current| std::mem::take(&mut current.dropped));
                    for page in dropped.unwrap_or_default() {
                        self.drop_copy(page);
                    }
                    self.end_flush();
                    self.finish();
                }
                Some(_) => self.begin_to_drop(),
            }
        }
    }

    fn start(&mut self, job: Job) {
        let mut current = Current {
            reading: 0,
            named: BTreeSet::new(),
            overrun: false,
            flushing: false,
            changed: BTreeSet::new(),
            dropped: Vec::new(),
            job,
        };
        let pages: Vec<Page> = match &current.job {
            Job::Apply(clock, _) => {
                let clock = clock.clone();
                self.jobs.current = Some(current);
                return self.read_notices(&clock);
            }
            Job::Release(..) | Job::GiveUp(..) | Job::PassOn(_) | Job::Publish(_) | Job::Meet => {
                current.changed = std::mem::take(&mut self.interval);
                self.changes_go_home();
                self.written.union(&self.written_here).copied().collect()
            }
            Job::Relieve => {
                self.stats.early_flushes += self.written.len() as u64;
                self.written.iter().copied().collect()
            }
        };
        current.flushing = true;
        self.jobs.current = Some(current);
        self.begin_flush(pages);
    }

    /// All notices are there: what they name goes, first home if it has been written here too.
    fn begin_to_drop(&mut self) {
        let Some(current) = &mut self.jobs.current else { return };
        let (named, overrun) = (std::mem::take(&mut current.named), current.overrun);
        current.flushing = true;
        let pages = if overrun {
            self.stats.log_overruns += 1;
            self.copies.keys().copied().filter(|page| !self.is_home(*page)).collect()
        } else {
            self.copies_of(&named)
        };
        let (dropped, clean): (Vec<_>, Vec<_>) = pages.into_iter().partition(|page| self.written.contains(page));
        for page in clean {
            self.drop_copy(page);
        }
        // What is written before and what after this rank has seen more must not be one difference.
        let written = if self.config.check_races && self.sees_more() {
            self.written.iter().copied().collect()
        } else {
            dropped.clone()
        };
        self.stats.early_flushes += written.len() as u64;
        if let Some(current) = &mut self.jobs.current {
            current.dropped = dropped;
        }
        self.begin_flush(written);
    }

    /// Whether the clock that the job at work takes over covers what this rank's own does not.
    fn sees_more(&self) -> bool {
        let job = self.jobs.current.as_ref().map(|current| &current.job);
        matches!(job, Some(Job::Apply(clock, _)) if !self.clock.covers(clock))
    }

    fn drop_copy(&mut self, page: Page) {
        if self.permitted(page).is_some() {
            self.stats.invalidations += 1;
        }
        self.unmap(page);
        self.go_on_with(page);
    }

    /// Pages of other homes that these runs name and that this rank has something of.
    fn copies_of(&self, named: &BTreeSet<Run>) -> BTreeSet<Page> {
        let of_run = |run: &Run| self.copies.range(run.first..run.end()).map(|(page, _)| *page);
        named.iter().flat_map(of_run).filter(|page| !self.is_home(*page)).collect()
    }

    fn finish(&mut self) {
        let Some(current) = self.jobs.current.take() else { return };
        match current.job {
            Job::Release(thread, lock) => {
                self.end_interval(current.changed);
                self.wake(thread, Outcome::Released);
                self.pass_on(lock);
            }
            Job::GiveUp(thread, locks) => {
                self.end_interval(current.changed);
                self.wake(thread, Outcome::Released);
                locks.into_iter().for_each(|lock| self.pass_on(lock));
            }
            Job::PassOn(lock) => {
                self.end_interval(current.changed);
                self.pass_on(lock);
            }
            Job::Publish(thread) => {
                self.end_interval(current.changed);
                if !self.has_ended(thread) {
                    self.published.insert(thread, self.clock.clone());
                }
                self.wake(thread, Outcome::Published);
            }
            Job::Meet => {
                self.end_interval(current.changed);
                self.meet();
            }
            Job::Apply(clock, then) => {
                let own = self.clock.of(self.rank());
                self.clock.merge(&clock);
                self.clock.set(self.rank(), own);
                match then {
                    Then::Lock(lock) => self.hold(lock),
                    Then::Barrier => self.pass_barrier(),
                    Then::Thread(thread) => self.wake(thread, Outcome::Seen),
                }
            }
            Job::Relieve => {}
        }
    }

    /// The changes of an interval are home: says so in the ring.
    fn end_interval(&mut self, changed: BTreeSet<Page>) {
        if changed.is_empty() {
            return;
        }
        let runs = notice::compact(changed, MAX_INTERVAL);
        self.stats.intervals += 1;
        self.stats.notices += runs.len() as u64;
        let (me, start) = (self.rank(), self.clock.of(self.rank()));
        let ring = self.layout.log_words();
        // Of more than the ring holds only the last ones could be read.
        let kept = runs.len().saturating_sub(ring as usize);
        let words: Vec<(Position, u64)> = { (0..).zip(&runs).skip(kept) }
            .map(|(index, run)| (start.after(index), notice::encode(*run, start.after(index), ring)))
            .collect();
        for piece in words.chunk_by(|_, (next, _)| !next.0.is_multiple_of(ring.into())) {
            if let Some((first, _)) = piece.first() {
                let offset = self.layout.notice(me, *first);
                self.do_next(Action::Store { offset, words: piece.iter().map(|(_, word)| *word).collect() });
            }
        }
        self.clock.set(me, start.after(runs.len()));
    }

    /// The rank that a clock entry belongs to, for all ranks but this one.
    pub(super) fn others(&self) -> impl Iterator<Item = Rank> + use<> {
        let me = self.rank();
        (0..self.config.ranks()).map(Rank).filter(move |rank| *rank != me)
    }
}
