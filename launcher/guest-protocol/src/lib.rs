//! What vincs and the guest's first program say to each other.
//!
//! Two things travel: a [`GuestConfig`], a file in the initramfs, tells the first program what to set up and run;
//! [`ToGuest`] and [`FromGuest`] frames cross the virtio-console port named [`CONTROL_PORT`] while the command runs.
//! Both are postcard; frames carry a length before them.

use serde::{Deserialize, Serialize};
use std::ops::Range;

mod frame;

pub use frame::{FrameError, FrameReader, MAX_FRAME, encode_frame};

/// Path of the encoded [`GuestConfig`] in the initramfs.
pub const CONFIG_PATH: &str = "/vincs/config";
/// Folder of the modules to load, named so that their order by name is the order to load them in.
pub const MODULES_DIR: &str = "/vincs/modules";
/// Name of the virtio-console port that carries [`ToGuest`] and [`FromGuest`] frames.
pub const CONTROL_PORT: &str = "vincs.control";
/// Name of the virtio-console port that is CMD's standard input (what is typed, with [`Stdio::Terminal`]).
///
/// vincs closes its end at the end of the input, and not before [`FromGuest::Starting`]: the guest cannot tell an end that
/// is closed already from one that is not open yet, and waits for it.
pub const STDIN_PORT: &str = "vincs.stdin";
/// Name of the virtio-console port that is CMD's standard output.
pub const STDOUT_PORT: &str = "vincs.stdout";
/// Name of the virtio-console port that is CMD's standard error.
pub const STDERR_PORT: &str = "vincs.stderr";

/// The device of the machine's relaxed memory, as the kernel names the first one.
pub const RELAXED_DEVICE: &str = "/dev/dax0.0";
/// Environment variable that tells the command the path of that device; not set in a machine without relaxed memory.
pub const RELAXED_VARIABLE: &str = "VINCS_RELAXED";

/// What the first program sets up and runs.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct GuestConfig {
    /// Host directories to mount, outer before inner.
    pub shares: Vec<Share>,
    /// The command to run, or nothing to hand over to the disk's own init.
    pub command: Option<Command>,
    /// The guest's host name.
    pub hostname: String,
    /// Numbers of the processors that belong to ranks other than 0; they are on rank 0 until [`FromGuest::Starting`].
    pub remote_processors: Range<u32>,
    /// Whether the machine has relaxed memory: the command is to find its device.
    pub has_relaxed: bool,
}

impl GuestConfig {
    /// The content of the file at [`CONFIG_PATH`].
    ///
    /// # Errors
    /// [`FrameError::Malformed`] when it cannot be encoded.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FrameError> {
        Ok(postcard::to_stdvec(self)?)
    }

    /// Reads what [`GuestConfig::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] when it is of another version or damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FrameError> {
        Ok(postcard::from_bytes(bytes)?)
    }
}

/// A host directory served over virtio-9p.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Share {
    /// The 9p mount tag.
    pub tag: String,
    /// Absolute path, the same on the host and in the guest.
    pub path: Vec<u8>,
    /// How the guest may use it.
    pub mode: ShareMode,
}

/// How the guest may use a share.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum ShareMode {
    /// Served read-only; writes go to a tmpfs overlay and vanish with the machine.
    Overlay,
    /// Served and mounted read-only.
    ReadOnly,
    /// Writes reach the host.
    ReadWrite,
}

/// A command to run, as the host's shell gave it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<Vec<u8>>,
    /// Environment, `NAME=VALUE` each.
    pub env: Vec<Vec<u8>>,
    /// Working directory.
    pub cwd: Vec<u8>,
    /// User to run as.
    pub uid: u32,
    /// Group to run as.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// File mode creation mask.
    pub umask: u32,
    /// How its standard streams are connected.
    pub stdio: Stdio,
}

/// How a command's standard streams are connected.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Stdio {
    /// Three pipes, one per stream and port.
    #[default]
    Pipes,
    /// A terminal of its own for stdin and stdout (over [`STDIN_PORT`] and [`STDOUT_PORT`]); stderr too when `stderr`.
    Terminal {
        /// Whether stderr is the terminal as well; else it is a pipe of its own.
        stderr: bool,
        /// Its size at the start.
        size: WindowSize,
    },
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// Frames from vincs to the first program.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum ToGuest {
    /// Send this signal (Linux number) to the command's process group.
    Signal(i32),
    /// The terminal has a new size.
    Resize(WindowSize),
    /// The host's time, as the answer to [`FromGuest::AskTime`].
    Time {
        /// Nanoseconds since 1970 began, UTC.
        unix_nanoseconds: u64,
    },
}

/// Frames from the first program to vincs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum FromGuest {
    /// The command, or the disk's own init, is about to be started; boot is over.
    Starting,
    /// The command could not be started: `errno` of execve, as the shell's 126 or 127 need it.
    NotStarted {
        /// The error number.
        errno: i32,
    },
    /// The command ended; all its output has been written to its ports and file systems are synced.
    Ended(Ended),
    /// The first program could not set the guest up: one line that says what failed.
    SetupFailed(String),
    /// What time is it? The real-time clock counts whole seconds, and files in a share bear the host's times: a guest
    /// whose clock is behind would see them changed in the future, which `make` complains of.
    AskTime,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Ended {
    /// It exited with this status.
    Exited(i32),
    /// This signal (Linux number) killed it.
    Killed(i32),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_configuration_is_read_back_as_it_was() {
        let share = Share { tag: "root".into(), path: b"/caf\xe9".to_vec(), mode: ShareMode::Overlay };
        let terminal = Stdio::Terminal { stderr: true, size: WindowSize { rows: 24, columns: 80 } };
        let command = Command { argv: vec![b"ls".to_vec()], uid: 1000, stdio: terminal, ..Command::default() };
        let config = GuestConfig {
            shares: vec![share],
            command: Some(command),
            hostname: "vincs".into(),
            remote_processors: 2..8,
            has_relaxed: true,
        };
        let bytes = config.to_bytes().unwrap();
        assert_eq!(GuestConfig::from_bytes(&bytes).unwrap(), config);
        for length in 0..bytes.len() {
            assert!(GuestConfig::from_bytes(&bytes[..length]).is_err(), "cut to {length} bytes");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = GuestConfig::from_bytes(&bytes);
        }
    }
}
