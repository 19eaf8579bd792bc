//! Every kernel on processes, in relaxed and in strict memory, against the published values.

#![expect(clippy::unwrap_used, reason = "a program that does not start fails the test")]

use std::process::{Command, Output};

fn npb(line: &str) -> Output {
    npb_with("", line)
}

/// With a value of the variable by which races are looked for.
fn npb_with(race_check: &str, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_npb"));
    command.args(line.split_whitespace()).env("VINCS_RACE_CHECK", race_check).output().unwrap()
}

/// The report of a run that is verified.
fn verified(line: &str) -> String {
    let output = npb(line);
    let (printed, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{line}: {printed}{told}");
    assert!(printed.ends_with("VERIFICATION SUCCESSFUL\n") && told.is_empty(), "{line}: {printed}{told}");
    printed.into_owned()
}

#[test]
fn kernels_are_verified_on_two_ranks_with_relaxed_memory() {
    for kernel in ["ep", "is", "cg", "mg", "ft", "bt", "lu"] {
        let printed = verified(&format!("{kernel} S --ranks 2"));
        assert!(printed.contains("\n Memory          =                  relaxed\n"), "{printed}");
        assert!(printed.contains("\n Total processes =                        2\n"), "{printed}");
        let costs = printed.lines().find_map(|line| line.strip_prefix(" Rank 0          = ")).unwrap();
        assert!(!costs.starts_with("0 messages"), "{kernel}: {costs}");
    }
}

#[test]
fn kernels_are_verified_on_one_rank_and_on_three() {
    for kernel in ["is", "cg", "mg"] {
        verified(&format!("{kernel} S --ranks 1"));
        verified(&format!("{kernel} S --ranks 3"));
    }
}

#[test]
fn kernels_are_verified_on_two_ranks_with_strict_memory() {
    for kernel in ["ep", "cg", "mg"] {
        let printed = verified(&format!("{kernel} S --ranks 2 --memory strict"));
        assert!(printed.contains("\n Memory          =                   strict\n"), "{printed}");
    }
}

#[test]
fn a_rank_that_nobody_has_started_says_so() {
    let output = npb("--rank-of-a-team cg S --ranks 2");
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.starts_with("npb: a rank of a team is started by rank 0 only") && told.lines().count() == 1, "{told}");
}

#[test]
fn kernels_have_no_races_and_run_as_ever_where_they_are_looked_for() {
    for kernel in ["is", "cg", "mg"] {
        let output = npb_with("1", &format!("{kernel} S --ranks 2"));
        let (printed, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(printed.ends_with("VERIFICATION SUCCESSFUL\n"), "{kernel}: {printed}{told}");
        assert_eq!(told, "npb: races: none was found between ranks\n", "{kernel}");
    }
}

#[test]
fn a_wrong_variable_is_refused_in_one_line() {
    let output = npb_with("yes", "cg S --ranks 2");
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.starts_with("npb: VINCS_RACE_CHECK=\"yes\" is neither 1,") && told.lines().count() == 1, "{told}");
}
