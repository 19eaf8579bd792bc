//! Which host directories the guest mounts, and how.
//!
//! `/` comes first, with changes kept to the guest. A 9p server names files by inode number, which is unique only in
//! one file system, so other file systems below `/` are shares of their own, up to a limit; each is used in the way of the
//! directory it lies in. On top come the current directory and each `--share`, which reach the host.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use vincs_guest_protocol::{Share, ShareMode};

use crate::host::mounts::{self, Mount};
use crate::input::share::KERNEL_DIRS;

/// Most host file systems below `/` that become shares of their own, the outer ones first: each takes a device. The
/// rest cannot be reached: the share around one shows its mount point and answers EXDEV to whoever enters.
pub(crate) const MAX_FILE_SYSTEMS: usize = 8;

/// Directories that start out empty in the guest: what the host has mounted there is left out.
const GUEST_DIRS: [&str; 2] = ["/run", "/tmp"];

/// The shares, outer before inner.
///
/// `asked` are directories to use in a mode other than the root's, as real paths; of two for one directory the last one
/// counts. `servable` says whether a mount point is a directory that vincs can serve.
pub(crate) fn plan(mounts: &[Mount], asked: &[(PathBuf, ShareMode)], servable: impl Fn(&Path) -> bool) -> Vec<Share> {
    let mut chosen: Vec<(PathBuf, ShareMode)> = vec![(PathBuf::from("/"), ShareMode::Overlay)];
    for (path, mode) in asked {
        chosen.retain(|(earlier, _)| earlier != path);
        chosen.push((path.clone(), *mode));
    }
    let mut file_systems: Vec<&Mount> = mounts.iter().filter(|mount| mount.holds_files()).collect();
    file_systems.sort_by_key(|mount| mount.point.components().count());
    let mut added = 0;
    for mount in file_systems {
        let Some((around, mode)) = innermost(&chosen, &mount.point) else { continue };
        let same_inodes = mounts::covering(mounts, around).is_some_and(|outer| outer.device == mount.device);
        if added == MAX_FILE_SYSTEMS {
            tracing::warn!(path = %mount.point.display(), "more file systems than shares: cannot be reached in the guest");
            continue;
        }
        if around == mount.point || same_inodes || hidden(&mount.point, around) || !servable(&mount.point) {
            continue;
        }
        added += 1;
        chosen.push((mount.point.clone(), mode));
    }
    chosen.sort_by(|(a, _), (b, _)| a.cmp(b));
    let named = chosen.into_iter().enumerate();
    named
        .map(|(n, (path, mode))| Share { tag: format!("vincs{n}"), path: path.as_os_str().as_bytes().into(), mode })
        .collect()
}

fn innermost<'a>(chosen: &'a [(PathBuf, ShareMode)], path: &Path) -> Option<(&'a Path, ShareMode)> {
    let around = chosen.iter().filter(|(outer, _)| path.starts_with(outer));
    around.max_by_key(|(outer, _)| outer.components().count()).map(|(outer, mode)| (outer.as_path(), *mode))
}

/// Whether the guest's own file systems cover this mount point: they do below the directories that the guest replaces,
/// unless the share around it lies there too.
fn hidden(point: &Path, around: &Path) -> bool {
    KERNEL_DIRS.iter().chain(&GUEST_DIRS).any(|own| point.starts_with(own) && !around.starts_with(own))
}

/// Whether the current directory becomes a share of its own: not the root, which stays as it is, and not a directory
/// whose content the guest's kernel makes up.
pub(crate) fn shares_current_dir(cwd: &Path) -> bool {
    cwd != Path::new("/") && !KERNEL_DIRS.iter().any(|own| cwd.starts_with(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(point: &str, device: &str, fs_type: &str) -> Mount {
        Mount { point: point.into(), device: device.into(), fs_type: fs_type.into() }
    }

    fn planned(mounts: &[Mount], asked: &[(&str, ShareMode)]) -> Vec<(String, ShareMode)> {
        let asked: Vec<_> = asked.iter().map(|(path, mode)| (PathBuf::from(path), *mode)).collect();
        let shares = plan(mounts, &asked, |path| path != Path::new("/secret"));
        let tags: Vec<_> = shares.iter().map(|share| share.tag.as_str()).collect();
        assert_eq!(tags, (0..shares.len()).map(|n| format!("vincs{n}")).collect::<Vec<_>>());
        shares.into_iter().map(|share| (String::from_utf8(share.path).unwrap(), share.mode)).collect()
    }

    fn expected(shares: &[(&str, ShareMode)]) -> Vec<(String, ShareMode)> {
        shares.iter().map(|(path, mode)| ((*path).to_owned(), *mode)).collect()
    }

    use ShareMode::{Overlay, ReadOnly, ReadWrite};

    #[test]
    fn real_file_systems_become_shares_and_others_do_not() {
        let mounts = [
            mount("/", "8:1", "ext4"),
            mount("/proc", "0:1", "proc"),
            mount("/home", "8:2", "xfs"),
            mount("/home/bind", "8:2", "xfs"),
            mount("/home/root", "8:1", "ext4"),
            mount("/dev/shm", "0:5", "tmpfs"),
            mount("/run", "0:6", "tmpfs"),
            mount("/tmp", "0:7", "tmpfs"),
            mount("/secret", "0:8", "fuse.sshfs"),
            mount("/doc", "0:9", "fuse.portal"),
        ];
        assert_eq!(planned(&mounts, &[]), expected(&[("/", Overlay), ("/home", Overlay), ("/home/root", Overlay)]));
    }

    #[test]
    fn outer_comes_before_inner_and_a_mount_is_used_like_the_directory_around_it() {
        let mounts = [mount("/", "8:1", "ext4"), mount("/w/in", "8:3", "ext4"), mount("/w", "8:2", "ext4")];
        let shares = planned(&mounts, &[("/w/in/deep", ReadOnly), ("/w", ReadWrite)]);
        assert_eq!(
            shares,
            expected(&[("/", Overlay), ("/w", ReadWrite), ("/w/in", ReadWrite), ("/w/in/deep", ReadOnly)])
        );
    }

    #[test]
    fn the_last_mode_of_a_directory_counts() {
        let root = [mount("/", "8:1", "ext4")];
        assert_eq!(
            planned(&root, &[("/w", ReadWrite), ("/w", ReadOnly)]),
            expected(&[("/", Overlay), ("/w", ReadOnly)])
        );
    }

    #[test]
    fn a_share_below_tmp_brings_what_is_mounted_in_it() {
        let mounts = [
            mount("/", "8:1", "ext4"),
            mount("/tmp", "0:7", "tmpfs"),
            mount("/tmp/w/m", "8:2", "ext4"),
            mount("/tmp/x", "8:3", "ext4"),
        ];
        assert_eq!(
            planned(&mounts, &[("/tmp/w", ReadWrite)]),
            expected(&[("/", Overlay), ("/tmp/w", ReadWrite), ("/tmp/w/m", ReadWrite)])
        );
    }

    #[test]
    fn the_number_of_file_systems_is_limited_at_its_edge() {
        let many: Vec<_> =
            (0..=MAX_FILE_SYSTEMS).map(|n| mount(&format!("/m{n}"), &format!("9:{n}"), "ext4")).collect();
        assert_eq!(planned(many.get(..MAX_FILE_SYSTEMS).unwrap(), &[]).len(), 1 + MAX_FILE_SYSTEMS);
        assert_eq!(planned(&many, &[]).len(), 1 + MAX_FILE_SYSTEMS);
    }

    #[test]
    fn the_root_and_kernel_directories_are_not_shared_as_current_directory() {
        let shared: Vec<_> = ["/", "/proc/1", "/dev", "/sys/class", "/tmp", "/home/u", "/processes"]
            .map(|dir| shares_current_dir(Path::new(dir)))
            .into();
        assert_eq!(shared, [false, false, false, false, true, true, true]);
    }
}
