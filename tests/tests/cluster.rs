//! Machines of two ranks, end to end: a stock Debian kernel in a testbed node, its processors and memory on ranks started by mpirun, srun and by
//! hand. All cases run in one node (`cluster/cases.sh` says what each does); the tests here look at what they gave. Needs the kernel in the cache and
//! the release binaries (`make test` sees to both), Open MPI, Slurm and stress-ng. `wide.rs` has machines of more ranks.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking, in its helpers too")]

use std::fs;
use std::sync::LazyLock;

use serde_json::Value;
use vincs_testbed::Testbed;
use vincs_tests::cases::{Case, Cases, END_TIME, PATIENCE, RANK_LOST, assert_built, assert_stressed};

static CASES: LazyLock<Cases> =
    LazyLock::new(|| Cases::run("cluster", &Testbed { timeout: PATIENCE, ..Testbed::default() }));

fn case(name: &str, status: i32) -> Case {
    CASES.case(name, status)
}

#[test]
fn a_machine_of_two_ranks_has_a_processor_of_each() {
    let case = case("ranks-2", 0);
    assert_eq!(case.stdout.lines().next(), Some("2"), "{}", case.stderr);
    assert!(case.messages().is_empty(), "{}", case.stderr);
}

#[test]
fn each_rank_is_a_node_with_its_processors_and_memory() {
    let case = case("ranks-2", 0);
    assert_eq!(case.line("nodes"), "0-1");
    let local_and_remote = |line: &str| {
        let words: Vec<u32> = line.split(' ').map(|word| word.parse().unwrap()).collect();
        (words[0], words[1], words[2])
    };
    let (cpu, local, remote) = local_and_remote(case.line("node0"));
    assert!(cpu == 0 && local == 10 && remote > local, "{}", case.line("node0"));
    let (cpu, remote, local) = local_and_remote(case.line("node1"));
    assert!(cpu == 1 && local == 10 && remote > local, "{}", case.line("node1"));
    let memory: Vec<u64> = ["memory0", "memory1"].iter().map(|node| case.line(node).parse().unwrap()).collect();
    // Half of 1 GiB each, in KiB, less what the kernel keeps.
    assert!(memory.iter().all(|kib| (400_000..=1 << 19).contains(kib)), "{memory:?}");
}

#[test]
fn processes_run_on_the_processors_of_both_ranks_by_one_clock() {
    let case = case("ranks-2", 0);
    assert!(case.stdout.contains("ran 0\nran 1\n"), "{}", case.stdout);
    assert_eq!(case.line("clock"), "tsc");
}

#[test]
fn two_ranks_build_what_a_native_build_makes() {
    assert_built(&case("ranks-2", 0));
}

#[test]
fn streams_and_the_status_come_through_mpirun() {
    let case = case("through", 3);
    assert_eq!(case.stdout, "same\n", "3 MB: {}", case.stderr);
    assert!(case.stderr.lines().any(|line| line == "apart"), "{}", case.stderr);
}

#[test]
fn srun_starts_ranks_with_pmix() {
    assert_eq!(case("srun", 3).stdout, "2\n");
}

#[test]
fn a_machine_of_two_ranks_stands_stress() {
    let case = case("rdma", 0);
    assert_stressed(&case);
    assert_eq!(transport("rdma"), "rdma");
}

#[test]
fn a_working_set_may_exceed_a_ranks_cache() {
    let case = case("small-cache", 0);
    assert_eq!(case.stdout, "cpu 1\npages 5120\nwrong 0\n");
}

/// What the statistics of this name say that the ranks were connected by.
fn transport(name: &str) -> String {
    CASES.stats(name)["config"]["transport"].as_str().unwrap().to_owned()
}

#[test]
fn ranks_with_devices_are_connected_by_rdma_without_a_word() {
    for (name, status) in [("rdma", 0), ("srun", 3)] {
        let case = case(name, status);
        assert_eq!(case.stdout.lines().next(), Some("2"), "{}", case.stderr);
        assert!(case.messages().is_empty(), "{}", case.stderr);
        assert_eq!(transport(name), "rdma");
    }
}

#[test]
fn a_machine_of_two_ranks_runs_over_iwarp() {
    let case = case("siw", 0);
    assert_eq!(case.stdout, "2\n", "{}", case.stderr);
    // Ranks use devices of the network interface that they are told to, and this one has no other.
    assert_eq!(transport("siw"), "rdma");
}

#[test]
fn pages_are_read_one_sidedly_over_rdma_and_by_message_over_tcp() {
    let counted = |name: &str, what: &str| CASES.stats(name)["machine"]["memory"]["protocol"][what].as_u64().unwrap();
    let [hits, misses, shown] = ["guarded_hits", "guarded_misses", "shown"].map(|what| counted("rdma", what));
    assert_eq!(counted("rdma", "guarded_reads"), hits + misses);
    assert!(hits > 0 && shown > 0, "{hits} hits, {misses} misses, {shown} pages shown");
    for name in ["2", "through"] {
        assert_eq!(["guarded_reads", "shown"].map(|what| counted(name, what)), [0; 2], "{name}");
    }
}

/// Bytes that two ranks lock for each other: the control channel, and the one of the only shard; and a window with a slot for one in 16 of the
/// pages of half of 512 MiB.
const LOCKED: &str = "25133056 bytes have to be locked";

/// The same for a machine that nobody has said the memory of: 1 GiB.
const LOCKED_BY_DEFAULT: &str = "42434560 bytes have to be locked";

#[test]
fn too_little_memory_that_may_be_locked_is_told_with_what_is_needed() {
    let refused = case("rdma-locked", 2);
    let line = refused.message();
    assert!(line.starts_with("--transport rdma: rank 0 on node0: ") && line.contains(LOCKED), "{}", refused.stderr);
    assert!(line.contains("the limit is 65536 bytes") && line.contains("ulimit -l"), "{}", refused.stderr);
    assert_eq!(refused.messages().len(), 1, "{}", refused.stderr);
    let fallen_back = case("through", 3);
    let [line] = fallen_back.messages()[..] else { panic!("not one line: {}", fallen_back.stderr) };
    assert!(line.starts_with("the ranks are connected by TCP, not by RDMA: rank 0 on node0: "), "{line}");
    assert!(line.contains(LOCKED), "{line}");
    assert_eq!(transport("through"), "tcp");
}

#[test]
fn the_doctor_tells_of_each_device() {
    let usable = case("rdma-doctor", 0).stdout;
    assert!(usable.starts_with("ok    rdma: port 1 of rxe0 is active: RoCE v2 at 10.0.2.15"), "{usable}");
    assert!(
        usable.contains("atomics") && usable.contains("queues for up to") && usable.lines().count() == 1,
        "{usable}"
    );
    let locked = case("rdma-doctor-locked", 1).stdout;
    assert!(locked.starts_with("warn  rdma: port 1 of rxe0 is active"), "{locked}");
    assert!(locked.contains(LOCKED_BY_DEFAULT), "{locked}");
}

#[test]
fn machines_that_cannot_be_are_refused() {
    let few = case("too-few-vcpus", 2);
    assert!(few.message().contains("--vcpus"), "{}", few.stderr);
    let other = case("other-arguments", 2);
    assert!(other.message().contains("--vcpus") && other.message().contains("rank 1"), "{}", other.stderr);
    let far = case("out-of-reach", 2);
    assert!(far.message().contains("--mem 2T") && far.message().contains("bits of address"), "{}", far.stderr);
    let shadow = case("without-nested-paging", 2);
    assert!(shadow.message().contains("kvm_amd.npt=0"), "{}", shadow.stderr);
    let doctor = case("without-nested-paging-doctor", 1).stdout;
    assert!(doctor.starts_with("warn  page-walks:") && doctor.contains("modprobe kvm_amd npt=1"), "{doctor}");
    for refused in [few, other, far, shadow] {
        assert_eq!(refused.messages().len(), 1, "one line, of one rank: {}", refused.stderr);
    }
}

#[test]
fn statistics_tell_what_the_ranks_did_each_and_together() {
    let stats = CASES.stats("2");
    let text = stats.to_string();
    assert_eq!((&stats["ending"], &stats["status"]), (&"exited".into(), &0.into()), "{text}");
    assert!(stats["times"]["kernel_entry_to_command"].as_f64() > Some(0.0), "{text}");
    let ranks = stats["ranks"].as_array().unwrap();
    assert_eq!(ranks.len(), 2, "{text}");
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value} is no number in {text}"));

    let sum = &stats["machine"]["memory"];
    let memories: Vec<&Value> = ranks.iter().map(|rank| &rank["ranks"]["memory"]).collect();
    for memory in memories.iter().copied().chain([sum]) {
        for kind in ["read_faults", "write_faults", "upgrade_faults"] {
            let latency = &memory[kind];
            assert!(number(&memory["protocol"][kind]) > 0 && number(&latency["count"]) > 0, "{kind} in {text}");
            assert!(number(&latency["median"]) <= number(&latency["max"]), "{kind} in {text}");
        }
        for (messages, bytes) in
            ["acquire", "grant"].map(|kind| (&memory["sent"][kind]["messages"], &memory["sent"][kind]["bytes"]))
        {
            assert!(number(messages) > 0 && number(bytes) > number(messages), "{text}");
        }
        assert!((1..=10).contains(&memory["hottest"].as_array().unwrap().len()), "the ten hottest pages: {text}");
    }
    for counter in ["read_faults", "write_faults", "invalidations", "recalls", "hold_waits", "evictions"] {
        let of_ranks: u64 = memories.iter().map(|memory| number(&memory["protocol"][counter])).sum();
        assert_eq!(number(&sum["protocol"][counter]), of_ranks, "{counter} in {text}");
    }
    assert!(number(&memories[0]["device_holds"]["count"]) > 0, "rank 0 has the devices: {text}");

    let kinds = |rank: &Value| -> Vec<String> {
        let sent = rank["ranks"]["control_sent"].as_array().unwrap().iter();
        sent.filter(|kind| number(&kind["messages"]) > 0).map(|kind| kind["kind"].to_string()).collect()
    };
    for rank in ranks {
        assert!(!kinds(rank).is_empty(), "interrupts and forwarded accesses: {text}");
        assert!(
            !rank["ranks"]["sampled_faults"].as_array().unwrap().is_empty(),
            "instructions that ran into faults: {text}"
        );
    }
}

#[test]
fn a_cache_within_its_limit_evicts() {
    let stats = CASES.stats("small-cache");
    let evictions = &stats["ranks"][1]["ranks"]["memory"]["protocol"]["evictions"];
    // 20 MiB are written and then read through 16 MiB, in order: every page goes, the first time and most of the second.
    assert!(evictions.as_u64() > Some(5120), "{stats}");
}

#[test]
fn ranks_that_are_killed_or_stopped_end_the_machine() {
    CASES.assert_lost("killed-1", 1, 128 + 9);
    CASES.assert_lost("stopped-0", 0, RANK_LOST);
    let case = case("stopped-under-mpirun", RANK_LOST);
    assert!(case.line("seconds").parse::<f64>().unwrap() < END_TIME, "{}", case.stdout);
    assert_eq!(case.line("left"), "0", "{}", case.stdout);
    assert_eq!(case.messages().len(), 1, "{}", case.stderr);
}

#[test]
fn strangers_change_nothing() {
    let folder = CASES.folder().join("killed-1");
    let said = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let (listening, connected) = (said("listening"), said("connected"));
    assert!(!listening.is_empty(), "rank 0 keeps its door open");
    assert!(listening.lines().all(|address| connected.contains(address)), "{listening} but {connected}");
    let ticks = fs::read_to_string(folder.join("ticks")).unwrap();
    assert!(ticks.trim().parse::<u32>().unwrap() >= 3, "{listening}: {ticks}");
}
