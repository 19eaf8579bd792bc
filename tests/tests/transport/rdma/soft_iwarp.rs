//! What only iWARP has to do: connections by the connection manager alone, for who was told the token, atomics by the ranks, and ends of what was sent
//! that say little.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Capabilities, Event, OperationId, Outcome, Transport};
use vincs_transport_rdma::choose::GidType;
use vincs_transport_rdma::devices::{find_device, survey};
use vincs_transport_rdma::fabric::ConnectError;
use vincs_transport_rdma::verbs::completion::CompletionQueue;
use vincs_transport_rdma::verbs::device::ProtectionDomain;
use vincs_transport_rdma::verbs::manager::{Identifier, Manager};
use vincs_transport_rdma::verbs::queue_pair::{Depths, QueuePair};

use super::in_a_node::{LONG, assert_link_missed, assert_missed, reason, tampered_by};
use super::{NODE, SIW};

/// Where in an introduction of iWARP's the token is.
const TOKEN_AT: usize = 62;

#[test]
#[ignore = "needs the device of a testbed node; rdma::what_only_iwarp_has_to_do_passes runs it there"]
fn a_port_has_the_addresses_by_which_the_connection_manager_finds_it() {
    let usable = survey().unwrap().usable;
    let iwarp: Vec<_> = usable.iter().filter(|found| found.context.is_iwarp()).collect();
    assert!(
        matches!(iwarp[..], [found] if found.gid.kind == GidType::Iwarp && found.gid.address() == SIW),
        "{iwarp:?}"
    );
    assert!(usable.iter().any(|found| !found.context.is_iwarp() && found.gid.address() == NODE));
}

#[test]
#[ignore = "needs the device of a testbed node; rdma::what_only_iwarp_has_to_do_passes runs it there"]
fn a_request_without_the_token_is_sent_away() {
    let [here, there] =
        tampered_by(SIW, Rank(0), |said| said.iter_mut().skip(TOKEN_AT).take(1).for_each(|byte| *byte ^= 1));
    let refused = there.unwrap_err().to_string();
    assert!(refused.starts_with("rank 0 cannot be connected by siw0: RDMA_CM_EVENT_REJECTED"), "{refused}");
    assert!(matches!(here, Err(ConnectError::Lost { rank: Rank(1), .. })), "{here:?}");
}

#[test]
#[ignore = "needs the device of a testbed node; rdma::what_only_iwarp_has_to_do_passes runs it there"]
fn reads_are_the_nics_and_atomics_the_targets_and_a_wrong_key_is_a_loss() {
    let [here, there] = tampered_by(SIW, Rank(1), |_| {}).map(Result::unwrap);
    let Capabilities { one_sided_by_nic, atomics_by_nic, .. } = here.capabilities();
    assert!(one_sided_by_nic && !atomics_by_nic);
    here.fetch_and_add(OperationId(1), Rank(1), 8, 5).unwrap();
    here.get(OperationId(2), Rank(1), 8, 8).unwrap();
    let (start, mut ended) = (Instant::now(), Vec::new());
    let poll = |ended: &mut Vec<_>| {
        here.poll(&mut |event| {
            let Event::Completed { id, outcome } = event else { panic!("{event:?}") };
            ended.push(match outcome {
                Outcome::Got(bytes) => (id, bytes.to_vec()),
                Outcome::Old(word) => (id, word.to_ne_bytes().to_vec()),
                Outcome::Put | Outcome::Refused => panic!("{id:?}: {outcome:?}"),
            });
        });
        assert!(start.elapsed() < LONG, "{ended:?}");
    };
    while ended.is_empty() {
        poll(&mut ended);
    }
    assert_eq!(ended, [(OperationId(2), vec![0; 8])], "before the target has looked");
    while ended.len() < 2 {
        there.poll(&mut |event| panic!("{event:?}"));
        poll(&mut ended);
    }
    assert_eq!(ended.last(), Some(&(OperationId(1), vec![0; 8])));
    drop((here, there));

    // The key to rank 1's segment.
    let [here, there] = tampered_by(SIW, Rank(1), |said| said.iter_mut().skip(52).take(1).for_each(|byte| *byte ^= 1))
        .map(Result::unwrap);
    here.put(OperationId(1), Rank(1), 0, &[1; 8]).unwrap();
    // By what the device says of its own work, at both ends; nobody's lifeline has ended.
    for end in [&here, &there] {
        let why = reason(end);
        assert!(why.starts_with("siw0: ") && why.contains(" (status "), "{why}");
    }
}

/// Whichever handle is the last one.
#[test]
#[ignore = "needs the device of a testbed node; rdma::what_only_iwarp_has_to_do_passes runs it there"]
fn identifiers_go_before_their_manager_whatever_is_dropped_first() {
    for first in 0..4 {
        let manager = Manager::new().unwrap();
        let counted = Arc::clone(manager.objects());
        let bound = || {
            let identifier = Identifier::new(&manager).unwrap();
            identifier.bind(SocketAddr::new(SIW, 0)).unwrap();
            identifier
        };
        let (listener, connection) = (bound(), bound());
        listener.listen(1).unwrap();
        let context = find_device(SIW).unwrap().context;
        let of_device = Arc::clone(context.objects());
        let domain = ProtectionDomain::new(&context).unwrap();
        let completions = CompletionQueue::new(&context, 32).unwrap();
        let depths = Depths { send: 8, receive: 8, inline: 0 };
        let (sends, receives) = QueuePair::create(&domain, &completions, depths).unwrap();
        drop((context, domain, completions));
        sends.queue_pair().keep(connection);
        assert_eq!(counted.live(), 3, "the manager, the listener and the queue pair's connection");
        let mut handles: Vec<Box<dyn Send>> =
            vec![Box::new(manager), Box::new(listener), Box::new(sends), Box::new(receives)];
        handles.rotate_left(first);
        for handle in handles {
            drop(handle);
            assert_eq!((counted.refused(), of_device.refused()), (0, 0), "handle {first} was dropped first");
        }
        assert_eq!((counted.live(), of_device.live()), (0, 0), "handle {first} was dropped first");
    }
}

/// For so long nothing gets through at all: less than a dropped endpoint waits, and more than it takes otherwise.
const QUIET: Duration = Duration::from_millis(200);

/// What is sent has ended as soon as TCP has it.
#[test]
#[ignore = "needs the device of a testbed node; rdma::what_only_iwarp_has_to_do_passes runs it there"]
fn an_endpoint_that_is_dropped_waits_until_the_peer_has_what_was_sent() {
    // The ranks are on one host.
    let link = |state| assert!(Command::new("ip").args(["link", "set", "lo", state]).status().unwrap().success());
    let [here, there] = tampered_by(SIW, Rank(1), |_| {}).map(Result::unwrap);
    here.poll(&mut |event| panic!("{event:?}"));
    link("down");
    let (start, before) = (Instant::now(), here.counts().completions);
    here.send(Rank(1), b"last words", &[]).unwrap();
    while here.counts().completions == before {
        here.poll(&mut |event| panic!("{event:?}"));
        assert!(start.elapsed() < LONG, "TCP does not take it");
    }
    let start = Instant::now();
    let waiting = thread::spawn(move || {
        drop(here);
        start.elapsed()
    });
    thread::sleep(QUIET);
    link("up");
    let waited = waiting.join().unwrap();
    let (mut words, mut lost) = (0, 0);
    while lost == 0 {
        there.poll(&mut |event| match event {
            Event::Message { header: b"last words", .. } => words += 1,
            Event::Lost { .. } => lost += 1,
            other @ (Event::Message { .. } | Event::Completed { .. }) => panic!("{other:?}"),
        });
        assert!(start.elapsed() < LONG, "the end of rank 0 is not told");
    }
    assert!(words == 1 && waited >= QUIET, "{words} messages have come, the end waited for {waited:?}");
}

#[test]
#[ignore = "needs the device of a testbed node; rdma::what_only_iwarp_has_to_do_passes runs it there"]
fn a_killed_process_a_stopped_one_and_a_pulled_link_are_known_as_they_are_over_roce() {
    assert_missed(SIW, "siw0");
    let ends = tampered_by(SIW, Rank(1), |_| {}).map(Result::unwrap);
    assert_link_missed(&ends, "iw0", SIW, "siw0");
}
