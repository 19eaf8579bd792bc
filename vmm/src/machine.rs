//! The machine: puts the parts together, runs them, says why they stopped.
//!
//! A machine goes through three types: [`MachineConfig`], which can be checked without touching anything;
//! [`Machine`], built and loaded; [`Running`], its vCPU threads at work until one of them, the guest or the caller
//! ends it. A [`Controller`] orders it about meanwhile.

mod build;
mod config;
mod controller;
mod devices;
mod ranks;
mod running;
mod vcpus;

pub use build::Machine;
pub use config::{Equipment, MachineConfig, MachineError, PortDevice, Role};
pub use controller::{ControlError, Controller, LeaveError, MigrateError, VcpuPlace};
pub use ranks::{Greeter, RankStats};
pub use running::{MachineStats, NumberedVcpu, Running, StopReason, Stopper};
