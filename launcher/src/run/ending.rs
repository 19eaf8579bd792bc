//! How a run ends: the exit status, and what is said on stderr.

use std::time::Duration;

use vincs_guest_protocol::Ended;

/// Exit status for a bad command line or input: nothing was started.
pub(crate) const STATUS_BAD_INPUT: u8 = 2;
/// Exit status when a rank of the machine was lost.
pub(crate) const STATUS_RANK_LOST: u8 = 120;
/// Exit status when the guest kernel panicked.
pub(crate) const STATUS_PANIC: u8 = 121;
/// Exit status when a virtual processor shut down.
pub(crate) const STATUS_TRIPLE_FAULT: u8 = 122;
/// Exit status when the guest did not get to CMD in time.
pub(crate) const STATUS_BOOT_HANG: u8 = 123;
/// Exit status when the guest powered off or reset itself before CMD ended.
pub(crate) const STATUS_GONE: u8 = 124;
/// Exit status when vincs itself failed.
pub(crate) const STATUS_OWN_FAILURE: u8 = 125;
/// Exit status when CMD cannot be executed, as a shell's.
pub(crate) const STATUS_NOT_EXECUTABLE: u8 = 126;
/// Exit status when CMD is not found, as a shell's.
pub(crate) const STATUS_NOT_FOUND: u8 = 127;
/// Added to the number of the signal that killed CMD, as a shell does.
const SIGNAL_BASE: i32 = 128;

/// How a run ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Ending {
    /// CMD ended.
    Command(Ended),
    /// CMD could not be started, for this error number.
    NotStarted { errno: i32 },
    /// Without CMD: the guest powered off or reset, or the user left the console.
    Console,
    /// The guest kernel panicked.
    Panic,
    /// A virtual processor shut down.
    TripleFault { vcpu: u32 },
    /// CMD did not start within this time.
    BootHang(Duration),
    /// The guest powered off before CMD ended.
    PoweredOff,
    /// The guest reset before CMD ended.
    Reset,
    /// vincs, the machine or the set-up of the guest failed.
    Failed(String),
    /// A rank was lost: which and why.
    RankLost(String),
    /// This signal ended vincs.
    Signal(i32),
}

impl Ending {
    /// vincs's exit status.
    pub(crate) fn status(&self) -> u8 {
        match self {
            // A status is what is left of exit(3)'s argument in wait(2): its low byte.
            Self::Command(Ended::Exited(status)) => status.to_le_bytes()[0],
            Self::Command(Ended::Killed(signal)) | Self::Signal(signal) => {
                u8::try_from(SIGNAL_BASE.saturating_add(*signal)).unwrap_or(u8::MAX)
            }
            Self::NotStarted { errno } if is_not_found(*errno) => STATUS_NOT_FOUND,
            Self::NotStarted { .. } => STATUS_NOT_EXECUTABLE,
            Self::Console => 0,
            Self::Panic => STATUS_PANIC,
            Self::TripleFault { .. } => STATUS_TRIPLE_FAULT,
            Self::BootHang(_) => STATUS_BOOT_HANG,
            Self::PoweredOff | Self::Reset => STATUS_GONE,
            Self::Failed(_) => STATUS_OWN_FAILURE,
            Self::RankLost(_) => STATUS_RANK_LOST,
        }
    }

    /// One line for stderr, if the user needs one; `command` is CMD's name.
    pub(crate) fn message(&self, command: &str) -> Option<String> {
        let line = match self {
            Self::Command(_) | Self::Console | Self::Signal(_) => return None,
            Self::NotStarted { errno } if is_not_found(*errno) => {
                format!("{command}: not found in the guest: give its path, or see that PATH names its directory")
            }
            Self::NotStarted { errno } => {
                format!("{command}: cannot be executed in the guest: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::Panic => "the guest kernel panicked".into(),
            Self::TripleFault { vcpu } => format!("virtual processor {vcpu} shut down (triple fault)"),
            Self::BootHang(time) => format!(
                "the guest did not start {command} within {} s; --console - shows its boot, --boot-timeout gives it more time",
                time.as_secs()
            ),
            Self::PoweredOff => format!("the guest powered off before {command} ended"),
            Self::Reset => format!("the guest reset itself before {command} ended"),
            Self::Failed(what) | Self::RankLost(what) => what.clone(),
        };
        Some(line)
    }

    /// Whether the machine failed, so that its last console lines help.
    pub(crate) fn is_machine_failure(&self) -> bool {
        matches!(
            self,
            Self::Panic
                | Self::TripleFault { .. }
                | Self::BootHang(_)
                | Self::PoweredOff
                | Self::Reset
                | Self::Failed(_)
        )
    }

    /// Its name in the statistics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Command(Ended::Exited(_)) => "exited",
            Self::Command(Ended::Killed(_)) => "killed",
            Self::NotStarted { .. } => "not started",
            Self::Console => "console",
            Self::Panic => "panic",
            Self::TripleFault { .. } => "triple fault",
            Self::BootHang(_) => "boot hang",
            Self::PoweredOff => "powered off",
            Self::Reset => "reset",
            Self::Failed(_) => "failed",
            Self::RankLost(_) => "rank lost",
            Self::Signal(_) => "signal",
        }
    }
}

/// Whether execve failed because there is no such program, in a shell's sense.
fn is_not_found(errno: i32) -> bool {
    use rustix::io::Errno;
    [Errno::NOENT, Errno::NOTDIR].iter().any(|not_found| not_found.raw_os_error() == errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_status_is_passed_on() {
        for (ended, status) in [
            (Ended::Exited(0), 0),
            (Ended::Exited(3), 3),
            (Ended::Exited(255), 255),
            (Ended::Exited(256), 0),
            (Ended::Killed(9), 137),
            (Ended::Killed(15), 143),
            (Ended::Killed(i32::MAX), 255),
        ] {
            assert_eq!(Ending::Command(ended).status(), status, "{ended:?}");
            assert_eq!(Ending::Command(ended).message("x"), None);
        }
    }

    #[test]
    fn a_command_that_does_not_start_is_told_as_by_a_shell() {
        let [noent, notdir, acces, noexec] = [2, 20, 13, 8].map(|errno| Ending::NotStarted { errno });
        assert_eq!([&noent, &notdir, &acces, &noexec].map(Ending::status), [127, 127, 126, 126]);
        assert!(noent.message("foo").unwrap().starts_with("foo: not found in the guest"));
        assert!(acces.message("foo").unwrap().contains("Permission denied"));
        assert!(!noent.is_machine_failure());
    }

    #[test]
    fn each_failure_has_its_status_and_a_message() {
        for (ending, status) in [
            (Ending::Panic, 121),
            (Ending::TripleFault { vcpu: 3 }, 122),
            (Ending::BootHang(Duration::from_secs(7)), 123),
            (Ending::PoweredOff, 124),
            (Ending::Reset, 124),
            (Ending::Failed("KVM_RUN failed".into()), 125),
        ] {
            assert_eq!(ending.status(), status);
            assert!(
                ending.is_machine_failure() && ending.message("x").is_some_and(|line| !line.contains('\n')),
                "{ending:?}"
            );
        }
        assert_eq!((Ending::Signal(15).status(), Ending::Console.status()), (143, 0));
        let lost = Ending::RankLost("rank 3 on n3 is lost: it is silent".into());
        assert_eq!((lost.status(), lost.message("x").unwrap().as_str()), (120, "rank 3 on n3 is lost: it is silent"));
        assert!(!lost.is_machine_failure(), "its one line says all");
    }
}
