//! Console device (virtio 1.2 section 5.3) with several named ports, byte streams between host and guest.
//!
//! No port is a console in the narrow sense: kernel messages go to the serial port. The guest learns of the ports and
//! of opening and closing by messages on the control queues. On the host's side a port is open from the start, and
//! closed for good when its input ends or its output fails. The guest hears of it after all data was handed over.
//!
//! - Nothing is read from the host before a program in the guest has the port open and has given buffers, so nothing
//!   is lost.
//! - A host that does not take output stalls that port alone, and the ordered port if there is one
//!   ([`Console::with_ordered_port`]): the guest's buffers stay in use until it does.
//! - A driver without VIRTIO_CONSOLE_F_MULTIPORT can only write to port 0.
//!
//! What Linux does (drivers/char/virtio_console.c): a port can be opened once at a time; with the host's side closed,
//! reading gives the rest of the data and then the end, poll(2) tells POLLHUP, and *writing waits*. So a program that
//! must end with its reader has to poll.

use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

use rustix::event::PollFlags;
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

use super::{DeviceError, Queues, VirtioDevice};

mod control;
mod port;

pub use port::{CutOff, Port};

use control::{FromDriver, MESSAGE_BYTES};
use port::{Direction, Output, PortState, WRITES_PER_TURN};

/// Buffers of each queue. Linux fills every receive queue with buffers of one page.
const QUEUE_SIZE: u16 = 64;
/// VIRTIO_CONSOLE_F_MULTIPORT (section 5.3.3).
const MULTIPORT: u64 = 1 << 1;
/// Queues that carry control messages to the driver and from it (section 5.3.2).
const CONTROL_RECEIVE_QUEUE: usize = 2;
const CONTROL_TRANSMIT_QUEUE: usize = 3;

/// The console device.
#[derive(Debug)]
pub struct Console {
    name: String,
    ports: Vec<PortState>,
    queue_sizes: Vec<u16>,
    /// Index of the port of [`Console::with_ordered_port`].
    ordered: Option<usize>,
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    Port(usize, Direction),
    ControlReceive,
    ControlTransmit,
}

/// The role of a queue by its index (section 5.3.2).
fn role(queue: usize) -> Role {
    let direction = if queue.is_multiple_of(2) { Direction::Input } else { Direction::Output };
    match queue {
        0 | 1 => Role::Port(0, direction),
        CONTROL_RECEIVE_QUEUE => Role::ControlReceive,
        CONTROL_TRANSMIT_QUEUE => Role::ControlTransmit,
        _ => Role::Port(queue / 2 - 1, direction),
    }
}

/// The receive queue of a port by its index; its transmit queue is the next one.
fn receive_queue(port: usize) -> usize {
    if port == 0 { 0 } else { 2 * port + 2 }
}

impl Console {
    /// A console device of this name with these ports, numbered in their order.
    #[must_use]
    pub fn new(name: &str, ports: Vec<Port>) -> Self {
        // The queues of port 0 exist without it too.
        let queues = 2 * (ports.len().max(1) + 1);
        let state = |(index, port)| PortState::new(port, receive_queue(index), receive_queue(index) + 1);
        Self {
            name: name.to_owned(),
            ports: ports.into_iter().enumerate().map(state).collect(),
            queue_sizes: vec![QUEUE_SIZE; queues],
            ordered: None,
        }
    }

    /// What the guest writes to the port of this index reaches the host only after everything that the guest had
    /// written to other ports before. A message there that a command has ended thus comes after its output, however
    /// slow the reader of that is.
    #[must_use]
    pub fn with_ordered_port(self, index: usize) -> Self {
        Self { ordered: Some(index), ..self }
    }

    fn receive_control(&mut self, queues: &mut Queues) -> Result<(), DeviceError> {
        while let Some(chain) = queues.pop(CONTROL_TRANSMIT_QUEUE)? {
            let mut message = [0; MESSAGE_BYTES];
            let whole = chain.hold_readable(&queues.memory)?.reader().read_exact(&mut message).is_ok();
            queues.push_used(chain, 0)?;
            if whole {
                self.obey(FromDriver::decode(message), queues)?;
            } else {
                tracing::debug!("{}: a control message under {MESSAGE_BYTES} bytes ignored", self.name);
            }
        }
        Ok(())
    }

    fn obey(&mut self, message: FromDriver, queues: &mut Queues) -> Result<(), DeviceError> {
        match message {
            FromDriver::DeviceReady(true) => self.ports.iter_mut().for_each(PortState::driver_is_ready),
            FromDriver::DeviceReady(false) => tracing::warn!("{}: the guest's driver failed to start", self.name),
            FromDriver::PortReady { port, ok: false } => {
                tracing::warn!("{}: the guest's driver failed to set up port {port}", self.name);
            }
            FromDriver::PortReady { port, ok: true } => {
                if let Some(port) = self.port(port) {
                    port.port_is_ready();
                }
            }
            FromDriver::PortOpen { port, open } => {
                if let Some(port) = self.port(port) {
                    port.set_guest_open(open);
                    port.pump_input(queues)?;
                }
            }
            FromDriver::Unknown { port, event } => {
                tracing::debug!("{}: control message {event} for port {port} ignored", self.name);
            }
        }
        Ok(())
    }

    fn port(&mut self, index: u32) -> Option<&mut PortState> {
        let port = usize::try_from(index).ok().and_then(|index| self.ports.get_mut(index));
        if port.is_none() {
            tracing::debug!("{}: control message for port {index}, which does not exist", self.name);
        }
        port
    }

    /// Sends the messages that are due, as far as the driver has given buffers; the rest goes when it gives more.
    fn send_control(&mut self, queues: &mut Queues) -> Result<(), DeviceError> {
        for (index, port) in (0..).zip(&mut self.ports) {
            while let Some(message) = port.due() {
                let message = message.encode(index);
                let Some(chain) = queues.pop(CONTROL_RECEIVE_QUEUE)? else { return Ok(()) };
                if chain.hold_writable(&queues.memory)?.writer().write_all(&message).is_err() {
                    return Err(chain.broken("a control buffer too small for a message"));
                }
                queues.push_used(chain, message.len())?;
                port.sent();
            }
        }
        Ok(())
    }

    /// Moves what there is to move through a port in one direction.
    fn pump(&mut self, index: usize, direction: Direction, queues: &mut Queues) -> Result<(), DeviceError> {
        let ordered = self.ordered == Some(index);
        let Some(port) = self.ports.get_mut(index) else { return Ok(()) };
        match direction {
            Direction::Input => return port.pump_input(queues),
            Direction::Output if ordered => return self.pump_ordered(index, queues),
            Direction::Output => port.pump_output(queues)?,
        }
        // The ordered port may have waited for this.
        match self.ordered {
            Some(ordered) if self.ports.get(ordered).is_some_and(PortState::has_output) => {
                self.pump_ordered(ordered, queues)
            }
            _ => Ok(()),
        }
    }

    /// Moves the output of the ordered port: each chain after all output that was there when it was taken.
    fn pump_ordered(&mut self, index: usize, queues: &mut Queues) -> Result<(), DeviceError> {
        let mut writes_left = WRITES_PER_TURN;
        let Some((before, from)) = self.ports.split_at_mut_checked(index) else { return Ok(()) };
        let Some((port, after)) = from.split_first_mut() else { return Ok(()) };
        while let Some(output) = port.next_output(queues)? {
            let mut held_back = false;
            for other in before.iter_mut().chain(after.iter_mut()) {
                if output == Output::New {
                    other.count_output(queues)?;
                }
                if other.is_ahead() {
                    other.pump_output(queues)?;
                }
                held_back |= other.is_ahead();
            }
            port.hold_back(held_back);
            if held_back || !port.write_output(queues, &mut writes_left)? {
                break;
            }
        }
        Ok(())
    }

    /// What the ports wait for, in the order of [`VirtioDevice::wait_for`].
    fn waiting(&self) -> impl Iterator<Item = (usize, Direction, BorrowedFd<'_>, PollFlags)> {
        let of_port = |(index, port)| PortState::wait_for(port).map(move |(way, fd, events)| (index, way, fd, events));
        self.ports.iter().enumerate().flat_map(of_port)
    }
}

impl VirtioDevice for Console {
    fn name(&self) -> &str {
        &self.name
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn features(&self) -> u64 {
        MULTIPORT
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    /// Columns and rows (not offered) and the number of ports (section 5.3.4).
    fn config(&self) -> Vec<u8> {
        let ports = u32::try_from(self.ports.len()).unwrap_or(u32::MAX);
        [[0; 4], ports.to_le_bytes()].concat()
    }

    fn activate(&mut self, _features: u64) {}

    fn handle_queue(&mut self, queue: usize, queues: &mut Queues) -> Result<(), DeviceError> {
        match role(queue) {
            Role::ControlReceive => {}
            Role::ControlTransmit => self.receive_control(queues)?,
            Role::Port(index, direction) => {
                if let Some(port) = self.ports.get_mut(index).filter(|_| direction == Direction::Input) {
                    port.may_receive();
                }
                self.pump(index, direction, queues)?;
            }
        }
        self.send_control(queues)
    }

    fn wait_for(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        self.waiting().map(|(_, _, fd, events)| (fd, events)).collect()
    }

    fn handle_ready(&mut self, ready: &[usize], queues: &mut Queues) -> Result<(), DeviceError> {
        let waiting: Vec<_> = self.waiting().map(|(index, direction, _, _)| (index, direction)).collect();
        for &(index, direction) in ready.iter().filter_map(|&ready| waiting.get(ready)) {
            self.pump(index, direction, queues)?;
        }
        self.send_control(queues)
    }

    fn reset(&mut self) {
        self.ports.iter_mut().for_each(PortState::reset);
    }
}

#[cfg(test)]
mod tests;
