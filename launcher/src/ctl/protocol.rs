//! What goes over a machine's socket: a request in a line of JSON, and its answer in one; again and again on one connection.

use std::io::{self, BufRead, Read, Write};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use vincs_vmm::cluster::MemberState;

/// Version of requests and answers; another one is refused.
pub(super) const VERSION: u32 = 2;

/// Most bytes of a request, with its newline.
pub(super) const MAX_REQUEST: u64 = 4 << 10;

/// Most bytes of an answer, with its newline: the statistics of the most ranks fit.
pub(super) const MAX_ANSWER: u64 = 16 << 20;

/// How long a connection may be without a request.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(60);

/// How long either side waits for the other to take what it writes.
pub(super) const WRITE_TIME: Duration = Duration::from_secs(5);

/// How long the machine may take to do what it is asked. What it does not do in time it may do later.
pub(super) const ACT_TIME: Duration = Duration::from_secs(30);

/// How long ranks may take to tell what they have counted.
pub(super) const GATHER_TIME: Duration = Duration::from_secs(2);

/// How long an answer may take: longer than what it tells of.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(ACT_TIME.as_secs() + WRITE_TIME.as_secs());

/// What a machine is asked.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum Request {
    /// What it is and where its vCPUs are: [`Status`].
    Status,
    /// Move a vCPU to a rank: [`Migrated`].
    Migrate {
        /// The vCPU.
        vcpu: u32,
        /// The rank.
        rank: u16,
    },
    /// Let a rank leave: null, when it has.
    Remove {
        /// The rank.
        rank: u16,
    },
    /// Stop all vCPUs: null.
    Pause,
    /// Let all vCPUs go on: null.
    Resume,
    /// End the machine: null, when it has been told.
    Stop,
    /// What it has counted, as `--stats` has it: `machine` and, of several ranks, `ranks`.
    Stats,
}

/// A request with its version.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Asked {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) request: Request,
}

/// What can be read of a request of any version: a newer one may ask for what this one has no word for.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Unread {
    pub(super) version: u32,
    #[serde(flatten)]
    request: Value,
}

impl Unread {
    /// The request, if it is one of this version.
    pub(super) fn request(self) -> Result<Request, LineError> {
        serde_json::from_value(self.request).map_err(|error| LineError::Json(error.to_string()))
    }
}

/// What comes back.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// It is done; what is asked for.
    Done(Value),
    /// Nothing has changed: the request makes no sense, in a line that says why.
    Refused(String),
    /// It could not be done, in a line.
    Failed(String),
}

/// A machine and where its vCPUs are.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Status {
    /// Process id of its rank 0.
    pub(super) pid: u32,
    /// What it runs.
    pub(super) command: String,
    /// For how long, in seconds.
    pub(super) seconds: u64,
    /// Whether its vCPUs were told to stop.
    pub(super) paused: bool,
    /// Bytes of guest memory.
    pub(super) memory: u64,
    /// What connects its ranks: `tcp` or `rdma`; null for one rank.
    pub(super) transport: Option<String>,
    pub(super) ranks: Vec<RankStatus>,
    pub(super) vcpus: Vec<VcpuStatus>,
}

/// A rank and the vCPUs that it has.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct RankStatus {
    pub(super) rank: u16,
    /// `joining`, `running`, `leaving` or `left`.
    pub(super) state: MemberState,
    /// The name of its host.
    pub(super) host: String,
    pub(super) vcpus: Vec<u32>,
    /// Pages that it is the home of.
    #[serde(default)]
    pub(super) homes: u32,
}

/// A vCPU and where it is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct VcpuStatus {
    pub(super) vcpu: u32,
    pub(super) rank: u16,
    /// The rank to which it is on its way.
    pub(super) moving_to: Option<u16>,
}

/// A vCPU has moved, or was there.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Migrated {
    pub(super) vcpu: u32,
    /// Where it was.
    pub(super) from: u16,
    pub(super) rank: u16,
    /// From the order to its arrival, in microseconds.
    pub(super) microseconds: u64,
}

/// Why a line does not come or is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("nothing came within the time for it")]
    Silent,
    #[error("a line of more than {0} bytes")]
    Long(u64),
    #[error("a line that is cut off")]
    Cut,
    #[error("a line that makes no sense: {0}")]
    Json(String),
    #[error(transparent)]
    Io(io::Error),
}

/// Reads a line of JSON of `limit` bytes at most; nothing at the end of the stream.
pub(super) fn read_line<T: DeserializeOwned>(stream: &mut impl BufRead, limit: u64) -> Result<Option<T>, LineError> {
    let mut line = Vec::new();
    let read = stream.take(limit).read_until(b'\n', &mut line);
    match read.map_err(|error| error.kind()) {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        Err(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Err(LineError::Silent),
        Err(kind) => return Err(LineError::Io(kind.into())),
    }
    match line.last() {
        Some(b'\n') => serde_json::from_slice(&line).map(Some).map_err(|error| LineError::Json(error.to_string())),
        _ if line.len() as u64 == limit => Err(LineError::Long(limit)),
        _ => Err(LineError::Cut),
    }
}

/// Writes a line of JSON.
pub(super) fn write_line(stream: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_lines_as_documented() {
        let lines = [
            (Request::Status, r#"{"version":2,"do":"status"}"#),
            (Request::Migrate { vcpu: 3, rank: 1 }, r#"{"version":2,"do":"migrate","vcpu":3,"rank":1}"#),
            (Request::Remove { rank: 2 }, r#"{"version":2,"do":"remove","rank":2}"#),
            (Request::Stats, r#"{"version":2,"do":"stats"}"#),
        ];
        for (request, line) in lines {
            let mut bytes = Vec::new();
            write_line(&mut bytes, &Asked { version: VERSION, request }).unwrap();
            assert_eq!(bytes, format!("{line}\n").as_bytes());
            let read: Unread = read_line(&mut &bytes[..], MAX_REQUEST).unwrap().unwrap();
            assert_eq!((read.version, read.request().unwrap()), (VERSION, request));
        }
        let refused = serde_json::to_string(&Answer::Refused("no".into())).unwrap();
        assert_eq!(refused, r#"{"refused":"no"}"#);
    }

    #[test]
    fn lines_are_as_long_as_they_may_be() {
        let line = |len: usize| format!("\"{}\"\n", "x".repeat(len - 3));
        let read = |text: &str| read_line::<String>(&mut text.as_bytes(), 16);
        assert_eq!(read(&line(16)).unwrap().unwrap().len(), 13);
        assert!(matches!(read(&line(17)), Err(LineError::Long(16))));
        assert!(matches!(read("\"x\""), Err(LineError::Cut)));
        assert!(matches!(read("x\n"), Err(LineError::Json(_))));
        assert!(matches!(read(""), Ok(None)));
    }
}
