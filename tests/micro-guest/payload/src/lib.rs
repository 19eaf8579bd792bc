//! What the micro-guest and the host agree on, and the arithmetic that both do. The guest itself is the binary.
//!
//! - [`protocol`]: ports, the layout of a report, names of programs and parameters.
//! - [`statistics`]: summary of many latencies.
//! - [`walk`]: the memory walk, whose checksum the host computes too.

#![cfg_attr(not(test), no_std)]

pub mod protocol;
pub mod statistics;
pub mod walk;
