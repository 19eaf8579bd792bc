//! The node's initramfs: busybox, the modules in load order, our two scripts and the command.

use std::path::{Path, PathBuf};

use vincs_guest_image::cache::{Cache, CacheError};
use vincs_guest_image::cpio::{Archive, CpioError};
use vincs_guest_image::kernel::{self, Kernel};
use vincs_guest_image::modules::{ModuleTree, ModulesError};
use vincs_guest_image::package::{self, FetchError};
use vincs_guest_image::vmlinux;

use crate::command::Command;
use crate::stream::END_MARK_LEN;

/// Modules for the node's own devices and root. What they depend on comes with them, here as below.
const OWN_MODULES: [&str; 7] =
    ["virtio_pci", "virtio_net", "virtio_console", "virtio_rng", "9pnet_virtio", "9p", "overlay"];

/// Modules that make it a cluster node.
const CLUSTER_MODULES: [&str; 8] =
    ["kvm", "kvm_amd", "crc32_generic", "rdma_rxe", "ib_uverbs", "rdma_ucm", "tun", "veth"];

/// Modules that only some kernel packages have; of Debian's none has soft-iWARP, which [`fetch_soft_iwarp`] builds.
const OPTIONAL_MODULES: [&str; 1] = ["siw"];

/// Why the node's initramfs could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no cache folder.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// No kernel in the cache.
    #[error("no kernel in {}: run 'make kernel', or 'testbed fetch-kernel'", .0.display())]
    NoKernel(PathBuf),
    /// The kernel's modules.
    #[error(transparent)]
    Modules(#[from] ModulesError),
    /// A file of the archive.
    #[error(transparent)]
    Archive(#[from] CpioError),
    /// The kernel could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A file for the archive cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The files of one run.
#[derive(Debug)]
pub(crate) struct Files<'a> {
    /// What node.sh starts.
    pub(crate) command: Vec<u8>,
    /// The user's command, for its script.
    pub(crate) script: &'a Command,
    pub(crate) end_mark: &'a [u8; END_MARK_LEN],
    pub(crate) stdin: bool,
    /// The node's number, and how many nodes there are.
    pub(crate) place: (u32, u32),
    /// The command `on`, where there are other nodes.
    pub(crate) on: Option<Vec<u8>>,
}

/// Puts the stock kernel and a static busybox into the cache, unless they are there; returns the kernel's path.
/// `progress` gets a line for each thing done.
///
/// # Errors
/// [`ImageError`] when it is not there and cannot be fetched.
pub fn fetch_kernel(progress: &mut dyn FnMut(&str)) -> Result<PathBuf, ImageError> {
    let cache = Cache::from_env()?;
    package::fetch_busybox(&cache, progress)?;
    Ok(package::fetch_kernel(&cache, progress)?.image)
}

/// Puts the module of soft-iWARP beside those of the kernel in the cache, unless it is there. `progress` gets a line for each thing done.
///
/// # Errors
/// [`ImageError`] when it is not there and cannot be built.
pub fn fetch_soft_iwarp(progress: &mut dyn FnMut(&str)) -> Result<(), ImageError> {
    let cache = Cache::from_env()?;
    let kernel = kernel::cached(&cache).ok_or_else(|| ImageError::NoKernel(cache.root().to_owned()))?;
    Ok(package::fetch_soft_iwarp(&cache, &kernel, progress)?)
}

/// The node's kernel: the newest in the cache. Its image is the ELF where that can be had: a software CPU takes seconds to
/// unpack a bzImage.
pub(crate) fn node_kernel(cache: &Cache) -> Result<Kernel, ImageError> {
    let kernel = kernel::cached(cache).ok_or_else(|| ImageError::NoKernel(cache.root().to_owned()))?;
    // An image that cannot be unpacked here, or whose ELF is another user's, still boots as it is.
    let elf = vmlinux::prepare(&kernel, cache).ok().flatten().filter(|elf| std::fs::File::open(elf).is_ok());
    Ok(Kernel { image: elf.unwrap_or_else(|| kernel.image.clone()), ..kernel })
}

/// The whole initramfs, uncompressed: unpacking it on a software CPU costs more than reading it.
pub(crate) fn build(kernel: &Kernel, busybox: &Path, files: &Files<'_>) -> Result<Vec<u8>, ImageError> {
    use std::os::unix::ffi::OsStrExt;

    let mut archive = Archive::new();
    for dir in ["dev", "proc", "sys", "modules"] {
        archive.directory(dir, 0o755)?;
    }
    // The kernel opens it for init before devtmpfs is mounted (major and minor from the kernel's devices.txt).
    archive.device("dev/console", 0o600, 5, 1)?;
    let program = std::fs::read(busybox).map_err(|source| ImageError::Read { path: busybox.to_owned(), source })?;
    archive.file("bin/busybox", 0o755, &program)?;
    archive.file("init", 0o755, include_bytes!("node/init.sh"))?;
    archive.file("node/node.sh", 0o755, include_bytes!("node/node.sh"))?;
    archive.file("node/command", 0o644, &files.command)?;
    archive.file("node/end-mark", 0o644, &[files.end_mark.as_slice(), b"\n"].concat())?;
    if let Command::Shell(script) = files.script {
        archive.file("node/script", 0o644, script.as_bytes())?;
    }
    archive.file("node/place", 0o644, format!("{} {}\n", files.place.0, files.place.1).as_bytes())?;
    if let Some(on) = &files.on {
        archive.file("node/commands/on", 0o755, on)?;
    }
    if files.stdin {
        archive.file("node/with-stdin", 0o644, b"")?;
    }
    let tree = ModuleTree::open(&kernel.modules)?;
    let own = tree.resolve(&OWN_MODULES)?;
    let optional = OPTIONAL_MODULES.iter().copied().filter(|name| tree.resolve(&[name]).is_ok());
    let cluster: Vec<&str> = CLUSTER_MODULES.iter().copied().chain(optional).collect();
    let mut cluster = tree.resolve(&cluster)?;
    cluster.retain(|module| own.iter().all(|other| other.name != module.name));
    // Two rows, which the node loads side by side: neither holds what the other needs.
    for (row, modules) in [("own", own), ("cluster", cluster)] {
        for (number, module) in modules.into_iter().enumerate() {
            archive.file(&format!("modules/{row}/{number:03}-{}.ko", module.name), 0o644, &module.load()?)?;
        }
    }
    Ok(archive.finish())
}
