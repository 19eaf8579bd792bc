//! What takes minutes on machines of several ranks: eight over RDMA, a minute of stress on 2, 4 and 8, builds on 4 and 8, what `cluster.rs` has over TCP
//! alone over RDMA, moves of vCPUs by the thousand, more ways to lose a rank. `make test-long` runs it, `make test` does not: that has the same on fewer
//! ranks (`cluster.rs`), or for a shorter time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking, in its helpers too")]

use std::sync::LazyLock;

use vincs_micro_guest::{Ranks, migrate_at_random};
use vincs_testbed::Testbed;
use vincs_tests::cases::{Case, Cases, PATIENCE, RANK_LOST, assert_built, assert_did, assert_stressed};

// Three times as many cases as others have.
static CASES: LazyLock<Cases> =
    LazyLock::new(|| Cases::run("long", &Testbed { timeout: 3 * PATIENCE, ..Testbed::default() }));

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

/// Whether the ranks of a case were connected as its name says.
fn assert_transport(name: &str) {
    let expected = if name.ends_with("-rdma") { "rdma" } else { "tcp" };
    assert_eq!(CASES.stats(name)["config"]["transport"], expected, "{name}");
}

#[test]
fn eight_ranks_with_devices_are_one_machine_of_eight_processors() {
    let case = case("nproc-8");
    assert_eq!(case.stdout, "8\n", "{}", case.stderr);
    assert!(case.messages().is_empty(), "{}", case.stderr);
    assert_eq!(CASES.stats("nproc-8")["config"]["transport"], "rdma");
}

#[test]
fn two_four_and_eight_ranks_stand_a_minute_of_stress() {
    for name in ["stress-2", "stress-4", "stress-8", "stress-4-rdma"] {
        assert_stressed(&case(name));
        assert_transport(name);
    }
    assert_did(&case("stress-2"), "affinity");
}

#[test]
fn machines_of_several_ranks_build_what_a_native_build_makes() {
    for name in ["build-4", "build-8", "build-2-rdma", "build-4-rdma"] {
        assert_built(&case(name));
        assert_transport(name);
    }
}

#[test]
fn streams_and_the_status_come_through_over_rdma() {
    let case = CASES.case("through-rdma", 3);
    assert_eq!(case.stdout, "same\n", "3 MB: {}", case.stderr);
    assert!(case.stderr.starts_with("apart\n"), "{}", case.stderr);
}

#[test]
fn a_working_set_may_exceed_a_ranks_cache_over_rdma() {
    assert_eq!(case("small-cache-rdma").stdout, "cpu 1\npages 6144\nwrong 0\n");
    assert_transport("small-cache-rdma");
    let stats = CASES.stats("small-cache-rdma");
    let evictions = &stats["ranks"][1]["ranks"]["memory"]["protocol"]["evictions"];
    // 24 MiB are written twice and read once through 16 MiB, in order: every page goes each time.
    assert!(evictions.as_u64() > Some(6144), "{stats}");
}

#[test]
fn ranks_that_are_killed_or_stopped_end_the_machine() {
    CASES.assert_lost("killed-0", 0, 128 + 9);
    CASES.assert_lost("stopped-1", 1, RANK_LOST);
    CASES.assert_lost("rdma-killed-1", 1, 128 + 9);
    CASES.assert_lost("rdma-killed-0", 0, 128 + 9);
    CASES.assert_lost("rdma-stopped-0", 0, RANK_LOST);
    CASES.assert_lost("rdma-stopped-1", 1, RANK_LOST);
}

/// One word that both write is a race, also where each goes on to take a lock; one that they write under a lock is none.
#[test]
fn a_guests_races_are_told_with_their_place() {
    let case = case("races");
    assert_eq!(case.line("counted"), "2 of 2", "{}", case.stderr);
    let [race, end] = case.messages()[..] else { panic!("{}", case.stderr) };
    assert!(
        race.starts_with("race: ranks 0 and 1 have both written byte ") && race.contains(" of the device "),
        "{race}"
    );
    assert!(race.contains(&format!("offset {})", case.line("racy"))), "{race}: {}", case.stdout);
    assert_eq!(end, "races: 1 place");
}

#[test]
fn openmp_programs_as_they_are_have_their_arrays_on_two_ranks() {
    for program in ["omp_parallel_for", "omp_tasks", "omp_ordered"] {
        let case = case(program);
        let number = |counter: &str| case.line(&format!("{program} {counter}")).to_owned();
        // Each looks at its results itself.
        let found = ["status", "device", "ranks", "refused_allocations"].map(number);
        assert_eq!(found, ["0", "1", "2", "0"], "{program}: {}{}", case.stdout, case.stderr);
        assert!(!case.stderr.contains("libvincs_omp"), "{}", case.stderr);
    }
}
