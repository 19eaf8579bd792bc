//! Waiting for a word in memory of this process.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::futex;

/// Looks before a thread sleeps: about a microsecond, in which the others of a balanced team come.
const SPINS: u32 = 200;

/// Waits until a word is not `old` any more. What was written before its change is seen after.
pub(crate) fn wait_while(word: &AtomicU32, old: u32) {
    for _ in 0..SPINS {
        if word.load(Ordering::Acquire) != old {
            return;
        }
        std::hint::spin_loop();
    }
    while word.load(Ordering::Acquire) == old {
        // It returns early for a signal, and at once for a word that has changed.
        let _ = futex::wait(word, futex::Flags::PRIVATE, old, None);
    }
}

/// Wakes all who wait for a word that has been changed.
pub(crate) fn wake_all(word: &AtomicU32) {
    // It fails for addresses that are none.
    let _ = futex::wake(word, futex::Flags::PRIVATE, i32::MAX.unsigned_abs());
}
