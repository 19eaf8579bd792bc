//! A run from its machine's start to its end.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use signal_hook::consts::{SIGCONT, SIGTERM};
use vincs_guest_protocol::{Stdio, ToGuest};
use vincs_vmm::machine::Controller;

use crate::cluster::Others;
use crate::cluster::gather::Gatherer;
use crate::cluster::steward::Steward;
use crate::ctl::{self, Facts, Hosts};
use crate::machine::{Guest, Parts, Ports, StartError};
use crate::prepare::{Command, Console, Machine};
use crate::run::console::{self, ConsoleOutput, SharedTail};
use crate::run::control::Control;
use crate::run::ending::Ending;
use crate::run::signals;
use crate::run::streams::{Copier, Losses, Streams};
use crate::run::supervision::{Event, Step, Supervision};
use crate::run::terminal::RawTerminal;
use crate::stats::{Clock, Counters, Mark};

/// Events that may wait; whoever has another waits too. A guest that floods its control port thus waits for vincs.
const EVENT_QUEUE: usize = 64;

/// How often a wait for a slow reader of a timed stdout looks whether a signal ends it.
const READER_STEP: Duration = Duration::from_millis(100);

/// What is left of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) ending: Ending,
    /// The console's tail.
    pub(crate) tail: SharedTail,
    /// The machine's counters, if it was started and stopped.
    pub(crate) counters: Option<Counters>,
    /// What of CMD's output was lost.
    pub(crate) losses: Losses,
}

/// What a run needs besides its machine.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) boot_timeout: Duration,
    /// Whether stdout's first byte is to be timed.
    pub(crate) time_stdout: bool,
    pub(crate) clock: Arc<Clock>,
}

/// Starts the machine, sees it to its end and stops it. The terminal is as before then, all output is written.
pub(crate) fn run(machine: Machine, others: Option<Others>, terms: &Terms) -> Outcome {
    let tail = SharedTail::default();
    let (mut counters, mut losses) = (None, Losses::default());
    let ending = match Session::start(machine, others.clone(), terms, &tail) {
        Ok(mut session) => {
            let ending = session.supervise(terms);
            // Nobody knows how long the rest takes: whoever reads the output may be slow.
            if let Some(others) = &others {
                others.ask_to_wait();
            }
            losses = session.losses.clone();
            let (stats, ending) = session.stop(ending);
            counters = stats;
            ending
        }
        Err(error) => Ending::Failed(error.to_string()),
    };
    Outcome { ending, tail, counters, losses }
}

#[derive(Debug)]
struct Session {
    guest: Guest,
    supervision: Supervision,
    events: Receiver<Event>,
    control: Option<Control>,
    /// CMD has a terminal: this one becomes raw when CMD starts.
    command_has_terminal: bool,
    raw: Option<RawTerminal>,
    stdout_copier: Option<Copier>,
    losses: Losses,
    /// Moves virtual processors to their pages until the end, where that is of use.
    _gatherer: Option<Gatherer>,
    /// Answers `vincs ctl` until the end.
    _ctl: Option<ctl::Server>,
    /// Lets ranks join until the end.
    _steward: Option<Steward>,
}

/// Opens the machine's socket for `vincs ctl`. A machine without one is a machine all the same.
fn listen(
    controller: &Controller,
    facts: Facts,
    events: SyncSender<Event>,
    others: Option<&Others>,
) -> Option<ctl::Server> {
    let stop = move || {
        // Nobody to tell means that the machine ends.
        let _ = events.send(Event::Stop);
    };
    let server = ctl::Server::start(controller.clone(), facts, stop, None);
    let server = server.inspect_err(|error| crate::say(&format!("vincs ctl does not reach this machine: {error}")));
    let server = server.ok()?;
    Some(match others {
        Some(others) => server.at(others.desk()),
        None => server,
    })
}

impl Session {
    fn start(machine: Machine, others: Option<Others>, terms: &Terms, tail: &SharedTail) -> Result<Self, StartError> {
        let (sender, events) = sync_channel(EVENT_QUEUE);
        let command = machine.command.as_ref();
        let command_has_terminal = command.is_some_and(|Command { stdio, .. }| matches!(stdio, Stdio::Terminal { .. }));
        signals::take(sender.clone(), command_has_terminal)?;
        let has_command = command.is_some();
        // It tells when the machine may be spread. The user's own initrd tells nothing.
        let tells = has_command || others.is_some() && machine.has_first_program;
        let spreads_at_once = others.is_some() && !tells;
        let (mut control, mut ports, mut stdout_copier, mut losses) = (None, None, None, Losses::default());
        if tells {
            let (own, device) = Control::connect(sender.clone())?;
            let mut streams = if has_command { Some(Streams::own()?) } else { None };
            if let (true, Some(streams)) = (terms.time_stdout, &mut streams) {
                stdout_copier = Some(streams.time_stdout(Arc::clone(&terms.clock))?);
            }
            losses = streams.as_ref().map(|streams| streams.losses.clone()).unwrap_or_default();
            (control, ports) = (Some(own), Some(Ports { control: device, streams }));
        }
        let facts = Facts {
            command: command.map_or_else(|| "a guest without a command".to_owned(), |command| command.name.clone()),
            memory: machine.size.memory,
            hosts: match others.clone() {
                Some(others) => Hosts::told_by(move || others.hosts()),
                None => Hosts::of(&[&crate::host::name()]),
            },
            transport: others.as_ref().map(|others| others.transport().to_owned()),
        };
        let gathers = others.as_ref().is_some_and(Others::gathers);
        let serial = serial(machine.console, tail, &sender)?;
        crate::host::serve_files().map_err(io::Error::from)?;
        let parts = Parts {
            kvm: machine.kvm,
            topology: machine.topology,
            memory: machine.size.memory,
            relaxed: machine.size.relaxed,
            kernel: machine.kernel,
            initrd: machine.initrd,
            cmdline: machine.cmdline,
            disks: machine.disks,
            shares: machine.servers,
            ports,
            serial_output: serial.output,
            serial_input: serial.input,
            others: others.clone(),
        };
        let ordered = sender.clone();
        let guest = Guest::start(parts, tail.clone(), sender, || terms.clock.mark(Mark::KernelEntry))?;
        let ctl = guest.controller().and_then(|controller| listen(controller, facts, ordered, others.as_ref()));
        let steward = guest.controller().zip(others).and_then(|(controller, others)| others.open(controller));
        let gatherer = guest.controller().filter(|_| gathers).map(|controller| Gatherer::start(controller.clone()));
        let gatherer = gatherer.transpose()?;
        let supervision = Supervision::new(has_command, terms.boot_timeout, Instant::now());
        let raw = serial.raw;
        let mut session = Self {
            guest,
            supervision,
            events,
            control,
            command_has_terminal,
            raw,
            stdout_copier,
            losses,
            _gatherer: gatherer,
            _ctl: ctl,
            _steward: steward,
        };
        if spreads_at_once {
            session.guest.spread();
        }
        Ok(session)
    }

    fn supervise(&mut self, terms: &Terms) -> Ending {
        loop {
            let step = match self.next_event() {
                Some(event) => {
                    if event == Event::Signal(SIGCONT) {
                        self.terminal_again();
                    }
                    self.supervision.on_event(event, Instant::now())
                }
                None => self.supervision.on_deadline(),
            };
            match step {
                Step::Wait => {}
                Step::Started => {
                    terms.clock.mark(Mark::Command);
                    self.enter_terminal();
                    self.guest.spread();
                }
                Step::HandedOver => self.guest.spread(),
                Step::Send(message) => self.send(&message),
                Step::SendTime => self.send(&ToGuest::Time { unix_nanoseconds: unix_nanoseconds() }),
                Step::End(ending) => return ending,
            }
        }
    }

    fn send(&self, message: &ToGuest) {
        let sent = self.control.as_ref().map_or(Ok(()), |control| control.send(message));
        if let Err(error) = sent {
            tracing::warn!(%error, ?message, "not sent to the guest");
        }
    }

    /// The next event, or nothing at the deadline.
    fn next_event(&self) -> Option<Event> {
        match self.supervision.deadline() {
            // Signals hold a sender as long as vincs lives, so the channel does not close.
            None => self.events.recv().ok(),
            Some(deadline) => self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok(),
        }
    }

    fn enter_terminal(&mut self) {
        if !self.command_has_terminal {
            return;
        }
        match RawTerminal::enter() {
            Ok(raw) => self.raw = Some(raw),
            Err(error) => tracing::warn!(%error, "the terminal stays as it is"),
        }
    }

    fn terminal_again(&self) {
        if let Some(Err(error)) = self.raw.as_ref().map(RawTerminal::set_raw) {
            tracing::warn!(%error, "the terminal stays as it is");
        }
    }

    /// Stops the machine; its counters. Where CMD had its say, the last bytes of a timed stdout, at most two pipes full,
    /// are waited for, and a signal that gives up on them becomes the ending: output that is lost is no success.
    fn stop(mut self, ending: Ending) -> (Option<Counters>, Ending) {
        let copier = self.stdout_copier.take();
        let Some(counters) = self.guest.stop(&ending) else {
            tracing::warn!("the machine does not stop in time: it ends with vincs");
            return (None, ending);
        };
        let given_up = match (&ending, copier) {
            (Ending::Command(_), Some(copier)) => wait_for_reader(&copier, &self.events),
            _ => None,
        };
        (Some(counters), given_up.map_or(ending, Ending::Signal))
    }
}

/// Waits until stdout's reader has taken all; the signal that ended the wait, if one did.
fn wait_for_reader(copier: &Copier, events: &Receiver<Event>) -> Option<i32> {
    while copier.wait(READER_STEP).is_err() {
        let asked = |event| match (event == Event::Stop, event) {
            (true, _) => Some(SIGTERM),
            (false, Event::Signal(signal)) => Some(signal),
            (false, _) => None,
        };
        if let Some(signal) = events.try_iter().filter_map(asked).find(|signal| signals::END.contains(signal)) {
            return Some(signal);
        }
    }
    None
}

/// The time now; zero, which the guest ignores, for a host whose clock is before 1970.
fn unix_nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(0)
}

struct Serial {
    output: ConsoleOutput,
    input: Option<std::os::fd::OwnedFd>,
    raw: Option<RawTerminal>,
}

/// Where the console's bytes go, and for a console on the terminal also where they come from.
fn serial(console: Console, tail: &SharedTail, events: &SyncSender<Event>) -> io::Result<Serial> {
    use std::os::fd::AsFd;
    let (file, raw, input) = match console {
        Console::Tail => (None, None, None),
        Console::File(file) => (Some(file), None, None),
        Console::Stderr => (Some(io::stderr().as_fd().try_clone_to_owned()?.into()), None, None),
        Console::Terminal => {
            let raw = RawTerminal::enter().ok();
            let input = console::input(events.clone(), raw.is_some())?;
            (Some(io::stdout().as_fd().try_clone_to_owned()?.into()), raw, Some(input))
        }
    };
    Ok(Serial { output: ConsoleOutput::new(tail.clone(), file), input, raw })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_ends_the_wait_for_a_reader_that_stalls() {
        let (_out, stdout) = io::pipe().unwrap();
        let mut streams = Streams { stdout: stdout.into(), ..Streams::own().unwrap() };
        let copier = streams.time_stdout(Arc::new(Clock::start())).unwrap();
        let mut device = std::fs::File::from(streams.stdout);
        io::Write::write_all(&mut device, &[0; 1 << 17]).unwrap();
        drop(device);
        let (sender, events) = sync_channel(2);
        for asks in [Event::Signal(SIGTERM), Event::Stop] {
            sender.send(Event::Quit).unwrap();
            sender.send(asks).unwrap();
            assert_eq!(wait_for_reader(&copier, &events), Some(SIGTERM));
        }
    }
}
