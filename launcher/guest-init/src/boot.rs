//! Makes a bare kernel usable: its own file systems, its modules, its name and its loopback interface.

use crate::error::{InStep, SetupError};
use crate::shares;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use vincs_guest_protocol::{CONFIG_PATH, GuestConfig, MODULES_DIR, Share};

/// A file system of the kernel's own: source and type, mount point, options.
struct KernelFileSystem {
    kind: &'static str,
    path: &'static str,
    flags: MountFlags,
    options: &'static str,
}

const NO_PROGRAMS: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC).union(MountFlags::NODEV);
const NO_DEVICES: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// What a Linux program expects; outer before inner. The first three are needed by ourselves.
const FILE_SYSTEMS: [KernelFileSystem; 7] = [
    KernelFileSystem { kind: "devtmpfs", path: "/dev", flags: MountFlags::NOSUID, options: "mode=0755" },
    KernelFileSystem { kind: "proc", path: "/proc", flags: NO_PROGRAMS, options: "" },
    KernelFileSystem { kind: "sysfs", path: "/sys", flags: NO_PROGRAMS, options: "" },
    KernelFileSystem {
        kind: "devpts",
        path: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: "mode=0620,gid=5,ptmxmode=0666",
    },
    KernelFileSystem { kind: "tmpfs", path: "/dev/shm", flags: NO_DEVICES, options: "mode=1777" },
    KernelFileSystem { kind: "tmpfs", path: "/run", flags: NO_DEVICES, options: "mode=0755" },
    KernelFileSystem { kind: "tmpfs", path: "/tmp", flags: NO_DEVICES, options: "mode=1777" },
];

/// The first entries of [`FILE_SYSTEMS`] that are needed to load modules and find devices.
const NEEDED_AT_ONCE: usize = 3;

/// Links that programs expect in `/dev` and devtmpfs does not make.
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// The loopback interface's flags (SIOCSIFFLAGS by another name).
const LOOPBACK_FLAGS: &str = "/sys/class/net/lo/flags";
/// `IFF_UP | IFF_LOOPBACK` (netdevice(7)). The kernel gives it its addresses when it comes up.
const LOOPBACK_UP: &str = "0x9";

/// Mounts devtmpfs, proc and sysfs in the initramfs.
pub(crate) fn mount_kernel_file_systems() -> Result<(), SetupError> {
    FILE_SYSTEMS.iter().take(NEEDED_AT_ONCE).try_for_each(mount_one)
}

/// Mounts all of them in the new root, except where a share is wanted.
pub(crate) fn mount_fresh_file_systems(shares: &[Share]) -> Result<(), SetupError> {
    let shared = |file_system: &&KernelFileSystem| {
        shares.iter().any(|share| shares::path_of(share) == Path::new(file_system.path))
    };
    FILE_SYSTEMS.iter().filter(|file_system| !shared(file_system)).try_for_each(mount_one)?;
    for (target, link) in DEVICE_LINKS {
        match symlink(target, link) {
            // devtmpfs is the one that the initramfs had, or the host's folder was shared.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.step(|| format!("link {link} to {target}"))?,
        }
    }
    Ok(())
}

fn mount_one(file_system: &KernelFileSystem) -> Result<(), SetupError> {
    let KernelFileSystem { kind, path, flags, options } = *file_system;
    shares::make_mount_point(Path::new(path))?;
    let options = CString::new(options).map_err(io::Error::from).step(|| format!("mount {kind}"))?;
    match mount(kind, path, kind, flags, options.as_c_str()) {
        // A kernel may mount devtmpfs by itself (CONFIG_DEVTMPFS_MOUNT).
        Err(Errno::BUSY) => Ok(()),
        mounted => mounted.step(|| format!("mount {kind} on {path}")),
    }
}

/// Loads the modules of the initramfs in the order of their names.
pub(crate) fn load_modules() -> Result<(), SetupError> {
    for path in module_files(Path::new(MODULES_DIR))? {
        let step = || format!("load module {}", path.display());
        let image = fs::read(&path).step(step)?;
        match rustix::system::init_module(&image, c"") {
            Err(Errno::EXIST) => {}
            Err(Errno::NOEXEC) => {
                let hint = io::Error::other("it is for another kernel; give this kernel's modules with --modules DIR");
                return Err(hint).step(step);
            }
            loaded => loaded.step(step)?,
        }
        // The initramfs is memory, and it is no longer needed there.
        fs::remove_file(&path).step(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

fn module_files(folder: &Path) -> Result<Vec<PathBuf>, SetupError> {
    let entries = match fs::read_dir(folder) {
        // A kernel that has everything built in needs none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let entries = entries.step(|| format!("list {}", folder.display()))?;
    let mut files: Vec<_> = entries.iter().map(fs::DirEntry::path).collect();
    files.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    Ok(files)
}

/// Reads what to set up and run.
pub(crate) fn read_config() -> Result<GuestConfig, SetupError> {
    let bytes = fs::read(CONFIG_PATH).step(|| format!("read {CONFIG_PATH}"))?;
    GuestConfig::from_bytes(&bytes).map_err(SetupError::Config)
}

/// Sets the host name, unless it is empty.
pub(crate) fn set_host_name(name: &str) -> Result<(), SetupError> {
    if name.is_empty() {
        return Ok(());
    }
    rustix::system::sethostname(name.as_bytes()).step(|| format!("set the host name {name:?}"))
}

/// Makes 127.0.0.1 work. A kernel without a network has no interface, and then nothing is missing.
pub(crate) fn bring_up_loopback() -> Result<(), SetupError> {
    match fs::write(LOOPBACK_FLAGS, LOOPBACK_UP) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written.step(|| "bring up the loopback interface".to_owned()),
    }
}

/// Kills all processes but this one.
pub(crate) fn kill_all() {
    // SAFETY: it takes numbers only. Fails when there is no other process, and then nothing is to be done.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_taken_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["10-9p.ko", "02-virtio.ko", "01-virtio_ring.ko"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let names: Vec<_> = module_files(folder.path()).unwrap();
        let expected = ["01-virtio_ring.ko", "02-virtio.ko", "10-9p.ko"].map(|name| folder.path().join(name));
        assert_eq!(names, expected);
        assert_eq!(module_files(&folder.path().join("none")).unwrap(), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn file_systems_are_ordered_outer_before_inner() {
        for (n, inner) in FILE_SYSTEMS.iter().enumerate() {
            let before = &FILE_SYSTEMS[..n];
            for outer in FILE_SYSTEMS.iter().filter(|outer| inner.path.starts_with(&format!("{}/", outer.path))) {
                assert!(
                    before.iter().any(|earlier| earlier.path == outer.path),
                    "{} before {}",
                    inner.path,
                    outer.path
                );
            }
        }
    }
}
