//! For programs in a vincs guest: arrays in relaxed memory, and a team of threads, one on each processor.
//!
//! - [`Relaxed`] is the memory: the device that [`RELAXED_VARIABLE`] names, or ordinary memory, so that the same program runs anywhere;
//! - [`Array`] is an array in it, of [`Element`]s;
//! - [`Heap`] gives pieces of it out and takes them back, as malloc does;
//! - [`Team`] runs a function on all its threads, each a [`Member`]: parallel loops, barriers, locks, reductions;
//!
//! It is what `vincs-guest` gives to programs, which adds what C programs link (`include/vincs_guest.h`). Programs of this workspace take it from here: a library
//! that is also one for C cannot be linked in two ways at once, as tests and the programs that they run are.
//!
//! What a member writes to an array, others are sure to see after both have passed a barrier, after it has unlocked a lock that they
//! then lock, and after [`Team::run`] has returned: that is what relaxed memory promises. Before that they may see it or not. A program that keeps to
//! this runs on ordinary memory as well, on which it sees more.

mod array;
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
