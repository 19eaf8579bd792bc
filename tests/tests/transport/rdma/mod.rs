//! RDMA in a testbed node.

use std::env;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Segment, Transport, WordSegment};
use vincs_testbed::{End, Testbed};
use vincs_tests::cases::PATIENCE;
use vincs_transport_rdma::devices::find_device;
use vincs_transport_rdma::endpoint::RdmaTransport;
use vincs_transport_rdma::fabric::{FabricConfig, connect};
use vincs_transport_tcp::endpoint::TcpTransport;
use vincs_transport_tcp::fabric::CONNECT_TIME;

use super::{boxed, connected};

/// The address of a node's `eth0`, on which its `rxe0` is.
pub(crate) const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 15));

/// The address of its soft-iWARP device, which [`SIW_DEVICE`] makes.
const SIW: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 5, 1));

/// Makes it, and goes on.
const SIW_DEVICE: &str = concat!(include_str!("../../soft-iwarp.sh"), "exec");

/// Makes of a rank's TCP endpoints those over the device of the node.
pub(crate) fn over_tcp(
    rank: Rank,
    ranks: u16,
    segments: Vec<Option<Arc<dyn Segment>>>,
    ends: Vec<TcpTransport>,
) -> Vec<RdmaTransport> {
    over_device(NODE, rank, ranks, segments, ends)
}

/// The same over the device with this address.
pub(crate) fn over_device(
    address: IpAddr,
    rank: Rank,
    ranks: u16,
    segments: Vec<Option<Arc<dyn Segment>>>,
    ends: Vec<TcpTransport>,
) -> Vec<RdmaTransport> {
    let config = FabricConfig { rank, ranks, segments, connect_time: CONNECT_TIME };
    connect(&config, &find_device(address).unwrap(), boxed(ends)).unwrap()
}

/// Over the soft-RoCE device of the node.
pub(crate) fn rxe(segments: &[Vec<Arc<WordSegment>>]) -> Vec<Vec<Box<dyn Transport>>> {
    over(NODE, segments)
}

/// Over its soft-iWARP device.
pub(crate) fn siw(segments: &[Vec<Arc<WordSegment>>]) -> Vec<Vec<Box<dyn Transport>>> {
    over(SIW, segments)
}

fn over(address: IpAddr, segments: &[Vec<Arc<WordSegment>>]) -> Vec<Vec<Box<dyn Transport>>> {
    let ranks = u16::try_from(segments.len()).unwrap();
    let lifelines = segments.iter().map(|classes| classes.iter().map(|_| None).collect()).collect();
    let words = segments.to_vec();
    connected(address, lifelines, move |rank, ends| {
        let segment = |segment: &Arc<WordSegment>| Some(Arc::clone(segment) as Arc<dyn Segment>);
        let segments = words[usize::from(rank.0)].iter().map(segment).collect();
        boxed(over_device(address, rank, ranks, segments, ends))
    })
}

/// What the ignored tests of this program that are named so, with this before the command, say in a node, one after the other; and the status.
const RUNS: [(&str, &str); 7] = [
    ("over_rxe::", "exec"),
    ("in_a_node::", "exec"),
    ("at_the_limits::", "exec"),
    ("in_windows::", "exec"),
    // Root may lock as much memory as it likes as long as it has that capability.
    ("over_siw::", SIW_DEVICE),
    ("soft_iwarp::", SIW_DEVICE),
    ("with_little_locked_memory::", "ulimit -l 1024; exec setpriv --bounding-set=-ipc_lock"),
];

/// All of them in one node.
static RAN: LazyLock<String> = LazyLock::new(|| {
    let program = env::current_exe().unwrap();
    let run = |(tests, before): (&str, &str)| {
        format!(
            "({before} '{}' --ignored --test-threads 1 {tests} 2>&1); echo \"{tests} ended with $?\"\n",
            program.display()
        )
    };
    let script: String = RUNS.into_iter().map(run).collect();
    let output = Testbed { timeout: PATIENCE, ..Testbed::default() }.run(&script).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.end, End::Exited(0), "{said}\n{}", output.console_tail);
    said
});

/// That these tests have passed in the node, and are as many.
fn passed(tests: &str, count: usize) {
    let (said, _) = RAN.split_once(&format!("{tests} ended with 0\n")).unwrap_or_else(|| panic!("{}", *RAN));
    let said = said.rsplit(" ended with ").next().unwrap();
    assert!(said.contains(&format!("test result: ok. {count} passed")), "{said}");
}

#[test]
fn the_suite_passes_over_rxe() {
    passed("over_rxe::", 32);
}

#[test]
fn the_suite_passes_over_siw() {
    passed("over_siw::", 32);
}

#[test]
fn what_only_iwarp_has_to_do_passes() {
    passed("soft_iwarp::", 6);
}

#[test]
fn everything_else_passes_in_a_node() {
    passed("in_a_node::", 10);
}

#[test]
fn full_queues_and_foreign_objects_are_refused() {
    passed("at_the_limits::", 5);
}

#[test]
fn clean_pages_are_read_in_windows() {
    passed("in_windows::", 1);
}

#[test]
fn a_limit_on_locked_memory_is_told_with_what_is_needed() {
    passed("with_little_locked_memory::", 1);
}

mod at_the_limits;
mod in_a_node;
mod in_windows;
mod soft_iwarp;
mod with_little_locked_memory;
