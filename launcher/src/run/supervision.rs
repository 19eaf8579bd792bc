//! What vincs does about each event of a run: a state machine without threads or clocks of its own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use vincs_guest_protocol::{FromGuest, ToGuest, WindowSize};

use crate::run::ending::Ending;
use crate::run::signals;

/// So many INT or TERM within [`INSIST_TIME`] end vincs, whatever the guest does.
const INSIST_COUNT: usize = 3;

/// Time in which [`INSIST_COUNT`] signals count as insisting.
const INSIST_TIME: Duration = Duration::from_secs(1);

/// How long a stopped machine's last frames may take through the control thread. They were written before the machine
/// stopped, so this is a matter of scheduling only.
const LAST_FRAMES_TIME: Duration = Duration::from_millis(500);

/// Why the machine stopped by itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Stopped {
    /// The guest powered off; what its first program last said on the console, if anything.
    PowerOff { init_line: Option<String> },
    /// The guest reset after its kernel panicked.
    Panic,
    /// The guest reset.
    Reset,
    /// A virtual processor shut down.
    TripleFault { vcpu: u32 },
    /// A virtual processor or KVM failed.
    Failed(String),
    /// A rank is lost: which and why.
    RankLost(String),
}

/// What happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Event {
    /// The guest's first program said something.
    Guest(FromGuest),
    /// The control port cannot be used any more.
    ControlLost(String),
    /// vincs got a signal.
    Signal(i32),
    /// The terminal has a new size.
    Resized(WindowSize),
    /// The machine stopped by itself.
    Stopped(Stopped),
    /// The user left the console.
    Quit,
    /// `vincs ctl stop`.
    Stop,
}

/// What to do now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Nothing.
    Wait,
    /// Boot is over, CMD runs: streams and terminal are its own now, and the machine may be spread.
    Started,
    /// Boot is over, a disk's own init takes over: the machine may be spread.
    HandedOver,
    /// Tell the guest's first program.
    Send(ToGuest),
    /// Tell it the time.
    SendTime,
    /// Stop the machine and end.
    End(Ending),
}

#[derive(Debug)]
enum Phase {
    /// Until CMD starts, or the deadline.
    Booting { deadline: Option<Instant> },
    /// CMD, or without one the guest, runs.
    Running,
    /// The machine stopped; CMD's end may still be on its way until the deadline.
    Stopped { ending: Ending, deadline: Instant },
}

/// The state of a run.
#[derive(Debug)]
pub(crate) struct Supervision {
    phase: Phase,
    boot_timeout: Duration,
    has_command: bool,
    insisted: VecDeque<Instant>,
}

impl Supervision {
    /// A machine whose kernel was entered at `now`; without a command there is no end of boot to wait for.
    pub(crate) fn new(has_command: bool, boot_timeout: Duration, now: Instant) -> Self {
        let phase = match has_command {
            true => Phase::Booting { deadline: now.checked_add(boot_timeout) },
            false => Phase::Running,
        };
        Self { phase, boot_timeout, has_command, insisted: VecDeque::new() }
    }

    /// When [`Self::on_deadline`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Booting { deadline } => *deadline,
            Phase::Running => None,
            Phase::Stopped { deadline, .. } => Some(*deadline),
        }
    }

    /// The deadline has passed.
    pub(crate) fn on_deadline(&mut self) -> Step {
        match &self.phase {
            Phase::Booting { .. } => Step::End(Ending::BootHang(self.boot_timeout)),
            Phase::Running => Step::Wait,
            Phase::Stopped { ending, .. } => Step::End(ending.clone()),
        }
    }

    /// Something happened.
    pub(crate) fn on_event(&mut self, event: Event, now: Instant) -> Step {
        match event {
            Event::Guest(message) => self.on_message(message),
            // Its machine is being taken down, and the control port with it: why it stopped is what counts.
            Event::ControlLost(_) if matches!(self.phase, Phase::Stopped { .. }) => Step::Wait,
            // Whoever finds the port in a disk's own system may write what it likes.
            Event::ControlLost(_) if !self.has_command => Step::Wait,
            Event::ControlLost(why) => Step::End(Ending::Failed(format!("the guest's control port failed: {why}"))),
            Event::Signal(signal) => self.on_signal(signal, now),
            Event::Resized(size) if self.command_runs() => Step::Send(ToGuest::Resize(size)),
            Event::Resized(_) => Step::Wait,
            Event::Stopped(stopped) => self.on_stopped(stopped, now),
            Event::Quit => Step::End(Ending::Console),
            Event::Stop => Step::End(Ending::Signal(SIGTERM)),
        }
    }

    fn command_runs(&self) -> bool {
        self.has_command && matches!(self.phase, Phase::Running)
    }

    fn on_message(&mut self, message: FromGuest) -> Step {
        match message {
            FromGuest::Starting if !self.has_command => Step::HandedOver,
            _ if !self.has_command => Step::Wait,
            FromGuest::Starting if matches!(self.phase, Phase::Booting { .. }) => {
                self.phase = Phase::Running;
                Step::Started
            }
            // Said twice: there is nothing to start any more.
            FromGuest::Starting => Step::Wait,
            FromGuest::AskTime => Step::SendTime,
            FromGuest::NotStarted { errno } => Step::End(Ending::NotStarted { errno }),
            FromGuest::Ended(ended) => Step::End(Ending::Command(ended)),
            FromGuest::SetupFailed(what) => Step::End(set_up_failed(&what)),
        }
    }

    fn on_signal(&mut self, signal: i32, now: Instant) -> Step {
        let ends = signals::END.contains(&signal);
        if ends && (!self.command_runs() || self.insists(signal, now)) {
            return Step::End(Ending::Signal(signal));
        }
        if self.command_runs() { Step::Send(ToGuest::Signal(signal)) } else { Step::Wait }
    }

    fn insists(&mut self, signal: i32, now: Instant) -> bool {
        if ![SIGINT, SIGTERM].contains(&signal) {
            return false;
        }
        self.insisted.retain(|earlier| now.duration_since(*earlier) < INSIST_TIME);
        self.insisted.push_back(now);
        self.insisted.len() >= INSIST_COUNT
    }

    fn on_stopped(&mut self, stopped: Stopped, now: Instant) -> Step {
        let ending = match stopped {
            Stopped::PowerOff { .. } | Stopped::Reset if !self.has_command => Ending::Console,
            // The first program fails before its control port is open: the console is all it has. Once CMD runs,
            // anybody may have written such a line.
            Stopped::PowerOff { init_line: Some(what) } if matches!(self.phase, Phase::Booting { .. }) => {
                set_up_failed(&what)
            }
            Stopped::PowerOff { .. } => Ending::PoweredOff,
            Stopped::Reset => Ending::Reset,
            Stopped::Panic => Ending::Panic,
            Stopped::TripleFault { vcpu } => Ending::TripleFault { vcpu },
            Stopped::Failed(what) => Ending::Failed(what),
            // What CMD or the guest still says may come from half a machine.
            Stopped::RankLost(what) => return Step::End(Ending::RankLost(what)),
        };
        self.phase = Phase::Stopped { ending, deadline: now + LAST_FRAMES_TIME };
        Step::Wait
    }
}

fn set_up_failed(what: &str) -> Ending {
    Ending::Failed(format!("the guest could not be set up: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use signal_hook::consts::{SIGUSR1, SIGWINCH};
    use vincs_guest_protocol::Ended;

    const BOOT: Duration = Duration::from_secs(10);

    fn booting() -> (Supervision, Instant) {
        let now = Instant::now();
        (Supervision::new(true, BOOT, now), now)
    }

    fn running() -> (Supervision, Instant) {
        let (mut run, now) = booting();
        assert_eq!(run.on_event(Event::Guest(FromGuest::Starting), now), Step::Started);
        assert_eq!(run.on_event(Event::Guest(FromGuest::Starting), now), Step::Wait, "the terminal is entered once");
        (run, now)
    }

    #[test]
    fn a_command_starts_and_ends() {
        let (mut run, now) = running();
        assert_eq!(run.deadline(), None);
        let ended = Event::Guest(FromGuest::Ended(Ended::Exited(3)));
        assert_eq!(run.on_event(ended, now), Step::End(Ending::Command(Ended::Exited(3))));
    }

    #[test]
    fn a_boot_without_end_is_a_hang() {
        let (mut run, now) = booting();
        assert_eq!(run.deadline(), Some(now + BOOT));
        assert_eq!(run.on_deadline(), Step::End(Ending::BootHang(BOOT)));
        let forever = Supervision::new(true, Duration::MAX, now);
        assert_eq!(forever.deadline(), None, "a time beyond the clock is no limit");
    }

    #[test]
    fn signals_end_a_boot_and_go_to_a_command() {
        for signal in signals::END {
            let (mut run, now) = booting();
            assert_eq!(run.on_event(Event::Signal(signal), now), Step::End(Ending::Signal(signal)));
            let (mut run, now) = running();
            assert_eq!(run.on_event(Event::Signal(signal), now), Step::Send(ToGuest::Signal(signal)));
        }
        let (mut run, now) = booting();
        assert_eq!(run.on_event(Event::Signal(SIGUSR1), now), Step::Wait);
        let (mut run, now) = running();
        assert_eq!(run.on_event(Event::Signal(SIGWINCH), now), Step::Send(ToGuest::Signal(SIGWINCH)));
    }

    #[test]
    fn a_stop_ends_it_at_any_time() {
        for (mut run, now) in [booting(), running()] {
            assert_eq!(run.on_event(Event::Stop, now), Step::End(Ending::Signal(SIGTERM)));
        }
    }

    #[test]
    fn three_signals_within_a_second_end_it() {
        let (mut run, now) = running();
        let mut at = |millis| run.on_event(Event::Signal(SIGTERM), now + Duration::from_millis(millis));
        let sent = Step::Send(ToGuest::Signal(SIGTERM));
        assert_eq!([at(0), at(999), at(1000)], [sent.clone(), sent.clone(), sent], "the first is a second old");
        assert_eq!(at(1998), Step::End(Ending::Signal(SIGTERM)));
    }

    #[test]
    fn an_end_of_the_command_on_its_way_counts_more_than_the_machines() {
        let (mut run, now) = running();
        assert_eq!(run.on_event(Event::Stopped(Stopped::PowerOff { init_line: None }), now), Step::Wait);
        assert_eq!(run.deadline(), Some(now + LAST_FRAMES_TIME));
        let ended = Event::Guest(FromGuest::Ended(Ended::Exited(0)));
        assert_eq!(run.on_event(ended, now), Step::End(Ending::Command(Ended::Exited(0))));
    }

    #[test]
    fn a_machine_that_stops_by_itself_says_why() {
        for (stopped, ending) in [
            (Stopped::PowerOff { init_line: None }, Ending::PoweredOff),
            (Stopped::Reset, Ending::Reset),
            (Stopped::Panic, Ending::Panic),
            (Stopped::TripleFault { vcpu: 1 }, Ending::TripleFault { vcpu: 1 }),
            (Stopped::Failed("x".into()), Ending::Failed("x".into())),
        ] {
            for (mut run, now) in [booting(), running()] {
                run.on_event(Event::Stopped(stopped.clone()), now);
                assert_eq!(run.on_deadline(), Step::End(ending.clone()));
            }
        }
    }

    #[test]
    fn a_lost_rank_is_the_end_whatever_is_on_its_way() {
        for (mut run, now) in [booting(), running()] {
            let lost = Event::Stopped(Stopped::RankLost("rank 1 on n1 is lost: closed".into()));
            assert_eq!(run.on_event(lost, now), Step::End(Ending::RankLost("rank 1 on n1 is lost: closed".into())));
        }
    }

    #[test]
    fn a_power_off_before_the_command_with_a_word_of_the_first_program_is_a_failed_set_up() {
        let power_off = || Event::Stopped(Stopped::PowerOff { init_line: Some("no port".into()) });
        let (mut run, now) = booting();
        run.on_event(power_off(), now);
        let said = Ending::Failed("the guest could not be set up: no port".into());
        assert_eq!(run.on_deadline(), Step::End(said));
        let (mut run, now) = running();
        run.on_event(power_off(), now);
        assert_eq!(run.on_deadline(), Step::End(Ending::PoweredOff), "the command can write such a line");
        let mut run = Supervision::new(false, BOOT, now);
        run.on_event(power_off(), now);
        assert_eq!(run.on_deadline(), Step::End(Ending::Console), "the user saw it on the console");
    }

    #[test]
    fn a_control_port_that_breaks_is_a_failure_unless_the_machine_stopped() {
        let lost = || Event::ControlLost("cut".into());
        for (mut run, now) in [booting(), running()] {
            assert!(matches!(run.on_event(lost(), now), Step::End(Ending::Failed(why)) if why.contains("cut")));
        }
        for (stopped, status) in [
            (Stopped::Panic, 121),
            (Stopped::TripleFault { vcpu: 0 }, 122),
            (Stopped::Reset, 124),
            (Stopped::PowerOff { init_line: None }, 124),
        ] {
            let (mut run, now) = running();
            run.on_event(Event::Stopped(stopped.clone()), now);
            assert_eq!(run.on_event(lost(), now), Step::Wait);
            assert!(matches!(run.on_deadline(), Step::End(ending) if ending.status() == status), "{stopped:?}");
        }
    }

    #[test]
    fn without_a_command_a_power_off_is_a_good_end() {
        let now = Instant::now();
        let mut run = Supervision::new(false, BOOT, now);
        assert_eq!((run.deadline(), run.on_event(Event::Quit, now)), (None, Step::End(Ending::Console)));
        assert_eq!(run.on_event(Event::Signal(SIGTERM), now), Step::End(Ending::Signal(SIGTERM)));
        run.on_event(Event::Stopped(Stopped::Reset), now);
        assert_eq!(run.on_deadline(), Step::End(Ending::Console));
    }

    #[test]
    fn without_a_command_the_port_says_when_boot_is_over_and_nothing_else() {
        let now = Instant::now();
        let mut run = Supervision::new(false, BOOT, now);
        assert_eq!(run.on_event(Event::Guest(FromGuest::Starting), now), Step::HandedOver);
        for said in [FromGuest::Ended(Ended::Exited(3)), FromGuest::SetupFailed("x".into()), FromGuest::AskTime] {
            assert_eq!(run.on_event(Event::Guest(said), now), Step::Wait);
        }
        assert_eq!(run.on_event(Event::ControlLost("cut".into()), now), Step::Wait);
    }
}
