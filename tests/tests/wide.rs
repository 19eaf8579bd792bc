//! Machines of 4 and 8 ranks, end to end, as `cluster.rs` has those of 2. The ranks share the one processor of the emulated
//! node, so each thing is done on 4 or on 8, whichever is quicker to show it.
//! `cargo test --package vincs-tests --test wide -- --ignored` runs them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking, in its helpers too")]

use std::sync::LazyLock;
use std::time::Duration;

use vincs_testbed::Testbed;
use vincs_tests::cases::{Case, Cases, assert_stressed, native_build};

/// Bounds a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(3600);

static CASES: LazyLock<Cases> =
    LazyLock::new(|| Cases::run("wide", &Testbed { timeout: PATIENCE, ..Testbed::default() }));

fn case(name: &str) -> Case {
    CASES.case(name, 0)
}

#[test]
#[ignore = "all together take ten minutes and more, too long beside the rest of CI"]
fn a_machine_of_several_ranks_has_a_processor_for_each() {
    for ranks in [4, 8] {
        let case = case(&format!("ranks-{ranks}"));
        assert_eq!(case.stdout, format!("{ranks}\n"));
        assert!(case.messages().is_empty(), "{}", case.stderr);
    }
}

#[test]
#[ignore = "all together take ten minutes and more, too long beside the rest of CI"]
fn eight_ranks_build_what_a_native_build_makes() {
    let case = case("build-8");
    for (file, bytes) in &native_build() {
        assert!(&case.bytes(&format!("made/{file}")) == bytes, "{file} differs from a native build's");
    }
    assert!(!case.stderr.contains("Clock skew") && !case.stderr.contains("future"), "{}", case.stderr);
}

#[test]
#[ignore = "all together take ten minutes and more, too long beside the rest of CI"]
fn four_ranks_stand_stress() {
    assert_stressed(&case("stress-4"));
}
