//! Guest RAM, its two mappings and the window through which devices reach it.

mod device;
pub mod engine;
mod ram;

pub use device::{Access, DeviceMemory, GuestRange, Held, HoldError};
pub use ram::{GuestRam, RamError};
