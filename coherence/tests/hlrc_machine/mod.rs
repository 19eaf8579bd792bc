//! A small machine with relaxed memory as a model for the checker.

use std::collections::BTreeMap;

use stateright::{Model, Property};
use vincs_coherence::hlrc::action::{Action, OpId, Outcome};
use vincs_coherence::hlrc::clock::Clock;
use vincs_coherence::hlrc::node::Node;
use vincs_coherence::hlrc::sim::checks::{self, Pair};
use vincs_coherence::hlrc::sim::flight::{Flight, Purpose};
use vincs_coherence::hlrc::sim::lending::Lending;
use vincs_coherence::hlrc::sim::memory::{Effect, Memory, Segments};
use vincs_coherence::hlrc::sim::program::{Program, Reference, Step as Instruction, Variable};
use vincs_coherence::hlrc::{Config, ThreadId};
use vincs_coherence::home::HomeMap;
use vincs_coherence::id::{Access, Page, Rank};

/// The one property: nothing is wrong in any state.
pub(crate) const RIGHT: &str = "nothing is wrong";

/// Words of a notice ring: few, so that it goes round.
const LOG_WORDS: u32 = 2;

const THREAD: ThreadId = ThreadId(0);

type Right<T = ()> = Result<T, String>;

/// Something that may happen next.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Step {
    /// A rank's thread does its next instruction.
    Thread(usize),
    /// An operation of a rank takes effect.
    Effect(usize, OpId),
    /// A page has come.
    Complete(usize, OpId),
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Host {
    node: Node,
    memory: Memory,
    flights: BTreeMap<OpId, Flight>,
    lending: Lending,
    /// The next instruction.
    at: usize,
    waits: bool,
}

/// A state of the machine.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    hosts: Vec<Host>,
    segments: Segments,
    reference: Reference,
    holder: Option<usize>,
    /// Words that have been told, with what was published.
    words: BTreeMap<u32, Clock>,
    problem: Option<String>,
}

/// The model: one thread on each rank; the first two ranks are the homes of a page each.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    programs: Vec<Program>,
    single_writer: bool,
    keep_after: u32,
    lends: bool,
    homes: HomeMap,
}

impl Machine {
    #[expect(clippy::unwrap_used, reason = "two pages have homes")]
    pub(crate) fn new(programs: Vec<Program>, single_writer: bool) -> Self {
        let homes = HomeMap::new([(1, Rank(0)), (1, Rank(1))]).unwrap();
        Self { programs, single_writer, keep_after: u32::MAX, lends: false, homes }
    }

    /// The same whose ranks keep locks from the first turn on.
    pub(crate) fn keeping(self) -> Self {
        Self { keep_after: 0, ..self }
    }

    /// The same whose ranks lend them to their threads, too.
    pub(crate) fn lending(self) -> Self {
        Self { lends: true, ..self.keeping() }
    }

    #[expect(clippy::unwrap_used, reason = "a model with bounds that make no machine is to end the test")]
    fn host(&self, rank: u16) -> Host {
        let mut config = Config::new(Rank(rank), self.homes.clone(), vec![1; self.programs.len()]);
        config.locks = 1;
        config.log_words = LOG_WORDS;
        config.single_writer = self.single_writer;
        config.keep_after = self.keep_after;
        let homed = (0..2).map(Page).filter(|page| self.homes.home(*page) == Some(Rank(rank))).collect();
        let node = Node::with_any_limits(config).unwrap();
        let (memory, lending) = (Memory::new(Rank(rank), homed), Lending::new(self.lends));
        Host { node, memory, flights: BTreeMap::new(), lending, at: 0, waits: false }
    }

    fn take(&self, state: &mut State, step: Step) -> Right {
        match step {
            Step::Thread(rank) => self.instruct(state, rank)?,
            Step::Effect(rank, op) => {
                let State { hosts, segments, .. } = state;
                let flight = hosts[rank].flights.get_mut(&op).ok_or("no operation")?;
                flight.take_all_effect(segments);
                if !matches!(flight.purpose, Purpose::View(_)) {
                    self.complete(state, rank, op)?;
                }
            }
            Step::Complete(rank, op) => self.complete(state, rank, op)?,
        }
        self.look(state)
    }

    fn complete(&self, state: &mut State, rank: usize, op: OpId) -> Right {
        let host = &mut state.hosts[rank];
        let (completion, purpose, cells) = host.flights.remove(&op).ok_or("no operation")?.end();
        host.memory.receive(purpose, cells);
        host.node.handle_completion(op, completion).map_err(|error| error.to_string())?;
        self.execute(state, rank)
    }

    /// All ranks look at their words until nothing comes of it.
    fn look(&self, state: &mut State) -> Right {
        for rank in 0..state.hosts.len() {
            loop {
                let State { hosts, segments, .. } = &mut *state;
                let node = &mut hosts[rank].node;
                let before = node.watches();
                for watch in &before {
                    let words = segments.words(node.at(), watch.offset, watch.words);
                    if words.iter().any(|word| *word != 0) {
                        node.handle_words(*watch, &words);
                    }
                }
                let same = node.watches() == before;
                self.execute(state, rank)?;
                if same {
                    break;
                }
            }
        }
        Ok(())
    }

    fn execute(&self, state: &mut State, rank: usize) -> Right {
        while let Some(action) = state.hosts[rank].node.poll_action() {
            self.execute_one(state, rank, action)?;
        }
        Ok(())
    }

    fn execute_one(&self, state: &mut State, rank: usize, action: Action) -> Right {
        let State { hosts, segments, holder, words, .. } = state;
        let host = &mut hosts[rank];
        match host.memory.execute(segments, action)? {
            Effect::None => {}
            Effect::Lent(lock) => host.lending.lend(lock),
            Effect::Recalled(lock) => {
                if host.lending.recall(lock) {
                    host.node.handle_returned(lock).map_err(|error| error.to_string())?;
                }
            }
            Effect::Started(op, flight) => {
                host.flights.insert(op, flight);
            }
            Effect::Woken(_, outcome) => {
                host.waits = false;
                match outcome {
                    Outcome::Access(..) => {}
                    Outcome::Acquired { .. } => {
                        host.at += 1;
                        if let Some(other) = holder.replace(rank) {
                            return Err(format!("ranks {other} and {rank} have the lock"));
                        }
                    }
                    Outcome::Published => {
                        let clock = host.node.take_published(THREAD).ok_or("nothing is published")?;
                        if let Some(Instruction::Tell(word)) = self.programs[rank].get(host.at) {
                            words.insert(*word, clock);
                        }
                        host.at += 1;
                    }
                    Outcome::Released | Outcome::Seen | Outcome::Passed(_) => host.at += 1,
                    Outcome::Failed(failure) => return Err(failure.to_string()),
                }
                if matches!(outcome, Outcome::Passed(_)) {
                    self.passed(state)?;
                }
            }
        }
        Ok(())
    }

    /// A barrier is passed: everybody has come to it.
    fn passed(&self, state: &State) -> Right {
        let barrier = |rank: usize| self.programs[rank].iter().position(|step| *step == Instruction::Barrier);
        let late = (0..state.hosts.len()).find(|rank| {
            let (at, waits) = (state.hosts[*rank].at, state.hosts[*rank].waits);
            barrier(*rank).is_some_and(|barrier| at < barrier || at == barrier && !waits)
        });
        late.map_or(Ok(()), |rank| Err(format!("a barrier is passed before rank {rank} has come")))
    }

    fn instruct(&self, state: &mut State, rank: usize) -> Right {
        let step = *self.programs[rank].get(state.hosts[rank].at).ok_or("no instruction")?;
        if self.borrows(state, rank, step)? {
            return self.execute(state, rank);
        }
        let node = &mut state.hosts[rank].node;
        match step {
            Instruction::Read(variable) => return self.access(state, rank, variable, Access::Read, |value| value),
            Instruction::Write(variable, value) => {
                return self.access(state, rank, variable, Access::Write, |_| value);
            }
            Instruction::Add(variable) => {
                return self.access(state, rank, variable, Access::Write, |value| value + 1);
            }
            Instruction::Acquire(lock) => node.handle_acquire(THREAD, lock).map_err(|error| error.to_string())?,
            Instruction::Release(lock) => {
                state.holder = None;
                node.handle_release(THREAD, lock).map_err(|error| error.to_string())?;
            }
            Instruction::Tell(_) => node.handle_publish(THREAD).map_err(|error| error.to_string())?,
            Instruction::Hear(word) => {
                let clock = state.words.get(&word).ok_or("a word is heard that nobody has told")?;
                node.handle_see(THREAD, clock.clone()).map_err(|error| error.to_string())?;
            }
            Instruction::Barrier | Instruction::Reduce(..) | Instruction::End => {
                let members = u32::try_from(self.programs.len()).map_err(|error| error.to_string())?;
                node.handle_barrier(THREAD, members, None).map_err(|error| error.to_string())?;
            }
        }
        state.hosts[rank].waits = true;
        self.execute(state, rank)
    }

    /// A thread takes or gives back a lock that its rank has lent, if that is so.
    fn borrows(&self, state: &mut State, rank: usize, step: Instruction) -> Right<bool> {
        let State { hosts, holder, .. } = state;
        let host = &mut hosts[rank];
        match step {
            Instruction::Acquire(lock) => {
                if !host.lending.take(lock) {
                    return Ok(false);
                }
                if let Some(other) = holder.replace(rank) {
                    return Err(format!("ranks {other} and {rank} have the lock"));
                }
            }
            Instruction::Release(lock) => {
                let Some(is_wanted) = host.lending.give_back(lock) else { return Ok(false) };
                *holder = None;
                if is_wanted {
                    host.node.handle_returned(lock).map_err(|error| error.to_string())?;
                }
            }
            Instruction::Read(_)
            | Instruction::Write(..)
            | Instruction::Add(_)
            | Instruction::Tell(_)
            | Instruction::Hear(_)
            | Instruction::Barrier
            | Instruction::Reduce(..)
            | Instruction::End => return Ok(false),
        }
        host.at += 1;
        Ok(true)
    }

    fn access(
        &self,
        state: &mut State,
        rank: usize,
        variable: Variable,
        access: Access,
        change: impl Fn(u64) -> u64,
    ) -> Right {
        let State { hosts, segments, reference, .. } = &mut *state;
        let host = &mut hosts[rank];
        if host.memory.access(variable.page) < Some(access) {
            host.node.handle_fault(THREAD, variable.page, access).map_err(|error| error.to_string())?;
            host.waits = true;
            return self.execute(state, rank);
        }
        let cells = host.memory.read(segments, variable.page).ok_or("a page cannot be read")?;
        let (value, expected) = (variable.value(&cells), reference.value(variable));
        if value != expected {
            return Err(format!("rank {rank} saw {value} in {variable:?}, not {expected}"));
        }
        if access == Access::Write {
            let new = change(value);
            host.memory.write(segments, variable.page, variable.at, &variable.bytes(new));
            reference.write(variable, new);
        }
        host.at += 1;
        Ok(())
    }

    fn check(&self, state: &State) -> Right {
        let pairs: Vec<Pair<'_>> =
            state.hosts.iter().map(|host| Pair { node: &host.node, memory: &host.memory }).collect();
        for page in (0..2).map(Page) {
            let home = self.homes.home(page).unwrap_or(Rank(0));
            checks::alone(&pairs, &state.segments, page).map_err(|violation| violation.to_string())?;
            for pair in &pairs {
                checks::agreement(*pair, page).map_err(|violation| violation.to_string())?;
                checks::twins(*pair, Some(home), page).map_err(|violation| violation.to_string())?;
            }
        }
        checks::clocks(&pairs).map_err(|violation| violation.to_string())?;
        if state.hosts.iter().all(|host| host.flights.is_empty()) {
            self.check_rest(state)?;
        }
        Ok(())
    }

    /// Whether a rank's thread can do its next instruction.
    fn may_step(&self, state: &State, rank: usize) -> bool {
        let Some(host) = state.hosts.get(rank).filter(|host| !host.waits) else { return false };
        match self.programs[rank].get(host.at) {
            Some(Instruction::Hear(word)) => state.words.contains_key(word),
            next => next.is_some(),
        }
    }

    /// Nothing is under way: whoever waits, waits for a thread that can go on.
    fn check_rest(&self, state: &State) -> Right {
        let over = |rank: usize| state.hosts[rank].at == self.programs[rank].len();
        let ranks = 0..state.hosts.len();
        if ranks.clone().any(|rank| self.may_step(state, rank)) {
            return Ok(());
        }
        if let Some(rank) = ranks.clone().find(|rank| !over(*rank)) {
            return Err(format!("rank {rank} waits for ever"));
        }
        match state.hosts.iter().find(|host| !host.node.is_idle()) {
            Some(host) => Err(format!("rank {} has something left to do", host.node.at().0)),
            None => Ok(()),
        }
    }
}

impl State {
    /// What is wrong.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}

impl Model for Machine {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let ranks = u16::try_from(self.programs.len()).unwrap_or(0);
        vec![State {
            hosts: (0..ranks).map(|rank| self.host(rank)).collect(),
            segments: Segments::default(),
            reference: Reference::default(),
            holder: None,
            words: BTreeMap::new(),
            problem: None,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.problem.is_some() {
            return;
        }
        for (rank, host) in state.hosts.iter().enumerate() {
            if self.may_step(state, rank) {
                steps.push(Step::Thread(rank));
            }
            for (op, flight) in &host.flights {
                let step = if flight.parts.is_empty() && matches!(flight.purpose, Purpose::View(_)) {
                    Step::Complete(rank, *op)
                } else {
                    Step::Effect(rank, *op)
                };
                steps.push(step);
            }
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        let taken = self.take(&mut next, step).and_then(|()| self.check(&next));
        next.problem = taken.err();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(RIGHT, |_, state: &State| state.problem.is_none())]
    }
}
