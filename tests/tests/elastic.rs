//! A machine of Linux that grows and shrinks as a real Slurm's jobs come and go, in a testbed node: `sbatch` starts it on two ranks,
//! `sbatch slurm/add-rank.sh` adds one and another, `scancel -s TERM` takes the first of them away, preemption the second, and `vincs ctl
//! remove` one of the two that started it, while every virtual processor works. `elastic/cases.sh` says how; `slurm.rs` has the same
//! natively.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking, in its helpers too")]

use std::sync::LazyLock;

use vincs_testbed::Testbed;
use vincs_tests::cases::{Case, Cases, PATIENCE};

/// Virtual processors of the machine.
const VCPUS: u64 = 4;

static CASE: LazyLock<(Cases, Case)> = LazyLock::new(|| {
    let cases = Cases::run("elastic", &Testbed { timeout: PATIENCE, ..Testbed::default() });
    let case = cases.case("elastic", 0);
    (cases, case)
});

/// What `work.sh` comes to.
fn sums(seed: u64) -> u64 {
    (0..2000).fold(seed, |sum, _| (sum * 1_103_515_245 + 12_345) & 0x7fff_ffff)
}

#[test]
fn the_guests_work_is_unbroken() {
    let (_, case) = &*CASE;
    assert_eq!(case.line("machine"), "job COMPLETED 0:0", "{}", case.stdout);
    for processor in 0..VCPUS {
        let line = case.line(&format!("processor {processor} rounds"));
        let (rounds, sum) = line.split_once(" sum ").unwrap();
        assert!(rounds.parse::<u64>().unwrap() > 0, "{}", case.stdout);
        assert_eq!(sum.parse::<u64>().unwrap(), sums(processor), "{}", case.stdout);
    }
}

#[test]
fn the_status_shows_each_stage() {
    let (_, case) = &*CASE;
    for (stage, ranks) in
        [("started", 2), ("grown", 3), ("grown-again", 4), ("shrunk", 3), ("preempted", 2), ("founder-left", 1)]
    {
        let status = String::from_utf8(case.bytes(&format!("stage-{stage}"))).unwrap();
        assert!(
            status.contains(&format!("{VCPUS} virtual processors and 512 MiB on {ranks} ranks")),
            "{stage}: {status}"
        );
    }
}

#[test]
fn ranks_that_leave_end_well() {
    let (_, case) = &*CASE;
    assert_eq!(case.line("first"), "job COMPLETED 0:0", "{}", case.stdout);
    assert_eq!(case.line("second"), "job COMPLETED 0:0", "{}", case.stdout);
    assert!(case.line("preempted").starts_with("20"), "a time: {}", case.stdout);
    assert_eq!(case.line("other"), "job COMPLETED 0:0", "{}", case.stdout);
}
