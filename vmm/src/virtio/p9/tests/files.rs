//! Files and directories of a read-write share, and its walls.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::io::Errno;

use super::client::*;
use crate::virtio::p9::share::ShareMode::{ReadOnly, ReadWrite};
use crate::virtio::p9::wire::*;

const S_IFIFO: u32 = 0o1_0000;
const S_IFCHR: u32 = 0o2_0000;
const S_IFREG: u32 = 0o10_0000;
const S_IFSOCK: u32 = 0o14_0000;
const REMOVE_DIRECTORY: u32 = 0x200;

fn errno<T>(error: Errno) -> Reply<T> {
    Err(error.raw_os_error())
}

#[test]
fn files_are_walked_to_opened_read_and_listed() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("a/b")).unwrap();
    fs::write(root.path().join("a/b/file"), "contents").unwrap();
    let mut client = Client::new(root.path(), ReadOnly);

    let qids = client.walk(ROOT, 1, &["a", "b", "file"]).unwrap();
    assert_eq!(qids.iter().map(|qid| qid.kind).collect::<Vec<_>>(), [0x80, 0x80, 0]);
    let inode = fs::metadata(root.path().join("a/b/file")).unwrap().ino();
    assert_eq!(qids[2].path, inode);
    assert_eq!(client.getattr(1).unwrap(), (qids[2], S_IFREG | 0o644, 8));
    assert_eq!(client.read(1, 0, 100), errno(Errno::BADF), "not open yet");
    assert_eq!(client.open(1, RDONLY).unwrap(), qids[2]);
    assert_eq!(client.read(1, 3, 100).unwrap(), b"tents");
    assert_eq!(client.read(1, 8, 100).unwrap(), b"");

    client.open_path(2, &["a"], RDONLY).unwrap();
    assert_eq!(client.list(2).unwrap(), [".", "..", "b"]);
    assert_eq!(client.list(1), errno(Errno::NOTDIR));
    client.walk(2, 3, &[]).unwrap();
    assert_eq!(client.getattr(3).unwrap().0, qids[0], "a walk without names copies the fid");

    assert_eq!(client.clunk(1), Ok(vec![]));
    assert_eq!(client.clunk(1), errno(Errno::BADF));
    assert_eq!(client.getattr(1), errno(Errno::BADF));
}

#[test]
fn a_walk_that_ends_early_makes_no_fid() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("a")).unwrap();
    let mut client = Client::new(root.path(), ReadOnly);
    assert_eq!(client.walk(ROOT, 1, &["missing", "a"]), errno(Errno::NOENT));
    assert_eq!(client.walk(ROOT, 1, &["a", "missing"]).unwrap().len(), 1);
    assert_eq!(client.getattr(1), errno(Errno::BADF));
    assert_eq!(client.walk(9, 1, &["a"]), errno(Errno::BADF));
    client.walk(ROOT, 1, &["a"]).unwrap();
    assert_eq!(client.walk(ROOT, 1, &[]), errno(Errno::BADF), "in use");
}

#[test]
fn a_read_write_share_changes_the_host() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let mut client = Client::new(root.path(), ReadWrite);

    client.mkdir(ROOT, "dir").unwrap();
    client.walk(ROOT, 1, &["dir"]).unwrap();
    client.walk(1, 2, &[]).unwrap();
    client.create(2, "file", RDWR).unwrap();
    assert_eq!(client.write(2, 0, b"0123456789"), Ok(10));
    assert_eq!(client.fsync(2), Ok(vec![]));
    assert_eq!(client.read(2, 5, 100).unwrap(), b"56789");
    assert_eq!(fs::read(at("dir/file")).unwrap(), b"0123456789");
    assert_eq!(client.getattr(2).unwrap().2, 10, "the fid is the new file's");

    client.set_size(2, 4).unwrap();
    assert_eq!(fs::read(at("dir/file")).unwrap(), b"0123");
    assert_eq!(client.set_size(1, 0), errno(Errno::ISDIR));
    client.link(ROOT, 2, "hard").unwrap();
    client.rename(1, "file", ROOT, "moved").unwrap();
    assert_eq!(fs::metadata(at("moved")).unwrap().ino(), fs::metadata(at("hard")).unwrap().ino());
    client.symlink(ROOT, "soft", "hard").unwrap();
    assert_eq!(fs::read_link(at("soft")).unwrap(), Path::new("hard"));
    client.mknod(ROOT, "fifo", S_IFIFO | 0o600).unwrap();
    assert!(fs::metadata(at("fifo")).unwrap().file_type().is_fifo());
    client.mknod(ROOT, "socket", S_IFSOCK | 0o600).unwrap();
    assert_eq!(client.mknod(ROOT, "device", S_IFCHR | 0o600), errno(Errno::PERM));

    client.open_path(3, &["hard"], WRONLY | 0o1000).unwrap();
    assert_eq!(fs::read(at("hard")).unwrap(), b"", "truncated");
    client.unlink(ROOT, "hard", 0).unwrap();
    client.unlink(ROOT, "dir", REMOVE_DIRECTORY).unwrap();
    client.walk(ROOT, 4, &["moved"]).unwrap();
    assert_eq!(client.call(TREMOVE, &[&4_u32.to_le_bytes()]), errno(Errno::OPNOTSUPP));
    assert_eq!(client.clunk(4), errno(Errno::BADF), "the fid is gone all the same");
    let mut names: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["fifo", "moved", "socket", "soft"]);
}

#[test]
fn opening_with_create_or_direct_opens_what_is_there() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "contents").unwrap();
    for mode in [ReadOnly, ReadWrite] {
        let mut client = Client::new(root.path(), mode);
        client.open_path(1, &["file"], RDONLY | 0o100 | 0o4_0000).unwrap();
        assert_eq!(client.read(1, 1, 3).unwrap(), b"ont", "an unaligned read");
    }
}

#[test]
fn no_name_leads_out_of_its_directory() {
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().join("root");
    fs::create_dir_all(root.join("dir")).unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    fs::write(root.join("file"), "").unwrap();
    let mut client = Client::new(&root, ReadWrite);
    client.walk(ROOT, 1, &["dir"]).unwrap();
    client.walk(ROOT, 2, &["file"]).unwrap();
    for name in ["", ".", "..", "../secret", "/", "/etc", "dir/../..", "a\0b"] {
        let refused = errno(Errno::INVAL);
        assert_eq!(client.walk(ROOT, 3, &[name]).map(drop), errno(Errno::INVAL), "{name:?}");
        assert_eq!(client.walk(ROOT, 3, &["dir", name]).map(drop), errno(Errno::INVAL), "{name:?}");
        assert_eq!(client.create(ROOT, name, RDWR), refused, "{name:?}");
        assert_eq!(client.mkdir(ROOT, name), refused, "{name:?}");
        assert_eq!(client.unlink(ROOT, name, 0), refused, "{name:?}");
        assert_eq!(client.rename(ROOT, name, ROOT, "new"), refused, "{name:?}");
        assert_eq!(client.rename(ROOT, "file", 1, name), refused, "{name:?}");
        assert_eq!(client.link(ROOT, 2, name), refused, "{name:?}");
        assert_eq!(client.symlink(ROOT, name, "file"), refused, "{name:?}");
        assert_eq!(client.mknod(ROOT, name, S_IFREG), refused, "{name:?}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);
    assert_eq!(fs::read_dir(root).unwrap().count(), 2);
}

#[test]
fn symbolic_links_are_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    symlink(outside.path(), root.join("out")).unwrap();
    symlink("../secret", root.join("file")).unwrap();
    let mut client = Client::new(&root, ReadWrite);
    assert_eq!(client.walk(ROOT, 1, &["out", "secret"]).unwrap().len(), 1, "ends at the link");
    assert_eq!(client.getattr(1), errno(Errno::BADF));
    assert_eq!(client.walk(ROOT, 1, &["out"]).unwrap()[0].kind, 0x02);
    assert_eq!(client.walk(1, 2, &["secret"]), errno(Errno::NOTDIR));
    assert_eq!(client.create(1, "new", RDWR), errno(Errno::NOTDIR));
    assert_eq!(client.open(1, RDONLY), errno(Errno::LOOP));
    let target = client.call(TREADLINK, &[&1_u32.to_le_bytes()]).unwrap();
    assert_eq!(target, string(outside.path().as_os_str().as_encoded_bytes()));
    client.walk(ROOT, 3, &["file"]).unwrap();
    assert_eq!(client.open(3, RDWR), errno(Errno::LOOP));
    assert_eq!(client.set_size(3, 0), errno(Errno::INVAL));
    assert_eq!(client.create(ROOT, "file", WRONLY), errno(Errno::EXIST));
    let facts = || {
        let m = fs::metadata(outside.path().join("secret")).unwrap();
        (m.mode(), m.uid(), m.mtime(), m.ctime(), m.ctime_nsec())
    };
    let before = facts();
    for valid in [1_u32, 2 | 4, 0x20 | 0x100, 0x40] {
        // Mode and owner, then the modification time, are the link's own where they can be set at all.
        let _ = client.call(TSETATTR, &[&3_u32.to_le_bytes(), &valid.to_le_bytes(), &[0; 52]]);
        assert_eq!(facts(), before, "{valid:#x}");
    }
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
}

#[test]
fn special_files_are_seen_but_not_opened() {
    let root = tempfile::tempdir().unwrap();
    let mut client = Client::new(root.path(), ReadWrite);
    client.mknod(ROOT, "fifo", S_IFIFO | 0o600).unwrap();
    let _listener = UnixListener::bind(root.path().join("socket")).unwrap();
    for (fid, name) in [(1, "fifo"), (2, "socket")] {
        client.walk(ROOT, fid, &[name]).unwrap();
        client.getattr(fid).unwrap();
        for flags in [RDONLY, WRONLY, RDWR] {
            assert_eq!(client.open(fid, flags), errno(Errno::NXIO), "{name}");
        }
        assert_eq!(client.set_size(fid, 0), errno(Errno::INVAL), "{name}");
    }
}

#[test]
fn another_mount_is_seen_but_not_entered() {
    // /proc is a mount of its own wherever the server works.
    let mut client = Client::new(Path::new("/"), ReadWrite);
    let qid = client.walk(ROOT, 1, &["proc"]).unwrap()[0];
    assert_eq!((qid.kind, qid.path >> 63), (0x80, 1), "no inode number of the root's file system");
    assert_eq!(client.getattr(1).unwrap().0, qid);
    assert_eq!(client.walk(ROOT, 2, &["proc", "kmsg"]), errno(Errno::XDEV));
    assert_eq!(client.walk(1, 2, &["kmsg"]), errno(Errno::XDEV));
    assert_eq!(client.open(1, RDONLY), errno(Errno::XDEV));
    assert_eq!(client.mkdir(1, "new"), errno(Errno::XDEV));
    assert_eq!(client.rename(ROOT, "tmp", 1, "new"), errno(Errno::XDEV));
    assert_eq!(client.set_size(1, 0), errno(Errno::XDEV));
    client.walk(1, 3, &[]).unwrap();
    assert_eq!(client.getattr(3).unwrap().0, qid);
}

#[test]
fn the_share_stays_the_directory_it_was_given() {
    let outside = tempfile::tempdir().unwrap();
    let (root, moved) = (outside.path().join("root"), outside.path().join("moved"));
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), "").unwrap();
    let mut client = Client::new(&root, ReadOnly);
    fs::rename(&root, &moved).unwrap();
    fs::create_dir(&root).unwrap();
    client.send(&attach(1)).unwrap();
    client.walk(1, 2, &["file"]).unwrap();
}
