//! Hands the guest over to the init of a disk.

use crate::error::{InStep, SetupError};
use crate::shares::{NEW_ROOT, make_mount_point, switch_root};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move, unmount};
use std::convert::Infallible;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use vincs_guest_protocol::FromGuest;

/// How long a disk is waited for.
const DISK_TIME: Duration = Duration::from_secs(10);
/// How often it is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// The program that takes over.
const INIT: &str = "/sbin/init";
/// What the kernel calls virtio disks and their partitions.
const DISK_PREFIX: &str = "vd";
/// File systems that the disk's init finds mounted.
const HANDED_OVER: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Makes the disk that has an init the root, and becomes that init. Returns only when that fails.
pub(crate) fn hand_over() -> Result<FromGuest, SetupError> {
    let cmdline = fs::read_to_string("/proc/cmdline").step(|| "read /proc/cmdline".to_owned())?;
    let named = root_argument(&cmdline);
    let disks = wait_for_disks(named.as_deref())?;
    let file_systems = fs::read_to_string("/proc/filesystems").step(|| "read /proc/filesystems".to_owned())?;
    let kinds = disk_file_systems(&file_systems);
    let root = Path::new(NEW_ROOT);
    make_mount_point(root)?;
    if !disks.iter().any(|disk| mount_if_root(disk, root, &kinds)) {
        return Err(SetupError::NoDisk { looked_at: disks.join(", ") });
    }
    for path in HANDED_OVER {
        let target = root.join(path.trim_start_matches('/'));
        if target.is_dir() {
            mount_move(path, &target).step(|| format!("move {path} to the disk's root"))?;
        }
    }
    switch_root(root)?;
    match become_init() {
        Ok(never) => match never {},
        Err(error) => Err(error),
    }
}

fn become_init() -> Result<Infallible, SetupError> {
    Err(Command::new(INIT).exec()).step(|| format!("run the disk's {INIT}"))
}

/// The value of `root=`, the last one as the kernel has it.
fn root_argument(cmdline: &str) -> Option<String> {
    cmdline.split_whitespace().filter_map(|word| word.strip_prefix("root=")).next_back().map(str::to_owned)
}

/// The disks to look at: the named one, or all virtio disks and their partitions.
fn wait_for_disks(named: Option<&str>) -> Result<Vec<String>, SetupError> {
    let deadline = Instant::now() + DISK_TIME;
    loop {
        let partitions = fs::read_to_string("/proc/partitions").step(|| "read /proc/partitions".to_owned())?;
        let disks = match named {
            Some(path) if Path::new(path).exists() => vec![path.to_owned()],
            Some(_) => Vec::new(),
            None => virtio_disks(&partitions),
        };
        if !disks.is_empty() {
            return Ok(disks);
        }
        if Instant::now() >= deadline {
            return Err(SetupError::NoDisk { looked_at: named.unwrap_or("/dev/vd*").to_owned() });
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

/// From `/proc/partitions`: major, minor, blocks and name in columns.
fn virtio_disks(partitions: &str) -> Vec<String> {
    let names = partitions.lines().filter_map(|line| line.split_whitespace().nth(3));
    names.filter(|name| name.starts_with(DISK_PREFIX)).map(|name| format!("/dev/{name}")).collect()
}

/// From `/proc/filesystems`: those that need a disk, in the kernel's order.
fn disk_file_systems(list: &str) -> Vec<&str> {
    list.lines().filter(|line| !line.starts_with("nodev")).map(str::trim).filter(|kind| !kind.is_empty()).collect()
}

fn mount_if_root(disk: &str, root: &Path, kinds: &[&str]) -> bool {
    kinds.iter().any(|kind| {
        let mounted = match mount(disk, root, *kind, MountFlags::empty(), None) {
            // The disk was given as read-only.
            Err(Errno::ACCESS | Errno::ROFS) => mount(disk, root, *kind, MountFlags::RDONLY, None),
            mounted => mounted,
        };
        // Its init may be a link to an absolute path, which means nothing before it is the root.
        let found = mounted.is_ok() && root.join(INIT.trim_start_matches('/')).symlink_metadata().is_ok();
        if mounted.is_ok() && !found {
            // What stays mounted is covered by the next one.
            let _ = unmount(root, UnmountFlags::DETACH);
        }
        found
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_root_argument_counts() {
        assert_eq!(root_argument("console=ttyS0 root=/dev/vda root=/dev/vda1 rw\n").unwrap(), "/dev/vda1");
        assert_eq!(root_argument("console=ttyS0 nfsroot=x"), None);
    }

    #[test]
    fn only_virtio_disks_are_looked_at() {
        let partitions = "major minor  #blocks  name\n\n   1        0       4096 ram0\n 254        0    2097152 vda\n 254        1    2096128 vda1\n";
        assert_eq!(virtio_disks(partitions), ["/dev/vda", "/dev/vda1"]);
    }

    #[test]
    fn only_file_systems_of_disks_are_tried() {
        assert_eq!(
            disk_file_systems("nodev\tsysfs\nnodev\ttmpfs\n\text3\n\text2\n\text4\nnodev\t9p\n"),
            ["ext3", "ext2", "ext4"]
        );
    }
}
