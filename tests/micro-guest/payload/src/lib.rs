//! What the micro-guest and the host agree on, and the arithmetic that both do. The guest itself is the binary.
//!
//! - [`litmus`]: the tests of memory order, and which outcomes x86 forbids.
//! - [`protocol`]: ports, the layout of a report, names of programs and parameters.
//! - [`statistics`]: summary of many latencies.
//! - [`walk`]: the memory walk, whose checksum the host computes too.

#![cfg_attr(not(test), no_std)]

pub mod litmus;
pub mod protocol;
pub mod statistics;
pub mod walk;
