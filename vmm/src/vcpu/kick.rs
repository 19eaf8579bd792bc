//! Getting a vCPU's thread out of the guest or out of its sleep: by others, and by its own timer.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::apic::Waker;

/// The thread is between entries: it looks at its mailbox before it enters or sleeps.
const OUTSIDE: u8 = 0;
/// The thread is in the guest, or about to be.
const IN_GUEST: u8 = 1;
/// The thread was in the guest when somebody sent the signal that brings it out.
const KICKED: u8 = 2;
/// The thread sleeps.
const ASLEEP: u8 = 3;

/// The signal that ends an entry. It stays blocked everywhere but inside KVM_RUN, so it needs no handler.
pub(super) fn kick_signal() -> i32 {
    libc::SIGRTMIN()
}

/// Where the thread is, and how to reach it.
#[derive(Debug, Default)]
pub(super) struct Kick {
    place: AtomicU8,
    /// Somebody wants the thread to look at its commands.
    attention: AtomicBool,
    thread: OnceLock<(libc::pid_t, Thread)>,
}

impl Kick {
    /// Called by the vCPU's thread once, before anything else: blocks all signals and makes itself known.
    pub(super) fn adopt_current_thread(&self) -> io::Result<()> {
        let mut all = MaybeUninit::uninit();
        // SAFETY: sigfillset initialises the set it is given.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: the set was initialised; the old mask is not asked for.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), ptr::null_mut()) } {
            0 => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
        // SAFETY: gettid has no preconditions.
        let tid = unsafe { libc::gettid() };
        let _ = self.thread.set((tid, thread::current()));
        Ok(())
    }

    /// Whether it is the thread with this Linux id.
    pub(super) fn is_thread(&self, id: i32) -> bool {
        self.thread.get().is_some_and(|(tid, _)| *tid == id)
    }

    /// Asks the thread to look at its commands.
    pub(super) fn call_attention(&self) {
        self.attention.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Whether somebody asked; asking is over with it.
    pub(super) fn take_attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed) && self.attention.swap(false, Ordering::SeqCst)
    }

    /// Runs `enter` as the time in the guest unless there is `work` or attention: a wake from before this is seen by
    /// them, a wake from after it sends the signal. A signal that comes too late for this time ends the next.
    pub(super) fn in_guest<T>(&self, work: impl FnOnce() -> bool, enter: impl FnOnce() -> T) -> Option<T> {
        self.place.store(IN_GUEST, Ordering::SeqCst);
        let result = if self.attention.load(Ordering::SeqCst) || work() { None } else { Some(enter()) };
        self.place.store(OUTSIDE, Ordering::SeqCst);
        result
    }

    /// Sleeps until a wake, or for `limit`, unless there is `work` or attention.
    pub(super) fn sleep(&self, work: impl FnOnce() -> bool, limit: Option<Duration>) {
        self.place.store(ASLEEP, Ordering::SeqCst);
        if !(self.attention.load(Ordering::SeqCst) || work()) {
            match limit {
                Some(limit) => thread::park_timeout(limit),
                None => thread::park(),
            }
        }
        self.place.store(OUTSIDE, Ordering::SeqCst);
    }

    /// Brings the thread out of the guest or out of its sleep.
    pub(super) fn wake(&self) {
        match self.place.load(Ordering::SeqCst) {
            IN_GUEST => {
                let first = self.place.compare_exchange(IN_GUEST, KICKED, Ordering::SeqCst, Ordering::SeqCst);
                if let (Ok(_), Some((tid, _))) = (first, self.thread.get()) {
                    let process = std::process::id();
                    // SAFETY: tgkill has no memory preconditions; the thread belongs to this process. Should it have
                    // ended, the kernel answers with an error, which is right to ignore.
                    unsafe { libc::syscall(libc::SYS_tgkill, process, *tid, kick_signal()) };
                }
            }
            ASLEEP => {
                if let Some((_, thread)) = self.thread.get() {
                    thread.unpark();
                }
            }
            _ => {}
        }
    }
}

/// Wakes a vCPU through its shared [`Kick`].
#[derive(Debug)]
pub(super) struct KickWaker(pub(super) std::sync::Arc<Kick>);

impl Waker for KickWaker {
    fn wake(&self) {
        self.0.wake();
    }
}

/// Takes every pending kick signal off this thread.
pub(super) fn drain_signal() {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was initialised above.
    unsafe { libc::sigaddset(set.as_mut_ptr(), kick_signal()) };
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the set and the time are alive; signal information is not asked for.
    while unsafe { libc::sigtimedwait(set.as_ptr(), ptr::null_mut(), &raw const now) } > 0 {}
}

/// A timer that sends the kick signal to the thread that made it.
#[derive(Debug)]
pub(super) struct KickTimer {
    timer: libc::timer_t,
    /// What it is armed for, as a value of the guest's counter; zero when it is not.
    armed: u64,
}

// SAFETY: a timer id may be used from any thread of the process; only the owner uses it.
unsafe impl Send for KickTimer {}

impl KickTimer {
    /// A disarmed timer for the calling thread.
    pub(super) fn for_current_thread() -> io::Result<Self> {
        // SAFETY: all-zero is a valid sigevent.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = kick_signal();
        // SAFETY: gettid has no preconditions.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut timer = ptr::null_mut();
        // SAFETY: the event and the place for the id are alive.
        match unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) } {
            0 => Ok(Self { timer, armed: 0 }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes it fire when the guest's counter reaches `expiry` (in `until` from now), or not at all.
    pub(super) fn arm(&mut self, expiry: Option<u64>, until: impl FnOnce(u64) -> Duration) {
        let wanted = expiry.unwrap_or(0);
        if wanted == self.armed {
            return;
        }
        self.armed = wanted;
        // Zero would disarm: an expiry in the past fires as soon as it can.
        let delay = expiry.map_or(Duration::ZERO, |tick| until(tick).max(Duration::from_nanos(1)));
        let seconds = libc::time_t::try_from(delay.as_secs()).unwrap_or(libc::time_t::MAX);
        let value = libc::timespec { tv_sec: seconds, tv_nsec: delay.subsec_nanos().into() };
        let spec = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // SAFETY: the timer is ours and the setting alive; the old setting is not asked for.
        let result = unsafe { libc::timer_settime(self.timer, 0, &raw const spec, ptr::null_mut()) };
        debug_assert_eq!(result, 0, "a valid setting of our own timer");
    }

    /// It has fired, or may have: arm it again even for the same time.
    pub(super) fn forget(&mut self) {
        self.armed = 0;
    }
}

impl Drop for KickTimer {
    fn drop(&mut self) {
        // SAFETY: the timer is ours and not used after this.
        unsafe { libc::timer_delete(self.timer) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Instant;

    /// A wait that must end by the kick: `sigtimedwait` stands in for KVM_RUN.
    fn wait_for_signal(limit: Duration) -> bool {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set it is given.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: the set was initialised above.
        unsafe { libc::sigaddset(set.as_mut_ptr(), kick_signal()) };
        let time = libc::timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
        // SAFETY: the set and the time are alive.
        unsafe { libc::sigtimedwait(set.as_ptr(), ptr::null_mut(), &raw const time) > 0 }
    }

    #[test]
    fn a_wake_in_any_place_is_noticed() {
        let kick = Arc::new(Kick::default());
        let shared = Arc::clone(&kick);
        let thread = thread::spawn(move || {
            shared.adopt_current_thread().unwrap();
            let kicked = shared.in_guest(|| false, || wait_for_signal(Duration::from_secs(10)));
            shared.sleep(|| false, Some(Duration::from_secs(10)));
            kicked
        });
        let start = Instant::now();
        while !thread.is_finished() {
            kick.wake();
            thread::yield_now();
        }
        assert_eq!(thread.join().unwrap(), Some(true));
        assert!(start.elapsed() < Duration::from_secs(9), "ended by wakes, not by time-outs");
    }

    #[test]
    fn work_and_attention_keep_the_thread_out_of_the_guest() {
        let kick = Kick::default();
        assert_eq!(kick.in_guest(|| true, || ()), None);
        kick.call_attention();
        assert_eq!(kick.in_guest(|| false, || ()), None);
        kick.sleep(|| false, None);
        assert!(kick.take_attention() && !kick.take_attention());
        assert_eq!(kick.in_guest(|| false, || 7), Some(7));
    }

    #[test]
    fn the_timer_fires_at_its_time_and_not_when_disarmed() {
        thread::spawn(|| {
            Kick::default().adopt_current_thread().unwrap();
            let mut timer = KickTimer::for_current_thread().unwrap();
            timer.arm(Some(1), |_| Duration::from_millis(5));
            assert!(wait_for_signal(Duration::from_secs(10)));
            timer.arm(Some(2), |_| Duration::from_millis(5));
            timer.arm(None, |_| Duration::ZERO);
            assert!(!wait_for_signal(Duration::from_millis(50)));
        })
        .join()
        .unwrap();
    }
}
