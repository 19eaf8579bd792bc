//! The first program in the guest: mounts, loads modules, runs the command, reports its status.
//!
//! It is `/init` of the initramfs and stays process 1. [`boot`] makes the guest usable, [`shares`] or [`disk`] give it its
//! root, [`session`] runs the command, and [`control`] tells vincs how that went.

use crate::control::Control;
use crate::error::SetupError;
use crate::session::Outcome;
use rustix::process::{Pid, getpid};
use rustix::system::RebootCommand;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;
use vincs_guest_protocol::{Command, FromGuest, Stdio};

mod boot;
mod child;
mod control;
mod disk;
mod error;
mod ports;
mod processors;
mod relaxed;
mod relay;
mod session;
mod shares;
mod time;

/// How long vincs gets to take the last message before the machine is powered off under it.
const LAST_MESSAGE_TIME: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if getpid() != Pid::INIT {
        console("this is the first program of a vincs guest; run `vincs` instead");
        return ExitCode::from(2);
    }
    let mut control = None;
    match set_up(&mut control) {
        Ok(last_message) => tell(control.as_mut(), &last_message),
        Err(error) => tell(control.as_mut(), &FromGuest::SetupFailed(error.to_string())),
    }
    power_off()
}

/// Everything up to the command's end: what to tell vincs about it.
fn set_up(control: &mut Option<Control>) -> Result<FromGuest, SetupError> {
    boot::mount_kernel_file_systems()?;
    boot::load_modules()?;
    let config = boot::read_config()?;
    boot::set_host_name(&config.hostname)?;
    let Some(command) = &config.command else {
        if !config.remote_processors.is_empty() {
            processors::bring_up(config.remote_processors)?;
            // For the processors' sake alone: a disk can do without those of other ranks.
            if let Err(error) = say_starting() {
                console(&format!("all processors stay on rank 0: {error}"));
            }
        }
        return disk::hand_over();
    };
    let control = control.insert(Control::new(ports::open(vincs_guest_protocol::CONTROL_PORT)?));
    if !time::set_from_host(control)? {
        console("vincs did not tell the time: the clock may be a second behind");
    }
    shares::mount_root(&config.shares)?;
    boot::mount_fresh_file_systems(&config.shares)?;
    shares::mount_others(&config.shares)?;
    boot::bring_up_loopback()?;
    if config.has_relaxed {
        relaxed::give_to(command)?;
    }
    if !config.remote_processors.is_empty() {
        processors::bring_up(config.remote_processors.clone())?;
        processors::visit(config.remote_processors)?;
    }
    run(command, control)
}

fn say_starting() -> Result<(), SetupError> {
    Control::new(ports::open(vincs_guest_protocol::CONTROL_PORT)?).send(&FromGuest::Starting, LAST_MESSAGE_TIME)
}

fn run(command: &Command, control: &mut Control) -> Result<FromGuest, SetupError> {
    let own_stderr = !matches!(command.stdio, Stdio::Terminal { stderr: true, .. });
    let ports = session::Ports {
        stdin: ports::open(vincs_guest_protocol::STDIN_PORT)?,
        stdout: ports::open(vincs_guest_protocol::STDOUT_PORT)?,
        stderr: if own_stderr { Some(ports::open(vincs_guest_protocol::STDERR_PORT)?) } else { None },
    };
    control.send(&FromGuest::Starting, LAST_MESSAGE_TIME)?;
    let outcome = session::run(command, ports, control, session::wait_for_any)?;
    rustix::fs::sync();
    Ok(match outcome {
        Outcome::Ended(ended) => FromGuest::Ended(ended),
        Outcome::NotStarted { errno } => FromGuest::NotStarted { errno },
    })
}

/// Tells vincs over the control port, or whoever reads the console when that is not possible.
///
/// vincs ends the machine once it has the message. The port takes it long before that: behind it is the command's output,
/// however slow its reader. A power-off would overtake both, so a message that is on its way is the last thing done here.
fn tell(control: Option<&mut Control>, message: &FromGuest) {
    let told = control.map(|control| control.send(message, LAST_MESSAGE_TIME));
    match (told, message) {
        (Some(Ok(())), _) => loop {
            std::thread::park();
        },
        (None, FromGuest::SetupFailed(line)) => console(line),
        (Some(Err(error)), FromGuest::SetupFailed(line)) => console(&format!("{line} (not told to vincs: {error})")),
        (Some(Err(error)), _) => console(&format!("{message:?} (not told to vincs: {error})")),
        (None, _) => console(&format!("{message:?}")),
    }
}

/// One line on the console: the last resort, so it cannot fail any further. vincs knows it by how it starts.
fn console(line: &str) {
    let console = std::fs::OpenOptions::new().write(true).open("/dev/console");
    let line = format!("vincs-init: {line}\n");
    let _ = match console {
        // A power-off that follows must not overtake it.
        Ok(mut console) if getpid() == Pid::INIT => {
            console.write_all(line.as_bytes()).and_then(|()| Ok(rustix::termios::tcdrain(&console)?))
        }
        Ok(_) | Err(_) => std::io::stderr().write_all(line.as_bytes()),
    };
}

/// Ends everything. Returning from process 1 is a kernel panic, which is what is left when the machine cannot be
/// powered off: vincs notices it.
fn power_off() -> ExitCode {
    boot::kill_all();
    rustix::fs::sync();
    match rustix::system::reboot(RebootCommand::PowerOff) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console(&format!("power off: {error}"));
            ExitCode::FAILURE
        }
    }
}
