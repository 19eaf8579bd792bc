//! For programs in a vincs guest: arrays in relaxed memory, and a team of threads, one on each processor.
//!
//! - [`Relaxed`] is the memory: the device that [`RELAXED_VARIABLE`] names, or ordinary memory, so that the same program runs anywhere;
//! - [`Array`] is an array in it, of [`Element`]s;
//! - [`Heap`] gives pieces of it out and takes them back, as malloc does;
//! - [`Team`] runs a function on all its threads, each a [`Member`]: parallel loops, barriers, locks, reductions;
//! - the same for C is in `include/vincs_guest.h`.
//!
//! What a member writes to an array, others are sure to see after both have passed a barrier, after it has unlocked a lock that they
//! then lock, and after [`Team::run`] has returned: that is what relaxed memory promises. Before that they may see it or not. A program that keeps to
//! this runs on ordinary memory as well, on which it sees more.

mod array;
pub mod c;
mod heap;
mod memory;
pub mod ranks;
mod sync;
mod team;
mod wait;

pub use array::{Array, Element};
pub use heap::Heap;
pub use memory::{CONTROL_BYTES, OpenError, OutOfRelaxed, RELAXED_VARIABLE, Relaxed};
pub use sync::{LOCKS, LockError};
pub use team::{Member, Team, TeamError};
