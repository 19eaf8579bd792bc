//! What a machine is made of, and the checks that need no machine.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use vincs_coherence::home::HomeMapError;

use crate::acpi::AcpiError;
use crate::boot::{BootError, BootPlan, KernelImage};
use crate::bus::{Overlap, PioDevice};
use crate::cluster::{ClockError, Cluster, ClusterError};
use crate::kvm::KvmError;
use crate::layout::{MAX_MEMORY, MAX_RELAXED, MAX_VIRTIO_DEVICES, MIN_MEMORY, RELAXED_ALIGNMENT};
use crate::memory::engine::EngineError;
use crate::memory::relaxed::SpreadError;
use crate::memory::{HoldError, RamError};
use crate::topology::Topology;
use crate::vcpu::StateError;
use crate::virtio::{TransportError, VirtioDevice};

/// What a machine is made of, as far as it is on this rank.
#[derive(Debug)]
pub struct MachineConfig {
    /// KVM's device node, usually [`crate::kvm::DEFAULT_KVM_PATH`].
    pub kvm: PathBuf,
    /// vCPUs of the whole machine and their arrangement.
    pub topology: Topology,
    /// RAM of the whole machine in bytes.
    pub memory: u64,
    /// Bytes of relaxed memory that the guest's programs get, apart from RAM; 0 for none.
    pub relaxed: u64,
    /// What this rank is in the machine.
    pub role: Role,
}

/// What a rank is in its machine.
#[derive(Debug)]
pub enum Role {
    /// All of it.
    Whole(Equipment),
    /// Rank 0 of several: it has the kernel and all devices.
    First(Equipment, Cluster),
    /// Another rank: it has vCPUs and memory alone.
    Member(Cluster),
}

/// What a machine has besides vCPUs and memory.
pub struct Equipment {
    /// The kernel.
    pub kernel: KernelImage,
    /// Its initramfs; empty for none.
    pub initrd: Vec<u8>,
    /// Its command line. The machine puts the rate of its clock before it.
    pub command_line: String,
    /// Where the serial console's output goes. A write that blocks holds up the vCPU that prints.
    pub serial_output: Box<dyn Write + Send>,
    /// Where the serial console's input comes from.
    pub serial_input: Option<OwnedFd>,
    /// Virtio devices, in the order the guest finds them.
    pub devices: Vec<Box<dyn VirtioDevice>>,
    /// Further devices on I/O ports.
    pub ports: Vec<PortDevice>,
}

/// A device on I/O ports.
#[derive(Clone, Debug)]
pub struct PortDevice {
    /// First port.
    pub start: u16,
    /// Number of ports.
    pub len: u16,
    /// The device.
    pub device: Arc<dyn PioDevice>,
}

impl fmt::Debug for Equipment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Equipment")
            .field("command_line", &self.command_line)
            .field("devices", &self.devices)
            .finish_non_exhaustive()
    }
}

/// Why a machine cannot be built or started.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Too little or too much RAM.
    #[error("{0} bytes of memory: a machine has {MIN_MEMORY} bytes (64M) to {MAX_MEMORY} bytes (8T); change --mem")]
    Memory(u64),
    /// Too much relaxed memory, or not in whole pieces.
    #[error(
        "{0} bytes of relaxed memory: a machine has multiples of {RELAXED_ALIGNMENT} bytes (2M) up to {MAX_RELAXED} bytes (8191G); change --relaxed"
    )]
    Relaxed(u64),
    /// There is no channel for relaxed memory.
    #[error("no channel for relaxed memory between the ranks; give one")]
    RelaxedRanks,
    /// Relaxed memory cannot be shared with the other ranks.
    #[error(transparent)]
    Spread(#[from] SpreadError),
    /// More vCPUs than this host's KVM takes.
    #[error("{vcpus} vCPUs: this host's KVM takes up to {limit}; use fewer with --vcpus")]
    Vcpus {
        /// vCPUs asked for.
        vcpus: u32,
        /// KVM's limit.
        limit: usize,
    },
    /// More virtio devices than there is room for.
    #[error("{0} devices: a machine has up to {MAX_VIRTIO_DEVICES}; share or attach fewer")]
    Devices(usize),
    /// The kernel, its initramfs or its command line does not fit.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// KVM cannot be used or refused something.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory cannot be had.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The ACPI tables cannot be made.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// A device cannot be attached.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Two devices want the same ports.
    #[error(transparent)]
    Bus(#[from] Overlap),
    /// A vCPU cannot be given its first state.
    #[error(transparent)]
    Vcpu(#[from] StateError),
    /// A table or the first instructions cannot be written to guest memory.
    #[error("cannot write to guest memory: {0}")]
    GuestMemory(#[from] HoldError),
    /// The clock to go on with has another rate than this host's counter.
    #[error(
        "the guest's clock of {guest} kHz cannot go on over this host's counter of {host} kHz; use a host of its rate"
    )]
    Clock {
        /// Rate of this host's counter in kHz.
        host: u32,
        /// Rate of the guest's clock in kHz.
        guest: u32,
    },
    /// This rank's place in the machine is none.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// This rank cannot have the machine's clock.
    #[error(transparent)]
    SharedClock(#[from] ClockError),
    /// Memory cannot be spread over ranks.
    #[error(transparent)]
    Homes(#[from] HomeMapError),
    /// The fault path cannot be had.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Another rank is lost, or gives up, before this one has started.
    #[error("rank {rank} is lost: {reason}")]
    RankLost {
        /// Which one.
        rank: u16,
        /// Why, in words.
        reason: String,
    },
    /// Rank 0 has ended the machine before this rank has started.
    #[error("the machine has ended before this rank had started")]
    Ended,
    /// The host has no thread left.
    #[error("cannot start a thread of the machine: {0}; raise the limit on processes (ulimit -u)")]
    Thread(io::Error),
}

impl MachineConfig {
    /// Checks what can be checked without building anything.
    ///
    /// # Errors
    /// [`MachineError`] naming the first thing that is wrong.
    pub fn check(&self) -> Result<(), MachineError> {
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&self.memory) {
            return Err(MachineError::Memory(self.memory));
        }
        if self.relaxed > MAX_RELAXED || !self.relaxed.is_multiple_of(RELAXED_ALIGNMENT) {
            return Err(MachineError::Relaxed(self.relaxed));
        }
        let (equipment, cluster) = match &self.role {
            Role::Whole(equipment) => (Some(equipment), None),
            Role::First(equipment, cluster) => (Some(equipment), Some(cluster)),
            Role::Member(cluster) => (None, Some(cluster)),
        };
        if let Some(cluster) = cluster {
            if (self.relaxed > 0) != cluster.relaxed.is_some() {
                return Err(MachineError::RelaxedRanks);
            }
            cluster.check(&self.topology, equipment.is_some())?;
        }
        if let Some(equipment) = equipment {
            if equipment.devices.len() > MAX_VIRTIO_DEVICES {
                return Err(MachineError::Devices(equipment.devices.len()));
            }
            BootPlan::new(&equipment.kernel, &equipment.initrd, &equipment.command_line, self.memory)?;
        }
        Ok(())
    }
}
