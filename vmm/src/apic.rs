//! The interrupt controllers, wholly in user space: a local APIC per vCPU in x2APIC mode, an IOAPIC, and the
//! messages between them (Intel SDM volume 3, chapter 12 "APIC"; IOAPIC: Intel 82093AA data sheet).
//!
//! - [`LocalApic`] is plain state, owned by its vCPU's thread: registers, pending vectors, timer. Time is an input.
//! - [`Mailbox`] is where anyone leaves interrupts for a vCPU; its thread collects them into its local APIC.
//! - [`Router`] takes an interrupt message or an inter-processor interrupt to the mailboxes of the processors it addresses, its [`Targets`].
//! - [`IoApic`] turns device lines into interrupt messages.

mod icr;
mod io;
mod local;
mod mailbox;
mod router;
mod targets;
mod timer;
mod vectors;

pub use icr::{Delivery, Destination, Icr, Message, Shorthand};
pub use io::{IO_APIC_PINS, IoApic, IoApicPin, IoApicState, PinsError};
pub use local::{ApicWrite, GeneralProtection, LocalApic};
pub(crate) use local::{MSR_APIC_BASE, MSR_TSC_DEADLINE};
pub use mailbox::{Mailbox, Signals, Waker};
pub use router::Router;
pub use targets::Targets;
pub use timer::{Timer, TimerMode};
pub use vectors::VectorSet;
