//! Ranks that come when all others are connected: they call everybody, and are let in one by one.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use vincs_coherence::id::{Rank, RankSet};

use crate::auth::AUTH_TIME;
use crate::endpoint::TcpTransport;
use crate::fabric::{Arrival, already, welcome};
use crate::hello::Hello;
use crate::listener::Door;

/// Keeps the way in open until it is dropped, and tells who has come: each once it is connected in all channel classes, and can be sent to.
#[derive(Debug)]
pub struct Latecomers {
    come: Receiver<Rank>,
    _door: Door,
}

impl Latecomers {
    /// Waits for the next one, for so long at most.
    #[must_use]
    pub fn next_within(&self, limit: Duration) -> Option<Rank> {
        self.come.recv_timeout(limit).ok()
    }
}

/// The endpoints of a rank by class, as long as they are there.
type Endpoints = Vec<Weak<TcpTransport>>;

/// Lets in whoever comes from now on; these are there already.
pub(crate) fn watch(
    door: Door,
    arrivals: Receiver<Arrival>,
    ours: Hello,
    present: RankSet,
    first_sign: Duration,
    endpoints: &[Arc<TcpTransport>],
) -> io::Result<Latecomers> {
    let (sender, come) = mpsc::channel();
    let endpoints: Endpoints = endpoints.iter().map(Arc::downgrade).collect();
    let watch = move || {
        // By class: who is connected there.
        let mut there = vec![present; endpoints.len()];
        for arrival in arrivals {
            match arrival {
                Arrival::Came(connection, hello) => {
                    let class = usize::from(hello.class);
                    let is_there = |there: &RankSet| hello.from < Rank(ours.ranks) && there.contains(hello.from);
                    let obstacle = there.get(class).is_some_and(is_there).then(|| already(hello));
                    let deadline = Instant::now() + AUTH_TIME;
                    let let_in = welcome(connection, hello, ours, obstacle, deadline).and_then(|stream| {
                        let end = endpoints.get(class).and_then(Weak::upgrade).ok_or("the machine has ended")?;
                        end.admit(hello.from, stream, first_sign).map_err(|error| error.to_string())
                    });
                    match let_in {
                        Ok(()) => enter(&mut there, class, hello.from, &sender),
                        Err(reason) => tracing::info!(reason, "a rank that comes late is not let in"),
                    }
                }
                Arrival::Refused(reason) => tracing::info!(reason, "a connection was refused"),
                // Of a call that was made before all were connected.
                Arrival::Called(..) | Arrival::Failed(_) => {}
            }
        }
    };
    thread::Builder::new().name("vincs-late".into()).spawn(watch)?;
    Ok(Latecomers { come, _door: door })
}

/// A rank is connected for a class: if that was the last, whoever waits is told.
fn enter(there: &mut [RankSet], class: usize, rank: Rank, sender: &Sender<Rank>) {
    if let Some(there) = there.get_mut(class) {
        there.insert(rank);
    }
    if there.iter().all(|there| there.contains(rank)) {
        // Nobody may want to know.
        let _ = sender.send(rank);
    }
}
