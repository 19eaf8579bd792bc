//! Signs of life of endpoints that nobody polls yet: between connecting and the first poll a rank sets itself up, for as long as that
//! takes. Without a sign its peers could not tell that from a rank that is stopped.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;

use crate::endpoint::Timing;
use crate::outbound::Connection;

/// An endpoint that is not polled yet. It may go away at any time: its connections are closed then.
#[derive(Debug)]
pub(crate) struct Unpolled {
    connections: Weak<Vec<OnceLock<Connection>>>,
    polled: Arc<AtomicBool>,
}

impl Unpolled {
    /// For an endpoint with these connections, which says when it is polled.
    pub(crate) fn new(connections: &Arc<Vec<OnceLock<Connection>>>, polled: Arc<AtomicBool>) -> Self {
        Self { connections: Arc::downgrade(connections), polled }
    }

    /// Says that this rank is alive; false when that is not needed any more.
    fn sign_of_life(&self) -> bool {
        let connections = self.connections.upgrade().filter(|_| !self.polled.load(Ordering::Relaxed));
        connections.is_some_and(|all| {
            all.iter().filter_map(OnceLock::get).for_each(Connection::sign_of_life);
            true
        })
    }
}

/// Shows signs of life at once and until all are polled or gone, on a thread of its own.
///
/// # Errors
/// There is no thread.
pub(crate) fn start(mut endpoints: Vec<Unpolled>, timing: Timing) -> io::Result<()> {
    let show = move || {
        loop {
            endpoints.retain(Unpolled::sign_of_life);
            if endpoints.is_empty() {
                return;
            }
            thread::sleep(timing.interval());
        }
    };
    thread::Builder::new().name("vincs-alive".into()).spawn(show).map(drop)
}
