//! What other threads want of a service thread.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vincs_coherence::id::{Access, Rank, RankSet, Run};
use vincs_coherence::node::HoldId;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::hand_over::{MoveError, ToldHomes, WhenMoved};
use super::leaving::Leaving;

/// What is wanted.
#[derive(Debug)]
pub(in crate::memory) enum Command {
    /// A device wants pages.
    Hold {
        /// Its name for them.
        id: HoldId,
        /// Which, and what for.
        runs: Vec<(Run, Access)>,
        /// Who is told.
        waiter: Arc<Waiter>,
    },
    /// A device is done with its pages.
    Release(HoldId),
    /// Pages are to get another home.
    HandOver {
        /// Which.
        run: Run,
        /// The new home.
        to: Rank,
        /// The ranks of the machine.
        members: RankSet,
        /// Who is told.
        done: WhenMoved,
    },
    /// The homes are these, of a rank that comes.
    Homes(Arc<ToldHomes>),
    /// All pages of other homes are to be given up.
    Leave(Arc<Leaving>),
    /// The thread is to end.
    Stop,
}

/// What can be in a [`Mailbox`].
pub(in crate::memory) trait Refuse {
    /// Answers who waits for an answer: nothing is done any more.
    fn refuse(self);
}

impl Refuse for Command {
    fn refuse(self) {
        match self {
            Self::Hold { waiter, .. } => waiter.answer(Err(Refused::Ended)),
            Self::HandOver { done, .. } => done.tell(Err(MoveError::Ended)),
            Self::Release(_) | Self::Homes(_) | Self::Leave(_) | Self::Stop => {}
        }
    }
}

/// Why a hold was not granted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::memory) enum Refused {
    /// The protocol does not take it.
    Unfit(String),
    /// The engine grants nothing any more.
    Ended,
}

/// One thread that waits for an answer.
#[derive(Debug)]
pub(in crate::memory) struct Waiter<T = Result<(), Refused>> {
    answer: Mutex<Option<T>>,
    answered: Condvar,
}

impl<T> Default for Waiter<T> {
    fn default() -> Self {
        Self { answer: Mutex::new(None), answered: Condvar::new() }
    }
}

impl<T> Waiter<T> {
    /// Answers. Only the first answer counts.
    pub(in crate::memory) fn answer(&self, answer: T) {
        locked(&self.answer).get_or_insert(answer);
        self.answered.notify_one();
    }

    /// Waits for the answer.
    pub(in crate::memory) fn wait(&self) -> T {
        let mut answer = locked(&self.answer);
        loop {
            if let Some(answer) = answer.take() {
                return answer;
            }
            answer = self.answered.wait(answer).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Commands for one service thread.
#[derive(Debug)]
pub(in crate::memory) struct Mailbox<C = Command> {
    commands: Mutex<Vec<C>>,
    /// There are commands.
    full: AtomicBool,
    /// The thread waits for `wake`, or is about to.
    sleeping: AtomicBool,
    /// The thread keeps pages for processors, for a time; looked at while it sleeps.
    keeps_pages: AtomicBool,
    /// The thread is gone.
    closed: AtomicBool,
    wake: EventFd,
}

impl<C: Refuse> Mailbox<C> {
    /// An empty one.
    pub(in crate::memory) fn new() -> io::Result<Self> {
        Ok(Self {
            commands: Mutex::new(Vec::new()),
            full: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            keeps_pages: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            wake: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    /// Adds a command and wakes the thread if it waits. Commands for a thread that is gone vanish; holds are refused.
    pub(in crate::memory) fn push(&self, command: C) {
        {
            let mut commands = locked(&self.commands);
            if self.closed.load(Ordering::SeqCst) {
                drop(commands);
                command.refuse();
                return;
            }
            commands.push(command);
            self.full.store(true, Ordering::SeqCst);
        }
        if self.sleeping.load(Ordering::SeqCst) {
            self.ring();
        }
    }

    /// Takes the commands there are.
    pub(in crate::memory) fn take(&self) -> Vec<C> {
        if !self.full.load(Ordering::SeqCst) {
            return Vec::new();
        }
        let mut commands = locked(&self.commands);
        self.full.store(false, Ordering::SeqCst);
        std::mem::take(&mut *commands)
    }

    /// The thread is about to wait for [`Self::fd`]; false when it has a command and must not. `keeps_pages`: it keeps pages for processors
    /// for a time; whether these sleep it looks at after this call.
    pub(in crate::memory) fn may_sleep(&self, keeps_pages: bool) -> bool {
        self.keeps_pages.store(keeps_pages, Ordering::SeqCst);
        self.sleeping.store(true, Ordering::SeqCst);
        !self.full.load(Ordering::SeqCst)
    }

    /// The thread has waited, or does not wait.
    pub(in crate::memory) fn awake(&self, rung: bool) {
        self.sleeping.store(false, Ordering::SeqCst);
        if rung {
            // It fails only when there is nothing to read.
            let _ = self.wake.read();
        }
    }

    /// Wakes the thread if it waits and keeps pages for processors.
    pub(in crate::memory) fn ring_if_it_keeps_pages(&self) {
        if self.sleeping.load(Ordering::SeqCst) && self.keeps_pages.load(Ordering::SeqCst) {
            self.ring();
        }
    }

    /// Wakes the thread.
    pub(in crate::memory) fn ring(&self) {
        // A nonblocking eventfd refuses only when its counter is full, and then it is readable all the same.
        let _ = self.wake.write(1);
    }

    /// The thread ends: what is in the box and what still comes is refused.
    pub(in crate::memory) fn close(&self) {
        let commands = {
            let mut commands = locked(&self.commands);
            self.closed.store(true, Ordering::SeqCst);
            std::mem::take(&mut *commands)
        };
        commands.into_iter().for_each(Refuse::refuse);
    }

    /// Readable when the thread has been woken.
    pub(in crate::memory) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the `EventFd` lives, which the result's lifetime borrows.
        unsafe { BorrowedFd::borrow_raw(self.wake.as_raw_fd()) }
    }
}

/// What is behind a lock, whatever happened to the thread that had it.
pub(in crate::memory) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(id: u64) -> (Command, Arc<Waiter>) {
        let waiter = Arc::new(Waiter::default());
        (Command::Hold { id: HoldId(id), runs: Vec::new(), waiter: Arc::clone(&waiter) }, waiter)
    }

    #[test]
    fn only_a_sleeping_thread_is_woken() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.push(Command::Stop);
        assert!(mailbox.wake.read().is_err(), "not rung");
        assert!(!mailbox.may_sleep(false), "there is a command");
        mailbox.awake(false);
        assert_eq!(mailbox.take().len(), 1);
        assert!(mailbox.may_sleep(false));
        mailbox.push(Command::Stop);
        assert_eq!(mailbox.wake.read().unwrap(), 1);
    }

    #[test]
    fn holds_of_a_closed_box_are_refused_early_or_late() {
        let mailbox = Mailbox::new().unwrap();
        let (early, early_waiter) = hold(1);
        let (late, late_waiter) = hold(2);
        mailbox.push(early);
        mailbox.close();
        mailbox.push(late);
        assert_eq!(early_waiter.wait(), Err(Refused::Ended));
        assert_eq!(late_waiter.wait(), Err(Refused::Ended));
    }

    #[test]
    fn the_first_answer_counts() {
        let waiter = Waiter::default();
        waiter.answer(Ok(()));
        waiter.answer(Err(Refused::Ended));
        assert_eq!(waiter.wait(), Ok(()));
    }
}
