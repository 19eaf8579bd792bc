//! RDMA in a testbed node.

use std::env;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Segment, Transport, WordSegment};
use vincs_testbed::{End, Testbed};
use vincs_transport_rdma::endpoint::RdmaTransport;
use vincs_transport_rdma::fabric::{FabricConfig, connect};
use vincs_transport_tcp::endpoint::TcpTransport;
use vincs_transport_tcp::fabric::CONNECT_TIME;

use super::{boxed, connected};

/// The address of a node's `eth0`, on which its `rxe0` is.
pub(crate) const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 15));

/// Bounds a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(900);

/// Makes of a rank's TCP endpoints those over the device of the node.
pub(crate) fn over_tcp(
    rank: Rank,
    ranks: u16,
    segments: Vec<Option<Arc<dyn Segment>>>,
    ends: Vec<TcpTransport>,
) -> Vec<RdmaTransport> {
    let config = FabricConfig { rank, ranks, address: NODE, segments, connect_time: CONNECT_TIME };
    connect(&config, boxed(ends)).unwrap()
}

/// Over the soft-RoCE device of the node.
pub(crate) fn rxe(segments: &[Vec<Arc<WordSegment>>]) -> Vec<Vec<Box<dyn Transport>>> {
    let ranks = u16::try_from(segments.len()).unwrap();
    let lifelines = segments.iter().map(|classes| classes.iter().map(|_| None).collect()).collect();
    let words = segments.to_vec();
    connected(NODE, lifelines, move |rank, ends| {
        let segment = |segment: &Arc<WordSegment>| Some(Arc::clone(segment) as Arc<dyn Segment>);
        let segments = words[usize::from(rank.0)].iter().map(segment).collect();
        boxed(over_tcp(rank, ranks, segments, ends))
    })
}

/// Runs ignored tests of this program in a node, one after the other, with this before the command; they must all pass, and be as many.
fn passes_in_a_node(tests: &str, before: &str, count: usize) {
    let program = env::current_exe().unwrap();
    let script = format!("{before} '{}' --ignored --test-threads 1 {tests}", program.display());
    let output = Testbed { timeout: PATIENCE, ..Testbed::default() }.run(&script).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.end, End::Exited(0), "{said}\n{errors}\n{}", output.console_tail);
    assert!(said.contains(&format!("test result: ok. {count} passed")), "{said}\n{errors}");
}

#[test]
fn the_suite_passes_over_rxe() {
    passes_in_a_node("over_rxe::", "exec", 26);
}

#[test]
fn everything_else_passes_in_a_node() {
    passes_in_a_node("in_a_node::", "exec", 10);
}

/// Root may lock as much memory as it likes as long as it has that capability.
#[test]
fn a_limit_on_locked_memory_is_told_with_what_is_needed() {
    passes_in_a_node("with_little_locked_memory::", "ulimit -l 1024; exec setpriv --bounding-set=-ipc_lock", 1);
}

mod in_a_node;
mod with_little_locked_memory;
