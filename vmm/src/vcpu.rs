//! Virtual processors: one thread each, which owns the vCPU's whole state.
//!
//! - [`VcpuState`]: all of a vCPU at an instruction boundary, to be saved, restored and moved.
//! - [`VcpuHandle`]: what the rest of the machine holds of a vCPU: its mailbox, and commands to its thread.
//! - the run loop: enters the guest, answers its exits, delivers interrupts.

mod exits;
mod handle;
mod kick;
mod pace;
mod run;
mod sampling;
mod state;
mod stats;

pub(crate) use handle::VcpuShared;
pub use handle::{CommandError, VcpuHandle};
pub(crate) use run::{End, Io, Platform, ResetState, Vcpu, spawn};
pub use sampling::SampledFault;
pub(crate) use sampling::{Samples, VcpuSampler};
pub use state::{Activity, STATE_VERSION, StateError, VcpuState};
pub(crate) use state::{StateShape, write_msr};
pub use stats::{VcpuStats, VcpuStatsSnapshot};
