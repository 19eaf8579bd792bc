//! Mounts the host's directories (9p over virtio; Linux Documentation, filesystems/9p) and makes one the root.

use crate::error::{InStep, SetupError};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move, unmount};
use std::ffi::{CString, OsStr};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;
use vincs_guest_protocol::{Share, ShareMode};

/// Where the new root is put together, in the initramfs.
pub(crate) const NEW_ROOT: &str = "/newroot";
/// Where the layers of an overlay are mounted while it is being mounted; it holds them itself after that.
const LAYERS: &str = "/dev/.vincs";
/// Largest 9p message in bytes: 125 pages, the most that one virtio request of the kernel's 9p transport carries.
const MESSAGE_SIZE: u32 = 125 * 4096;
/// Mode of folders that are made as mount points.
const MOUNT_POINT_MODE: u32 = 0o755;

/// The path of a share, in the guest as on the host.
pub(crate) fn path_of(share: &Share) -> &Path {
    Path::new(OsStr::from_bytes(&share.path))
}

/// Makes the share of `/` the root, or an empty tmpfs when there is none.
pub(crate) fn mount_root(shares: &[Share]) -> Result<(), SetupError> {
    let root = Path::new(NEW_ROOT);
    make_mount_point(root)?;
    match shares.iter().find(|share| path_of(share) == Path::new("/")) {
        Some(share) => mount_share(share, root)?,
        None => mount_tmpfs(root)?,
    }
    switch_root(root)
}

/// Mounts the shares that are not the root, each at its path. What holds their mount points is mounted already.
pub(crate) fn mount_others(shares: &[Share]) -> Result<(), SetupError> {
    for share in shares.iter().filter(|share| path_of(share) != Path::new("/")) {
        let path = path_of(share);
        make_mount_point(path)?;
        mount_share(share, path)?;
    }
    Ok(())
}

/// Makes what is mounted at `root` the root of all processes. The kernel's initramfs stays below it, unseen (it cannot
/// be unmounted: Linux Documentation, filesystems/ramfs-rootfs-initramfs).
pub(crate) fn switch_root(root: &Path) -> Result<(), SetupError> {
    let step = || format!("make {} the root", root.display());
    std::env::set_current_dir(root).step(step)?;
    mount_move(".", "/").step(step)?;
    rustix::process::chroot(".").step(step)?;
    std::env::set_current_dir("/").step(step)
}

/// Makes a folder to mount on, with its parents, if it is not there.
pub(crate) fn make_mount_point(path: &Path) -> Result<(), SetupError> {
    if path.is_dir() {
        return Ok(());
    }
    let made = fs::DirBuilder::new().recursive(true).mode(MOUNT_POINT_MODE).create(path);
    made.step(|| format!("make the mount point {}", path.display()))
}

fn mount_share(share: &Share, target: &Path) -> Result<(), SetupError> {
    match share.mode {
        // Nothing changes it but the host behind our back, so everything may be cached.
        ShareMode::ReadOnly => mount_9p(&share.tag, target, "loose", MountFlags::RDONLY),
        // The host reads and writes it as well, so only what is mapped is cached: compilers and linkers need to map.
        ShareMode::ReadWrite => mount_9p(&share.tag, target, "mmap", MountFlags::empty()),
        ShareMode::Overlay => mount_overlay(share, target),
    }
}

/// Extended attributes are left out: the kernel would ask for a file's capabilities, over 9p, at every exec and write.
fn mount_9p(tag: &str, target: &Path, cache: &str, flags: MountFlags) -> Result<(), SetupError> {
    let step = || format!("mount 9p share {tag} on {}", target.display());
    let options = format!("trans=virtio,version=9p2000.L,msize={MESSAGE_SIZE},cache={cache},access=any,noxattr");
    let options = CString::new(options).map_err(io::Error::from).step(step)?;
    mount(tag, target, "9p", flags | MountFlags::NOATIME, options.as_c_str()).step(step)
}

fn mount_tmpfs(target: &Path) -> Result<(), SetupError> {
    mount("tmpfs", target, "tmpfs", MountFlags::empty(), c"mode=0755")
        .step(|| format!("mount tmpfs on {}", target.display()))
}

fn mount_overlay(share: &Share, target: &Path) -> Result<(), SetupError> {
    let layers = Path::new(LAYERS);
    make_mount_point(layers)?;
    mount_tmpfs(layers)?;
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| layers.join(name));
    for folder in [&lower, &upper, &work] {
        make_mount_point(folder)?;
    }
    mount_9p(&share.tag, &lower, "loose", MountFlags::RDONLY)?;
    copy_owner_and_mode(&lower, &upper)?;
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let step = || format!("mount an overlay on {}", target.display());
    let options = CString::new(options).map_err(io::Error::from).step(step)?;
    mount("overlay", target, "overlay", MountFlags::NOATIME, options.as_c_str()).step(step)?;
    for layer in [lower.as_path(), layers] {
        unmount(layer, UnmountFlags::DETACH).step(|| format!("unmount {}", layer.display()))?;
    }
    Ok(())
}

/// An overlay shows its upper folder's owner and mode as its own: those of `/tmp`, say, are not the usual ones.
fn copy_owner_and_mode(from: &Path, to: &Path) -> Result<(), SetupError> {
    let step = || format!("copy owner and mode of {}", from.display());
    let shown = fs::metadata(from).step(step)?;
    std::os::unix::fs::chown(to, Some(shown.uid()), Some(shown.gid())).step(step)?;
    fs::set_permissions(to, Permissions::from_mode(shown.mode())).step(step)
}
