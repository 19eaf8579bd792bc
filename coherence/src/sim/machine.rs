//! The simulated machine: events in the order of their time, chance from one seed, checkers after every step.

mod checks;
mod devices;
mod events;
mod hand_overs;
mod leaving;
mod processors;
mod windows;

use std::collections::BTreeMap;

use crate::id::{Access, Page, Rank, RankSet, Run, Tick};
use crate::message::Message;
use crate::node::{Action, Awaited, Config, Leave, Node, Stats};
use crate::window::Seen;

use super::checkers::hold_time::HoldTimes;
use super::checkers::linearizable::Truth;
use super::checkers::pins::Pins;
use super::checkers::versions::Versions;
use super::checkers::{Checker, Violation, progress, quiescence};
use super::guest::{Performed, Vcpu, Waiting};
use super::memory::{Effect, Words, leave_out_zeros};
use super::mutants::{Given, Order, Planted};
use super::network::{Network, Parcel};
use super::rank::Site;
use super::rng::Rng;
use super::scenario::{LONGEST_STEP, Scenario};
use super::timing::{Costs, FaultTime, Timing};
use super::trace::Trace;
use super::window::GuardedRead;
use devices::hold_id;

/// One in so many times a processor of the rank takes a step between two actions of its node.
const BETWEEN_ACTIONS_ONE_IN: u64 = 4;

/// All pages are checked every so many events; those that an event is about, after each.
const SWEEP_EVERY: u64 = 256;

/// Something that is due.
#[derive(Clone, Debug)]
enum Event {
    /// A message arrives.
    Arrival { from: Rank, to: Rank },
    /// A processor goes on, unless its token is another by now.
    Step { vcpu: usize, token: u64 },
    /// A fault is told to the node.
    Fault { vcpu: usize, token: u64, waiting: Waiting },
    /// A fault must have been answered.
    Answered { vcpu: usize, token: u64, waiting: Waiting },
    /// A node's timeout is due.
    Timer { rank: Rank, due: u64 },
    /// A rank finds that its processors sleep.
    Sleep { rank: Rank },
    /// A device asks for its pages.
    Hold { job: usize },
    /// A device gives up if it does not have its pages.
    GiveUp { job: usize },
    /// A device uses the pages of its next access, or releases them after the last.
    Use { job: usize, touch: usize },
    /// A hold must be over.
    HoldOver { job: usize },
    /// A NIC goes on with a guarded read.
    Nic { reader: Rank, id: u64 },
    /// A guarded read has ended.
    Brought { reader: Rank, id: u64 },
    /// Rank 0 orders a hand-over.
    HandOver { at: usize },
    /// A rank is gone.
    Crash { rank: Rank },
    /// A processor is to go to another rank.
    Relocate { vcpu: usize, to: Rank },
    /// A rank is to leave, its processors to go to another.
    Leave { rank: Rank, to: Rank },
    /// A rank that leaves gives up more of its pages.
    GiveUpPages { rank: Rank },
}

/// What a node is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// A fault.
    Fault(Page, Access),
    /// A message.
    Message(Rank, Parcel),
    /// Time has passed.
    Timeout,
    /// All processors sleep, or one of them does not any more. Told to all nodes of a rank.
    Sleep(bool),
    /// A device's hold.
    Hold(usize),
    /// The end of it.
    Release(usize),
    /// The marks of a page that is no more in the window.
    Collected(Page, RankSet),
    /// What a guarded read has brought.
    Brought(Page, Seen, Words),
    /// Pages are to get this home; these ranks are told.
    HandOver(Run, Rank, RankSet),
    /// Its rank is to leave, or to go on with it.
    Leave,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum JobState {
    Before,
    Asked,
    Has,
    Over,
}

#[derive(Clone, Debug, Default)]
struct Host {
    dead: bool,
    /// When its service thread can take the next input.
    free_at: u64,
    /// The due time of the timer event that counts.
    timer: Option<u64>,
    /// What its nodes were told last of whether its processors sleep.
    asleep: bool,
    /// What its nodes are to be told before anything else.
    collected: Vec<Input>,
    /// Whether it leaves.
    departure: leaving::Departure,
    /// How far its node says that it has left.
    progress: Option<Leave>,
}

/// What a simulation has come to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Events.
    pub events: u64,
    /// Accesses whose values were checked.
    pub accesses: u64,
    /// The statistics of the nodes.
    pub stats: Vec<Stats>,
    /// What each processor saw, in the order of the scenario's programs.
    pub registers: Vec<Vec<u64>>,
    /// The last value of every page.
    pub last: Vec<Words>,
    /// Hand-overs.
    pub hand_overs: u64,
    /// How long faults took, where times were given.
    pub faults: Vec<FaultTime>,
}

/// A simulation under way.
#[derive(Debug)]
pub struct Machine<'a> {
    scenario: &'a Scenario,
    rng: Rng,
    now: u64,
    events: u64,
    scheduled: u64,
    queue: BTreeMap<(u64, u64), Event>,
    sites: Vec<Site>,
    hosts: Vec<Host>,
    vcpus: Vec<Vcpu>,
    /// Where each processor is, and where it is to go.
    places: Vec<Rank>,
    goes: Vec<Option<Rank>>,
    jobs: Vec<JobState>,
    /// Pages that were ordered to move and have not said that they have.
    moving: Vec<Run>,
    /// Hand-overs that were ordered.
    hand_overs: u64,
    network: Network,
    /// Guarded reads under way, and how many were begun.
    reads: BTreeMap<u64, GuardedRead>,
    begun: u64,
    planted: Option<Planted>,
    truth: Truth,
    hold_times: HoldTimes,
    versions: Versions,
    pins: Pins,
    timing: Timing,
    trace: Trace,
}

type Checked<T = ()> = Result<T, Violation>;

impl<'a> Machine<'a> {
    /// A machine before its first event, with given times or random ones.
    ///
    /// # Errors
    /// [`Violation`] when a node refuses its configuration.
    pub fn new(
        scenario: &'a Scenario,
        rng: Rng,
        mut planted: Option<Planted>,
        costs: Option<Costs>,
        trace: Trace,
    ) -> Checked<Self> {
        let mut sites = Vec::new();
        for rank in (0..scenario.ranks).map(Rank) {
            let mut config = scenario.config(rank);
            if let Some(planted) = planted.as_mut().filter(|planted| planted.rank == rank) {
                planted.mutation.config(&mut config);
            }
            sites.push(Site::new(vec![new_node(config)?; scenario.nodes]));
        }
        let vcpus = scenario.programs.iter().map(|program| Vcpu::new(program.instructions.clone(), program.buffer));
        let mut machine = Self {
            rng,
            now: 0,
            events: 0,
            scheduled: 0,
            queue: BTreeMap::new(),
            sites,
            hosts: vec![Host::default(); scenario.ranks.into()],
            vcpus: vcpus.collect(),
            places: scenario.programs.iter().map(|program| program.rank).collect(),
            goes: vec![None; scenario.programs.len()],
            jobs: vec![JobState::Before; scenario.devices.len()],
            moving: Vec::new(),
            hand_overs: 0,
            network: Network::new(scenario.delays, scenario.partitions.clone()),
            reads: BTreeMap::new(),
            begun: 0,
            planted,
            truth: Truth::new(scenario.homes.pages()),
            hold_times: HoldTimes::new(scenario.hold),
            versions: Versions::default(),
            pins: Pins::default(),
            timing: Timing::new(costs, scenario.programs.len()),
            trace,
            scenario,
        };
        machine.start();
        Ok(machine)
    }

    fn start(&mut self) {
        for vcpu in 0..self.vcpus.len() {
            let at = self.rng.below(LONGEST_STEP);
            self.schedule(at, Event::Step { vcpu, token: 0 });
        }
        let scenario = self.scenario;
        for (job, device) in scenario.devices.iter().enumerate() {
            self.schedule(device.at, Event::Hold { job });
        }
        for (at, hand_over) in scenario.hand_overs.iter().enumerate() {
            self.schedule(hand_over.at, Event::HandOver { at });
        }
        if let Some((rank, at)) = scenario.crash {
            self.schedule(at, Event::Crash { rank });
        }
        for relocation in &scenario.relocations {
            self.schedule(relocation.at, Event::Relocate { vcpu: relocation.vcpu, to: relocation.to });
        }
        for departure in &scenario.leaves {
            self.schedule(departure.at, Event::Leave { rank: departure.rank, to: departure.to });
        }
    }

    /// Lets everything happen.
    ///
    /// # Errors
    /// The first [`Violation`], with when it happened.
    pub fn run(mut self) -> Result<Outcome, (u64, Violation, Trace)> {
        match self.run_to_end() {
            Ok(()) => Ok(self.outcome()),
            Err(violation) => Err((self.now, violation, self.trace)),
        }
    }

    fn run_to_end(&mut self) -> Checked {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = self.now.max(at);
            self.events += 1;
            progress::check_events(Rank(0), self.events)?;
            self.handle(event)?;
            if self.events.is_multiple_of(SWEEP_EVERY) {
                self.check_all()?;
            }
        }
        self.check_all()?;
        if self.crashed() {
            return Ok(());
        }
        if let Some(vcpu) = self.vcpus.iter().position(|vcpu| !vcpu.is_finished()) {
            return Err(Violation::of_rank(Checker::Progress, self.home_of(vcpu), format!("processor {vcpu} hangs")));
        }
        if let Some(run) = self.moving.first() {
            return Err(Violation::of_page(Checker::Progress, run.first, "it never gets to its new home".to_owned()));
        }
        self.check_all_left()?;
        quiescence::check(&self.sites)
    }

    fn outcome(self) -> Outcome {
        let pages = (0..self.scenario.homes.pages()).map(Page);
        Outcome {
            events: self.events,
            accesses: self.truth.accesses,
            stats: self.sites.iter().flat_map(|site| &site.nodes).map(Node::stats).collect(),
            last: pages.map(|page| self.truth.last(page)).collect(),
            hand_overs: self.hand_overs,
            registers: self.vcpus.into_iter().map(|vcpu| vcpu.registers).collect(),
            faults: self.timing.into_faults(),
        }
    }

    fn crashed(&self) -> bool {
        self.hosts.iter().any(|host| host.dead)
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.queue.insert((at, self.scheduled), event);
    }

    /// A short random time at a rank, longer on slow ones; the shortest where times are given.
    fn moment(&mut self, rank: Rank) -> u64 {
        if self.timing.costs().is_some() {
            return 1;
        }
        let slowness = self.scenario.slowness.get(usize::from(rank.0)).copied().unwrap_or(1);
        self.rng.between(1, LONGEST_STEP) * slowness
    }

    /// The rank of a processor.
    fn home_of(&self, vcpu: usize) -> Rank {
        self.places.get(vcpu).copied().unwrap_or(Rank(0))
    }

    fn host(&mut self, rank: Rank) -> &mut Host {
        &mut self.hosts[usize::from(rank.0)]
    }

    fn site(&mut self, rank: Rank) -> &mut Site {
        &mut self.sites[usize::from(rank.0)]
    }

    fn rank_tick(&self, rank: Rank) -> Tick {
        let clock = self.scenario.clocks.get(usize::from(rank.0)).copied().unwrap_or(0);
        Tick(self.now + clock)
    }

    fn handle(&mut self, event: Event) -> Checked {
        let rank = self.rank_of(&event);
        if self.host(rank).dead {
            return Ok(());
        }
        if let Some(until) = self.put_off(rank, &event) {
            let at = until + self.rng.below(2);
            self.schedule(at, event);
            return Ok(());
        }
        match event {
            Event::Arrival { from, to } => match self.network.deliver(from, to) {
                Some(parcel) => self.input(to, &Input::Message(from, parcel)),
                None => Ok(()),
            },
            Event::Step { vcpu, token } if self.vcpus[vcpu].token == token => self.step(vcpu, true),
            Event::Fault { vcpu, token, waiting } => {
                // A processor that was woken before its fault was read: the kernel has dropped it, or has not.
                let waits = self.vcpus[vcpu].token == token;
                if let Some(waiting) = self.vcpus[vcpu].waiting.as_mut().filter(|_| waits) {
                    waiting.told = true;
                }
                if waits || self.rng.one_in(2) {
                    self.input(rank, &Input::Fault(waiting.page, waiting.access))?;
                }
                Ok(())
            }
            Event::Answered { vcpu, token, waiting } if self.vcpus[vcpu].token == token && !self.crashed() => {
                let limit = self.scenario.answer_within();
                Err(progress::unanswered(rank, vcpu, waiting.page, waiting.access, limit))
            }
            Event::Step { .. } | Event::Answered { .. } => Ok(()),
            Event::Timer { due, .. } => {
                if self.host(rank).timer == Some(due) {
                    self.host(rank).timer = None;
                    self.input(rank, &Input::Timeout)?;
                }
                Ok(())
            }
            Event::Sleep { rank } => self.look_who_sleeps(rank),
            Event::Nic { reader, id } => {
                self.nic(reader, id);
                Ok(())
            }
            Event::Brought { reader, id } => self.brought(reader, id),
            Event::HandOver { at } => self.orders(at),
            Event::Hold { .. } | Event::GiveUp { .. } | Event::Use { .. } | Event::HoldOver { .. } => {
                self.device(rank, &event)
            }
            Event::Relocate { vcpu, to } => self.relocate(vcpu, to),
            Event::Leave { rank, to } => self.leave(rank, to),
            Event::GiveUpPages { rank } => self.give_up_pages(rank),
            Event::Crash { rank } => {
                self.trace.note(self.now, || format!("rank {} crashes", rank.0));
                self.host(rank).dead = true;
                self.network.crash(&mut self.rng, rank);
                Ok(())
            }
        }
    }

    fn performed(&mut self, rank: Rank, who: usize, performed: &[Performed]) -> Checked {
        for performed in performed {
            self.trace.note(self.now, || format!("rank {} vcpu or device {who}: {performed:?}", rank.0));
            self.truth.check(rank, performed)?;
        }
        performed.iter().try_for_each(|performed| self.check_page(performed.touch.page))
    }

    /// Tells a node something and executes what it wants done. Before anything else it is told whether its processors sleep.
    fn input(&mut self, rank: Rank, input: &Input) -> Checked {
        if !matches!(input, Input::Sleep(_)) {
            self.look_who_sleeps(rank)?;
        }
        self.told(rank, input)?;
        // The driver has collected marks meanwhile: nothing comes before these.
        while let Some(input) = self.host(rank).collected.pop() {
            self.told(rank, &input)?;
        }
        let busy = match self.timing.costs() {
            None => self.moment(rank),
            // A word between threads.
            Some(_) if matches!(input, Input::Sleep(_)) => 0,
            Some(costs) => costs.service,
        };
        let at = self.now + busy;
        self.host(rank).free_at = at.max(self.host(rank).free_at);
        self.arm_timer(rank);
        Ok(())
    }

    /// A rank's nodes are told something.
    fn told(&mut self, rank: Rank, input: &Input) -> Checked {
        self.trace.note(self.now, || format!("rank {} is told {input:?}", rank.0));
        let mut given = vec![Given::Node(input.clone())];
        let now = self.rank_tick(rank);
        if let Some(planted) = self.planted.as_mut().filter(|planted| planted.rank == rank) {
            let site = &self.sites[usize::from(rank.0)];
            given = planted.mutation.incoming(&site.nodes[place_of(site, input)], input.clone());
        }
        for given in given {
            match given {
                Given::Node(input) => {
                    for place in self.places_of(rank, &input) {
                        self.one_input(rank, now, place, &input)?;
                    }
                }
                Given::Send(to, parcel) => self.send(rank, to, parcel.message, parcel.body)?,
            }
        }
        Ok(())
    }

    /// The places of the nodes that are told this.
    fn places_of(&mut self, rank: Rank, input: &Input) -> std::ops::Range<usize> {
        let site = self.site(rank);
        if matches!(input, Input::Sleep(_)) {
            return 0..site.nodes.len();
        }
        let place = place_of(site, input);
        place..place + 1
    }

    fn one_input(&mut self, rank: Rank, now: Tick, place: usize, input: &Input) -> Checked {
        let mut received: &[Words] = &[];
        let mut touched: Vec<Page> = Vec::new();
        let scenario = self.scenario;
        if matches!(input, Input::Sleep(true)) {
            self.hold_times.end(rank);
        }
        let site = self.site(rank);
        let awaited: Vec<Awaited> = site.nodes.iter().map(Node::awaited).collect();
        let others = (0..).zip(awaited).filter(|(other, _)| *other != place);
        let node = &mut site.nodes[place];
        node.handle_awaited(others.map(|(_, awaited)| awaited));
        match input {
            Input::Fault(page, access) => {
                touched.push(*page);
                node.handle_fault(now, *page, *access);
            }
            Input::Message(from, parcel) => {
                received = &parcel.body;
                touched.extend(parcel.message.run().pages());
                let handled = node.handle_message(now, *from, &parcel.message);
                handled.map_err(|error| Violation::of_rank(Checker::Protocol, rank, error))?;
            }
            Input::Timeout => node.handle_timeout(now),
            Input::Leave => {
                let progress =
                    node.handle_leave(now).map_err(|error| Violation::of_rank(Checker::Leaving, rank, error))?;
                self.host(rank).progress = Some(progress);
            }
            Input::Sleep(asleep) => node.handle_sleep(now, *asleep),
            Input::Hold(job) => {
                let runs = scenario.devices.get(*job).map_or(&[][..], |device| &device.runs);
                let held = node.handle_hold(now, hold_id(*job), runs);
                held.map_err(|error| Violation::of_rank(Checker::Protocol, rank, error))?;
            }
            Input::Release(job) => node.handle_release(now, hold_id(*job)),
            Input::HandOver(run, to, members) => {
                let ordered = node.handle_hand_over(now, *run, *to, *members);
                ordered.map_err(|error| Violation::of_rank(Checker::Protocol, rank, error))?;
            }
            Input::Collected(page, marks) => {
                touched.push(*page);
                node.handle_collected(now, *page, *marks);
            }
            Input::Brought(page, seen, words) => {
                received = std::slice::from_ref(words);
                touched.push(*page);
                node.handle_guarded_read(now, *page, Some(*seen));
            }
        }
        let mut actions: Vec<Action> = Vec::new();
        while let Some(action) = self.site(rank).nodes[place].poll_action() {
            actions.push(action);
        }
        let orders = match self.planted.as_mut().filter(|planted| planted.rank == rank) {
            Some(planted) => planted.mutation.outgoing(actions),
            None => actions.into_iter().map(Order::Do).collect(),
        };
        for order in orders {
            self.order(rank, &order, received, &mut touched)?;
        }
        touched.sort_unstable();
        touched.dedup();
        for page in touched {
            self.check_page(page)?;
            self.check_between_inputs(page)?;
        }
        Ok(())
    }

    fn order(&mut self, rank: Rank, order: &Order, received: &[Words], touched: &mut Vec<Page>) -> Checked {
        self.trace.note(self.now, || format!("rank {} executes {order:?}", rank.0));
        let (action, wakes) = match order {
            Order::Do(action) => (action, true),
            Order::Silently(action) => (action, false),
            Order::Send(to, parcel) => return self.send(rank, *to, parcel.message.clone(), parcel.body.clone()),
        };
        let pages: Vec<Page> = pages_of_action(action);
        let tick = self.rank_tick(rank);
        let effect = self.site(rank).memory.execute(action, received);
        let effect = effect.map_err(|what| Violation::of_rank(Checker::Memory, rank, what))?;
        let places = &self.places;
        let wanted = |page, access| {
            let serves = |waiting: Waiting| waiting.told && waiting.page == page && waiting.access <= access;
            let waits = |vcpu: &Vcpu| vcpu.waiting.is_some_and(serves);
            places.iter().zip(&self.vcpus).any(|(place, vcpu)| *place == rank && waits(vcpu))
        };
        self.hold_times.check(rank, tick, action, wanted)?;
        match effect {
            Effect::None => {}
            Effect::Sent { to, message, mut body } => {
                let mut message = message;
                let mutation = self.planted.as_mut().filter(|planted| planted.rank == rank);
                if let Some(planted) = mutation {
                    planted.mutation.body(&message, &mut body);
                }
                if self.scenario.zeros_left_out_one_in > 0 && self.rng.one_in(self.scenario.zeros_left_out_one_in) {
                    leave_out_zeros(&mut message, &mut body);
                }
                self.send(rank, to, message, body)?;
            }
            Effect::Woken(run) if wakes => {
                for vcpu in 0..self.vcpus.len() {
                    let waits = self.vcpus[vcpu].waiting.is_some_and(|waiting| run.contains(waiting.page));
                    if waits && self.home_of(vcpu) == rank {
                        self.vcpus[vcpu].waiting = None;
                        self.vcpus[vcpu].token += 1;
                        self.timing.answers(vcpu, self.now + self.timing.service());
                        self.step_later(vcpu, true, self.timing.service());
                    }
                }
            }
            Effect::Woken(_) => {}
            Effect::Ready(id) => self.hold_ready(rank, id)?,
            Effect::Moved(run) => self.has_moved(rank, run)?,
            Effect::Shows { page, version, words } => self.shows(rank, page, version, words)?,
            Effect::Hides(page) => self.hides(rank, page)?,
            Effect::Reads { home, page } => self.reads(rank, home, page)?,
        }
        for page in &pages {
            self.check_page(*page)?;
        }
        touched.extend(pages);
        self.step_between(rank)
    }

    /// The guest does not stop while the node's actions are executed.
    fn step_between(&mut self, rank: Rank) -> Checked {
        if !self.rng.one_in(BETWEEN_ACTIONS_ONE_IN) || self.vcpus.is_empty() {
            return Ok(());
        }
        let vcpu = self.rng.index(self.vcpus.len());
        let processor = &self.vcpus[vcpu];
        if self.home_of(vcpu) != rank || processor.waiting.is_some() || processor.met {
            return Ok(());
        }
        self.step(vcpu, false)
    }

    fn send(&mut self, from: Rank, to: Rank, message: Message, body: Vec<Words>) -> Checked {
        if from == to || to.0 >= self.scenario.ranks {
            return Err(Violation::of_rank(Checker::Memory, from, format!("sends to rank {}", to.0)));
        }
        self.check_left(from, to)?;
        self.versions.check(from, &message)?;
        if self.host(to).dead {
            return Ok(());
        }
        let at = match self.timing.costs() {
            None => self.network.send(&mut self.rng, self.now, from, to, Parcel { message, body }),
            Some(costs) => {
                let arrives = self.now + costs.service + costs.way(body.len());
                self.network.carry(arrives, from, to, Parcel { message, body })
            }
        };
        self.schedule(at, Event::Arrival { from, to });
        Ok(())
    }

    fn arm_timer(&mut self, rank: Rank) {
        let clock = self.rank_tick(rank).0 - self.now;
        let Some(due) = self.site(rank).nodes.iter().filter_map(Node::poll_timeout).min() else {
            self.host(rank).timer = None;
            return;
        };
        let late = self.rng.below(2);
        let at = due.0.saturating_sub(clock).max(self.now) + late;
        if self.host(rank).timer.is_none_or(|armed| armed != at) {
            self.host(rank).timer = Some(at);
            self.schedule(at, Event::Timer { rank, due: at });
        }
    }
}

/// A node for a configuration, with a cache as small as it says.
fn new_node(config: Config) -> Checked<Node> {
    let rank = config.rank;
    Node::with_any_cache(config).map_err(|error| Violation::of_rank(Checker::Protocol, rank, error))
}

/// The place of the node that is told this.
fn place_of(site: &Site, input: &Input) -> usize {
    let page = match input {
        Input::Fault(page, _) | Input::Collected(page, _) | Input::Brought(page, ..) => Some(*page),
        Input::Message(_, parcel) => Some(parcel.message.run().first),
        Input::HandOver(run, ..) => Some(run.first),
        Input::Timeout => {
            let timeouts = site.nodes.iter().map(Node::poll_timeout).enumerate();
            let due = timeouts.filter_map(|(place, due)| Some((due?, place))).min();
            return due.map_or(0, |(_, place)| place);
        }
        // There is one node only when there are devices, or ranks leave; when processors sleep all are told, and the first stands for them.
        Input::Hold(_) | Input::Release(_) | Input::Sleep(_) | Input::Leave => None,
    };
    page.map_or(0, |page| site.place_of(page))
}

fn pages_of_action(action: &Action) -> Vec<Page> {
    match action {
        Action::Map { run, .. }
        | Action::Protect { run }
        | Action::Allow { run }
        | Action::Detach { run }
        | Action::Unmap { run }
        | Action::Wake { run } => run.pages().collect(),
        Action::Send { message, .. } => message.run().pages().collect(),
        Action::Show { page, .. } | Action::Hide { page } | Action::GuardedRead { page, .. } => vec![*page],
        Action::HandedOver { run, .. } => run.pages().collect(),
        Action::HoldReady { .. } => Vec::new(),
    }
}
