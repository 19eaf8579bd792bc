//! `vincs ctl`: ordering a machine about while it runs, over a socket on rank 0's host, or from any host with the machine's secret.
//! docs/control.md is its reference.
//!
//! - `protocol`: what goes over the socket, a line of JSON each way, and the limits of that;
//! - `Desk`: where those come who were let in at rank 0's door;
//! - `place`: where sockets are, which of them are alive;
//! - [`Server`]: rank 0's side, for a [`vincs_vmm::machine::Controller`];
//! - `client`: the command's side; `text`: how it prints answers; `top`: the machine, live on a terminal.

mod client;
mod desk;
mod place;
mod protocol;
mod server;
mod text;
mod top;

pub(crate) use client::{CtlArgs, run};
pub(crate) use desk::Desk;
pub use place::PlaceError;
pub use server::{Facts, Hosts, Server};
pub(crate) use text::numbers;
