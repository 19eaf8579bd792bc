//! The connection beside each queue pair, by which ranks introduce themselves and later know each other to be alive: a NIC goes on acknowledging
//! for a process that is stopped, and says nothing of one that has ended.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Event, Transport};

/// Longest time between two looks at the lifelines of endpoints that nobody polls yet: whether they are polled now, or gone.
const UNPOLLED_LOOK: Duration = Duration::from_millis(250);

/// An endpoint's lifeline: an endpoint of another transport, which nobody else uses.
#[derive(Debug)]
pub(crate) struct Lifeline {
    transport: Box<dyn Transport>,
    /// Somebody polls the endpoint.
    polled: AtomicBool,
    /// What has happened and not been taken, in order.
    happened: Mutex<Vec<Happened>>,
}

/// What a lifeline tells.
#[derive(Debug)]
pub(crate) enum Happened {
    /// A rank says something.
    Said(Rank, Vec<u8>),
    /// A rank is lost.
    Lost(Rank, String),
}

impl Lifeline {
    pub(crate) fn new(transport: Box<dyn Transport>) -> Self {
        Self { transport, polled: AtomicBool::new(false), happened: Mutex::default() }
    }

    /// The transport below, to send by and to wait on.
    pub(crate) fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    /// Polls it and keeps what has happened.
    fn poll(&self) {
        self.transport.poll(&mut |event| {
            let happened = match event {
                Event::Message { from, header, .. } => Happened::Said(from, header.to_vec()),
                Event::Lost { rank, reason } => Happened::Lost(rank, reason),
                // Nobody starts operations there.
                Event::Completed { .. } => return,
            };
            self.happened.lock().unwrap_or_else(PoisonError::into_inner).push(happened);
        });
    }

    /// Polls it and gives what has happened since the last time.
    pub(crate) fn take(&self) -> Vec<Happened> {
        self.poll();
        std::mem::take(&mut *self.happened.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says that the endpoint is polled from now on.
    pub(crate) fn mark_polled(&self) {
        self.polled.store(true, Ordering::Relaxed);
    }

    /// Shows signs of life and says when to do so again; nothing when the endpoint is polled, which does so.
    fn live(&self) -> Option<Duration> {
        if self.polled.load(Ordering::Relaxed) {
            return None;
        }
        self.poll();
        Some(self.transport.poll_within())
    }
}

/// Shows signs of life of endpoints until they are polled or gone, on a thread of its own: between connecting and the first poll a rank sets itself
/// up, for as long as that takes, and its peers could not tell that from one that is stopped.
///
/// # Errors
/// There is no thread.
pub(crate) fn keep_alive(mut lifelines: Vec<Weak<Lifeline>>) -> io::Result<()> {
    let show = move || {
        while !lifelines.is_empty() {
            let mut pause = UNPOLLED_LOOK;
            lifelines.retain(|lifeline| {
                let next = lifeline.upgrade().and_then(|lifeline: Arc<Lifeline>| lifeline.live());
                pause = pause.min(next.unwrap_or(pause));
                next.is_some()
            });
            thread::sleep(pause);
        }
    };
    thread::Builder::new().name("vincs-rdma-alive".into()).spawn(show).map(drop)
}
