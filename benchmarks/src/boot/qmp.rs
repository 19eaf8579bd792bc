//! QEMU's machine protocol (QMP), as far as a stopped machine needs it to be started.

use std::io::{self, BufRead, BufReader, Read, Write};

use serde_json::{Value, json};

/// A connection over QEMU's standard streams.
#[derive(Debug)]
pub(super) struct Qmp<R, W> {
    from: BufReader<R>,
    to: W,
}

impl<R: Read, W: Write> Qmp<R, W> {
    /// Takes QEMU's greeting and agrees on no capabilities.
    ///
    /// # Errors
    /// When QEMU ends or answers something else.
    pub(super) fn connect(from: R, to: W) -> io::Result<Self> {
        let mut qmp = Self { from: BufReader::new(from), to };
        let greeting = qmp.message()?;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::other(format!("no greeting: {greeting}")));
        }
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Has a command without arguments executed.
    ///
    /// # Errors
    /// When QEMU ends or refuses it.
    pub(super) fn execute(&mut self, command: &str) -> io::Result<()> {
        writeln!(self.to, "{}", json!({ "execute": command }))?;
        self.to.flush()?;
        loop {
            let answer = self.message()?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            // Events come in between.
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(format!("{command}: {error}")));
            }
        }
    }

    fn message(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str = "{\"QMP\": {}}\n{\"return\": {}}\n";

    fn connect(answers: &str) -> io::Result<Qmp<io::Cursor<Vec<u8>>, Vec<u8>>> {
        Qmp::connect(io::Cursor::new(answers.as_bytes().to_vec()), Vec::new())
    }

    #[test]
    fn a_command_is_sent_and_events_before_its_answer_are_passed_over() {
        let mut qmp = connect(&format!("{GREETING}{{\"event\": \"RESUME\"}}\n{{\"return\": {{}}}}\n")).unwrap();
        qmp.execute("cont").unwrap();
        assert_eq!(qmp.to, b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"cont\"}\n");
    }

    #[test]
    fn a_refusal_and_an_end_are_errors() {
        let mut qmp = connect(&format!("{GREETING}{{\"error\": {{\"desc\": \"no\"}}}}\n")).unwrap();
        assert!(qmp.execute("cont").unwrap_err().to_string().contains("no"));
        assert_eq!(qmp.execute("cont").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(connect("{}\n").is_err());
    }
}
