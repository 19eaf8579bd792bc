//! A machine of a few nodes whose pages hold one number each, and who sees what in it. Every action is checked when it is executed:
//! nothing is mapped twice, nothing is sent that is not there, one writer, no reader beside a writer, and everybody sees
//! what was written last.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::codec;
use crate::home::HomeMap;
use crate::id::{Access, Page, Rank, Run, Tick};
use crate::message::{Content, Message};
use crate::node::{Action, Body, Config, HoldId, Node, Source};

/// A message on its way, and the bytes of its pages.
pub(super) type Letter = (Message, Vec<u64>);

/// What a hold is for, and whether it is ready.
type Wanted = (Vec<(Run, Access)>, bool);

/// What a rank's processors see of a page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct View {
    pub(super) access: Access,
    pub(super) value: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) nodes: Vec<Node>,
    pub(super) now: Tick,
    /// Messages by sender and receiver.
    pub(super) links: BTreeMap<(u16, u16), VecDeque<Letter>>,
    views: Vec<BTreeMap<Page, View>>,
    detached: Vec<BTreeMap<Page, u64>>,
    /// Processors that wait.
    waiting: Vec<BTreeSet<(Page, Access)>>,
    /// Processors that were woken and have not tried again.
    woken: Vec<BTreeSet<(Page, Access)>>,
    pub(super) holds: Vec<BTreeMap<HoldId, Wanted>>,
    /// What each page was last written.
    written: BTreeMap<Page, u64>,
    /// Everything executed since it was taken last.
    pub(super) log: Vec<(Rank, Action)>,
}

impl Machine {
    /// `pages` of each rank, and what to change of the usual configuration.
    pub(super) fn new(ranks: u16, pages: u32, change: impl Fn(&mut Config)) -> Self {
        let node = |rank| {
            let homes = HomeMap::new((0..ranks).map(|home| (pages, Rank(home)))).expect("a home map");
            let (hold, cache_pages) = (Tick(0), None);
            let mut config =
                Config { rank: Rank(rank), ranks, homes, hold, cache_pages, read_ahead: 0, first_touch: 1 };
            change(&mut config);
            Node::new(config).expect("a node")
        };
        let each = usize::from(ranks);
        Self {
            nodes: (0..ranks).map(node).collect(),
            now: Tick(1),
            links: BTreeMap::new(),
            views: vec![BTreeMap::new(); each],
            detached: vec![BTreeMap::new(); each],
            waiting: vec![BTreeSet::new(); each],
            woken: vec![BTreeSet::new(); each],
            holds: vec![BTreeMap::new(); each],
            written: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    /// A processor wants a page: uses it at once, or waits.
    pub(super) fn touch(&mut self, rank: u16, page: u32, access: Access) {
        let page = Page(page);
        if self.sees(rank, page) >= Some(access) {
            return self.use_page(rank, page, access);
        }
        self.waiting[usize::from(rank)].insert((page, access));
        let now = self.now;
        self.nodes[usize::from(rank)].handle_fault(now, page, access);
        self.execute(rank, &[]);
    }

    pub(super) fn sees(&self, rank: u16, page: Page) -> Option<Access> {
        self.views[usize::from(rank)].get(&page).map(|view| view.access)
    }

    /// Reads what was written last, or writes something new.
    fn use_page(&mut self, rank: u16, page: Page, access: Access) {
        let written = self.written.entry(page).or_default();
        let view = self.views[usize::from(rank)].get_mut(&page).expect("a page in view");
        assert_eq!(view.value, *written, "rank {rank} sees an old page {}", page.0);
        if access == Access::Write {
            *written += 1;
            view.value = *written;
        }
    }

    /// A processor that was woken tries again.
    pub(super) fn retry(&mut self) {
        for rank in 0..self.woken.len() {
            while let Some((page, access)) = self.woken[rank].pop_first() {
                self.touch(u16::try_from(rank).expect("a rank"), page.0, access);
            }
        }
    }

    /// Whether processors wait.
    pub(super) fn has_waiters(&self) -> bool {
        self.waiting.iter().chain(&self.woken).any(|waiters| !waiters.is_empty())
    }

    /// A device wants pages.
    pub(super) fn hold(&mut self, rank: u16, id: u64, runs: &[(Run, Access)]) {
        let (at, now) = (usize::from(rank), self.now);
        self.nodes[at].handle_hold(now, HoldId(id), runs).expect("a hold");
        self.holds[at].insert(HoldId(id), (runs.to_vec(), false));
        self.execute(rank, &[]);
    }

    /// A device is done with its pages, all of which it uses now if it has got them.
    pub(super) fn release(&mut self, rank: u16, id: u64) {
        let (at, now) = (usize::from(rank), self.now);
        if let Some((runs, true)) = self.holds[at].remove(&HoldId(id)) {
            for (run, access) in runs {
                run.pages().for_each(|page| self.use_page(rank, page, access));
            }
        }
        self.nodes[at].handle_release(now, HoldId(id));
        self.execute(rank, &[]);
    }

    /// Delivers the next message of this link, encoded and decoded again.
    pub(super) fn deliver(&mut self, from: u16, to: u16) -> bool {
        let Some((message, body)) = self.links.get_mut(&(from, to)).and_then(VecDeque::pop_front) else { return false };
        let mut bytes = Vec::new();
        codec::encode(&message, &mut bytes);
        assert!(bytes.len() <= codec::MAX_ENCODED);
        assert_eq!(codec::decode(&bytes), Ok(message.clone()));
        let now = self.now;
        if let Err(error) = self.nodes[usize::from(to)].handle_message(now, Rank(from), &message) {
            panic!("{error}: {message:?}");
        }
        self.execute(to, &body);
        true
    }

    /// Delivers everything in some order, without letting time pass or trying again.
    pub(super) fn deliver_all(&mut self) {
        while let Some((from, to)) = self.links.iter().find(|(_, link)| !link.is_empty()).map(|(ends, _)| *ends) {
            self.deliver(from, to);
        }
    }

    /// Time passes.
    pub(super) fn pass(&mut self, ticks: u64) {
        self.now = Tick(self.now.0 + ticks);
        for rank in 0..self.nodes.len() {
            if self.nodes[rank].poll_timeout().is_some_and(|due| due <= self.now) {
                let now = self.now;
                self.nodes[rank].handle_timeout(now);
                self.execute(u16::try_from(rank).expect("a rank"), &[]);
            }
        }
    }

    /// Goes on until nothing is under way; time passes when there is nothing else to do.
    pub(super) fn run(&mut self) {
        for _ in 0..100_000 {
            self.deliver_all();
            self.retry();
            if self.links.values().all(VecDeque::is_empty) {
                let Some(due) = self.nodes.iter().filter_map(Node::poll_timeout).min() else {
                    if self.woken.iter().all(BTreeSet::is_empty) {
                        return;
                    }
                    continue;
                };
                self.pass(due.0.saturating_sub(self.now.0));
            }
        }
        panic!("it does not come to rest");
    }

    /// What a rank has done since this was asked last, by anybody.
    pub(super) fn took(&mut self, rank: u16) -> Vec<Action> {
        let log = std::mem::take(&mut self.log);
        log.into_iter().filter(|(who, _)| *who == Rank(rank)).map(|(_, action)| action).collect()
    }

    /// A processor wants a page, and everything is done that follows.
    pub(super) fn touch_and_run(&mut self, rank: u16, page: u32, access: Access) {
        self.touch(rank, page, access);
        self.run();
        assert!(!self.has_waiters());
    }

    /// Does what a node wants that a test has called itself.
    pub(super) fn apply(&mut self, rank: u16) {
        self.nodes[usize::from(rank)].out.flush();
        self.execute(rank, &[]);
    }

    fn execute(&mut self, rank: u16, body: &[u64]) {
        while let Some(action) = self.nodes[usize::from(rank)].poll_action() {
            self.log.push((Rank(rank), action.clone()));
            self.execute_one(rank, body, action);
        }
        self.check(rank);
    }

    fn execute_one(&mut self, rank: u16, body: &[u64], action: Action) {
        let at = usize::from(rank);
        let received = |index: usize| *body.get(index).expect("a page in the body");
        match action {
            Action::Send { to, message, body } => {
                let pages = message.data_pages();
                let values = pages.iter().enumerate().map(|(index, page)| match body {
                    Body::None => panic!("{message:?} without a body"),
                    Body::Received { at } => received(usize::from(at) + index),
                    Body::Own => {
                        let view = self.views[at].get(page).map(|view| view.value);
                        let own = self.detached[at].get(page).copied().or(view);
                        own.unwrap_or_else(|| panic!("{message:?} from rank {rank}, which has not got page {}", page.0))
                    }
                });
                let values = values.collect();
                assert_ne!(to, Rank(rank));
                assert!(pages.is_empty() == (body == Body::None), "{message:?} with {body:?}");
                self.check_sent(rank, &message);
                self.links.entry((rank, to.0)).or_default().push_back((message, values));
            }
            Action::Map { run, access, source } => {
                for (index, page) in run.pages().enumerate() {
                    let value = match source {
                        Source::Zero => 0,
                        Source::Received { at } => received(usize::from(at) + index),
                    };
                    let old = self.views[at].insert(page, View { access, value });
                    assert_eq!(old, None, "rank {rank} maps page {} again", page.0);
                }
                self.wake(rank, run);
            }
            Action::Protect { run } => self.change(rank, run, Access::Write, Access::Read),
            Action::Allow { run } => {
                self.change(rank, run, Access::Read, Access::Write);
                self.wake(rank, run);
            }
            Action::Detach { run } => {
                for page in run.pages() {
                    let view = self.views[at].remove(&page).expect("a page to detach");
                    self.detached[at].insert(page, view.value);
                }
            }
            Action::Unmap { run } => {
                for page in run.pages() {
                    let was = self.detached[at].remove(&page).or(self.views[at].remove(&page).map(|view| view.value));
                    assert!(was.is_some(), "rank {rank} unmaps page {}, which is not there", page.0);
                }
            }
            Action::Wake { run } => self.wake(rank, run),
            Action::HoldReady { id } => {
                let (runs, is_ready) = self.holds[at].get_mut(&id).expect("a hold");
                *is_ready = true;
                for (run, access) in runs.clone() {
                    assert!(run.pages().all(|page| self.sees(rank, page) >= Some(access)), "{run:?}");
                }
            }
        }
    }

    /// When the right to write leaves, the view has gone.
    fn check_sent(&self, rank: u16, message: &Message) {
        match message {
            Message::Grant { first, access: Access::Write, pages } => {
                let run = Run { first: *first, count: u16::try_from(pages.len()).expect("a run") };
                assert!(run.pages().all(|page| self.sees(rank, page).is_none()), "{message:?}");
            }
            Message::InvalidateAck { page } => assert_eq!(self.sees(rank, *page), None),
            Message::WriteBack { page, content, .. } => {
                assert_ne!(self.sees(rank, *page), Some(Access::Write));
                assert_ne!(*content, Content::Current);
            }
            Message::Grant { .. }
            | Message::Acquire { .. }
            | Message::Refuse { .. }
            | Message::Invalidate { .. }
            | Message::Recall { .. } => {}
        }
    }

    fn change(&mut self, rank: u16, run: Run, from: Access, to: Access) {
        for page in run.pages() {
            let view = self.views[usize::from(rank)].get_mut(&page).expect("a page in view");
            assert_eq!(view.access, from, "rank {rank}, page {}", page.0);
            view.access = to;
        }
    }

    fn wake(&mut self, rank: u16, run: Run) {
        let at = usize::from(rank);
        let woken = self.waiting[at].iter().copied().filter(|(page, _)| run.contains(*page)).collect::<Vec<_>>();
        for waiter in woken {
            self.waiting[at].remove(&waiter);
            self.woken[at].insert(waiter);
        }
    }

    /// What holds whenever an input has been handled.
    fn check(&self, rank: u16) {
        assert!(self.detached[usize::from(rank)].is_empty(), "rank {rank} keeps detached pages");
        let pages: BTreeSet<Page> = self.views.iter().flat_map(|views| views.keys().copied()).collect();
        for page in pages {
            let seen: Vec<(u16, View)> =
                (0..).zip(&self.views).filter_map(|(rank, views)| Some((rank, *views.get(&page)?))).collect();
            let writers = seen.iter().filter(|(_, view)| view.access == Access::Write).count();
            assert!(writers == 0 || seen.len() == 1, "page {}: {seen:?}", page.0);
            let holders = self.nodes.iter().find_map(|node| node.holders(page)).expect("a home");
            for (rank, view) in seen {
                assert!(holders.contains(Rank(rank)), "rank {rank} has page {}, the home knows {holders:?}", page.0);
                assert_eq!(self.nodes[usize::from(rank)].access(page), Some(view.access));
            }
        }
        for (id, (runs, is_ready)) in &self.holds[usize::from(rank)] {
            let has = |(run, access): &(Run, Access)| run.pages().all(|page| self.sees(rank, page) >= Some(*access));
            assert!(!is_ready || runs.iter().all(has), "hold {} of rank {rank} has lost a page", id.0);
        }
    }
}

/// Short names for what tests compare.
pub(super) mod short {
    use super::*;
    use crate::id::Version;
    use crate::message::{Granted, Keep, Urgency};

    pub(in super::super) fn run(first: u32, count: u16) -> Run {
        Run { first: Page(first), count }
    }

    pub(in super::super) fn acquire(first: u32, count: u16, access: Access) -> Message {
        Message::Acquire { run: run(first, count), access, urgency: Urgency::Demand, have: Vec::new() }
    }

    pub(in super::super) fn ahead(first: u32, count: u16) -> Message {
        Message::Acquire { run: run(first, count), access: Access::Read, urgency: Urgency::Ahead, have: Vec::new() }
    }

    pub(in super::super) fn grant(first: u32, access: Access, pages: &[(u64, Content)]) -> Message {
        let granted = |(version, content): &(u64, Content)| Granted { version: Version(*version), content: *content };
        Message::Grant { first: Page(first), access, pages: pages.iter().map(granted).collect() }
    }

    pub(in super::super) fn recall(page: u32, keep: Keep) -> Message {
        Message::Recall { page: Page(page), keep }
    }

    pub(in super::super) fn write_back(page: u32, version: u64, keep: Keep) -> Message {
        Message::WriteBack { page: Page(page), version: Version(version), keep, content: Content::Data }
    }

    pub(in super::super) fn send(to: u16, message: Message, body: Body) -> Action {
        Action::Send { to: Rank(to), message, body }
    }

    pub(in super::super) fn map(first: u32, count: u16, access: Access, source: Source) -> Action {
        Action::Map { run: run(first, count), access, source }
    }
}
