//! The coherence protocols as deterministic state machines: faults, messages, holds and time in, actions out.
//!
//! - [`id`]: ranks, pages, versions, ticks and runs of pages.
//! - [`home`]: which rank is the home of a page.
//! - [`message`]: what nodes tell each other; [`codec`]: how that looks on the wire.
//! - [`node`]: one rank's share of the strict protocol.
//! - [`window`]: the memory in which a home shows clean pages, to be read without its processor.
//! - [`hlrc`]: the relaxed protocol, for memory whose programs synchronise where that can be seen.
//! - [`sim`]: a simulated machine to prove the strict one on, from a seed.
//! - [`transport`]: the port to whatever carries messages.
//!
//! Nothing here does I/O, reads a clock or starts a thread; page bytes never come in. Whoever drives a
//! [`node::Node`] executes its actions in order.

#![forbid(unsafe_code)]

pub mod codec;
pub mod hlrc;
pub mod home;
pub mod id;
pub mod message;
pub mod node;
pub mod sim;
pub mod transport;
pub mod window;
