//! Guest RAM and relaxed memory, their two mappings and the window through which devices reach them.

mod device;
pub mod engine;
pub mod hlrc;
mod ram;
mod ready;
pub mod relaxed;

pub use device::{Access, DeviceMemory, GuestRange, Held, HoldError};
pub use ram::{GuestRam, RamError};
pub use relaxed::RelaxedMemory;
