//! A machine of a few nodes whose pages hold one number each, and who sees what in it. Every action is checked when it is executed:
//! nothing is mapped twice, nothing is sent that is not there, one writer, no reader beside a writer, and everybody sees
//! what was written last.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::codec;
use crate::home::HomeMap;
use crate::id::{Access, Page, Rank, RankSet, Run, Tick, Version};
use crate::message::{Content, Message};
use crate::node::{Action, Body, Config, HoldId, Node, ProtocolError, Source};
use crate::window::{Seen as SeenWords, Word};

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

/// Something that happens to a node.
#[derive(Clone, Debug)]
pub(super) enum Input {
    Fault(Page, Access),
    Message(Rank, Message),
    Hold(HoldId, Vec<(Run, Access)>),
    Release(HoldId),
    Timeout,
    Collected(Page, RankSet),
    GuardedRead(Page, SeenWords),
    HandOver(Run, Rank, RankSet),
}

/// A slot of a window.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    word: Word,
    marks: RankSet,
    value: u64,
}

/// A guarded read: its reader and page, what it has seen, and how many of its four steps it has taken: mark, word, bytes, end. The bytes are
/// those of the word if it is the same after them.
#[derive(Clone, Copy, Debug)]
struct Reading {
    reader: u16,
    page: Page,
    seen: SeenWords,
    value: u64,
    steps: u8,
}

impl Input {
    /// Hands it to a node; the node refuses some messages.
    pub(super) fn happen(&self, node: &mut Node, now: Tick) -> Result<(), ProtocolError> {
        match self {
            Self::Fault(page, access) => node.handle_fault(now, *page, *access),
            Self::Message(from, message) => return node.handle_message(now, *from, message),
            Self::Hold(id, runs) => node.handle_hold(now, *id, runs).expect("a hold"),
            Self::Release(id) => node.handle_release(now, *id),
            Self::Timeout => node.handle_timeout(now),
            Self::Collected(page, marks) => node.handle_collected(now, *page, *marks),
            Self::GuardedRead(page, seen) => node.handle_guarded_read(now, *page, Some(*seen)),
            Self::HandOver(run, to, members) => node.handle_hand_over(now, *run, *to, *members).expect("a hand-over"),
        }
        Ok(())
    }
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
    /// Windows by rank and slot.
    windows: Vec<BTreeMap<u32, Slot>>,
    /// Guarded reads under way.
    reading: Vec<Reading>,
    /// Marks are not told before [`Self::tell_marks`].
    pub(super) marks_are_late: bool,
    /// Marks to be told to a rank.
    collected: Vec<(u16, Page, RankSet)>,
    /// Pages that move.
    pub(super) moving: Vec<Run>,
    /// Everything executed since it was taken last.
    pub(super) log: Vec<(Rank, Action)>,
    /// Told of every input with the node before and after it.
    pub(super) watch: Option<fn(&mut Seen, &Input, &Node, &Node)>,
    /// What was noted then.
    pub(super) seen: Seen,
}

/// Notes taken by [`Machine::watch`].
pub(super) type Seen = BTreeSet<String>;

impl Machine {
    /// `pages` of each rank, and what to change of the usual configuration.
    pub(super) fn new(ranks: u16, pages: u32, change: impl Fn(&mut Config)) -> Self {
        let node = |rank| {
            let homes = HomeMap::new((0..ranks).map(|home| (pages, Rank(home)))).expect("a home map");
            let mut config = Config::plain(Rank(rank), ranks, homes);
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
            windows: vec![BTreeMap::new(); each],
            reading: Vec::new(),
            marks_are_late: false,
            collected: Vec::new(),
            moving: Vec::new(),
            log: Vec::new(),
            watch: None,
            seen: Seen::new(),
        }
    }

    /// A processor wants a page: uses it at once, or waits.
    pub(super) fn touch(&mut self, rank: u16, page: u32, access: Access) {
        let page = Page(page);
        if self.sees(rank, page) >= Some(access) {
            return self.use_page(rank, page, access);
        }
        self.waiting[usize::from(rank)].insert((page, access));
        self.input(rank, &Input::Fault(page, access), &[]);
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
        self.holds[usize::from(rank)].insert(HoldId(id), (runs.to_vec(), false));
        self.input(rank, &Input::Hold(HoldId(id), runs.to_vec()), &[]);
    }

    /// A device is done with its pages, all of which it uses now if it has got them.
    pub(super) fn release(&mut self, rank: u16, id: u64) {
        if let Some((runs, true)) = self.holds[usize::from(rank)].remove(&HoldId(id)) {
            for (run, access) in runs {
                run.pages().for_each(|page| self.use_page(rank, page, access));
            }
        }
        self.input(rank, &Input::Release(HoldId(id)), &[]);
    }

    /// Rank 0 orders a hand-over, if the pages have one home, which is another, and do not move.
    pub(super) fn hand_over(&mut self, run: Run, to: u16) {
        let node = &self.nodes[0];
        let is_moving = self.moving.iter().any(|other| other.first < run.end() && run.first < other.end());
        if is_moving || node.home_of_run(run).is_none_or(|home| home == Rank(to)) {
            return;
        }
        self.moving.push(run);
        let members = RankSet::below(u16::try_from(self.nodes.len()).expect("ranks"));
        self.input(0, &Input::HandOver(run, Rank(to), members), &[]);
    }

    /// Delivers the next message of this link, encoded and decoded again.
    pub(super) fn deliver(&mut self, from: u16, to: u16) -> bool {
        let Some((message, body)) = self.links.get_mut(&(from, to)).and_then(VecDeque::pop_front) else { return false };
        let mut bytes = Vec::new();
        codec::encode(&message, &mut bytes);
        assert!(bytes.len() <= codec::MAX_ENCODED);
        assert_eq!(codec::decode(&bytes), Ok(message.clone()));
        self.input(to, &Input::Message(Rank(from), message), &body);
        true
    }

    /// A guarded read goes on by a step; false when there is no such read.
    pub(super) fn read_on(&mut self, at: usize) -> bool {
        let Some(read) = self.reading.get_mut(at) else { return false };
        let home = self.nodes[usize::from(read.reader)].config.homes.home(read.page).expect("a home");
        let slot = self.nodes[usize::from(home.0)].slot(read.page).expect("a slot");
        let slot = self.windows[usize::from(home.0)].entry(slot).or_default();
        read.steps += 1;
        match read.steps {
            1 => _ = slot.marks.insert(Rank(read.reader)),
            2 => read.seen.word = slot.word,
            3 => {
                read.value = slot.value;
                read.seen.is_whole = read.seen.word == slot.word;
            }
            _ => {
                let Reading { reader, page, seen, value, .. } = self.reading.remove(at);
                self.input(reader, &Input::GuardedRead(page, seen), &[value]);
            }
        }
        true
    }

    /// How many guarded reads are under way.
    pub(super) fn reads(&self) -> usize {
        self.reading.len()
    }

    /// A page is shown with this value, or hidden.
    fn show(&mut self, rank: u16, page: Page, shown: Option<(Version, u64)>) {
        let slot = self.nodes[usize::from(rank)].slot(page).expect("a slot");
        let slot = self.windows[usize::from(rank)].entry(slot).or_default();
        if let Some((version, value)) = shown {
            assert_eq!(slot.word, Word::NONE, "rank {rank} shows page {} over another", page.0);
            (slot.value, slot.word) = (value, Word::shown(page, version).expect("a word"));
        } else {
            assert!(slot.word.version_of(page).is_some(), "rank {rank} hides page {}, which is not shown", page.0);
            slot.word = Word::NONE;
            let marks = slot.marks;
            self.collected.push((rank, page, marks));
        }
    }

    /// Something happens to a node, and what it wants is done.
    fn input(&mut self, rank: u16, input: &Input, body: &[u64]) {
        let node = &mut self.nodes[usize::from(rank)];
        let before = self.watch.map(|_| node.clone());
        if let Err(error) = input.happen(node, self.now) {
            panic!("{error}: {input:?}");
        }
        if let (Some(watch), Some(before)) = (self.watch, before) {
            watch(&mut self.seen, input, &before, node);
        }
        self.execute(rank, body);
        if !self.marks_are_late {
            self.tell_marks();
        }
    }

    /// Tells the marks that were collected.
    pub(super) fn tell_marks(&mut self) {
        while let Some((rank, page, marks)) = self.collected.pop() {
            self.input(rank, &Input::Collected(page, marks), &[]);
        }
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
                self.input(u16::try_from(rank).expect("a rank"), &Input::Timeout, &[]);
            }
        }
    }

    /// Goes on until nothing is under way; time passes when there is nothing else to do.
    pub(super) fn run(&mut self) {
        for _ in 0..100_000 {
            self.deliver_all();
            while self.read_on(0) {}
            self.tell_marks();
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
            Action::HandedOver { run, to } => {
                let at = self.moving.iter().position(|other| *other == run).expect("pages that move");
                self.moving.remove(at);
                assert_eq!((rank, self.nodes[0].home(run.first)), (0, Some(to)));
            }
            Action::HoldReady { id } => {
                let (runs, is_ready) = self.holds[at].get_mut(&id).expect("a hold");
                *is_ready = true;
                for (run, access) in runs.clone() {
                    assert!(run.pages().all(|page| self.sees(rank, page) >= Some(access)), "{run:?}");
                }
            }
            Action::Show { page, version } => {
                let view = self.views[at][&page];
                assert_eq!(view.access, Access::Read, "rank {rank} shows page {}", page.0);
                self.show(rank, page, Some((version, view.value)));
            }
            Action::Hide { page } => self.show(rank, page, None),
            Action::GuardedRead { home, page } => {
                assert_eq!(self.nodes[at].config.homes.home(page), Some(home));
                let seen = SeenWords::NOTHING;
                self.reading.push(Reading { reader: rank, page, seen, value: 0, steps: 0 });
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
            | Message::HandOver { .. }
            | Message::Freeze { .. }
            | Message::Frozen { .. }
            | Message::Requests { .. }
            | Message::Entries { .. }
            | Message::Moved { .. }
            | Message::Recall { .. }
            | Message::Leave
            | Message::LeaveAck => {}
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
            let mut homes = (0..).zip(&self.nodes).filter_map(|(rank, node)| Some((rank, node.directory(page)?)));
            let Some((home, known)) = homes.next() else {
                assert!(self.nodes.iter().all(|node| node.is_frozen(page)), "page {} has no home", page.0);
                continue;
            };
            assert_eq!(homes.next(), None, "page {} has two homes", page.0);
            let mut holders = known.holders;
            if known.is_shown {
                let slot = self.nodes[home].slot(page).and_then(|slot| self.windows[home].get(&slot));
                slot.into_iter().flat_map(|slot| slot.marks.iter()).for_each(|rank| _ = holders.insert(rank));
            }
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
