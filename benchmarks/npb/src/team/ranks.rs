//! A team of processes: each member is a rank with memory of its own, and arrays are in memory that the ranks share over TCP.
//!
//! - [`relaxed`]: the memory is made coherent at barriers, by home-based lazy release consistency;
//! - [`strict`]: each page has one writer or many readers at any time, as a guest's RAM has.
//!
//! Rank 0 is the process that the user has started. It starts the others, each with the same arguments after [`RANK_ARGUMENT`], and tells each over its standard
//! input where the others are and the secret by which they know each other.

pub mod relaxed;
pub mod strict;

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vincs_coherence::id::{MAX_RANKS, Rank};
use vincs_coherence::transport::{Segment, Transport};
use vincs_transport_tcp::endpoint::Timing;
use vincs_transport_tcp::fabric::{CONNECT_TIME, ConnectError, FabricConfig, connect};
use vincs_transport_tcp::listener::{ListenError, Listener};
use vincs_transport_tcp::secret::{MachineId, Secret};

use super::Team;

/// The first argument of a rank other than 0.
pub const RANK_ARGUMENT: &str = "--rank-of-a-team";

/// Most ranks of a team.
pub const MAX_TEAM: u16 = MAX_RANKS;

/// What a rank says when it is through.
const THROUGH: &str = "through";

/// How arrays are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Made coherent at barriers.
    Relaxed,
    /// Coherent at any time.
    Strict,
}

/// There is no such memory.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory {0}: there are relaxed and strict")]
pub struct NoSuchMemory(String);

impl FromStr for Sharing {
    type Err = NoSuchMemory;

    fn from_str(text: &str) -> Result<Self, NoSuchMemory> {
        match text {
            "relaxed" => Ok(Self::Relaxed),
            "strict" => Ok(Self::Strict),
            _ => Err(NoSuchMemory(text.to_owned())),
        }
    }
}

impl fmt::Display for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Relaxed => "relaxed",
            Self::Strict => "strict",
        })
    }
}

/// Why a team of ranks does not run.
#[derive(Debug, thiserror::Error)]
pub enum RanksError {
    /// A process cannot be started or does not answer.
    #[error("cannot start a rank: {0}")]
    Start(#[from] io::Error),
    /// There is no port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// What rank 0 has told makes no sense.
    #[error("a rank of a team is started by rank 0 only, which has told it no team")]
    Told,
    /// The ranks are not connected.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// There is no relaxed memory.
    #[error(transparent)]
    Relaxed(#[from] vincs_vmm::memory::hlrc::StartError),
    /// The main thread is no member.
    #[error(transparent)]
    Join(#[from] vincs_vmm::memory::hlrc::JoinError),
    /// There is no strict memory.
    #[error(transparent)]
    Strict(#[from] strict::StrictError),
}

/// What ranks have cost this one: what its statistics add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Costs {
    /// Messages or one-sided operations that this rank has sent.
    pub messages: u64,
    /// Bytes that it has sent and asked for.
    pub bytes: u64,
    /// Faults of its thread.
    pub faults: u64,
    /// Seconds at barriers and sums.
    pub synchronising: f64,
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, bytes, faults, synchronising } = self;
        write!(f, "{messages} messages, {bytes} bytes, {faults} faults, {synchronising:.3} s in synchronisation")
    }
}

/// This rank's place in a team, before its memory.
#[derive(Debug)]
pub struct Place {
    rank: Rank,
    addresses: Vec<SocketAddr>,
    machine: MachineId,
    secret: Secret,
    listener: Listener,
    /// Of rank 0: the others.
    children: Vec<Rest>,
    /// The team is through, so that ranks may go.
    through: Arc<AtomicBool>,
    /// Races on relaxed memory are looked for.
    looks_for_races: bool,
}

/// A rank that this process has started.
#[derive(Debug)]
struct Rest {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Drop for Rest {
    fn drop(&mut self) {
        drop(self.to.take());
        // It ends with its input.
        let _ = self.child.wait();
    }
}

fn listen() -> Result<Listener, RanksError> {
    Ok(Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?)
}

impl Place {
    /// Starts the other ranks of a team, each as this program with these arguments.
    ///
    /// # Errors
    ///
    /// A process cannot be started.
    pub fn lead(ranks: u16, arguments: &[String]) -> Result<Self, RanksError> {
        let listener = listen()?;
        let mut addresses = vec![listener.address()];
        let mut children = Vec::new();
        for _ in 1..ranks {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg(RANK_ARGUMENT).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn()?;
            let missing = || io::Error::other("a pipe to a rank is missing");
            let (to, from) = (child.stdin.take().ok_or_else(missing)?, child.stdout.take().ok_or_else(missing)?);
            let mut rest = Rest { child, to: Some(to), from: BufReader::new(from) };
            let line = rest.line()?;
            addresses.push(line.parse().map_err(|_| io::Error::other(format!("a rank says {line:?}")))?);
            children.push(rest);
        }
        let (machine, secret) = (MachineId::random()?, Secret::random()?);
        for (rank, rest) in (1_u16..).zip(&mut children) {
            let all: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
            let line = format!("{rank} {machine} {} {}", secret.to_hex(), all.join(" "));
            if let Some(to) = &mut rest.to {
                writeln!(to, "{line}")?;
            }
        }
        let through = Arc::default();
        let looks_for_races = false;
        Ok(Self { rank: Rank(0), addresses, machine, secret, listener, children, through, looks_for_races })
    }

    /// Takes the place that rank 0 tells on standard input.
    ///
    /// # Errors
    ///
    /// It tells none.
    pub fn follow() -> Result<Self, RanksError> {
        let listener = listen()?;
        writeln!(io::stdout().lock(), "{}", listener.address())?;
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let mut told = || words.next().ok_or(RanksError::Told);
        let rank = Rank(told()?.parse().map_err(|_| RanksError::Told)?);
        let machine = MachineId::from_hex(told()?).map_err(|_| RanksError::Told)?;
        let secret = Secret::from_hex(told()?).map_err(|_| RanksError::Told)?;
        let addresses = words.map(str::parse).collect::<Result<_, _>>().map_err(|_| RanksError::Told)?;
        let (children, through, looks_for_races) = (Vec::new(), Arc::default(), false);
        Ok(Self { rank, addresses, machine, secret, listener, children, through, looks_for_races })
    }

    /// The same, with races on relaxed memory looked for or not; all ranks of a team have to say the same. Rank 0 tells of them on standard error.
    #[must_use]
    pub fn looking_for_races(self, looks_for_races: bool) -> Self {
        Self { looks_for_races, ..self }
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> Rank {
        self.rank
    }

    fn ranks(&self) -> u16 {
        u16::try_from(self.addresses.len()).unwrap_or(MAX_RANKS)
    }

    /// Connects all ranks, which reach this segment here. What is left is for the end.
    fn connect(self, segment: Option<Arc<dyn Segment>>) -> Result<(Arc<dyn Transport>, Rests), RanksError> {
        let Self { rank, addresses, machine, secret, listener, children, through, .. } = self;
        let segments = vec![segment];
        let timing = Timing::default();
        let config = FabricConfig { rank, addresses, machine, secret, segments, connect_time: CONNECT_TIME, timing };
        let mut endpoints = connect(&config, listener)?;
        Ok((Arc::new(endpoints.swap_remove(0)), Rests { rank, children, through }))
    }

    /// What ends this process when its memory fails, unless the team is through.
    fn ending<E: fmt::Display>(&self) -> Arc<dyn Fn(E) + Send + Sync> {
        let (rank, through) = (self.rank.0, Arc::clone(&self.through));
        Arc::new(move |ending: E| {
            if !through.load(Ordering::SeqCst) {
                fail(&format!("rank {rank}: {ending}"));
            }
        })
    }
}

/// A line for the user. Nobody is there to be told when this fails.
fn say(what: &str) {
    let _ = writeln!(io::stderr(), "npb: {what}");
}

/// Ends this process: a member cannot go on without the others, nor tell its kernel.
fn fail(what: &str) -> ! {
    say(what);
    std::process::exit(1)
}

/// The other ranks, as far as this one has to do with their end.
#[derive(Debug)]
struct Rests {
    rank: Rank,
    children: Vec<Rest>,
    through: Arc<AtomicBool>,
}

impl Rests {
    /// Waits until all ranks are through: none needs another one's memory any more.
    fn end(&mut self) -> Result<(), RanksError> {
        if self.rank == Rank(0) {
            for child in &mut self.children {
                let line = child.line()?;
                if line != THROUGH {
                    return Err(io::Error::other(format!("a rank says {line:?}")).into());
                }
            }
            self.through.store(true, Ordering::SeqCst);
            return Ok(());
        }
        self.through.store(true, Ordering::SeqCst);
        writeln!(io::stdout().lock(), "{THROUGH}")?;
        // Until rank 0 lets go of it.
        io::stdin().lock().read_to_end(&mut Vec::new())?;
        Ok(())
    }
}

impl Rest {
    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            return Err(io::Error::other("a rank has ended before its time"));
        }
        Ok(line.trim_end().to_owned())
    }
}

/// Runs `program` as a member of the team, in memory with room for so many bytes at each rank. Gives what it gave here, and what that cost.
///
/// # Errors
///
/// The memory cannot be had.
pub fn run<R>(
    place: Place,
    sharing: Sharing,
    room: usize,
    program: impl FnOnce(&dyn Team) -> R,
) -> Result<(R, Costs), RanksError> {
    match sharing {
        Sharing::Relaxed => relaxed::run(place, room, |team| program(team)),
        Sharing::Strict => strict::run(place, room, program),
    }
}
