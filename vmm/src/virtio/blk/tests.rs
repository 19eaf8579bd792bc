use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use tempfile::{NamedTempFile, TempDir};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_CONFIG;

use super::*;
use crate::virtio::testing::{Driver, END_OF_RAM};

const SECTORS: u64 = 64;

fn image() -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    for sector in 0..u8::try_from(SECTORS).unwrap() {
        file.write_all(&[sector; 512]).unwrap();
    }
    file
}

fn driver(path: &Path, read_only: bool) -> Driver {
    Driver::ready(Blk::new("blk-test-of-a-long-name", Disk::open(path, read_only).unwrap()))
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

fn status(driver: &mut Driver, kind: u32, sector: u64, data: &[u8]) -> u32 {
    let answer = driver.request(0, &[&header(kind, sector), data], &[1]);
    u32::from(*answer.last().expect("a status"))
}

/// The status of a read that puts nothing into its buffer.
fn failed_read(driver: &mut Driver, sector: u64) -> u32 {
    driver.add(0, &[&header(VIRTIO_BLK_T_IN, sector)], &[512, 1]);
    driver.kick(0);
    let used = driver.wait_used(0);
    assert_eq!(used.bytes, b"");
    u32::from(*used.room.last().unwrap())
}

#[test]
fn what_is_written_and_flushed_is_in_the_file_and_read_back() {
    let image = image();
    let mut driver = driver(image.path(), false);
    let data: Vec<u8> = (0..2048).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let (left, right) = data.split_at(700);
    let answer = driver.request(0, &[&header(VIRTIO_BLK_T_OUT, 3), left, right], &[1]);
    assert_eq!(answer, [0]);
    assert_eq!(status(&mut driver, VIRTIO_BLK_T_FLUSH, 0, &[]), VIRTIO_BLK_S_OK);
    let mut found = vec![0; 2048];
    image.as_file().read_exact_at(&mut found, 3 * 512).unwrap();
    assert_eq!(found, data);
    // Header, data and status split anywhere: the header over two buffers, the status with the data's end.
    let request = header(VIRTIO_BLK_T_IN, 3);
    let answer = driver.request(0, &[&request[..5], &request[5..]], &[100, 2048 - 100 + 1]);
    assert_eq!(answer.split_last(), Some((&0, &data[..])));
}

#[test]
fn a_header_together_with_its_data_is_understood() {
    let image = image();
    let mut driver = driver(image.path(), false);
    let request = [header(VIRTIO_BLK_T_OUT, 1), vec![7; 512]].concat();
    assert_eq!(driver.request(0, &[&request], &[1]), [0]);
    let mut found = [0; 512];
    image.as_file().read_exact_at(&mut found, 512).unwrap();
    assert_eq!(found, [7; 512]);
}

#[test]
fn requests_end_at_the_end_of_the_disk() {
    let image = image();
    let mut driver = driver(image.path(), false);
    let last = SECTORS - 1;
    assert_eq!(status(&mut driver, VIRTIO_BLK_T_OUT, last, &[1; 512]), VIRTIO_BLK_S_OK);
    assert_eq!(status(&mut driver, VIRTIO_BLK_T_OUT, last, &[1; 1024]), VIRTIO_BLK_S_IOERR);
    for sector in [SECTORS, SECTORS + 1, u64::MAX / 512, u64::MAX] {
        assert_eq!(status(&mut driver, VIRTIO_BLK_T_OUT, sector, &[1; 512]), VIRTIO_BLK_S_IOERR, "{sector}");
        assert_eq!(failed_read(&mut driver, sector), VIRTIO_BLK_S_IOERR, "{sector}");
    }
    assert_eq!(image.as_file().metadata().unwrap().size(), SECTORS * 512);
}

#[test]
fn a_part_of_a_sector_is_refused() {
    let image = image();
    let mut driver = driver(image.path(), false);
    assert_eq!(status(&mut driver, VIRTIO_BLK_T_OUT, 0, &[1; 511]), VIRTIO_BLK_S_IOERR);
    assert_eq!(status(&mut driver, VIRTIO_BLK_T_OUT, 0, &[]), VIRTIO_BLK_S_OK, "nothing is a whole number of sectors");
}

#[test]
fn a_read_only_disk_is_marked_so_and_refuses_writes() {
    let image = image();
    let mut driver = driver(image.path(), true);
    assert_ne!(driver.offered() & 1 << VIRTIO_BLK_F_RO, 0);
    assert_eq!(status(&mut driver, VIRTIO_BLK_T_OUT, 0, &[9; 512]), VIRTIO_BLK_S_IOERR);
    assert_eq!(status(&mut driver, VIRTIO_BLK_T_FLUSH, 0, &[]), VIRTIO_BLK_S_OK);
    let answer = driver.request(0, &[&header(VIRTIO_BLK_T_IN, 5)], &[512, 1]);
    assert_eq!(answer, [vec![5; 512], vec![0]].concat());
}

#[test]
fn capacity_segments_serial_number_and_unknown_requests() {
    let image = image();
    let mut driver = driver(image.path(), false);
    assert_eq!(driver.offered() & 1 << VIRTIO_BLK_F_RO, 0);
    let mut config = [0; 20];
    driver.transport.read(VIRTIO_MMIO_CONFIG.into(), &mut config);
    assert_eq!(config[..8], SECTORS.to_le_bytes());
    assert_eq!(config[12..16], SEG_MAX.to_le_bytes());
    assert_eq!(config[16..], [0; 4]);
    let id = driver.request(0, &[&header(VIRTIO_BLK_T_GET_ID, 0)], &[20, 1]);
    assert_eq!(id, b"blk-test-of-a-long-n\0");
    let short = driver.request(0, &[&header(VIRTIO_BLK_T_GET_ID, 0)], &[3, 1]);
    assert_eq!(short, b"blk\0");
    assert_eq!(status(&mut driver, 999, 0, &[]), VIRTIO_BLK_S_UNSUPP);
}

#[test]
fn a_failed_flush_is_not_forgotten_and_without_flushes_every_write_is_synced() {
    let image = image();
    for (features, written) in [(u64::MAX, VIRTIO_BLK_S_OK), (!FLUSH, VIRTIO_BLK_S_IOERR)] {
        let mut disk = Disk::open(image.path(), false).unwrap();
        disk.flush_failed = true;
        let mut driver = Driver::new(Blk::new("blk", disk));
        driver.probe(features);
        assert_eq!(status(&mut driver, VIRTIO_BLK_T_OUT, 0, &[3; 512]), written);
        assert_eq!(status(&mut driver, VIRTIO_BLK_T_FLUSH, 0, &[]), VIRTIO_BLK_S_IOERR);
    }
    let mut driver = Driver::new(Blk::new("blk", Disk::open(image.path(), false).unwrap()));
    driver.probe(!FLUSH);
    assert_eq!(status(&mut driver, VIRTIO_BLK_T_OUT, 0, &[4; 512]), VIRTIO_BLK_S_OK);
    let mut found = [0; 512];
    image.as_file().read_exact_at(&mut found, 0).unwrap();
    assert_eq!(found, [4; 512]);
}

#[test]
fn requests_without_a_header_or_a_status_need_a_reset() {
    let image = image();
    let mut driver = driver(image.path(), false);
    let good = header(VIRTIO_BLK_T_IN, 0);
    let broken: [(&[u8], &[u32]); 4] = [(&good[..15], &[512, 1]), (&[], &[1]), (&good, &[]), (&good, &[0])];
    for (request, room) in broken {
        let readable: &[&[u8]] = if request.is_empty() { &[] } else { &[request] };
        driver.add(0, readable, room);
        driver.kick(0);
        driver.wait_needs_reset();
        driver.probe(u64::MAX);
        assert_eq!(driver.request(0, &[&good], &[512, 1]), [0; 513]);
    }
}

/// A driver may have been given them by a program, and cannot tell.
#[test]
fn data_outside_of_ram_are_an_io_error() {
    let image = image();
    let mut driver = driver(image.path(), false);
    let good = [0; 513];
    for address in [END_OF_RAM - 511, END_OF_RAM, u64::MAX - 511, u64::MAX] {
        let writes = driver.add(0, &[&header(VIRTIO_BLK_T_OUT, 0), &[7; 512]], &[1]);
        driver.move_buffer(0, writes, 1, address);
        driver.kick(0);
        assert_eq!(u32::from(driver.wait_used(0).room[0]), VIRTIO_BLK_S_IOERR);
        let reads = driver.add(0, &[&header(VIRTIO_BLK_T_IN, 0)], &[512, 1]);
        driver.move_buffer(0, reads, 1, address);
        driver.kick(0);
        let used = driver.wait_used(0);
        assert_eq!((used.bytes.len(), u32::from(used.room[512])), (0, VIRTIO_BLK_S_IOERR));
        assert_eq!(driver.request(0, &[&header(VIRTIO_BLK_T_IN, 0)], &[512, 1]), good);
    }
}

#[test]
fn a_status_outside_of_ram_needs_a_reset() {
    let image = image();
    let mut driver = driver(image.path(), false);
    let head = driver.add(0, &[&header(VIRTIO_BLK_T_IN, 0)], &[512, 1]);
    driver.move_buffer(0, head, 2, END_OF_RAM);
    driver.kick(0);
    driver.wait_needs_reset();
    driver.probe(u64::MAX);
    assert_eq!(driver.request(0, &[&header(VIRTIO_BLK_T_IN, 0)], &[512, 1]), [0; 513]);
}

#[test]
fn a_disk_that_shrinks_under_the_guest_is_an_io_error() {
    let image = image();
    let mut driver = driver(image.path(), false);
    image.as_file().set_len(512).unwrap();
    assert_eq!(failed_read(&mut driver, 1), VIRTIO_BLK_S_IOERR);
    let answer = driver.request(0, &[&header(VIRTIO_BLK_T_IN, 0)], &[512, 1]);
    assert_eq!(answer, [0; 513]);
}

#[test]
fn a_locked_disk_is_refused_and_readers_share() {
    let image = image();
    let writer = Disk::open(image.path(), false).unwrap();
    for read_only in [false, true] {
        let error = Disk::open(image.path(), read_only).unwrap_err();
        assert!(matches!(error, OpenDiskError::Locked { .. }), "{error}");
        assert!(error.to_string().contains(image.path().to_str().unwrap()), "{error}");
    }
    drop(writer);
    let _reader = Disk::open(image.path(), true).unwrap();
    let _another = Disk::open(image.path(), true).unwrap();
    assert!(matches!(Disk::open(image.path(), false), Err(OpenDiskError::Locked { .. })));
}

#[test]
fn what_is_no_disk_is_refused() {
    let folder = TempDir::new().unwrap();
    let missing = Disk::open(&folder.path().join("none.img"), false).unwrap_err();
    assert!(matches!(missing, OpenDiskError::Open { .. }));
    assert!(missing.to_string().contains("none.img"), "{missing}");
    for path in [folder.path(), Path::new("/dev/null")] {
        assert!(matches!(Disk::open(path, false), Err(OpenDiskError::NotADisk { .. })), "{}", path.display());
    }
    let file = NamedTempFile::new().unwrap();
    for bytes in [0, 511, 513] {
        file.as_file().set_len(bytes).unwrap();
        assert!(matches!(Disk::open(file.path(), false), Err(OpenDiskError::Size { bytes: b, .. }) if b == bytes));
    }
    file.as_file().set_len(512).unwrap();
    assert_eq!(Disk::open(file.path(), false).unwrap().sectors(), 1);
}
