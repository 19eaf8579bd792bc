//! What only RDMA has to do: its objects go in the right order, wrong keys and broken peers are told as losses, with their reasons.

use std::env;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use vincs_coherence::id::Rank;
use vincs_coherence::transport::{
    Capabilities, Event, GuardedRead, OperationId, PutList, Segment, SendError, Transport, WordSegment,
};
use vincs_transport_rdma::devices::find_device;
use vincs_transport_rdma::endpoint::RdmaTransport;
use vincs_transport_rdma::fabric::{ConnectError, FabricConfig, connect};
use vincs_transport_rdma::verbs::completion::{Completion, CompletionQueue};
use vincs_transport_rdma::verbs::device::ProtectionDomain;
use vincs_transport_rdma::verbs::memory::{Access, Buffer, RegisteredSegment};
use vincs_transport_rdma::verbs::queue_pair::{
    Depths, QueuePair, ReceiveQueue, Remote, RemoteAddress, Route, SendQueue, Task, Work,
};
use vincs_transport_tcp::endpoint::{TcpTransport, Timing};
use vincs_transport_tcp::fabric::CONNECT_TIME;
use vincs_transport_tcp::listener::Listener;
use vincs_transport_tcp::secret::{MachineId, Secret};

use super::super::{Segments, connected};
use super::{NODE, over_device};

/// For what should come at once, on a slow processor.
pub(super) const LONG: Duration = Duration::from_secs(30);

/// A peer that is gone or does not answer is known within this time.
const KNOWN: Duration = Duration::from_secs(5);

/// The objects of the node's device that processes have: protection domains, completion queues, queue pairs, memory regions.
fn objects() -> String {
    let output = Command::new("rdma").args(["resource", "show"]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// Two queue pairs on one completion queue, connected with each other on the device with an address.
pub(super) fn pair(
    address: IpAddr,
    domain: &Arc<ProtectionDomain>,
    completions: &Arc<CompletionQueue>,
) -> [(SendQueue, ReceiveQueue); 2] {
    let found = find_device(address).unwrap();
    let depths = Depths { send: 8, receive: 8, inline: 64 };
    let ends = [(); 2].map(|()| QueuePair::create(domain, completions, depths).unwrap());
    ends.iter().for_each(|(end, _)| end.queue_pair().bind(found.port.number).unwrap());
    for (own, other) in [(0, 1), (1, 0)] {
        let remote = Remote {
            queue_pair: ends[other].0.queue_pair().number(),
            first_packet: 5,
            lid: found.port.lid,
            gid: found.gid.raw,
        };
        let route = Route {
            port: found.port.number,
            link_layer: found.port.link_layer,
            gid: found.gid,
            first_packet: 5,
            mtu: found.port.mtu,
            reads_served: 1,
            reads_asked: 1,
            remote,
        };
        ends[own].0.queue_pair().connect(&route).unwrap();
    }
    ends
}

/// The next completion.
pub(super) fn next(completions: &Arc<CompletionQueue>) -> Completion {
    let start = Instant::now();
    let mut ended = Vec::new();
    while ended.is_empty() {
        completions.poll(&mut ended).unwrap();
        assert!(start.elapsed() < LONG, "nothing ends");
    }
    ended.remove(0)
}

#[test]
#[ignore = "needs the device of a testbed node; rdma::everything_else_passes_in_a_node runs it there"]
fn the_address_chooses_the_device_and_its_gid() {
    let found = find_device(NODE).unwrap();
    assert_eq!(found.context.name(), "rxe0");
    let mapped = Ipv4Addr::new(10, 0, 2, 15).to_ipv6_mapped().octets();
    assert_eq!(found.gid.raw, mapped);
    let reasons = find_device(Ipv4Addr::LOCALHOST.into()).unwrap_err();
    assert_eq!(reasons, ["port 1 of rxe0 does not have the address 127.0.0.1"]);
}

/// Whichever handle is the last one: the library refuses to destroy what is still in use, which is counted.
#[test]
#[ignore = "needs the device of a testbed node; rdma::everything_else_passes_in_a_node runs it there"]
fn objects_go_in_the_right_order_whatever_is_dropped_first() {
    let before = objects();
    for first in 0..6 {
        let context = find_device(NODE).unwrap().context;
        let counted = Arc::clone(context.objects());
        let domain = ProtectionDomain::new(&context).unwrap();
        let completions = CompletionQueue::new(&context, 32).unwrap();
        let buffer = Buffer::new(&domain, Access::Reads, 4096, 2).unwrap();
        let segment: Arc<dyn Segment> = Arc::new(WordSegment::new(8));
        let segment = RegisteredSegment::new(&domain, &segment).unwrap();
        let [(mut sends, mut receives), other] = pair(NODE, &domain, &completions);
        // Device, domain, channel, completion queue, two registrations, two queue pairs.
        assert_eq!(counted.live(), 8);
        // Both queues have something under way, whose memory is theirs.
        receives.post(&mut vec![buffer.claim(0, 4096).unwrap()]).unwrap();
        let at = RemoteAddress { address: 0, key: 0 };
        let claim = buffer.claim(4096, 64);
        sends.post(&mut vec![Work { task: Task::Read(at), claim, length: 64, signaled: true }]).unwrap();
        assert!(buffer.claim(0, 1).is_none() && buffer.claim(4096, 1).is_none());
        assert_ne!(objects(), before);
        let mut handles: Vec<Box<dyn Send>> = vec![
            Box::new(context),
            Box::new(domain),
            Box::new(completions),
            Box::new(buffer),
            Box::new(segment),
            Box::new((sends, receives, other)),
        ];
        handles.rotate_left(first);
        for handle in handles {
            drop(handle);
            assert_eq!(counted.refused(), 0, "handle {first} was dropped first");
        }
        assert_eq!((counted.live(), objects()), (0, before.clone()), "handle {first} was dropped first");
    }
}

#[test]
#[ignore = "needs the device of a testbed node; rdma::everything_else_passes_in_a_node runs it there"]
fn a_wrong_key_ends_with_its_status_and_a_right_one_does_not() {
    let context = find_device(NODE).unwrap().context;
    let domain = ProtectionDomain::new(&context).unwrap();
    let completions = CompletionQueue::new(&context, 32).unwrap();
    let buffer = Buffer::new(&domain, Access::Own, 64, 2).unwrap();
    let words = Arc::new(WordSegment::new(8));
    let segment: Arc<dyn Segment> = Arc::clone(&words) as Arc<dyn Segment>;
    let segment = RegisteredSegment::new(&domain, &segment).unwrap().unwrap();
    let [(mut sends, _receives), _other] = pair(NODE, &domain, &completions);
    for (wrong, failure) in [(0, None), (1, Some("remote access error (status 10)"))] {
        let at = RemoteAddress { address: segment.remote().address, key: segment.remote().key ^ wrong };
        let mut claim = buffer.claim(0, 8).unwrap();
        claim.copy_from_slice(&7_u64.to_le_bytes());
        sends.post(&mut vec![Work { task: Task::Write(at), claim: Some(claim), length: 8, signaled: true }]).unwrap();
        let completion = next(&completions);
        assert_eq!(completion.failure().as_deref(), failure);
        assert_eq!(sends.ended(&completion).1.count(), 1);
    }
    assert_eq!(words.words()[0].load(std::sync::atomic::Ordering::Acquire), 7);
}

/// A lifeline on which what this rank says of itself is changed on its way.
#[derive(Debug)]
struct Tampered(TcpTransport, fn(&mut Vec<u8>));

impl Transport for Tampered {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn send(&self, to: Rank, header: &[u8], body: &[IoSlice<'_>]) -> Result<(), SendError> {
        let mut header = header.to_vec();
        (self.1)(&mut header);
        self.0.send(to, &header, body)
    }

    fn get(&self, id: OperationId, target: Rank, offset: u64, len: usize) -> Result<(), SendError> {
        self.0.get(id, target, offset, len)
    }

    fn put(&self, id: OperationId, target: Rank, offset: u64, bytes: &[u8]) -> Result<(), SendError> {
        self.0.put(id, target, offset, bytes)
    }

    fn put_list(&self, id: OperationId, target: Rank, list: &PutList) -> Result<(), SendError> {
        self.0.put_list(id, target, list)
    }

    fn compare_and_swap(
        &self,
        id: OperationId,
        target: Rank,
        offset: u64,
        old: u64,
        new: u64,
    ) -> Result<(), SendError> {
        self.0.compare_and_swap(id, target, offset, old, new)
    }

    fn fetch_and_add(&self, id: OperationId, target: Rank, offset: u64, add: u64) -> Result<(), SendError> {
        self.0.fetch_and_add(id, target, offset, add)
    }

    fn guarded_read(&self, id: OperationId, target: Rank, read: GuardedRead) -> Result<(), SendError> {
        self.0.guarded_read(id, target, read)
    }

    fn poll(&self, sink: &mut dyn FnMut(Event<'_>)) -> bool {
        self.0.poll(sink)
    }

    fn sign_of_life(&self) {
        self.0.sign_of_life();
    }

    fn ready(&self) -> BorrowedFd<'_> {
        self.0.ready()
    }

    fn poll_within(&self) -> Duration {
        self.0.poll_within()
    }
}

/// Two ranks of one class with a segment of 8 words each. What rank 1 says of itself is changed.
fn tampered(change: fn(&mut Vec<u8>)) -> [Result<RdmaTransport, ConnectError>; 2] {
    tampered_by(NODE, Rank(1), change)
}

/// The same by the device with this address and what one of the ranks says.
pub(super) fn tampered_by(
    address: IpAddr,
    by: Rank,
    change: fn(&mut Vec<u8>),
) -> [Result<RdmaTransport, ConnectError>; 2] {
    let lifelines: Vec<Segments> = vec![vec![None], vec![None]];
    let ends = connected(address, lifelines, move |rank, mut ends| {
        let change = if rank == by { change } else { |_: &mut Vec<u8>| {} };
        let lifeline = Box::new(Tampered(ends.remove(0), change)) as Box<dyn Transport>;
        let segment = Some(Arc::new(WordSegment::new(8)) as Arc<dyn Segment>);
        let config = FabricConfig { rank, ranks: 2, segments: vec![segment], connect_time: CONNECT_TIME };
        connect(&config, &find_device(address).unwrap(), vec![lifeline]).map(|mut ends| ends.remove(0))
    });
    ends.try_into().unwrap()
}

/// Two ranks of one class with a segment of 8 words each.
pub(super) fn two() -> [RdmaTransport; 2] {
    tampered(|_| {}).map(Result::unwrap)
}

/// Polls until a rank is lost; says why.
pub(super) fn reason(end: &RdmaTransport) -> String {
    let start = Instant::now();
    let mut reason = None;
    while reason.is_none() {
        end.poll(&mut |event| {
            if let Event::Lost { reason: told, .. } = event {
                assert_eq!(reason.replace(told), None, "told twice");
            }
        });
        assert!(start.elapsed() < LONG, "nobody is lost");
        thread::sleep(Duration::from_micros(100));
    }
    let mut more = 0;
    end.poll(&mut |_| more += 1);
    assert_eq!(more, 0, "events after the loss");
    reason.unwrap()
}

#[test]
#[ignore = "needs the device of a testbed node; rdma::everything_else_passes_in_a_node runs it there"]
fn a_queue_pair_in_error_is_the_loss_of_the_rank_with_the_status_named() {
    // The key to rank 1's segment.
    let [here, there] =
        tampered(|said| said.iter_mut().skip(52).take(1).for_each(|byte| *byte ^= 1)).map(Result::unwrap);
    here.put(OperationId(1), Rank(1), 0, &[1; 8]).unwrap();
    let why = reason(&here);
    assert_eq!(why, "rxe0: remote access error (status 10)");
    assert_eq!(here.send(Rank(1), &[], &[]), Err(SendError::Lost(Rank(1))));
    assert_eq!(here.get(OperationId(2), Rank(1), 0, 8), Err(SendError::Lost(Rank(1))));
    // The other one finds its own queue pair broken.
    let start = Instant::now();
    let why = reason(&there);
    assert!(why.starts_with("rxe0: ") && start.elapsed() < KNOWN, "{why} after {:?}", start.elapsed());
}

#[test]
#[ignore = "needs the device of a testbed node; rdma::everything_else_passes_in_a_node runs it there"]
fn garbage_in_an_introduction_names_the_rank() {
    fn set(said: &mut [u8], at: usize, byte: u8) {
        // Of the introduction only: what is said when it is known comes with it at times.
        if said.len() == 60 {
            said.iter_mut().skip(at).take(1).for_each(|place| *place = byte);
        }
    }
    for (change, words) in [
        ((|said| set(said, 7, 3)) as fn(&mut Vec<u8>), "uses RoCE v1, this rank's rxe0 RoCE v2 for its address"),
        (|said| set(said, 35, 0), "has a queue pair that serves no reads and atomics"),
        (|said| said.clear(), "said something else where it should introduce its queue pair"),
        (|said| said.push(0), "introduced its queue pair with 61 bytes, which has 60"),
        (|said| set(said, 4, 2), "speaks version 2 of the RDMA transport, this rank version 1"),
        (|said| set(said, 34, 9), "introduced its queue pair with a packet length that there is not"),
        (|said| set(said, 59, 19), "has slots of 4864 bytes for messages, this rank of 4608"),
        (|said| *said = b"vRDM\x01\0\x02\0".to_vec(), "introduces itself out of order"),
    ] {
        let [here, there] = tampered(change);
        assert_eq!(here.unwrap_err().to_string(), format!("rank 1 {words}"));
        // Rank 0 gives up, and rank 1 sees that.
        assert!(matches!(there, Err(ConnectError::Lost { rank: Rank(0), .. })), "{there:?}");
    }
}

#[test]
#[ignore = "needs the device of a testbed node; rdma::everything_else_passes_in_a_node runs it there"]
fn a_rank_that_does_not_come_is_named_after_the_time() {
    let lifelines: Vec<Segments> = vec![vec![None], vec![None]];
    let ends = connected(NODE, lifelines, |rank, mut ends| {
        let lifeline = Box::new(ends.remove(0)) as Box<dyn Transport>;
        if rank == Rank(1) {
            thread::sleep(Duration::from_secs(3));
            return None;
        }
        let connect_time = Duration::from_secs(1);
        let config = FabricConfig { rank, ranks: 2, segments: vec![None], connect_time };
        Some(connect(&config, &find_device(NODE).unwrap(), vec![lifeline]).unwrap_err().to_string())
    });
    assert_eq!(ends, [Some("rank 1 has not connected by RDMA within 1s".to_owned()), None]);
}

/// For longer than a silent rank is missed; first before its first poll, then after it.
#[test]
#[ignore = "needs the device of a testbed node; rdma::everything_else_passes_in_a_node runs it there"]
fn a_rank_that_does_not_poll_yet_or_says_that_it_is_alive_is_not_lost_nor_is_an_idle_one() {
    let [here, there] = two();
    let start = Instant::now();
    for polled in [false, true] {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(7) {
            here.poll(&mut |event| panic!("{event:?}"));
            if polled {
                there.sign_of_life();
            }
            thread::sleep(here.poll_within().min(Duration::from_millis(100)));
        }
        there.poll(&mut |event| panic!("{event:?}"));
    }
    there.send(Rank(0), b"hello", &[]).unwrap();
    let mut got = 0;
    while got == 0 {
        here.poll(&mut |event| got += usize::from(matches!(event, Event::Message { header: b"hello", .. })));
        there.poll(&mut |event| panic!("{event:?}"));
        assert!(start.elapsed() < LONG);
    }
}

/// A process of its own that is rank 1 and talks to this one, rank 0, over the device with this address.
fn process(address: IpAddr) -> (RdmaTransport, Child) {
    let listener = Listener::bind(SocketAddr::from((address, 0))).unwrap();
    let (machine, secret) = (MachineId::random().unwrap(), Secret::random().unwrap());
    let child = Command::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "rdma::in_a_node::the_process_that_is_rank_1"])
        .env(OTHER, format!("{} {machine} {}", listener.address(), secret.to_hex()))
        .spawn()
        .unwrap();
    (rank(Rank(0), listener.address(), listener, machine, secret), child)
}

/// Where rank 1 finds rank 0: address, machine, secret.
const OTHER: &str = "VINCS_TEST_RANK_0";

/// One of two ranks. The other one needs no address if it is the higher one.
fn rank(rank: Rank, zero: SocketAddr, listener: Listener, machine: MachineId, secret: Secret) -> RdmaTransport {
    let config = vincs_transport_tcp::fabric::FabricConfig {
        rank,
        addresses: vec![zero, SocketAddr::from((zero.ip(), 1))],
        machine,
        secret,
        segments: vec![None],
        connect_time: CONNECT_TIME,
        timing: Timing::default(),
    };
    let lifelines = vincs_transport_tcp::fabric::connect(&config, listener).unwrap();
    let segment = Some(Arc::new(WordSegment::new(1 << 12)) as Arc<dyn Segment>);
    over_device(zero.ip(), rank, 2, vec![segment], lifelines).remove(0)
}

/// Sends and reads without end.
#[test]
#[ignore = "needs the device of a testbed node; rdma::everything_else_passes_in_a_node runs it there"]
fn the_process_that_is_rank_1() {
    let Ok(other) = env::var(OTHER) else { return };
    let [address, machine, secret] = other.split(' ').collect::<Vec<_>>()[..] else { panic!("{other}") };
    let (machine, secret) = (MachineId::from_hex(machine).unwrap(), Secret::from_hex(secret).unwrap());
    let zero: SocketAddr = address.parse().unwrap();
    let listener = Listener::bind(SocketAddr::from((zero.ip(), 0))).unwrap();
    let end = rank(Rank(1), zero, listener, machine, secret);
    let mut lost = false;
    while !lost {
        let body = [IoSlice::new(&[7; 10_000])];
        for result in [end.send(Rank(0), b"more", &body), end.get(OperationId(1), Rank(0), 0, 4096)] {
            assert!(matches!(result, Ok(()) | Err(SendError::Full(_) | SendError::Lost(_))), "{result:?}");
        }
        end.poll(&mut |event| lost |= matches!(event, Event::Lost { .. }));
    }
}

/// Kills or stops rank 1 in the middle of transfers over the device with this address; gives the reason, and after which time it was told.
fn after(signal: Signal, address: IpAddr) -> (String, Duration) {
    let (end, mut child) = process(address);
    let (mut messages, start) = (0, Instant::now());
    while messages < 50 {
        // The process reads this one's memory all the time, and this one its.
        let _: Result<(), SendError> = end.get(OperationId(1), Rank(1), 0, 16384);
        end.poll(&mut |event| messages += usize::from(matches!(event, Event::Message { .. })));
        assert!(start.elapsed() < LONG, "{messages} messages");
    }
    kill_process(Pid::from_child(&child), signal).unwrap();
    let start = Instant::now();
    let reason = reason(&end);
    let time = start.elapsed();
    drop(end);
    // If it was stopped.
    child.kill().unwrap();
    child.wait().unwrap();
    (reason, time)
}

/// A rank whose process is killed is known within a second, and one that is stopped after its silence.
pub(super) fn assert_missed(address: IpAddr, device: &str) {
    let (reason, time) = after(Signal::KILL, address);
    // By the end of its connection; on iWARP that of the queue pair's may be seen first.
    let told = reason.contains(&address.to_string()) || device.starts_with("siw") && reason.starts_with(device);
    assert!(time < Duration::from_secs(1) && told, "{reason} after {time:?}");
    let (reason, time) = after(Signal::STOP, address);
    assert!(time < KNOWN + Duration::from_secs(2) && reason.ends_with("silent for 5s"), "{reason} after {time:?}");
}

#[test]
#[ignore = "needs the device of a testbed node; rdma::everything_else_passes_in_a_node runs it there"]
fn a_killed_process_is_lost_within_a_second_and_a_stopped_one_after_its_silence() {
    assert_missed(NODE, "rxe0");
}

/// Brings the node's network interface down, or up until its device is there again.
pub(super) fn link(state: &str) {
    link_of("eth0", NODE, state);
}

/// The same for the interface of the device with this address.
fn link_of(interface: &str, address: IpAddr, state: &str) {
    assert!(Command::new("ip").args(["link", "set", interface, state]).status().unwrap().success());
    let start = Instant::now();
    while state == "up" && find_device(address).is_err() {
        assert!(start.elapsed() < LONG, "the link stays down");
        thread::sleep(Duration::from_millis(100));
    }
}

/// The loss of a link is known at both ends, though nobody has anything under way when it happens.
pub(super) fn assert_link_missed(ends: &[RdmaTransport; 2], interface: &str, address: IpAddr, device: &str) {
    for end in ends {
        end.poll(&mut |event| panic!("{event:?}"));
    }
    link_of(interface, address, "down");
    let start = Instant::now();
    let reasons = thread::scope(|scope| {
        let reason = |end| scope.spawn(move || (reason(end), start.elapsed()));
        ends.iter().map(reason).collect::<Vec<_>>().into_iter().map(|end| end.join().unwrap()).collect::<Vec<_>>()
    });
    link_of(interface, address, "up");
    for (reason, time) in reasons {
        // By the status that the device has for it: here its interface is gone, elsewhere nothing is acknowledged.
        assert!(reason.starts_with(&format!("{device}: ")) && time < KNOWN, "{reason} after {time:?}");
    }
}

#[test]
#[ignore = "needs the device of a testbed node; rdma::everything_else_passes_in_a_node runs it there"]
fn a_pulled_link_is_known_though_nothing_is_sent() {
    assert_link_missed(&two(), "eth0", NODE, "rxe0");
}
