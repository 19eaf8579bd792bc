//! `libvincs_omp.so`: relaxed memory for OpenMP programs as they are, of compilers that use LLVM's runtime (libomp).
//!
//! It is preloaded (`LD_PRELOAD`), and does three things there:
//!
//! - `allocator` has the functions of malloc: what is large comes from relaxed memory;
//! - `tool` is a tool in the sense of OMPT (OpenMP 5.1, chapter 4): the runtime calls it where threads synchronise, and it acquires and
//!   releases there;
//! - `runtime` stands before those functions of the runtime that a release has to precede, or an acquire to follow, and that call no tool there.
//!
//! On a machine of several ranks `seats` keeps each thread on one of them, and `files` has what programs read and write go through ordinary memory.
//!
//! `process` decides at the start of a program whether there is any of it: programs without that runtime have memory as ever. `settings` is what
//! can be chosen, `counters` what happened.

mod allocator;
mod counters;
mod files;
mod process;
mod runtime;
mod seats;
mod settings;
mod tool;
