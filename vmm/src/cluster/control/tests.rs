//! Control threads of two or three ranks against each other, and against a peer that breaks the rules.

use std::sync::Mutex;
use std::sync::mpsc::RecvTimeoutError;

use vincs_coherence::home::HomeMap;

use super::super::clock::Measured;
use super::super::forward::Forwarder;
use super::super::homes::Homes;
use super::super::message::{Access, Place};
use super::super::moves::Owners;
use super::super::placement::Placement;
use super::super::roll::Roll;
use super::super::seats::Seats;
use super::super::serve::{Devices, Server};
use super::super::testing::{End, Hub, heard};
use super::*;
use crate::apic::{Delivery, Destination, IoApic, LocalApic, Message, Router};
use crate::bus::{Bus, PioDevice};
use crate::clock::GuestClock;
use crate::memory::engine::{Leaver, Mover, Orders};
use crate::topology::VcpuId;
use crate::vcpu::{VcpuHandle, VcpuShared};

mod joining;

/// Far more than anything here takes on a busy host.
const LONG: Duration = Duration::from_secs(20);
/// Long enough to see that nothing comes.
const SHORT: Duration = Duration::from_millis(50);

/// Reads as the port's number, keeps what is written.
#[derive(Debug, Default)]
struct Kept(Mutex<Vec<u8>>);

impl PioDevice for Kept {
    fn read(&self, port: u16, data: &mut [u8]) {
        data.fill(port.to_le_bytes()[0]);
    }

    fn write(&self, _port: u16, data: &[u8]) {
        self.0.lock().unwrap().extend(data);
    }
}

/// A rank with its control thread. There are as many processors as ranks, each on its rank as far as rank 0's rules go.
struct Rig {
    end: Arc<End>,
    link: Arc<ControlLink>,
    notes: ControlNotes,
    events: Receiver<ClusterEvent>,
    thread: Option<JoinHandle<()>>,
    router: Arc<Router>,
    vcpus: Vec<VcpuHandle>,
    /// What the processors' threads hold, which do not run.
    _shared: Vec<VcpuShared>,
    forwarder: Arc<Forwarder>,
    measured: Receiver<Measured>,
    statistics: StatisticsSource,
    roll: Roll,
    device: Arc<Kept>,
    /// What homes are to move, at rank 0.
    orders: Orders,
}

/// Pages that each rank is the home of at the start: two hand-overs'.
const HOMED: u32 = 256;

impl Rig {
    fn start(rank: u16, ends: &[Arc<End>]) -> Self {
        Self::of_machine(rank, ends, u16::try_from(ends.len()).unwrap())
    }

    /// The same where only the first ranks, so many, start the machine; the others have seats. There are processors enough for all.
    fn of_machine(rank: u16, ends: &[Arc<End>], started: u16) -> Self {
        let end = Arc::clone(&ends[usize::from(rank)]);
        let ranks = u16::try_from(ends.len()).unwrap();
        let link = Arc::new(ControlLink::new(Rank(rank), started, end.clone()));
        let vcpu = |id| VcpuHandle::new(VcpuId(id), Arc::default(), rank != 0);
        let (vcpus, shared): (Vec<_>, Vec<_>) = (0..u32::from(ranks)).map(vcpu).unzip();
        let processors = vcpus.iter().map(|vcpu| (vcpu.id().0, Arc::clone(vcpu.mailbox()))).collect();
        let router = Arc::new(Router::new(processors).on(Arc::clone(&link)));
        let forwarder = Arc::new(Forwarder::new(Arc::clone(&link), vcpus.iter().map(VcpuHandle::id)));
        let (first_measured, measured) = channel();
        let (statistics, roll) = (StatisticsSource::default(), Roll::default());
        let device = Arc::new(Kept::default());
        let (notes, note_box) = notes().unwrap();
        let (mover, orders) = Mover::by_hand();
        let side = if rank == 0 {
            let mut bus = Bus::default();
            bus.add_pio(0x40, 4, Arc::clone(&device) as _).unwrap();
            let devices =
                Arc::new(Devices { bus, io_apic: Arc::new(IoApic::new(Arc::clone(&router))), virtio: vec![] });
            let server = |rank| Server::start(rank, 1, Arc::clone(&devices), Arc::clone(&link)).unwrap().0;
            let servers = link.others().map(|rank| (rank, server(rank))).collect();
            let mut owners = Owners::new(started, ranks.into());
            for other in link.others() {
                owners.order(other.0.into(), other).unwrap();
                owners.arrived(other, other.0.into()).unwrap();
            }
            let clock = GuestClock::start(2_000_000);
            let nodes = (0..ranks).map(Rank).collect();
            let homes = Homes::new(HomeMap::new((0..started).map(|rank| (HOMED, Rank(rank)))).unwrap());
            let homes = HomeMoves::new(homes, mover, started);
            let elastic = Elastic::new(Seats::new(started, ranks), Placement::Spread, nodes, &[], homes);
            let notes = notes.clone();
            let first = First::new(Arc::clone(&devices), servers, (owners, elastic), clock, Some([7; 16]), notes);
            Side::First(Box::new(first))
        } else {
            let (forwarder, applied) = (Arc::clone(&forwarder), Arc::default());
            let member = Member::new(
                forwarder,
                statistics.clone(),
                None,
                first_measured,
                applied,
                roll.clone(),
                (Leaver::default(), Mover::default(), notes.clone()),
            );
            Side::Member(Box::new(if rank < started { member } else { member.joining() }))
        };
        let residents = Residents::new(&link, Arc::clone(&router), vcpus.clone(), Vitals::first(started));
        let (told, events) = channel();
        let thread = spawn(Arc::clone(&link), residents, side, note_box, move |event| told.send(event).unwrap());
        let thread = Some(thread.unwrap());
        Self {
            end,
            link,
            notes,
            events,
            thread,
            router,
            vcpus,
            _shared: shared,
            forwarder,
            measured,
            statistics,
            roll,
            device,
            orders,
        }
    }

    fn event(&self) -> ClusterEvent {
        self.events.recv_timeout(LONG).unwrap()
    }

    fn no_event(&self) {
        assert_eq!(self.events.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout));
    }

    fn lost(&self) -> (u16, String) {
        let event = self.event();
        let ClusterEvent::Lost(rank, reason) = event else { panic!("{event:?}") };
        (rank.0, reason)
    }

    fn stop(mut self) {
        self.notes.tell(Note::Stop);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn rigs(ranks: u16) -> Vec<Rig> {
    let ends = Hub::ends(ranks);
    (0..ranks).map(|rank| Rig::start(rank, &ends)).collect()
}

/// A rank with its control thread, and the bare ends of all.
fn alone(rank: u16, ranks: u16) -> (Rig, Vec<Arc<End>>) {
    let ends = Hub::ends(ranks);
    (Rig::start(rank, &ends), ends)
}

fn say(end: &End, to: u16, message: &Control, body: &[u8]) {
    end.send_raw(Rank(to), &message.encode(), body);
}

/// Waits until the end has got a message that `wanted` picks.
fn wait_for<T>(end: &End, wanted: impl Fn(&Control) -> Option<T>) -> T {
    let until = Instant::now() + LONG;
    loop {
        if let Some(found) = heard(end).iter().find_map(|(_, message)| wanted(message)) {
            return found;
        }
        assert!(Instant::now() < until, "it does not come");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What rank 0 sends for a vCPU that goes from it to rank 1.
const MOVE: Control = Control::Move { vcpu: 1, from: Rank(0), to: Rank(1) };

#[test]
fn only_a_vcpu_that_is_waited_for_comes_and_only_from_where_it_was() {
    let unasked = "a state of vCPU 1, which is not waited for from there";
    for (order, from, vcpu, state, what) in [
        (false, 0, 1, vec![1], unasked),
        (true, 2, 1, vec![1], unasked),
        (true, 0, 2, vec![1], "a state of vCPU 2"),
        (true, 0, 3, vec![1], "a vCPU 3, which this machine has not"),
        (true, 0, 1, vec![9], "vCPU state of version 9"),
        (true, 0, 1, vec![2, 2, 3], "bytes that are no vCPU's state"),
    ] {
        let (rig, ends) = alone(1, 3);
        if order {
            say(&ends[0], 1, &MOVE, &[]);
            wait_for(&ends[0], |message| (*message == Control::Repointed { vcpu: 1 }).then_some(()));
        }
        say(&ends[from], 1, &Control::Vcpu { vcpu }, &state);
        // Rank 1 tells rank 0, which is not there to tell it back.
        let (lost, reason) = rig.lost();
        assert_eq!(usize::from(lost), from);
        assert!(reason.contains(what), "{reason}");
        rig.stop();
    }
}

#[test]
fn a_rank_sends_elsewhere_before_it_says_so() {
    let (rig, ends) = alone(2, 3);
    say(&ends[0], 2, &MOVE, &[]);
    wait_for(&ends[0], |message| (*message == Control::Repointed { vcpu: 1 }).then_some(()));
    rig.router.deliver(Message {
        destination: Destination::Physical(1),
        delivery: Delivery::Fixed,
        vector: 0x41,
        level: false,
    });
    let expected = [1].into_iter().collect();
    wait_for(&ends[1], |message| {
        matches!(message, Control::Interrupt { targets, .. } if *targets == expected).then_some(())
    });
    rig.stop();
}

#[test]
fn moves_that_make_no_sense_are_refused_or_are_the_senders_loss() {
    let (rig, ends) = alone(0, 2);
    let order = |vcpu, rank| {
        let (done, answer) = channel();
        rig.notes.tell(Note::Move(vcpu, Rank(rank), done));
        answer.recv_timeout(SHORT)
    };
    assert_eq!(order(2, 1), Ok(Err(RefusedMove::NoVcpu { vcpu: 2, last: 1 })));
    assert_eq!(order(0, 2), Ok(Err(RefusedMove::NoRank { rank: 2, last: 1 })));
    assert_eq!(order(0, 0), Ok(Ok(Moved::WasThere)));
    assert_eq!(order(0, 1), Err(RecvTimeoutError::Timeout), "the other rank says nothing");
    assert_eq!(order(0, 0), Ok(Err(RefusedMove::UnderWay { vcpu: 0, to: 1 })));
    wait_for(&ends[1], |message| matches!(message, Control::Move { vcpu: 0, .. }).then_some(()));
    say(&ends[1], 0, &Control::Repointed { vcpu: 0 }, &[]);
    say(&ends[1], 0, &Control::Repointed { vcpu: 0 }, &[]);
    assert!(rig.lost().1.contains("sends nothing for it any more"));
    rig.stop();
}

#[test]
fn all_processors_stop_before_a_pause_is_over() {
    let mut rigs = rigs(2);
    let (done, paused) = channel();
    rigs[0].notes.tell(Note::Pause(done));
    assert_eq!(paused.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout), "their threads do not run");
    // A thread that ends stops, too.
    rigs[0]._shared.clear();
    assert_eq!(paused.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout));
    rigs[1]._shared.clear();
    assert_eq!(paused.recv_timeout(LONG), Ok(()));
    rigs.into_iter().for_each(Rig::stop);
}

#[test]
fn device_accesses_go_to_rank_0_and_their_answers_come_back() {
    let rigs = rigs(3);
    for rig in &rigs[1..] {
        let vcpu = VcpuId(rig.link.rank().0.into());
        let mut data = [0; 4];
        assert_eq!(rig.forwarder.read(vcpu, Place::Port(0x42), &mut data), Ok(()));
        assert_eq!(data, [0x42; 4]);
        assert_eq!(rig.forwarder.read(vcpu, Place::Memory(0x42), &mut data), Ok(()));
        assert_eq!(data, [0xff; 4], "there is no device");
        assert_eq!(rig.forwarder.write(vcpu, Place::Port(0x40), &[data.len().to_le_bytes()[0], 5]), Ok(false));
    }
    assert_eq!(*rigs[0].device.0.lock().unwrap(), [4, 5, 4, 5]);
    rigs.into_iter().for_each(Rig::stop);
}

#[test]
fn interrupts_reach_processors_of_other_ranks() {
    let rigs = rigs(2);
    let targets = [1].into_iter().collect();
    let interrupt = Control::Interrupt { targets, delivery: Delivery::Fixed, vector: 0x51, level: false };
    rigs[0].link.send(Rank(1), &interrupt, &[]);
    let mailbox = rigs[1].vcpus[1].mailbox();
    let until = Instant::now() + LONG;
    while mailbox.is_empty() {
        assert!(Instant::now() < until);
        thread::yield_now();
    }
    let mut apic = LocalApic::new(1);
    apic.write_msr(0x80f, 0x1ff, 0).unwrap();
    mailbox.collect(&mut apic);
    assert_eq!(apic.pending(), Some(0x51));
    rigs.into_iter().for_each(Rig::stop);
}

#[test]
fn a_rank_measures_the_clock_of_rank_0_at_its_start() {
    let rigs = rigs(2);
    let measured = rigs[1].measured.recv_timeout(LONG).unwrap();
    assert!(!measured.same_counter && measured.khz == 2_000_000);
    let own = GuestClock::with(measured.offset, measured.khz).now();
    // Both read one counter here, so the offset is that of rank 0's clock, which started near zero.
    assert!(own < 2_000_000 * u64::from(u16::MAX) && measured.uncertainty < 2_000_000_000, "{measured:?}");
    rigs.into_iter().for_each(Rig::stop);
}

#[test]
fn the_end_is_told_to_all_and_is_over_when_all_know() {
    let rigs = rigs(3);
    let (done, all_know) = channel();
    rigs[0].notes.tell(Note::End(7, done));
    all_know.recv_timeout(LONG).unwrap();
    for rig in &rigs[1..] {
        assert_eq!(rig.event(), ClusterEvent::Ended(7));
    }
    rigs[1].end.lose(Rank(0), "closed");
    rigs[1].end.lose(Rank(2), "closed");
    rigs[2].no_event();
    rigs[0].no_event();
    rigs.into_iter().for_each(Rig::stop);
}

#[test]
fn a_rank_that_knows_of_the_end_stays_until_all_know() {
    let (rig, ends) = alone(1, 3);
    say(&ends[0], 1, &Control::End { status: 0 }, &[]);
    assert_eq!(rig.event(), ClusterEvent::Ended(0));
    wait_for(&ends[0], |message| (*message == Control::EndSeen).then_some(()));
    rig.notes.tell(Note::Stop);
    thread::sleep(SHORT);
    assert!(!rig.thread.as_ref().unwrap().is_finished());
    say(&ends[0], 1, &Control::Closed, &[]);
    rig.stop();
}

#[test]
fn a_lost_rank_is_told_to_all_by_rank_0() {
    let (rig, ends) = alone(0, 3);
    ends[1].lose(Rank(0), "silent for 5 s");
    assert_eq!(rig.lost(), (1, "silent for 5 s".into()));
    let expected = Control::lost(Rank(1), "silent for 5 s");
    wait_for(&ends[2], |message| (*message == expected).then_some(()));
    ends[2].lose(Rank(0), "closed");
    rig.no_event();
    rig.stop();
}

#[test]
fn a_rank_that_misses_another_asks_rank_0_which_was_lost_first() {
    let (rig, ends) = alone(1, 3);
    ends[2].lose(Rank(1), "closed");
    let expected = Control::lost(Rank(2), "closed");
    wait_for(&ends[0], |message| (*message == expected).then_some(()));
    say(&ends[0], 1, &Control::lost(Rank(2), "out of memory"), &[]);
    assert_eq!(rig.lost(), (2, "out of memory".into()));
    rig.stop();

    let (rig, ends) = alone(1, 3);
    ends[2].lose(Rank(1), "closed");
    assert_eq!(rig.lost(), (2, "closed".into()), "rank 0 does not answer");
    rig.stop();
}

#[test]
fn without_rank_0_it_is_over_at_once() {
    let (rig, ends) = alone(1, 2);
    ends[0].lose(Rank(1), "closed");
    assert_eq!(rig.lost(), (0, "closed".into()));
    rig.stop();
}

#[test]
fn a_rank_that_misses_rank_0_stays_until_the_others_miss_it_too() {
    let (rig, ends) = alone(1, 3);
    ends[0].lose(Rank(1), "silent for 5 s");
    assert_eq!(rig.lost().0, 0);
    rig.notes.tell(Note::Stop);
    thread::sleep(SHORT);
    assert!(!rig.thread.as_ref().unwrap().is_finished(), "rank 2 would take it for the lost one");
    rig.stop();
}

#[test]
fn ranks_without_rank_0_learn_which_of_them_are_there() {
    // Ranks 0 and 1 go together, as with a host that has both.
    let ends = Hub::ends(5);
    let rest: Vec<_> = (2..5).map(|rank| Rig::start(rank, &ends)).collect();
    for rig in &rest {
        ends[1].lose(rig.link.rank(), "silent for 5 s");
        ends[0].lose(rig.link.rank(), "silent for 5 s");
    }
    rest.iter().for_each(|rig| _ = rig.lost());
    let rolls: Vec<_> = rest.iter().map(|rig| (rig.link.rank(), rig.roll.clone())).collect();
    rest.into_iter().for_each(Rig::stop);
    assert_eq!(
        rolls.iter().map(|(rank, roll)| roll.is_lowest(*rank, Rank(0))).collect::<Vec<_>>(),
        [true, false, false]
    );
}

#[test]
fn a_rank_says_that_it_is_there_once_when_it_misses_rank_0_or_another_does() {
    let present = |end: &End| heard(end).iter().filter(|(_, message)| *message == Control::Present).count();
    let (rig, ends) = alone(1, 3);
    say(&ends[2], 1, &Control::Present, &[]);
    wait_for(&ends[2], |message| (*message == Control::Present).then_some(()));
    assert!(rig.roll.is_lowest(Rank(1), Rank(0)));
    rig.no_event();
    ends[0].lose(Rank(1), "closed");
    assert_eq!(rig.lost(), (0, "closed".into()));
    rig.stop();
    assert_eq!((present(&ends[0]), present(&ends[2])), (0, 0), "it has said so");

    let (rig, ends) = alone(2, 3);
    rig.notes.tell(Note::Lost(Rank(2), "out of memory".into()));
    assert_eq!(rig.lost(), (2, "out of memory".into()), "rank 0 does not answer");
    wait_for(&ends[1], |message| (*message == Control::Present).then_some(()));
    say(&ends[1], 2, &Control::Present, &[]);
    let roll = rig.roll.clone();
    rig.stop();
    assert!(!roll.is_lowest(Rank(2), Rank(0)), "rank 1 has said so in time");
}

#[test]
fn what_another_channel_says_waits_for_a_better_reason() {
    let (rig, ends) = alone(1, 2);
    rig.notes.tell(Note::Lost(Rank(0), "closed".into()));
    say(&ends[0], 1, &Control::End { status: 3 }, &[]);
    assert_eq!(rig.event(), ClusterEvent::Ended(3), "rank 0 had ended the machine before it went");
    rig.no_event();
    rig.stop();

    let (rig, _ends) = alone(0, 2);
    rig.notes.tell(Note::Lost(Rank(1), "nonsense".into()));
    assert_eq!(rig.lost(), (1, "nonsense".into()));
    rig.stop();
}

#[test]
fn what_ends_a_rank_elsewhere_is_told_to_rank_0() {
    let found = |own: u16, about: u16, reason: &str, expected: Control| {
        let (rig, ends) = alone(own, 4);
        rig.notes.tell(Note::Lost(Rank(about), reason.into()));
        wait_for(&ends[0], |message| (*message == expected).then_some(()));
        rig.no_event();
        say(&ends[0], own, &Control::lost(Rank(3), "rank 0's word"), &[]);
        assert_eq!(rig.lost(), (3, "rank 0's word".into()));
        rig.stop();
    };
    found(2, 2, "out of memory", Control::lost(Rank(2), "out of memory"));
    found(2, 3, "closed", Control::lost(Rank(3), "closed"));
    found(2, 0, "closed", Control::lost(Rank(2), "it has lost rank 0: closed"));

    let (rig, _ends) = alone(2, 3);
    rig.notes.tell(Note::Lost(Rank(2), "out of memory".into()));
    assert_eq!(rig.lost(), (2, "out of memory".into()), "rank 0 does not answer");
    rig.stop();
}

#[test]
fn statistics_come_from_every_rank() {
    let rigs = rigs(3);
    rigs[2].statistics.set(Box::new(|| b"{}".to_vec()));
    let (sender, gathered) = channel();
    rigs[0].notes.tell(Note::Gather(sender));
    let mut all = [gathered.recv_timeout(LONG).unwrap(), gathered.recv_timeout(LONG).unwrap()];
    all.sort();
    assert_eq!(all, [(Rank(1), vec![]), (Rank(2), b"{}".to_vec())]);
    rigs.into_iter().for_each(Rig::stop);
}

#[test]
fn a_failed_vcpu_is_told_to_rank_0() {
    let rigs = rigs(2);
    let failure = VcpuFailure::Host("no".into());
    rigs[1].link.send(Rank(0), &Control::vcpu_failed(1, failure.clone()), &[]);
    assert_eq!(rigs[0].event(), ClusterEvent::VcpuFailed(1, failure));
    rigs.into_iter().for_each(Rig::stop);
}

#[test]
fn what_a_rank_may_not_send_is_its_loss() {
    let access = |vcpu| Control::Access { vcpu, access: Access::Read(Place::Port(0), 1) };
    let to_first = [
        access(0),
        access(2),
        access(u32::MAX),
        Control::vcpu_failed(0, VcpuFailure::TripleFault),
        Control::Answer { vcpu: 1 },
        Control::End { status: 0 },
        Control::EndSeen,
        Control::Closed,
        Control::StatisticsRequest,
        Control::Present,
        Control::Ready,
        Control::Homes { vital: vec![] },
        Control::HomesKnown,
        Control::ToLeave,
        Control::to_stay("it says"),
        Control::Drain,
        Control::Parted,
        Control::Drained,
        Control::Gone { rank: Rank(1) },
        Control::lost(Rank(0), "it says"),
        Control::lost(Rank(9), "it says"),
    ];
    for message in to_first {
        let (rig, ends) = alone(0, 2);
        say(&ends[1], 0, &message, &[]);
        let (rank, reason) = rig.lost();
        assert!(rank == 1 && reason.contains("may not"), "{message:?}: {reason}");
        rig.stop();
    }
    let to_member = [
        access(1),
        Control::Statistics,
        Control::EndSeen,
        Control::Closed,
        Control::Answer { vcpu: 1 },
        Control::Homes { vital: vec![] },
        Control::HomesKnown,
    ];
    for message in to_member {
        let (rig, ends) = alone(1, 2);
        say(&ends[0], 1, &message, &[]);
        assert!(rig.lost().1.contains("may not"), "{message:?}");
        rig.stop();
    }
    let (rig, ends) = alone(1, 2);
    say(&ends[0], 1, &Control::Present, &[]);
    assert!(rig.lost().1.contains("may not"), "rank 0 is not without itself");
    rig.stop();
    // What rank 0 may say, another may not.
    let (rig, ends) = alone(1, 3);
    say(&ends[2], 1, &Control::End { status: 0 }, &[]);
    assert_eq!(rig.lost().0, 2);
    rig.stop();
}

#[test]
fn bytes_that_are_no_message_are_the_senders_loss() {
    let end_seen = Control::EndSeen.encode();
    let long = [&end_seen[..], &[0]].concat();
    for (header, body) in [
        (&[][..], &[][..]),
        (&[0], &[]),
        (&[super::super::message::VERSION, 200], &[]),
        (&long, &[]),
        (&end_seen, &[1]),
    ] {
        let (rig, ends) = alone(0, 2);
        ends[1].send_raw(Rank(0), header, body);
        let (rank, reason) = rig.lost();
        assert!(rank == 1 && reason.contains("no message"), "{header:?}: {reason}");
        rig.stop();
    }
}

#[test]
fn more_accesses_than_vcpus_are_refused() {
    let (rig, ends) = alone(0, 2);
    ends[0].limit(Rank(1), 0);
    let access = Control::Access { vcpu: 1, access: Access::Write(Place::Port(0x40)) };
    for _ in 0..4 {
        say(&ends[1], 0, &access, &[1]);
    }
    assert!(rig.lost().1.contains("more device accesses"), "one is served, one waits");
    rig.link.close();
    rig.stop();
}
