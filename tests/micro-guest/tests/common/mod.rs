//! What the tests share.

use std::io::{Write, stderr};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vincs_vmm::kvm::DEFAULT_KVM_PATH;

/// Time for one run; each takes a second or less on an idle machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// One machine at a time: the runs measure time, and there may be fewer processors than vCPUs.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A turn to run machines, or none without KVM. A test that is skipped says so past the test runner's capture, because it
/// has shown nothing.
pub(crate) fn turn(test: &str) -> Option<MutexGuard<'static, ()>> {
    if Path::new(DEFAULT_KVM_PATH).exists() {
        return Some(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner));
    }
    let reason = format!("\n*** SKIPPED, NOT DONE: {test}: there is no {DEFAULT_KVM_PATH} on this machine ***\n");
    stderr().write_all(reason.as_bytes()).unwrap();
    None
}
