//! What only iWARP has to do: connections by the connection manager alone, for who was told the token, and atomics by the ranks.

use std::time::Instant;

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Capabilities, Event, OperationId, Outcome, Transport};
use vincs_transport_rdma::choose::GidType;
use vincs_transport_rdma::devices::survey;
use vincs_transport_rdma::fabric::ConnectError;

use super::in_a_node::{LONG, reason, tampered_by};
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
    for end in [&here, &there] {
        let why = reason(end);
        assert!(why.starts_with("siw0: ") || why.contains("10.0.5.1"), "{why}");
    }
}
