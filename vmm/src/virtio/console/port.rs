//! One port: host descriptors on one side, a pair of queues on the other.
//!
//! Descriptors are used as they are: they may be shared with other processes (a terminal with the shell), so their
//! O_NONBLOCK flag is not ours to set. Each read and write follows a poll(2) that said it will not wait, and moves at
//! most [`CHUNK`] bytes, which a pipe with any room takes at once.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::control::ToDriver;
use crate::virtio::{Chain, DeviceError, Queues};

/// Bytes moved by one read or write: PIPE_BUF, the most a pipe takes without waiting when poll(2) says it is writable.
pub(super) const CHUNK: usize = 4096;

/// Writes to one port's output before the others have their turn.
pub(super) const WRITES_PER_TURN: usize = 256;

/// A port of a console, as the host gives it. A port without input never has data for the guest; what the guest sends
/// to a port without output vanishes.
#[derive(Debug)]
pub struct Port {
    /// The name by which programs in the guest find it.
    pub name: String,
    /// Where the guest's input comes from; any kind of file.
    pub input: Option<OwnedFd>,
    /// Where the guest's output goes; any kind of file. The process must ignore SIGPIPE, as Rust programs do.
    pub output: Option<OwnedFd>,
    /// What is told when the host does not take it.
    pub cut_off: CutOff,
}

impl Port {
    /// A port with neither side.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), input: None, output: None, cut_off: CutOff::default() }
    }
}

/// Why output was cut off: the host's first error on writing it. That nobody reads any more (EPIPE) is none, as nobody wants the rest.
#[derive(Clone, Debug, Default)]
pub struct CutOff(Arc<OnceLock<io::Error>>);

impl CutOff {
    /// Keeps an error, if it is the first.
    pub fn set(&self, error: io::Error) {
        if error.kind() != io::ErrorKind::BrokenPipe {
            self.0.get_or_init(|| error);
        }
    }

    /// The error, if there was one.
    #[must_use]
    pub fn error(&self) -> Option<&io::Error> {
        self.0.get()
    }
}

/// What waits for readiness.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Direction {
    /// The host has something to read for the guest.
    Input,
    /// The host takes what the guest has written.
    Output,
}

/// Control messages that are due, sent in this order.
#[derive(Clone, Copy, Debug, Default)]
struct Due {
    add: bool,
    name: bool,
    open: bool,
}

/// Output that the host has not taken all of yet.
#[derive(Debug)]
struct Unwritten {
    chain: Chain,
    /// Bytes of it that are written.
    done: usize,
}

/// A port at work.
#[derive(Debug)]
pub(super) struct PortState {
    port: Port,
    receive_queue: usize,
    transmit_queue: usize,
    /// A program in the guest has it open.
    guest_open: bool,
    /// The guest is told that the host has it open; once closed it stays closed.
    host_open: bool,
    due: Due,
    /// A receive buffer taken from the queue that is still empty.
    spare: Option<Chain>,
    /// The receive queue may have buffers: it was not found empty since its last notification.
    may_receive: bool,
    unwritten: Option<Unwritten>,
    /// Chains of output to give back until the ordered port may go on.
    ahead: u16,
    /// Output waits for other ports, not for the host.
    held_back: bool,
}

/// A chain of output to write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Output {
    /// Just taken from the queue.
    New,
    /// Begun before.
    Underway,
}

impl PortState {
    pub(super) fn new(port: Port, receive_queue: usize, transmit_queue: usize) -> Self {
        Self {
            port,
            receive_queue,
            transmit_queue,
            guest_open: false,
            host_open: true,
            due: Due::default(),
            spare: None,
            may_receive: true,
            unwritten: None,
            ahead: 0,
            held_back: false,
        }
    }

    /// Forgets the driver; what the host has closed stays closed.
    pub(super) fn reset(&mut self) {
        (self.guest_open, self.may_receive, self.due) = (false, true, Due::default());
        (self.spare, self.unwritten, self.ahead, self.held_back) = (None, None, 0, false);
    }

    /// The driver wants to hear of its ports.
    pub(super) fn driver_is_ready(&mut self) {
        self.due.add = true;
    }

    /// The driver has set the port up.
    pub(super) fn port_is_ready(&mut self) {
        (self.due.name, self.due.open) = (true, true);
    }

    /// A program in the guest has opened or closed the port.
    pub(super) fn set_guest_open(&mut self, open: bool) {
        self.guest_open = open;
    }

    /// The driver has put buffers into the receive queue.
    pub(super) fn may_receive(&mut self) {
        self.may_receive = true;
    }

    /// The next message to the driver.
    pub(super) fn due(&self) -> Option<ToDriver<'_>> {
        match self.due {
            Due { add: true, .. } => Some(ToDriver::Add),
            Due { name: true, .. } => Some(ToDriver::Name(&self.port.name)),
            Due { open: true, .. } => Some(ToDriver::Open(self.host_open)),
            Due { .. } => None,
        }
    }

    /// The message of [`Self::due`] is sent.
    pub(super) fn sent(&mut self) {
        match self.due {
            Due { add: true, .. } => self.due.add = false,
            Due { name: true, .. } => self.due.name = false,
            Due { .. } => self.due.open = false,
        }
    }

    /// What the port waits for on the host.
    pub(super) fn wait_for(&self) -> impl Iterator<Item = (Direction, BorrowedFd<'_>, PollFlags)> {
        let input = self.port.input.as_ref().filter(|_| self.guest_open && self.spare.is_some());
        let output = self.port.output.as_ref().filter(|_| self.unwritten.is_some() && !self.held_back);
        let input = input.map(|fd| (Direction::Input, fd.as_fd(), PollFlags::IN));
        input.into_iter().chain(output.map(|fd| (Direction::Output, fd.as_fd(), PollFlags::OUT)))
    }

    /// Fills the guest's buffers with what the host has, while a program in the guest has the port open.
    pub(super) fn pump_input(&mut self, queues: &mut Queues) -> Result<(), DeviceError> {
        let mut bytes = [0; CHUNK];
        while let (true, Some(input)) = (self.guest_open, &self.port.input) {
            if self.spare.is_none() && self.may_receive {
                self.spare = queues.pop(self.receive_queue)?;
                self.may_receive = self.spare.is_some();
            }
            let Some(chain) = self.spare.take() else { break };
            let room = usize::try_from(chain.writable_len()).unwrap_or(CHUNK).min(CHUNK);
            if room == 0 {
                // To read nothing would look like the end of the input.
                queues.push_used(chain, 0)?;
                continue;
            }
            let read = if is_ready(input, PollFlags::IN) {
                rustix::io::read(input, bytes.get_mut(..room).unwrap_or_default())
            } else {
                Err(Errno::AGAIN)
            };
            match read {
                Ok(count) if count > 0 => {
                    let data = bytes.get(..count).unwrap_or_default();
                    let filled = chain.hold_writable(&queues.memory)?.writer().write_all(data);
                    filled.map_err(|error| chain.broken(&error.to_string()))?;
                    queues.push_used(chain, count)?;
                    continue;
                }
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => {
                    self.spare = Some(chain);
                    continue;
                }
                Ok(_) => self.close(Direction::Input),
                Err(error) => {
                    tracing::debug!("port {}: its input ends: {error}", self.port.name);
                    self.close(Direction::Input);
                }
            }
            self.spare = Some(chain);
            break;
        }
        Ok(())
    }

    /// Writes what the guest has sent, as much as the host takes now. A chain is given back when all of it is written.
    pub(super) fn pump_output(&mut self, queues: &mut Queues) -> Result<(), DeviceError> {
        let mut writes_left = WRITES_PER_TURN;
        while self.next_output(queues)?.is_some() {
            if !self.write_output(queues, &mut writes_left)? {
                break;
            }
        }
        Ok(())
    }

    /// The chain to write next, if there is one.
    pub(super) fn next_output(&mut self, queues: &mut Queues) -> Result<Option<Output>, DeviceError> {
        if self.unwritten.is_some() {
            return Ok(Some(Output::Underway));
        }
        self.unwritten = queues.pop(self.transmit_queue)?.map(|chain| Unwritten { chain, done: 0 });
        Ok(self.unwritten.as_ref().map(|_| Output::New))
    }

    /// Writes the chain of [`Self::next_output`] and gives it back; false when the host does not take all of it now, or
    /// no writes are left.
    pub(super) fn write_output(&mut self, queues: &mut Queues, writes_left: &mut usize) -> Result<bool, DeviceError> {
        let Some(unwritten) = self.unwritten.take() else { return Ok(true) };
        match self.write_out(unwritten, queues, writes_left)? {
            Ok(chain) => {
                queues.push_used(chain, 0)?;
                self.ahead = self.ahead.saturating_sub(1);
                Ok(true)
            }
            Err(blocked) => {
                self.unwritten = Some(blocked);
                Ok(false)
            }
        }
    }

    /// Whether a chain of output is underway.
    pub(super) fn has_output(&self) -> bool {
        self.unwritten.is_some()
    }

    /// Remembers how much output there is now: what the ordered port must let pass.
    pub(super) fn count_output(&mut self, queues: &Queues) -> Result<(), DeviceError> {
        self.ahead = queues.waiting(self.transmit_queue)?.saturating_add(u16::from(self.unwritten.is_some()));
        Ok(())
    }

    /// Whether output counted by [`Self::count_output`] is not written yet.
    pub(super) fn is_ahead(&self) -> bool {
        self.ahead > 0
    }

    /// Output waits for other ports.
    pub(super) fn hold_back(&mut self, held_back: bool) {
        self.held_back = held_back;
    }

    /// Writes the rest of a chain: gives the chain, or what is left when the host takes no more.
    fn write_out(
        &mut self,
        Unwritten { chain, mut done }: Unwritten,
        queues: &Queues,
        writes_left: &mut usize,
    ) -> Result<Result<Chain, Unwritten>, DeviceError> {
        let mut bytes = [0; CHUNK];
        while let Some(output) = &self.port.output {
            let count = {
                let held = chain.hold_readable(&queues.memory)?;
                let mut reader = held.reader();
                reader.skip(done);
                reader.read(&mut bytes).map_err(|error| chain.broken(&error.to_string()))?
            };
            if count == 0 {
                break;
            }
            if *writes_left == 0 || !is_ready(output, PollFlags::OUT) {
                return Ok(Err(Unwritten { chain, done }));
            }
            *writes_left -= 1;
            match rustix::io::write(output, bytes.get(..count).unwrap_or_default()) {
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Err(Unwritten { chain, done })),
                Err(error) => {
                    tracing::debug!("port {}: its output is closed: {error}", self.port.name);
                    self.port.cut_off.set(error.into());
                    self.close(Direction::Output);
                }
            }
        }
        Ok(Ok(chain))
    }

    /// The host's side ends. A port that only has no more input still takes output.
    fn close(&mut self, ended: Direction) {
        self.port.input = None;
        if ended == Direction::Output {
            self.port.output = None;
        }
        self.host_open = false;
        self.due.open = true;
    }
}

/// Whether reading or writing would not wait; also true for descriptors with an error, which reading or writing tells.
fn is_ready(fd: &OwnedFd, events: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd, events)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}
