//! The control thread of a rank: polls the control channel and acts on what comes.
//!
//! It never waits for anything but messages, so signs of life are answered whatever devices and vCPUs do.

mod elastic;
mod first;
mod homes;
mod member;
mod pause;
mod residence;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vincs_coherence::id::{Rank, Run};
use vincs_coherence::node::HomesError;
use vincs_coherence::transport::Event;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::link::ControlLink;
use super::message::{Control, VcpuFailure};
use super::moves::{Owner, RefusedMove};
use super::placement::Share;
use super::seats::{MemberState, RemoveError};
use crate::memory::engine::{MoveError, Vitals};

pub(crate) use elastic::{Elastic, Joined};
pub(crate) use first::First;
pub(crate) use homes::HomeMoves;
pub(crate) use member::{AppliedClock, Member, StatisticsSource};
pub(crate) use residence::Residents;

/// How long a rank's loss that another channel tells waits for what the rank may have said before it went: the end of
/// the machine, or why it gives up. So does what this rank's own memory cannot go on for.
const GRACE: Duration = Duration::from_millis(300);
/// How long a rank that has told rank 0 of a loss waits for rank 0 to tell all.
const TELL_PATIENCE: Duration = Duration::from_secs(1);
/// How long a rank that knows of the end keeps its connections open for ranks that do not yet.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// How often messages that wait for room are tried again.
const FLUSH_STEP: Duration = Duration::from_millis(1);

/// What the control channel brings to the machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ClusterEvent {
    /// On rank 0: a vCPU of another rank cannot go on.
    VcpuFailed(u32, VcpuFailure),
    /// A rank is lost, gives up or breaks the rules.
    Lost(Rank, String),
    /// On other ranks: rank 0 has ended the machine.
    Ended(i32),
    /// On a rank that leaves: it has left.
    Left,
    /// On a rank that had nothing of the machine: the machine goes on without it, as the two have lost each other.
    Dropped,
}

/// What other threads of this rank tell the control thread.
pub(crate) enum Note {
    /// Another channel has lost a rank, or its messages make no sense.
    Lost(Rank, String),
    /// On rank 0: tell all that the machine has ended, and then this sender.
    End(i32, Sender<()>),
    /// On rank 0: ask all for their statistics and send what comes there.
    Gather(Sender<(Rank, Vec<u8>)>),
    /// On rank 0: move a vCPU to a rank; the answer comes when it is there, or at once when there is nothing to do.
    Move(u32, Rank, Sender<Result<Moved, RefusedMove>>),
    /// On rank 0: move all vCPUs at once, each to its rank; nobody waits for it.
    Spread(Vec<Rank>),
    /// On rank 0: where all vCPUs are.
    Places(Sender<Vec<Owner>>),
    /// On rank 0: stop all vCPUs, and tell when they have stopped.
    Pause(Sender<()>),
    /// On rank 0: let all vCPUs go on.
    Resume,
    /// On rank 0: its own vCPUs have stopped for the pause with this number.
    Paused(u32),
    /// On rank 0: it can send to a rank that joins.
    Met(Rank),
    /// On rank 0: a seat for a rank that joins; none when all are used.
    Reserve(Sender<Option<Rank>>),
    /// On rank 0: the rank with this seat has this share of its host; the answer comes when it takes part, or when it will not.
    Admit(Rank, Share, Sender<Joined>),
    /// On rank 0: the rank with this seat does not come; the answer is whether it takes part all the same.
    Abandon(Rank, Sender<bool>),
    /// On rank 0: a rank is to leave; the answer comes when it has, or at once when it does not.
    Remove(Rank, Sender<Result<(), RemoveError>>),
    /// On rank 0: what all ranks are.
    Members(Sender<Vec<(Rank, MemberState)>>),
    /// On rank 0: of how many pages each rank is the home.
    Homes(Sender<Vec<(Rank, u32)>>),
    /// On rank 0: what has become of a hand-over.
    HandedOver(Run, Result<(), MoveError>),
    /// On a rank that leaves: its memory has given up all pages of others.
    PagesGivenUp,
    /// On a rank that joins: its memory knows the homes, or cannot take them.
    HomesKnown(Result<(), HomesError>),
    /// End the thread.
    Stop,
}

/// What has become of a move.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Moved {
    /// It has come from another rank.
    From(u16),
    /// It was there already.
    WasThere,
}

/// The control thread as the rest of the rank holds it.
#[derive(Clone, Debug)]
pub(crate) struct ControlNotes {
    notes: Sender<Note>,
    wake: Arc<EventFd>,
}

impl ControlNotes {
    /// Tells the control thread; never waits. It may have ended.
    pub(crate) fn tell(&self, note: Note) {
        if self.notes.send(note).is_ok() {
            // A nonblocking eventfd refuses only when its counter is full, and then it is readable all the same.
            let _ = self.wake.write(1);
        }
    }
}

/// Where notes to a control thread arrive, before it runs.
#[derive(Debug)]
pub(crate) struct NoteBox {
    notes: Receiver<Note>,
    wake: Arc<EventFd>,
}

/// A way to tell a control thread, and its end for [`spawn`].
pub(crate) fn notes() -> io::Result<(ControlNotes, NoteBox)> {
    let (sender, receiver) = channel();
    let wake = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
    Ok((ControlNotes { notes: sender, wake: Arc::clone(&wake) }, NoteBox { notes: receiver, wake }))
}

/// What differs between rank 0 and the others.
pub(crate) enum Side {
    /// Rank 0.
    First(Box<First>),
    /// Another rank.
    Member(Box<Member>),
}

/// Starts the control thread. `events` is told what matters to the machine: at most one loss or end, and failures.
pub(crate) fn spawn(
    link: Arc<ControlLink>,
    residents: Residents,
    side: Side,
    notes: NoteBox,
    events: impl Fn(ClusterEvent) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let mut thread = ControlThread {
        core: Core {
            link,
            vitals: residents.vitals(),
            residents,
            events: Box::new(events),
            suspect: None,
            over: false,
        },
        side,
        notes: notes.notes,
        wake: notes.wake,
    };
    thread::Builder::new().name("control".into()).spawn(move || thread.run())
}

/// What both sides work with.
struct Core {
    link: Arc<ControlLink>,
    residents: Residents,
    /// Ranks that may have pages.
    vitals: Vitals,
    events: Box<dyn Fn(ClusterEvent) + Send>,
    /// A rank that is lost as far as is known.
    suspect: Option<Suspect>,
    /// The end or a loss has been told: nothing that follows from it is news.
    over: bool,
}

impl Core {
    /// Tells the end or a loss, once.
    fn finish(&mut self, event: ClusterEvent) -> bool {
        let first = !std::mem::replace(&mut self.over, true);
        self.suspect = None;
        if first {
            (self.events)(event);
        }
        first
    }

    /// All ranks that take part.
    fn present(&self) -> impl Iterator<Item = Rank> + Clone + use<> {
        let own = self.link.rank();
        let (lower, higher): (Vec<_>, Vec<_>) = self.link.others().partition(|rank| *rank < own);
        lower.into_iter().chain([own]).chain(higher)
    }

    fn suspect(&mut self, rank: Rank, reason: String, basis: Basis) {
        if !self.over && self.suspect.is_none() {
            let due = Instant::now() + basis.patience();
            self.suspect = Some(Suspect { due, rank, reason, basis });
        }
    }
}

/// A rank that is lost as far as is known, and when that counts unless something better comes.
struct Suspect {
    due: Instant,
    rank: Rank,
    reason: String,
    basis: Basis,
}

/// What a suspicion waits for.
#[derive(Clone, Copy)]
enum Basis {
    /// For a better reason, as another channel or this rank's memory found it.
    Elsewhere,
    /// For rank 0, which has been told.
    Told,
}

impl Basis {
    fn patience(self) -> Duration {
        match self {
            Self::Elsewhere => GRACE,
            Self::Told => TELL_PATIENCE,
        }
    }
}

/// A message, with its body, that the sender had no right to send.
struct Breach(String);

impl<E: std::error::Error> From<E> for Breach {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Something that has come in by a poll.
enum Incoming {
    Message(Rank, Control, Vec<u8>),
    Lost(Rank, String),
    Breach(Rank, String),
}

struct ControlThread {
    core: Core,
    side: Side,
    notes: Receiver<Note>,
    wake: Arc<EventFd>,
}

impl ControlThread {
    fn run(&mut self) {
        let link = Arc::clone(&self.core.link);
        link.poll_here();
        if let Side::Member(member) = &mut self.side {
            member.begin(&mut self.core);
        }
        let mut stopping = None;
        loop {
            let worked = self.poll();
            while let Ok(note) = self.notes.try_recv() {
                match note {
                    Note::Stop => stopping = Some(Instant::now() + CLOSE_PATIENCE),
                    Note::Lost(rank, reason) => self.lost_elsewhere(rank, reason),
                    Note::End(status, done) => self.end(status, done),
                    order @ (Note::Gather(_)
                    | Note::Move(..)
                    | Note::Spread(_)
                    | Note::Places(_)
                    | Note::Pause(_)
                    | Note::Resume
                    | Note::Paused(_)
                    | Note::Met(_)
                    | Note::Reserve(_)
                    | Note::Admit(..)
                    | Note::Abandon(..)
                    | Note::Remove(..)
                    | Note::Members(_)
                    | Note::Homes(_)
                    | Note::HandedOver(..)) => {
                        if let Side::First(first) = &mut self.side {
                            first.order_from_here(&mut self.core, order);
                            first.settle(&mut self.core);
                        }
                    }
                    Note::PagesGivenUp => {
                        if let Side::Member(member) = &mut self.side {
                            member.pages_given_up(&self.core);
                        }
                    }
                    Note::HomesKnown(known) => {
                        if let Side::Member(member) = &mut self.side {
                            member.homes_known(&mut self.core, known);
                        }
                    }
                }
            }
            self.keep_time();
            if let Err(rank) = link.flush() {
                self.lost(rank, "it does not take its messages".into());
            }
            let lingers = matches!(&self.side, Side::Member(member) if member.lingers());
            if stopping.is_some_and(|until: Instant| Instant::now() >= until || !lingers && !link.has_waiting()) {
                return;
            }
            if !worked {
                self.wait(stopping);
            }
        }
    }

    /// Takes in what has come; says whether anything has.
    fn poll(&mut self) -> bool {
        let mut incoming = Vec::new();
        // Messages are acted on after the poll, which may hold what sending an answer needs.
        self.core.link.transport().poll(&mut |event| {
            incoming.push(match event {
                Event::Message { from, header, body } => match Control::decode(header, body.len()) {
                    Ok(message) => Incoming::Message(from, message, body.to_vec()),
                    Err(error) => Incoming::Breach(from, error.to_string()),
                },
                Event::Lost { rank, reason } => Incoming::Lost(rank, reason),
                Event::Completed { .. } => return,
            });
        });
        let any = !incoming.is_empty();
        for item in incoming {
            match item {
                Incoming::Message(from, message, body) => {
                    let handled = match (message, &mut self.side) {
                        (Control::Interrupt { targets, delivery, vector, level }, _) => {
                            self.core.residents.deliver(targets, delivery, vector, level);
                            Ok(())
                        }
                        (Control::Repointed { vcpu }, _) => self.core.repointed(from, vcpu),
                        (Control::Parting, _) => {
                            self.core.link.send(from, &Control::Parted, &[]);
                            Ok(())
                        }
                        (message, Side::First(first)) => {
                            let handled = first.handle(&mut self.core, from, message, body);
                            first.settle(&mut self.core);
                            handled
                        }
                        (message, Side::Member(member)) => member.handle(&mut self.core, from, message, body),
                    };
                    if let Err(Breach(what)) = handled {
                        self.lost(from, format!("it sent what it may not: {what}"));
                    }
                }
                Incoming::Lost(rank, reason) => self.lost(rank, reason),
                Incoming::Breach(from, what) => self.lost(from, format!("it sent what is no message: {what}")),
            }
        }
        any
    }

    /// A rank is lost on this channel: whatever it had to say has been heard.
    fn lost(&mut self, rank: Rank, reason: String) {
        match &mut self.side {
            Side::First(first) => {
                first.lost(&mut self.core, rank, reason);
                first.settle(&mut self.core);
            }
            Side::Member(member) => member.lost(&mut self.core, rank, reason),
        }
    }

    /// Another channel has lost a rank, which may still have something to say on this one.
    fn lost_elsewhere(&mut self, rank: Rank, reason: String) {
        self.core.suspect(rank, reason, Basis::Elsewhere);
    }

    fn end(&mut self, status: i32, done: Sender<()>) {
        if let Side::First(first) = &mut self.side {
            first.end(&mut self.core, status, done);
        }
    }

    fn keep_time(&mut self) {
        let now = Instant::now();
        if let Some(suspect) = self.core.suspect.take_if(|suspect| suspect.due <= now) {
            match &mut self.side {
                Side::First(first) => {
                    first.lost(&mut self.core, suspect.rank, suspect.reason);
                    first.settle(&mut self.core);
                }
                Side::Member(member) => member.suspected(&mut self.core, suspect),
            }
        }
        match &mut self.side {
            Side::First(first) => first.keep_time(&mut self.core, now),
            Side::Member(member) => {
                member.keep_time(&self.core, now);
                if self.core.over {
                    member.give_up_clock();
                }
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&self, stopping: Option<Instant>) {
        let link = &self.core.link;
        let side = match &self.side {
            Side::First(first) => first.due().filter(|_| !self.core.over),
            Side::Member(member) => member.due(),
        };
        let due = [self.core.suspect.as_ref().map(|suspect| suspect.due), side, stopping].into_iter().flatten().min();
        let mut limit = link.transport().poll_within();
        if let Some(due) = due {
            limit = limit.min(due.saturating_duration_since(Instant::now()));
        }
        if link.has_waiting() {
            limit = limit.min(FLUSH_STEP);
        }
        let ready = link.transport().ready();
        // SAFETY: the descriptor is open as long as the eventfd lives, which this thread shares.
        let wake = unsafe { BorrowedFd::borrow_raw(self.wake.as_raw_fd()) };
        let mut fds = [PollFd::from_borrowed_fd(ready, PollFlags::IN), PollFd::from_borrowed_fd(wake, PollFlags::IN)];
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        // Interrupted or failed, the caller looks at everything anyway.
        let _ = poll(&mut fds, Some(&limit));
        // It fails only when there is nothing to read.
        let _ = self.wake.read();
    }
}

#[cfg(test)]
mod tests;
