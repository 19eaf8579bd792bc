//! One rank's share of the machine: virtual processors, interrupt controllers, guest memory and devices on KVM.
//!
//! - [`machine`]: puts a machine together, runs it, says why it stopped.
//! - [`cluster`]: the other ranks of a machine that is spread over several, and what it tells them and they it.
//! - [`boot`]: loads a kernel and prepares the bootstrap processor for it.
//! - [`vcpu`]: the threads that run the guest.
//! - [`apic`]: local APICs, the IOAPIC and the messages between them.
//! - [`memory`]: guest RAM, its two mappings and the window through which devices reach it.
//! - [`virtio`]: virtio devices over the memory-mapped transport; [`interrupt`]: how they raise their lines.
//! - [`legacy`]: the serial port, the real-time clock and the power registers.
//! - [`acpi`]: the ACPI tables through which the guest finds its processors and devices.
//! - [`layout`]: where everything is in the guest's address space; [`topology`]: how vCPUs are grouped.
//! - [`kvm`], [`cpuid`], [`clock`], [`bus`]: the ground they stand on.

pub mod acpi;
pub mod apic;
pub mod boot;
pub mod bus;
pub mod clock;
pub mod cluster;
pub mod cpuid;
pub mod interrupt;
pub mod kvm;
pub mod layout;
pub mod legacy;
pub mod machine;
pub mod memory;
#[cfg(test)]
mod test_transport;
pub mod topology;
pub mod vcpu;
pub mod virtio;
