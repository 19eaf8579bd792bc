//! What takes minutes on machines of several ranks: eight over RDMA, a minute of stress on 2, 4 and 8, builds on 4 and 8, and on 4 over RDMA, moves of vCPUs by the thousand. `make test-long` runs it, `make test` does
//! not: that has the same on fewer ranks (`cluster.rs`), or for a shorter time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking, in its helpers too")]

use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::Value;
use vincs_micro_guest::{Ranks, migrate_at_random};
use vincs_testbed::Testbed;
use vincs_tests::cases::{Case, Cases, assert_did, assert_stressed, native_build};

/// Bounds a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(3600);

static CASES: LazyLock<Cases> =
    LazyLock::new(|| Cases::run("long", &Testbed { timeout: PATIENCE, ..Testbed::default() }));

fn case(name: &str) -> Case {
    CASES.case(name, 0)
}

/// On this machine's own KVM.
#[test]
fn a_thousand_moves_at_random_are_not_noticed() {
    for (ranks, vcpus) in [(2, 4), (3, 3), (4, 8)] {
        for seed in 0..4 {
            let done = migrate_at_random(vcpus, &Ranks::new(ranks), 1000, seed, PATIENCE);
            let done = done.unwrap_or_else(|error| panic!("seed {seed}, {vcpus} vCPUs on {ranks} ranks: {error}"));
            let median = done.times[done.times.len() / 2];
            println!("seed {seed}, {vcpus} vCPUs on {ranks} ranks: {} moves, median {median:?}", done.times.len());
        }
    }
}

#[test]
fn eight_ranks_with_devices_are_one_machine_of_eight_processors() {
    let case = case("nproc-8");
    assert_eq!(case.stdout, "8\n", "{}", case.stderr);
    assert!(case.messages().is_empty(), "{}", case.stderr);
    let text = fs::read_to_string(CASES.folder().join("stats-nproc-8.json")).unwrap();
    let stats: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(stats["config"]["transport"], "rdma");
}

#[test]
fn two_ranks_stand_a_minute_of_stress() {
    let case = case("stress-2");
    assert_stressed(&case);
    assert_did(&case, "affinity");
}

#[test]
fn four_and_eight_ranks_stand_a_minute_of_stress() {
    for ranks in [4, 8] {
        assert_stressed(&case(&format!("stress-{ranks}")));
    }
}

#[test]
fn four_and_eight_ranks_build_what_a_native_build_makes() {
    let native = native_build();
    for ranks in ["4", "8", "4-rdma"] {
        let case = case(&format!("build-{ranks}"));
        for (file, bytes) in &native {
            assert!(
                &case.bytes(&format!("made/{file}")) == bytes,
                "{ranks} ranks: {file} differs from a native build's"
            );
        }
        assert!(!case.stderr.contains("Clock skew") && !case.stderr.contains("future"), "{}", case.stderr);
    }
}
