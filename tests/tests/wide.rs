//! Machines of 4 and 8 ranks, end to end, as `cluster.rs` has those of 2. The ranks share the one processor of the emulated
//! node.

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
fn a_machine_of_several_ranks_has_a_processor_for_each() {
    for ranks in [4, 8] {
        let case = case(&format!("ranks-{ranks}"));
        assert_eq!(case.stdout, format!("{ranks}\n"));
        assert!(case.messages().is_empty(), "{}", case.stderr);
    }
}

#[test]
fn several_ranks_build_what_a_native_build_makes() {
    let native = native_build();
    for ranks in [4, 8] {
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

#[test]
fn several_ranks_stand_stress() {
    for ranks in [4, 8] {
        assert_stressed(&case(&format!("stress-{ranks}")));
    }
}
