//! Interrupt messages: what the interrupt command register and the IOAPIC's redirection entries ask for.

use serde::{Deserialize, Serialize};

/// How a message is delivered (SDM 12.6.1, "Delivery Mode").
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Delivery {
    /// As the vector, to every processor addressed.
    Fixed,
    /// As the vector, to one of the processors addressed.
    LowestPriority,
    /// As a non-maskable interrupt.
    Nmi,
    /// Resets the processor and leaves it waiting for a start-up message.
    Init,
    /// Starts a waiting processor in real mode at `vector << 12`.
    StartUp,
}

/// The processors a message is for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Destination {
    /// The one with this APIC id.
    Physical(u32),
    /// Those of this logical x2APIC id: cluster in the upper half, one bit for each member in the lower (SDM 12.12.10.2).
    Logical(u32),
    /// All of them.
    All,
}

/// One interrupt on its way to processors.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Message {
    /// Who gets it.
    pub destination: Destination,
    /// As what.
    pub delivery: Delivery,
    /// Its vector; unused for NMI and INIT.
    pub vector: u8,
    /// Level-triggered: its end must be told to the IOAPIC.
    pub level: bool,
}

/// Destination shorthand of the interrupt command register.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shorthand {
    /// The destination field says.
    None,
    /// The sender alone.
    Myself,
    /// Everybody.
    AllIncludingSelf,
    /// Everybody but the sender.
    AllExcludingSelf,
}

/// A decoded write to the interrupt command register, MSR 830H (SDM 12.12.9).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Icr {
    /// What is sent.
    pub message: Message,
    /// Which shorthand replaces the destination.
    pub shorthand: Shorthand,
}

const BROADCAST: u32 = u32::MAX;
const LOGICAL_MODE: u64 = 1 << 11;
const LEVEL_ASSERT: u64 = 1 << 14;
const LEVEL_TRIGGERED: u64 = 1 << 15;

impl Icr {
    /// What a write of `value` sends, or nothing: reserved delivery modes and the INIT level de-assert, which
    /// processors since the Pentium 4 ignore, send nothing.
    #[must_use]
    pub fn decode(value: u64) -> Option<Self> {
        let delivery = match (value >> 8) & 7 {
            0 => Delivery::Fixed,
            1 => Delivery::LowestPriority,
            4 => Delivery::Nmi,
            5 if value & LEVEL_TRIGGERED != 0 && value & LEVEL_ASSERT == 0 => return None,
            5 => Delivery::Init,
            6 => Delivery::StartUp,
            _ => return None,
        };
        let shorthand = match (value >> 18) & 3 {
            0 => Shorthand::None,
            1 => Shorthand::Myself,
            2 => Shorthand::AllIncludingSelf,
            _ => Shorthand::AllExcludingSelf,
        };
        let destination = decode_destination((value >> 32) as u32, value & LOGICAL_MODE != 0);
        let vector = value.to_le_bytes()[0];
        Some(Self { message: Message { destination, delivery, vector, level: false }, shorthand })
    }
}

/// The destination of a 32-bit destination field.
pub(super) fn decode_destination(field: u32, logical: bool) -> Destination {
    match (field, logical) {
        (BROADCAST, _) => Destination::All,
        (id, true) => Destination::Logical(id),
        (id, false) => Destination::Physical(id),
    }
}

/// The logical x2APIC id that hardware derives from an APIC id (SDM 12.12.10.2).
#[must_use]
pub(super) fn logical_id(apic_id: u32) -> u32 {
    ((apic_id >> 4) << 16) | (1 << (apic_id & 0xf))
}

impl Destination {
    /// Whether the processor with this APIC id is addressed.
    #[must_use]
    pub fn includes(self, apic_id: u32) -> bool {
        match self {
            Self::All => true,
            Self::Physical(id) => id == apic_id,
            Self::Logical(id) => {
                let own = logical_id(apic_id);
                own >> 16 == id >> 16 && own & id & 0xffff != 0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_up_message_as_linux_sends_it() {
        let icr = Icr::decode(3 << 32 | 0x600 | 0x9a).unwrap();
        let message =
            Message { destination: Destination::Physical(3), delivery: Delivery::StartUp, vector: 0x9a, level: false };
        assert_eq!(icr, Icr { message, shorthand: Shorthand::None });
    }

    #[test]
    fn init_asserts_but_its_de_assert_is_ignored() {
        assert_eq!(Icr::decode(1 << 32 | 0xc500).unwrap().message.delivery, Delivery::Init);
        assert_eq!(Icr::decode(1 << 32 | 0x8500), None);
    }

    #[test]
    fn reserved_delivery_modes_send_nothing() {
        for mode in [2, 3, 7] {
            assert_eq!(Icr::decode(mode << 8), None);
        }
    }

    #[test]
    fn logical_destinations_address_clusters_of_sixteen() {
        assert_eq!(logical_id(0x25), 0x0002_0020);
        let two = Destination::Logical(0x0002_0021);
        assert!(two.includes(0x20) && two.includes(0x25));
        assert!(!two.includes(0x21) && !two.includes(0x05));
        assert!(decode_destination(u32::MAX, true).includes(77));
    }
}
