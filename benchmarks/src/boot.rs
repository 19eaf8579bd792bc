//! Boot time: from the kernel's entry to the first byte of a command's standard output.
//!
//! - [`guest`]: what is booted, the same on both sides;
//! - [`vincs`]: boots it with vincs, [`microvm`] with QEMU;
//! - [`report`]: what is told of the times.

pub mod guest;
pub mod microvm;
mod qmp;
pub mod report;
mod time;
pub mod vincs;

use std::io;
use std::path::PathBuf;

/// One boot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Boot {
    /// Seconds from the program's start to the kernel's entry.
    pub set_up: f64,
    /// Seconds from the kernel's entry to the first byte on standard output.
    pub boot: f64,
}

/// Why a boot was not measured.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A program did not start.
    #[error("cannot start {program}: {source}; `make setup` installs QEMU, `make build` builds vincs")]
    Start {
        /// The program.
        program: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// A program does not do what it should.
    #[error("{program} {what}: {detail}")]
    Failed {
        /// The program.
        program: &'static str,
        /// What it does wrong.
        what: &'static str,
        /// Its own words.
        detail: String,
    },
    /// There is no kernel.
    #[error(transparent)]
    Kernel(#[from] vincs_guest_image::kernel::FindError),
    /// There is no cache folder.
    #[error(transparent)]
    Cache(#[from] vincs_guest_image::cache::CacheError),
    /// The kernel's ELF cannot be had.
    #[error(transparent)]
    Vmlinux(#[from] vincs_guest_image::vmlinux::VmlinuxError),
    /// A file of the benchmark cannot be used.
    #[error("{what}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The host's answer.
        source: io::Error,
    },
}

fn file_error(what: &'static str) -> impl FnOnce(io::Error) -> BootError {
    move |source| BootError::File { what, source }
}
