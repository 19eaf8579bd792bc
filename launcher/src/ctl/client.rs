//! The command's side of `vincs ctl`.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::place;
use super::protocol::{
    ANSWER_TIME, Answer, Asked, LineError, MAX_ANSWER, Migrated, Request, Status, VERSION, WRITE_TIME, read_line,
    write_line,
};
use super::{text, top};
use crate::cluster::join;
use crate::host::Place;
use crate::run::ending::STATUS_BAD_INPUT;
use crate::wireup::card::Card;
use crate::wireup::channel::ChannelError;
use crate::wireup::member::connect_once;
use crate::wireup::message::{CONTROLS, Introduction, VERSION as WIREUP_VERSION};

/// Exit status when the machine could not do what it was asked.
const STATUS_FAILED: u8 = 1;

#[derive(Args, Debug)]
pub(crate) struct CtlArgs {
    /// The machine's socket [default: that of this user's one machine on this host]
    #[arg(long, value_name = "PATH", global = true, conflicts_with_all = ["address_file", "machine"])]
    socket: Option<PathBuf>,
    /// A machine of several ranks, from any host that reaches its rank 0: the machine's address file, or a copy
    #[arg(long, value_name = "FILE", global = true)]
    address_file: Option<PathBuf>,
    /// The same by its rank 0's host and port, where those in the address file do not lead there; --address-file proves that the machine is yours
    #[arg(long, value_name = "HOST:PORT", global = true)]
    machine: Option<String>,
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
    #[error("{0}")]
    Unreached(String),
    #[error("{0}: the machine's answer is missing: {1}")]
    Answer(String, LineError),
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
            | Self::Unreached(_)
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

/// What a machine is asked by.
trait Stream: Read + Write + fmt::Debug {}

impl Stream for UnixStream {}

impl Stream for TcpStream {}

/// A connection to a machine.
pub(super) struct Connection {
    /// What leads to it, as the user knows it.
    name: String,
    stream: BufReader<Box<dyn Stream>>,
}

impl Connection {
    /// To the machine that is asked for, else to the only one there is.
    fn open(args: &CtlArgs) -> Result<Self, CtlError> {
        match (&args.machine, &args.address_file, &args.socket) {
            (Some(target), file, _) => {
                Self::from_afar(format!("--machine {target}"), join::card(target, file.as_deref()))
            }
            (None, Some(file), _) => {
                Self::from_afar(format!("--address-file {}", file.display()), join::read_card(file))
            }
            (None, None, Some(path)) => Self::to_socket(path.clone()),
            (None, None, None) => {
                let mut alive = place::alive();
                match alive.len() {
                    0 => Err(CtlError::NoMachine),
                    1 => Self::to_socket(alive.remove(0)),
                    _ => Err(CtlError::Several(alive)),
                }
            }
        }
    }

    fn to_socket(path: PathBuf) -> Result<Self, CtlError> {
        let connected = UnixStream::connect(&path).and_then(|stream| {
            stream.set_read_timeout(Some(ANSWER_TIME))?;
            stream.set_write_timeout(Some(WRITE_TIME))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => Ok(Self { name: path.display().to_string(), stream: BufReader::new(Box::new(stream)) }),
            Err(error) => Err(CtlError::Dead(path, error)),
        }
    }

    /// To a machine by rank 0's door, with the secret of its card.
    fn from_afar(name: String, card: Result<Card, String>) -> Result<Self, CtlError> {
        match card.and_then(|card| enter(&card)) {
            Ok(stream) => Ok(Self { name, stream: BufReader::new(Box::new(stream)) }),
            Err(cause) => Err(CtlError::Unreached(format!("{name}: {cause}"))),
        }
    }

    /// Asks the machine and waits for its answer.
    pub(super) fn ask(&mut self, request: Request) -> Result<Value, CtlError> {
        // A machine that refuses the connection says so before it reads: its answer tells more than that it does not listen.
        let _ = write_line(self.stream.get_mut(), &Asked { version: VERSION, request });
        let missing = |error| CtlError::Answer(self.name.clone(), error);
        match read_line(&mut self.stream, MAX_ANSWER) {
            Ok(Some(Answer::Done(value))) => Ok(value),
            Ok(Some(Answer::Refused(line))) => Err(CtlError::Refused(line)),
            Ok(Some(Answer::Failed(line))) => Err(CtlError::Failed(line)),
            Ok(None) => Err(missing(LineError::Cut)),
            Err(error) => Err(missing(error)),
        }
    }
}

/// Goes in by the door of a card's rank 0, to where the machine is ordered about.
fn enter(card: &Card) -> Result<TcpStream, String> {
    let place = Place::here();
    let mut channel = connect_once(card, &place.boot_id).map_err(|cause| {
        format!("{cause}; see that the machine runs, that this host reaches it, and that the file is its own")
    })?;
    let vincs = env!("CARGO_PKG_VERSION").to_owned();
    let who = Introduction { version: WIREUP_VERSION, rank: CONTROLS, ranks: CONTROLS, host: place.host, vincs };
    let gone = |cause: String| format!("rank 0 on {} has gone: {cause}", card.host);
    channel.send(&who, Instant::now() + WRITE_TIME).map_err(|error: ChannelError| gone(error.to_string()))?;
    let entered = channel.into_stream().and_then(|stream| {
        stream.set_read_timeout(Some(ANSWER_TIME))?;
        stream.set_write_timeout(Some(WRITE_TIME))?;
        Ok(stream)
    });
    entered.map_err(|error| gone(error.to_string()))
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
    let mut machine = Connection::open(args)?;
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
