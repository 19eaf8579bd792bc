//! vincs' port to transports over RDMA verbs: messages into registered slots, one-sided operations by the NIC. It knows nothing of what it carries.
//!
//! - [`devices`]: what this host's devices can be used for; [`choose`]: by which of their ports and addresses.
//! - [`fabric`]: all ranks connect with each other, over endpoints of another transport that stay as the lifeline; `introduction`: what they
//!   tell each other for it.
//! - [`endpoint`]: one rank's end of one channel class, the port itself. Below it `peer`: what goes to a peer; `stream`: how messages are cut into slots;
//!   `lifeline`: how ranks know each other to be alive; `bell`: what wakes a poller beside these and the NIC.
//! - [`verbs`]: the objects of the verbs library, the only module with unsafe code.
//!
//! A queue pair belongs to one pair of ranks and one channel class. Whoever sends gives the NIC its work; whoever polls takes what has ended,
//! posts the slots again and gives them back. One-sided operations need nobody at their target.

#![deny(unsafe_code)]

mod atomics;
mod bell;
pub mod choose;
pub mod devices;
#[cfg(test)]
mod document_tests;
pub mod endpoint;
pub mod fabric;
mod introduction;
mod iwarp;
mod lifeline;
mod peer;
mod stream;
pub mod verbs;
