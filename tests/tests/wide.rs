//! Machines of 4 and 8 ranks, end to end, as `cluster.rs` has those of 2. The ranks share the one processor of the emulated node. What takes
//! minutes on them is in `long.rs`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking, in its helpers too")]

use std::time::Duration;

use vincs_testbed::Testbed;
use vincs_tests::cases::Cases;

/// Bounds a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(900);

#[test]
fn a_machine_of_several_ranks_has_a_processor_for_each() {
    let cases = Cases::run("wide", &Testbed { timeout: PATIENCE, ..Testbed::default() });
    for ranks in [4, 8] {
        let case = cases.case(&format!("ranks-{ranks}"), 0);
        assert_eq!(case.stdout, format!("{ranks}\n"));
        assert!(case.messages().is_empty(), "{}", case.stderr);
    }
}
