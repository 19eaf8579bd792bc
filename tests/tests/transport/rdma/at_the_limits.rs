//! What happens when queues are full, and what is not of one device. In the node all that is there of RDMA is one device; a second one is made on a
//! pair of virtual interfaces.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Event, OperationId, SendError, Transport};
use vincs_transport_rdma::devices::find_device;
use vincs_transport_rdma::endpoint::RdmaTransport;
use vincs_transport_rdma::verbs::completion::CompletionQueue;
use vincs_transport_rdma::verbs::device::ProtectionDomain;
use vincs_transport_rdma::verbs::memory::{Access, Buffer};
use vincs_transport_rdma::verbs::queue_pair::{Depths, QueuePair, RemoteAddress, Task, Work};

use super::NODE;
use super::in_a_node::{LONG, link, next, pair, reason, two};

/// Slots of a peer's send ring (`RING_SLOTS` of docs/transport-rdma.md).
const RING_SLOTS: u64 = 474;

/// Slots that a peer has for messages (`SLOTS`).
const SLOTS: u64 = 128;

/// A write of nothing, which needs no memory.
fn nothing() -> Work {
    Work { task: Task::Write(RemoteAddress { address: 0, key: 0 }), claim: None, length: 0, signaled: false }
}

/// Gives an endpoint as much for rank 1 as it takes without a poll: operations, then messages that are numbered.
fn fill(end: &RdmaTransport) {
    let (to, before) = (Rank(1), end.counts());
    let most = end.capabilities().max_operations as u64;
    let full = Err(SendError::Full(to));
    for id in 0..most {
        assert_eq!(end.get(OperationId(id), to, 0, 8), Ok(()), "operation {id}");
    }
    assert_eq!(end.get(OperationId(0), to, 0, 8), full);
    assert_eq!(end.put(OperationId(0), to, 0, &[0; 8]), full);
    assert_eq!(end.compare_and_swap(OperationId(0), to, 0, 0, 0), full);
    assert_eq!(end.fetch_and_add(OperationId(0), to, 0, 0), full);
    // Messages have room of their own.
    for number in 0..RING_SLOTS {
        assert_eq!(end.send(to, &number.to_le_bytes(), &[]), Ok(()), "message {number}");
    }
    assert_eq!(end.send(to, &[], &[]), full);
    // The NIC has no more of it than the peer has slots.
    let counts = end.counts();
    assert_eq!((counts.one_sided - before.one_sided, counts.messages - before.messages), (most, SLOTS));
}

#[test]
#[ignore = "needs the device of a testbed node; rdma::full_queues_and_foreign_objects_are_refused runs it there"]
fn an_endpoint_without_room_for_more_work_says_so_and_goes_on_after_polls() {
    let [here, there] = two();
    fill(&here);
    let most = here.capabilities().max_operations;
    let (mut ended, mut came) = (0, 0_u64);
    // Until all has come, and then what there is room for again.
    for (operations, messages) in [(most, RING_SLOTS), (most + 1, RING_SLOTS + 1)] {
        let start = Instant::now();
        while ended < operations || came < messages {
            here.poll(&mut |event| match event {
                Event::Completed { .. } => ended += 1,
                other @ (Event::Message { .. } | Event::Lost { .. }) => panic!("{other:?}"),
            });
            there.poll(&mut |event| match event {
                Event::Message { header, .. } => {
                    assert_eq!(header, came.to_le_bytes());
                    came += 1;
                }
                other @ (Event::Completed { .. } | Event::Lost { .. }) => panic!("{other:?}"),
            });
            assert!(start.elapsed() < LONG, "{ended} operations have ended, {came} messages have come");
        }
        assert_eq!((ended, came), (operations, messages));
        assert_eq!(here.get(OperationId(0), Rank(1), 0, 8), Ok(()));
        assert_eq!(here.send(Rank(1), &came.to_le_bytes(), &[]), Ok(()));
    }
}

/// All that an endpoint has with its NIC fails at once, and nobody takes the completions: the queue has room for each.
#[test]
#[ignore = "needs the device of a testbed node; rdma::full_queues_and_foreign_objects_are_refused runs it there"]
fn when_everything_fails_while_nobody_polls_each_work_request_is_told() {
    let [here, _there] = two();
    link("down");
    fill(&here);
    // Longer than the NIC tries.
    thread::sleep(Duration::from_secs(6));
    let why = reason(&here);
    link("up");
    assert!(why.starts_with("rxe0: "), "{why}");
    let counts = || here.counts();
    let given = counts().messages + counts().one_sided + counts().receives;
    let start = Instant::now();
    while counts().completions < given {
        here.poll(&mut |event| panic!("{event:?}"));
        assert!(start.elapsed() < LONG, "{:?}", counts());
    }
    assert_eq!(counts().completions, given);
}

/// As many completions as the queue has entries, none taken before the last has come.
#[test]
#[ignore = "needs the device of a testbed node; rdma::full_queues_and_foreign_objects_are_refused runs it there"]
fn a_completion_queue_holds_as_many_as_it_was_made_for() {
    const ENTRIES: u32 = 31;
    let context = find_device(NODE).unwrap().context;
    let domain = ProtectionDomain::new(&context).unwrap();
    let completions = CompletionQueue::new(&context, ENTRIES).unwrap();
    let depths = Depths { send: 16, receive: 15, inline: 0 };
    let (mut sends, mut receives) = QueuePair::create(&domain, &completions, depths).unwrap();
    sends.queue_pair().bind(1).unwrap();
    let buffer = Buffer::new(&domain, Access::Own, 64, 15).unwrap();
    receives.post(&mut (0..15).map(|slot| buffer.claim(slot * 64, 64).unwrap()).collect()).unwrap();
    // In the error state all work ends with an error, which is told whether it was to be told or not.
    sends.queue_pair().end().unwrap();
    sends.post(&mut (0..16).map(|_| nothing()).collect()).unwrap();
    let (start, mut ended) = (Instant::now(), Vec::new());
    thread::sleep(Duration::from_millis(200));
    while ended.len() < ENTRIES as usize {
        completions.poll(&mut ended).unwrap();
        assert!(start.elapsed() < LONG, "{} have ended", ended.len());
    }
    assert!(ended.iter().all(|completion| completion.failure().is_some()));
    assert_eq!(ended.iter().filter(|completion| completion.is_receive()).count(), 15);
    assert_eq!(completions.taken(), u64::from(ENTRIES));
}

/// Where nobody counts what fits, the library does: an error with the call's name, and none of the memory is free before the queue pair is gone.
#[test]
#[ignore = "needs the device of a testbed node; rdma::full_queues_and_foreign_objects_are_refused runs it there"]
fn a_send_queue_that_is_given_too_much_refuses() {
    let context = find_device(NODE).unwrap().context;
    let domain = ProtectionDomain::new(&context).unwrap();
    let completions = CompletionQueue::new(&context, 256).unwrap();
    let [(mut sends, _receives), other] = pair(NODE, &domain, &completions);
    // Nothing is acknowledged any more, so nothing ends soon.
    other.0.queue_pair().end().unwrap();
    let error = (0..100).find_map(|_| sends.post(&mut vec![nothing()]).err()).unwrap().to_string();
    assert!(error.starts_with("ibv_post_send on rxe0 failed: "), "{error}");
}

/// Address of the second device.
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 3, 1));

/// Makes a second device, on one of a pair of virtual interfaces.
fn second_device() {
    let script = "ip link add va type veth peer name vb && ip link set va up && ip link set vb up &&
        ip addr add 10.0.3.1/24 dev va && rdma link add rxe1 type rxe netdev va";
    assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
    let start = Instant::now();
    while let Err(reasons) = find_device(SECOND) {
        assert!(start.elapsed() < LONG, "{reasons:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
#[ignore = "needs the device of a testbed node; rdma::full_queues_and_foreign_objects_are_refused runs it there"]
fn objects_of_two_devices_do_not_mix() {
    second_device();
    let [one, other] = [NODE, SECOND].map(|address| {
        let context = find_device(address).unwrap().context;
        let domain = ProtectionDomain::new(&context).unwrap();
        let completions = CompletionQueue::new(&context, 64).unwrap();
        let buffer = Buffer::new(&domain, Access::Own, 64, 2).unwrap();
        (domain, completions, buffer)
    });
    let depths = Depths { send: 8, receive: 8, inline: 64 };
    let refused = QueuePair::create(&one.0, &other.1, depths).unwrap_err().to_string();
    assert!(refused.starts_with("ibv_create_qp on rxe0 failed: "), "{refused}");
    assert!(refused.ends_with("; its completion queue is of another open device, on rxe1"), "{refused}");

    let [(mut sends, mut receives), _peer] = pair(NODE, &one.0, &one.1);
    let given = sends.queue_pair().counts();
    let mut work = vec![nothing(), Work { claim: other.2.claim(0, 64), length: 64, ..nothing() }];
    let refused = sends.post(&mut work).unwrap_err().to_string();
    assert!(refused.ends_with("; its memory is of another protection domain, on rxe1"), "{refused}");
    let mut claims = vec![other.2.claim(64, 64).unwrap()];
    let refused = receives.post(&mut claims).unwrap_err().to_string();
    assert!(refused.starts_with("ibv_post_recv on rxe0 failed: "), "{refused}");
    assert_eq!(sends.queue_pair().counts(), given, "nothing was given to the NIC");

    // What ends on the second device is nothing of the first one's, though the number of its queue pair be the same.
    let number = sends.queue_pair().number();
    receives.post(&mut vec![one.2.claim(0, 64).unwrap()]).unwrap();
    let same = (0..100_000).map(|_| QueuePair::create(&other.0, &other.1, depths).unwrap());
    let (mut foreign, _receives) = same.into_iter().find(|(sends, _)| sends.queue_pair().number() == number).unwrap();
    foreign.queue_pair().bind(1).unwrap();
    foreign.queue_pair().end().unwrap();
    foreign.post(&mut vec![nothing()]).unwrap();
    sends.post(&mut vec![Work { claim: one.2.claim(64, 64), length: 64, ..nothing() }]).unwrap();
    let completion = next(&other.1);
    assert_eq!((completion.queue_pair(), completion.is_receive()), (number, false));
    assert_eq!(sends.ended(&completion).1.count(), 0);
    assert!(receives.received(&completion).is_none());
    assert!(one.2.claim(64, 64).is_none(), "the NIC still has it");
    assert_eq!(foreign.ended(&completion).1.count(), 1);
}
