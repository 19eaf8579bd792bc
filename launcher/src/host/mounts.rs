//! The host's mounted file systems, from /proc/self/mountinfo (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// File systems that the kernel makes up, or that are a door to a running program: the guest has its own, or no use
/// for them.
const PSEUDO: [&str; 20] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "cgroup",
    "cgroup2",
    "debugfs",
    "tracefs",
    "securityfs",
    "pstore",
    "bpf",
    "mqueue",
    "hugetlbfs",
    "autofs",
    "configfs",
    "efivarfs",
    "binfmt_misc",
    "fusectl",
    "nsfs",
    "fuse.portal",
];

/// A mounted file system.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Mount {
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// Its device number, `major:minor`: the same for every mount of one file system.
    pub(crate) device: String,
    /// Its type, with the subtype.
    pub(crate) fs_type: String,
}

impl Mount {
    /// Whether it holds files, rather than the kernel's own state.
    pub(crate) fn holds_files(&self) -> bool {
        !PSEUDO.contains(&self.fs_type.as_str())
    }
}

/// The mounts in the order they were made; lines of another form are left out. Of several mounts at one place, the last
/// hides the others.
pub(crate) fn parse(mountinfo: &[u8]) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for mount in mountinfo.split(|byte| *byte == b'\n').filter_map(parse_line) {
        mounts.retain(|earlier| earlier.point != mount.point);
        mounts.push(mount);
    }
    mounts
}

/// Fields: id, parent, major:minor, root, mount point, options, optional fields up to `-`, type, source, options.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let point = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let fs_type = fields.skip_while(|field| *field != b"-").nth(1)?;
    let fs_type = String::from_utf8(fs_type.to_vec()).ok()?;
    Some(Mount { point, device, fs_type })
}

/// Space, tab, newline and backslash stand as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

/// The mount that `path` lies in.
pub(crate) fn covering<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts.iter().filter(|mount| path.starts_with(&mount.point)).max_by_key(|mount| mount.point.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        22 27 0:21 / /proc rw,relatime shared:5 master:1 - proc proc rw\n\
        40 27 8:1 /sub /mnt/two\\040words\\134x rw - xfs /dev/sda1 rw\n\
        26 27 0:24 / /data rw - tmpfs old rw\n\
        broken line\n\
        29 26 0:26 / /data rw - ext3 new rw\n";

    #[test]
    fn mounts_are_read_with_escapes_and_optional_fields() {
        let mounts = parse(TEXT);
        let seen: Vec<_> =
            mounts.iter().map(|m| (m.point.to_str().unwrap(), m.device.as_str(), m.fs_type.as_str())).collect();
        let expected = [
            ("/", "254:0", "ext4"),
            ("/proc", "0:21", "proc"),
            ("/mnt/two words\\x", "8:1", "xfs"),
            ("/data", "0:26", "ext3"),
        ];
        assert_eq!(seen, expected);
        assert_eq!(mounts.iter().map(Mount::holds_files).collect::<Vec<_>>(), [true, false, true, true]);
    }

    #[test]
    fn half_an_escape_is_left_as_it_is() {
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"\\999\\"), b"\\999\\");
    }

    #[test]
    fn the_innermost_mount_covers_a_path() {
        let mounts = parse(TEXT);
        assert_eq!(covering(&mounts, Path::new("/data/x")).unwrap().device, "0:26");
        assert_eq!(covering(&mounts, Path::new("/database")).unwrap().device, "254:0");
    }

    #[test]
    fn this_hosts_mounts_hold_a_root() {
        let mounts = parse(&std::fs::read("/proc/self/mountinfo").unwrap());
        assert!(mounts.iter().any(|mount| mount.point == Path::new("/")));
    }
}
