//! One rank's share of the machine: virtual processors, interrupt controllers, guest memory and devices on KVM.
//!
//! - [`apic`]: local APICs, the IOAPIC and the messages between them.
//! - [`memory`]: guest RAM, its two mappings and the window through which devices reach it.
//! - [`interrupt`]: how a device raises its interrupt line.
//! - [`virtio`]: virtio devices over the memory-mapped transport.

pub mod apic;
pub mod bus;
pub mod clock;
pub mod cpuid;
pub mod interrupt;
pub mod kvm;
pub mod memory;
pub mod topology;
pub mod vcpu;
pub mod virtio;
