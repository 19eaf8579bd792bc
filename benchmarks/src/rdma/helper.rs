//! Processes that help to measure: none outlives its use, also when something fails.

use std::io;
use std::ops::{Deref, DerefMut};
use std::process::{Child, Command};

/// A process that is ended when this is dropped, if it has not ended by itself.
#[derive(Debug)]
pub struct Helper(Child);

impl Helper {
    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        command.spawn().map(Self)
    }
}

impl Deref for Helper {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Helper {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, test_kill_process};

    use super::*;

    #[test]
    fn a_helper_ends_when_it_is_dropped_or_what_used_it_fails() {
        fn fails(_helper: Helper) -> Result<(), &'static str> {
            Err("no device")
        }
        let started = |seconds: &str| Helper::start(Command::new("sleep").arg(seconds)).unwrap();
        let helper = started("1000");
        let pid = Pid::from_child(&helper);
        assert!(test_kill_process(pid).is_ok());
        assert!(fails(helper).is_err() && test_kill_process(pid).is_err(), "it goes on");
        let mut ended = started("0");
        assert!(ended.wait().unwrap().success());
    }
}
