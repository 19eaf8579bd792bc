//! Runs the micro-guest on the vmm.
//!
//! - [`run`]: one program, from start to report, within a time.
//! - [`Session`]: the same with the machine in hand, to save and restore its vCPUs while the program runs.
//! - [`Ranks`]: how the machine is spread over ranks.
//! - [`migrate_at_random`]: vCPUs move while the guest checks itself.
//! - [`Program`] and [`Report`]: what to run and what comes out.
//! - [`HostDevice`]: the device through which the guest talks.

mod device;
mod migrations;
mod program;
mod ranks;
mod report;
mod session;

pub use device::{End, HostDevice};
pub use migrations::{Migrations, MigrationsError, migrate_at_random};
pub use program::Program;
pub use ranks::{Ranks, RanksError};
pub use report::{Report, ReportError, TimerReport};
pub use session::{RunError, Session, run};
pub use vincs_micro_guest_payload::litmus::{Litmus, Order, Shape};
pub use vincs_micro_guest_payload::statistics::Summary;

/// The micro-guest, an ELF kernel.
pub const PAYLOAD: &[u8] = include_bytes!(env!("MICRO_GUEST_PAYLOAD"));
