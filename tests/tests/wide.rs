//! Machines of 4 and 8 ranks, end to end, as `cluster.rs` has those of 2. They are not part of `make test`: the ranks share the one processor of the
//! emulated node, and a machine of 8 takes minutes to start. `cargo test --package vincs-tests --test wide -- --ignored` runs them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking, in its helpers too")]

use std::sync::LazyLock;
use std::time::Duration;

use vincs_testbed::Testbed;
use vincs_tests::cases::{Case, Cases, native_build};

/// Bounds a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(3600);

static CASES: LazyLock<Cases> =
    LazyLock::new(|| Cases::run("wide", &Testbed { timeout: PATIENCE, ..Testbed::default() }));

fn case(name: &str) -> Case {
    CASES.case(name, 0)
}

#[test]
#[ignore = "takes longer than CI may: 8 ranks on the one processor of the emulated node start in minutes"]
fn a_machine_of_several_ranks_has_a_processor_for_each() {
    for ranks in [4, 8] {
        let case = case(&format!("ranks-{ranks}"));
        assert_eq!(case.stdout, format!("{ranks}\n"));
        assert!(case.messages().is_empty(), "{}", case.stderr);
    }
}

#[test]
#[ignore = "takes longer than CI may: 8 ranks on the one processor of the emulated node start in minutes"]
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
