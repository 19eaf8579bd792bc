//! Gives the command the device of the machine's relaxed memory.

use crate::error::{InStep, SetupError};
use std::os::unix::fs::chown;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use vincs_guest_protocol::{Command, RELAXED_DEVICE};

/// How long the device is waited for: the kernel looks for what its memory is for on threads of its own, after the modules are loaded. That
/// takes a moment, on an emulated host many times as long; vincs bounds the whole boot.
const DEVICE_TIME: Duration = Duration::from_secs(120);
/// How often it is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Waits for the device, and makes it the command's user's.
pub(crate) fn give_to(command: &Command) -> Result<(), SetupError> {
    wait_for(Path::new(RELAXED_DEVICE), DEVICE_TIME)?;
    chown(RELAXED_DEVICE, Some(command.uid), Some(command.gid)).step(|| format!("give {RELAXED_DEVICE} to the user"))
}

fn wait_for(device: &Path, waited: Duration) -> Result<(), SetupError> {
    let deadline = Instant::now() + waited;
    while !device.exists() {
        if Instant::now() >= deadline {
            return Err(SetupError::NoRelaxed { device: RELAXED_DEVICE, waited });
        }
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_waited_for_and_missed_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("dax");
        let error = wait_for(&device, Duration::ZERO).unwrap_err().to_string();
        assert!(error.starts_with("no relaxed memory /dev/dax0.0 after 0 s"), "{error}");
        let late = device.clone();
        let maker = thread::spawn(move || {
            thread::sleep(LOOK_INTERVAL * 3);
            std::fs::write(late, "").unwrap();
        });
        wait_for(&device, Duration::from_secs(60)).unwrap();
        maker.join().unwrap();
    }
}
