//! Machines of 4 and 8 ranks, end to end, as `cluster.rs` has those of 2, and one of 2 with relaxed memory. The ranks share the one processor of the
//! emulated node. What takes minutes on them is in `long.rs`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking, in its helpers too")]

use std::sync::LazyLock;

use serde_json::Value;
use vincs_testbed::Testbed;
use vincs_tests::cases::{Cases, PATIENCE};

static CASES: LazyLock<Cases> =
    LazyLock::new(|| Cases::run("wide", &Testbed { timeout: PATIENCE, ..Testbed::default() }));

#[test]
fn a_machine_of_several_ranks_has_a_processor_for_each() {
    for ranks in [4, 8] {
        let case = CASES.case(&format!("ranks-{ranks}"), 0);
        assert_eq!(case.stdout, format!("{ranks}\n"));
        assert!(case.messages().is_empty(), "{}", case.stderr);
    }
}

#[test]
fn programs_on_two_ranks_share_relaxed_memory_also_after_one_has_died_with_a_lock() {
    let case = CASES.case("relaxed", 0);
    for line in [" Total threads   =                        2", " VERIFICATION SUCCESSFUL", "died 137", "device 1"] {
        assert!(case.stdout.lines().any(|said| said == line), "{line:?}: {}{}", case.stdout, case.stderr);
    }
    // What the library's own program finds, whose members are on both processors: so on both ranks.
    for line in ["processors 0 1", "counted 2", "sum 333328333350000", "misuse 10 9 8"] {
        assert!(case.stdout.lines().any(|said| said == line), "{line:?}: {}{}", case.stdout, case.stderr);
    }
    // The first thread's writes are the team's and the other way round, as it is kept on its rank.
    assert!(case.stdout.lines().any(|said| said == "stays on 1 of 2, 0 wrong"), "{}{}", case.stdout, case.stderr);
    // Devices do not reach it, which is told to who asks for that, and the devices go on.
    let files = "files: Bad address, Bad address; 12288 bytes, right";
    assert!(case.stdout.lines().any(|said| said == files), "{}{}", case.stdout, case.stderr);
    assert!(!case.stderr.contains("before all had"), "{}", case.stderr);
    // Each rank in its turn takes a lock a hundred thousand times, for which it has no word with vincs.
    assert!(case.stdout.lines().any(|said| said == "lent 200020"), "{}{}", case.stdout, case.stderr);
    let stats = CASES.stats("relaxed");
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    for rank in [0, 1] {
        let relaxed = &stats["ranks"][rank]["ranks"]["relaxed"];
        let traffic = &relaxed["traffic"];
        assert!((1001..50_000).contains(&number(&relaxed["commands"])), "rank {rank}: {relaxed}");
        assert!(number(&relaxed["faults"]) > 10 && number(&relaxed["synchronising"]) > 0, "rank {rank}: {relaxed}");
        assert!(number(&traffic["bytes_got"]) > 4096 && number(&traffic["bytes_put"]) > 4096, "rank {rank}: {relaxed}");
    }
    let both: u64 = [0, 1].map(|rank| number(&stats["ranks"][rank]["ranks"]["relaxed"]["commands"])).iter().sum();
    assert_eq!(number(&stats["machine"]["relaxed"]["commands"]), both);
}

#[test]
fn openmp_programs_as_they_are_have_their_arrays_on_two_ranks() {
    let case = CASES.case("relaxed", 0);
    let number = |program: &str, counter: &str| {
        let line = format!("omp_{program} {counter}");
        case.line(&line).parse::<u64>().unwrap_or_else(|_| panic!("{line}: {}{}", case.stdout, case.stderr))
    };
    // Each looks at its results itself.
    for program in ["reduction", "critical"] {
        assert_eq!(number(program, "status"), 0, "{program}: {}{}", case.stdout, case.stderr);
        let [device, ranks, refused] =
            ["device", "ranks", "refused_allocations"].map(|counter| number(program, counter));
        assert_eq!((device, ranks, refused), (1, 2, 0), "{program} is not on both ranks: {}", case.stdout);
        assert!(number(program, "large_allocations") > 0 && number(program, "implicit_tasks") > 2, "{}", case.stdout);
    }
    assert_eq!(number("critical", "mutexes_released"), 2 * 6 * 2);
    assert!(number("reduction", "reduction_ends") > 0, "{}", case.stdout);
    assert!(!case.stderr.contains("libvincs_omp"), "{}", case.stderr);
}

#[test]
fn relaxed_memory_that_ranks_cannot_share_is_refused() {
    let [rdma, small] = ["relaxed-rdma", "relaxed-small"].map(|name| CASES.case(name, 2).stderr);
    assert!(rdma.contains("--relaxed on several ranks goes over TCP only"), "{rdma}");
    assert!(small.contains("--relaxed 2M: on 2 ranks it has at least 4M"), "{small}");
}
