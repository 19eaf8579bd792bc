//! Whatever the bytes are: no panic, a framed answer or none, bounded time and size, nothing outside the root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use rustix::io::Errno;

use super::client::*;
use crate::virtio::p9::share::ShareMode::{ReadOnly, ReadWrite};
use crate::virtio::p9::share::{MSIZE, Share};
use crate::virtio::p9::wire::*;

/// Cases of each property, each of a session of up to [`MESSAGES`].
const CASES: u32 = 256;
const MESSAGES: usize = 40;
/// Far above what one answer takes; a message that waits for somebody else would take for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends bytes and checks the frame of the answer.
fn answer(share: &mut Share, message: &[u8]) -> Vec<u8> {
    let (mut reply, start) = (Vec::new(), Instant::now());
    share.answer(&mut message.to_vec(), &mut reply);
    assert!(start.elapsed() < PATIENCE, "{message:02x?}");
    if message.len() < HEADER_LEN {
        assert!(reply.is_empty());
    } else {
        assert_eq!(u32::from_le_bytes(reply[..4].try_into().unwrap()) as usize, reply.len(), "{message:02x?}");
        assert_eq!(reply[5..7], message[5..7], "tag");
        assert!(reply[4] == RLERROR || reply[4] == message[4].wrapping_add(1), "{message:02x?}");
        assert!(reply.len() <= MSIZE as usize);
    }
    reply
}

#[test]
fn a_message_cut_short_is_an_error_at_every_length() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "contents").unwrap();
    let (fid, name) = (5_u32.to_le_bytes(), string("name"));
    for whole in [
        version(8192),
        attach(5),
        walk(ROOT, 5, &["file"]),
        message(TLOPEN, &[&fid, &fid]),
        message(TLCREATE, &[&fid, &name, &[0; 12]]),
        message(TWRITE, &[&fid, &[0; 8], &4_u32.to_le_bytes(), b"data"]),
        message(TREAD, &[&fid, &[0; 12]]),
        message(TSETATTR, &[&fid, &[0; 52]]),
        message(TRENAMEAT, &[&fid, &name, &fid, &name]),
        message(TSYMLINK, &[&fid, &name, &name, &fid]),
        message(TGETLOCK, &[&fid, &[0; 21], &name]),
    ] {
        let mut client = Client::new(root.path(), ReadWrite);
        for len in 0..whole.len() {
            let mut cut = whole[..len].to_vec();
            let reply = answer(&mut client.share, &cut);
            assert!(len < HEADER_LEN || is_error(&reply), "{cut:02x?}");
            if len >= HEADER_LEN {
                patch(&mut cut, 0, &u32::try_from(len).unwrap().to_le_bytes());
                assert!(is_error(&answer(&mut client.share, &cut)), "{cut:02x?}");
            }
            client = Client::new(root.path(), ReadWrite);
        }
    }
}

#[test]
fn every_type_gets_an_answer() {
    let root = tempfile::tempdir().unwrap();
    for kind in 0..=u8::MAX {
        let mut client = Client::new(root.path(), ReadWrite);
        let empty = answer(&mut client.share, &message(kind, &[]));
        assert!(is_error(&empty), "type {kind}");
        answer(&mut client.share, &message(kind, &[&[0; 64]]));
        answer(&mut client.share, &message(kind, &[&[0xFF; 64]]));
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn counts_that_lie_are_refused_before_memory_is_reserved() {
    let root = tempfile::tempdir().unwrap();
    let mut client = Client::new(root.path(), ReadWrite);
    client.walk(ROOT, 1, &[]).unwrap();
    client.create(1, "file", RDWR).unwrap();
    let invalid = Err(Errno::INVAL.raw_os_error());
    let fid = 1_u32.to_le_bytes();
    for count in [3_u32, 5, 32 << 20, u32::MAX] {
        assert_eq!(client.call(TWRITE, &[&fid, &[0; 8], &count.to_le_bytes(), b"data"]), invalid);
    }
    assert_eq!(client.call(TWALK, &[&fid, &2_u32.to_le_bytes(), &u16::MAX.to_le_bytes()]), invalid);
    assert_eq!(client.call(TLCREATE, &[&fid, &u16::MAX.to_le_bytes(), &[0; 12]]), invalid);
    let mut longer = message(TCLUNK, &[&fid]);
    for len in [0, 6, 12, u32::MAX] {
        patch(&mut longer, 0, &u32::to_le_bytes(len));
        assert_eq!(client.send(&longer), invalid);
    }
    assert_eq!(fs::metadata(root.path().join("file")).unwrap().len(), 0);
}

/// Fields as a client would send them, of small fids and known names, in any order.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let names = prop::sample::select(vec!["dir", "file", "fifo", "out", "new", "..", "/", "", "../secret"]);
    prop_oneof![
        4 => (0_u32..4).prop_map(|fid| fid.to_le_bytes().to_vec()),
        3 => names.prop_map(string),
        1 => (1_u16..3).prop_map(|count| count.to_le_bytes().to_vec()),
        1 => any::<u32>().prop_map(|value| value.to_le_bytes().to_vec()),
        1 => (0_u64..100).prop_map(|value| value.to_le_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..40),
    ]
}

/// A message of a known type with fields that may not be its own.
fn built() -> impl Strategy<Value = Vec<u8>> {
    let types = [
        TSTATFS,
        TLOPEN,
        TLCREATE,
        TSYMLINK,
        TMKNOD,
        TRENAME,
        TREADLINK,
        TGETATTR,
        TSETATTR,
        TXATTRCREATE,
        TREADDIR,
        TFSYNC,
        TLOCK,
        TGETLOCK,
        TLINK,
        TMKDIR,
        TRENAMEAT,
        TUNLINKAT,
        TATTACH,
        TFLUSH,
        TWALK,
        TREAD,
        TWRITE,
        TCLUNK,
        TREMOVE,
    ];
    (prop::sample::select(types.to_vec()), vec(field(), 0..6))
        .prop_map(|(kind, fields)| message(kind, &fields.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let walks = (0_u32..4, 0_u32..4, prop::sample::select(vec!["dir", "file", "fifo", "out"]))
        .prop_map(|(fid, new_fid, name)| walk(fid, new_fid, &[name]));
    let opens =
        (0_u32..4, any::<u32>()).prop_map(|(fid, flags)| message(TLOPEN, &[&fid.to_le_bytes(), &flags.to_le_bytes()]));
    let mutated = (built(), vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)).prop_map(|(mut bytes, changes)| {
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        bytes
    });
    prop_oneof![3 => built(), 2 => walks, 2 => opens, 2 => mutated, 1 => vec(any::<u8>(), 0..80)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_session_breaks_the_share_or_leaves_it(messages in vec(any_message(), 1..MESSAGES), read_only: bool) {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        fs::create_dir_all(root.join("dir")).unwrap();
        fs::write(root.join("file"), "contents").unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("out")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let mut client = Client::new(&root, if read_only { ReadOnly } else { ReadWrite });
        for message in &messages {
            answer(&mut client.share, message);
        }
        prop_assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
        prop_assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);
        if read_only {
            prop_assert_eq!(fs::read(root.join("file")).unwrap(), b"contents");
            prop_assert_eq!(fs::read_dir(&root).unwrap().count(), 4);
        }
        // It still serves, once the guest's chmod of the root is undone.
        fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).unwrap();
        let mut client = Client::of(client.share);
        client.open_path(1, &[], RDONLY).unwrap();
        prop_assert!(client.list(1).unwrap().len() >= 2);
    }
}
