//! The command's side of `vincs ctl`.

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::place;
use super::protocol::{
    ANSWER_TIME, Answer, Asked, LineError, MAX_ANSWER, Migrated, Request, Status, VERSION, WRITE_TIME, read_line,
    write_line,
};
use super::{text, top};
use crate::run::ending::STATUS_BAD_INPUT;

/// Exit status when the machine could not do what it was asked.
const STATUS_FAILED: u8 = 1;

#[derive(Args, Debug)]
pub(crate) struct CtlArgs {
    /// The machine's socket [default: that of this user's one machine on this host]
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    /// Print the machine's answer as it is: one line of JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    order: Order,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Order {
    /// Says what the machine is, and where its virtual processors are
    Status,
    /// Moves a virtual processor to a rank while it runs, and says how long that took
    Migrate {
        /// Number of the virtual processor, from 0
        vcpu: u32,
        /// Number of the rank, from 0
        rank: u16,
    },
    /// Lets a rank other than 0 leave, and waits until it has: its virtual processors go to others, then what it has of the memory
    Remove {
        /// Number of the rank
        rank: u16,
    },
    /// Stops all virtual processors; the guest's clock runs on. Says when all have stopped
    Pause,
    /// Lets them go on
    Resume,
    /// Ends the machine, as a signal TERM that it cannot take: its status is 143
    Stop,
    /// Shows the machine live on this terminal, once a second: ranks and their vCPUs, faults, traffic, the hottest pages, events. `q` quits, the arrow keys show
    /// more ranks than there is room for
    Top,
    /// Says what the machine has counted; `--json` has what `--stats` has
    Stats,
}

/// Why there is no answer, and the exit status that tells it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    #[error("no machine of this user runs on this host; ask on the host of its rank 0, or give --socket PATH")]
    NoMachine,
    #[error("{} machines of this user run on this host; give one of them: {}", .0.len(), list(.0))]
    Several(Vec<PathBuf>),
    #[error("{0}: no machine answers: {1}; `vincs ctl status` without --socket finds those that run")]
    Dead(PathBuf, io::Error),
    #[error("{0}: the machine's answer is missing: {1}")]
    Answer(PathBuf, LineError),
    #[error(
        "vincs ctl top shows the machine on a terminal, and standard input or output is none; use `vincs ctl --json stats`"
    )]
    NoTerminal,
    #[error("vincs ctl top has no --json: it is for people; use `vincs ctl --json stats`")]
    NoJson,
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Failed(String),
}

impl CtlError {
    fn status(&self) -> u8 {
        match self {
            Self::NoMachine
            | Self::Several(_)
            | Self::Dead(..)
            | Self::NoTerminal
            | Self::NoJson
            | Self::Refused(_) => STATUS_BAD_INPUT,
            Self::Answer(..) | Self::Failed(_) => STATUS_FAILED,
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("--socket {}", path.display())).collect::<Vec<_>>().join(", ")
}

/// A connection to a machine.
#[derive(Debug)]
pub(super) struct Connection {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Connection {
    /// To the machine at a socket, else to the only one there is.
    pub(super) fn open(socket: Option<&Path>) -> Result<Self, CtlError> {
        let path = match socket {
            Some(path) => path.to_owned(),
            None => {
                let mut alive = place::alive();
                match alive.len() {
                    0 => return Err(CtlError::NoMachine),
                    1 => alive.remove(0),
                    _ => return Err(CtlError::Several(alive)),
                }
            }
        };
        let connected = UnixStream::connect(&path).and_then(|stream| {
            stream.set_read_timeout(Some(ANSWER_TIME))?;
            stream.set_write_timeout(Some(WRITE_TIME))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => Ok(Self { path, stream: BufReader::new(stream) }),
            Err(error) => Err(CtlError::Dead(path, error)),
        }
    }

    /// Asks the machine and waits for its answer.
    pub(super) fn ask(&mut self, request: Request) -> Result<Value, CtlError> {
        // A machine that refuses the connection says so before it reads: its answer tells more than that it does not listen.
        let _ = write_line(self.stream.get_mut(), &Asked { version: VERSION, request });
        let missing = |error| CtlError::Answer(self.path.clone(), error);
        match read_line(&mut self.stream, MAX_ANSWER) {
            Ok(Some(Answer::Done(value))) => Ok(value),
            Ok(Some(Answer::Refused(line))) => Err(CtlError::Refused(line)),
            Ok(Some(Answer::Failed(line))) => Err(CtlError::Failed(line)),
            Ok(None) => Err(missing(LineError::Cut)),
            Err(error) => Err(missing(error)),
        }
    }
}

/// Does what is asked; the exit status, and a line if something is wrong.
pub(crate) fn run(args: &CtlArgs) -> Result<(), (u8, String)> {
    let failed = |error: CtlError| (error.status(), error.to_string());
    let text = say(args).map_err(failed)?;
    // A reader that has gone does not want more.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// The text that answers an order.
fn say(args: &CtlArgs) -> Result<String, CtlError> {
    let mut machine = Connection::open(args.socket.as_deref())?;
    let request = match args.order {
        Order::Status => Request::Status,
        Order::Migrate { vcpu, rank } => Request::Migrate { vcpu, rank },
        Order::Remove { rank } => Request::Remove { rank },
        Order::Pause => Request::Pause,
        Order::Resume => Request::Resume,
        Order::Stop => Request::Stop,
        Order::Stats => Request::Stats,
        Order::Top if args.json => return Err(CtlError::NoJson),
        Order::Top => return top::run(&mut machine).map(|()| String::new()),
    };
    let answer = machine.ask(request)?;
    if args.json {
        return Ok(format!("{answer}\n"));
    }
    Ok(match args.order {
        Order::Status => text::status(&known::<Status>(answer)?),
        Order::Migrate { .. } => text::migrated(&known::<Migrated>(answer)?),
        Order::Remove { .. } | Order::Pause | Order::Resume | Order::Stop | Order::Top => String::new(),
        Order::Stats => text::stats(&answer),
    })
}

/// An answer as this vincs knows it.
pub(super) fn known<T: DeserializeOwned>(answer: Value) -> Result<T, CtlError> {
    serde_json::from_value(answer)
        .map_err(|error| CtlError::Failed(format!("the machine's answer makes no sense: {error}")))
}
