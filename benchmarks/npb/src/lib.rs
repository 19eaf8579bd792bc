//! The NAS Parallel Benchmarks, written afresh from their specification: NAS reports RNR-94-007 (the problems) and NAS-95-020 and
//! NAS-99-011 (classes, verification values, what is printed).
//!
//! - [`kernel`]: which there are, what one gives when it has run;
//! - [`class`]: sizes of problems;
//! - [`report`]: what is printed;
//! - [`command`]: the command line;
//! - [`team`]: what kernels run on;
//! - [`ep`], [`is`], [`cg`], [`mg`], [`ft`]: the kernels;
//! - [`bt`], [`lu`], [`sp`]: the simulated applications, and [`cfd`], what they have in common;
//! - [`apps`]: a stencil, and counters under a lock;
//! - [`random`]: the benchmarks' own pseudo-random numbers;
//! - [`complex`]: complex numbers.

pub mod apps;
pub mod bt;
pub mod cfd;
pub mod cg;
pub mod class;
pub mod command;
pub mod complex;
pub mod ep;
pub mod ft;
pub mod is;
pub mod kernel;
pub mod lu;
pub mod mg;
pub mod random;
pub mod report;
pub mod sp;
pub mod team;
