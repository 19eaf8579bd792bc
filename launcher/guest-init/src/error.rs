//! What can go wrong before the command runs. Each is one line, because vincs shows it as one.

use std::io;
use std::time::Duration;
use vincs_guest_protocol::FrameError;

/// Why the guest could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    /// A step failed.
    #[error("{step}: {source}")]
    Step {
        /// What was being done, to what.
        step: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The configuration cannot be decoded.
    #[error("read the guest's configuration: {0}; vincs and its first program are of different versions")]
    Config(FrameError),
    /// A message to vincs cannot be encoded.
    #[error("encode a message to vincs: {0}")]
    Message(#[from] FrameError),
    /// The machine lacks a port.
    #[error("no virtio-console port {name} after {} s; is module virtio_console loaded?", .waited.as_secs())]
    NoPort {
        /// The port's name.
        name: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The kernel has made no device of the relaxed memory.
    #[error("no relaxed memory {device} after {} s; the kernel's messages (--console) may say why", .waited.as_secs())]
    NoRelaxed {
        /// The device's path.
        device: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
    /// There is no root file system on any disk.
    #[error(
        "no command and no disk with /sbin/init on a known file system (looked at {looked_at}); give --disk FILE or a command"
    )]
    NoDisk {
        /// The disks that were looked at.
        looked_at: String,
    },
}

/// Names the step in an error of the system.
pub(crate) trait InStep<T> {
    /// `step` says what was being done, to what.
    fn step(self, step: impl FnOnce() -> String) -> Result<T, SetupError>;
}

impl<T, E: Into<io::Error>> InStep<T> for Result<T, E> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, SetupError> {
        self.map_err(|error| SetupError::Step { step: step(), source: error.into() })
    }
}
