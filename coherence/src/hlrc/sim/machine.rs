//! The machine: ranks with their nodes, and events in the order of their time.

use std::collections::{BTreeMap, BTreeSet};

use crate::hlrc::action::{Action, Completion, Failure, OpId, Outcome};
use crate::hlrc::clock::Clock;
use crate::hlrc::diff::Changed;
use crate::hlrc::node::{Node, TouchError};
use crate::hlrc::{LockId, ThreadId};
use crate::id::{Access, Page, Rank};
use crate::sim::rng::Rng;
use crate::sim::trace::Trace;

use super::checks::{self, Check, Pair, Violation};
use super::flight::{Flight, Purpose};
use super::lending::Lending;
use super::memory::{Effect, Memory, Segments};
use super::mutants::{Mutation, Order};
use super::program::{Program, Reference, Step, Variable};
use super::races::{NoteMutant, Observer};
use super::scenario::{Outcomes, Scenario};

mod end;
mod locks;

/// Longest wait of a thread, in microseconds: a lock behind all others, each with everything that ends an interval, takes much less.
const PATIENCE: u64 = 2_000_000;

/// One of so many parts of operations is late.
const SLOW_ONE_IN: u64 = 8;
/// It may take so many times as long.
const SLOWER: u64 = 20;

#[derive(Clone, Copy, Debug)]
enum Event {
    Step(usize),
    Effect(Rank, OpId),
    Complete(Rank, OpId),
    Look(Rank),
    Loss(Rank),
    Told(Rank, Rank),
    Note(Rank),
}

#[derive(Debug)]
struct Site {
    node: Node,
    memory: Memory,
    flights: BTreeMap<OpId, Flight>,
    /// Operations that end without having been done.
    made_up: BTreeMap<OpId, Completion>,
    /// What the node is not told of: names beyond its own.
    unheeded: u32,
    lending: Lending,
    looks: bool,
    lost: bool,
    mutation: Option<Box<dyn Mutation>>,
}

#[derive(Debug)]
struct Thread {
    rank: Rank,
    id: ThreadId,
    program: Program,
    at: usize,
    /// Since when it waits.
    waits: Option<u64>,
    ended: bool,
    /// The page that it touches and nobody knows it to wait for.
    touches: Option<Page>,
    /// Barriers that it has come to and passed.
    came: usize,
    reads: Vec<u64>,
}

/// A simulated machine.
#[derive(Debug)]
pub struct Machine<'a> {
    scenario: &'a Scenario,
    rng: Rng,
    now: u64,
    order: u64,
    events: BTreeMap<(u64, u64), Event>,
    sites: Vec<Site>,
    segments: Segments,
    reference: Reference,
    threads: Vec<Thread>,
    holders: BTreeMap<LockId, usize>,
    /// Words that threads have told, with what has been published.
    words: BTreeMap<u32, Clock>,
    told_abandoned: u64,
    /// Looks for races, if that is asked.
    observer: Option<Observer>,
    trace: Trace,
}

type Right<T = ()> = Result<T, Violation>;

fn wrong<T>(check: Check, what: impl Into<String>) -> Right<T> {
    Err(Violation::new(check, what))
}

/// A page that threads may write, and that is dropped before anything else can happen to it: what they have written meanwhile would be lost.
fn allowed_and_dropped(actions: &[Action]) -> Option<u32> {
    let dropped = |page: &Page, rest: &[Action]| rest.contains(&Action::Unmap { page: *page });
    let of = |(index, action): (usize, &Action)| {
        let Action::Allow { page } = action else { return None };
        dropped(page, actions.get(index..)?).then_some(page.0)
    };
    actions.iter().enumerate().find_map(of)
}

impl<'a> Machine<'a> {
    /// One at its start. `planted`: a rank with a bug.
    ///
    /// # Errors
    /// [`Violation`] when there is no such machine.
    pub fn new(
        scenario: &'a Scenario,
        rng: Rng,
        planted: Option<(Rank, Box<dyn Mutation>)>,
        trace: Trace,
    ) -> Right<Self> {
        let mut planted = planted;
        let mut sites = Vec::new();
        let mut threads = Vec::new();
        let mut programs = scenario.programs.iter();
        for (rank, count) in (0..).map(Rank).zip(&scenario.team) {
            let node = Node::with_any_limits(scenario.config(rank));
            let node = node.map_err(|error| Violation::new(Check::Protocol, error.to_string()))?;
            let memory = Memory::new(rank, scenario.homed(rank));
            let mutation = planted.take_if(|(at, _)| *at == rank).map(|(_, mutation)| mutation);
            let (flights, made_up) = Default::default();
            let lending = Lending::new(scenario.lends);
            let (unheeded, looks, lost) = Default::default();
            sites.push(Site { node, memory, flights, made_up, unheeded, lending, looks, lost, mutation });
            for (id, program) in (0..*count).map(ThreadId).zip(programs.by_ref()) {
                let program = program.clone();
                threads.push(Thread {
                    rank,
                    id,
                    program,
                    at: 0,
                    waits: None,
                    ended: false,
                    touches: None,
                    came: 0,
                    reads: Vec::new(),
                });
            }
        }
        let mut machine = Self {
            scenario,
            rng,
            now: 0,
            order: 0,
            events: BTreeMap::new(),
            sites,
            segments: Segments::default(),
            reference: Reference::default(),
            threads,
            holders: BTreeMap::new(),
            words: BTreeMap::new(),
            told_abandoned: 0,
            observer: None,
            trace,
        };
        for thread in 0..machine.threads.len() {
            machine.after(20, Event::Step(thread));
        }
        if let Some((rank, at)) = scenario.loss {
            machine.events.insert((at, 0), Event::Loss(rank));
        }
        Ok(machine)
    }

    /// Has an observer look for races, which may have a bug.
    #[must_use]
    pub fn observed(mut self, mutant: Option<&'static NoteMutant>) -> Self {
        let Scenario { check_races, homes, planted, team, .. } = self.scenario;
        let ranks = u16::try_from(team.len()).unwrap_or(u16::MAX);
        self.observer = check_races.then(|| Observer::new(ranks, homes, planted, mutant));
        self
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// When, what, and the last things that happened.
    pub fn run(mut self) -> Result<Outcomes, (u64, Violation, Trace)> {
        let mut over = false;
        loop {
            while let Some(((at, _), event)) = self.events.pop_first() {
                self.now = at;
                if let Err(violation) = self.handle(event).and_then(|()| self.check()) {
                    return Err((self.now, violation, self.trace));
                }
            }
            if std::mem::replace(&mut over, true) {
                break;
            }
            if let Err(violation) = self.check_waits().and_then(|()| self.let_go()) {
                return Err((self.now, violation, self.trace));
            }
        }
        if let Err(violation) = self.check_end() {
            return Err((self.now, violation, self.trace));
        }
        Ok(Outcomes {
            stats: self.sites.iter().map(|site| site.node.stats()).collect(),
            reads: self.threads.into_iter().map(|thread| thread.reads).collect(),
            told_abandoned: self.told_abandoned,
        })
    }

    fn after(&mut self, most: u64, event: Event) {
        let at = self.now + 1 + self.rng.below(most.max(1));
        self.order += 1;
        self.events.insert((at, self.order), event);
    }

    /// Something happens on the way between ranks: soon mostly, late sometimes.
    fn travel(&mut self, event: Event) {
        let most = self.scenario.delay * if self.rng.one_in(SLOW_ONE_IN) { SLOWER } else { 1 };
        self.after(most, event);
    }

    fn site(&mut self, rank: Rank) -> &mut Site {
        &mut self.sites[usize::from(rank.0)]
    }

    fn handle(&mut self, event: Event) -> Right {
        match event {
            Event::Step(thread) => {
                self.look_soon(self.threads[thread].rank);
                self.step(thread)
            }
            Event::Effect(rank, op) => {
                self.take_effect(rank, op);
                Ok(())
            }
            Event::Complete(rank, op) => self.complete(rank, op),
            Event::Note(rank) => self.observer.as_mut().map_or(Ok(()), |observer| observer.hear(rank)),
            Event::Look(rank) => self.look(rank),
            Event::Loss(rank) => {
                self.trace.note(self.now, || format!("rank {} is lost", rank.0));
                self.site(rank).lost = true;
                self.holders.retain(|_, thread| self.threads[*thread].rank != rank);
                for other in (0..self.sites.len()).filter_map(|other| u16::try_from(other).ok()).map(Rank) {
                    if other != rank {
                        self.after(1000, Event::Told(other, rank));
                    }
                }
                Ok(())
            }
            Event::Told(rank, lost) => {
                self.site(rank).node.handle_lost(lost);
                let touched: Vec<Page> = self.threads.iter().filter_map(|thread| thread.touches).collect();
                touched.into_iter().for_each(|page| self.wake_all(rank, page));
                self.execute(rank)
            }
        }
    }

    fn take_effect(&mut self, rank: Rank, op: OpId) {
        // Of what a lost rank has begun some never arrives.
        let (lost, dropped) = (self.sites[usize::from(rank.0)].lost, self.rng.one_in(2));
        let Some(flight) = self.sites[usize::from(rank.0)].flights.get(&op) else { return };
        let part = self.rng.index(flight.parts.len());
        let target = flight.parts.get(part).map_or(rank, super::flight::Part::target);
        if self.sites[usize::from(target.0)].lost || lost && dropped {
            return;
        }
        let Some(flight) = self.sites[usize::from(rank.0)].flights.get_mut(&op) else { return };
        let before = flight.parts.len();
        if let Some(part) = flight.parts.get(part) {
            self.trace.note(self.now, || format!("rank {} {part:?}", rank.0));
        }
        flight.take_effect(part, &mut self.segments);
        let left = flight.parts.len();
        let is_page = matches!(flight.purpose, Purpose::View(_));
        if left == before && left > 0 {
            self.travel(Event::Effect(rank, op));
        }
        if left == 0 && is_page && self.scenario.late_pages {
            self.after(self.scenario.delay * SLOWER * 4, Event::Complete(rank, op));
        } else if left == 0 {
            self.travel(Event::Complete(rank, op));
        }
        self.look_soon(target);
    }

    fn look_soon(&mut self, rank: Rank) {
        if !std::mem::replace(&mut self.site(rank).looks, true) {
            self.travel(Event::Look(rank));
        }
    }

    fn look(&mut self, rank: Rank) -> Right {
        self.site(rank).looks = false;
        if self.site(rank).lost {
            return Ok(());
        }
        let watches = self.sites[usize::from(rank.0)].node.watches();
        for watch in &watches {
            let words = self.segments.words(rank, watch.offset, watch.words);
            let site = &mut self.sites[usize::from(rank.0)];
            let words = match &mut site.mutation {
                Some(mutation) => mutation.words(&site.node, *watch, words),
                None => words,
            };
            if words.iter().any(|word| *word != 0) {
                site.node.handle_words(*watch, &words);
                self.execute(rank)?;
            }
        }
        // It looks for something else now, which may be there.
        if self.site(rank).node.watches() != watches {
            self.look_soon(rank);
        }
        Ok(())
    }

    fn complete(&mut self, rank: Rank, op: OpId) -> Right {
        let site = self.site(rank);
        if site.lost {
            return Ok(());
        }
        let made_up = site.made_up.remove(&op);
        let completion = match (made_up, site.flights.remove(&op)) {
            (Some(completion), _) => completion,
            (None, Some(flight)) => {
                let (completion, purpose, cells) = flight.end();
                site.memory.receive(purpose, cells);
                completion
            }
            (None, None) => return wrong(Check::Memory, format!("rank {} ends what it has not begun", rank.0)),
        };
        if op.0 >= u32::MAX - site.unheeded {
            return Ok(());
        }
        let completion = match &mut site.mutation {
            Some(mutation) => mutation.completion(&site.node, op, completion),
            None => completion,
        };
        let done = site.node.handle_completion(op, completion);
        done.map_err(|error| Violation::new(Check::Protocol, format!("rank {}: {error}", rank.0)))?;
        self.look_soon(rank);
        self.execute(rank)
    }

    fn execute(&mut self, rank: Rank) -> Right {
        // What is done may be an input to the node.
        while self.execute_all(rank)? {}
        self.write_down(rank, Vec::new());
        Ok(())
    }

    /// Does what the node wants done by now; whether that was anything.
    fn execute_all(&mut self, rank: Rank) -> Right<bool> {
        let site = &mut self.sites[usize::from(rank.0)];
        let actions: Vec<Action> = std::iter::from_fn(|| site.node.poll_action()).collect();
        if actions.is_empty() {
            return Ok(false);
        }
        if let Some(page) = allowed_and_dropped(&actions) {
            return wrong(
                Check::Memory,
                format!("rank {} lets threads write page {page} and drops it at once", rank.0),
            );
        }
        let orders = match &mut site.mutation {
            Some(mutation) => mutation.actions(&site.node, actions),
            None => actions.into_iter().map(Order::Do).collect(),
        };
        for order in orders {
            match order {
                Order::Do(action) => self.execute_one(rank, action, None)?,
                Order::Unheeded(action) => {
                    self.site(rank).unheeded += 1;
                    let op = OpId(u32::MAX - self.site(rank).unheeded);
                    self.execute_one(rank, action, Some(op))?;
                }
                Order::Finish(op, completion) => {
                    self.site(rank).made_up.insert(op, completion);
                    self.travel(Event::Complete(rank, op));
                }
            }
        }
        Ok(true)
    }

    /// A rank notes its clock, and what it has changed of pages with that.
    fn write_down(&mut self, rank: Rank, pages: Vec<(Page, Vec<Changed>)>) {
        let Some(observer) = &mut self.observer else { return };
        let clock = self.sites[usize::from(rank.0)].node.clock();
        for _ in 0..observer.write_down(rank, clock, pages) {
            self.travel(Event::Note(rank));
        }
    }

    fn execute_one(&mut self, rank: Rank, action: Action, instead: Option<OpId>) -> Right {
        self.trace.note(self.now, || format!("rank {} does {action:?}", rank.0));
        if let Action::Map { page } | Action::Allow { page } = action {
            self.wake_all(rank, page);
        }
        if let Action::Flush { pages, .. } = &action {
            let memory = &self.sites[usize::from(rank.0)].memory;
            self.write_down(rank, pages.iter().map(|(page, _)| (*page, memory.changes(*page))).collect());
        }
        let site = &mut self.sites[usize::from(rank.0)];
        let effect = site.memory.execute(&mut self.segments, action);
        match effect.map_err(|what| Violation::new(Check::Memory, format!("rank {}: {what}", rank.0)))? {
            Effect::None => Ok(()),
            Effect::Lent(lock) => {
                site.lending.lend(lock);
                Ok(())
            }
            Effect::Recalled(lock) => {
                if site.lending.recall(lock) {
                    self.returned(rank, lock)?;
                }
                Ok(())
            }
            Effect::Started(op, flight) => {
                let op = instead.unwrap_or(op);
                let parts = flight.parts.len();
                site.flights.insert(op, flight);
                for _ in 0..parts {
                    self.travel(Event::Effect(rank, op));
                }
                if parts == 0 {
                    self.travel(Event::Complete(rank, op));
                }
                Ok(())
            }
            Effect::Woken(thread, outcome) => {
                let index = self.threads.iter().position(|other| other.rank == rank && other.id == thread);
                let Some(index) = index else { return wrong(Check::Protocol, "nobody is woken") };
                self.woken(index, outcome)
            }
        }
    }

    /// A thread does its next step, or tries one again.
    fn step(&mut self, index: usize) -> Right {
        let rank = self.threads[index].rank;
        let thread = &self.threads[index];
        if thread.ended || self.sites[usize::from(rank.0)].lost {
            return Ok(());
        }
        let Some(step) = thread.program.get(thread.at).copied() else { return Ok(()) };
        self.trace.note(self.now, || format!("rank {} {} {step:?}", rank.0, self.threads[index].id));
        match step {
            Step::Read(variable) => self.access(index, variable, Access::Read, |value| value),
            Step::Write(variable, value) => self.access(index, variable, Access::Write, |_| value),
            Step::Add(variable) => self.access(index, variable, Access::Write, |value| value.wrapping_add(1)),
            Step::Acquire(_) | Step::Release(_) | Step::Tell(_) | Step::Barrier | Step::Reduce(..) => {
                self.synchronise(index, step)
            }
            Step::Hear(word) => self.hear(index, word),
            Step::End => self.end(index),
        }
    }

    fn access(&mut self, index: usize, variable: Variable, access: Access, change: impl Fn(u64) -> u64) -> Right {
        let (rank, id) = (self.threads[index].rank, self.threads[index].id);
        let site = &mut self.sites[usize::from(rank.0)];
        if site.memory.access(variable.page) < Some(access) {
            self.threads[index].waits.get_or_insert(self.now);
            if self.scenario.hints && self.rng.one_in(2) {
                return self.touch(index, variable.page, access);
            }
            let asked = site.node.handle_fault(id, variable.page, access);
            asked.map_err(|error| Violation::new(Check::Protocol, error.to_string()))?;
            if self.scenario.hints && self.rng.one_in(2) {
                let page = Page(self.rng.below_u32(self.scenario.homes.pages()));
                let access = self.rng.pick(&[Access::Read, Access::Write]).unwrap_or(Access::Read);
                self.site(rank).node.handle_hint(page, access);
            }
            return self.execute(rank);
        }
        let Some(cells) = site.memory.read(&self.segments, variable.page) else {
            return wrong(Check::Memory, format!("rank {} cannot read page {}", rank.0, variable.page.0));
        };
        let (value, expected) = (variable.value(&cells), self.reference.value(variable));
        if self.scenario.check_reads && value != expected {
            return wrong(Check::Values, format!("rank {} saw {value:#x} in {variable:?}, not {expected:#x}", rank.0));
        }
        if access == Access::Write {
            let new = change(value);
            site.memory.write(&mut self.segments, variable.page, variable.at, &variable.bytes(new));
            self.reference.write(variable, new);
        } else {
            self.threads[index].reads.push(value);
        }
        self.go_on(index);
        Ok(())
    }

    /// A thread wants a page without its name.
    fn touch(&mut self, index: usize, page: Page, access: Access) -> Right {
        let rank = self.threads[index].rank;
        match self.site(rank).node.handle_touch(page, access) {
            Ok(true) => self.after(5, Event::Step(index)),
            Ok(false) => self.threads[index].touches = Some(page),
            // It would have been told by name.
            Err(TouchError::Failed(failure)) => return self.woken(index, Outcome::Failed(failure)),
            Err(error @ TouchError::NoPage(_)) => return wrong(Check::Protocol, error.to_string()),
        }
        self.execute(rank)
    }

    /// Those that have touched a page try again.
    fn wake_all(&mut self, rank: Rank, page: Page) {
        for index in 0..self.threads.len() {
            let thread = &mut self.threads[index];
            if thread.rank == rank && thread.touches.take_if(|touched| *touched == page).is_some() {
                self.after(5, Event::Step(index));
            }
        }
    }

    /// A thread waits for a word that another one tells.
    fn hear(&mut self, index: usize, word: u32) -> Right {
        let (rank, id) = (self.threads[index].rank, self.threads[index].id);
        self.threads[index].waits.get_or_insert(self.now);
        let Some(clock) = self.words.get(&word).cloned() else {
            if let Some(failure) = self.site(rank).node.failure() {
                return self.woken(index, Outcome::Failed(failure));
            }
            self.after(self.scenario.delay, Event::Step(index));
            return Ok(());
        };
        let asked = self.site(rank).node.handle_see(id, clock);
        asked.map_err(|error| Violation::new(Check::Protocol, format!("rank {}: {error}", rank.0)))?;
        self.execute(rank)
    }

    fn go_on(&mut self, index: usize) {
        self.threads[index].waits = None;
        self.threads[index].at += 1;
        self.after(20, Event::Step(index));
    }

    fn synchronise(&mut self, index: usize, step: Step) -> Right {
        if self.borrows(index, step)? {
            return Ok(());
        }
        let (rank, id) = (self.threads[index].rank, self.threads[index].id);
        let members = self.scenario.team.iter().map(|threads| u32::from(*threads)).sum();
        let node = &mut self.sites[usize::from(rank.0)].node;
        let asked = match step {
            Step::Acquire(lock) => node.handle_acquire(id, lock).map_err(|error| error.to_string()),
            Step::Release(lock) => {
                self.holders.remove(&lock);
                node.handle_release(id, lock).map_err(|error| error.to_string())
            }
            Step::Reduce(reduction, word, _) => {
                self.threads[index].came += 1;
                node.handle_barrier(id, members, Some((reduction, word))).map_err(|error| error.to_string())
            }
            Step::Tell(_) => node.handle_publish(id).map_err(|error| error.to_string()),
            Step::Barrier => {
                self.threads[index].came += 1;
                node.handle_barrier(id, members, None).map_err(|error| error.to_string())
            }
            Step::Read(_) | Step::Write(..) | Step::Add(_) | Step::Hear(_) | Step::End => Ok(()),
        };
        asked.map_err(|error| Violation::new(Check::Protocol, format!("rank {}: {error}", rank.0)))?;
        self.threads[index].waits = Some(self.now);
        self.execute(rank)
    }

    fn end(&mut self, index: usize) -> Right {
        let (rank, id) = (self.threads[index].rank, self.threads[index].id);
        self.threads[index].ended = true;
        let held: BTreeSet<LockId> =
            self.holders.iter().filter(|(_, holder)| **holder == index).map(|(lock, _)| *lock).collect();
        self.holders.retain(|lock, _| !held.contains(lock));
        // Those that the node knows nothing of a driver gives back.
        let mut known = BTreeSet::new();
        for lock in held {
            match self.site(rank).lending.give_back(lock) {
                Some(true) => self.returned(rank, lock)?,
                Some(false) => {}
                None => drop(known.insert(lock)),
            }
        }
        let held = known;
        let ended = self.site(rank).node.handle_thread_end(id);
        let ended = ended.map_err(|error| Violation::new(Check::Protocol, error.to_string()))?;
        let failed = self.site(rank).node.failure().is_some();
        if !failed && !ended.locks.iter().eq(&held) {
            return wrong(Check::Exclusion, format!("{:?} were recovered, not {held:?}", ended.locks));
        }
        self.execute(rank)
    }

    fn woken(&mut self, index: usize, outcome: Outcome) -> Right {
        self.trace
            .note(self.now, || format!("rank {} {} {outcome:?}", self.threads[index].rank.0, self.threads[index].id));
        let step = self.threads[index].program.get(self.threads[index].at).copied();
        match (outcome, step) {
            (Outcome::Failed(failure), _) => {
                self.threads[index].ended = true;
                self.threads[index].waits = None;
                let lost = self.scenario.loss.map(|(rank, _)| Failure::Lost(rank));
                if lost != Some(failure) {
                    return wrong(Check::Protocol, failure.to_string());
                }
                return Ok(());
            }
            (Outcome::Access(..), Some(Step::Read(_) | Step::Write(..) | Step::Add(_))) => {
                // It may be lost again before the thread is there.
                self.after(5, Event::Step(index));
                return Ok(());
            }
            (Outcome::Acquired { abandoned }, Some(Step::Acquire(lock))) => {
                self.told_abandoned += u64::from(abandoned);
                self.hold(index, lock)?;
            }
            (Outcome::Released, Some(Step::Release(_))) | (Outcome::Seen, Some(Step::Hear(_))) => {}
            (Outcome::Published, Some(Step::Tell(word))) => {
                let (rank, id) = (self.threads[index].rank, self.threads[index].id);
                let Some(clock) = self.site(rank).node.take_published(id) else {
                    return wrong(Check::Protocol, "nothing is published");
                };
                self.words.insert(word, clock);
            }
            (Outcome::Passed(result), Some(Step::Barrier | Step::Reduce(..))) => {
                if let Some(Step::Reduce(_, _, expected)) = step
                    && result != Some(expected)
                {
                    return wrong(Check::Barrier, format!("a reduction gives {result:x?}, not {expected:#x}"));
                }
                let came = self.threads[index].came;
                if let Some(other) = self.threads.iter().find(|other| other.came < came && !other.ended) {
                    return wrong(
                        Check::Barrier,
                        format!("barrier {came} is passed before rank {} came", other.rank.0),
                    );
                }
            }
            (outcome, step) => return wrong(Check::Protocol, format!("{outcome:?} for a thread at {step:?}")),
        }
        self.go_on(index);
        Ok(())
    }

    fn pairs(&self) -> Vec<Pair<'_>> {
        self.sites.iter().map(|site| Pair { node: &site.node, memory: &site.memory }).collect()
    }

    fn check(&self) -> Right {
        let pairs = self.pairs();
        for page in (0..self.scenario.homes.pages()).map(Page) {
            let home = self.scenario.homes.home(page).filter(|_| !self.scenario.check_races);
            if self.scenario.single_writer && !self.scenario.check_races && self.scenario.loss.is_none() {
                checks::alone(&pairs, &self.segments, page)?;
            }
            for pair in &pairs {
                checks::agreement(*pair, page)?;
                checks::twins(*pair, home, page)?;
            }
        }
        checks::clocks(&pairs)?;
        checks::queues(&pairs)?;
        for pair in pairs {
            checks::bounds(pair, self.scenario.cache_pages, self.scenario.written_pages)?;
        }
        let late = |thread: &&Thread| thread.waits.is_some_and(|since| since + PATIENCE < self.now);
        match self.threads.iter().find(late) {
            Some(thread) => wrong(Check::Progress, format!("rank {} {} waits since long", thread.rank.0, thread.id)),
            None => Ok(()),
        }
    }
}
