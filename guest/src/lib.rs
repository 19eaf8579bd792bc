//! For programs in a vincs guest: arrays in relaxed memory, and a team of threads, one on each processor. All of it is in `vincs-guest-core`; the
//! same for C is here, in [`c`], and in `include/vincs_guest.h`.

pub mod c;

pub use vincs_guest_core::*;
