//! What started this process, and where: Slurm's and MPI's environment as one typed [`Allocation`].
//!
//! - [`allocation()`] reads it from a map of variables, and nothing else;
//! - [`Place`] is a rank among ranks, and which [`Launcher`] said so;
//! - [`Job`] is what Slurm says of the job and the step;
//! - [`hostlist`] expands Slurm's short form of many nodes.
//!
//! The scripts beside this crate (`slurm/*.sh`) start, grow and shrink a machine as Slurm jobs; docs/slurm.md tells how.

#![forbid(unsafe_code)]

mod allocation;
pub mod hostlist;
mod job;
mod place;
mod variables;

pub use allocation::{Allocation, AllocationError, allocation, is_of_one_rank};
pub use hostlist::HostlistError;
pub use job::Job;
pub use place::{Launcher, Place};
pub use variables::Environment;
