//! The last lines of the guest's console, kept for the message when the machine fails.

use std::collections::VecDeque;

/// Console lines that are shown when the machine fails.
pub(crate) const TAIL_LINES: usize = 20;

/// Longest line kept, in bytes; the rest of a longer line is dropped.
const MAX_LINE: usize = 512;

const ESCAPE: u8 = 0x1b;

/// What the kernel's panic message starts with (kernel/panic.c).
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// What the guest's first program starts its lines with.
const INIT: &str = "vincs-init: ";

/// The last [`TAIL_LINES`] lines, as plain text.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    lines: VecDeque<Vec<u8>>,
    line: Vec<u8>,
    escape: Escape,
    panic: Option<Vec<u8>>,
}

/// Where in a terminal's control sequence (ECMA-48 section 5.4) the console is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Escape {
    #[default]
    Outside,
    /// After ESC.
    Started,
    /// After ESC `[`, until a final byte.
    Sequence,
}

impl Tail {
    /// Takes console bytes as they come.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.push_byte(*byte);
        }
    }

    fn push_byte(&mut self, byte: u8) {
        match (self.escape, byte) {
            (Escape::Started, b'[') => self.escape = Escape::Sequence,
            (Escape::Sequence, 0x20..=0x3f) => {}
            (Escape::Started | Escape::Sequence, _) => self.escape = Escape::Outside,
            (Escape::Outside, ESCAPE) => self.escape = Escape::Started,
            (Escape::Outside, b'\n') => self.end_line(),
            (Escape::Outside, b'\t' | 0x20..=0x7e | 0x80..) if self.line.len() < MAX_LINE => self.line.push(byte),
            (Escape::Outside, _) => {}
        }
    }

    fn end_line(&mut self) {
        if self.line.is_empty() {
            return;
        }
        if self.lines.len() == TAIL_LINES {
            self.lines.pop_front();
        }
        if self.panic.is_none() && self.line.windows(PANIC.len()).any(|part| part == PANIC) {
            self.panic = Some(self.line.clone());
        }
        self.lines.push_back(std::mem::take(&mut self.line));
    }

    /// The line in which the guest's kernel says that it panicked, even when [`Self::lines`] lost it.
    pub(crate) fn panic_line(&self) -> Option<String> {
        self.panic.as_deref().map(plain)
    }

    /// The last thing that the guest's first program says in [`Self::lines`], without its name.
    pub(crate) fn init_line(&self) -> Option<String> {
        self.lines().iter().rev().find_map(|line| line.strip_prefix(INIT)).map(str::to_owned)
    }

    /// The lines, oldest first, with an unfinished last one; empty lines are left out.
    pub(crate) fn lines(&self) -> Vec<String> {
        let unfinished = (!self.line.is_empty()).then_some(&self.line);
        let lines: Vec<_> = self.lines.iter().chain(unfinished).map(|line| plain(line)).collect();
        lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().to_vec()
    }
}

/// Text without the control characters that several bytes can make up.
fn plain(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().filter(|c| *c == '\t' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail_of(bytes: &[u8]) -> Vec<String> {
        let mut tail = Tail::default();
        tail.push(bytes);
        tail.lines()
    }

    #[test]
    fn control_bytes_and_sequences_are_stripped() {
        assert_eq!(tail_of(b"a\x07b\r\n\x1b[31;1mred\x1b[0m \xc3\xa9\x00\n\x1bcend"), ["ab", "red é", "end"]);
    }

    #[test]
    fn the_last_lines_are_kept_at_the_edge() {
        let text = |n: usize| (0..n).map(|i| format!("{i}\n")).collect::<String>();
        assert_eq!(tail_of(text(TAIL_LINES).as_bytes()).first().unwrap(), "0");
        let lines = tail_of(text(TAIL_LINES + 1).as_bytes());
        assert_eq!((lines.len(), lines.first().unwrap().as_str()), (TAIL_LINES, "1"));
        let lines = tail_of((text(TAIL_LINES) + "rest").as_bytes());
        assert_eq!(
            (lines.len(), lines.first().unwrap().as_str(), lines.last().unwrap().as_str()),
            (TAIL_LINES, "1", "rest")
        );
    }

    #[test]
    fn a_long_line_is_cut() {
        assert_eq!(tail_of(&[b'x'; MAX_LINE]).first().unwrap().len(), MAX_LINE);
        assert_eq!(tail_of(&[b'x'; MAX_LINE + 1]).first().unwrap().len(), MAX_LINE);
    }

    #[test]
    fn the_panic_line_outlives_the_tail() {
        let mut tail = Tail::default();
        tail.push(b"[    1.0] Kernel panic - not syncing: no init\r\n");
        assert_eq!(tail.panic_line().unwrap(), "[    1.0] Kernel panic - not syncing: no init");
        tail.push("trace\n".repeat(TAIL_LINES).as_bytes());
        assert!(tail.panic_line().is_some() && !tail.lines().iter().any(|line| line.contains("panic")));
        assert_eq!(tail_of(b"a \xc2\x9b b"), ["a  b"], "an encoded control character is not shown");
    }

    #[test]
    fn the_last_word_of_the_first_program_is_found() {
        let mut tail = Tail::default();
        tail.push(b"[    1.0] vincs-init: not its own line\n");
        assert_eq!(tail.init_line(), None);
        tail.push(b"vincs-init: one\r\nvincs-init: module x: bad\r\n[    1.1] reboot: Power down\n");
        assert_eq!(tail.init_line().unwrap(), "module x: bad");
    }

    #[test]
    fn bytes_may_come_one_by_one() {
        let mut tail = Tail::default();
        for byte in b"\x1b[2Jone\ntwo" {
            tail.push(&[*byte]);
        }
        assert_eq!(tail.lines(), ["one", "two"]);
    }
}
