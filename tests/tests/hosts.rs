//! Machines over two hosts, end to end: two testbed nodes, each with a kernel, a counter and a network card of its own, and a rank on each. All cases run in
//! one pair of nodes (`hosts/cases.sh` says what each does); the tests here look at what they gave. `cluster.rs` has machines whose ranks share a host.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking, in its helpers too")]

use std::sync::LazyLock;

use vincs_testbed::Testbed;
use vincs_tests::cases::{Case, Cases, END_TIME, PATIENCE, RANK_LOST};

/// Exit status of a rank of a machine that could not be started.
const REFUSED: i32 = 2;

/// The transports that cases.sh has machines of.
const TRANSPORTS: [&str; 2] = ["tcp", "rdma"];

static CASES: LazyLock<Cases> = LazyLock::new(|| {
    // Two nodes of half the usual memory take no more of this machine than one.
    let testbed = Testbed { hosts: 2, memory: 2 << 30, timeout: PATIENCE, ..Testbed::default() };
    Cases::run("hosts", &testbed)
});

fn case(name: &str) -> Case {
    CASES.case(name, 0)
}

/// A rank's status, and how many seconds after the case's event it ended; no process of it is left.
fn ended(case: &Case, rank: u32) -> (i32, f64) {
    assert_eq!(case.line(&format!("left{rank}")), "0", "processes: {}", case.stdout);
    let line = case.line(&format!("rank{rank}"));
    let (status, seconds) = line.split_once(' ').unwrap_or_else(|| panic!("rank {rank} {line}: {}", case.stderr));
    (status.parse().unwrap(), seconds.parse().unwrap())
}

/// The one line that a rank said.
fn said(case: &Case, rank: u32) -> String {
    let text = String::from_utf8(case.bytes(&format!("stderr.{rank}"))).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let [line] = lines[..] else { panic!("rank {rank} did not say one line: {}", case.stderr) };
    line.strip_prefix("vincs: ").unwrap_or_else(|| panic!("{line}")).to_owned()
}

#[test]
fn a_machine_of_two_hosts_has_a_processor_of_each() {
    let case = case("rdma-nproc");
    assert_eq!(case.stdout, "2\n", "{}", case.stderr);
    assert!(case.messages().is_empty(), "{}", case.stderr);
    let stats = CASES.stats("rdma");
    assert_eq!(stats["config"]["transport"], "rdma", "{stats}");
    assert_eq!(stats["config"]["hosts"], serde_json::json!(["node0", "node1"]), "{stats}");
    assert_eq!(stats["ranks"].as_array().map(Vec::len), Some(2), "{stats}");
}

#[test]
fn hosts_that_do_not_reach_each_other_are_told() {
    for transport in TRANSPORTS {
        for (name, address) in [("other-network", "10.0.2.15"), ("down-before", "10.0.3.1")] {
            let name = format!("{transport}-{name}");
            let case = case(&name);
            for rank in [0, 1] {
                assert_eq!(ended(&case, rank).0, REFUSED, "{name}: rank {rank}: {}", case.stderr);
            }
            let line = said(&case, 1);
            assert!(line.contains("rank 1 on node1: rank 0 on node0") && line.contains(address), "{name}: {line}");
            // Rank 0 knows that the other is missing, and no more.
            assert!(said(&case, 0).contains("rank 1 of 2 did not come to rank 0 on node0"), "{}", case.stderr);
        }
    }
}

/// Whether the guest had a processor of each host, and ran, before its machine lost a rank.
fn assert_ran(case: &Case) {
    let said = String::from_utf8(case.bytes("stdout.0")).unwrap();
    assert!(said.starts_with("2\ntick 0\n"), "the guest did not run: {said}{}", case.stderr);
}

/// A machine that ran and lost the other rank, as each of these ranks says in one line; it ended in time.
fn lost(name: &str, ranks: &[u32]) -> Case {
    let case = case(name);
    assert_ran(&case);
    for &rank in ranks {
        let (status, seconds) = ended(&case, rank);
        assert_eq!(status, RANK_LOST, "{name}: rank {rank}: {}", case.stderr);
        assert!(seconds < END_TIME, "{name}: rank {rank} ended after {seconds} s");
        let line = said(&case, rank);
        let other = 1 - rank;
        assert!(line.contains(&format!("rank {other} on node{other} is lost")), "{name}: {line}");
    }
    case
}

#[test]
fn ranks_that_are_killed_on_one_host_end_the_machine() {
    let case = lost("tcp-killed", &[0]);
    assert_eq!(ended(&case, 1).0, 128 + 9);
}

#[test]
fn hosts_whose_network_is_cut_end_the_machine_each() {
    lost("rdma-cut", &[0, 1]);
}

#[test]
fn a_host_that_is_powered_off_ends_the_machine() {
    lost("tcp-powered-off", &[0]);
}
