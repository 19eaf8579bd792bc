//! The connection beside each queue pair, by which ranks introduce themselves and later know each other to be alive: a NIC goes on acknowledging
//! for a process that is stopped, and says nothing of one that has ended.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Event, Transport};

/// Longest time between two looks at the lifeline of an endpoint that is polled without being slept on. A look is a few system calls.
const POLLED_LOOK: Duration = Duration::from_millis(10);

/// Longest time between two looks at the lifelines of endpoints that nobody polls yet: whether they are polled now, or gone.
const UNPOLLED_LOOK: Duration = Duration::from_millis(250);

/// An endpoint's lifeline: an endpoint of another transport, which nobody else uses.
#[derive(Debug)]
pub(crate) struct Lifeline {
    transport: Box<dyn Transport>,
    /// Held for a poll of the transport: who takes what has happened has also what another poll was about to find.
    polling: Mutex<Polling>,
}

#[derive(Debug, Default)]
struct Polling {
    /// Somebody polls the endpoint.
    polled: bool,
    /// What has happened and not been taken, in order.
    happened: Vec<Happened>,
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
        Self { transport, polling: Mutex::default() }
    }

    /// The transport below, to send by and to wait on.
    pub(crate) fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    fn lock(&self) -> MutexGuard<'_, Polling> {
        self.polling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls it and keeps what has happened.
    fn poll(&self, polling: &mut Polling) {
        self.transport.poll(&mut |event| {
            let happened = match event {
                Event::Message { from, header, .. } => Happened::Said(from, header.to_vec()),
                Event::Lost { rank, reason } => Happened::Lost(rank, reason),
                // Nobody starts operations there.
                Event::Completed { .. } => return,
            };
            polling.happened.push(happened);
        });
    }

    /// Polls it and gives what has happened since the last time.
    pub(crate) fn take(&self) -> Vec<Happened> {
        let mut polling = self.lock();
        self.poll(&mut polling);
        std::mem::take(&mut polling.happened)
    }

    /// Within which time a poller that does not sleep on it is to look again: at the latest when it is to be polled.
    pub(crate) fn look_within(&self) -> Duration {
        POLLED_LOOK.min(self.transport.poll_within())
    }

    /// Says that the endpoint is polled from now on: nobody else polls this afterwards, so what comes later wakes the endpoint's poller.
    pub(crate) fn mark_polled(&self) {
        self.lock().polled = true;
    }

    /// Shows signs of life and says when to do so again; nothing when the endpoint is polled, which does so.
    fn live(&self) -> Option<Duration> {
        let mut polling = self.lock();
        if polling.polled {
            return None;
        }
        self.poll(&mut polling);
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

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::BorrowedFd;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use vincs_coherence::transport::{Capabilities, GuardedRead, OperationId, SendError};

    use super::*;

    /// A transport whose first poll has taken a loss from the network, and tells it only when it is let go on. Later polls find nothing.
    #[derive(Debug)]
    struct Late {
        begun: SyncSender<()>,
        go_on: Mutex<Option<Receiver<()>>>,
        within: Duration,
    }

    impl Transport for Late {
        fn capabilities(&self) -> Capabilities {
            Capabilities {
                name: "late",
                one_sided_by_nic: false,
                atomics_by_nic: false,
                max_transfer: 0,
                max_operations: 0,
                put_lists: false,
            }
        }

        fn send(&self, to: Rank, _: &[u8], _: &[IoSlice<'_>]) -> Result<(), SendError> {
            Err(SendError::NoPeer(to))
        }

        fn get(&self, _: OperationId, target: Rank, _: u64, _: usize) -> Result<(), SendError> {
            Err(SendError::NoPeer(target))
        }

        fn put(&self, _: OperationId, target: Rank, _: u64, _: &[u8]) -> Result<(), SendError> {
            Err(SendError::NoPeer(target))
        }

        fn compare_and_swap(&self, _: OperationId, target: Rank, _: u64, _: u64, _: u64) -> Result<(), SendError> {
            Err(SendError::NoPeer(target))
        }

        fn fetch_and_add(&self, _: OperationId, target: Rank, _: u64, _: u64) -> Result<(), SendError> {
            Err(SendError::NoPeer(target))
        }

        fn guarded_read(&self, _: OperationId, target: Rank, _: GuardedRead) -> Result<(), SendError> {
            Err(SendError::NoPeer(target))
        }

        fn poll(&self, sink: &mut dyn FnMut(Event<'_>)) -> bool {
            let Some(go_on) = self.go_on.lock().unwrap().take() else { return false };
            self.begun.send(()).unwrap();
            go_on.recv().unwrap();
            sink(Event::Lost { rank: Rank(1), reason: "gone".to_owned() });
            true
        }

        fn sign_of_life(&self) {}

        fn ready(&self) -> BorrowedFd<'_> {
            rustix::stdio::stdin()
        }

        fn poll_within(&self) -> Duration {
            self.within
        }
    }

    /// Nothing would be readable any more, so the endpoint would sleep on it until its next sign of life.
    #[test]
    fn the_first_look_has_what_the_thread_before_it_was_about_to_find() {
        let (begun, has_begun) = sync_channel(0);
        let (let_go, go_on) = sync_channel(0);
        let late = Late { begun, go_on: Mutex::new(Some(go_on)), within: Duration::from_secs(1) };
        let lifeline = Arc::new(Lifeline::new(Box::new(late)));
        keep_alive(vec![Arc::downgrade(&lifeline)]).unwrap();
        has_begun.recv().unwrap();
        // The thread is within its poll, and the endpoint is polled for the first time.
        let look = thread::spawn(move || {
            lifeline.mark_polled();
            (lifeline.take(), lifeline.live())
        });
        thread::sleep(Duration::from_millis(50));
        let_go.send(()).unwrap();
        let (happened, live) = look.join().unwrap();
        assert!(matches!(happened[..], [Happened::Lost(Rank(1), _)]), "{happened:?}");
        assert_eq!(live, None, "nobody else polls it any more");
    }
    /// Who polls without sleeping on the lifeline, and does so when it is told to, does it in vain if there is no look then.
    #[test]
    fn a_look_comes_when_the_lifeline_is_to_be_polled_and_every_few_milliseconds() {
        for (within, look) in
            [(0, 0), (3, 3), (10, 10), (700, 10)].map(|(a, b)| (Duration::from_millis(a), Duration::from_millis(b)))
        {
            let late = Late { begun: sync_channel(0).0, go_on: Mutex::default(), within };
            assert_eq!(Lifeline::new(Box::new(late)).look_within(), look);
        }
    }
}
