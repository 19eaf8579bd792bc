//! Builds the micro-guest's payload, which is a program for another machine than this one and so cannot be a dependency.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};

/// What of the outer build must not reach the payload: flags and wrappers are meant for programs of this machine.
const OUTER_ONLY: [&str; 4] = ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS"];

fn main() -> ExitCode {
    for path in ["payload/src", "payload/link.ld", "payload/build.rs", "payload/Cargo.toml"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let variable = |name: &str| env::var_os(name).unwrap_or_else(|| OsString::from("."));
    let target = Path::new(&variable("OUT_DIR")).join("payload");
    let mut cargo = Command::new(variable("CARGO"));
    cargo.args(["build", "--release", "--locked", "--offline", "--package", "vincs-micro-guest-payload"]);
    cargo.args(["--bin", "micro-guest", "--target-dir"]).arg(&target);
    cargo.current_dir(variable("CARGO_MANIFEST_DIR"));
    for name in OUTER_ONLY {
        cargo.env_remove(name);
    }
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(status) => {
            println!("cargo::error=building the micro-guest's payload failed: {status}");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            println!("cargo::error=cannot run cargo for the micro-guest's payload: {error}");
            return ExitCode::FAILURE;
        }
    }
    println!("cargo::rustc-env=MICRO_GUEST_PAYLOAD={}", target.join("release/micro-guest").display());
    ExitCode::SUCCESS
}
