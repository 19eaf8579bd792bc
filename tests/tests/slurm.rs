//! A real Slurm of four nodes on this machine drives machines that run the micro-guest on this machine's own KVM, by the scripts of `slurm/` as they
//! are. `slurm/cases.sh` says what each case does; the tests here look at what they gave. Needs root, for namespaces and Slurm, and the release
//! binaries. `elastic.rs` has the same with Linux in the testbed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking, in its helpers too")]

use std::fs;
use std::io::{Write, stderr};
use std::path::Path;
use std::sync::LazyLock;

use vincs_micro_guest::{PAYLOAD, Program, Report};
use vincs_tests::cases::{Case, Cases};
use vincs_vmm::kvm::DEFAULT_KVM_PATH;

/// The guest's program, as `cases.sh` asks for it.
const WORK: Program = Program::Work { megabytes: 1, steps: 100_000, seed: 7 };

const VCPUS: u32 = 4;

/// Nothing where the cases cannot be run, which is said past the test runner's capture.
static CASES: LazyLock<Option<Cases>> = LazyLock::new(|| {
    let missing = if !Path::new(DEFAULT_KVM_PATH).exists() {
        format!("there is no {DEFAULT_KVM_PATH} on this machine")
    } else if !rustix::process::geteuid().is_root() {
        "it needs root, for namespaces and for Slurm's nodes".to_owned()
    } else {
        let dir = tempfile::tempdir().unwrap();
        let guest = dir.path().join("micro-guest");
        fs::write(&guest, PAYLOAD).unwrap();
        return Some(Cases::run_here("slurm", &[&guest]));
    };
    let reason = format!("\n*** SKIPPED, NOT DONE: machines under Slurm: {missing} ***\n");
    stderr().write_all(reason.as_bytes()).unwrap();
    None
});

fn case(name: &str) -> Option<Case> {
    CASES.as_ref().map(|cases| cases.case(name, 0))
}

/// What the guest said at its end: each processor did its work, and all of it came out right.
fn assert_unbroken(case: &Case) {
    let Report::Work { rounds } = Report::from_serial(WORK, VCPUS, &case.stdout).unwrap() else {
        panic!("another report")
    };
    assert!(rounds.iter().all(|rounds| *rounds > 0), "{rounds:?}");
}

#[test]
fn a_job_is_a_machine_of_its_nodes() {
    let Some(case) = case("start") else { return };
    let status = String::from_utf8(case.bytes("stage-started")).unwrap();
    assert!(status.contains("4 virtual processors and 128 MiB on 2 ranks over tcp"), "{status}");
    assert!(status.contains("rank 0 on n1: 0-1\nrank 1 on n2: 2-3\n"), "{status}");
    assert_eq!(case.line("job"), "COMPLETED 0:0", "{}", case.stdout);
    assert_unbroken(&case);
}

#[test]
fn a_machine_grows_and_shrinks_as_jobs_come_and_go() {
    let Some(case) = case("elastic") else { return };
    for (stage, ranks) in
        [("started", 2), ("grown", 3), ("grown-again", 4), ("shrunk", 3), ("preempted", 2), ("founder-left", 1)]
    {
        let status = String::from_utf8(case.bytes(&format!("stage-{stage}"))).unwrap();
        assert!(
            status.contains(&format!("{VCPUS} virtual processors and 128 MiB on {ranks} ranks")),
            "{stage}: {status}"
        );
    }
    assert_eq!(case.line("first"), "job COMPLETED 0:0", "{}", case.stdout);
    assert_eq!(case.line("second"), "job COMPLETED 0:0", "{}", case.stdout);
    assert!(case.line("preempted").starts_with("20"), "a time: {}", case.stdout);
    assert_eq!(case.line("other"), "job COMPLETED 0:0", "{}", case.stdout);
    assert_eq!(case.line("job"), "COMPLETED 0:0", "{}", case.stdout);
    assert_unbroken(&case);
}

#[test]
fn a_second_machine_of_the_same_name_is_refused_and_changes_nothing() {
    let Some(case) = case("start") else { return };
    assert_eq!(case.line("second"), "job FAILED 2:0", "{}", case.stdout);
    let line = case.line("vincs: rank 0 on n1:");
    assert!(line.contains("vincs-machine.address") && line.contains("in use"), "{line}");
}

#[test]
fn a_job_that_is_put_back_starts_its_machine_again() {
    let Some(case) = case("requeue") else { return };
    assert_eq!(case.line("restarts"), "1");
    assert!(case.stdout.contains("restart 1 of job"), "{}", case.stdout);
    assert_eq!(case.line("job"), "COMPLETED 0:0", "{}", case.stdout);
    assert_unbroken(&case);
}

#[test]
fn the_epilog_ends_what_is_left_of_a_job() {
    let Some(case) = case("leftover") else { return };
    assert!(case.stdout.starts_with("left 1\n") && case.stdout.ends_with("left 0\n"), "{}", case.stdout);
}

#[test]
fn a_node_that_cannot_be_a_rank_is_drained_by_the_prolog() {
    let Some(case) = case("prolog") else { return };
    assert_eq!(case.line("node"), "drain");
    assert!(case.stdout.contains("no check is named no-such-check"), "{}", case.stdout);
}

#[test]
fn what_is_no_rank_is_not_removed() {
    let Some(case) = case("bad-input") else { return };
    let answers: Vec<_> = case.stdout.split_terminator("status 2\n").collect();
    let [none, word, dead, other, no_node, empty_node, seconds, rest] = answers[..] else { panic!("{}", case.stdout) };
    let expected = [
        (none, "give jobs"),
        (word, "x is no number"),
        (dead, "4000000 does not run"),
        (other, "is named other"),
        (no_node, "the name of one node"),
        (empty_node, "on node n1"),
        (seconds, "VINCS_LEAVE_SECONDS=soon"),
    ];
    for (answer, part) in expected {
        assert!(answer.starts_with("remove-rank.sh: ") && answer.lines().count() == 1, "{answer}");
        assert!(answer.contains(part), "{answer}");
    }
    // How the job ends depends on whether its process or the node is the first to say so.
    assert!(rest.starts_with("still RUNNING\njob CANCELLED "), "{rest}");
}
