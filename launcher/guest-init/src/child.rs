//! Starts the command: its streams, its session, its user, its environment.

use crate::error::{InStep, SetupError};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Pid, Uid, getegid, geteuid, getgroups};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process;
use vincs_guest_protocol::{Command, Stdio, WindowSize};

/// Permissions of a terminal: its user's, and writable by its group (grantpt(3)).
const TERMINAL_MODE: Mode = Mode::from_raw_mode(0o620);

/// Our ends of a command's streams. None of them blocks.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Where its input is written.
    pub(crate) stdin: OwnedFd,
    /// Where its output is read.
    pub(crate) stdout: OwnedFd,
    /// Where its errors are read, when they are apart from its output.
    pub(crate) stderr: Option<OwnedFd>,
    /// Its terminal, if it has one.
    pub(crate) terminal: Option<Terminal>,
}

/// Both sides of a pseudo-terminal. The command's side is kept open here too: reading would fail while it is open nowhere.
#[derive(Debug)]
pub(crate) struct Terminal {
    pub(crate) ours: OwnedFd,
    _its: OwnedFd,
}

/// How starting went.
#[derive(Debug)]
pub(crate) enum Started {
    /// The command runs as this process, the leader of its own session and group.
    Running(Pid, Streams),
    /// execve failed.
    NotStarted { errno: i32 },
}

/// The command's ends of its streams.
struct Ends {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// Starts the command.
pub(crate) fn start(command: &Command) -> Result<Started, SetupError> {
    let Some((program, arguments)) = command.argv.split_first() else {
        return Err(Errno::INVAL).step(|| "start a command without a name".to_owned());
    };
    let (streams, ends) = open_streams(command).step(|| "make the command's streams".to_owned())?;
    let cwd = Path::new(OsStr::from_bytes(&command.cwd));
    // Opened here, so that its errors are not taken for the program's.
    let cwd = rustix::fs::open(cwd, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .step(|| format!("enter the working directory {} (is it shared? see --share DIR)", cwd.display()))?;

    let mut child = process::Command::new(OsStr::from_bytes(program));
    child.args(arguments.iter().map(|argument| OsStr::from_bytes(argument)));
    child.env_clear().envs(command.env.iter().filter_map(|variable| split_variable(variable)));
    child.stdin(ends.stdin).stdout(ends.stdout).stderr(ends.stderr);
    let prepare = Prepare::new(command, cwd);
    // SAFETY: it makes system calls only, which are all safe between fork and exec.
    unsafe { child.pre_exec(move || prepare.run()) };
    match child.spawn() {
        Ok(child) => Ok(Started::Running(pid_of(&child)?, streams)),
        Err(error) => match error.raw_os_error() {
            Some(errno) => Ok(Started::NotStarted { errno }),
            // A NUL in an argument, say.
            None => Err(error).step(|| format!("start {}", String::from_utf8_lossy(program))),
        },
    }
}

fn pid_of(child: &process::Child) -> Result<Pid, SetupError> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or(Errno::SRCH).step(|| "read the command's process number".to_owned())
}

/// `NAME=VALUE`; a name is not empty, and may begin with `=` as std has it.
fn split_variable(variable: &[u8]) -> Option<(&OsStr, &OsStr)> {
    let equals = variable.iter().skip(1).position(|&byte| byte == b'=')? + 1;
    let (name, value) = variable.split_at_checked(equals)?;
    Some((OsStr::from_bytes(name), OsStr::from_bytes(value.get(1..)?)))
}

/// What the new process does before it becomes the program.
struct Prepare {
    terminal: bool,
    cwd: OwnedFd,
    umask: Mode,
    user: Option<(Uid, Gid, Vec<Gid>)>,
}

impl Prepare {
    fn new(command: &Command, cwd: OwnedFd) -> Self {
        let groups: Vec<_> = command.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
        let (uid, gid) = (Uid::from_raw(command.uid), Gid::from_raw(command.gid));
        // Only root may set the groups, even to what they are.
        let same = uid == geteuid() && gid == getegid() && getgroups().is_ok_and(|own| own == groups);
        Self {
            terminal: matches!(command.stdio, Stdio::Terminal { .. }),
            cwd,
            umask: Mode::from_raw_mode(command.umask),
            user: (!same).then_some((uid, gid, groups)),
        }
    }

    /// Runs in the new process, between fork and exec; its streams are in place already.
    fn run(&self) -> io::Result<()> {
        rustix::process::setsid()?;
        if self.terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        rustix::process::umask(self.umask);
        // As root: a process may be in a directory that it could not enter.
        rustix::process::fchdir(&self.cwd)?;
        if let Some((uid, gid, groups)) = &self.user {
            rustix::thread::set_thread_groups(groups)?;
            rustix::thread::set_thread_res_gid(*gid, *gid, *gid)?;
            rustix::thread::set_thread_res_uid(*uid, *uid, *uid)?;
        }
        Ok(())
    }
}

fn open_streams(command: &Command) -> io::Result<(Streams, Ends)> {
    // The command may open its streams anew by /dev/stdout and the like, so they have to be its own.
    let (uid, gid) = (Uid::from_raw(command.uid), Gid::from_raw(command.gid));
    let give = |end: BorrowedFd<'_>| rustix::fs::fchown(end, Some(uid), Some(gid));
    let output = || -> io::Result<(OwnedFd, OwnedFd)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        give(write.as_fd())?;
        rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK)?;
        Ok((read, write))
    };
    match command.stdio {
        Stdio::Pipes => {
            let (its_stdin, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
            give(its_stdin.as_fd())?;
            rustix::fs::fcntl_setfl(&stdin, OFlags::NONBLOCK)?;
            let ((stdout, its_stdout), (stderr, its_stderr)) = (output()?, output()?);
            let ends = Ends { stdin: its_stdin, stdout: its_stdout, stderr: its_stderr };
            Ok((Streams { stdin, stdout, stderr: Some(stderr), terminal: None }, ends))
        }
        Stdio::Terminal { stderr, size } => {
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            let ours = openpt(flags)?;
            unlockpt(&ours)?;
            let its = ioctl_tiocgptpeer(&ours, flags)?;
            give(its.as_fd())?;
            rustix::fs::fchmod(&its, TERMINAL_MODE)?;
            resize(&ours, size)?;
            rustix::fs::fcntl_setfl(&ours, OFlags::RDWR | OFlags::NONBLOCK)?;
            let (stderr, its_stderr) = if stderr {
                (None, its.try_clone()?)
            } else {
                let (stderr, its_stderr) = output()?;
                (Some(stderr), its_stderr)
            };
            let ends = Ends { stdin: its.try_clone()?, stdout: its.try_clone()?, stderr: its_stderr };
            let streams = Streams {
                stdin: ours.try_clone()?,
                stdout: ours.try_clone()?,
                stderr,
                terminal: Some(Terminal { ours, _its: its }),
            };
            Ok((streams, ends))
        }
    }
}

/// Tells a terminal its size; its foreground processes get SIGWINCH.
pub(crate) fn resize(terminal: &OwnedFd, size: WindowSize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_split_at_their_first_equals_sign() {
        let split = |variable: &str| {
            split_variable(variable.as_bytes())
                .map(|(n, v)| (n.to_str().unwrap().to_owned(), v.to_str().unwrap().to_owned()))
        };
        assert_eq!(split("A=b=c").unwrap(), ("A".to_owned(), "b=c".to_owned()));
        assert_eq!(split("EMPTY=").unwrap(), ("EMPTY".to_owned(), String::new()));
        assert_eq!(split("no value"), None);
        assert_eq!(split(""), None);
        assert_eq!(split("=x"), None);
    }
}
