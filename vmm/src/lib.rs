//! One rank's share of the machine: virtual processors, interrupt controllers, guest memory and devices on KVM.
//!
//! - [`acpi`]: the ACPI tables through which the guest finds its processors and devices.
//! - [`memory`]: guest RAM, its two mappings and the window through which devices reach it.
//! - [`interrupt`]: how a device raises its interrupt line.
//! - [`virtio`]: virtio devices over the memory-mapped transport.

pub mod acpi;
pub mod interrupt;
pub mod memory;
pub mod virtio;
