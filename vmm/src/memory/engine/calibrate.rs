//! How long a fault takes on this host, and with it how long a page is kept.
//!
//! An instruction of the guest may need several pages; each may be a fault. A page has to stay until the others have come, so
//! a rank keeps it for a few faults' time.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vincs_coherence::id::{Access, PAGE_BYTES, Page, Run};
use vm_memory::GuestAddress;

use super::config::EngineError;
use super::frames::{Frames, Shard};
use super::view::{Bytes, View};
use crate::memory::GuestRam;

/// Bounds of a measured minimum hold time.
pub const HOLD_LIMITS: RangeInclusive<Duration> = Duration::from_micros(50)..=Duration::from_millis(10);

/// A page is kept for so many faults' time.
const FAULTS: u32 = 4;
/// Faults measured.
const ROUNDS: u16 = 33;
/// Time for all of them; a host that needs longer gets the longest hold time.
const LIMIT: Duration = Duration::from_secs(1);

/// The minimum hold time for this host.
pub(super) fn hold(spin: Duration) -> Result<Duration, EngineError> {
    let fault = fault_time(spin)?;
    let hold = fault.map_or(*HOLD_LIMITS.end(), |fault| fault * FAULTS);
    Ok(hold.clamp(*HOLD_LIMITS.start(), *HOLD_LIMITS.end()))
}

/// The median time of a fault that is answered at once; nothing if that takes too long to be measured.
fn fault_time(spin: Duration) -> Result<Option<Duration>, EngineError> {
    // Only a failure to get a few pages can end here, and then there is no memory for a machine either.
    let no_memory = |error: crate::memory::RamError| EngineError::Thread(std::io::Error::other(error));
    let ram = GuestRam::new(&[(GuestAddress(0), usize::from(ROUNDS) * PAGE_BYTES)]).map_err(no_memory)?;
    let frames = Arc::new(Frames::new(&ram)?);
    let mut view = View::new(Arc::clone(&frames), Shard { index: 0, count: 1 })?;
    let touched = Arc::clone(&frames);
    let touch = move || {
        let mut times: Vec<Duration> = (0..ROUNDS).filter_map(|page| touch(&touched, page.into())).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    };
    let toucher = std::thread::Builder::new().name("fault-time".into()).spawn(touch).map_err(EngineError::Thread)?;
    let (started, mut faults) = (Instant::now(), Vec::new());
    let mut idle_since = started;
    while !toucher.is_finished() && started.elapsed() < LIMIT {
        if idle_since.elapsed() >= spin {
            let mut fds = [PollFd::from_borrowed_fd(view.fd(), PollFlags::IN)];
            // Not for long: nothing tells of the toucher's end.
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 }));
        }
        view.read_faults(&mut faults)?;
        for fault in faults.drain(..) {
            view.map(Run::one(fault.page), Access::Read, Bytes::Zero)?;
            idle_since = Instant::now();
        }
    }
    let in_time = toucher.is_finished();
    // Lets the toucher go on, whatever it waits for.
    view.close();
    let median = toucher.join().ok().flatten();
    Ok(median.filter(|_| in_time))
}

/// How long it takes to touch a page.
fn touch(frames: &Frames, page: u32) -> Option<Duration> {
    let address = frames.pieces(Run::one(Page(page))).next()?.guest;
    let started = Instant::now();
    // SAFETY: the address is that of a page of the guest mapping, which `frames` keeps mapped.
    let byte = unsafe { &*(address as *const AtomicU8) };
    let _ = byte.load(Ordering::Relaxed);
    Some(started.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_can_be_timed_sleeping_and_spinning_and_the_hold_time_is_within_its_limits() {
        for spin in [Duration::ZERO, Duration::from_millis(1)] {
            let fault = fault_time(spin).unwrap().unwrap();
            assert!(fault > Duration::ZERO && fault < LIMIT, "{fault:?}");
            assert!(HOLD_LIMITS.contains(&hold(spin).unwrap()));
        }
    }
}
