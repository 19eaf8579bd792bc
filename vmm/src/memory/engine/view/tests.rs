use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::GuestAddress;

use super::*;
use crate::memory::GuestRam;

const PAGES: usize = 64;

struct Fixture {
    view: View,
    frames: Arc<Frames>,
}

impl Fixture {
    fn new() -> Self {
        let ram = GuestRam::new(&[(GuestAddress(0), PAGES * PAGE_BYTES)]).unwrap();
        let frames = Arc::new(Frames::new(&ram).unwrap());
        let view = View::new(Arc::clone(&frames), Shard { index: 0, count: 1 }).unwrap();
        Self { view, frames }
    }

    /// The first word of a page, as the guest sees it.
    fn word(&self, page: u32) -> &'static AtomicU64 {
        let address = self.frames.pieces(Run::one(Page(page))).next().unwrap().guest;
        // SAFETY: the page is mapped until the process ends, or the test does, whose threads are joined by then.
        unsafe { &*(address as *const AtomicU64) }
    }

    /// The next fault; fails when there is none for long.
    fn fault(&mut self) -> Fault {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut faults = Vec::new();
        while faults.is_empty() {
            assert!(Instant::now() < deadline, "no fault");
            let mut fds = [PollFd::from_borrowed_fd(self.view.fd(), PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).unwrap();
            self.view.read_faults(&mut faults).unwrap();
        }
        assert_eq!(faults.len(), 1);
        faults[0]
    }

    fn no_fault(&mut self) {
        let mut faults = Vec::new();
        self.view.read_faults(&mut faults).unwrap();
        assert!(faults.is_empty(), "{faults:?}");
    }
}

fn page_of(word: u64) -> Vec<u8> {
    [word.to_le_bytes().as_slice(), &[0; PAGE_BYTES - 8]].concat()
}

#[test]
fn a_read_fault_is_answered_with_a_page_that_faults_again_when_written() {
    let mut at = Fixture::new();
    let word = at.word(3);
    let guest = thread::spawn(move || {
        let seen = word.load(Ordering::SeqCst);
        word.store(8, Ordering::SeqCst);
        seen
    });
    let fault = at.fault();
    assert_eq!((fault.page, fault.missing), (Page(3), Missing::Read));
    assert!(fault.thread > 0);
    at.view.map(Run::one(Page(3)), Access::Read, Bytes::Given(&page_of(7))).unwrap();
    let fault = at.fault();
    assert_eq!((fault.page, fault.missing), (Page(3), Missing::Right));
    assert_eq!(at.view.bytes(Page(3)).unwrap()[..8], 7_u64.to_le_bytes());
    at.view.allow(Run::one(Page(3))).unwrap();
    assert_eq!(guest.join().unwrap(), 7);
    assert_eq!(at.view.bytes(Page(3)).unwrap()[..8], 8_u64.to_le_bytes());
}

#[test]
fn a_write_fault_is_answered_with_a_page_that_can_be_written() {
    let mut at = Fixture::new();
    let word = at.word(0);
    let guest = thread::spawn(move || word.fetch_add(1, Ordering::SeqCst));
    assert_eq!(at.fault().missing, Missing::Write);
    at.view.map(Run { first: Page(0), count: 4 }, Access::Write, Bytes::Zero).unwrap();
    assert_eq!(guest.join().unwrap(), 0);
    at.word(1).fetch_add(5, Ordering::SeqCst);
    at.no_fault();
    assert_eq!(at.view.bytes(Page(1)).unwrap()[..8], 5_u64.to_le_bytes());
}

#[test]
fn zeros_to_read_are_there_for_a_whole_run_and_cannot_be_written() {
    let mut at = Fixture::new();
    at.view.map(Run { first: Page(4), count: 3 }, Access::Read, Bytes::Zero).unwrap();
    assert_eq!(at.word(4).load(Ordering::SeqCst) + at.word(6).load(Ordering::SeqCst), 0);
    at.no_fault();
    let word = at.word(6);
    let guest = thread::spawn(move || word.store(1, Ordering::SeqCst));
    assert_eq!(at.fault().missing, Missing::Right);
    at.view.allow(Run::one(Page(6))).unwrap();
    guest.join().unwrap();
}

#[test]
fn a_protected_page_is_readable_and_faults_when_written() {
    let mut at = Fixture::new();
    let run = Run { first: Page(1), count: 2 };
    at.view.map(run, Access::Write, Bytes::Zero).unwrap();
    at.word(2).store(9, Ordering::SeqCst);
    at.view.protect(run).unwrap();
    assert_eq!(at.word(2).load(Ordering::SeqCst), 9);
    let word = at.word(2);
    let guest = thread::spawn(move || word.store(10, Ordering::SeqCst));
    assert_eq!((at.fault().missing, word.load(Ordering::SeqCst)), (Missing::Right, 9));
    at.view.allow(run).unwrap();
    guest.join().unwrap();
    assert_eq!(word.load(Ordering::SeqCst), 10);
}

#[test]
fn an_unmapped_page_faults_however_it_was_mapped_and_can_be_mapped_anew() {
    let mut at = Fixture::new();
    let run = Run::one(Page(5));
    for (round, access) in (1..).zip([Access::Write, Access::Read, Access::Write, Access::Read, Access::Read]) {
        at.view.map(run, access, Bytes::Given(&page_of(round))).unwrap();
        assert_eq!(at.word(5).load(Ordering::SeqCst), round);
        at.view.unmap(run).unwrap();
        let word = at.word(5);
        let guest = thread::spawn(move || word.load(Ordering::SeqCst));
        assert_eq!(at.fault().missing, Missing::Read);
        at.view.map(run, Access::Read, Bytes::Given(&page_of(100 + round))).unwrap();
        assert_eq!(guest.join().unwrap(), 100 + round);
        at.view.unmap(run).unwrap();
    }
}

#[test]
fn detached_pages_keep_what_was_written_last_until_they_are_unmapped() {
    let mut at = Fixture::new();
    let run = Run { first: Page(7), count: 2 };
    at.view.map(run, Access::Write, Bytes::Zero).unwrap();
    at.word(7).store(1, Ordering::SeqCst);
    at.word(8).store(2, Ordering::SeqCst);
    at.view.detach(run).unwrap();
    let word = at.word(8);
    let guest = thread::spawn(move || word.fetch_add(1, Ordering::SeqCst));
    assert_eq!(at.fault().missing, Missing::Write);
    assert_eq!(at.view.bytes(Page(7)).unwrap()[..8], 1_u64.to_le_bytes());
    assert_eq!(at.view.bytes(Page(8)).unwrap()[..8], 2_u64.to_le_bytes());
    at.view.unmap(run).unwrap();
    at.view.map(run, Access::Write, Bytes::Given(&[page_of(40), page_of(50)].concat())).unwrap();
    assert_eq!(guest.join().unwrap(), 50);
    assert_eq!(at.view.bytes(Page(8)).unwrap()[..8], 51_u64.to_le_bytes());
}

#[test]
fn nothing_written_while_a_page_is_detached_is_lost() {
    let mut at = Fixture::new();
    let run = Run::one(Page(9));
    at.view.map(run, Access::Write, Bytes::Zero).unwrap();
    let word = at.word(9);
    let done = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&done);
    let guest = thread::spawn(move || {
        let mut times = 0;
        while !told.load(Ordering::Relaxed) {
            word.fetch_add(1, Ordering::SeqCst);
            times += 1;
        }
        times
    });
    for _ in 0..500 {
        at.view.detach(run).unwrap();
        let bytes = at.view.bytes(Page(9)).unwrap().to_vec();
        at.view.unmap(run).unwrap();
        at.view.map(run, Access::Write, Bytes::Given(&bytes)).unwrap();
        // Faults that this answered may still be told of; those that come between are answered by the next round.
        at.view.read_faults(&mut Vec::new()).unwrap();
        thread::yield_now();
    }
    at.view.wake(run).unwrap();
    done.store(true, Ordering::Relaxed);
    let times = guest.join().unwrap();
    assert_eq!(word.load(Ordering::SeqCst), times);
    assert!(times > 0);
}

#[test]
fn waking_lets_a_thread_try_again() {
    let mut at = Fixture::new();
    let word = at.word(11);
    let guest = thread::spawn(move || word.load(Ordering::SeqCst));
    at.fault();
    at.view.wake(Run::one(Page(11))).unwrap();
    assert_eq!(at.fault().page, Page(11), "it is still not there");
    at.view.map(Run::one(Page(11)), Access::Read, Bytes::Zero).unwrap();
    guest.join().unwrap();
}

#[test]
fn closing_wakes_everybody() {
    let mut at = Fixture::new();
    let word = at.word(12);
    let guest = thread::spawn(move || word.load(Ordering::SeqCst));
    at.fault();
    at.view.close();
    assert_eq!(guest.join().unwrap(), 0);
}

#[test]
fn mapping_what_is_there_is_an_error_that_names_the_page() {
    let mut at = Fixture::new();
    at.view.map(Run::one(Page(13)), Access::Read, Bytes::Zero).unwrap();
    let error = at.view.map(Run::one(Page(13)), Access::Read, Bytes::Zero).unwrap_err().to_string();
    assert!(error.starts_with("cannot map page 13 of guest memory: File exists"), "{error}");
    let error = at.view.map(Run::one(Page(14)), Access::Read, Bytes::Given(&[1])).unwrap_err().to_string();
    assert!(error.starts_with("cannot map page 14"), "{error}");
}
