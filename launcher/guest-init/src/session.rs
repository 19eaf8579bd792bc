//! Runs the command to its end: carries its streams, obeys vincs's orders, reaps orphans.

use crate::child::{self, Started, Streams, Terminal};
use crate::control::Control;
use crate::error::{InStep, SetupError};
use crate::relay::Relay;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group};
use rustix::termios::tcgetpgrp;
use std::os::fd::OwnedFd;
use std::thread::{self, JoinHandle};
use vincs_guest_protocol::{Command, Ended, ToGuest};

/// Most bytes that are read of each output after the command's end: the largest pipe that a user may ask for
/// (pipe(7), `/proc/sys/fs/pipe-max-size`). What is more comes from other processes that go on writing.
const DRAIN_MAX: usize = 1 << 20;

/// Status for a process that ended in a way that has no status; there is none that wait(2) knows.
const NO_STATUS: i32 = 255;

/// The ports that the command's streams are carried to and from. None of them blocks.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    /// Nothing when stderr goes to the terminal.
    pub(crate) stderr: Option<OwnedFd>,
}

/// How a command's run went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// It ran and ended.
    Ended(Ended),
    /// execve failed.
    NotStarted { errno: i32 },
}

/// Waits for a process to end: for the given one, or for any.
pub(crate) type Wait = fn(Pid) -> Result<Option<(Pid, WaitStatus)>, Errno>;

/// Waits for any process, as process 1 has to: those that lost their parent are its own.
pub(crate) fn wait_for_any(_: Pid) -> Result<Option<(Pid, WaitStatus)>, Errno> {
    rustix::process::wait(WaitOptions::empty())
}

/// Runs the command until it ended and all it wrote is in the ports.
pub(crate) fn run(command: &Command, ports: Ports, control: &mut Control, wait: Wait) -> Result<Outcome, SetupError> {
    let (pid, streams) = match child::start(command)? {
        Started::NotStarted { errno } => return Ok(Outcome::NotStarted { errno }),
        Started::Running(pid, streams) => (pid, streams),
    };
    let mut waiter = Waiter::start(pid, wait)?;
    let mut session = Session::new(pid, streams, ports);
    while !session.is_finished() {
        session.turn(control, &mut waiter)?;
    }
    Ok(Outcome::Ended(waiter.status()))
}

struct Session {
    pid: Pid,
    terminal: Option<Terminal>,
    /// Input, and the outputs after it.
    relays: Vec<Relay>,
    command_ended: bool,
}

/// The relay of the input in [`Session::relays`].
const INPUT: usize = 0;

impl Session {
    fn new(pid: Pid, streams: Streams, ports: Ports) -> Self {
        let mut relays = vec![Relay::new(ports.stdin, streams.stdin), Relay::new(streams.stdout, ports.stdout)];
        relays.extend(streams.stderr.zip(ports.stderr).map(|(stderr, port)| Relay::new(stderr, port)));
        Self { pid, terminal: streams.terminal, relays, command_ended: false }
    }

    fn is_finished(&self) -> bool {
        self.command_ended && self.relays.iter().skip(INPUT + 1).all(Relay::is_finished)
    }

    /// Waits for something to happen, and deals with it.
    fn turn(&mut self, control: &mut Control, waiter: &mut Waiter) -> Result<(), SetupError> {
        let reports = {
            let mut fds: Vec<PollFd<'_>> = self.relays.iter().flat_map(Relay::interests).collect();
            if !self.command_ended {
                fds.push(PollFd::new(&waiter.ended, PollFlags::IN));
            }
            let listening = control.listening();
            fds.extend(listening.map(|port| PollFd::from_borrowed_fd(port, PollFlags::IN)));
            match poll(&mut fds, None) {
                Err(Errno::INTR) => return Ok(()),
                polled => polled.step(|| "wait for the command's streams".to_owned())?,
            };
            fds.iter().map(PollFd::revents).collect::<Vec<_>>()
        };
        let mut reports = reports.as_slice();
        for relay in &mut self.relays {
            let (own, rest) = reports.split_at(relay.interests().count().min(reports.len()));
            reports = rest;
            if own.iter().any(|report| !report.is_empty()) {
                relay.turn(own);
            }
        }
        if !self.command_ended {
            let ended = reports.split_off_first().is_some_and(|report| !report.is_empty());
            if ended {
                self.command_ended = true;
                for relay in self.relays.iter_mut().skip(INPUT + 1) {
                    relay.drain(DRAIN_MAX);
                    relay.turn(&[]);
                }
            }
        }
        if reports.first().is_some_and(|report| !report.is_empty()) {
            for order in control.receive() {
                self.obey(&order);
            }
        }
        Ok(())
    }

    /// An order that cannot be carried out comes too late, and nothing is to be done about it.
    fn obey(&self, order: &ToGuest) {
        match *order {
            ToGuest::Signal(number) => {
                let Some(signal) = Signal::from_named_raw(number) else { return };
                // A shell with job control gives the terminal to the group that the user means.
                let foreground = self.terminal.as_ref().and_then(|terminal| tcgetpgrp(&terminal.ours).ok());
                let _ = kill_process_group(foreground.unwrap_or(self.pid), signal);
            }
            ToGuest::Resize(size) => {
                if let Some(terminal) = &self.terminal {
                    let _ = child::resize(&terminal.ours, size);
                }
            }
            // An answer that came too late.
            ToGuest::Time { .. } => {}
        }
    }
}

/// Waits for the command's end in a thread of its own.
struct Waiter {
    /// Becomes readable (its other end is closed) when the command ended.
    ended: OwnedFd,
    thread: JoinHandle<Ended>,
}

impl Waiter {
    fn start(pid: Pid, wait: Wait) -> Result<Self, SetupError> {
        let step = || "wait for the command".to_owned();
        let (ended, signal) = pipe_with(PipeFlags::CLOEXEC).step(step)?;
        let body = move || {
            let ended = wait_for(pid, wait);
            drop(signal);
            ended
        };
        let thread = thread::Builder::new().name("waiter".to_owned()).spawn(body).step(step)?;
        Ok(Self { ended, thread })
    }

    fn status(self) -> Ended {
        self.thread.join().unwrap_or(Ended::Exited(NO_STATUS))
    }
}

fn wait_for(pid: Pid, wait: Wait) -> Ended {
    loop {
        match wait(pid) {
            Ok(Some((ended, status))) if ended == pid => return how_it_ended(status),
            // Another one ended.
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return Ended::Exited(NO_STATUS),
        }
    }
}

fn how_it_ended(status: WaitStatus) -> Ended {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(status), _) => Ended::Exited(status),
        (None, Some(signal)) => Ended::Killed(signal),
        (None, None) => Ended::Exited(NO_STATUS),
    }
}

#[cfg(test)]
mod tests;
