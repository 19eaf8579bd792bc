//! The TCP transport against bare sockets, between two processes on this machine.
//!
//! The second process is this program again. Both ends spin in all measurements of time; rounds of both kinds alternate. What each round
//! does is a [`Phase`], which the first process tells the second one on its standard input.

use std::error::Error;
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Event, OperationId, SendError, Transport, WordSegment};
use vincs_transport_tcp::endpoint::{TcpTransport, Timing};
use vincs_transport_tcp::fabric::{CONNECT_TIME, FabricConfig, connect};
use vincs_transport_tcp::listener::Listener;
use vincs_transport_tcp::secret::{MachineId, Secret};

use crate::{median, nanoseconds};

/// Length of a request in bytes.
pub const REQUEST: usize = 64;
/// Length of an answer and of what a get brings in bytes: a page.
pub const ANSWER: usize = 4096;
/// Length of a streamed body in bytes.
pub const STREAMED: usize = 1 << 20;

/// Longest phase; a process that another one waits for in vain ends.
const LIMIT: Duration = Duration::from_secs(60);

/// What both processes do next, so many times.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Requests and answers over a bare socket.
    BareTrips(usize),
    /// Requests and answers as messages.
    Trips(usize),
    /// Gets of a page.
    Gets(usize),
    /// Bodies one way over a bare socket.
    BareStream(usize),
    /// Bodies one way as messages.
    Stream(usize),
}

impl Phase {
    /// As a line to the other process.
    fn line(self) -> String {
        let (name, count) = match self {
            Self::BareTrips(count) => ("bare-trips", count),
            Self::Trips(count) => ("trips", count),
            Self::Gets(count) => ("gets", count),
            Self::BareStream(count) => ("bare-stream", count),
            Self::Stream(count) => ("stream", count),
        };
        format!("{name} {count}\n")
    }
}

impl FromStr for Phase {
    type Err = Box<dyn Error>;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let (name, count) = line.trim().split_once(' ').ok_or("a phase without a count")?;
        let count = count.parse()?;
        Ok(match name {
            "bare-trips" => Self::BareTrips(count),
            "trips" => Self::Trips(count),
            "gets" => Self::Gets(count),
            "bare-stream" => Self::BareStream(count),
            "stream" => Self::Stream(count),
            _ => return Err(format!("unknown phase {name}").into()),
        })
    }
}

/// One process's connections to the other one.
#[derive(Debug)]
struct Ends {
    endpoint: TcpTransport,
    bare: TcpStream,
}

/// Connects the transport of one of the two ranks.
fn endpoint(
    rank: u16,
    listener: Listener,
    addresses: [SocketAddr; 2],
    machine: MachineId,
    secret: Secret,
) -> Result<TcpTransport, Box<dyn Error>> {
    let config = FabricConfig {
        rank: Rank(rank),
        addresses: addresses.into(),
        machine,
        secret,
        segments: vec![Some(Arc::new(WordSegment::new(ANSWER / 8)))],
        connect_time: CONNECT_TIME,
        // Nobody polls while the other kind is measured.
        timing: Timing { silence: LIMIT, ..Timing::default() },
    };
    connect(&config, listener)?.pop().ok_or_else(|| "no endpoint".into())
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Reads so many bytes from a socket that does not block, spinning.
fn spin_read(socket: &mut TcpStream, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.read(bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => bytes = bytes.get_mut(read..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all bytes to a socket that does not block, spinning.
fn spin_write(socket: &mut TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Polls, spinning, until so many messages and completions have come; `answer` gets each message.
fn spin_poll(end: &TcpTransport, count: usize, mut answer: impl FnMut()) -> Result<(), Box<dyn Error>> {
    let (mut come, mut lost) = (0, None);
    let mut polls = 0_u32;
    let start = Instant::now();
    while come < count {
        end.poll(&mut |event| match event {
            Event::Message { .. } => {
                come += 1;
                answer();
            }
            Event::Completed { .. } => come += 1,
            Event::Lost { reason, .. } => lost = Some(reason),
        });
        if let Some(reason) = lost {
            return Err(reason.into());
        }
        polls = polls.wrapping_add(1);
        if polls == 0 && start.elapsed() > LIMIT {
            return Err("the other process does not answer".into());
        }
    }
    Ok(())
}

/// Sends a message as soon as there is room.
fn spin_send(end: &TcpTransport, to: Rank, header: &[u8], body: &[u8]) -> Result<(), Box<dyn Error>> {
    loop {
        match end.send(to, header, &[IoSlice::new(body)]) {
            Ok(()) => return Ok(()),
            Err(SendError::Full(_)) => end.poll(&mut |_| {}),
            Err(error) => return Err(error.into()),
        };
    }
}

/// The second process: does what it is told on standard input until that ends.
///
/// # Errors
/// Anything that keeps it from that.
pub fn serve() -> Result<(), Box<dyn Error>> {
    let (listener, bare) = (Listener::bind(loopback())?, TcpListener::bind(loopback())?);
    let mut out = io::stdout();
    writeln!(out, "{} {}", listener.address(), bare.local_addr()?)?;
    out.flush()?;
    let mut lines = io::stdin().lines();
    let mut next = || lines.next().ok_or("the first process has gone").map_err(Box::<dyn Error>::from);
    let (first, machine, secret) = (next()??.parse()?, next()??, next()??);
    let addresses = [first, listener.address()];
    let endpoint = endpoint(1, listener, addresses, MachineId::from_hex(&machine)?, Secret::from_hex(&secret)?)?;
    let (bare, _) = bare.accept()?;
    bare.set_nodelay(true)?;
    bare.set_nonblocking(true)?;
    let mut ends = Ends { endpoint, bare };
    while let Ok(line) = next() {
        ends.take_part(line?.parse()?)?;
    }
    Ok(())
}

impl Ends {
    /// The second process's part of a phase.
    fn take_part(&mut self, phase: Phase) -> Result<(), Box<dyn Error>> {
        let Self { endpoint, bare } = self;
        let answer = [7; ANSWER];
        match phase {
            Phase::BareTrips(count) => {
                let mut request = [0; REQUEST];
                for _ in 0..count {
                    spin_read(bare, &mut request)?;
                    spin_write(bare, &answer)?;
                }
            }
            Phase::Trips(count) => spin_poll(endpoint, count, || {
                // One request is under way at most, so there is room.
                let _: Result<(), SendError> = endpoint.send(Rank(0), &[], &[IoSlice::new(&answer)]);
            })?,
            // The first process says when it is done, as gets are not told of here.
            Phase::Gets(_) => spin_poll(endpoint, 1, || {})?,
            Phase::BareStream(count) => {
                let mut body = vec![0; STREAMED];
                for _ in 0..count {
                    spin_read(bare, &mut body)?;
                }
                spin_write(bare, &[1])?;
            }
            Phase::Stream(count) => {
                spin_poll(endpoint, count, || {})?;
                spin_send(endpoint, Rank(0), &[], &[])?;
            }
        }
        Ok(())
    }
}

/// The first process, with the second one as its child.
#[derive(Debug)]
pub struct Pair {
    ends: Ends,
    // Before the child: its input ends, and so does it.
    input: ChildStdin,
    child: Child,
}

impl Pair {
    /// Starts the second process, which is to call [`serve`], and connects with it.
    ///
    /// # Errors
    /// Anything that keeps it from that.
    pub fn start(mut second: Command) -> Result<Self, Box<dyn Error>> {
        let mut child = second.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or("no output of the second process")?;
        let mut input = child.stdin.take().ok_or("no input of the second process")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let (there, bare) = line.trim().split_once(' ').ok_or("the second process has ended")?;
        let listener = Listener::bind(loopback())?;
        let (machine, secret) = (MachineId::random()?, Secret::random()?);
        write!(input, "{}\n{machine}\n{}\n", listener.address(), secret.to_hex())?;
        let addresses = [listener.address(), there.parse()?];
        let endpoint = endpoint(0, listener, addresses, machine, secret)?;
        let bare = TcpStream::connect(bare)?;
        bare.set_nodelay(true)?;
        bare.set_nonblocking(true)?;
        Ok(Self { ends: Ends { endpoint, bare }, input, child })
    }

    /// Runs a phase. Gives nanoseconds: the median of its trips or gets, or the whole of a stream.
    ///
    /// # Errors
    /// The other process has gone, or a connection failed.
    pub fn run(&mut self, phase: Phase) -> Result<u64, Box<dyn Error>> {
        self.input.write_all(phase.line().as_bytes())?;
        let Ends { endpoint, bare } = &mut self.ends;
        let (request, body) = ([1; REQUEST], vec![3; STREAMED]);
        match phase {
            Phase::BareTrips(count) => {
                let mut answer = [0; ANSWER];
                median_of(count, || {
                    spin_write(bare, &request)?;
                    Ok(spin_read(bare, &mut answer)?)
                })
            }
            Phase::Trips(count) => median_of(count, || {
                endpoint.send(Rank(1), &request, &[])?;
                spin_poll(endpoint, 1, || {})
            }),
            Phase::Gets(count) => {
                let time = median_of(count, || {
                    endpoint.get(OperationId(0), Rank(1), 0, ANSWER)?;
                    spin_poll(endpoint, 1, || {})
                });
                endpoint.send(Rank(1), &[], &[])?;
                time
            }
            Phase::BareStream(count) => {
                let start = Instant::now();
                for _ in 0..count {
                    spin_write(bare, &body)?;
                }
                spin_read(bare, &mut [0])?;
                Ok(nanoseconds(start))
            }
            Phase::Stream(count) => {
                let start = Instant::now();
                for _ in 0..count {
                    spin_send(endpoint, Rank(1), &[], &body)?;
                }
                spin_poll(endpoint, 1, || {})?;
                Ok(nanoseconds(start))
            }
        }
    }

    /// Ends the second process.
    ///
    /// # Errors
    /// It failed.
    pub fn end(self) -> Result<(), Box<dyn Error>> {
        let Self { ends, input, mut child } = self;
        drop(input);
        let status = child.wait()?;
        drop(ends);
        if status.success() { Ok(()) } else { Err(format!("the second process: {status}").into()) }
    }
}

/// The median time of what is done so many times.
fn median_of(count: usize, mut trip: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<u64, Box<dyn Error>> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        trip()?;
        times.push(nanoseconds(start));
    }
    Ok(median(times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_survives_its_line() {
        for phase in [Phase::BareTrips(1), Phase::Trips(2), Phase::Gets(3), Phase::BareStream(4), Phase::Stream(5)] {
            assert_eq!(phase.line().parse::<Phase>().unwrap(), phase);
        }
        assert!("trips".parse::<Phase>().is_err());
        assert!("walks 3".parse::<Phase>().is_err());
    }
}
