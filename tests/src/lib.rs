//! Tests of the whole workspace, each a file in `tests/`: `crate_edges`, `style` and `documents` look at the sources, `boot` and `cluster` run
//! vincs in the testbed. What they share is here.

pub mod cases;

use std::path::{Path, PathBuf};

/// The root of the workspace.
#[must_use]
pub fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}
