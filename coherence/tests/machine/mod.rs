//! A small machine as a model for the checker.

#![expect(clippy::unwrap_used, reason = "a model with bounds that make no machine is to end the test")]

use std::collections::{BTreeMap, VecDeque};

use stateright::{Model, Property};
use vincs_coherence::home::HomeMap;
use vincs_coherence::id::{Access, Page, Rank, RankSet, Run, Tick};
use vincs_coherence::node::{Action, Config, HoldId, Leave, Node, WindowConfig};
use vincs_coherence::sim::checkers::{agreement, directory, exclusive, marks, quiescence, values};
use vincs_coherence::sim::memory::{Effect, Words, ZEROS};
use vincs_coherence::sim::network::Parcel;
use vincs_coherence::sim::rank::Site;
use vincs_coherence::sim::window::{GuardedRead, HomeStep, HomeWork, NicStep};

/// The one property: nothing is wrong in any state.
pub(crate) const RIGHT: &str = "nothing is wrong";

/// What a machine has and may do.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// Pages of each rank, in order.
    pub(crate) pages: Vec<u32>,
    /// Accesses of each rank's processor.
    pub(crate) accesses: Vec<u8>,
    /// Ranks with a device that holds all pages once, to write.
    pub(crate) devices: Vec<Rank>,
    /// Minimum hold time: 0, or 1 for one that ends at any time.
    pub(crate) hold: Tick,
    /// Most cached pages.
    pub(crate) cache_pages: Option<u32>,
    /// Most pages asked for ahead.
    pub(crate) read_ahead: u16,
    /// Pages of a first touch.
    pub(crate) first_touch: u16,
    /// Whether homes give pages that migrate to be written at once.
    pub(crate) migratory: bool,
    /// Slots of each rank's window; none without windows.
    pub(crate) slots: Option<u32>,
    /// Pages that are shown with one that is read, itself included.
    pub(crate) near: u16,
    /// Hand-overs that rank 0 orders at any time, one after the other: the pages and their new home.
    pub(crate) hand_overs: Vec<(Run, Rank)>,
    /// Ranks that leave at any moment; they have no pages. What accesses they have left they do not do then.
    pub(crate) leave: Vec<Rank>,
}

/// Something that may happen next.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Step {
    /// The oldest message between two ranks arrives.
    Deliver(Rank, Rank),
    /// A rank's processor begins an access.
    Use(Rank, Page, Access),
    /// A hold time ends.
    Timeout(Rank),
    /// A device asks for all pages.
    Hold(Rank),
    /// A device, which has them, writes the first and releases all.
    Release(Rank),
    /// A rank's driver goes on at its window.
    Work(Rank),
    /// A rank's NIC takes this step at the window of another.
    Nic(Rank, NicStep),
    /// A rank is told what its NIC has brought.
    Brought(Rank),
    /// Rank 0 orders the next hand-over.
    HandOver(Run, Rank),
    /// A rank leaves, or goes on with it.
    Leave(Rank),
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Stay {
    Stays,
    MayLeave,
    Leaves,
    Left,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Device {
    None,
    Before,
    Asked,
    Has,
    Over,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Host {
    accesses_left: u8,
    waiting: Option<(Page, Access)>,
    stay: Stay,
    device: Device,
    /// What the driver is doing at the window; it does nothing else meanwhile.
    work: Option<HomeWork>,
    /// What it is to do after that, with which bytes at hand.
    actions: VecDeque<Action>,
    received: Vec<Words>,
    /// Marks that it has found, to be told when all is done.
    collected: Vec<(Page, RankSet)>,
    /// The processor goes on then.
    woken: bool,
    /// The guarded read of the processor.
    read: Option<GuardedRead>,
}

/// A state of the machine.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    sites: Vec<Site>,
    hosts: Vec<Host>,
    /// Only those with messages.
    channels: BTreeMap<(Rank, Rank), VecDeque<Parcel>>,
    last: Vec<Words>,
    /// Hand-overs ordered, and the pages of those that are not over.
    ordered: usize,
    moving: Vec<Run>,
    problem: Option<String>,
}

type Right<T = ()> = Result<T, String>;

impl State {
    /// What is wrong.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    fn site(&mut self, rank: Rank) -> &mut Site {
        &mut self.sites[usize::from(rank.0)]
    }

    fn node(&mut self, rank: Rank) -> &mut Node {
        &mut self.site(rank).nodes[0]
    }

    fn host(&mut self, rank: Rank) -> &mut Host {
        &mut self.hosts[usize::from(rank.0)]
    }

    fn all_pages(&self) -> Run {
        Run { first: Page(0), count: u16::try_from(self.last.len()).unwrap() }
    }

    fn take(&mut self, step: Step) -> Right {
        match step {
            Step::Deliver(from, to) => {
                let channel = self.channels.get_mut(&(from, to)).ok_or("no message")?;
                let parcel = channel.pop_front().ok_or("no message")?;
                if channel.is_empty() {
                    self.channels.remove(&(from, to));
                }
                let node = self.node(to);
                node.handle_message(Tick(0), from, &parcel.message).map_err(|error| error.to_string())?;
                self.execute(to, &parcel.body)
            }
            Step::Use(rank, page, access) => {
                self.host(rank).accesses_left -= 1;
                self.host(rank).waiting = Some((page, access));
                self.access(rank)
            }
            Step::Timeout(rank) => {
                let node = self.node(rank);
                let due = node.poll_timeout().ok_or("no timeout")?;
                node.handle_timeout(due);
                self.execute(rank, &[])
            }
            Step::Hold(rank) => {
                self.host(rank).device = Device::Asked;
                let all = self.all_pages();
                let node = self.node(rank);
                node.handle_hold(Tick(0), HoldId(0), &[(all, Access::Write)]).map_err(|error| error.to_string())?;
                self.execute(rank, &[])
            }
            Step::Release(rank) => {
                self.write(rank, Page(0))?;
                self.host(rank).device = Device::Over;
                self.node(rank).handle_release(Tick(0), HoldId(0));
                self.execute(rank, &[])
            }
            Step::HandOver(run, to) => {
                self.ordered += 1;
                self.moving.push(run);
                let present = (0..).map(Rank).zip(&self.hosts).filter(|(_, host)| host.stay != Stay::Left);
                let members = present.map(|(rank, _)| rank).collect();
                let node = self.node(Rank(0));
                node.handle_hand_over(Tick(0), run, to, members).map_err(|error| error.to_string())?;
                self.execute(Rank(0), &[])
            }
            Step::Leave(rank) => {
                self.host(rank).accesses_left = 0;
                self.host(rank).stay = Stay::Leaves;
                let node = self.node(rank);
                // Nobody executes anything there.
                node.handle_sleep(Tick(0), true);
                let progress = node.handle_leave(Tick(0)).map_err(|error| error.to_string())?;
                if progress == Leave::Left {
                    self.host(rank).stay = Stay::Left;
                }
                self.execute(rank, &[])
            }
            Step::Work(rank) => self.work(rank),
            Step::Nic(rank, step) => {
                // The words of a page are got together, as one of them is used only; so are the halves of the directory word where there is one page.
                let one_page = self.last.len() == 1;
                let mut read = self.host(rank).read.take().ok_or("no read")?;
                let home = self.site(read.home);
                let slot = home.slot_number(read.page);
                let is_now = |other: &NicStep| match (other, step) {
                    (NicStep::Get(_), NicStep::Get(_)) => true,
                    (NicStep::High, NicStep::Low) => one_page,
                    _ => *other == step,
                };
                while let Some(at) = read.steps.iter().position(is_now) {
                    read.take(at, home.window_of(read.page), slot);
                }
                self.host(rank).read = Some(read);
                Ok(())
            }
            Step::Brought(rank) => {
                let read = self.host(rank).read.take().ok_or("no read")?;
                self.node(rank).handle_guarded_read(Tick(0), read.page, Some(read.seen()));
                self.execute(rank, &[read.words])
            }
        }
    }

    /// The processor uses the page that it waits for, or faults.
    fn access(&mut self, rank: Rank) -> Right {
        let Some((page, access)) = self.host(rank).waiting else { return Ok(()) };
        if !self.site(rank).memory.permits(page, access) {
            self.node(rank).handle_fault(Tick(0), page, access);
            return self.execute(rank, &[]);
        }
        self.host(rank).waiting = None;
        match access {
            Access::Read => {
                let saw = self.site(rank).memory.read(page, 0);
                let last = self.last[page.0 as usize][0];
                if saw == Some(last) { Ok(()) } else { Err(format!("rank {} saw {saw:?}, not {last}", rank.0)) }
            }
            Access::Write => self.write(rank, page),
        }
    }

    fn write(&mut self, rank: Rank, page: Page) -> Right {
        let words = &mut self.last[page.0 as usize];
        words[0] += 1;
        let value = words[0];
        let written = self.site(rank).memory.write(page, 0, value);
        if written { Ok(()) } else { Err(format!("rank {} cannot write page {}", rank.0, page.0)) }
    }

    fn execute(&mut self, rank: Rank, received: &[Words]) -> Right {
        self.host(rank).received = received.to_vec();
        self.go_on(rank)
    }

    /// Does what a node wants done, until there is something to do at the window step by step.
    fn go_on(&mut self, rank: Rank) -> Right {
        loop {
            while let Some(action) = self.node(rank).poll_action() {
                self.host(rank).actions.push_back(action);
            }
            if let Some(action) = self.host(rank).actions.pop_front() {
                self.execute_one(rank, &action)?;
                self.check_pages()?;
                if self.host(rank).work.is_some() {
                    return Ok(());
                }
            } else if let Some((page, marks)) = self.host(rank).collected.pop() {
                self.node(rank).handle_collected(Tick(0), page, marks);
            } else {
                break;
            }
        }
        self.host(rank).received.clear();
        if std::mem::take(&mut self.host(rank).woken) { self.access(rank) } else { Ok(()) }
    }

    fn execute_one(&mut self, rank: Rank, action: &Action) -> Right {
        let received = std::mem::take(&mut self.host(rank).received);
        let effect = self.site(rank).memory.execute(action, &received)?;
        self.host(rank).received = received;
        let work = |page, shows, steps: Vec<HomeStep>| {
            Some(HomeWork { page, shows, steps: steps.into(), marks: RankSet::EMPTY })
        };
        match effect {
            Effect::None => {}
            Effect::Sent { to, message, body } => {
                let channel = self.channels.entry((rank, to)).or_default();
                channel.push_back(Parcel { message, body });
            }
            Effect::Woken(run) => {
                let host = self.host(rank);
                host.woken |= host.waiting.is_some_and(|(page, _)| run.contains(page));
            }
            Effect::Ready(_) => self.host(rank).device = Device::Has,
            Effect::Moved(run) => {
                let at = self.moving.iter().position(|other| *other == run).ok_or("pages moved unordered")?;
                self.moving.remove(at);
            }
            Effect::Shows { page, version, words } => {
                self.host(rank).work = work(page, Some((version, words)), HomeStep::to_show());
            }
            Effect::Hides(page) => {
                let ranks = u16::try_from(self.sites.len()).unwrap();
                self.host(rank).work = work(page, None, HomeStep::to_hide(rank, ranks));
            }
            Effect::Reads { home, page } => {
                let read = GuardedRead::new(rank, home, page, NicStep::guarded_read());
                if self.host(rank).read.replace(read).is_some() {
                    return Err(format!("rank {} has a second read under way", rank.0));
                }
            }
        }
        Ok(())
    }

    /// The next step at the rank's own window.
    fn work(&mut self, rank: Rank) -> Right {
        let mut work = self.host(rank).work.take().ok_or("no work")?;
        let site = self.site(rank);
        let slot = site.slot_number(work.page);
        work.step(site.window_of(work.page), slot);
        // The words of a page are copied together.
        while matches!(work.steps.front(), Some(HomeStep::Copy(1..))) {
            work.step(site.window_of(work.page), slot);
        }
        if !work.steps.is_empty() {
            self.host(rank).work = Some(work);
            return Ok(());
        }
        if work.shows.is_none() {
            self.host(rank).collected.push((work.page, work.marks));
        }
        self.go_on(rank)
    }

    fn check_pages(&self) -> Right {
        for page in self.all_pages().pages() {
            exclusive::check(&self.sites, page)
                .and_then(|()| values::check(&self.sites, self.last[page.0 as usize], page))
                .map_err(|violation| violation.to_string())?;
        }
        Ok(())
    }

    fn check_between_steps(&self) -> Right {
        for page in self.all_pages().pages() {
            // While actions are under way a node is ahead of its guest.
            let is_busy = self.hosts.iter().any(|host| host.work.is_some());
            let agrees = || {
                if is_busy { Ok(()) } else { agreement::check(&self.sites, page) }
            };
            directory::check(&self.sites, page)
                .and_then(|()| marks::check(&self.sites, page))
                .and_then(|()| agrees())
                .map_err(|violation| violation.to_string())?;
        }
        for (rank, _) in (0..).map(Rank).zip(&self.hosts).filter(|(_, host)| host.stay == Stay::Left) {
            if let Some((from, to)) = self.channels.keys().find(|(from, to)| [*from, *to].contains(&rank)) {
                return Err(format!("a message from rank {} to rank {}, and rank {} has left", from.0, to.0, rank.0));
            }
            let knows = |page: Page| {
                let homes = self.sites.iter().filter_map(|site| site.nodes[0].directory(page));
                homes.into_iter().any(|known| known.owner == Some(rank) || known.holders.contains(rank))
            };
            if let Some(page) = self.all_pages().pages().find(|page| knows(*page)) {
                return Err(format!("rank {} has left, and the home of page {} does not know", rank.0, page.0));
            }
        }
        for (rank, host) in self.hosts.iter().enumerate() {
            let has_all = |page| self.sites[rank].memory.permits(page, Access::Write);
            if host.device == Device::Has && !self.all_pages().pages().all(has_all) {
                return Err(format!("the device of rank {rank} has lost a page"));
            }
        }
        let leaves = self.hosts.iter().any(|host| host.stay == Stay::Leaves);
        if !leaves && self.is_at_rest() {
            self.check_rest()?;
        }
        Ok(())
    }

    /// Nothing is under way, but perhaps a rank that leaves.
    fn is_at_rest(&self) -> bool {
        self.hosts.iter().all(|host| host.work.is_none() && host.read.is_none())
            && self.channels.is_empty()
            && self.sites.iter().all(|site| site.nodes[0].poll_timeout().is_none())
    }

    /// Nothing will happen by itself any more.
    fn check_rest(&self) -> Right {
        let has_device = self.hosts.iter().any(|host| host.device == Device::Has);
        if has_device {
            return Ok(());
        }
        if let Some(run) = self.moving.first() {
            return Err(format!("page {} never gets to its new home", run.first.0));
        }
        for (rank, host) in self.hosts.iter().enumerate() {
            if let Some((page, access)) = host.waiting {
                return Err(format!("rank {rank} waits for ever for {access:?} of page {}", page.0));
            }
            if host.device == Device::Asked {
                return Err(format!("the device of rank {rank} waits for ever"));
            }
        }
        quiescence::check(&self.sites).map_err(|violation| violation.to_string())
    }
}

/// The model.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Its bounds.
    pub(crate) bounds: Bounds,
    homes: HomeMap,
}

impl Machine {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let segments = (0..).map(Rank).zip(&bounds.pages).map(|(rank, pages)| (*pages, rank));
        let homes = HomeMap::new(segments).unwrap();
        Self { bounds, homes }
    }

    fn ranks(&self) -> impl Iterator<Item = Rank> {
        (0..u16::try_from(self.bounds.pages.len()).unwrap()).map(Rank)
    }

    fn site(&self, rank: Rank) -> Site {
        let config = Config {
            rank,
            ranks: u16::try_from(self.bounds.pages.len()).unwrap(),
            homes: self.homes.clone(),
            hold: self.bounds.hold,
            cache_pages: self.bounds.cache_pages,
            read_ahead: self.bounds.read_ahead,
            first_touch: self.bounds.first_touch,
            companions: 0,
            migratory: self.bounds.migratory,
            window: self.bounds.slots.map(|slots| WindowConfig { slots, readers: 1, near: self.bounds.near, wait: 0 }),
        };
        Site::new(vec![Node::with_any_cache(config).unwrap()])
    }

    fn host(&self, rank: Rank) -> Host {
        let device = if self.bounds.devices.contains(&rank) { Device::Before } else { Device::None };
        Host {
            accesses_left: self.bounds.accesses[usize::from(rank.0)],
            waiting: None,
            stay: if self.bounds.leave.contains(&rank) { Stay::MayLeave } else { Stay::Stays },
            device,
            work: None,
            actions: VecDeque::new(),
            received: Vec::new(),
            collected: Vec::new(),
            woken: false,
            read: None,
        }
    }
}

impl Model for Machine {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            sites: self.ranks().map(|rank| self.site(rank)).collect(),
            hosts: self.ranks().map(|rank| self.host(rank)).collect(),
            channels: BTreeMap::new(),
            last: vec![ZEROS; self.homes.pages() as usize],
            ordered: 0,
            moving: Vec::new(),
            problem: None,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.problem.is_some() {
            return;
        }
        let is_busy = |rank: Rank| state.hosts[usize::from(rank.0)].work.is_some();
        if let Some((run, to)) = self.bounds.hand_overs.get(state.ordered)
            && !state.moving.contains(run)
            && !is_busy(Rank(0))
            && state.hosts.iter().all(|host| host.stay != Stay::Leaves)
        {
            steps.push(Step::HandOver(*run, *to));
        }
        let deliveries = state.channels.keys().filter(|(_, to)| !is_busy(*to));
        steps.extend(deliveries.map(|(from, to)| Step::Deliver(*from, *to)));
        for ((rank, host), site) in self.ranks().zip(&state.hosts).zip(&state.sites) {
            match &host.read {
                Some(read) if read.steps.is_empty() && host.work.is_none() => steps.push(Step::Brought(rank)),
                Some(read) if read.steps.front() == Some(&NicStep::Mark) => {
                    steps.push(Step::Nic(rank, NicStep::Mark));
                }
                // A NIC fetches bytes in any order.
                Some(read) => {
                    let one_page = state.last.len() == 1;
                    let is_one = |step: &&NicStep| match step {
                        NicStep::Get(word) => *word == 0,
                        NicStep::High => !one_page,
                        NicStep::Mark | NicStep::Low | NicStep::Hash => true,
                    };
                    steps.extend(read.steps.iter().filter(is_one).map(|step| Step::Nic(rank, *step)));
                }
                None => {}
            }
            if host.work.is_some() {
                steps.push(Step::Work(rank));
                continue;
            }
            if site.nodes[0].poll_timeout().is_some() {
                steps.push(Step::Timeout(rank));
            }
            match host.device {
                Device::Before => steps.push(Step::Hold(rank)),
                Device::Has => steps.push(Step::Release(rank)),
                Device::None | Device::Asked | Device::Over => {}
            }
            // While homes move, rank 0 lets nobody begin.
            let may_leave = host.stay == Stay::Leaves || (host.stay == Stay::MayLeave && state.moving.is_empty());
            if may_leave && host.waiting.is_none() && host.read.is_none() {
                steps.push(Step::Leave(rank));
            }
            if host.waiting.is_none() && host.accesses_left > 0 {
                for page in state.all_pages().pages() {
                    steps.extend([Access::Read, Access::Write].map(|access| Step::Use(rank, page, access)));
                }
            }
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        let taken = next.take(step).and_then(|()| next.check_between_steps());
        next.problem = taken.err();
        if matches!(step, Step::Leave(_)) && next == *state && next.is_at_rest() {
            next.problem = Some("a rank waits for ever to leave".to_owned());
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(RIGHT, |_, state: &State| state.problem.is_none())]
    }
}
