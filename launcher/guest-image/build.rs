//! Builds the guest's first program, so that it can be embedded: static, because the guest's root may hold any C library
//! or none, and for size, because it is copied into every guest.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "vincs-guest-init";
const BINARY: &str = "vincs-init";
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// A profile of the workspace.
const PROFILE: &str = "guest";
/// Cargo marks the root of a target folder with this file.
const TARGET_ROOT_MARK: &str = "CACHEDIR.TAG";

fn main() -> Result<(), Box<dyn Error>> {
    let variable = |name| env::var_os(name).map(PathBuf::from).ok_or(format!("cargo did not set {name}"));
    let out = variable("OUT_DIR")?;
    let workspace = variable("CARGO_MANIFEST_DIR")?.join("../..");
    for source in ["launcher/guest-init", "launcher/guest-protocol", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    println!("cargo::rerun-if-changed=build.rs");

    // A target folder of its own, because cargo holds the lock of the outer one now; one for all outer profiles.
    let target_dir =
        out.ancestors().find(|folder| folder.join(TARGET_ROOT_MARK).is_file()).unwrap_or(&out).join("guest");
    build(&variable("CARGO")?, &workspace, &target_dir)?;
    std::fs::copy(target_dir.join(TARGET).join(PROFILE).join(BINARY), out.join(BINARY))?;
    Ok(())
}

fn build(cargo: &Path, workspace: &Path, target_dir: &Path) -> Result<(), Box<dyn Error>> {
    let status = Command::new(cargo)
        .current_dir(workspace)
        .args(["build", "--quiet", "--locked", "--package", PACKAGE, "--bin", BINARY])
        .args(["--profile", PROFILE, "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        // What the outer build was told about compiling (clippy, coverage, sanitizers) is not for this program.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static\x1f-Crelocation-model=static")
        .status()?;
    if status.success() { Ok(()) } else { Err(format!("building {BINARY} failed: {status}").into()) }
}
