//! Where others connect to, and who of them is let in.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::auth::{AUTH_TIME, AuthError, Authenticated};
use crate::secret::Secret;

/// Most connections whose other ends are proving themselves at once. When one more comes, the oldest is dropped: it has had more time
/// than a peer needs, so strangers that say nothing keep nobody out.
pub const MAX_PENDING: usize = 128;

/// Time to wait after the kernel could not accept a connection (no descriptors or memory left).
const RETRY: Duration = Duration::from_millis(10);

/// An address of this host on which others can connect.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

/// No listener.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {cause}; choose another interface or port")]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    #[source]
    pub cause: io::Error,
}

impl Listener {
    /// Listens on an address; on a port of the kernel's choice if the port is 0.
    ///
    /// # Errors
    /// [`ListenError`]: another process listens there, or the address is not of this host.
    pub fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let bind = || {
            let listener = TcpListener::bind(address)?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        bind().map_err(|cause| ListenError { address, cause })
    }

    /// The address, with its port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts to let in whoever proves to know the secret, until the door is dropped. `deliver` gets each, and why others did not get in,
    /// on the thread on which it proved itself.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn open(self, secret: &Secret, deliver: impl Fn(Arrival) + Send + Sync + 'static) -> io::Result<Door> {
        let guard = Guard {
            listener: self.listener.try_clone()?,
            secret: secret.clone(),
            deliver: Arc::new(deliver),
            pending: Arc::default(),
            closed: Arc::default(),
        };
        let closed = Arc::clone(&guard.closed);
        let thread = thread::Builder::new().name("vincs-accept".into()).spawn(move || guard.run())?;
        Ok(Door { listener: self.listener, closed, thread: Some(thread) })
    }
}

/// Somebody who has proved to know the secret, or has failed to.
pub type Arrival = Result<Authenticated, AuthError>;

/// An open listener. Dropping it closes the listener and whatever has not proved itself yet.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    closed: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        // On Linux that wakes the thread that accepts, with an error.
        let woken = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            // It does not panic; if it did, the process would have ended.
            drop(thread.join());
        }
    }
}

/// What the accepting thread has.
struct Guard {
    listener: TcpListener,
    secret: Secret,
    deliver: Arc<dyn Fn(Arrival) + Send + Sync>,
    /// Connections whose other ends are proving themselves, oldest first.
    pending: Arc<Mutex<VecDeque<(u64, TcpStream)>>>,
    closed: Arc<AtomicBool>,
}

impl Guard {
    fn run(&self) {
        for number in 0.. {
            let accepted = self.listener.accept();
            if self.closed.load(Ordering::Relaxed) {
                break;
            }
            // Whoever cannot be served is dropped: it sees a closed connection. IPv4 is called so on a socket of both kinds, too.
            let canonical = |peer: SocketAddr| SocketAddr::new(peer.ip().to_canonical(), peer.port());
            let served = accepted.and_then(|(stream, peer)| self.examine(number, stream, canonical(peer)));
            if let Err(error) = served {
                tracing::debug!(%error, "a connection was not accepted");
                thread::sleep(RETRY);
            }
        }
        lock(&self.pending).drain(..).for_each(|(_, stream)| hang_up(&stream));
    }

    /// Lets somebody prove itself, on a thread of its own that ends by the deadline.
    fn examine(&self, number: u64, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let deadline = Instant::now() + AUTH_TIME;
        {
            let mut pending = lock(&self.pending);
            if pending.len() >= MAX_PENDING
                && let Some((_, oldest)) = pending.pop_front()
            {
                hang_up(&oldest);
            }
            pending.push_back((number, stream.try_clone()?));
        }
        let (secret, deliver, pending) = (self.secret.clone(), Arc::clone(&self.deliver), Arc::clone(&self.pending));
        let prove = move || {
            let result = Authenticated::accept(stream, peer, &secret, deadline);
            lock(&pending).retain(|(other, _)| *other != number);
            if let Err(error) = &result {
                tracing::debug!(%error, "a connection was refused");
            }
            deliver(result);
        };
        let started = thread::Builder::new().name("vincs-prove".into()).spawn(prove);
        if started.is_err() {
            lock(&self.pending).retain(|(other, _)| *other != number);
        }
        started.map(drop)
    }
}

/// The thread that reads from it sees the end. An error means that it has ended already.
fn hang_up(stream: &TcpStream) {
    let _: io::Result<()> = stream.shutdown(Shutdown::Both);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
