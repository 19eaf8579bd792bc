//! Two ranks as processes of this host, connected by RDMA. Rank 0 is the process that measures; rank 1, the home, is started by it. The home sleeps
//! until something comes: it answers messages with a page, tells what it has used up, and has no part in one-sided operations.

use std::error::Error;
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};
use vincs_coherence::id::{PAGE_BYTES, Rank};
use vincs_coherence::transport::{Event, OperationId, Outcome, Segment, SendError, Transport, WordSegment};
use vincs_transport_rdma::devices::find_device;
use vincs_transport_rdma::endpoint::RdmaTransport;
use vincs_transport_rdma::fabric::{FabricConfig, connect};
use vincs_transport_tcp::endpoint::Timing;
use vincs_transport_tcp::fabric::CONNECT_TIME;
use vincs_transport_tcp::listener::Listener;
use vincs_transport_tcp::secret::{MachineId, Secret};

use super::costs::Used;
use super::helper::Helper;

/// The argument that makes this program the home.
pub const HOME_ARGUMENT: &str = "--home-of-a-pair";

/// Bytes of the home's segment.
pub const SEGMENT: u64 = 4 << 20;

/// The home.
pub const HOME: Rank = Rank(1);

/// An operation that takes longer has been lost.
const LIMIT: Duration = Duration::from_secs(60);

/// What goes wrong.
pub type Failure = Box<dyn Error + Send + Sync>;

/// What the home is told first.
#[derive(Deserialize, Serialize)]
struct Start {
    /// Where rank 0 listens.
    first: SocketAddr,
    machine: String,
    secret: String,
}

/// Connects a rank. Rank 0 has no need of the other's address, as the higher rank connects.
fn join(rank: Rank, start: &Start, listener: Listener) -> Result<RdmaTransport, Failure> {
    let address = start.first.ip();
    let fabric = vincs_transport_tcp::fabric::FabricConfig {
        rank,
        addresses: vec![start.first, SocketAddr::from((address, 1))],
        machine: MachineId::from_hex(&start.machine)?,
        secret: Secret::from_hex(&start.secret)?,
        segments: vec![None],
        connect_time: CONNECT_TIME,
        timing: Timing::default(),
    };
    let lifelines = vincs_transport_tcp::fabric::connect(&fabric, listener)?;
    let lifelines = lifelines.into_iter().map(|end| Box::new(end) as Box<dyn Transport>).collect();
    let words = usize::try_from(SEGMENT / 8)?;
    let segment = (rank == HOME).then(|| Arc::new(WordSegment::new(words)) as Arc<dyn Segment>);
    let config = FabricConfig { rank, ranks: 2, segments: vec![segment], connect_time: CONNECT_TIME };
    let found = find_device(address).map_err(|reasons| reasons.join("; "))?;
    connect(&config, &found, lifelines)?.pop().ok_or_else(|| "there is no channel".into())
}

/// Both ranks.
#[derive(Debug)]
pub struct Pair {
    #[expect(dead_code, reason = "the home ends when this is dropped, before the connection to it does")]
    home: Helper,
    end: RdmaTransport,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    next: u64,
}

impl Pair {
    /// Starts the home and connects, by the device with this address.
    ///
    /// # Errors
    /// What the host refuses.
    pub fn start(address: IpAddr) -> Result<Self, Failure> {
        let listener = Listener::bind(SocketAddr::from((address, 0)))?;
        let (machine, secret) = (MachineId::random()?.to_string(), Secret::random()?.to_hex());
        let start = Start { first: listener.address(), machine, secret };
        let mut home = Command::new(std::env::current_exe()?);
        let mut home = Helper::start(home.arg(HOME_ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let missing = || io::Error::other("a pipe to the home is missing");
        let (mut to, from) = (home.stdin.take().ok_or_else(missing)?, home.stdout.take().ok_or_else(missing)?);
        writeln!(to, "{}", serde_json::to_string(&start)?)?;
        let end = join(Rank(0), &start, listener)?;
        Ok(Self { home, end, to, from: BufReader::new(from), next: 0 })
    }

    /// What this process and the home have used up by now.
    ///
    /// # Errors
    /// The home has ended.
    pub fn used(&mut self) -> Result<[Used; 2], Failure> {
        writeln!(self.to)?;
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            return Err("the home has ended".into());
        }
        Ok([Used::now(self.end.counts()), serde_json::from_str(&line)?])
    }

    /// Starts an operation.
    ///
    /// # Errors
    /// There is no room for it, or the home is lost.
    pub fn start_operation(
        &mut self,
        start: impl FnOnce(&RdmaTransport, OperationId) -> Result<(), SendError>,
    ) -> Result<(), SendError> {
        self.next += 1;
        start(&self.end, OperationId(self.next))
    }

    /// Polls without sleeping until something has happened: an operation has ended, or a message has come. Gives how much.
    ///
    /// # Errors
    /// The home is lost, or nothing happens.
    pub fn next(&self, idle: fn()) -> Result<usize, Failure> {
        let (mut happened, mut lost, begun) = (0, None, Instant::now());
        let mut polls = 0_u32;
        while happened == 0 {
            self.end.poll(&mut |event| match event {
                Event::Lost { reason, .. } => lost = Some(reason),
                Event::Completed { outcome: Outcome::Refused, .. } => lost = Some("it refuses an operation".to_owned()),
                Event::Completed { .. } | Event::Message { .. } => happened += 1,
            });
            if let Some(reason) = lost {
                return Err(format!("the home is lost: {reason}").into());
            }
            polls += 1;
            if polls.is_multiple_of(1 << 12) && begun.elapsed() > LIMIT {
                return Err("an operation does not end".into());
            }
            if happened == 0 {
                idle();
            }
        }
        Ok(happened)
    }

    /// Takes what has come up and shows that this rank is alive, which has to be done every few seconds while something else is measured.
    ///
    /// # Errors
    /// The home is lost.
    pub fn live(&self) -> Result<(), Failure> {
        let mut lost = None;
        self.end.poll(&mut |event| {
            if let Event::Lost { reason, .. } = event {
                lost = Some(reason);
            }
        });
        lost.map_or(Ok(()), |reason| Err(format!("the home is lost: {reason}").into()))
    }

    /// The end of this process.
    #[must_use]
    pub fn end(&self) -> &RdmaTransport {
        &self.end
    }

    /// Stays alive while another program runs; gives what it printed.
    ///
    /// # Errors
    /// It fails, or takes too long.
    pub fn while_running(&self, mut program: Helper) -> Result<String, Failure> {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = program.try_wait()? {
                break status;
            }
            if begun.elapsed() > LIMIT {
                return Err("it does not end".into());
            }
            self.live()?;
            // Seldom, so as not to be in its way.
            std::thread::sleep(Duration::from_millis(200).min(self.end.poll_within()));
        };
        let mut said = String::new();
        if let Some(out) = &mut program.stdout {
            out.read_to_string(&mut said)?;
        }
        if status.success() { Ok(said) } else { Err(format!("{status}: {said}").into()) }
    }
}

/// What the home does until its input ends.
///
/// # Errors
/// What the host refuses.
pub fn serve() -> Result<(), Failure> {
    let mut input = io::stdin().lock();
    let mut line = String::new();
    input.read_line(&mut line)?;
    let start: Start = serde_json::from_str(&line)?;
    let end = join(HOME, &start, Listener::bind(SocketAddr::from((start.first.ip(), 0)))?)?;
    let page = [7; PAGE_BYTES];
    let mut failure = None;
    while failure.is_none() {
        while end.poll(&mut |event| match event {
            Event::Message { from, .. } => {
                failure = end.send(from, &[], &[IoSlice::new(&page)]).err().map(|error| error.to_string());
            }
            Event::Lost { reason, .. } => failure = Some(reason),
            Event::Completed { .. } => {}
        }) {}
        let mut fds = [
            PollFd::from_borrowed_fd(end.ready(), PollFlags::IN),
            PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN),
        ];
        // It fails only when a signal arrives; then the next look comes sooner.
        let _: rustix::io::Result<usize> = poll(&mut fds, Timespec::try_from(end.poll_within()).ok().as_ref());
        if fds.get(1).is_some_and(|stdin| !stdin.revents().is_empty()) {
            line.clear();
            if input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            writeln!(io::stdout().lock(), "{}", serde_json::to_string(&Used::now(end.counts()))?)?;
        }
    }
    Err(failure.unwrap_or_default().into())
}
