//! A machine that runs one program.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use vincs_micro_guest_payload::protocol::{MAX_CPUS, PORT_BASE, PORT_COUNT};
use vincs_vmm::boot::{KernelError, KernelImage};
use vincs_vmm::cluster::{MemberState, Share};
use vincs_vmm::kvm::DEFAULT_KVM_PATH;
use vincs_vmm::machine::{
    Controller, Equipment, Machine, MachineConfig, MachineError, PortDevice, Role, Running, StopReason,
};
use vincs_vmm::topology::{Topology, TopologyError};
use vincs_vmm::vcpu::VcpuHandle;

use crate::ranks::{self, MEET_TIME, Ranks, RanksError, Way};
use crate::{End, HostDevice, PAYLOAD, Program, Report, ReportError};

/// How often a waiting session looks whether the machine has failed. (The guest's own end it notices at once.)
const FAILURE_CHECK: Duration = Duration::from_millis(10);
/// How long a vCPU may take to tell where it is, once the time is over.
const LOOK_LIMIT: Duration = Duration::from_secs(1);
/// How long vCPUs may take to come to their ranks: each to an instruction boundary, on a busy host. What is wrong then is seen by other means.
const SPREAD_LIMIT: Duration = Duration::from_secs(60);

/// Why a program gave no report.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The number of vCPUs is not one that the guest can run.
    #[error("{0} vCPUs: the micro-guest runs 1 to {MAX_CPUS}")]
    Vcpus(u32),
    /// The vCPUs cannot be arranged.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The payload is not a kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The machine cannot be built or started.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The machine stopped before the program had ended.
    #[error("the machine stopped before the program had ended: {0:?}")]
    Stopped(StopReason),
    /// The guest has found a failure, or has faulted.
    #[error("the guest says: {0}")]
    Guest(String),
    /// The program took too long. The machine has been stopped.
    #[error("no end after {limit:?}; {where_}")]
    Timeout {
        /// Time it was given.
        limit: Duration,
        /// Where each vCPU was.
        where_: String,
    },
    /// A rank does not join or leave.
    #[error("a rank does not join or leave: {0}")]
    Join(String),
    /// Its ranks are not connected.
    #[error(transparent)]
    Ranks(#[from] RanksError),
    /// The report makes no sense.
    #[error(transparent)]
    Report(#[from] ReportError),
}

/// Runs a program on a machine of its own, for `limit` at most.
///
/// # Errors
/// [`RunError`] when there is no machine, the guest has failed or the time is over.
pub fn run(program: Program, vcpus: u32, limit: Duration) -> Result<Report, RunError> {
    Session::start(program, vcpus)?.wait(limit)
}

/// A machine that runs one program. Dropping it stops the machine.
#[derive(Debug)]
pub struct Session {
    program: Program,
    vcpus: u32,
    device: Arc<HostDevice>,
    machine: Running,
    /// How many ranks have started the machine.
    started: u16,
    /// The ranks other than 0 that are there.
    others: BTreeMap<u16, Running>,
    /// How others may join.
    way: Option<Way>,
}

fn topology(vcpus: u32, nodes: u32) -> Result<Topology, RunError> {
    if !(1..=MAX_CPUS).contains(&usize::try_from(vcpus).unwrap_or(usize::MAX)) {
        return Err(RunError::Vcpus(vcpus));
    }
    Ok(Topology::new(vcpus, nodes)?)
}

fn config(program: Program, topology: Topology, role: Role) -> MachineConfig {
    let memory = program.memory(topology.vcpus());
    MachineConfig { kvm: PathBuf::from(DEFAULT_KVM_PATH), topology, memory, relaxed: 0, role }
}

fn equipment(program: Program, vcpus: u32, device: &Arc<HostDevice>) -> Result<Equipment, RunError> {
    Ok(Equipment {
        kernel: KernelImage::from_bytes(Path::new("micro-guest"), PAYLOAD.to_vec())?,
        initrd: Vec::new(),
        command_line: program.command_line(vcpus),
        serial_output: Box::new(io::sink()),
        serial_input: None,
        devices: Vec::new(),
        ports: vec![PortDevice { start: PORT_BASE, len: PORT_COUNT, device: Arc::clone(device) as _ }],
    })
}

impl Session {
    /// Builds a machine and starts the program on it.
    ///
    /// # Errors
    /// [`RunError`] when the machine cannot be built or started.
    pub fn start(program: Program, vcpus: u32) -> Result<Self, RunError> {
        let topology = topology(vcpus, 1)?;
        let device = Arc::new(HostDevice::default());
        let role = Role::Whole(equipment(program, vcpus, &device)?);
        let machine = Machine::new(config(program, topology, role))?.start()?;
        Ok(Self { program, vcpus, device, machine, started: 1, others: BTreeMap::new(), way: None })
    }

    /// Builds a machine of several ranks, all in this process, starts the program on it and spreads its vCPUs. The guest wants
    /// its processors to be numbered without gaps, so each rank's number of vCPUs is to be one power of two.
    ///
    /// # Errors
    /// [`RunError`] when the machine cannot be built or started.
    pub fn start_on(program: Program, vcpus: u32, ranks: &Ranks) -> Result<Self, RunError> {
        let session = Self::start_gathered(program, vcpus, ranks)?;
        session.spread();
        Ok(session)
    }

    /// The same with all vCPUs on rank 0 until [`Self::spread`].
    ///
    /// # Errors
    /// As [`Self::start_on`].
    pub fn start_gathered(program: Program, vcpus: u32, ranks: &Ranks) -> Result<Self, RunError> {
        let topology = topology(vcpus, ranks.ranks.into())?;
        let device = Arc::new(HostDevice::default());
        let mut configs = Vec::new();
        let (clusters, way) = ranks::connected(ranks)?;
        for cluster in clusters {
            let role = match cluster.rank.0 {
                0 => Role::First(equipment(program, vcpus, &device)?, cluster),
                _ => Role::Member(cluster),
            };
            configs.push(config(program, topology, role));
        }
        let mut running = ranks::start(configs)?.into_iter();
        let machine = running.next().ok_or(RunError::Vcpus(vcpus))?;
        let (started, others, way) = (ranks.ranks, (1..).zip(running).collect(), Some(way));
        Ok(Self { program, vcpus, device, machine, started, others, way })
    }

    /// What orders the machine about.
    #[must_use]
    pub fn controller(&self) -> Option<Controller> {
        self.machine.controller()
    }

    /// Moves the vCPUs to their ranks, and waits until they are there, or the machine has ended.
    pub fn spread(&self) {
        let Some(controller) = self.machine.controller() else { return };
        controller.spread();
        let until = Instant::now() + SPREAD_LIMIT;
        while Instant::now() < until && controller.places().iter().any(|place| place.moving_to.is_some()) {
            thread::sleep(FAILURE_CHECK);
        }
    }

    /// The machine as rank 0 has it, and the other ranks' shares.
    pub fn machines(&self) -> impl Iterator<Item = &Running> {
        std::iter::once(&self.machine).chain(self.others.values())
    }

    /// Lets a further rank join while the program runs; its number. It gets its part of the vCPUs once they are spread.
    ///
    /// # Errors
    /// [`RunError`] when it does not take part within the time that it has.
    pub fn join(&mut self) -> Result<u16, RunError> {
        let no_join = |why: &str| RunError::Join(why.to_owned());
        let controller = self.machine.controller().ok_or_else(|| no_join("there is no rank 0"))?;
        let way = self.way.as_mut().ok_or_else(|| no_join("there is one rank"))?;
        let rank = controller.reserve().ok_or_else(|| no_join("all seats are used"))?;
        let members = controller.members().into_iter();
        let there: Vec<u16> =
            members.filter(|(_, state)| *state == MemberState::Running).map(|(rank, _)| rank).collect();
        let cluster = way.join(rank, &there)?;
        let others = self.others.iter().map(|(rank, machine)| (*rank, machine));
        for (other, machine) in std::iter::once((0, &self.machine)).chain(others) {
            let met = way.latecomers.get(&other).and_then(|late| late.next_within(MEET_TIME));
            match (met, machine.greeter()) {
                (Some(met), Some(greeter)) => greeter.met(met.0),
                _ => return Err(no_join("a rank does not meet it")),
            }
        }
        let joined = controller.admit(rank, Share::default());
        let role = Role::Member(cluster);
        let topology = topology(self.vcpus, self.started.into())?;
        let running = Machine::new(config(self.program, topology, role))?.start()?;
        running.ready();
        let taken = joined.recv_timeout(MEET_TIME).map_err(|error| RunError::Join(error.to_string()))?;
        taken.map_err(RunError::Join)?;
        self.others.insert(rank, running);
        Ok(rank)
    }

    /// A rank other than 0 leaves; gives its share of the machine when it has.
    ///
    /// # Errors
    /// [`RunError`] when it does not leave within `limit`.
    pub fn leave(&mut self, rank: u16, limit: Duration) -> Result<Running, RunError> {
        let controller = self.machine.controller().ok_or_else(|| RunError::Join("there is no rank 0".to_owned()))?;
        controller.remove(rank, limit).map_err(|error| RunError::Join(error.to_string()))?;
        let running = self.others.remove(&rank).ok_or_else(|| RunError::Join(format!("there is no rank {rank}")))?;
        if let Some(way) = &mut self.way {
            way.latecomers.remove(&rank);
        }
        match running.wait(Some(limit)) {
            Some(StopReason::Left) => Ok(running),
            Some(other) => Err(RunError::Stopped(other)),
            None => Err(RunError::Join(format!("rank {rank} does not hear that it has left"))),
        }
    }

    /// Takes a rank other than 0 away from the machine, without a word to the others.
    pub fn lose(&mut self, rank: u16) {
        self.others.remove(&rank);
        if let Some(way) = &mut self.way {
            way.latecomers.remove(&rank);
        }
    }

    /// The vCPUs of rank 0, in order; all there are on one rank.
    #[must_use]
    pub fn vcpus(&self) -> &[VcpuHandle] {
        self.machine.vcpus()
    }

    /// The code, as guest addresses, in which a vCPU that runs [`Program::SelfCheck`] has all its registers in use. None if the
    /// program has not told it within `limit`.
    #[must_use]
    pub fn self_check_window(&self, limit: Duration) -> Option<Range<u64>> {
        match self.device.first_words(2, Instant::now() + limit)?[..] {
            [start, end] => Some(start..end),
            _ => None,
        }
    }

    /// What the guest talks to; [`Program::Work`] tells it of its rounds.
    #[must_use]
    pub fn device(&self) -> Arc<HostDevice> {
        Arc::clone(&self.device)
    }

    /// Asks the program to stop; [`Program::SelfCheck`] and [`Program::Work`] run until then.
    pub fn ask_to_stop(&self) {
        self.device.ask_to_stop();
    }

    /// Whether the program has ended, well or not.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.device.wait(Instant::now()).is_some()
    }

    /// Waits for the program's end, for `limit` at most, and stops the machine.
    ///
    /// # Errors
    /// [`RunError`] when the guest or the machine has failed or the time is over.
    pub fn wait(self, limit: Duration) -> Result<Report, RunError> {
        self.wait_here(limit)
    }

    /// The same with the machine still there afterwards, its vCPUs at rest or not.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_here(&self, limit: Duration) -> Result<Report, RunError> {
        let until = Instant::now() + limit;
        loop {
            let now = Instant::now();
            match self.device.wait(until.min(now + FAILURE_CHECK)) {
                Some(End::Done(words)) => return Ok(Report::from_words(self.program, self.vcpus, &words)?),
                Some(End::Failed(text)) => return Err(RunError::Guest(text)),
                None => {}
            }
            if let Some(reason) = self.machines().find_map(|machine| machine.wait(Some(Duration::ZERO))) {
                return Err(RunError::Stopped(reason));
            }
            if now >= until {
                return Err(RunError::Timeout { limit, where_: self.places() });
            }
        }
    }

    /// Where each vCPU is, in words. A vCPU that does not answer is left out of patience, not waited for.
    fn places(&self) -> String {
        let here = self.machines().flat_map(Running::vcpus).filter(|vcpu| vcpu.is_here());
        let vcpus: BTreeMap<_, _> = here.map(|vcpu| (vcpu.id().0, vcpu)).collect();
        let places = vcpus.into_iter().map(|(id, vcpu)| {
            let (answer, answered) = channel();
            let vcpu = vcpu.clone();
            // The thread ends with the machine at the latest: then the vCPU's thread answers or is gone.
            thread::spawn(move || {
                // Nobody listens any more once the patience is over.
                let _ = answer.send(vcpu.save());
            });
            match answered.recv_timeout(LOOK_LIMIT) {
                Ok(Ok(state)) => {
                    let (rip, cs) = (state.registers.rip, state.special.cs.selector);
                    format!("vCPU {id} {:?} at {rip:#x} in ring {}", state.activity, cs & 3)
                }
                Ok(Err(error)) => format!("vCPU {id}: {error}"),
                Err(_) => format!("vCPU {id} does not answer"),
            }
        });
        places.collect::<Vec<_>>().join(", ")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A rank that is told does not take the others' going for a loss.
        self.machine.end_cluster(0);
    }
}
