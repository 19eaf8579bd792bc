//! `vincs ctl top`: a machine, live on a terminal.
//!
//! - `sample`: what the machine tells at one moment, and what has changed since;
//! - `view`: what is on the screen;
//! - here: the terminal, the keys and the time.

mod sample;
mod view;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGTERM};
use vincs_vmm::cluster::MemberState;

use super::client::{Connection, CtlError, known};
use super::protocol::{Request, Status};
use sample::{Counted, Sample};
use view::View;

/// From one look at the machine to the next.
pub(super) const REFRESH: Duration = Duration::from_secs(1);

/// Events that are kept.
const MAX_EVENTS: usize = 100;

/// What is known of the machine.
#[derive(Debug)]
struct Screen {
    before: Option<Sample>,
    now: Sample,
    events: Vec<(u64, String)>,
    first: usize,
}

impl Screen {
    fn take(&mut self, next: Sample) {
        let seconds = next.status.seconds;
        self.events.extend(sample::events(&self.now.status, &next.status).into_iter().map(|what| (seconds, what)));
        self.events.drain(..self.events.len().saturating_sub(MAX_EVENTS));
        self.before = Some(std::mem::replace(&mut self.now, next));
    }

    fn draw(&self, terminal: &mut DefaultTerminal) -> io::Result<()> {
        let status = &self.now.status;
        let rates = |rank: u16| self.before.as_ref().map(|before| sample::rates(before, &self.now, rank));
        let view = View {
            status,
            rates: status.ranks.iter().map(|rank| rates(rank.rank)).collect(),
            hottest: &self.now.counted.hottest_pages,
            events: &self.events,
            first: self.first,
        };
        terminal.draw(|frame| view::draw(frame, &view)).map(drop)
    }

    /// What a key does; whether it is the end.
    fn press(&mut self, key: KeyEvent) -> bool {
        let last = self.now.status.ranks.len().saturating_sub(1);
        let interrupts = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        if key.code == KeyCode::Down {
            self.first = (self.first + 1).min(last);
        } else if key.code == KeyCode::Up {
            self.first = self.first.saturating_sub(1);
        }
        interrupts || key.code == KeyCode::Char('q') || key.code == KeyCode::Esc
    }
}

fn look(machine: &mut Connection) -> Result<Sample, CtlError> {
    let mut status = known::<Status>(machine.ask(Request::Status)?)?;
    status.ranks.retain(|rank| rank.state != MemberState::Left);
    let counted = Counted::new(machine.ask(Request::Stats)?);
    let counted =
        counted.map_err(|error| CtlError::Failed(format!("the machine's statistics make no sense: {error}")))?;
    Ok(Sample { at: Instant::now(), status, counted })
}

/// Shows the machine until `q` or its end.
///
/// # Errors
/// [`CtlError`] without a terminal, and when the machine cannot be asked.
pub(super) fn run(machine: &mut Connection) -> Result<(), CtlError> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(CtlError::NoTerminal);
    }
    let first = look(machine)?;
    let terminal_failed = |error: io::Error| CtlError::Failed(format!("the terminal: {error}"));
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP] {
        // The terminal is put right before the end.
        signal_hook::flag::register(signal, Arc::clone(&ended)).map_err(terminal_failed)?;
    }
    let mut terminal = ratatui::try_init().map_err(terminal_failed)?;
    let shown = show(&mut terminal, machine, first, &ended);
    ratatui::restore();
    match shown {
        Ok(Ended::ByUser) => Ok(()),
        Ok(Ended::ByMachine) => {
            crate::say("the machine has ended");
            Ok(())
        }
        Err(error) => Err(terminal_failed(error)),
    }
}

/// Why nothing is shown any more.
enum Ended {
    ByUser,
    ByMachine,
}

fn show(
    terminal: &mut DefaultTerminal,
    machine: &mut Connection,
    first: Sample,
    ended: &AtomicBool,
) -> io::Result<Ended> {
    let mut screen = Screen { before: None, now: first, events: Vec::new(), first: 0 };
    let mut next = Instant::now() + REFRESH;
    loop {
        screen.draw(terminal)?;
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            let is_there = match event::poll(left) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => false,
                polled => polled?,
            };
            if ended.load(Ordering::SeqCst) {
                return Ok(Ended::ByUser);
            }
            if !is_there {
                continue;
            }
            if let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
                && screen.press(key)
            {
                return Ok(Ended::ByUser);
            }
            // After a key, or with another size.
            screen.draw(terminal)?;
        }
        let Ok(sample) = look(machine) else { return Ok(Ended::ByMachine) };
        screen.take(sample);
        next = Instant::now() + REFRESH;
    }
}
