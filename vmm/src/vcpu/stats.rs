//! What a vCPU has done, counted by its thread and read by anyone.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of one vCPU since its start.
        #[derive(Debug, Default)]
        pub struct VcpuStats {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// The counters' values at one time.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
        pub struct VcpuStatsSnapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl VcpuStats {
            /// The values now.
            #[must_use]
            pub fn snapshot(&self) -> VcpuStatsSnapshot {
                VcpuStatsSnapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Times the guest was entered.
    entries,
    /// Exits for IN and OUT.
    port_io,
    /// Exits for memory-mapped I/O.
    mmio,
    /// Device accesses that another rank answered.
    forwarded,
    /// Notifications of queues sent to another rank, which are not answered.
    posted,
    /// Exits for reads and writes of the local APIC's registers.
    apic_registers,
    /// Exits for other MSRs, which do not exist in this machine.
    unknown_msrs,
    /// Exits for HLT.
    halts,
    /// Exits because the guest became ready for a waiting interrupt.
    interrupt_windows,
    /// Entries ended early by a signal: an interrupt, a timer or a command for the vCPU.
    kicks,
    /// Interrupts delivered to the guest.
    interrupts,
    /// Inter-processor interrupts sent.
    interprocessor_interrupts,
    /// Times it has come from another rank.
    arrivals,
    /// For how long it stood still for that: from its last instruction there to its first here, by the machine's clock.
    away_nanoseconds,
}

/// Adds one; each counter is written by one thread.
pub(super) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// Adds so much; each counter is written by one thread.
pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}
