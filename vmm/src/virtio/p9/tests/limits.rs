//! Limits at their edges.

use std::fs;
use std::path::Path;

use rustix::io::Errno;

use super::client::*;
use crate::virtio::p9::share::ShareMode::{ReadOnly, ReadWrite};
use crate::virtio::p9::share::{MSIZE, Share};
use crate::virtio::p9::wire::*;
use crate::virtio::p9::{MAX_TAG_LEN, P9, P9Error};

fn msize_granted(client: &mut Client, msize: u32) -> Reply<u32> {
    client.send(&version(msize)).map(|reply| Fields::of(&reply).u32().unwrap())
}

#[test]
fn the_message_size_is_negotiated_anew_by_each_session() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), vec![7; 2 << 20]).unwrap();
    let mut client = Client::new(root.path(), ReadOnly);
    for (asked, granted) in [(256, 256), (MSIZE, MSIZE), (MSIZE + 1, MSIZE), (u32::MAX, MSIZE), (8192, 8192)] {
        assert_eq!(msize_granted(&mut client, asked), Ok(granted));
        client.send(&attach(ROOT)).unwrap();
        client.open_path(1, &["file"], RDONLY).unwrap();
        assert_eq!(client.read(1, 0, u32::MAX).unwrap().len(), granted as usize - 11);
    }
    assert_eq!(msize_granted(&mut client, 255), Err(Errno::INVAL.raw_os_error()));
    assert_eq!(client.send(&attach(ROOT)), Err(Errno::INVAL.raw_os_error()), "no session");
}

#[test]
fn a_message_may_be_as_long_as_negotiated() {
    let root = tempfile::tempdir().unwrap();
    let mut client = Client::new(root.path(), ReadWrite);
    client.send(&version(MSIZE)).unwrap();
    client.send(&attach(ROOT)).unwrap();
    client.create(ROOT, "file", RDWR).unwrap();
    let most = MSIZE - 23;
    assert_eq!(client.write(ROOT, 0, &vec![1; most as usize]), Ok(most));
    assert_eq!(client.write(ROOT, 0, &vec![2; most as usize + 1]), Err(Errno::INVAL.raw_os_error()));
    assert_eq!(fs::read(root.path().join("file")).unwrap(), vec![1; most as usize]);
}

#[test]
fn one_fid_too_many_is_refused_until_one_is_given_back() {
    let root = tempfile::tempdir().unwrap();
    let mut client = Client::of(Share::with_limit(root.path(), ReadOnly, 3).unwrap());
    client.walk(ROOT, 1, &[]).unwrap();
    client.send(&attach(2)).unwrap();
    let full = Errno::NFILE.raw_os_error();
    assert_eq!(client.walk(ROOT, 3, &[]), Err(full));
    assert_eq!(client.send(&attach(3)), Err(full));
    client.walk(ROOT, ROOT, &[]).unwrap();
    client.clunk(1).unwrap();
    client.walk(ROOT, 3, &[]).unwrap();
}

#[test]
fn a_walk_has_at_most_sixteen_names() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join(["d"; 17].join("/"))).unwrap();
    let mut client = Client::new(root.path(), ReadOnly);
    assert_eq!(client.walk(ROOT, 1, &["d"; 16]).unwrap().len(), 16);
    assert_eq!(client.walk(ROOT, 2, &["d"; 17]), Err(Errno::INVAL.raw_os_error()));
}

#[test]
fn a_share_needs_a_tag_and_a_directory() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let new = |tag: &str, path: &Path| P9::new(tag, path, ReadOnly);
    assert!(new(&"t".repeat(MAX_TAG_LEN), root.path()).is_ok());
    for tag in ["", "a\0b", &"t".repeat(MAX_TAG_LEN + 1)] {
        assert!(matches!(new(tag, root.path()), Err(P9Error::Tag { .. })));
    }
    for path in [&file, &root.path().join("missing")] {
        let error = new("tag", path).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    let error = new("tag", Path::new("/proc/self")).unwrap_err();
    assert!(error.to_string().contains("/proc/self is a procfs"), "{error}");
}
