//! The other ranks, as rank 0 sees them while the machine runs.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use vincs_coherence::id::{MAX_RANKS, PAGE_BYTES, Rank};
use vincs_transport_tcp::latecomers::Latecomers;
use vincs_vmm::cluster::{Cluster, Fixed, Placement, Roll, Share};
use vincs_vmm::machine::Controller;
use vincs_vmm::memory::engine::MemorySettings;

use crate::cli::cluster::GatherArg;
use crate::cluster::member;
use crate::cluster::steward::{Entrance, Steward};
use crate::ctl::Desk;
use crate::wireup::channel::Channel;
use crate::wireup::mesh::{Mesh, Parts};
use crate::wireup::message::{Roster, Seat, Settings, ToCoordinator, ToMember};
use crate::wireup::selection::Choice;

/// How long a rank that is lost may take to have said why: it has said so before it went.
const LAST_WORD_TIME: Duration = Duration::from_millis(200);

/// One of so many faults has its instruction noted where statistics are written: an exit more each, too rare to be felt.
const SAMPLE_EVERY: Option<NonZeroU32> = NonZeroU32::new(32);

/// How long a rank may take to hear that the machine has ended.
const BYE_TIME: Duration = Duration::from_millis(500);

/// How often the others are told that the end of the machine takes a while.
const WAIT_STEP: Duration = Duration::from_secs(1);

const _: () = assert!(5 * WAIT_STEP.as_secs() < member::BYE_TIME.as_secs());

/// How long a rank keeps a page for each rank of a host on which they wait for processors: some turns of the host's scheduler, in which the
/// vCPU gets the other pages that it needs, each from a rank that has to wait too, and to use them.
const CROWDED_HOLD: Duration = Duration::from_millis(10);

/// The other ranks.
#[derive(Clone, Debug)]
pub(crate) struct Others {
    /// What the machine needs of them.
    pub(crate) cluster: Cluster,
    /// The name of each rank's host, of those that have gone too.
    hosts: Arc<Mutex<BTreeMap<u16, String>>>,
    lines: Arc<Mutex<Lines>>,
    /// What lets others join, before the machine runs.
    entrance: Arc<Mutex<Option<Entrance>>>,
    /// This host has many more ranks than processors.
    crowds: bool,
    gather: GatherArg,
    /// Where those come from other hosts who order the machine about.
    desk: Desk,
}

/// The connections to the other ranks.
#[derive(Debug)]
struct Lines {
    /// To each, by rank; of one that has left there may still be a broken one.
    channels: BTreeMap<u16, Channel>,
    /// The last word, once it has been said: the status.
    parted: Option<u8>,
}

impl Lines {
    fn tell_all(&mut self, message: &ToMember) {
        for channel in self.channels.values_mut() {
            if let Err(error) = channel.send(message, Instant::now() + BYE_TIME) {
                tracing::info!(peer = %channel.peer(), %error, "a rank is gone before the end");
            }
        }
    }
}

/// What the machine needs of the other ranks, as this rank sees them; nothing when there is no channel for control messages.
pub(crate) fn cluster(rank: u16, roster: &Roster, mesh: Mesh) -> Option<(Cluster, Option<Latecomers>)> {
    let ranks = u16::try_from(roster.hosts.len()).ok()?;
    let (cluster, latecomers) =
        connected(Rank(rank), ranks, &roster.settings, ranks_here(rank, &roster.boots), mesh.into_parts())?;
    Some((Cluster { shares: shares(roster), ..cluster }, latecomers))
}

/// What the host of each rank has for it.
fn shares(roster: &Roster) -> Vec<Share> {
    let hosts =
        (0..).zip(roster.boots.iter().zip(&roster.busy)).map(|(rank, (boot, busy))| (rank, boot.as_str(), *busy));
    let own = roster.processors.iter().zip(&roster.memory).zip(hosts.clone());
    let share = |((processors, memory), (rank, boot, busy)): ((&u32, &u64), (u16, &str, u32))| {
        let alone = Share { host: rank.into(), processors: *processors, busy, memory: *memory };
        shared(hosts.clone(), boot, alone)
    };
    own.map(share).collect()
}

/// What a rank's host has for it, where this is what it would have `alone` there: `hosts` has the boot of each rank's host, in order, and how busy it
/// has seen that. A host is as busy as the first rank there has seen, as that was before this machine kept it busy; and it is told by that rank's number.
pub(super) fn shared<'a>(mut hosts: impl Iterator<Item = (u16, &'a str, u32)>, boot: &str, alone: Share) -> Share {
    let first = hosts.find(|(_, other, _)| *other == boot);
    first.map_or(alone, |(first, _, busy)| Share { host: first.into(), busy, ..alone })
}

/// The same for a rank that joins.
pub(crate) fn joined_cluster(rank: Rank, seat: &Seat, mesh: Mesh) -> Option<(Cluster, Option<Latecomers>)> {
    let (started, here) = (u16::try_from(seat.started).ok()?, usize::try_from(seat.ranks_here).ok()?);
    connected(rank, started, &seat.settings, here, mesh.into_parts())
}

fn connected(
    rank: Rank,
    ranks: u16,
    settings: &Settings,
    ranks_here: usize,
    parts: Parts,
) -> Option<(Cluster, Option<Latecomers>)> {
    let Parts { ends, windows, relaxed, latecomers } = parts;
    let mut endpoints = ends.into_iter();
    let control = endpoints.next()?;
    let mut memory = memory(settings);
    memory.hold = memory.hold.or_else(|| crowded_hold(ranks_here, available_processors()));
    // Ranks of one host would all choose the same processors.
    memory.bind = ranks_here == 1;
    memory.windows = windows;
    // Who cannot join needs no place.
    let seats = if latecomers.is_some() { MAX_RANKS } else { ranks };
    let cluster = Cluster {
        rank,
        ranks,
        seats,
        placement: Placement::default(),
        shares: Vec::new(),
        fixed: fixed(settings),
        coherence: endpoints.collect(),
        control,
        memory,
        relaxed,
        roll: Roll::default(),
    };
    Some((cluster, latecomers))
}

/// Why ranks of a machine with these settings stay, if they do.
fn fixed(settings: &Settings) -> Option<Fixed> {
    match settings.transport {
        _ if settings.relaxed > 0 => Some(Fixed::Relaxed),
        Choice::Rdma(_) => Some(Fixed::Rdma),
        Choice::Tcp => None,
    }
}

/// How many ranks run on this rank's host.
fn ranks_here(rank: u16, boots: &[String]) -> usize {
    let own = boots.get(usize::from(rank));
    boots.iter().filter(|boot| Some(*boot) == own).count()
}

fn available_processors() -> usize {
    thread::available_parallelism().map_or(usize::MAX, NonZeroUsize::get)
}

/// The hold time where so many ranks have to wait for this host's processors: each has a thread for its memory beside at least one vCPU.
fn crowded_hold(ranks: usize, processors: usize) -> Option<Duration> {
    let is_crowded = 2 * ranks > processors;
    is_crowded.then(|| CROWDED_HOLD.saturating_mul(u32::try_from(ranks).unwrap_or(u32::MAX)))
}

/// Whether so many ranks have to share processors so much that each would rather have its virtual processors elsewhere than wait for pages: two that
/// take turns on a processor still get on.
fn crowds(ranks: usize, processors: usize) -> bool {
    ranks > 2 * processors
}

/// How memory is spread; what nobody has set is as this host has it.
fn memory(settings: &Settings) -> MemorySettings {
    MemorySettings {
        hold: settings.hold_us.map(|microseconds| Duration::from_micros(microseconds.into())),
        cache_pages: Some(u32::try_from(settings.cache / PAGE_BYTES as u64).unwrap_or(u32::MAX)),
        read_ahead: settings.read_ahead,
        sample_every: if settings.sampled { SAMPLE_EVERY } else { None },
        ..MemorySettings::default()
    }
}

impl Others {
    /// The other ranks of this machine.
    pub(crate) fn new(cluster: Cluster, roster: &Roster, channels: Vec<Channel>) -> Self {
        let channels = (1..).zip(channels).collect();
        let lines = Arc::new(Mutex::new(Lines { channels, parted: None }));
        let hosts = Arc::new(Mutex::new((0..).zip(roster.hosts.iter().cloned()).collect()));
        let crowds = crowds(ranks_here(cluster.rank.0, &roster.boots), available_processors());
        Self { cluster, hosts, lines, entrance: Arc::default(), crowds, gather: GatherArg::Auto, desk: Desk::default() }
    }

    /// The same, where virtual processors gather when they are asked to.
    pub(crate) fn gathering(self, gather: GatherArg) -> Self {
        Self { gather, ..self }
    }

    /// The same, where those who order the machine about from other hosts come to this desk.
    pub(crate) fn at(self, desk: Desk) -> Self {
        Self { desk, ..self }
    }

    /// Where those come from other hosts who order the machine about.
    pub(crate) fn desk(&self) -> &Desk {
        &self.desk
    }

    /// Whether virtual processors that wait too much come to rank 0. Those of a machine with relaxed memory stay.
    pub(crate) fn gathers(&self) -> bool {
        self.gather == GatherArg::Auto && self.crowds && self.cluster.relaxed.is_none()
    }

    /// Others may join by this entrance once the machine runs.
    pub(crate) fn set_entrance(&self, entrance: Entrance) {
        *lock(&self.entrance) = Some(entrance);
    }

    /// Lets others join from now on, until what comes back is dropped; nothing where none can.
    pub(crate) fn open(&self, controller: &Controller) -> Option<Steward> {
        let entrance = lock(&self.entrance).take()?;
        let steward = Steward::start(entrance, controller.clone(), self.clone());
        steward.inspect_err(|error| crate::say(&format!("no rank can join this machine: {error}"))).ok()
    }

    /// A rank has joined.
    pub(crate) fn add(&self, rank: u16, host: String, mut channel: Channel) {
        lock(&self.hosts).insert(rank, host);
        let mut lines = lock(&self.lines);
        if let Some(status) = lines.parted {
            // The machine has ended while it came. One that is gone needs no word.
            let _ = channel.send(&ToMember::Bye { status }, Instant::now() + BYE_TIME);
        }
        lines.channels.insert(rank, channel);
    }

    /// The name of each rank's host, of those that have gone too.
    pub(crate) fn hosts(&self) -> BTreeMap<u16, String> {
        lock(&self.hosts).clone()
    }

    /// What connects the ranks, by its name.
    pub(crate) fn transport(&self) -> &'static str {
        self.cluster.control.capabilities().name
    }

    /// One line about a rank that is lost: why it said it goes, else what the others noticed.
    pub(crate) fn loss(&self, rank: u16, reason: &str) -> String {
        let unknown = String::new();
        let hosts = self.hosts();
        let host = hosts.get(&rank).unwrap_or(&unknown);
        let mut lines = lock(&self.lines);
        let channel = lines.channels.get_mut(&rank);
        let deadline = Instant::now() + LAST_WORD_TIME;
        match channel.and_then(|channel| last_word(channel, deadline)) {
            Some(cause) => format!("rank {rank} on {host} failed: {cause}"),
            None => format!("rank {rank} on {host} is lost: {reason}"),
        }
    }

    /// From now on the others are told now and then that they have to wait, until [`Self::part`]: what rank 0 writes last may have a
    /// slow reader, and what started the ranks may end them all when one of them ends badly.
    pub(crate) fn ask_to_wait(&self) {
        self.ask_to_wait_every(WAIT_STEP);
    }

    fn ask_to_wait_every(&self, step: Duration) {
        let lines = Arc::downgrade(&self.lines);
        let ask = move || {
            loop {
                thread::sleep(step);
                let Some(lines) = lines.upgrade() else { return };
                let mut lines = lock(&lines);
                if lines.parted.is_some() {
                    return;
                }
                lines.tell_all(&ToMember::Wait);
            }
        };
        if let Err(error) = thread::Builder::new().name("ask-to-wait".into()).spawn(ask) {
            tracing::warn!(%error, "the other ranks do not wait long for the end");
        }
    }

    /// Tells all ranks to end with this status, when all is done here.
    pub(crate) fn part(&self, status: u8) {
        let mut lines = lock(&self.lines);
        lines.parted = Some(status);
        lines.tell_all(&ToMember::Bye { status });
    }
}

/// Why a rank that goes has said that it does, if it has. What it said to be alive during the wire-up may be before that.
fn last_word(channel: &mut Channel, deadline: Instant) -> Option<String> {
    loop {
        match channel.receive(deadline).ok()? {
            ToCoordinator::Failed(cause) => return Some(cause),
            ToCoordinator::Wait => {}
            ToCoordinator::Listening(_) | ToCoordinator::Connected | ToCoordinator::Missed(_) => return None,
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_host_is_crowded_when_its_ranks_have_more_threads_than_it_has_processors() {
        let boots: Vec<_> = ["a", "b", "a", "a"].map(str::to_owned).into();
        assert_eq!([0, 1, 2].map(|rank| ranks_here(rank, &boots)), [3, 1, 3]);
        assert_eq!(ranks_here(9, &boots), 0, "nobody is there");
        assert_eq!((crowded_hold(2, 4), crowded_hold(0, 1)), (None, None));
        assert_eq!(crowded_hold(2, 3), Some(Duration::from_millis(20)));
        assert_eq!(crowded_hold(8, 1), Some(Duration::from_millis(80)));
        assert_eq!([crowds(2, 1), crowds(3, 1), crowds(8, 4), crowds(9, 4)], [false, true, false, true]);
    }

    use std::net::Ipv4Addr;

    use vincs_transport_tcp::secret::{MachineId, Secret};

    use super::*;
    use crate::wireup::Keys;
    use crate::wireup::channel::tests::{pair, soon};
    use crate::wireup::mesh::Listening;

    fn roster(hosts: &[&str]) -> Roster {
        let settings = Settings {
            relaxed: 0,
            races: false,
            vcpus: 2,
            memory: 1 << 30,
            cache: 1 << 28,
            hold_us: Some(70),
            read_ahead: 8,
            shards: 1,
            sampled: true,
            transport: Choice::Tcp,
            window_slots: 0,
        };
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        let (addresses, boots, processors) = (Vec::new(), Vec::new(), Vec::new());
        Roster { addresses, hosts, boots, processors, busy: Vec::new(), memory: Vec::new(), settings }
    }

    #[test]
    fn ranks_of_a_host_have_one_host_that_is_as_busy_as_its_first_rank_has_seen() {
        let boots = ["a", "b", "a"].map(str::to_owned).to_vec();
        let (busy, memory) = (vec![50, 0, 210], vec![9, 8, 9]);
        let roster = Roster { boots, processors: vec![4, 2, 3], busy, memory, ..roster(&["n0", "n1", "n0"]) };
        let share = |host, processors, busy| Share { host, processors, busy, memory: 9 - u64::from(host) };
        assert_eq!(shares(&roster), [share(0, 4, 50), share(1, 2, 0), share(0, 3, 50)]);
    }

    /// The mesh of a rank alone, with so many shards.
    fn mesh(shards: u32) -> Mesh {
        let listening = Listening::bind(Ipv4Addr::LOCALHOST.into()).unwrap();
        let mut roster = roster(&["n0"]);
        roster.addresses.push(listening.address());
        roster.settings.shards = shards;
        let keys = Keys { machine: MachineId::random().unwrap(), secret: Secret::random().unwrap() };
        listening.connect(0, &roster, &keys).unwrap()
    }

    #[test]
    fn the_first_channel_class_is_for_control_and_the_rest_for_pages() {
        let (place, latecomers) = cluster(0, &roster(&["a", "b"]), mesh(2)).unwrap();
        assert!(latecomers.is_some() && place.seats == MAX_RANKS);
        assert_eq!((place.rank, place.ranks, place.coherence.len()), (Rank(0), 2, 2));
        let MemorySettings { hold, cache_pages, read_ahead, sample_every, .. } = place.memory;
        assert_eq!((hold, cache_pages), (Some(Duration::from_micros(70)), Some((1 << 28) / 4096)));
        assert_eq!((read_ahead, sample_every), (8, SAMPLE_EVERY));
    }

    #[test]
    fn ranks_with_relaxed_memory_stay() {
        let settings = roster(&["a"]).settings;
        assert_eq!(fixed(&settings), None);
        assert_eq!(fixed(&Settings { relaxed: 1, ..settings }), Some(Fixed::Relaxed));
    }

    #[test]
    fn what_a_rank_said_before_it_went_is_why() {
        let roster = roster(&["n0", "n1", "n2"]);
        let ((one, mut at_one), (two, at_two)) = (pair(), pair());
        let (place, _late) = cluster(0, &roster, mesh(1)).unwrap();
        let others = Others::new(place, &roster, vec![one, two]);
        assert_eq!(others.transport(), "tcp");
        at_one.send(&ToCoordinator::Wait, soon()).unwrap();
        at_one.send(&ToCoordinator::Failed("no memory left".into()), soon()).unwrap();
        assert_eq!(others.loss(1, "closed"), "rank 1 on n1 failed: no memory left");
        drop(at_two);
        assert_eq!(others.loss(2, "closed"), "rank 2 on n2 is lost: closed");
        assert!(others.loss(9, "closed").starts_with("rank 9 on"), "a rank that there is none of is no panic");
        others.part(7);
        assert_eq!(at_one.receive::<ToMember>(soon()).unwrap(), ToMember::Bye { status: 7 });
    }

    #[test]
    fn others_are_asked_to_wait_until_the_last_word() {
        let roster = roster(&["n0", "n1"]);
        let (one, mut at_one) = pair();
        let others = Others::new(cluster(0, &roster, mesh(1)).unwrap().0, &roster, vec![one]);
        let step = Duration::from_millis(20);
        others.ask_to_wait_every(step);
        for _ in 0..3 {
            assert_eq!(at_one.receive::<ToMember>(soon()).unwrap(), ToMember::Wait);
        }
        others.part(7);
        while at_one.receive::<ToMember>(soon()).unwrap() != (ToMember::Bye { status: 7 }) {}
        assert!(at_one.receive::<ToMember>(Instant::now() + 4 * step).is_err(), "nothing comes after it");
    }

    #[test]
    fn a_rank_that_comes_at_the_end_is_told_how_the_machine_ended() {
        let roster = roster(&["n0", "n1"]);
        let (place, _late) = cluster(0, &roster, mesh(1)).unwrap();
        let ((one, mut at_one), (two, mut at_two)) = (pair(), pair());
        let others = Others::new(place, &roster, vec![one]);
        others.part(7);
        others.add(2, "n2".into(), two);
        for member in [&mut at_one, &mut at_two] {
            let word: ToMember = member.receive(soon()).unwrap();
            assert_eq!(word, ToMember::Bye { status: 7 });
        }
    }
}
