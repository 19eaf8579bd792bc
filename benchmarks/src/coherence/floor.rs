//! What the network and the kernel alone cost.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};
use userfaultfd::{Event, FeatureFlags, RegisterMode, Uffd, UffdBuilder};
use vincs_coherence::id::PAGE_BYTES;

use crate::nanoseconds;

/// Bytes of a request.
pub const REQUEST: usize = 64;
/// UFFD_FEATURE_MINOR_SHMEM (linux/userfaultfd.h), which has no name in the crate.
const MINOR_SHMEM: u64 = 1 << 10;
/// Bytes read at a time from a stream.
const PIECE: usize = 1 << 20;

/// Requests answered over a plain connection.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Echo {
    /// How many.
    pub rounds: u32,
    /// Bytes of each answer.
    pub answer: usize,
}

fn listen(tell: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<TcpStream> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    tell(listener.local_addr()?.port().into())?;
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn connect(port: u64) -> io::Result<TcpStream> {
    let port = u16::try_from(port).map_err(io::Error::other)?;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads without ever sleeping.
fn read_spinning(stream: &mut TcpStream, bytes: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Answers requests; tells the port first.
///
/// # Errors
/// What the host refuses.
pub fn echo(echo: Echo, tell: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<()> {
    let mut stream = listen(tell)?;
    stream.set_nonblocking(true)?;
    let (mut request, answer) = ([0; REQUEST], vec![7; echo.answer]);
    for _ in 0..echo.rounds {
        read_spinning(&mut stream, &mut request)?;
        stream.write_all(&answer)?;
    }
    Ok(())
}

/// The times of requests, in nanoseconds, to the one who answers at this port.
///
/// # Errors
/// What the host refuses.
pub fn round_trips(port: u64, echo: Echo) -> io::Result<Vec<u64>> {
    let mut stream = connect(port)?;
    stream.set_nonblocking(true)?;
    let (request, mut answer) = ([7; REQUEST], vec![0; echo.answer]);
    let mut times = Vec::new();
    for _ in 0..echo.rounds {
        let started = Instant::now();
        stream.write_all(&request)?;
        read_spinning(&mut stream, &mut answer)?;
        times.push(nanoseconds(started));
    }
    Ok(times)
}

/// Sends bytes; tells the port first.
///
/// # Errors
/// What the host refuses.
pub fn source(bytes: u64, tell: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<()> {
    let mut stream = listen(tell)?;
    let piece = vec![7; PIECE];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        stream.write_all(piece.get(..now).unwrap_or_default())?;
        left -= now as u64;
    }
    // Until the other end has all of it.
    stream.shutdown(std::net::Shutdown::Write)?;
    let _ = stream.read(&mut [0])?;
    Ok(())
}

/// The time, in nanoseconds, to receive all bytes from this port.
///
/// # Errors
/// What the host refuses.
pub fn stream(port: u64) -> io::Result<u64> {
    let mut stream = connect(port)?;
    let mut piece = vec![0; PIECE];
    let started = Instant::now();
    while stream.read(&mut piece)? > 0 {}
    Ok(nanoseconds(started))
}

/// Memory of a file, mapped.
struct Mapping {
    address: usize,
    len: usize,
}

impl Mapping {
    fn new(file: &rustix::fd::OwnedFd, len: usize) -> io::Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let address = unsafe { mmap(std::ptr::null_mut(), len, protection, flags, file, 0) }?;
        Ok(Self { address: address as usize, len })
    }

    fn word(&self, page: usize) -> &AtomicU64 {
        let offset = page * PAGE_BYTES % self.len;
        // SAFETY: the word is aligned and within the mapping, which lives as long as `self`.
        unsafe { &*((self.address + offset) as *const AtomicU64) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own, and no reference into it outlives it.
        let unmapped = unsafe { munmap(self.address as *mut _, self.len) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can be unmapped");
    }
}

/// Where the two threads of a minor fault run: whoever faults, and who answers. What a fault costs depends on that, and left alone the kernel puts them now
/// here, now there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Placed {
    /// On two processors, as a virtual processor and the thread that serves its faults; who answers spins.
    Apart,
    /// On one, in turns; who answers gives way.
    Together,
}

impl Placed {
    /// That of a floor on this host: apart where there are two processors.
    #[must_use]
    pub fn usual() -> Self {
        if processors().is_some_and(|[first, second]| first != second) { Self::Apart } else { Self::Together }
    }

    /// What is measured so, in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Apart => "userfaultfd minor fault, spinning on another processor",
            Self::Together => "userfaultfd minor fault, on one processor in turns",
        }
    }
}

/// The first two processors that this process may use, which are the same one where there is only one.
fn processors() -> Option<[usize; 2]> {
    let allowed = sched_getaffinity(None).ok()?;
    let mut numbers = (0..CpuSet::MAX_CPU).filter(|number| allowed.is_set(*number));
    let first = numbers.next()?;
    Some([first, numbers.next().unwrap_or(first)])
}

/// This thread on one processor, until it is dropped.
struct Pinned(CpuSet);

impl Pinned {
    fn to(processor: usize) -> io::Result<Self> {
        let before = sched_getaffinity(None)?;
        let mut only = CpuSet::new();
        only.set(processor);
        sched_setaffinity(None, &only)?;
        Ok(Self(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It was so before.
        let _: rustix::io::Result<()> = sched_setaffinity(None, &self.0);
    }
}

/// The times, in nanoseconds, of faults on pages that are in memory but not mapped, each answered by another thread of this
/// process.
///
/// # Errors
/// What the host refuses.
pub fn minor_faults(count: usize, placed: Placed) -> io::Result<Vec<u64>> {
    let [first, second] = processors().ok_or_else(|| io::Error::other("there is no processor"))?;
    let (answering, idle): (_, fn()) = match placed {
        Placed::Apart => (second, std::hint::spin_loop),
        Placed::Together => (first, std::thread::yield_now),
    };
    let len = count.max(1) * PAGE_BYTES;
    let file = memfd_create("bench-minor-faults", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, len as u64)?;
    let (here, there) = (Mapping::new(&file, len)?, Mapping::new(&file, len)?);
    (0..count).for_each(|page| here.word(page).store(1, Ordering::Relaxed));
    let features = FeatureFlags::MISSING_SHMEM | FeatureFlags::from_bits_retain(MINOR_SHMEM);
    let uffd = UffdBuilder::new()
        .close_on_exec(true)
        .non_blocking(true)
        .require_features(features)
        .create()
        .and_then(|uffd| {
            uffd.register_with_mode(there.address as *mut _, len, RegisterMode::MINOR)?;
            Ok(uffd)
        })
        .map_err(io::Error::other)?;
    let done = AtomicBool::new(false);
    let _here = Pinned::to(first)?;
    std::thread::scope(|scope| {
        let answers = scope.spawn(|| {
            // Faults are answered wherever it runs.
            let _there = Pinned::to(answering);
            answer_faults(&uffd, &done, idle)
        });
        let touch = |page| {
            let started = Instant::now();
            std::hint::black_box(there.word(page).load(Ordering::Relaxed));
            nanoseconds(started)
        };
        let times = (0..count).map(touch).collect();
        done.store(true, Ordering::Relaxed);
        answers.join().map_err(|_| io::Error::other("the thread that answers faults has failed"))??;
        Ok(times)
    })
}

fn answer_faults(uffd: &Uffd, done: &AtomicBool, idle: fn()) -> io::Result<()> {
    while !done.load(Ordering::Relaxed) {
        if let Some(Event::Pagefault { addr, .. }) = uffd.read_event().map_err(io::Error::other)? {
            let page = addr as usize & !(PAGE_BYTES - 1);
            uffd.r#continue(page as *mut _, PAGE_BYTES, true).map_err(io::Error::other)?;
        } else {
            idle();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn requests_and_streams_are_timed() {
        let (ports, port) = mpsc::channel();
        let kind = Echo { rounds: 20, answer: 4096 };
        let told = ports.clone();
        let answers = std::thread::spawn(move || echo(kind, &mut |port| told.send(port).map_err(io::Error::other)));
        assert_eq!(round_trips(port.recv().unwrap(), kind).unwrap().len(), 20);
        answers.join().unwrap().unwrap();
        let sends = std::thread::spawn(move || source(3 << 20, &mut |port| ports.send(port).map_err(io::Error::other)));
        assert!(stream(port.recv().unwrap()).unwrap() > 0);
        sends.join().unwrap().unwrap();
    }

    #[test]
    fn every_minor_fault_is_answered() {
        let before = sched_getaffinity(None).unwrap();
        for placed in [Placed::usual(), Placed::Together] {
            let times = minor_faults(50, placed).unwrap();
            assert!(times.len() == 50 && times.iter().all(|time| *time > 0));
        }
        assert_eq!(sched_getaffinity(None).unwrap(), before, "this thread goes where it likes again");
    }
}
