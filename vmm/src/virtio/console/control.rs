//! Messages on the control queues (virtio 1.2 section 5.3.6.2).

/// Length in bytes of a message without a name.
pub(super) const MESSAGE_BYTES: usize = 8;

const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// What the driver says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum FromDriver {
    /// It is ready to hear of ports, or failed to start.
    DeviceReady(bool),
    /// It has set up a port, or failed to.
    PortReady { port: u32, ok: bool },
    /// A program opened or closed a port.
    PortOpen { port: u32, open: bool },
    /// Something that no device may be told.
    Unknown { port: u32, event: u16 },
}

impl FromDriver {
    pub(super) fn decode(message: [u8; MESSAGE_BYTES]) -> Self {
        let [p0, p1, p2, p3, e0, e1, v0, v1] = message;
        let port = u32::from_le_bytes([p0, p1, p2, p3]);
        let set = u16::from_le_bytes([v0, v1]) != 0;
        match u16::from_le_bytes([e0, e1]) {
            DEVICE_READY => Self::DeviceReady(set),
            PORT_READY => Self::PortReady { port, ok: set },
            PORT_OPEN => Self::PortOpen { port, open: set },
            event => Self::Unknown { port, event },
        }
    }
}

/// What the device says of a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ToDriver<'a> {
    /// There is such a port.
    Add,
    /// Its name.
    Name(&'a str),
    /// Whether the host's side of it is open.
    Open(bool),
}

impl ToDriver<'_> {
    pub(super) fn encode(self, port: u32) -> Vec<u8> {
        let (event, value, name) = match self {
            Self::Add => (DEVICE_ADD, 1, ""),
            Self::Name(name) => (PORT_NAME, 1, name),
            Self::Open(open) => (PORT_OPEN, u16::from(open), ""),
        };
        [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes(), name.as_bytes()].concat()
    }
}
