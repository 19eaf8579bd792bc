//! Initramfs archives: cpio in the "newc" format, as the kernel unpacks it (Linux Documentation,
//! driver-api/early-userspace/buffer-format).

use std::collections::BTreeSet;

const MAGIC: &[u8] = b"070701";
const TRAILER: &str = "TRAILER!!!";
/// Headers with their names, and contents, are padded to multiples of this.
const ALIGNMENT: usize = 4;

const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_CHARACTER_DEVICE: u32 = 0o020_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_SYMLINK: u32 = 0o120_000;
const PERMISSIONS: u32 = 0o7777;
/// Mode of folders that are made because something lies in them.
const PARENT_MODE: u32 = 0o755;

/// Largest length in bytes of a path in an archive (the kernel's `PATH_MAX`, without the final NUL).
pub const PATH_MAX: usize = 4095;

/// Why something cannot be put into an archive.
#[derive(Debug, thiserror::Error)]
pub enum CpioError {
    /// The path is empty, too long, not plain, or the archive's end mark.
    #[error("{0:?} cannot be a path in an initramfs: give 1 to {PATH_MAX} bytes without NUL, `.` and `..`")]
    Path(String),
    /// The format has 32 bits for a file's length.
    #[error("{0} is over 4 GiB, too long for a file in an initramfs")]
    TooLong(String),
}

/// An archive being written. Everything in it belongs to root and has time 0, so equal content gives equal bytes.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    inode: u32,
}

struct Entry<'a> {
    path: &'a str,
    mode: u32,
    device: (u32, u32),
    content: &'a [u8],
}

impl Archive {
    /// An archive with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a folder, or changes the mode of one that is already there.
    ///
    /// # Errors
    /// [`CpioError`]; the archive is as before then.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<(), CpioError> {
        self.add(&Entry { path, mode: TYPE_DIRECTORY | mode & PERMISSIONS, device: (0, 0), content: &[] })
    }

    /// Adds a file.
    ///
    /// # Errors
    /// [`CpioError`]; the archive is as before then.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<(), CpioError> {
        self.add(&Entry { path, mode: TYPE_FILE | mode & PERMISSIONS, device: (0, 0), content })
    }

    /// Adds a symbolic link at `path` that leads to `target`.
    ///
    /// # Errors
    /// [`CpioError`]; the archive is as before then.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), CpioError> {
        self.add(&Entry { path, mode: TYPE_SYMLINK | 0o777, device: (0, 0), content: target.as_bytes() })
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// [`CpioError`]; the archive is as before then.
    pub fn device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> Result<(), CpioError> {
        let mode = TYPE_CHARACTER_DEVICE | mode & PERMISSIONS;
        self.add(&Entry { path, mode, device: (major, minor), content: &[] })
    }

    /// The whole archive, uncompressed.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.append(&Entry { path: TRAILER, mode: 0, device: (0, 0), content: &[] }, 0);
        self.bytes
    }

    fn add(&mut self, entry: &Entry<'_>) -> Result<(), CpioError> {
        let path = plain_path(entry.path)?;
        let length = u32::try_from(entry.content.len()).map_err(|_| CpioError::TooLong(path.into()))?;
        for (end, _) in path.match_indices('/') {
            self.parent(&path[..end]);
        }
        if entry.mode & !PERMISSIONS == TYPE_DIRECTORY {
            self.directories.insert(path.into());
        }
        self.append(&Entry { path, ..*entry }, length);
        Ok(())
    }

    fn parent(&mut self, path: &str) {
        if self.directories.insert(path.into()) {
            self.append(&Entry { path, mode: TYPE_DIRECTORY | PARENT_MODE, device: (0, 0), content: &[] }, 0);
        }
    }

    fn append(&mut self, entry: &Entry<'_>, length: u32) {
        self.inode += 1;
        let links = 1;
        let (major, minor) = entry.device;
        // The name's length counts its NUL and cannot overflow: paths are at most PATH_MAX.
        let name_length = u32::try_from(entry.path.len() + 1).unwrap_or(u32::MAX);
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        let fields = [self.inode, entry.mode, 0, 0, links, 0, length, 0, 0, major, minor, name_length, 0];
        self.bytes.extend_from_slice(MAGIC);
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(entry.path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(entry.content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

/// The path without its leading and trailing `/`, as archives hold it.
fn plain_path(path: &str) -> Result<&str, CpioError> {
    let plain = path.trim_matches('/');
    let bad_part = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains('\0');
    if plain.len() > PATH_MAX || plain == TRAILER || plain.split('/').any(bad_part) {
        return Err(CpioError::Path(path.into()));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Eq, PartialEq)]
    struct Unpacked {
        path: String,
        mode: u32,
        device: (u32, u32),
        content: Vec<u8>,
    }

    /// Reads an archive by the format's description, independent of how it was written.
    fn unpack(mut archive: &[u8]) -> Vec<Unpacked> {
        let mut entries = Vec::new();
        loop {
            let (header, rest) = archive.split_at(110);
            assert_eq!(&header[..6], b"070701");
            let number = |n: usize| {
                let digits = std::str::from_utf8(&header[6 + 8 * n..14 + 8 * n]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let name_length = number(11) as usize;
            let name_end = (110 + name_length).next_multiple_of(4) - 110;
            let path = std::str::from_utf8(&rest[..name_length - 1]).unwrap().to_owned();
            assert_eq!(rest[name_length - 1], 0);
            let length = number(6) as usize;
            let content = rest[name_end..name_end + length].to_vec();
            archive = &rest[name_end + length.next_multiple_of(4)..];
            if path == "TRAILER!!!" {
                assert!(archive.is_empty());
                return entries;
            }
            entries.push(Unpacked { path, mode: number(1), device: (number(9), number(10)), content });
        }
    }

    fn paths(archive: Archive) -> Vec<String> {
        unpack(&archive.finish()).into_iter().map(|entry| entry.path).collect()
    }

    #[test]
    fn every_kind_of_entry_is_read_back() {
        let mut archive = Archive::new();
        archive.directory("/proc", 0o555).unwrap();
        archive.file("init", 0o755, b"\x7fELF.").unwrap();
        archive.symlink("bin", "usr/bin").unwrap();
        archive.device("console", 0o600, 5, 1).unwrap();
        let entry = |path: &str, mode, device, content: &[u8]| Unpacked {
            path: path.into(),
            mode,
            device,
            content: content.to_vec(),
        };
        let expected = [
            entry("proc", 0o040_555, (0, 0), b""),
            entry("init", 0o100_755, (0, 0), b"\x7fELF."),
            entry("bin", 0o120_777, (0, 0), b"usr/bin"),
            entry("console", 0o020_600, (5, 1), b""),
        ];
        assert_eq!(unpack(&archive.finish()), expected);
    }

    #[test]
    fn parents_come_first_and_once() {
        let mut archive = Archive::new();
        archive.file("/vincs/modules/00-virtio.ko", 0o644, b"a").unwrap();
        archive.file("/vincs/modules/01-9p.ko", 0o644, b"b").unwrap();
        archive.directory("dev/", 0o755).unwrap();
        archive.file("/dev/null", 0o644, b"").unwrap();
        let expected =
            ["vincs", "vincs/modules", "vincs/modules/00-virtio.ko", "vincs/modules/01-9p.ko", "dev", "dev/null"];
        assert_eq!(paths(archive), expected);
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in ["", "/", "a//b", "a/../b", "./a", "a\0b", "TRAILER!!!"] {
            let mut archive = Archive::new();
            let error = archive.file(path, 0o644, b"").unwrap_err();
            assert!(error.to_string().contains(&format!("{path:?}")), "{error}");
            assert_eq!(paths(archive), [""; 0]);
        }
        assert!(Archive::new().file(&"x".repeat(PATH_MAX), 0o644, b"").is_ok());
        assert!(Archive::new().file(&"x".repeat(PATH_MAX + 1), 0o644, b"").is_err());
    }

    #[test]
    fn contents_of_every_alignment_stay_whole() {
        for length in 0..9 {
            let mut archive = Archive::new();
            archive.file("f", 0o644, &vec![b'x'; length]).unwrap();
            archive.file("longer-name", 0o644, b"y").unwrap();
            let entries = unpack(&archive.finish());
            assert_eq!((entries[0].content.len(), entries[1].content.as_slice()), (length, b"y".as_slice()));
        }
    }
}
