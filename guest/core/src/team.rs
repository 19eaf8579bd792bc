//! A team of threads, each on a processor of its own.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::array::Element;
use crate::memory::OpenError;
use crate::ranks::{Device, TEAMS};
use crate::sync::{Group, LockError};
use crate::wait::{wait_while, wake_all};

/// Why there is no team.
#[derive(Debug, thiserror::Error)]
pub enum TeamError {
    /// Two members on one processor would wait for each other in turns.
    #[error(
        "a team of {asked}: this program may run on {processors} processors, and a team has 1 to {processors} members"
    )]
    Size {
        /// Members asked for.
        asked: u32,
        /// Processors there are for this program.
        processors: u32,
    },
    /// The kernel does not tell the processors, or gives none.
    #[error("a member cannot be put on its processor: {0}; see what may be used with taskset -p")]
    Processor(io::Error),
    /// A machine of several ranks has locks for so many teams of a program, on processors that it had when it opened relaxed memory.
    #[error(
        "a program on several ranks has at most {TEAMS} teams at a time, on the processors that it began with: end one"
    )]
    Teams,
    /// A machine of several ranks has its relaxed memory in use, or cannot give it.
    #[error("a team on several ranks: {0}")]
    Device(#[from] OpenError),
    /// Members of other teams have all command slots of a rank.
    #[error("a rank of the machine has room for no more members of teams: end a team, or make smaller ones")]
    Slots,
    /// The kernel has no thread left.
    #[error("a member's thread cannot be started: {0}; raise the limit on processes (ulimit -u)")]
    Thread(io::Error),
}

/// A team of threads. Each stays on its processor, and waits there between runs.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// One of a team, in the function that it runs.
#[derive(Debug)]
pub struct Member {
    number: u32,
    shared: Arc<Shared>,
    /// Reductions so far.
    turn: Cell<u64>,
}

/// What members run; it lives as long as [`Team::run`] waits for them.
type Body<'a> = dyn Fn(&Member) + Sync + 'a;

/// The function of a run, without its lifetime.
#[derive(Clone, Copy, Debug)]
struct Job(*const Body<'static>);

// SAFETY: the function is `Sync`, and there until all members have returned from it.
unsafe impl Send for Job {}

#[derive(Debug)]
struct Shared {
    members: u32,
    group: Group,
    /// The run's function; none means the end.
    job: Mutex<Option<Job>>,
    /// Number of the run.
    run: AtomicU32,
    /// Members that have not returned from it.
    left: AtomicU32,
}

impl Team {
    /// A team of so many members, on the first of the processors that this program may run on (sched_setaffinity(2)).
    ///
    /// # Errors
    /// [`TeamError`]; no thread is left then.
    pub fn new(members: u32) -> Result<Self, TeamError> {
        let device = Device::for_team()?;
        let mut processors = processors(device.as_deref())?;
        let there = u32::try_from(processors.len()).unwrap_or(u32::MAX);
        if !(1..=there).contains(&members) {
            return Err(TeamError::Size { asked: members, processors: there });
        }
        processors.truncate(members as usize);
        let (job, run, left) = (Mutex::new(None), AtomicU32::new(0), AtomicU32::new(0));
        let group = Group::new(device, &processors).ok_or(TeamError::Teams)?;
        let shared = Arc::new(Shared { members, group, job, run, left });
        let mut team = Self { shared: Arc::clone(&shared), threads: Vec::new() };
        let (ready, placed) = channel();
        for (number, processor) in (0..members).zip(processors) {
            let member = Member { number, shared: Arc::clone(&shared), turn: Cell::new(0) };
            let ready = ready.clone();
            let thread = std::thread::Builder::new().name(format!("vincs-{number}"));
            let thread = thread.spawn(move || member.serve(processor, &ready)).map_err(TeamError::Thread)?;
            team.threads.push(thread);
        }
        placed.iter().take(members as usize).try_for_each(|placed| placed)?;
        Ok(team)
    }

    /// A team on all processors that this program may run on.
    ///
    /// # Errors
    /// [`TeamError`].
    pub fn on_all_processors() -> Result<Self, TeamError> {
        // Kept until the team has it: opened anew it would begin another program.
        let device = Device::for_team()?;
        Self::new(u32::try_from(processors(device.as_deref())?.len()).unwrap_or(u32::MAX))
    }

    /// Number of members.
    #[must_use]
    pub fn members(&self) -> u32 {
        self.shared.members
    }

    /// Runs a function on every member, and waits until all have returned. A member that panics ends the process: the others would wait for
    /// it.
    pub fn run(&mut self, body: impl Fn(&Member) + Sync) {
        let body: *const Body<'_> = &raw const body;
        // SAFETY: only the lifetime changes. Members use it until they count themselves out of `left`, which is waited for here, and whoever
        // has the team to himself cannot start another run meanwhile.
        let job = unsafe { std::mem::transmute::<*const Body<'_>, *const Body<'static>>(body) };
        let shared = &*self.shared;
        shared.group.before_run();
        shared.left.store(shared.members, Ordering::Relaxed);
        shared.start(Some(Job(job)));
        loop {
            match shared.left.load(Ordering::Acquire) {
                0 => break,
                left => wait_while(&shared.left, left),
            }
        }
        shared.group.after_run();
    }

    /// Runs a function for every number of a range, in parallel: each member has an even part of them.
    pub fn for_each(&mut self, range: Range<usize>, body: impl Fn(usize) + Sync) {
        self.run(|member| member.part(range.clone()).for_each(&body));
    }

    /// Runs a function on even parts of a slice, in parallel: each member has one, with the index of its first element.
    pub fn for_each_part<T: Send>(&mut self, slice: &mut [T], body: impl Fn(usize, &mut [T]) + Sync) {
        let (all, members) = (0..slice.len(), self.members());
        let (mut parts, mut rest) = (Vec::new(), slice);
        for number in 0..members {
            let (part, after) = rest.split_at_mut(part(all.clone(), number, members).len());
            parts.push(Mutex::new(part));
            rest = after;
        }
        self.run(|member| {
            if let Some(part) = parts.get(member.number as usize) {
                // Each has its own, so it waits for nobody.
                body(member.part(all.clone()).start, &mut part.lock().unwrap_or_else(PoisonError::into_inner));
            }
        });
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.start(None);
        for thread in self.threads.drain(..) {
            // A member that panicked has ended the process.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Tells the members what to run, or to end.
    fn start(&self, job: Option<Job>) {
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = job;
        self.run.fetch_add(1, Ordering::Release);
        wake_all(&self.run);
    }
}

impl Member {
    /// Its number, from 0.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Number of members of the team.
    #[must_use]
    pub fn members(&self) -> u32 {
        self.shared.members
    }

    /// Its part of a range: parts are contiguous, in the order of members, and their lengths differ by one at most.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Range<usize> {
        part(range, self.number, self.members())
    }

    /// Waits until all members are here. What each wrote before, all see after.
    pub fn barrier(&self) {
        self.shared.group.barrier(self.number);
    }

    /// Takes a lock of the team, when it is this member's turn. What was written by who had it before is seen after.
    ///
    /// # Errors
    /// [`LockError::NoSuchLock`], [`LockError::Held`].
    pub fn lock(&self, number: u32) -> Result<(), LockError> {
        self.shared.group.lock(self.number, number)
    }

    /// Gives a lock back.
    ///
    /// # Errors
    /// [`LockError::NoSuchLock`], [`LockError::NotHeld`].
    pub fn unlock(&self, number: u32) -> Result<(), LockError> {
        self.shared.group.unlock(self.number, number)
    }

    /// All members' values combined in the order of members, which makes sums of floating-point numbers the same at each run. All members call
    /// it, and all get the result. It is a barrier too.
    pub fn reduce<T: Element>(&self, value: T, combine: impl Fn(T, T) -> T) -> T {
        let turn = self.turn.get();
        self.turn.set(turn + 1);
        let words = self.shared.group.gather(self.number, turn, value.to_word());
        words.into_iter().map(T::from_word).reduce(combine).unwrap_or(value)
    }

    /// A member's thread: onto its processor, then run after run.
    fn serve(&self, processor: usize, ready: &Sender<Result<(), TeamError>>) {
        let _guard = EndOnPanic;
        // Who does not wait for it any more has found another one's error.
        let group = &self.shared.group;
        let moved = move_to(processor).map_err(TeamError::Processor);
        let placed = moved.and_then(|()| if group.enter(self.number) { Ok(()) } else { Err(TeamError::Slots) });
        let _ = ready.send(placed);
        let mut run = 0;
        loop {
            wait_while(&self.shared.run, run);
            run = run.wrapping_add(1);
            let job = *self.shared.job.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(Job(body)) = job else { return group.leave(self.number) };
            // SAFETY: `Team::run` waits for this member, so the function is there.
            let body = unsafe { &*body };
            group.begin(self.number);
            body(self);
            group.end(self.number);
            if self.shared.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                wake_all(&self.shared.left);
            }
        }
    }
}

/// Ends the process when its thread panics.
struct EndOnPanic;

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn part(range: Range<usize>, number: u32, members: u32) -> Range<usize> {
    let (number, members) = (number as usize, members.max(1) as usize);
    let (share, more) = (range.len() / members, range.len() % members);
    let start = range.start + share * number + number.min(more);
    start..start + share + usize::from(number < more)
}

/// The processors for teams, in the order of their numbers: those that this thread may run on, on several ranks those that the program began with.
fn processors(device: Option<&Device>) -> Result<Vec<usize>, TeamError> {
    if let Some(ranks) = device.and_then(|device| device.ranks.as_ref()) {
        return Ok(ranks.processors());
    }
    let set = sched_getaffinity(None).map_err(|error| TeamError::Processor(error.into()))?;
    Ok((0..CpuSet::MAX_CPU).filter(|processor| set.is_set(*processor)).collect())
}

fn move_to(processor: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_even_in_order_and_leave_nothing_out() {
        for (len, members) in [(0, 1), (1, 1), (0, 3), (2, 3), (3, 3), (10, 3), (11, 4)] {
            let parts: Vec<_> = (0..members).map(|number| part(5..5 + len, number, members)).collect();
            assert_eq!(parts.iter().cloned().flatten().collect::<Vec<_>>(), (5..5 + len).collect::<Vec<_>>());
            let lens = parts.iter().map(ExactSizeIterator::len);
            assert!(lens.clone().max().unwrap() - lens.min().unwrap() <= 1, "{parts:?}");
        }
    }

    #[test]
    fn a_team_is_no_larger_than_the_processors_and_not_empty() {
        let there = u32::try_from(processors(None).unwrap().len()).unwrap();
        assert_eq!(Team::new(there).unwrap().members(), there);
        assert_eq!(Team::on_all_processors().unwrap().members(), there);
        for asked in [0, there + 1, u32::MAX] {
            assert!(matches!(Team::new(asked), Err(TeamError::Size { processors, .. }) if processors == there));
        }
    }
}
