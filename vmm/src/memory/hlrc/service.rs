//! The thread that serves: it owns the node, answers faults, and polls the transport.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vincs_coherence::hlrc::node::{ThreadError, TouchError};
use vincs_coherence::hlrc::{Completion, Failure, LockId, Node, OpId, Outcome, ThreadId};
use vincs_coherence::id::{Access, PAGE_BYTES, Page, Rank, RankSet, Run};
use vincs_coherence::transport::{Event, OperationId, Outcome as Ended, Segment as _, Transport};

use super::command::{Ask, Command, Reply};
use super::lender::Lender;
use super::maps::{Bytes, Copies, OwnSegment, words_of};
use super::meeting::Message;
use super::member::{Answer, SyncError};
use super::operations::{Operations, Part, Request};
use super::places::{Places, Span};
use super::streams::Streams;
use super::{ArrayError, Ending, EndingSink, JoinError, Settings, Statistics};
use crate::memory::engine::mailbox::{Mailbox, Refuse as _, Waiter};
use crate::memory::engine::uffd::{Faults, Missing, RawFault};
use crate::memory::ready::Ready;
use batch::Batch;
use races::Races;
use teams::{Doing, Teams};

mod batch;
mod execute;
mod races;
mod teams;

/// Longest time between two attempts to start what was held up.
const RETRY: Duration = Duration::from_millis(1);

/// Pages homed here that are given to who writes page by page: they cost nothing but a notice each.
const WRITE_AHEAD: u16 = 256;

/// What the thread starts with.
pub(super) struct Parts {
    pub(super) settings: Settings,
    pub(super) node: Node,
    pub(super) faults: Faults,
    pub(super) segment: Arc<OwnSegment>,
    pub(super) copies: Arc<Copies>,
    pub(super) operations: Operations,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) mailbox: Arc<Mailbox<Command>>,
    pub(super) ending: EndingSink,
    pub(super) lender: Option<Arc<dyn Lender>>,
}

/// A thread of the team.
#[derive(Debug, Default)]
struct Seat {
    taken: bool,
    /// What it is at, and who is told what has come of that.
    waits: Option<(Doing, Reply)>,
}

/// The thread's state.
pub(super) struct Service {
    settings: Settings,
    node: Node,
    faults: Faults,
    places: Places,
    segment: Arc<OwnSegment>,
    copies: Arc<Copies>,
    twins: BTreeMap<Page, Box<Bytes>>,
    spare_twins: Vec<Box<Bytes>>,
    operations: Operations,
    transport: Arc<dyn Transport>,
    mailbox: Arc<Mailbox<Command>>,
    ending: EndingSink,
    /// Who lends this rank's threads the locks that it keeps, if anybody does.
    lender: Option<Arc<dyn Lender>>,
    /// It has been told.
    ended: bool,
    /// The node's failure has been told.
    failed: bool,
    /// The transport's words for the first loss.
    reason: String,
    seats: Vec<Seat>,
    threads: BTreeMap<i32, ThreadId>,
    /// Pages that somebody waits for: the least that is enough for one of them.
    awaited: BTreeMap<Page, Access>,
    teams: Teams,
    /// What has come of operations on this rank's own segment, for the node.
    done: Vec<(OpId, Completion)>,
    /// Adjacent pages of it that the node has fetched, as it writes none in place.
    fetched: Vec<(Run, Vec<OpId>)>,
    /// Races are looked for.
    races: Option<Races>,
    /// Adjacent things that are done together.
    batch: Batch,
    streams: Streams,
    statistics: Statistics,
    /// Ranks that are done.
    left: RankSet,
    /// So is this one, and has said so.
    leaves: bool,
    leaving: Option<Arc<Waiter<()>>>,
    /// The transport has lists of puts.
    lists: bool,
    /// Buffers that live on.
    raw: Vec<RawFault>,
}

/// Pages that have come: their bytes, from this page on.
#[derive(Clone, Copy, Debug)]
struct Received<'a> {
    first: Page,
    bytes: &'a [u8],
}

impl Received<'_> {
    const NOTHING: Self = Received { first: Page(0), bytes: &[] };

    fn page(&self, page: Page) -> Option<&[u8]> {
        let at = page.0.checked_sub(self.first.0)? as usize * PAGE_BYTES;
        self.bytes.get(at..at + PAGE_BYTES)
    }
}

impl Service {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { settings, node, faults, segment, copies, operations, transport, mailbox, ending, lender } = parts;
        let threads = settings.team.get(usize::from(settings.rank.0)).copied().unwrap_or(0);
        let races = settings.races.clone().map(|sink| Races::new(settings.rank, settings.team.len(), sink));
        Self {
            seats: (0..threads).map(|_| Seat::default()).collect(),
            settings,
            node,
            faults,
            places: Places::default(),
            segment,
            copies,
            twins: BTreeMap::new(),
            spare_twins: Vec::new(),
            operations,
            mailbox,
            ending,
            lender,
            ended: false,
            failed: false,
            reason: String::new(),
            threads: BTreeMap::new(),
            awaited: BTreeMap::new(),
            teams: Teams::default(),
            done: Vec::new(),
            fetched: Vec::new(),
            races,
            batch: Batch::default(),
            streams: Streams::default(),
            statistics: Statistics::default(),
            left: RankSet::EMPTY,
            leaves: false,
            leaving: None,
            lists: transport.capabilities().put_lists,
            transport,
            raw: Vec::new(),
        }
    }

    /// Serves until it is told to stop. Then who waits for a page goes on.
    pub(super) fn run(mut self) {
        let mut ready = Ready::EVERYWHERE;
        let mut idle_since = Instant::now();
        loop {
            let mut worked = false;
            let mut commands = self.mailbox.take().into_iter();
            while let Some(command) = commands.next() {
                worked = true;
                if matches!(command, Command::Stop) {
                    commands.for_each(|late| late.refuse());
                    return self.stop();
                }
                self.obey(command);
            }
            if ready.transport || self.operations.is_waiting() {
                worked |= self.poll_transport();
            }
            worked |= ready.faults && self.read_faults();
            worked |= self.end_own();
            worked |= self.hear_own();
            if worked {
                self.look();
                idle_since = Instant::now();
            }
            let spinning = worked || idle_since.elapsed() < self.settings.spin;
            ready = if spinning { Ready::at_once(worked) } else { self.sleep() };
        }
    }

    /// Waits for something to do.
    fn sleep(&mut self) -> Ready {
        let timeout = match self.mailbox.may_sleep(false) {
            true if self.operations.is_waiting() => self.transport.poll_within().min(RETRY),
            true => self.transport.poll_within(),
            false => Duration::ZERO,
        };
        Ready::within(timeout, self.faults.fd(), !self.ended, self.transport.ready(), &self.mailbox)
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Join(thread, linux, waiter) => waiter.answer(self.join(thread, linux)),
            Command::Ask(thread, ask, reply) => self.ask(thread, ask, reply),
            Command::End(thread) => self.end_thread(thread),
            Command::Add(spans, waiter) => waiter.answer(self.add(spans)),
            Command::Count(waiter) => {
                let (protocol, traffic) = (self.node.stats(), self.operations.traffic());
                waiter.answer(Some(Statistics { protocol, traffic, ..self.statistics }));
            }
            Command::Leave(waiter) => {
                for to in self.others() {
                    self.send(to, Message::Leaves);
                }
                self.leaves = true;
                self.leaving = Some(waiter);
                self.have_all_left();
            }
            Command::Stop => {}
        }
    }

    fn others(&self) -> impl Iterator<Item = Rank> + use<> {
        let me = self.settings.rank;
        (0..).map(Rank).take(self.settings.team.len()).filter(move |rank| *rank != me)
    }

    fn have_all_left(&mut self) {
        if self.others().all(|rank| self.left.contains(rank))
            && let Some(waiter) = self.leaving.take()
        {
            // What this rank has told itself comes before.
            self.hear_own();
            self.end_races();
            waiter.answer(());
        }
    }

    fn join(&mut self, thread: ThreadId, linux: i32) -> Result<(), JoinError> {
        if let Some(before) = self.threads.get(&linux) {
            return Err(JoinError::Twice { thread: thread.0, before: before.0 });
        }
        let seat = self.seats.get_mut(usize::from(thread.0)).filter(|seat| !seat.taken);
        seat.ok_or(JoinError::Taken(thread.0))?.taken = true;
        self.threads.insert(linux, thread);
        Ok(())
    }

    fn add(&mut self, spans: Vec<Span>) -> Result<(), ArrayError> {
        let failed = |error| ArrayError::Map(io::Error::other(error));
        for span in spans {
            let (address, len) = (span.address, span.len());
            if span.here {
                self.faults.register_writes(address, len).map_err(failed)?;
                self.faults.protect(address, len).map_err(failed)?;
            } else {
                self.faults.register(address, len).map_err(failed)?;
            }
            self.places.add(span);
        }
        Ok(())
    }

    fn ask(&mut self, thread: ThreadId, ask: Ask, reply: Reply) {
        let members = self.settings.team.iter().map(|threads| u32::from(*threads)).sum();
        if usize::from(thread.0) >= self.seats.len() {
            return reply.answer(Err(SyncError::Ended));
        }
        if self.ended && !self.failed {
            return reply.answer(Err(SyncError::Ended));
        }
        // After an earlier program's end the node may still be at something that it asked for.
        let begins = matches!(ask, Ask::Reset);
        let is_held_up = self.node.waits(thread) || self.is_resetting();
        if self.doing(thread).is_some() || is_held_up && !begins {
            return reply.answer(Err(ThreadError::Busy(thread.0).into()));
        }
        let begun = match ask {
            Ask::Acquire(lock) => self.node.handle_acquire(thread, lock).map_err(SyncError::from),
            Ask::Release(lock) => self.node.handle_release(thread, lock).map_err(SyncError::from),
            Ask::GiveBack(lock) => return reply.answer(self.given_back(lock)),
            Ask::Barrier(reduce) => self.node.handle_barrier(thread, members, reduce).map_err(SyncError::from),
            Ask::Tell | Ask::Hear | Ask::Meet(_) | Ask::Reset => return self.ask_teams(thread, ask, reply),
        };
        match begun {
            Ok(()) => {
                self.seat(thread, Doing::Asks, reply);
                self.act(Received::NOTHING);
            }
            Err(error) => reply.answer(Err(error)),
        }
    }

    /// A lock that was lent is back, as somebody says.
    fn given_back(&mut self, lock: LockId) -> Answer {
        if let Some(failure) = self.node.failure() {
            return Err(SyncError::Failed(failure));
        }
        // Between two inputs it waits for locks alone that a thread has.
        self.node.handle_returned(lock)?;
        if let Some(lender) = &self.lender {
            lender.forget(lock);
        }
        self.act(Received::NOTHING);
        Ok(Outcome::Released)
    }

    /// A thread waits from now on.
    fn seat(&mut self, thread: ThreadId, doing: Doing, reply: Reply) {
        if let Some(seat) = self.seats.get_mut(usize::from(thread.0)) {
            seat.waits = Some((doing, reply));
        }
    }

    /// What a thread waits for.
    fn doing(&self, thread: ThreadId) -> Option<Doing> {
        self.seats.get(usize::from(thread.0)).and_then(|seat| seat.waits.as_ref()).map(|(doing, _)| *doing)
    }

    /// The thread that waits for this.
    fn doer(&self, doing: Doing) -> Option<ThreadId> {
        let does = |seat: &Seat| seat.waits.as_ref().is_some_and(|(other, _)| *other == doing);
        self.seats.iter().position(does).and_then(|index| u16::try_from(index).ok()).map(ThreadId)
    }

    /// Tells a thread that its wait is over, if it waits.
    fn answer(&mut self, thread: ThreadId, answer: Answer) {
        self.answer_with(thread, answer, &[]);
    }

    fn answer_with(&mut self, thread: ThreadId, answer: Answer, words: &[u64]) {
        let waits = self.seats.get_mut(usize::from(thread.0)).and_then(|seat| seat.waits.take());
        if let Some((_, reply)) = waits {
            reply.answer_with(answer, words);
        }
    }

    fn end_thread(&mut self, thread: ThreadId) {
        self.threads.retain(|_, other| *other != thread);
        // It was there, as it has joined, and it ends once.
        if self.node.handle_thread_end(thread).is_ok() {
            self.act(Received::NOTHING);
        }
    }

    fn read_faults(&mut self) -> bool {
        if self.ended {
            return false;
        }
        let mut raw = std::mem::take(&mut self.raw);
        if let Err(error) = self.faults.read(|fault| raw.push(fault)) {
            self.host_failed(&error.to_string());
        }
        let any = !raw.is_empty();
        raw.drain(..).for_each(|fault| self.fault(fault));
        self.raw = raw;
        any
    }

    fn fault(&mut self, fault: RawFault) {
        let Some(page) = self.places.page_at(fault.address) else { return };
        if !self.settings.open && !self.threads.contains_key(&fault.thread) {
            return self.end(Ending::Stranger(fault.thread));
        }
        let access = if fault.missing == Missing::Read { Access::Read } else { Access::Write };
        self.statistics.faults += 1;
        match self.node.handle_touch(page, access) {
            // It came while the fault was on its way here.
            Ok(true) => self.change(Run::one(page), "wake who waits for", Faults::wake),
            Ok(false) => {
                let least = self.awaited.entry(page).or_insert(access);
                *least = access.min(*least);
            }
            // There is no way to tell who waits for a page; whoever has started the memory is told.
            Err(TouchError::Failed(_)) => return,
            Err(error @ TouchError::NoPage(_)) => return self.host_failed(&error.to_string()),
        }
        self.have_ready(fault, page, access);
        self.act(Received::NOTHING);
    }

    /// Pages can be used in this way from now on: whoever waits for that goes on, or finds out that it wants more.
    fn wake_all(&mut self, run: Run, access: Access) {
        for page in run.pages() {
            if self.awaited.get(&page).is_some_and(|least| *least <= access) {
                self.awaited.remove(&page);
                self.change(Run::one(page), "wake who waits for", Faults::wake);
            }
        }
    }

    /// Has the pages ready that a thread will want next if it goes on as it does.
    fn have_ready(&mut self, fault: RawFault, page: Page, access: Access) {
        let Some(span) = self.places.span_at(fault.address).copied() else { return };
        let most = if span.here { WRITE_AHEAD } else { self.settings.read_ahead };
        let window = self.streams.fault(page, most);
        let end = span.end().0.min(page.0.saturating_add(1).saturating_add(window.into()));
        for next in page.0 + 1..end {
            self.node.handle_hint(Page(next), access);
        }
    }

    /// Gives in what has come of operations on this rank's own segment, once between two polls: a node that finds another rank at a word tries again at once, and that
    /// rank may need this thread to be done with it.
    fn end_own(&mut self) -> bool {
        let ended: Vec<_> = self.done.drain(..).collect();
        let any = !ended.is_empty();
        ended.into_iter().for_each(|(op, completion)| self.tell(op, completion));
        if any {
            self.act(Received::NOTHING);
        }
        any | self.end_own_fetches()
    }

    fn end_own_fetches(&mut self) -> bool {
        let fetched = std::mem::take(&mut self.fetched);
        let any = !fetched.is_empty();
        for (run, ops) in fetched {
            let mut bytes = vec![0; usize::from(run.count) * PAGE_BYTES];
            let place = self.node.layout().page(run.first);
            if !place.is_some_and(|(_, offset)| self.segment.words().read(offset, &mut bytes)) {
                self.host_failed("pages of its own segment are not there");
                break;
            }
            ops.into_iter().for_each(|op| self.tell(op, Completion::Done));
            self.act(Received { first: run.first, bytes: &bytes });
        }
        any
    }

    /// Gives in what others have put where the node looks for it.
    fn look(&mut self) {
        loop {
            let watches = self.node.watches();
            for watch in &watches {
                if !self.segment.has_something(watch.offset, watch.words) {
                    continue;
                }
                if let Some(words) = self.segment.read_words(watch.offset, watch.words) {
                    self.node.handle_words(*watch, &words);
                    self.act(Received::NOTHING);
                }
            }
            // It looks for something else now, which may be there.
            if self.node.watches() == watches {
                return;
            }
        }
    }

    fn poll_transport(&mut self) -> bool {
        let transport = Arc::clone(&self.transport);
        let mut worked = transport.poll(&mut |event| self.happened(event));
        if self.operations.is_waiting() {
            match self.operations.drain() {
                Ok(started) => worked |= started,
                Err(error) => self.host_failed(&error.to_string()),
            }
        }
        worked
    }

    fn happened(&mut self, event: Event<'_>) {
        match event {
            Event::Message { from, body, .. } => match Message::decode(body, self.settings.team.len()) {
                Some(Message::Leaves) => {
                    self.left.insert(from);
                    self.have_all_left();
                }
                Some(message) => self.hear(from, message),
                None => self.lose(from, "it has sent what makes no sense".to_owned()),
            },
            Event::Lost { rank, reason } => {
                // Whoever is done stays until all are.
                let has_left = !self.left.insert(rank);
                if !(has_left && self.leaves) {
                    self.lose(rank, reason);
                }
                self.have_all_left();
            }
            Event::Completed { id, outcome } => self.completed(id, &outcome),
        }
    }

    fn lose(&mut self, rank: Rank, reason: String) {
        if self.node.failure().is_none() {
            self.reason = reason;
        }
        self.node.handle_lost(rank);
        self.act(Received::NOTHING);
    }

    fn completed(&mut self, id: OperationId, outcome: &Ended<'_>) {
        let Some((target, part)) = self.operations.end(id) else { return };
        match (part, outcome) {
            (Part::Words(op), Ended::Got(bytes)) => self.complete(op, Completion::Words(words_of(bytes))),
            (Part::Put(op), Ended::Put) => self.complete(op, Completion::Done),
            (Part::Swap(op), Ended::Old(old)) => self.complete(op, Completion::Old(*old)),
            (Part::Pages(first, ops), Ended::Got(bytes)) => {
                ops.into_iter().for_each(|op| self.tell(op, Completion::Done));
                self.act(Received { first, bytes });
            }
            (Part::Twin(op, page), Ended::Got(bytes)) => {
                let mut twin = self.spare_twins.pop().unwrap_or_else(|| Box::new([0; PAGE_BYTES]));
                twin.iter_mut().zip(*bytes).for_each(|(to, byte)| *to = *byte);
                self.twins.insert(page, twin);
                self.complete(op, Completion::Done);
            }
            (Part::Save(op, page), Ended::Got(bytes)) => {
                if let Some((home, offset)) = self.node.layout().shadow(page) {
                    self.start(home, Part::Put(op), Request::Put { offset, bytes: bytes.to_vec() });
                }
            }
            (Part::Flush(op), Ended::Put) => {
                if self.operations.flushed(op) {
                    self.complete(op, Completion::Done);
                }
            }
            (_, Ended::Got(_) | Ended::Put | Ended::Old(_) | Ended::Refused) => {
                self.lose(target, "it has not the memory that it should have".to_owned());
            }
        }
    }

    fn complete(&mut self, op: OpId, completion: Completion) {
        self.tell(op, completion);
        self.act(Received::NOTHING);
    }

    fn tell(&mut self, op: OpId, completion: Completion) {
        if let Err(error) = self.node.handle_completion(op, completion) {
            self.host_failed(&error.to_string());
        }
    }

    fn start(&mut self, target: Rank, part: Part, request: Request) {
        if let Err(error) = self.operations.start(target, part, request) {
            self.host_failed(&error.to_string());
        }
    }

    fn tell_failure(&mut self, failure: Failure) {
        self.failed = true;
        let reason = std::mem::take(&mut self.reason);
        self.end(Ending::Failed { failure, reason });
    }

    fn host_failed(&mut self, what: &str) {
        self.end(Ending::Host(what.to_owned()));
    }

    /// Ends the memory's work and tells why, if that has not been done.
    fn end(&mut self, ending: Ending) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        (self.ending)(ending);
        let error = self.node.failure().map_or(SyncError::Ended, SyncError::Failed);
        self.answer_all(error);
    }

    fn answer_all(&mut self, error: SyncError) {
        for (_, reply) in self.seats.iter_mut().filter_map(|seat| seat.waits.take()) {
            reply.answer(Err(error));
        }
    }

    fn stop(&mut self) {
        self.mailbox.close();
        self.end_races();
        self.answer_all(SyncError::Ended);
        if let Some(waiter) = self.leaving.take() {
            waiter.answer(());
        }
        for span in self.places.spans() {
            if let Err(error) = self.faults.unregister(span.address, span.len()) {
                tracing::warn!(%error, "relaxed memory stays registered for faults until its process ends");
            }
        }
    }
}
