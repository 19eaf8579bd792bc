//! Guest RAM, its two mappings and the window through which devices reach it.

mod device;
mod ram;

pub use device::{Access, DeviceMemory, GuestRange, Held, HoldError};
pub use ram::{GuestRam, RamError};
