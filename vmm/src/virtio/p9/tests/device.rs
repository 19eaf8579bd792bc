//! The device through its transport.

use std::fs;

use super::client::*;
use crate::virtio::p9::P9;
use crate::virtio::p9::share::ShareMode::ReadOnly;
use crate::virtio::p9::wire::*;
use crate::virtio::testing::{Driver, END_OF_RAM};
use rustix::io::Errno;

fn share() -> (tempfile::TempDir, Driver) {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), (0..=u8::MAX).cycle().take(30_000).collect::<Vec<_>>()).unwrap();
    let driver = Driver::ready(P9::new("tag", root.path(), ReadOnly).unwrap());
    (root, driver)
}

/// One request with this room for the reply.
fn call(driver: &mut Driver, message: &[u8], room: &[u32]) -> Reply {
    parse_reply(message[4], &driver.request(0, &[message], room))
}

#[test]
fn the_driver_finds_the_tag_and_reads_a_file_over_several_buffers() {
    let (_root, mut driver) = share();
    let mut config = [0; 6];
    driver.transport.read(0x100, &mut config);
    assert_eq!(&config, b"\x03\0tag\0");
    assert_eq!(driver.offered() & 1, 1, "mount tag");

    call(&mut driver, &version(1 << 16), &[64]).unwrap();
    call(&mut driver, &attach(ROOT), &[64]).unwrap();
    call(&mut driver, &walk(ROOT, 1, &["file"]), &[64]).unwrap();
    call(&mut driver, &message(TLOPEN, &[&1_u32.to_le_bytes(), &[0; 4]]), &[64]).unwrap();
    let read = message(TREAD, &[&1_u32.to_le_bytes(), &[0; 8], &30_000_u32.to_le_bytes()]);
    let (head, tail) = read.split_at(9);
    let reply = driver.request(0, &[head, tail], &[11, 8192, 8192, 8192, 8192]);
    let data = parse_reply(TREAD, &reply).unwrap();
    assert_eq!(data[4..], (0..=u8::MAX).cycle().take(30_000).collect::<Vec<_>>());
}

#[test]
fn a_reply_without_room_becomes_an_error_or_nothing() {
    let (_root, mut driver) = share();
    let too_small = Err(Errno::MSGSIZE.raw_os_error());
    assert_eq!(call(&mut driver, &version(8192), &[20]), too_small);
    assert_eq!(call(&mut driver, &version(8192), &[5, 6]), too_small);
    assert_eq!(driver.request(0, &[&version(8192)], &[10]), b"");
    assert_eq!(driver.request(0, &[&version(8192)], &[]), b"");
    assert_eq!(driver.request(0, &[b"short"], &[64]), b"");
    assert_eq!(driver.request(0, &[], &[64]), b"");
    call(&mut driver, &version(8192), &[21]).unwrap();
}

/// Linux's client has a program's own memory read and written, which need not be where devices are: relaxed memory on several ranks.
#[test]
fn data_outside_of_ram_are_an_error_of_their_request() {
    let (_root, mut driver) = share();
    call(&mut driver, &version(1 << 16), &[64]).unwrap();
    call(&mut driver, &attach(ROOT), &[64]).unwrap();
    call(&mut driver, &walk(ROOT, 1, &["file"]), &[64]).unwrap();
    call(&mut driver, &message(TLOPEN, &[&1_u32.to_le_bytes(), &[0; 4]]), &[64]).unwrap();
    let read = message(TREAD, &[&1_u32.to_le_bytes(), &[0; 8], &100_u32.to_le_bytes()]);
    let write = message(TWRITE, &[&1_u32.to_le_bytes(), &[0; 8], &100_u32.to_le_bytes()]);
    let fault = Err(Errno::FAULT.raw_os_error());
    for address in [END_OF_RAM - 99, END_OF_RAM, u64::MAX] {
        let head = driver.add(0, &[&read], &[11, 100]);
        driver.move_buffer(0, head, 2, address);
        driver.kick(0);
        assert_eq!(parse_reply(TREAD, &driver.wait_used(0).bytes), fault);
        let head = driver.add(0, &[&write, &[7; 100]], &[64]);
        driver.move_buffer(0, head, 1, address);
        driver.kick(0);
        assert_eq!(parse_reply(TWRITE, &driver.wait_used(0).bytes), fault);
        // The session goes on.
        let data = call(&mut driver, &read, &[11, 100]).unwrap();
        assert_eq!(data[4..], (0..100).collect::<Vec<_>>());
    }
}

#[test]
fn messages_that_begin_outside_of_ram_need_a_reset() {
    let (_root, mut driver) = share();
    for buffer in [0, 1] {
        let head = driver.add(0, &[&version(8192)], &[64]);
        driver.move_buffer(0, head, buffer, END_OF_RAM);
        driver.kick(0);
        driver.wait_needs_reset();
        driver.probe(u64::MAX);
        call(&mut driver, &version(8192), &[64]).unwrap();
        driver.probe(u64::MAX);
    }
}

#[test]
fn all_waiting_requests_are_answered_in_one_go() {
    let (_root, mut driver) = share();
    let heads: Vec<u16> = (0..8).map(|_| driver.add(0, &[&version(8192)], &[64])).collect();
    driver.kick(0);
    for head in heads {
        let used = driver.wait_used(0);
        assert_eq!(used.head, head);
        parse_reply(TVERSION, &used.bytes).unwrap();
    }
}

#[test]
fn a_reset_ends_the_session() {
    let (_root, mut driver) = share();
    call(&mut driver, &version(8192), &[64]).unwrap();
    call(&mut driver, &attach(ROOT), &[64]).unwrap();
    driver.probe(u64::MAX);
    assert_eq!(call(&mut driver, &attach(1), &[64]), Err(Errno::INVAL.raw_os_error()));
    call(&mut driver, &version(8192), &[64]).unwrap();
    call(&mut driver, &attach(ROOT), &[64]).unwrap();
}
