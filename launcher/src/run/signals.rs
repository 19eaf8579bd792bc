//! vincs's signals as events.

use std::io;
use std::sync::mpsc::SyncSender;

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

use crate::run::supervision::Event;
use crate::run::terminal;

/// Signals that ask for the end.
pub(crate) const END: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// Signals that vincs takes: those of a user or shell that mean CMD. SIGPIPE is ignored from the start by Rust's
/// runtime: a closed stdout is an error of the write, which the guest hears of.
const TAKEN: [i32; 8] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCONT, SIGWINCH];

/// Takes signals from now on and sends each as an event; a changed terminal as its new size when `terminal`.
///
/// # Errors
/// When handlers or the thread cannot be set up.
pub(crate) fn take(events: SyncSender<Event>, terminal: bool) -> io::Result<()> {
    let mut signals = Signals::new(TAKEN)?;
    let forward = move || {
        for signal in signals.forever() {
            let event = match signal {
                SIGWINCH if terminal => Event::Resized(terminal::window_size()),
                other => Event::Signal(other),
            };
            if events.send(event).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(forward)?;
    Ok(())
}
