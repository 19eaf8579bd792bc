//! The last things that happened before a violation; kept only when a seed is run again to explain itself.

use std::collections::VecDeque;

/// How many lines are kept.
pub const KEPT: usize = 400;

/// Lines about what happened.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    on: bool,
    lines: VecDeque<String>,
}

impl Trace {
    /// One that keeps nothing and costs nothing.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// One that keeps the last [`KEPT`] lines.
    #[must_use]
    pub fn on() -> Self {
        Self { on: true, lines: VecDeque::new() }
    }

    /// Takes a line.
    pub fn note(&mut self, now: u64, line: impl FnOnce() -> String) {
        if !self.on {
            return;
        }
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{now:>8} {}", line()));
    }

    /// The lines in the order of time.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
