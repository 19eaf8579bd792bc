//! Ranks as processes of this machine. Rank 0 is the process that measures; the others are started by it and do what it
//! writes into their standard input.

use std::error::Error;
use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vincs_coherence::home::HomeMap;
use vincs_coherence::id::{PAGE_BYTES, Page, Rank, RankSet, Run};
use vincs_coherence::node::MAX_HAND_OVER_PAGES;
use vincs_transport_tcp::endpoint::Timing;
use vincs_transport_tcp::fabric::{CONNECT_TIME, FabricConfig, connect};
use vincs_transport_tcp::listener::Listener;
use vincs_transport_tcp::secret::{MachineId, Secret};
use vincs_vmm::memory::GuestRam;
use vincs_vmm::memory::engine::{Engine, EngineConfig, EngineEvent, MemorySettings};
use vm_memory::GuestAddress;

use super::wires::{Wired, Wires};
use super::work::{Pages, Work, work};
use crate::nanoseconds;
use crate::rdma::costs::Used;

/// The argument that makes this program a rank other than 0.
pub const RANK_ARGUMENT: &str = "--rank-of-a-cluster";

/// What goes wrong.
pub type Failure = Box<dyn Error + Send + Sync>;

/// How a cluster is made.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Shape {
    /// Number of ranks.
    pub ranks: u16,
    /// Pages homed at each rank.
    pub pages: u32,
    /// Read-ahead in pages.
    pub read_ahead: u16,
    /// How long service threads spin, in microseconds.
    pub spin: u64,
    /// Minimum hold time in microseconds; measured when there is none.
    pub hold: Option<u64>,
    /// What connects them.
    pub wires: Wires,
}

/// What a rank other than 0 is told to do.
#[derive(Deserialize, Serialize)]
enum Order {
    /// This.
    Do(Work),
    /// To say what it has used up.
    Tell,
}

/// What a rank is told first.
#[derive(Deserialize, Serialize)]
struct Start {
    rank: u16,
    shape: Shape,
    addresses: Vec<SocketAddr>,
    machine: String,
    secret: String,
}

/// A rank's memory at work.
struct Local {
    engine: Engine,
    ram: GuestRam,
    wired: Wired,
}

impl Local {
    fn start(start: &Start, listener: Listener) -> Result<Self, Failure> {
        let Start { rank, shape, addresses, machine, secret } = start;
        let fabric = FabricConfig {
            rank: Rank(*rank),
            addresses: addresses.clone(),
            machine: MachineId::from_hex(machine)?,
            secret: Secret::from_hex(secret)?,
            segments: vec![None],
            connect_time: CONNECT_TIME,
            timing: Timing::default(),
        };
        let wired = Wired::new(shape.wires, Rank(*rank), shape.ranks, connect(&fabric, listener)?)?;
        let bytes = usize::try_from(u64::from(shape.pages) * u64::from(shape.ranks))? * PAGE_BYTES;
        let ram = GuestRam::new(&[(GuestAddress(0), bytes)])?;
        let config = EngineConfig {
            rank: Rank(*rank),
            ranks: shape.ranks,
            homes: HomeMap::new((0..shape.ranks).map(|home| (shape.pages, Rank(home))))?,
            shards: 1,
            memory: MemorySettings {
                hold: shape.hold.map(Duration::from_micros),
                read_ahead: shape.read_ahead,
                first_touch: 16,
                companions: 0,
                spin: Duration::from_micros(shape.spin),
                windows: wired.windows.clone(),
                ..MemorySettings::default()
            },
            processors: 1,
            sampler: None,
        };
        let transports = wired.transports.clone();
        let rank = *rank;
        // Without its memory a rank can only end. Rank 0 lets go of the others at the end.
        let events = Arc::new(move |event| {
            if rank == 0 || !matches!(event, EngineEvent::RankLost { .. }) {
                let _ = writeln!(std::io::stderr(), "benchmark: rank {rank}: {event:?}");
            }
            std::process::exit(1);
        });
        Ok(Self { engine: Engine::start(&ram, config, transports, events)?, ram, wired })
    }
}

/// A rank in another process.
#[derive(Debug)]
struct Remote {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Remote {
    fn start() -> Result<(Self, SocketAddr), Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(RANK_ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let missing = || std::io::Error::other("a pipe to a rank is missing");
        let (to, from) = (child.stdin.take().ok_or_else(missing)?, child.stdout.take().ok_or_else(missing)?);
        let mut remote = Self { child, to, from: BufReader::new(from) };
        let address = remote.answer()?;
        Ok((remote, address))
    }

    fn tell(&mut self, what: &impl Serialize) -> Result<(), Failure> {
        writeln!(self.to, "{}", serde_json::to_string(what)?)?;
        Ok(())
    }

    fn answer<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, Failure> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            return Err("a rank has ended before it answered".into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // It ends with its input; one that does not is ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All ranks of a machine.
pub struct Cluster {
    /// Ranks from 1 on. They go first: their engines are lost, and nobody is told.
    remotes: Vec<Remote>,
    local: Local,
    shape: Shape,
    /// Pages used so far at each home.
    used: Vec<u32>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("shape", &self.shape).field("remotes", &self.remotes).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Starts all ranks.
    ///
    /// # Errors
    /// What the host refuses.
    pub fn start(shape: Shape) -> Result<Self, Failure> {
        let listener = Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let mut addresses = vec![listener.address()];
        let mut remotes = Vec::new();
        for _ in 1..shape.ranks {
            let (remote, address) = Remote::start()?;
            remotes.push(remote);
            addresses.push(address);
        }
        let (machine, secret) = (MachineId::random()?.to_string(), Secret::random()?.to_hex());
        let mut start = Start { rank: 0, shape, addresses, machine, secret };
        for (rank, remote) in (1..).zip(&mut remotes) {
            start.rank = rank;
            remote.tell(&start)?;
        }
        start.rank = 0;
        let local = Local::start(&start, listener)?;
        for remote in &mut remotes {
            let () = remote.answer()?;
        }
        Ok(Self { remotes, local, shape, used: vec![0; shape.ranks.into()] })
    }

    /// How it is made.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The minimum hold time of rank 0.
    #[must_use]
    pub fn hold(&self) -> Duration {
        self.local.engine.hold()
    }

    /// Pages that rank 0 has read in the windows of their homes.
    #[must_use]
    pub fn read_in_windows(&self) -> u64 {
        self.local.engine.stats().protocol.guarded_hits
    }

    /// What ranks 0 and 1 have used up by now.
    ///
    /// # Errors
    /// Rank 1 has ended.
    pub fn used(&mut self) -> Result<[Used; 2], Failure> {
        let remote = self.remote(1)?;
        remote.tell(&Order::Tell)?;
        let there = remote.answer()?;
        Ok([self.local.wired.used(), there])
    }

    /// Pages homed at a rank that have not been used yet.
    ///
    /// # Errors
    /// When there are no more.
    pub fn fresh(&mut self, home: u16, count: u32) -> Result<u32, Failure> {
        let used = self.used.get_mut(usize::from(home)).ok_or("there is no such rank")?;
        let first = *used;
        *used = used.saturating_add(count);
        if *used > self.shape.pages {
            return Err(format!("rank {home} has no more pages that were not used").into());
        }
        Ok(u32::from(home) * self.shape.pages + first)
    }

    /// Has pages that are homed here get their home at another rank, in runs that so many threads order one after the other; the time that it took,
    /// in nanoseconds.
    ///
    /// # Errors
    /// When they do not move.
    pub fn hand_over(&self, pages: Pages, to: u16, callers: u16) -> Result<u64, Failure> {
        let engine = &self.local.engine;
        let members = RankSet::below(self.shape.ranks);
        let end = pages.first + pages.count;
        let runs: Vec<Run> = (pages.first..end)
            .step_by(MAX_HAND_OVER_PAGES.into())
            .map(|first| Run { first: Page(first), count: clipped(end - first) })
            .collect();
        let order = |caller| {
            let mut own = runs.iter().skip(usize::from(caller)).step_by(usize::from(callers.max(1)));
            own.try_for_each(|run| engine.hand_over(*run, Rank(to), members))
        };
        let order = &order;
        let started = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..callers.max(1)).map(|caller| scope.spawn(move || order(caller))).collect();
            for thread in threads {
                thread.join().map_err(|_| "a thread that orders hand-overs has failed")??;
            }
            Ok::<_, Failure>(())
        })?;
        Ok(nanoseconds(started))
    }

    /// Lets a rank do something and waits for it.
    ///
    /// # Errors
    /// What the host refuses.
    pub fn run(&mut self, rank: u16, job: Work) -> Result<Vec<u64>, Failure> {
        if rank == 0 {
            return Ok(work(&self.local.ram, job, |_| Ok(()))?);
        }
        self.remote(rank)?.tell(&Order::Do(job))?;
        self.remote(rank)?.answer()
    }

    /// Lets another rank and this one do something at the same time; gives this one's times.
    ///
    /// # Errors
    /// What the host refuses.
    pub fn run_both(&mut self, rank: u16, theirs: Work, ours: Work) -> Result<Vec<u64>, Failure> {
        let remote = self.remote(rank)?;
        remote.tell(&Order::Do(theirs))?;
        let times = work(&self.local.ram, ours, |_| Ok(()))?;
        let _: Vec<u64> = self.remote(rank)?.answer()?;
        Ok(times)
    }

    /// Lets another rank open a port for something, uses it here, and waits for both.
    ///
    /// # Errors
    /// What the host refuses.
    pub fn with_port(
        &mut self,
        rank: u16,
        job: Work,
        use_port: impl FnOnce(u64) -> std::io::Result<Vec<u64>>,
    ) -> Result<Vec<u64>, Failure> {
        let remote = self.remote(rank)?;
        remote.tell(&Order::Do(job))?;
        let port: u64 = remote.answer()?;
        let times = use_port(port)?;
        let _: Vec<u64> = remote.answer()?;
        Ok(times)
    }

    fn remote(&mut self, rank: u16) -> Result<&mut Remote, Failure> {
        let index = usize::from(rank).checked_sub(1).ok_or("rank 0 is here")?;
        self.remotes.get_mut(index).ok_or_else(|| "there is no such rank".into())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // First, so that it does not lose the others.
        self.local.engine.stop();
    }
}

/// At most as many pages as a hand-over takes.
fn clipped(pages: u32) -> u16 {
    u16::try_from(pages).unwrap_or(u16::MAX).min(MAX_HAND_OVER_PAGES)
}

/// What a rank other than 0 does until its input ends.
///
/// # Errors
/// What the host refuses.
pub fn serve() -> Result<(), Failure> {
    let answer = |answer: String| writeln!(stdout().lock(), "{answer}");
    let listener = Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    answer(serde_json::to_string(&listener.address())?)?;
    let mut lines = stdin().lock().lines();
    let Some(start) = lines.next() else { return Ok(()) };
    let local = Local::start(&serde_json::from_str(&start?)?, listener)?;
    answer(serde_json::to_string(&())?)?;
    for line in lines {
        match serde_json::from_str(&line?)? {
            Order::Do(job) => {
                let times = work(&local.ram, job, |port| answer(port.to_string()))?;
                answer(serde_json::to_string(&times)?)?;
            }
            Order::Tell => answer(serde_json::to_string(&local.wired.used())?)?,
        }
    }
    Ok(())
}
