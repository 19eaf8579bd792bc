//! What ranks tell each other besides pages, and how that looks on the wire.
//!
//! A message is a version byte and the message in postcard's encoding; bytes of devices and statistics go beside it as
//! the body. One encoding may be read as one message only: a message that is cut off, too long or of another version
//! is refused, as is a body where none belongs.

use serde::{Deserialize, Serialize};
use vincs_coherence::id::{MAX_RANKS, Rank};
use vincs_coherence::transport::{MAX_BODY, MAX_HEADER};

use crate::apic::{Delivery, Targets};
use crate::topology::MAX_VCPUS;

/// Version of these messages; another one is refused.
pub const VERSION: u8 = 4;
/// Most bytes that one instruction of the guest moves to or from a device: KVM's page for string instructions.
pub(crate) const MAX_ACCESS: usize = 4096;
/// Most bytes of a text within a message. Longer ones are cut.
const MAX_TEXT: usize = 1024;
/// Most bytes of a rank's statistics.
pub(crate) const MAX_STATISTICS: usize = MAX_BODY;

/// Most bytes of a vCPU's state. The largest part is the extended state, 11 KiB with AMX.
pub(crate) const MAX_STATE: usize = 64 << 10;

/// An address of a device.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Place {
    /// A port.
    Port(u16),
    /// A guest-physical address.
    Memory(u64),
}

/// What a vCPU wants of a device.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Access {
    /// So many bytes from there.
    Read(Place, u16),
    /// The bytes in the body to there.
    Write(Place),
}

/// What a rank says of the clock of the machine: rank 0's.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct ClockReading {
    /// The guest's time-stamp counter.
    pub(crate) ticks: u64,
    /// What is added to the host's counter to get it.
    pub(crate) offset: u64,
    /// Its rate in kHz.
    pub(crate) khz: u32,
    /// Which boot of which host the counter is from.
    pub(crate) boot_id: [u8; 16],
}

/// How a vCPU ended that was not told to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum VcpuFailure {
    /// The guest shut it down.
    TripleFault,
    /// KVM or the host failed.
    Host(String),
}

/// One message.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Control {
    /// An interrupt for these processors, which are at the receiver or come there.
    Interrupt {
        /// Which.
        targets: Targets,
        /// As what.
        delivery: Delivery,
        /// Its vector; unused for NMI and INIT.
        vector: u8,
        /// Level-triggered.
        level: bool,
    },
    /// To rank 0: a level-triggered interrupt with this vector has ended.
    EndOfInterrupt {
        /// Its vector.
        vector: u8,
    },
    /// To rank 0: the driver notifies a device's queue. Not answered.
    Notify {
        /// Address of the device's register.
        address: u64,
        /// What was written to it.
        queue: u32,
    },
    /// To rank 0: an access of a vCPU, which waits for the answer.
    Access {
        /// The vCPU.
        vcpu: u32,
        /// What it wants.
        access: Access,
    },
    /// From rank 0: the access is done; what was read is in the body.
    Answer {
        /// The vCPU.
        vcpu: u32,
    },
    /// To rank 0: what does the clock say?
    ClockProbe {
        /// Comes back in the answer.
        number: u32,
    },
    /// From rank 0: this.
    ClockAnswer {
        /// The probe's.
        number: u32,
        /// What it says.
        reading: ClockReading,
    },
    /// To rank 0: a vCPU of the sender cannot go on.
    VcpuFailed {
        /// The vCPU.
        vcpu: u32,
        /// Why.
        failure: VcpuFailure,
    },
    /// A rank is lost, or gives up: to rank 0 from who has noticed, from rank 0 to all.
    Lost {
        /// Which rank.
        rank: Rank,
        /// Why.
        reason: String,
    },
    /// From rank 0: a vCPU moves. Send for it to its new place from now on, and tell its old one.
    Move {
        /// The vCPU.
        vcpu: u32,
        /// Where it is.
        from: Rank,
        /// Where it goes.
        to: Rank,
    },
    /// To the rank that a vCPU leaves: the sender sends nothing for it there any more.
    Repointed {
        /// The vCPU.
        vcpu: u32,
    },
    /// From the rank that a vCPU leaves to the one where it goes on. Its state is in the body.
    Vcpu {
        /// The vCPU.
        vcpu: u32,
    },
    /// To rank 0: a vCPU has come to the sender.
    Arrived {
        /// The vCPU.
        vcpu: u32,
    },
    /// From rank 0: all vCPUs stop at an instruction boundary.
    Pause {
        /// Comes back in the answer.
        number: u32,
    },
    /// To rank 0: the sender's do.
    Paused {
        /// The pause's.
        number: u32,
    },
    /// From rank 0: all vCPUs go on.
    Resume,
    /// From rank 0: tell what you have counted.
    StatisticsRequest,
    /// To rank 0: what the sender has counted, in the body.
    Statistics,
    /// From rank 0: the machine has ended with this status.
    End {
        /// Its status.
        status: i32,
    },
    /// To rank 0: the sender knows of the end, and takes no closed connection for a loss any more.
    EndSeen,
    /// From rank 0: all know of the end.
    Closed,
    /// Between other ranks: the sender is there without rank 0, or has heard this of a rank that is.
    Present,
    /// To rank 0: the sender can send to a rank that joins.
    Met {
        /// Which.
        rank: Rank,
    },
    /// To rank 0, from a rank that joins: it has set itself up.
    Ready,
    /// From rank 0: a rank takes part from now on. To that rank itself too.
    Come {
        /// Which.
        rank: Rank,
        /// All that take part, in order.
        ranks: Vec<Rank>,
        /// Where each vCPU is; none is on its way.
        places: Vec<Rank>,
    },
    /// To rank 0: the sender wants to leave.
    Leave,
    /// From rank 0 to a rank that joins: where the homes of pages are, in the body. They stay there until it takes part.
    Homes {
        /// Ranks that may have pages.
        vital: Vec<Rank>,
    },
    /// To rank 0: the sender knows them.
    HomesKnown,
    /// From rank 0: the receiver is to leave. Its vCPUs go to others, then the homes of its pages.
    ToLeave,
    /// From rank 0 to a rank that wants to leave: it stays.
    ToStay {
        /// Why.
        reason: String,
    },
    /// From rank 0 to a rank that leaves: no vCPU is there any more and the home of no page, and none will come. It is to give up all
    /// pages, and make sure that all that it sent has arrived.
    Drain,
    /// From a rank that leaves to all others: nothing that concerns the receiver's vCPUs follows.
    Parting,
    /// The answer: all before that has arrived.
    Parted,
    /// To rank 0, from a rank that leaves: nothing is there any more, nobody knows of a page there, and all that it sent has arrived.
    Drained,
    /// From rank 0: a rank takes no part any more. To that rank itself too.
    Gone {
        /// Which.
        rank: Rank,
    },
}

/// Number of kinds of messages.
pub(crate) const KINDS: usize = 35;
/// Their names in the statistics, in the order of [`Control::kind`].
pub(crate) const KIND_NAMES: [&str; KINDS] = [
    "interrupt",
    "end_of_interrupt",
    "notify",
    "access",
    "answer",
    "clock_probe",
    "clock_answer",
    "vcpu_failed",
    "lost",
    "vcpu",
    "statistics_request",
    "statistics",
    "end",
    "end_seen",
    "closed",
    "move",
    "repointed",
    "arrived",
    "pause",
    "paused",
    "resume",
    "present",
    "met",
    "ready",
    "come",
    "leave",
    "homes",
    "homes_known",
    "to_leave",
    "to_stay",
    "drain",
    "parting",
    "parted",
    "drained",
    "gone",
];

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("an empty message")]
    Empty,
    #[error("control messages of version {0}, this is version {VERSION}; use the same vincs on all ranks")]
    Version(u8),
    #[error("a message that is none, or is cut off")]
    Malformed,
    #[error("{0} bytes too many after a message")]
    Long(usize),
    #[error("{0} bytes beside a message that takes fewer")]
    Body(usize),
}

impl Control {
    /// A message that a rank is lost or gives up.
    pub(crate) fn lost(rank: Rank, reason: &str) -> Self {
        Self::Lost { rank, reason: cut(reason) }
    }

    /// A message that a rank stays.
    pub(crate) fn to_stay(reason: &str) -> Self {
        Self::ToStay { reason: cut(reason) }
    }

    /// A message that a vCPU cannot go on.
    pub(crate) fn vcpu_failed(vcpu: u32, failure: VcpuFailure) -> Self {
        let failure = match failure {
            VcpuFailure::TripleFault => failure,
            VcpuFailure::Host(text) => VcpuFailure::Host(cut(&text)),
        };
        Self::VcpuFailed { vcpu, failure }
    }

    /// Index of its kind, below [`KINDS`].
    pub(crate) fn kind(&self) -> usize {
        match self {
            Self::Interrupt { .. } => 0,
            Self::EndOfInterrupt { .. } => 1,
            Self::Notify { .. } => 2,
            Self::Access { .. } => 3,
            Self::Answer { .. } => 4,
            Self::ClockProbe { .. } => 5,
            Self::ClockAnswer { .. } => 6,
            Self::VcpuFailed { .. } => 7,
            Self::Lost { .. } => 8,
            Self::Vcpu { .. } => 9,
            Self::StatisticsRequest => 10,
            Self::Statistics => 11,
            Self::End { .. } => 12,
            Self::EndSeen => 13,
            Self::Closed => 14,
            Self::Move { .. } => 15,
            Self::Repointed { .. } => 16,
            Self::Arrived { .. } => 17,
            Self::Pause { .. } => 18,
            Self::Paused { .. } => 19,
            Self::Resume => 20,
            Self::Present => 21,
            Self::Met { .. } => 22,
            Self::Ready => 23,
            Self::Come { .. } => 24,
            Self::Leave => 25,
            Self::Homes { .. } => 26,
            Self::HomesKnown => 27,
            Self::ToLeave => 28,
            Self::ToStay { .. } => 29,
            Self::Drain => 30,
            Self::Parting => 31,
            Self::Parted => 32,
            Self::Drained => 33,
            Self::Gone { .. } => 34,
        }
    }

    /// Most bytes that may go beside it.
    fn max_body(&self) -> usize {
        match self {
            Self::Access { access: Access::Write(_), .. } | Self::Answer { .. } => MAX_ACCESS,
            Self::Statistics => MAX_STATISTICS,
            Self::Vcpu { .. } => MAX_STATE,
            Self::Homes { .. } => MAX_BODY,
            Self::Access { access: Access::Read(..), .. }
            | Self::Interrupt { .. }
            | Self::EndOfInterrupt { .. }
            | Self::Notify { .. }
            | Self::ClockProbe { .. }
            | Self::ClockAnswer { .. }
            | Self::VcpuFailed { .. }
            | Self::Lost { .. }
            | Self::StatisticsRequest
            | Self::End { .. }
            | Self::EndSeen
            | Self::Closed
            | Self::Move { .. }
            | Self::Repointed { .. }
            | Self::Arrived { .. }
            | Self::Pause { .. }
            | Self::Paused { .. }
            | Self::Resume
            | Self::Present
            | Self::Met { .. }
            | Self::Ready
            | Self::Come { .. }
            | Self::Leave
            | Self::HomesKnown
            | Self::ToLeave
            | Self::ToStay { .. }
            | Self::Drain
            | Self::Parting
            | Self::Parted
            | Self::Drained
            | Self::Gone { .. } => 0,
        }
    }

    /// The header to send.
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Messages hold nothing that cannot be encoded, and a vector takes any length; an empty header is refused there.
        postcard::to_extend(self, vec![VERSION]).unwrap_or_default()
    }

    /// The message in a header, beside which came a body of so many bytes.
    pub(crate) fn decode(header: &[u8], body: usize) -> Result<Self, DecodeError> {
        let (&version, bytes) = header.split_first().ok_or(DecodeError::Empty)?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        match postcard::take_from_bytes::<Self>(bytes) {
            Err(_) => Err(DecodeError::Malformed),
            Ok((_, rest)) if !rest.is_empty() => Err(DecodeError::Long(rest.len())),
            Ok((message, _)) if body > message.max_body() => Err(DecodeError::Body(body)),
            Ok((Self::Access { access: Access::Read(_, len), .. }, _)) if usize::from(len) > MAX_ACCESS => {
                Err(DecodeError::Malformed)
            }
            Ok((message, _)) => Ok(message),
        }
    }
}

/// The text, cut to what a message takes.
fn cut(text: &str) -> String {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

// Of a message that a rank has come: at most three bytes for each rank and each vCPU.
const _: () = assert!(3 * (MAX_RANKS as usize + MAX_VCPUS as usize) + 16 < MAX_HEADER);
const _: () = assert!(MAX_TEXT + 64 < MAX_HEADER && MAX_ACCESS <= MAX_BODY && MAX_STATE <= MAX_BODY);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn every_kind() -> Vec<Control> {
        let targets = [0, 254].into_iter().collect();
        let reading = ClockReading { ticks: u64::MAX, offset: 1, khz: 2, boot_id: [3; 16] };
        vec![
            Control::Interrupt { targets, delivery: Delivery::StartUp, vector: 9, level: true },
            Control::EndOfInterrupt { vector: 255 },
            Control::Notify { address: 0xd000_0050, queue: 1 },
            Control::Access { vcpu: 3, access: Access::Read(Place::Port(0x3f8), 4) },
            Control::Answer { vcpu: 3 },
            Control::ClockProbe { number: u32::MAX },
            Control::ClockAnswer { number: 0, reading },
            Control::vcpu_failed(254, VcpuFailure::Host("no".into())),
            Control::lost(Rank(63), "silent"),
            Control::Vcpu { vcpu: 1 },
            Control::StatisticsRequest,
            Control::Statistics,
            Control::End { status: -1 },
            Control::EndSeen,
            Control::Closed,
            Control::Move { vcpu: 254, from: Rank(63), to: Rank(0) },
            Control::Repointed { vcpu: 7 },
            Control::Arrived { vcpu: 7 },
            Control::Pause { number: u32::MAX },
            Control::Paused { number: 0 },
            Control::Resume,
            Control::Present,
            Control::Met { rank: Rank(63) },
            Control::Ready,
            Control::Come { rank: Rank(2), ranks: (0..64).map(Rank).collect(), places: vec![Rank(63); 255] },
            Control::Leave,
            Control::Homes { vital: (0..64).map(Rank).collect() },
            Control::HomesKnown,
            Control::ToLeave,
            Control::to_stay("no"),
            Control::Drain,
            Control::Parting,
            Control::Parted,
            Control::Drained,
            Control::Gone { rank: Rank(63) },
        ]
    }

    #[test]
    fn every_message_is_read_back_and_no_part_of_it_is_one() {
        for (kind, message) in every_kind().into_iter().enumerate() {
            assert_eq!(message.kind(), kind);
            let bytes = message.encode();
            assert_eq!(Control::decode(&bytes, 0), Ok(message));
            for end in 0..bytes.len() {
                assert!(Control::decode(&bytes[..end], 0).is_err(), "{end} of {bytes:?}");
            }
            assert_eq!(Control::decode(&[&bytes[..], &[0]].concat(), 0), Err(DecodeError::Long(1)));
            let other = [&[VERSION + 1], &bytes[1..]].concat();
            assert_eq!(Control::decode(&other, 0), Err(DecodeError::Version(VERSION + 1)));
        }
    }

    #[test]
    fn bodies_are_as_long_as_their_messages_take() {
        let limits = |message: &Control| (0..=MAX_BODY).rev().find(|len| message.max_body() >= *len);
        for message in every_kind() {
            let limit = limits(&message).unwrap();
            let bytes = message.encode();
            assert!(Control::decode(&bytes, limit).is_ok(), "{message:?}");
            assert_eq!(Control::decode(&bytes, limit + 1), Err(DecodeError::Body(limit + 1)));
        }
        let read = |len| Control::Access { vcpu: 0, access: Access::Read(Place::Memory(1), len) }.encode();
        assert!(Control::decode(&read(4096), 0).is_ok());
        assert_eq!(Control::decode(&read(4097), 0), Err(DecodeError::Malformed));
        let gone = |rank| Control::Gone { rank: Rank(rank) }.encode();
        assert!(Control::decode(&gone(63), 0).is_ok());
        assert_eq!(Control::decode(&gone(64), 0), Err(DecodeError::Malformed));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = "é".repeat(MAX_TEXT);
        let Control::Lost { reason, .. } = Control::lost(Rank(1), &text) else { unreachable!() };
        assert_eq!(reason.len(), MAX_TEXT);
        let Control::Lost { reason, .. } = Control::lost(Rank(1), &format!("a{text}")) else { unreachable!() };
        assert_eq!(reason.len(), MAX_TEXT - 1);
        assert!(Control::lost(Rank(1), &reason).encode().len() < MAX_HEADER);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), body in 0..2 * MAX_BODY) {
            let mut bytes = bytes;
            let _ = Control::decode(&bytes, body);
            if let Some(version) = bytes.first_mut() {
                *version = VERSION;
            }
            if let Ok(message) = Control::decode(&bytes, body) {
                prop_assert!(body <= message.max_body());
            }
        }
    }
}
