//! What ranks tell each other over the lifeline before the first work request: where their queue pair and their memory are, and then that they
//! are ready to receive.
//!
//! Everything is checked before it is used: a peer is authenticated, but may be of another version, or broken.

use vincs_coherence::transport::MAX_HEADER;

use crate::choose::GidType;
use crate::stream::SLOT_BYTES;
use crate::verbs::memory::RemoteMemory;
use crate::verbs::queue_pair::{Remote, RemoteAddress};

/// The first bytes of all that is said here.
const MAGIC: [u8; 4] = *b"vRDM";

/// Version of all that this crate sends.
const VERSION: u16 = 1;

/// Length of what everything begins with.
const HEAD_BYTES: usize = 8;

/// Length of an introduction.
const INTRODUCTION_BYTES: usize = HEAD_BYTES + 52;

/// Length of one that has a door.
const DOOR_BYTES: usize = INTRODUCTION_BYTES + 2 + TOKEN_BYTES + 12;

const _: () = assert!(DOOR_BYTES <= MAX_HEADER);

/// Length of what a door is opened with.
pub(crate) const TOKEN_BYTES: usize = 16;

/// Numbers of queue pairs and packets have so many bits.
const NUMBER_BITS: u32 = 24;

/// Longest packets that there are, as the verbs library counts: 256 bytes to 4 KiB.
const MTUS: std::ops::RangeInclusive<u8> = 1..=5;

/// Slots that a peer may have: fewer than 4 would be given back one by one, and more than this are more than a queue pair takes.
const SLOTS: std::ops::RangeInclusive<u16> = 4..=16384;

/// A queue pair, and what belongs to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Introduction {
    /// How its packets look.
    pub(crate) kind: GidType,
    /// The queue pair.
    pub(crate) remote: Remote,
    /// Longest packet, as the verbs library counts.
    pub(crate) mtu: u8,
    /// Reads and atomics that it serves at once.
    pub(crate) reads_served: u8,
    /// The segment.
    pub(crate) memory: RemoteMemory,
    /// How many slots it has for messages.
    pub(crate) slots: u16,
    /// On iWARP, and only there.
    pub(crate) door: Option<Door>,
}

/// Where a queue pair of an iWARP device is connected. The higher of two ranks does that.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Door {
    /// Port of the address that its GID is.
    pub(crate) port: u16,
    /// What comes along with the request: nobody but this peer has heard it.
    pub(crate) token: [u8; TOKEN_BYTES],
    /// A byte that this peer can read: its signs of life do.
    pub(crate) pulse: RemoteAddress,
}

/// What is said over the lifeline.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Greeting {
    /// Where everything is.
    Introduction(Introduction),
    /// Messages can be received.
    Ready,
}

/// What no peer of this version says.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum GreetingFault {
    #[error("said something else where it should introduce its queue pair")]
    Magic,
    #[error("speaks version {0} of the RDMA transport, this rank version {VERSION}")]
    Version(u16),
    #[error("introduced its queue pair with {length} bytes, which has {right}")]
    Length { length: usize, right: usize },
    #[error("introduced its queue pair with a {0} that there is not")]
    Field(&'static str),
    #[error("has a queue pair that serves no reads and atomics")]
    NoReads,
    #[error("has slots of {0} bytes for messages, this rank of {SLOT_BYTES}")]
    SlotBytes(u32),
}

impl Greeting {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let (kind, packets) = match self {
            Self::Introduction(Introduction { kind: GidType::InfiniBand, .. }) => (1, 1),
            Self::Introduction(Introduction { kind: GidType::RoceV2, .. }) => (1, 2),
            Self::Introduction(Introduction { kind: GidType::RoceV1, .. }) => (1, 3),
            Self::Introduction(Introduction { kind: GidType::Iwarp, .. }) => (1, 4),
            Self::Ready => (2, 0),
        };
        let mut bytes = Vec::with_capacity(DOOR_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend([kind, packets]);
        if let Self::Introduction(Introduction { remote, mtu, reads_served, memory, slots, door, .. }) = self {
            bytes.extend(remote.queue_pair.to_le_bytes());
            bytes.extend(remote.first_packet.to_le_bytes());
            bytes.extend(remote.gid);
            bytes.extend(remote.lid.to_le_bytes());
            bytes.extend([mtu, reads_served]);
            bytes.extend(memory.address.to_le_bytes());
            bytes.extend(memory.length.to_le_bytes());
            bytes.extend(memory.key.to_le_bytes());
            bytes.extend(slots.to_le_bytes());
            // It fits.
            bytes.extend(u16::try_from(SLOT_BYTES).unwrap_or(u16::MAX).to_le_bytes());
            if let Some(Door { port, token, pulse }) = door {
                bytes.extend(port.to_le_bytes());
                bytes.extend(token);
                bytes.extend(pulse.address.to_le_bytes());
                bytes.extend(pulse.key.to_le_bytes());
            }
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, GreetingFault> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(GreetingFault::Magic)?;
        let [m0, m1, m2, m3, v0, v1, kind, packets] = *head;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(GreetingFault::Magic);
        }
        let version = u16::from_le_bytes([v0, v1]);
        if version != VERSION {
            return Err(GreetingFault::Version(version));
        }
        match (kind, packets, rest) {
            (1, 1, _) => introduction(GidType::InfiniBand, rest).map(Self::Introduction),
            (1, 2, _) => introduction(GidType::RoceV2, rest).map(Self::Introduction),
            (1, 3, _) => introduction(GidType::RoceV1, rest).map(Self::Introduction),
            (1, 4, _) => introduction(GidType::Iwarp, rest).map(Self::Introduction),
            (1, _, _) => Err(GreetingFault::Field("kind of packets")),
            (2, 0, []) => Ok(Self::Ready),
            _ => Err(GreetingFault::Magic),
        }
    }
}

/// Takes the next bytes.
fn next<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], GreetingFault> {
    let fault = GreetingFault::Length { length: HEAD_BYTES + bytes.len(), right: INTRODUCTION_BYTES };
    let (first, rest) = bytes.split_first_chunk().ok_or(fault)?;
    *bytes = rest;
    Ok(*first)
}

fn introduction(kind: GidType, mut bytes: &[u8]) -> Result<Introduction, GreetingFault> {
    let length = HEAD_BYTES + bytes.len();
    let right = if kind == GidType::Iwarp { DOOR_BYTES } else { INTRODUCTION_BYTES };
    if length != right {
        return Err(GreetingFault::Length { length, right });
    }
    let rest = &mut bytes;
    let remote = Remote {
        queue_pair: u32::from_le_bytes(next(rest)?),
        first_packet: u32::from_le_bytes(next(rest)?),
        gid: next(rest)?,
        lid: u16::from_le_bytes(next(rest)?),
    };
    let [mtu, reads_served] = next(rest)?;
    let memory = RemoteMemory {
        address: u64::from_le_bytes(next(rest)?),
        length: u64::from_le_bytes(next(rest)?),
        key: u32::from_le_bytes(next(rest)?),
    };
    let slots = u16::from_le_bytes(next(rest)?);
    let slot_bytes = u16::from_le_bytes(next(rest)?);
    let door = match kind {
        GidType::Iwarp => {
            let (port, token) = (u16::from_le_bytes(next(rest)?), next(rest)?);
            let (address, key) = (u64::from_le_bytes(next(rest)?), u32::from_le_bytes(next(rest)?));
            Some(Door { port, token, pulse: RemoteAddress { address, key } })
        }
        GidType::InfiniBand | GidType::RoceV1 | GidType::RoceV2 => None,
    };
    let checks = [
        (remote.queue_pair >> NUMBER_BITS == 0 && remote.queue_pair > 0, "number"),
        (remote.first_packet >> NUMBER_BITS == 0, "packet number"),
        (kind != GidType::InfiniBand || remote.lid != 0, "local identifier"),
        (MTUS.contains(&mtu), "packet length"),
        (memory.address.checked_add(memory.length).is_some(), "segment"),
        (memory.address.is_multiple_of(8) && memory.length.is_multiple_of(8), "segment of words"),
        (SLOTS.contains(&slots), "number of slots"),
        (door.is_none_or(|door| door.port > 0), "port"),
    ];
    if let Some((_, field)) = checks.into_iter().find(|(right, _)| !right) {
        return Err(GreetingFault::Field(field));
    }
    if reads_served == 0 {
        return Err(GreetingFault::NoReads);
    }
    if usize::from(slot_bytes) != SLOT_BYTES {
        return Err(GreetingFault::SlotBytes(slot_bytes.into()));
    }
    Ok(Introduction { kind, remote, mtu, reads_served, memory, slots, door })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const THEIRS: Introduction = Introduction {
        kind: GidType::RoceV2,
        remote: Remote { queue_pair: 0x00ab_cdef, first_packet: 0x00ff_ffff, lid: 0, gid: [7; 16] },
        mtu: 3,
        reads_served: 16,
        memory: RemoteMemory { address: 0x7f00_0000_1000, length: 8 << 20, key: 0x1234_5678 },
        slots: 128,
        door: None,
    };

    const PULSE: RemoteAddress = RemoteAddress { address: 0x7f00_0000_2000, key: 0x8765_4321 };

    const IWARP: Introduction = Introduction {
        kind: GidType::Iwarp,
        door: Some(Door { port: 4711, token: [9; TOKEN_BYTES], pulse: PULSE }),
        ..THEIRS
    };

    #[test]
    fn greetings_come_back() {
        let infiniband = Introduction {
            kind: GidType::InfiniBand,
            remote: Remote { lid: 9, ..THEIRS.remote },
            memory: RemoteMemory::default(),
            ..THEIRS
        };
        let roce_v1 = Introduction { kind: GidType::RoceV1, ..THEIRS };
        for greeting in
            [THEIRS, roce_v1, infiniband, IWARP].map(Greeting::Introduction).into_iter().chain([Greeting::Ready])
        {
            assert_eq!(Greeting::from_bytes(&greeting.to_bytes()), Ok(greeting));
        }
        assert_eq!(Greeting::Introduction(THEIRS).to_bytes().len(), INTRODUCTION_BYTES);
        assert_eq!(Greeting::Introduction(IWARP).to_bytes().len(), DOOR_BYTES);
    }

    #[test]
    fn each_field_that_cannot_be_is_named() {
        let with = |change: fn(&mut Introduction)| {
            let mut changed = THEIRS;
            change(&mut changed);
            Greeting::from_bytes(&Greeting::Introduction(changed).to_bytes())
        };
        for (change, field) in [
            ((|i| i.remote.queue_pair = 1 << 24) as fn(&mut Introduction), "number"),
            (|i| i.remote.queue_pair = 0, "number"),
            (|i| i.remote.first_packet = 1 << 24, "packet number"),
            (|i| i.kind = GidType::InfiniBand, "local identifier"),
            (|i| i.mtu = 0, "packet length"),
            (|i| i.mtu = 6, "packet length"),
            (|i| i.memory.address = u64::MAX - 7, "segment"),
            (|i| i.memory.length = 12, "segment of words"),
            (|i| i.slots = 3, "number of slots"),
        ] {
            assert_eq!(with(change), Err(GreetingFault::Field(field)));
        }
        assert_eq!(with(|i| i.reads_served = 0), Err(GreetingFault::NoReads));
        assert!(with(|i| i.reads_served = 1).is_ok());
        let closed = Introduction { door: Some(Door { port: 0, token: [0; TOKEN_BYTES], pulse: PULSE }), ..IWARP };
        let closed = Greeting::Introduction(closed).to_bytes();
        assert_eq!(Greeting::from_bytes(&closed), Err(GreetingFault::Field("port")));
        let short = GreetingFault::Length { length: DOOR_BYTES - 1, right: DOOR_BYTES };
        assert_eq!(Greeting::from_bytes(&closed[..DOOR_BYTES - 1]), Err(short));
        let mut bytes = Greeting::Introduction(THEIRS).to_bytes();
        for packets in [0, 5] {
            bytes[7] = packets;
            assert_eq!(Greeting::from_bytes(&bytes), Err(GreetingFault::Field("kind of packets")));
        }
        bytes[7] = 2;
        assert_eq!(Greeting::from_bytes(&bytes[1..]), Err(GreetingFault::Magic));
        assert_eq!(Greeting::from_bytes(&bytes[..59]), Err(GreetingFault::Length { length: 59, right: 60 }));
        bytes[58] ^= 1;
        assert!(matches!(Greeting::from_bytes(&bytes), Err(GreetingFault::SlotBytes(_))));
        bytes[4] = 9;
        assert_eq!(Greeting::from_bytes(&bytes), Err(GreetingFault::Version(9)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_greeting_or_a_fault(bytes in vec(any::<u8>(), 0..80), kind in 0..4_u8, packets in 0..6_u8) {
            // Whole garbage, and garbage behind a right beginning.
            let _: Result<Greeting, GreetingFault> = Greeting::from_bytes(&bytes);
            let begun = [&MAGIC[..], &VERSION.to_le_bytes(), &[kind, packets], &bytes].concat();
            if let Ok(greeting) = Greeting::from_bytes(&begun) {
                prop_assert_eq!(greeting.to_bytes(), begun);
            }
        }

        #[test]
        fn a_flipped_bit_changes_the_introduction_or_is_a_fault(bit in 0..INTRODUCTION_BYTES * 8) {
            let mut bytes = Greeting::Introduction(THEIRS).to_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(Greeting::from_bytes(&bytes), Ok(Greeting::Introduction(THEIRS)));
        }
    }
}
