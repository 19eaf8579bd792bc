//! Rank 0's side of `vincs ctl`: answers at the machine's socket as long as the machine runs.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, BufReader, PipeWriter, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};
use vincs_vmm::cluster::Moved;
use vincs_vmm::machine::{Controller, LeaveError, MigrateError};

use super::desk::Desk;
use super::place::{self, PlaceError};
use super::protocol::{
    ACT_TIME, Answer, GATHER_TIME, IDLE_TIME, LineError, MAX_REQUEST, Migrated, RankStatus, Request, Status, Unread,
    VERSION, VcpuStatus, WRITE_TIME, read_line, write_line,
};
use crate::stats::{Counters, hottest, ranks};

/// Most connections at a time, over the socket and from other hosts together; another one is refused.
const MAX_CLIENTS: usize = 16;

/// How long nobody is let in when that has failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a machine is, beside what its vmm knows.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What it runs, in words.
    pub command: String,
    /// Bytes of guest memory.
    pub memory: u64,
    /// The name of each rank's host.
    pub hosts: Hosts,
    /// What connects its ranks, if there are several.
    pub transport: Option<String>,
}

/// The name of each rank's host, by rank, as it is when it is asked for.
#[derive(Clone)]
pub struct Hosts(Arc<dyn Fn() -> BTreeMap<u16, String> + Send + Sync>);

impl Default for Hosts {
    fn default() -> Self {
        Self::of(&[])
    }
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hosts").field(&(self.0)()).finish()
    }
}

impl Hosts {
    /// Those of a machine whose ranks stay: rank 0's first.
    #[must_use]
    pub fn of(hosts: &[&str]) -> Self {
        let hosts: BTreeMap<u16, String> = (0..).zip(hosts.iter().map(|host| (*host).to_owned())).collect();
        Self(Arc::new(move || hosts.clone()))
    }

    /// Those that somebody tells.
    pub fn told_by(tell: impl Fn() -> BTreeMap<u16, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

/// What each connection works with.
struct Machine {
    controller: Controller,
    facts: Facts,
    started: Instant,
    stop: Box<dyn Fn() + Send + Sync>,
    clients: AtomicUsize,
}

/// Somebody who is connected with the machine.
struct Client(Arc<Machine>);

impl Client {
    /// One more, unless there are as many as there may be.
    fn enter(machine: &Arc<Machine>) -> Option<Self> {
        let more = |clients| (clients < MAX_CLIENTS).then_some(clients + 1);
        let entered = machine.clients.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        entered.ok().map(|_| Self(Arc::clone(machine)))
    }

    fn serve(self, stream: impl Read + Write) {
        serve(stream, &self.0);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Answers at a machine's socket until it is dropped, which removes the socket.
pub struct Server {
    path: PathBuf,
    /// Closed to end the thread.
    quit: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
    machine: Arc<Machine>,
    desk: Desk,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("path", &self.path).field("desk", &self.desk).finish_non_exhaustive()
    }
}

impl Server {
    /// Opens the socket at `path`, else at this process's own place. `stop` is called when the machine is to end.
    ///
    /// # Errors
    /// [`PlaceError`] when there can be no socket.
    pub fn start(
        controller: Controller,
        facts: Facts,
        stop: impl Fn() + Send + Sync + 'static,
        path: Option<&Path>,
    ) -> Result<Self, PlaceError> {
        let path = path.map_or_else(place::own, Path::to_owned);
        let listener = place::bind(&path)?;
        let io = |error| PlaceError::Io(path.clone(), error);
        let (reader, quit) = io::pipe().map_err(io)?;
        let (started, clients) = (Instant::now(), AtomicUsize::new(0));
        let machine = Arc::new(Machine { controller, facts, started, stop: Box::new(stop), clients });
        let own = Arc::clone(&machine);
        let accept = move || {
            loop {
                let mut fds = [PollFd::new(&listener, PollFlags::IN), PollFd::new(&reader, PollFlags::IN)];
                // Interrupted, it looks again; it cannot fail otherwise.
                let _ = poll(&mut fds, None);
                let [to_accept, to_quit] = fds.map(|fd| !fd.revents().is_empty());
                if to_quit {
                    return;
                }
                if to_accept {
                    accept(&listener, &own);
                }
            }
        };
        let thread = thread::Builder::new().name("ctl".into()).spawn(accept).map_err(io)?;
        Ok(Self { path, quit: Some(quit), thread: Some(thread), machine, desk: Desk::default() })
    }

    /// Answers those too who come to this desk, until it is dropped.
    #[must_use]
    pub(crate) fn at(mut self, desk: &Desk) -> Self {
        let machine = Arc::clone(&self.machine);
        desk.open(move |stream| receive(stream, &machine));
        self.desk = desk.clone();
        self
    }

    /// Where the socket is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.desk.close();
        self.quit = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has ended the process already.
            let _ = thread.join();
        }
        // It may have been removed by hand.
        let _ = fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, machine: &Arc<Machine>) {
    let Ok((stream, _)) = listener.accept() else {
        // Whoever came has gone again; or there are no descriptors left, and it still waits.
        thread::sleep(ACCEPT_PAUSE);
        return;
    };
    if stream.set_read_timeout(Some(IDLE_TIME)).and(stream.set_write_timeout(Some(WRITE_TIME))).is_ok() {
        attend(stream, machine);
    }
}

/// Somebody has come who has proved to know the machine's secret.
fn receive(stream: TcpStream, machine: &Arc<Machine>) {
    if stream.set_read_timeout(Some(IDLE_TIME)).and(stream.set_write_timeout(Some(WRITE_TIME))).is_ok() {
        attend(stream, machine);
    }
}

/// Serves somebody on a thread of its own, or says that there are too many.
fn attend(mut stream: impl Read + Write + Send + 'static, machine: &Arc<Machine>) {
    let Some(client) = Client::enter(machine) else {
        let line = format!("{MAX_CLIENTS} connections to the machine are open already; try again");
        // Whoever does not listen is not told, here and below.
        let _ = write_line(&mut stream, &Answer::Refused(line));
        return;
    };
    let spawned = thread::Builder::new().name("ctl-client".into()).spawn(move || client.serve(stream));
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread for a connection to the machine's socket");
    }
}

/// Answers until the other side goes, is silent for long or says what makes no sense.
fn serve(stream: impl Read + Write, machine: &Machine) {
    let mut stream = BufReader::new(stream);
    loop {
        let asked = match read_line::<Unread>(&mut stream, MAX_REQUEST) {
            Ok(Some(Unread { version, .. })) if version != VERSION => {
                let what = format!("the machine speaks version {VERSION} of the control protocol, not {version}");
                Err(format!("{what}; use the vincs that runs it"))
            }
            Ok(Some(asked)) => asked.request().map_err(|error| error.to_string()),
            Ok(None) | Err(LineError::Silent | LineError::Cut | LineError::Io(_)) => return,
            Err(error @ (LineError::Long(_) | LineError::Json(_))) => Err(error.to_string()),
        };
        let goes_on = asked.is_ok();
        let answer = asked.map_or_else(Answer::Refused, |request| machine.answer(request));
        if write_line(stream.get_mut(), &answer).is_err() || !goes_on {
            return;
        }
    }
}

impl Machine {
    fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Status => done(&self.status()),
            Request::Migrate { vcpu, rank } => self.migrate(vcpu, rank),
            Request::Remove { rank } => match self.controller.remove(rank, ACT_TIME) {
                Ok(()) => Answer::Done(Value::Null),
                Err(error @ LeaveError::Refused(_)) => Answer::Refused(error.to_string()),
                Err(error @ (LeaveError::Slow { .. } | LeaveError::Ended)) => Answer::Failed(error.to_string()),
            },
            Request::Pause => match self.controller.pause(ACT_TIME) {
                Ok(()) => Answer::Done(Value::Null),
                Err(error) => Answer::Failed(error.to_string()),
            },
            Request::Resume => {
                self.controller.resume();
                Answer::Done(Value::Null)
            }
            Request::Stop => {
                (self.stop)();
                Answer::Done(Value::Null)
            }
            Request::Stats => Answer::Done(self.stats()),
        }
    }

    fn status(&self) -> Status {
        let places = self.controller.places();
        let hosts = (self.facts.hosts.0)();
        let homes = self.controller.homes();
        let rank = |(rank, state)| RankStatus {
            rank,
            state,
            host: hosts.get(&rank).cloned().unwrap_or_default(),
            vcpus: places.iter().filter(|place| place.rank == rank).map(|place| place.vcpu).collect(),
            homes: homes.get(&rank).copied().unwrap_or(0),
        };
        let vcpu = |place: &vincs_vmm::machine::VcpuPlace| VcpuStatus {
            vcpu: place.vcpu,
            rank: place.rank,
            moving_to: place.moving_to,
        };
        Status {
            pid: std::process::id(),
            command: self.facts.command.clone(),
            seconds: self.started.elapsed().as_secs(),
            paused: self.controller.is_paused(),
            memory: self.facts.memory,
            transport: self.facts.transport.clone(),
            ranks: self.controller.members().into_iter().map(rank).collect(),
            vcpus: places.iter().map(vcpu).collect(),
        }
    }

    fn migrate(&self, vcpu: u32, rank: u16) -> Answer {
        let asked = Instant::now();
        match self.controller.migrate(vcpu, rank, ACT_TIME) {
            Ok(moved) => {
                let from = match moved {
                    Moved::From(from) => from,
                    Moved::WasThere => rank,
                };
                let microseconds = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
                done(&Migrated { vcpu, from, rank, microseconds })
            }
            Err(error @ (MigrateError::Refused(_) | MigrateError::Relaxed(_))) => Answer::Refused(error.to_string()),
            Err(error @ (MigrateError::Slow { .. } | MigrateError::Ended)) => Answer::Failed(error.to_string()),
        }
    }

    /// As at the machine's end, but now.
    fn stats(&self) -> Value {
        let own = self.controller.stats();
        if !self.controller.has_ranks() {
            return json!({ "machine": Counters::alone(&own).machine });
        }
        let counters = ranks::counters(&own, &self.controller.gather_statistics(GATHER_TIME));
        let hottest = hottest::pages(&counters.ranks, None);
        let mut told = json!(counters);
        told["hottest_pages"] = json!(hottest);
        told
    }
}

fn done(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_value(value) {
        Ok(value) => Answer::Done(value),
        Err(error) => Answer::Failed(format!("the answer cannot be written: {error}")),
    }
}
