//! Programs on ranks that are processes, with relaxed memory: NAS kernels, two application kernels, and what synchronisation costs by itself.
//!
//! - [`job`]: what ranks do together, each time as new processes;
//! - [`primitives`]: barriers, releases and hand-overs, one by one;
//! - [`tables`]: how it is told.

pub mod job;
pub mod primitives;
pub mod tables;
