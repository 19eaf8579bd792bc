//! Tests of the whole workspace, each a file in `tests/`: `crate_edges`, `style` and `documents` look at the sources, `boot` and `cluster` run
//! vincs in the testbed, `transport` runs the suite of [`conformance`] for each transport. What they share is here.

use std::path::{Path, PathBuf};

pub mod cases;
pub mod conformance;

/// The root of the workspace.
#[must_use]
pub fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}
