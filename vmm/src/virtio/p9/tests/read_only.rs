//! A read-only share refuses whatever changes anything.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::client::*;
use crate::virtio::p9::share::ShareMode::ReadOnly;
use crate::virtio::p9::wire::*;

/// Everything that a change would show in: mode, owner, size, times, link count and contents of each entry.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, (Vec<i64>, Vec<u8>)> {
    let mut entries = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let m = fs::symlink_metadata(&path).unwrap();
        let facts = [m.mode().into(), m.uid().into(), m.gid().into(), i64::try_from(m.nlink()).unwrap()];
        let times = [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()];
        let contents = if m.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        if m.is_dir() {
            entries.append(&mut snapshot(&path));
        }
        entries.insert(path, ([facts, times].concat(), contents));
    }
    entries
}

#[test]
fn every_change_is_refused_and_nothing_changes() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("dir")).unwrap();
    fs::write(root.path().join("file"), "contents").unwrap();
    symlink("file", root.path().join("link")).unwrap();
    let before = snapshot(root.path());
    assert_eq!(before.len(), 3);

    let mut client = Client::new(root.path(), ReadOnly);
    client.open_path(1, &["file"], RDONLY).unwrap();
    client.walk(ROOT, 2, &["file"]).unwrap();
    let refused = |reply: Reply, what: &str| assert_eq!(reply, Err(Errno::ROFS.raw_os_error()), "{what}");
    for flags in [WRONLY, RDWR, 3, 0o1000, 0o2000, RDWR | 0o100] {
        refused(client.open(2, flags).map(|_| vec![]), "open");
    }
    refused(client.write(1, 0, b"x").map(|_| vec![]), "write");
    refused(client.create(ROOT, "new", RDONLY), "create");
    refused(client.mkdir(ROOT, "new"), "mkdir");
    refused(client.symlink(ROOT, "new", "file"), "symlink");
    refused(client.mknod(ROOT, "new", 0o10_0644), "mknod");
    refused(client.link(ROOT, 2, "new"), "link");
    refused(client.rename(ROOT, "file", ROOT, "new"), "renameat");
    refused(client.unlink(ROOT, "file", 0), "unlinkat");
    refused(client.set_size(2, 0), "size");
    for valid in [1_u32, 2, 4, 16, 32, 64, 0x1FF, u32::MAX] {
        refused(client.call(TSETATTR, &[&2_u32.to_le_bytes(), &valid.to_le_bytes(), &[0; 52]]), "setattr");
    }
    let rename = [&2_u32.to_le_bytes()[..], &ROOT.to_le_bytes(), &string("new")].concat();
    refused(client.call(TRENAME, &[&rename]), "rename");
    refused(client.call(TXATTRCREATE, &[&2_u32.to_le_bytes(), &string("user.x"), &[0; 12]]), "xattr");
    refused(client.call(TREMOVE, &[&2_u32.to_le_bytes()]), "remove");
    assert_eq!(client.clunk(2), Err(Errno::BADF.raw_os_error()), "the removed fid is gone all the same");

    assert_eq!(client.read(1, 0, 100).unwrap(), b"contents");
    assert_eq!(snapshot(root.path()), before);
}
