//! The thread that owns one shard: its protocol node, its view of memory and its way to the other ranks.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vincs_coherence::codec;
use vincs_coherence::id::{PAGE_BYTES, Page, Rank, RankSet, Run, Tick};
use vincs_coherence::node::{Awaited, HoldId, Node};
use vincs_coherence::transport::{Event, OperationId, Outcome, Transport};
use vincs_coherence::window::Seen;

use super::awaited::Board;
use super::config::{EngineEvent, EventSink, FaultSampler};
use super::frames::Shard;
use super::hand_over::{MoveError, WhenMoved};
use super::leaving::Leaving;
use super::mailbox::{Command, Mailbox, Refuse as _, Refused, Waiter};
use super::outgoing::Outgoing;
use super::processors::Processors;
use super::stats::Recorder;
use super::view::{Fault, View, ViewError};
use super::vitals::Vitals;
use super::windows::Window;
use crate::memory::ready::Ready;

mod execute;
mod homes;
mod leave;

/// Longest time between two attempts to send what was held up, or to leave.
const RETRY: Duration = Duration::from_millis(1);

/// What all shards of an engine share.
#[derive(Clone)]
pub(super) struct Shared {
    /// Something has ended the engine's work.
    ended: Arc<AtomicBool>,
    events: EventSink,
    /// The start of the one clock of all shards: nodes compare times.
    started: Instant,
    awaited: Arc<Board>,
}

impl Shared {
    pub(super) fn new(shards: u16, events: EventSink) -> Self {
        let (ended, awaited) = (Arc::new(AtomicBool::new(false)), Arc::new(Board::new(shards)));
        Self { ended, events, started: Instant::now(), awaited }
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether nothing is granted any more.
    fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Ends the engine's work and tells why, if nobody has.
    fn end(&self, event: EngineEvent) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            (self.events)(event);
        }
    }
}

/// What a service thread starts with.
pub(super) struct Parts {
    pub(super) shard: Shard,
    pub(super) node: Node,
    pub(super) view: View,
    pub(super) window: Option<Window>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) shared: Shared,
    pub(super) vitals: Vitals,
    pub(super) processors: Arc<Processors>,
    /// At one of so many faults somebody looks.
    pub(super) sampling: Option<(NonZeroU32, Arc<dyn FaultSampler>)>,
    pub(super) spin: Duration,
}

/// A service thread's state.
pub(super) struct Service {
    shard: Shard,
    node: Node,
    /// What the other shards were told last.
    told: Awaited,
    view: View,
    window: Option<Window>,
    /// What the node has to be told before anything else: marks of pages that it has hidden, and reads that could not be begun.
    untold: Vec<Untold>,
    transport: Arc<dyn Transport>,
    outgoing: Outgoing,
    mailbox: Arc<Mailbox>,
    recorder: Arc<Recorder>,
    shared: Shared,
    vitals: Vitals,
    /// The rank leaves: whom to tell, and how many pages of others were here when that was looked at last.
    leaving: Option<(Arc<Leaving>, u32)>,
    processors: Arc<Processors>,
    /// What the node was told last of whether they sleep.
    asleep: bool,
    sampling: Option<(NonZeroU32, Arc<dyn FaultSampler>)>,
    /// Faults until the next one that is looked at.
    until_sample: u32,
    spin: Duration,
    /// Devices that wait for their pages.
    waiters: BTreeMap<HoldId, Arc<Waiter>>,
    /// Who waits for pages to get another home, by the first of them.
    movers: BTreeMap<Page, WhenMoved>,
    /// Ranks that are lost, and why, and have handed over all that they had when hand-overs under way are over: perhaps they have left.
    missing: Vec<(Rank, String)>,
    /// Buffers that live on.
    faults: Vec<Fault>,
    header: Vec<u8>,
}

/// What a node is told after its actions have been done.
#[derive(Clone, Copy, Debug)]
enum Untold {
    /// The ranks that may have read a page in the window.
    Collected(Page, RankSet),
    /// A page cannot be read in its home's window.
    NotRead(Page),
}

impl Service {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            shard,
            node,
            view,
            window,
            transport,
            mailbox,
            recorder,
            shared,
            vitals,
            processors,
            sampling,
            spin,
        } = parts;
        Self {
            shard,
            node,
            told: Awaited::NOTHING,
            view,
            window,
            untold: Vec::new(),
            outgoing: Outgoing::new(Arc::clone(&transport)),
            transport,
            mailbox,
            recorder,
            shared,
            vitals,
            leaving: None,
            processors,
            asleep: false,
            sampling,
            until_sample: 0,
            spin,
            waiters: BTreeMap::new(),
            movers: BTreeMap::new(),
            missing: Vec::new(),
            faults: Vec::new(),
            header: Vec::new(),
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
                match command {
                    Command::Hold { id, runs, waiter } => self.hold(id, &runs, waiter),
                    Command::Release(id) => self.release(id),
                    Command::HandOver { run, to, members, done } => self.hand_over(run, to, members, done),
                    Command::Homes(told) => self.take_homes(&told),
                    Command::Leave(leaving) => self.begin_to_leave(leaving),
                    Command::Stop => {
                        commands.for_each(|late| late.refuse());
                        self.stop();
                        return;
                    }
                }
            }
            worked |= (ready.transport || self.outgoing.is_waiting()) && self.poll_transport();
            worked |= ready.faults && self.takes_faults() && self.read_faults();
            worked |= self.time_passes();
            worked |= self.processors_fall_asleep();
            worked |= self.leave();
            if worked {
                idle_since = Instant::now();
            } else if self.shared.ended() {
                self.refuse_waiters();
            }
            // Looking for more costs less than finding out that there is more.
            let spinning = worked || idle_since.elapsed() < self.spin;
            ready = if spinning { Ready::at_once(worked) } else { self.sleep() };
        }
    }

    /// Waits for something to do.
    fn sleep(&mut self) -> Ready {
        self.recorder.sleeps(self.node.stats());
        let may_sleep = self.mailbox.may_sleep(self.node.poll_timeout().is_some());
        let timeout = if may_sleep && self.knows_who_sleeps() { self.sleep_for() } else { Duration::ZERO };
        let takes_faults = self.takes_faults();
        Ready::within(timeout, self.view.fd(), takes_faults, self.transport.ready(), &self.mailbox)
    }

    /// How long to sleep at most.
    fn sleep_for(&self) -> Duration {
        let mut longest = self.transport.poll_within();
        if self.outgoing.is_waiting() || self.leaving.is_some() {
            longest = longest.min(RETRY);
        }
        if let Some(Tick(due)) = self.node.poll_timeout().filter(|_| !self.shared.ended()) {
            longest = longest.min(Duration::from_micros(due).saturating_sub(self.shared.elapsed()));
        }
        longest
    }

    /// Faults are left where they are while messages cannot be sent.
    fn takes_faults(&self) -> bool {
        !self.outgoing.is_waiting() && !self.shared.ended()
    }

    /// The time of an input to the node, which is told what the other shards wait for: before the clock is read, so that none of it is later.
    /// And whether processors sleep: one that has just woken must not lose what it gets.
    fn input_time(&mut self) -> Tick {
        self.node.handle_awaited(self.shared.awaited.others(self.shard.index));
        let now = Tick(u64::try_from(self.shared.elapsed().as_micros()).unwrap_or(u64::MAX));
        if self.asleep && !self.processors.all_sleep() {
            self.asleep = false;
            self.node.handle_sleep(now, false);
        }
        now
    }

    /// Whether the node knows that all processors sleep, or has no need to: it keeps nothing for them.
    fn knows_who_sleeps(&self) -> bool {
        self.asleep || self.node.poll_timeout().is_none() || !self.processors.all_sleep()
    }

    /// Gives up what is kept for processors once all sleep.
    fn processors_fall_asleep(&mut self) -> bool {
        if self.knows_who_sleeps() || self.shared.ended() {
            return false;
        }
        let now = self.input_time();
        self.asleep = true;
        self.node.handle_sleep(now, true);
        self.act(&[]);
        true
    }

    /// After an input: tells the other shards what is waited for, if it is something else now.
    fn tell_awaited(&mut self) {
        let awaited = self.node.awaited();
        if awaited != self.told {
            self.shared.awaited.tell(self.shard.index, awaited);
            self.told = awaited;
        }
    }

    fn read_faults(&mut self) -> bool {
        let mut faults = std::mem::take(&mut self.faults);
        if let Err(error) = self.view.read_faults(&mut faults) {
            self.host_failed(&error);
        }
        let now = self.shared.elapsed();
        let any = !faults.is_empty();
        for fault in faults.drain(..) {
            self.recorder.fault(now, fault.page, fault.missing, fault.thread);
            self.sample(fault);
            let tick = self.input_time();
            self.node.handle_fault(tick, fault.page, fault.access());
            self.act(&[]);
        }
        self.faults = faults;
        any
    }

    fn sample(&mut self, fault: Fault) {
        let Some((every, sampler)) = &self.sampling else { return };
        if self.until_sample == 0 {
            sampler.sample(fault.thread, fault.page, fault.access());
            self.until_sample = every.get();
        }
        self.until_sample = self.until_sample.saturating_sub(1);
    }

    fn poll_transport(&mut self) -> bool {
        let transport = Arc::clone(&self.transport);
        let mut worked = transport.poll(&mut |event| self.happened(event));
        if self.outgoing.is_waiting() {
            worked |= self.drain();
        }
        worked
    }

    fn drain(&mut self) -> bool {
        if let Err(error) = self.outgoing.drain() {
            self.shared.end(EngineEvent::Host(error.to_string()));
        }
        !self.outgoing.is_waiting()
    }

    fn happened(&mut self, event: Event<'_>) {
        if self.shared.ended() {
            return;
        }
        match event {
            Event::Message { from, header, body } => self.message(from, header, body),
            Event::Lost { rank, reason } => self.lost(rank, reason),
            Event::Completed { id, outcome } => self.completed(id, &outcome),
        }
    }

    /// A guarded read has ended: this engine starts no other one-sided operations.
    fn completed(&mut self, id: OperationId, outcome: &Outcome<'_>) {
        let Ok(page) = u32::try_from(id.0).map(Page) else { return };
        let (seen, bytes) = match *outcome {
            Outcome::Got(read) => Seen::parse(read),
            Outcome::Put | Outcome::Old(_) | Outcome::Refused => (Seen::NOTHING, &[][..]),
        };
        let now = self.input_time();
        self.node.handle_guarded_read(now, page, Some(seen));
        self.act(bytes);
    }

    fn message(&mut self, from: Rank, header: &[u8], body: &[u8]) {
        let refused = |what: String| EngineEvent::Protocol { rank: from, what };
        let message = match codec::decode(header) {
            Ok(message) => message,
            Err(error) => return self.shared.end(refused(error.to_string())),
        };
        let run = message.run();
        if run.count > 0 && !self.shard.has(run) {
            let what = format!(
                "a message about {} pages from {} on to shard {}, which does not have them",
                run.count, run.first.0, self.shard.index
            );
            return self.shared.end(refused(what));
        }
        let pages = message.data_pages().len();
        if body.len() != pages * PAGE_BYTES {
            let what = format!("{} bytes with a message about {pages} pages", body.len());
            return self.shared.end(refused(what));
        }
        self.recorder.received(&message, header.len() + body.len());
        self.note_new_home(&message);
        let now = self.input_time();
        match self.node.handle_message(now, from, &message) {
            Ok(()) => {
                self.act(body);
                self.look_for_missing();
            }
            Err(error) => self.shared.end(refused(format!("what the protocol does not allow: {}", error.what))),
        }
    }

    fn time_passes(&mut self) -> bool {
        let Some(due) = self.node.poll_timeout().filter(|_| !self.shared.ended()) else { return false };
        let now = self.input_time();
        if due > now {
            return false;
        }
        self.node.handle_timeout(now);
        self.act(&[]);
        true
    }

    fn hold(&mut self, id: HoldId, runs: &[(Run, vincs_coherence::id::Access)], waiter: Arc<Waiter>) {
        if self.shared.ended() {
            return waiter.answer(Err(Refused::Ended));
        }
        let now = self.input_time();
        match self.node.handle_hold(now, id, runs) {
            Ok(()) => {
                self.waiters.insert(id, waiter);
                self.act(&[]);
            }
            Err(error) => waiter.answer(Err(Refused::Unfit(error.to_string()))),
        }
    }

    fn release(&mut self, id: HoldId) {
        if !self.shared.ended() {
            let now = self.input_time();
            self.node.handle_release(now, id);
            self.act(&[]);
        }
    }

    fn refuse_waiters(&mut self) {
        for (_, done) in std::mem::take(&mut self.movers) {
            done.tell(Err(MoveError::Ended));
        }
        for (_, waiter) in std::mem::take(&mut self.waiters) {
            waiter.answer(Err(Refused::Ended));
        }
    }

    fn stop(&mut self) {
        self.recorder.protocol(self.node.stats());
        self.refuse_waiters();
        self.mailbox.close();
        self.view.close();
    }

    fn host_failed(&self, error: &ViewError) {
        self.shared.end(EngineEvent::Host(error.to_string()));
    }
}
