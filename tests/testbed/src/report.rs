//! What a node tells on its report port: one line at a time.

use std::time::Duration;

/// One line from the node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Report {
    /// The node is up and starts the command; its kernel has run for this long.
    Ready {
        /// The node's own clock since its kernel's entry.
        uptime: Duration,
    },
    /// The command ended with this status (128 + N when signal N killed it).
    Exit(u8),
    /// The node's set-up failed.
    Failed(String),
}

impl Report {
    /// Parses one line without its newline; None when it is not one of the node's reports.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ')?;
        match word {
            "ready" => Duration::try_from_secs_f64(rest.parse().ok()?).ok().map(|uptime| Self::Ready { uptime }),
            "exit" => rest.parse().ok().map(Self::Exit),
            "failed" => Some(Self::Failed(rest.to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_each_report() {
        assert_eq!(Report::parse("ready 3.25"), Some(Report::Ready { uptime: Duration::from_millis(3250) }));
        assert_eq!(Report::parse("exit 0"), Some(Report::Exit(0)));
        assert_eq!(Report::parse("exit 255"), Some(Report::Exit(255)));
        assert_eq!(Report::parse("failed no eth0"), Some(Report::Failed("no eth0".to_owned())));
    }

    #[test]
    fn rejects_everything_else() {
        for line in ["", "exit", "exit 256", "exit -1", "exit 1 2", "ready -1", "ready NaN", "ready 1e400", "hello 1"] {
            assert_eq!(Report::parse(line), None, "{line:?}");
        }
    }
}
