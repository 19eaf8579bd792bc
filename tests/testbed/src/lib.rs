//! The testbed: an emulated cluster node on any machine, or several side by side, and commands run in it.
//!
//! QEMU's software CPU emulates SVM, so a stock Debian kernel in it has a real `/dev/kvm`; `rdma_rxe` gives it real verbs. Its
//! root is this machine's own root over 9p under a tmpfs overlay: every program here runs there, and nothing it writes stays.
//! [`Testbed`] describes a node and runs one command in it; `docs/testbed.md` tells the rest.

mod command;
mod counter;
mod hosts;
mod initramfs;
mod node;
mod preflight;
mod progress;
mod qemu;
pub mod remote;
mod report;
mod size;
mod stream;

pub use command::{Command, release_dir};
pub use hosts::MAX_HOSTS;
pub use initramfs::{ImageError, fetch_kernel, fetch_soft_iwarp};
pub use node::{BOOT_TIME, DEFAULT_CPUS, End, Output, Testbed};
pub use preflight::MissingError;
pub use qemu::{MAX_CPUS, MIN_MEMORY};
pub use size::{SizeError, parse_size};
pub use stream::Sink;

/// Why no node could be started. Each message is one line that names what is missing and the fix.
#[derive(Debug, thiserror::Error)]
pub enum TestbedError {
    /// Something that the node needs is not on this machine.
    #[error(transparent)]
    Missing(#[from] MissingError),
    /// The node's initramfs could not be put together.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// More nodes than a run can have, or none.
    #[error("{0} nodes asked for: give --hosts between 1 and {MAX_HOSTS}")]
    Hosts(u32),
    /// No program that runs commands for other nodes.
    #[error("nodes side by side need testbed among the release binaries: run `make build`")]
    NoRemoteProgram,
    /// The number of processors is outside of what QEMU emulates.
    #[error("{0} processors asked for: give --cpus between 1 and {MAX_CPUS}")]
    Cpus(u32),
    /// The node's memory is too small for a kernel, its modules and the overlay.
    #[error("{} MiB of memory asked for: give --mem of at least {} MiB", .0 >> 20, MIN_MEMORY >> 20)]
    SmallMemory(u64),
    /// The node's memory is not there on this machine.
    #[error(
        "{} MiB of memory asked for, {} MiB available: give a smaller --mem or end other programs",
        .asked >> 20,
        .available >> 20
    )]
    LargeMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes that this machine has available.
        available: u64,
    },
    /// QEMU could not be started or a file for it not be written.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl TestbedError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
