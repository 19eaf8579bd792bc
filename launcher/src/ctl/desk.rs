//! Where those are brought who come to rank 0's door to order the machine about: from other hosts, with the machine's secret.

use std::fmt;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::protocol::{Answer, WRITE_TIME, write_line};

type Serve = Arc<dyn Fn(TcpStream) + Send + Sync>;

/// The desk, of which all have the same. Nobody is at it before the machine runs, nor after its end.
#[derive(Clone, Default)]
pub(crate) struct Desk(Arc<Mutex<Option<Serve>>>);

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("is_open", &self.serve().is_some()).finish()
    }
}

impl Desk {
    /// From now on whoever comes is served so. It must not wait.
    pub(super) fn open(&self, serve: impl Fn(TcpStream) + Send + Sync + 'static) {
        *self.lock() = Some(Arc::new(serve));
    }

    /// Nobody is served any more.
    pub(super) fn close(&self) {
        *self.lock() = None;
    }

    /// Somebody has come, and has proved to belong to the machine: is served, or told that nobody is here.
    pub(crate) fn receive(&self, mut stream: TcpStream) {
        if let Some(serve) = self.serve() {
            return serve(stream);
        }
        let line = "the machine does not run yet, or has ended; try again when it runs".to_owned();
        // Whoever does not listen is not told.
        let _ = stream.set_write_timeout(Some(WRITE_TIME));
        let _ = write_line(&mut stream, &Answer::Refused(line));
    }

    fn serve(&self) -> Option<Serve> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Serve>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// What one hears who comes to a desk.
    fn heard(desk: &Desk) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        desk.receive(listener.accept().unwrap().0);
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn who_comes_before_the_machine_runs_or_after_its_end_is_told() {
        let desk = Desk::default();
        assert!(heard(&desk).starts_with("{\"refused\":\"the machine does not run yet"));
        let other = desk.clone();
        other.open(|mut stream| stream.write_all(b"here").unwrap());
        assert_eq!(heard(&desk), "here");
        other.close();
        assert!(heard(&desk).contains("has ended"));
    }
}
