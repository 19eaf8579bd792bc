//! From the command line to a machine's parts. Every input is checked here, before any guest memory exists.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use vincs_guest_image::cache::{Cache, CacheError};
use vincs_guest_image::kernel::{self, FindError};
use vincs_guest_image::modules::{ModuleTree, ModulesError};
use vincs_guest_image::vmlinux;
use vincs_guest_protocol::{GuestConfig, Share, ShareMode, Stdio};
use vincs_vmm::boot::{BootError, BootPlan, KernelError, KernelImage};
use vincs_vmm::kvm::{Hypervisor, KvmError};
use vincs_vmm::layout::MIN_MEMORY;
use vincs_vmm::memory::hlrc::races::{RACE_CHECK_VARIABLE, WrongRaceCheck, race_check};
use vincs_vmm::topology::{MAX_VCPUS, Topology, TopologyError};
use vincs_vmm::virtio::blk::{Disk, OpenDiskError};
use vincs_vmm::virtio::p9::{P9, P9Error};

use crate::cli::RunArgs;
use crate::guest::cmdline::{Choice, cmdline};
use crate::guest::initramfs::{self, InitramfsError};
use crate::guest::{command, shares};
use crate::host::{self, mounts};
use crate::input::machine_size::{Asked, Limits, MachineSize, MachineSizeError, check_reach, machine_size};
use crate::input::share::{self, ShareError};
use crate::input::size::Bytes;
use crate::machine::{self, MAX_DISKS_AND_SHARES};
use crate::run::streams;
use crate::stats::symbols::{Symbols, SymbolsError};
use crate::stats::{StatsError, StatsFile};

/// Where the serial console goes.
#[derive(Debug)]
pub(crate) enum Console {
    /// Only its tail is kept.
    Tail,
    /// To a file.
    File(File),
    /// To stderr.
    Stderr,
    /// To stdout, with stdin as its keyboard.
    Terminal,
}

/// A machine to start, with all its parts checked.
#[derive(Debug)]
pub(crate) struct Machine {
    /// KVM's device node.
    pub(crate) kvm: PathBuf,
    pub(crate) size: MachineSize,
    pub(crate) topology: Topology,
    pub(crate) kernel: KernelImage,
    /// Empty for none.
    pub(crate) initrd: Vec<u8>,
    pub(crate) cmdline: String,
    pub(crate) shares: Vec<Share>,
    /// The shares' file servers, in the same order.
    pub(crate) servers: Vec<P9>,
    pub(crate) disks: Vec<Disk>,
    /// Without it the console is all there is.
    pub(crate) command: Option<Command>,
    /// Whether the guest's first program is vincs's own.
    pub(crate) has_first_program: bool,
    pub(crate) console: Console,
}

/// What is told of CMD.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    /// Its name, as the user gave it.
    pub(crate) name: String,
    /// How its streams are connected.
    pub(crate) stdio: Stdio,
}

/// A run to start.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) machine: Machine,
    /// The kernel's file.
    pub(crate) kernel_path: PathBuf,
    /// Where to write statistics.
    pub(crate) stats: Option<StatsFile>,
    /// Names of the guest kernel's functions, for them.
    pub(crate) symbols: Option<Symbols>,
    /// Races on relaxed memory are looked for.
    pub(crate) looks_for_races: bool,
}

/// Why a run cannot start: the input that is wrong, and what to do. All end vincs with status 2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("nothing to run: give a command as in `vincs -- CMD`, or --initrd or --disk to boot; see vincs --help")]
    NothingToRun,
    #[error("--share {}: without a command nothing of the host is shared; give one as in `vincs -- CMD`", .0.display())]
    ShareWithoutCommand(PathBuf),
    #[error("--modules {}: without a command --initrd brings its own modules; leave one of the two away", .0.display())]
    ModulesWithoutUse(PathBuf),
    #[error("--boot-timeout 0: the guest needs at least 1 second")]
    NoTime,
    #[error("the host's memory is unknown: /proc/meminfo has no MemTotal: mount /proc")]
    HostMemory,
    #[error(transparent)]
    Size(#[from] MachineSizeError),
    #[error("{0}; correct --vcpus and --numa")]
    Topology(#[from] TopologyError),
    #[error(transparent)]
    RaceCheck(#[from] WrongRaceCheck),
    #[error(transparent)]
    Share(#[from] ShareError),
    #[error(transparent)]
    Server(#[from] P9Error),
    #[error("the current directory is gone: {0}: change to one that is there")]
    CurrentDir(io::Error),
    #[error("/proc/self/mountinfo cannot be read: {0}: mount /proc")]
    Mounts(io::Error),
    #[error("the groups of this user are unknown: {0}")]
    Groups(io::Error),
    #[error("{0}; check --disk")]
    Disk(#[from] OpenDiskError),
    #[error("{asked} disks and shares are too many: a machine has room for {max}; give fewer --disk and --share")]
    TooManyDevices { asked: usize, max: usize },
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    FindKernel(#[from] FindError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error("initrd {0} cannot be read: {1}; check --initrd")]
    Initrd(PathBuf, io::Error),
    #[error("initrd {path} of {} is larger than the guest's memory of {}: ask for more with --mem", Bytes(*.size), Bytes(*.memory))]
    InitrdTooLarge { path: PathBuf, size: u64, memory: u64 },
    #[error(transparent)]
    Modules(#[from] ModulesError),
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    #[error("--keep-initramfs {0} cannot be written: {1}: name a file that this user may write")]
    KeepInitramfs(PathBuf, io::Error),
    #[error("--console {0} cannot be written: {1}: name a file that this user may write, or -")]
    Console(PathBuf, io::Error),
    #[error(transparent)]
    Stats(#[from] StatsError),
    #[error(transparent)]
    Symbols(#[from] SymbolsError),
    #[error("{0}")]
    Kvm(#[from] KvmError),
}

/// Checks all inputs of a machine of so many ranks and puts rank 0's parts together, cheap checks first.
///
/// # Errors
/// [`PrepareError`], the first thing that is wrong.
pub(crate) fn prepare(args: &RunArgs, ranks: u32) -> Result<Plan, PrepareError> {
    if args.command.is_empty() && args.initrd.is_none() && args.disks.is_empty() {
        return Err(PrepareError::NothingToRun);
    }
    without_use(args)?;
    if args.boot_timeout(1).is_zero() {
        return Err(PrepareError::NoTime);
    }
    let size = size(args, ranks)?;
    let looks_for_races = size.relaxed > 0 && race_check(std::env::var_os(RACE_CHECK_VARIABLE))?;
    if looks_for_races && ranks < 2 {
        crate::say(&format!(
            "{RACE_CHECK_VARIABLE}=1 compares what ranks write, and this machine has one: nothing is looked for"
        ));
    }
    let topology = Topology::new(size.vcpus, size.numa_nodes)?;
    // Rank 0's are the first ones.
    let first_remote = if ranks > 1 { topology.per_node() } else { size.vcpus };
    let remote = first_remote..size.vcpus;
    let (shares, cwd) = directories(args)?;
    let devices = args.disks.len() + shares.len();
    if devices > MAX_DISKS_AND_SHARES {
        return Err(PrepareError::TooManyDevices { asked: devices, max: MAX_DISKS_AND_SHARES });
    }
    let servers = shares.iter().map(machine::server).collect::<Result<_, _>>()?;
    let disks = args.disks.iter().map(|disk| Disk::open(&disk.file, disk.read_only)).collect::<Result<_, _>>()?;
    let command = args.command.first();
    let command = command.map(|name| Command { name: name.to_string_lossy().into_owned(), stdio: streams::stdio() });
    let users_initrd = args.initrd.as_deref().map(|path| read_initrd(path, size.memory)).transpose()?;
    let (kernel_path, kernel, modules) = kernel(args)?;
    let initrd = match modules {
        None => users_initrd.unwrap_or_default(),
        Some(tree) => {
            let has_relaxed = size.relaxed > 0;
            let modules = initramfs::modules(&tree, !args.disks.is_empty(), has_relaxed)?;
            let order = command.as_ref();
            let order = order.map(|Command { stdio, .. }| command::order(&args.command, &cwd, *stdio, has_relaxed));
            let order = order.transpose().map_err(PrepareError::Groups)?;
            let hostname = host::name();
            let remote_processors = remote.clone();
            let config =
                GuestConfig { shares: shares.clone(), command: order, hostname, remote_processors, has_relaxed };
            initramfs::build(users_initrd, vincs_guest_image::INIT, &config, &modules)?
        }
    };
    let has_first_program = !boots_users_initrd(args);
    let console_is_read = args.console.is_some() || command.is_none();
    let stays_in_place = stays_in_place(args.cluster.system_map.as_deref(), &kernel);
    let append = &args.append;
    let cmdline = cmdline(Choice { console_is_read, remote: &remote, has_first_program, stays_in_place, append });
    BootPlan::new(&kernel, &initrd, &cmdline, size.memory)?;
    let hypervisor = Hypervisor::open(&args.kvm)?;
    check_vcpus(size.vcpus, hypervisor.max_vcpus())?;
    check_reach(size, hypervisor.physical_bits()?)?;
    let symbols = args.cluster.system_map.as_deref().map(Symbols::read).transpose()?;
    // Last, because these leave files behind.
    if let Some(path) = &args.keep_initramfs {
        std::fs::write(path, &initrd).map_err(|error| PrepareError::KeepInitramfs(path.clone(), error))?;
    }
    let console = console(args)?;
    let stats = args.stats.as_deref().map(StatsFile::create).transpose()?;
    let kvm = args.kvm.clone();
    let machine = Machine {
        kvm,
        size,
        topology,
        kernel,
        initrd,
        cmdline,
        shares,
        servers,
        disks,
        command,
        has_first_program,
        console,
    };
    Ok(Plan { machine, kernel_path, stats, symbols, looks_for_races })
}

/// Whether this host's KVM has so many processors in one machine: they are all on rank 0 at first.
fn check_vcpus(asked: u32, max: usize) -> Result<(), MachineSizeError> {
    let max = u32::try_from(max).unwrap_or(u32::MAX);
    if asked > max { Err(MachineSizeError::Vcpus { asked, max }) } else { Ok(()) }
}

fn size(args: &RunArgs, ranks: u32) -> Result<MachineSize, PrepareError> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let limits = Limits {
        max_vcpus: MAX_VCPUS,
        min_memory: MIN_MEMORY,
        host_memory: host::total_memory(&meminfo).ok_or(PrepareError::HostMemory)?,
        host_cpus: host::available_cpus(),
        ranks,
    };
    Ok(machine_size(Asked { vcpus: args.vcpus, numa: args.numa, memory: args.mem, relaxed: args.relaxed }, limits)?)
}

/// Whether the user's initrd is booted as it is, with nothing of vincs's in the guest.
fn boots_users_initrd(args: &RunArgs) -> bool {
    args.command.is_empty() && args.initrd.is_some()
}

/// Refuses options that mean nothing without a command: ignored, they would promise what does not happen.
fn without_use(args: &RunArgs) -> Result<(), PrepareError> {
    if !args.command.is_empty() {
        return Ok(());
    }
    if let Some(share) = args.shares.first() {
        return Err(PrepareError::ShareWithoutCommand(share.dir.clone()));
    }
    match &args.modules {
        Some(modules) if boots_users_initrd(args) => Err(PrepareError::ModulesWithoutUse(modules.clone())),
        _ => Ok(()),
    }
}

/// The guest's shares, and the current directory: without a command none, as nothing of the host is used then.
fn directories(args: &RunArgs) -> Result<(Vec<Share>, PathBuf), PrepareError> {
    if args.command.is_empty() {
        // A disk's own system is its own root, and so is the user's initrd.
        return Ok((Vec::new(), PathBuf::from("/")));
    }
    let cwd = std::env::current_dir().map_err(PrepareError::CurrentDir)?;
    let mut asked = Vec::new();
    if shares::shares_current_dir(&cwd) {
        asked.push((cwd.clone(), ShareMode::ReadWrite));
    }
    for share in &args.shares {
        asked.push(share::resolve(share)?);
    }
    let mountinfo = std::fs::read("/proc/self/mountinfo").map_err(PrepareError::Mounts)?;
    Ok((shares::plan(&mounts::parse(&mountinfo), &asked, machine::is_servable), cwd))
}

/// The kernel to boot, and its modules unless the user's initrd brings them.
fn kernel(args: &RunArgs) -> Result<(PathBuf, KernelImage, Option<ModuleTree>), PrepareError> {
    // The user's own kernel first: what is wrong with it matters more than its modules.
    let named = args.kernel.as_deref().map(KernelImage::open).transpose()?;
    if let (Some(path), true) = (&args.kernel, boots_users_initrd(args))
        && let Some(image) = named
    {
        return Ok((path.clone(), image, None));
    }
    let cache = Cache::from_env()?;
    let found = kernel::find(args.kernel.as_deref(), args.modules.as_deref(), &cache)?;
    let modules = if boots_users_initrd(args) { None } else { Some(ModuleTree::open(&found.modules)?) };
    let uncompressed = vmlinux::prepare(&found, &cache).unwrap_or_else(|error| {
        tracing::info!(%error, "the kernel is booted compressed");
        None
    });
    match (uncompressed, named) {
        (None, Some(image)) => Ok((found.image, image, modules)),
        (uncompressed, _) => {
            let path = uncompressed.unwrap_or(found.image);
            Ok((path.clone(), KernelImage::open(&path)?, modules))
        }
    }
}

/// Whether the kernel has to be kept from moving itself: a System.map has the addresses that it was linked for, and what is not compressed is
/// at these anyhow.
fn stays_in_place(system_map: Option<&Path>, kernel: &KernelImage) -> bool {
    system_map.is_some() && kernel.decompresses_itself()
}

fn read_initrd(path: &Path, memory: u64) -> Result<Vec<u8>, PrepareError> {
    let failed = |error| PrepareError::Initrd(path.to_owned(), error);
    let size = path.metadata().map_err(failed)?.len();
    if size > memory {
        return Err(PrepareError::InitrdTooLarge { path: path.to_owned(), size, memory });
    }
    std::fs::read(path).map_err(failed)
}

fn console(args: &RunArgs) -> Result<Console, PrepareError> {
    match args.console.as_deref() {
        None if args.command.is_empty() => Ok(Console::Terminal),
        None => Ok(Console::Tail),
        Some(path) if path == Path::new("-") => Ok(Console::Stderr),
        Some(path) => {
            let file = OpenOptions::new().write(true).create(true).truncate(true).open(path);
            Ok(Console::File(file.map_err(|error| PrepareError::Console(path.to_owned(), error))?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_as_many_processors_as_rank_0s_kvm_has() {
        assert_eq!(check_vcpus(8, 8), Ok(()));
        assert_eq!(check_vcpus(9, 8), Err(MachineSizeError::Vcpus { asked: 9, max: 8 }));
        assert_eq!(check_vcpus(255, usize::MAX), Ok(()));
    }

    /// A bzImage, as far as it is looked at before it is started.
    fn bzimage() -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[0x1f1] = 1; // setup sectors
        bytes[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02"); // the protocol's version
        (bytes[0x211], bytes[0x236]) = (1, 1); // loaded high, with a 64-bit entry point
        bytes
    }

    #[test]
    fn a_kernel_whose_functions_are_named_is_where_its_system_map_has_it() {
        let image = |bytes| KernelImage::from_bytes(Path::new("kernel"), bytes).unwrap();
        let (compressed, elf) = (image(bzimage()), image(vincs_micro_guest::PAYLOAD.to_vec()));
        let map = Path::new("System.map");
        assert!(stays_in_place(Some(map), &compressed) && !stays_in_place(Some(map), &elf));
        assert!(!stays_in_place(None, &compressed), "it may move where nobody looks");
    }
}
