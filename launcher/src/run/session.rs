//! A run from its machine's start to its end.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use signal_hook::consts::SIGCONT;
use vincs_guest_protocol::{Stdio, ToGuest};

use crate::machine::{Guest, Parts, Ports, StartError};
use crate::prepare::{Command, Console, Machine};
use crate::run::console::{self, ConsoleOutput, SharedTail};
use crate::run::control::Control;
use crate::run::ending::Ending;
use crate::run::signals;
use crate::run::streams::{Copier, Streams};
use crate::run::supervision::{Event, Step, Supervision};
use crate::run::terminal::RawTerminal;
use crate::stats::{Clock, Mark};

/// Events that may wait; whoever has another waits too. A guest that floods its control port thus waits for vincs.
const EVENT_QUEUE: usize = 64;

/// How long stdout's reader may take for the last bytes of a timed stdout, at most two pipes full. No signal ends vincs
/// in this time, because the machine is down and its events are no longer looked at.
const LAST_BYTES_TIME: Duration = Duration::from_secs(10);

/// What is left of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) ending: Ending,
    /// The console's tail.
    pub(crate) tail: SharedTail,
    /// The machine's counters, if it was started.
    pub(crate) counters: serde_json::Value,
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
pub(crate) fn run(machine: Machine, terms: &Terms) -> Outcome {
    let tail = SharedTail::default();
    let mut counters = serde_json::Value::Null;
    let ending = match Session::start(machine, terms, &tail) {
        Ok(mut session) => {
            let ending = session.supervise(terms);
            counters = session.stop(&ending);
            ending
        }
        Err(error) => Ending::Failed(error.to_string()),
    };
    Outcome { ending, tail, counters }
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
}

impl Session {
    fn start(machine: Machine, terms: &Terms, tail: &SharedTail) -> Result<Self, StartError> {
        let (sender, events) = sync_channel(EVENT_QUEUE);
        let command = machine.command.as_ref();
        let command_has_terminal = command.is_some_and(|Command { stdio, .. }| matches!(stdio, Stdio::Terminal { .. }));
        signals::take(sender.clone(), command_has_terminal)?;
        let has_command = command.is_some();
        let (mut control, mut ports, mut stdout_copier) = (None, None, None);
        if has_command {
            let (own, device) = Control::connect(sender.clone())?;
            let mut streams = Streams::own()?;
            if terms.time_stdout {
                stdout_copier = Some(streams.time_stdout(Arc::clone(&terms.clock))?);
            }
            (control, ports) = (Some(own), Some(Ports { control: device, streams }));
        }
        let serial = serial(machine.console, tail, &sender)?;
        crate::host::serve_files().map_err(io::Error::from)?;
        let parts = Parts {
            kvm: machine.kvm,
            topology: machine.topology,
            memory: machine.size.memory,
            kernel: machine.kernel,
            initrd: machine.initrd,
            cmdline: machine.cmdline,
            disks: machine.disks,
            shares: machine.servers,
            ports,
            serial_output: serial.output,
            serial_input: serial.input,
        };
        let guest = Guest::start(parts, tail.clone(), sender, || terms.clock.mark(Mark::KernelEntry))?;
        let supervision = Supervision::new(has_command, terms.boot_timeout, Instant::now());
        Ok(Self { guest, supervision, events, control, command_has_terminal, raw: serial.raw, stdout_copier })
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
                }
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

    /// Stops the machine; its counters. Waits for the last bytes of a timed stdout only where CMD had its say, and
    /// no longer than [`LAST_BYTES_TIME`].
    fn stop(mut self, ending: &Ending) -> serde_json::Value {
        let Some(stats) = self.guest.stop() else {
            tracing::warn!("the machine does not stop in time: it ends with vincs");
            return serde_json::Value::Null;
        };
        if let (Ending::Command(_), Some(copier)) = (ending, self.stdout_copier.take())
            && let Err(error) = copier.wait(LAST_BYTES_TIME)
        {
            tracing::warn!(%error, "stdout may be incomplete");
        }
        serde_json::to_value(stats).unwrap_or_default()
    }
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
