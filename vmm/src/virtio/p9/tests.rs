//! The share driven by real 9P2000.L bytes, without a guest; then the device through its transport.

mod client;
mod device;
mod files;
mod limits;
mod malformed;
mod read_only;
