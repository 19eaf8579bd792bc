//! The guest's kernel and its modules.

use vincs_guest_image::cache::Cache;
use vincs_guest_image::kernel::{self, Kernel};
use vincs_guest_image::modules::{MACHINE_MODULES, ModuleTree};

use crate::doctor::Finding;

/// The kernel that vincs boots without `--kernel`.
fn found() -> Result<Kernel, String> {
    let cache = Cache::from_env().map_err(|error| error.to_string())?;
    kernel::find(None, None, &cache).map_err(|error| error.to_string())
}

/// There is a kernel to boot.
pub(super) fn kernel() -> Finding {
    match found() {
        Ok(kernel) => Finding::ok(format_args!("{}, release {}", kernel.image.display(), kernel.release)),
        Err(error) => Finding::fail(error, "or boot another one with --kernel"),
    }
}

/// The kernel's modules are there, and among them those that a guest needs.
pub(super) fn modules() -> Finding {
    let Ok(kernel) = found() else { return Finding::fail("not known", "see the guest-kernel line") };
    let needed = ModuleTree::open(&kernel.modules).and_then(|tree| tree.resolve(MACHINE_MODULES));
    match needed {
        Ok(needed) => Finding::ok(format_args!("{}, {} of them needed", kernel.modules.display(), needed.len())),
        Err(error) => Finding::fail(error, "or use another kernel with --kernel"),
    }
}
