//! vincs' port to transports over TCP. It knows nothing of what it carries.
//!
//! - [`secret`]: what the ranks of a machine know and nobody else does; [`auth`]: connections that have proved it, which the
//!   launcher's rendezvous uses as well.
//! - [`listener`]: where others connect to; [`fabric`]: all ranks connect with each other, and say `hello` on each connection;
//!   [`latecomers`]: those that come when all are connected.
//! - [`endpoint`]: one rank's end of one channel class, the port itself. Below it `frame`: what is on the wire; `inbox`: what has been
//!   received; `outbound`: what is to be sent; `herald`: signs of life before anybody polls.
//!
//! A connection belongs to one pair of ranks and one channel class, so nothing of one class waits for another one. Whoever sends
//! writes to the socket itself; whoever polls reads, serves the one-sided operations of other ranks, and flushes what a socket did not take.

#![forbid(unsafe_code)]

pub mod auth;
#[cfg(test)]
mod document_tests;
pub mod endpoint;
pub mod fabric;
mod frame;
mod hello;
mod herald;
mod inbox;
pub mod latecomers;
pub mod listener;
mod outbound;
pub mod secret;
