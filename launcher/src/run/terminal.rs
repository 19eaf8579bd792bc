//! The host's terminal, in raw mode while the guest uses it.

use std::io;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use vincs_guest_protocol::WindowSize;

/// Whether stdin and stdout are both terminals.
pub(crate) fn is_interactive() -> bool {
    isatty(io::stdin()) && isatty(io::stdout())
}

/// Whether stderr is a terminal.
pub(crate) fn stderr_is_terminal() -> bool {
    isatty(io::stderr())
}

/// The terminal's size; nothing known is 0 by 0, as in the kernel.
pub(crate) fn window_size() -> WindowSize {
    tcgetwinsize(io::stdout()).map(|size| WindowSize { rows: size.ws_row, columns: size.ws_col }).unwrap_or_default()
}

/// stdin's terminal in raw mode; dropping it restores the mode found. So does a panic, which runs no destructors in
/// vincs (panic = abort).
#[derive(Debug)]
pub(crate) struct RawTerminal {
    found: Termios,
    raw: Termios,
}

impl RawTerminal {
    /// Every byte to the guest, every byte of the guest's to the screen.
    ///
    /// # Errors
    /// When stdin is no terminal or does not take the mode.
    pub(crate) fn enter() -> io::Result<Self> {
        let found = tcgetattr(io::stdin())?;
        let mut raw = found.clone();
        raw.make_raw();
        let for_panic = found.clone();
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // Nothing can be done here about a terminal that is gone.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &for_panic);
            report(panic);
        }));
        let terminal = Self { found, raw };
        terminal.set_raw()?;
        Ok(terminal)
    }

    /// Raw mode again, after a shell that stopped vincs may have changed it.
    ///
    /// # Errors
    /// When the terminal does not take the mode.
    pub(crate) fn set_raw(&self) -> io::Result<()> {
        Ok(tcsetattr(io::stdin(), OptionalActions::Now, &self.raw)?)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), OptionalActions::Now, &self.found) {
            tracing::warn!(%error, "the terminal's mode cannot be restored");
        }
    }
}
