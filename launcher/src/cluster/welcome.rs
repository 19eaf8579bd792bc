//! Tells rank 0 which ranks that join have connected with this one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use vincs_transport_tcp::latecomers::Latecomers;
use vincs_vmm::machine::Greeter;

/// How often it is looked whether nobody wants to know any more.
const LOOK_TIME: Duration = Duration::from_millis(200);

/// Lets ranks connect with this one, and tells rank 0 of each, until it is dropped.
#[derive(Debug)]
pub(crate) struct Welcome(Arc<AtomicBool>);

impl Welcome {
    /// Begins with it.
    ///
    /// # Errors
    /// There is no thread.
    pub(crate) fn start(latecomers: Latecomers, greeter: Greeter) -> io::Result<Self> {
        let closed = Arc::new(AtomicBool::new(false));
        let own = Arc::clone(&closed);
        let tell = move || {
            while !own.load(Ordering::SeqCst) {
                if let Some(rank) = latecomers.next_within(LOOK_TIME) {
                    greeter.met(rank.0);
                }
            }
        };
        thread::Builder::new().name("welcome".into()).spawn(tell)?;
        Ok(Self(closed))
    }
}

impl Drop for Welcome {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
