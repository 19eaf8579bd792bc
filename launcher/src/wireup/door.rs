//! Where ranks come to rank 0. Whoever cannot prove to belong to the machine is shown out and changes nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use vincs_transport_tcp::auth::{AUTH_TIME, Authenticated};
use vincs_transport_tcp::secret::Secret;

use crate::wireup::channel::Channel;
use crate::wireup::message::{Hello, Introduction, ToMember, VERSION};
use crate::wireup::network;

/// Most connections that are looked at at once: all ranks, and as many strangers. Who comes when there are so many is not let in, and
/// a rank tries again.
const MAX_VISITORS: usize = 2 * crate::rank::MAX_RANKS as usize;

/// How long the door rests when the host has no descriptors or threads left.
const REST: Duration = Duration::from_millis(100);

/// A rank at the door.
#[derive(Debug)]
pub(crate) struct Visitor {
    pub(crate) introduction: Introduction,
    /// Nothing when it speaks another version: then it is not asked.
    pub(crate) hello: Option<Hello>,
    pub(crate) channel: Channel,
}

/// Rank 0's door, open as long as vincs lives. Once [`Door::visitors`] is dropped, whoever comes is told that it is late.
#[derive(Debug)]
pub(crate) struct Door {
    /// Where it is, best address first.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Who comes.
    pub(crate) visitors: Receiver<Visitor>,
}

/// Where the door may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reach {
    /// One address of this host, the user's choice.
    At(IpAddr),
    /// Loopback: all ranks are on this host.
    ThisHost,
    /// All of this host's addresses.
    Everywhere,
}

impl Door {
    /// Opens it at a port of the kernel's choice.
    ///
    /// # Errors
    /// When there is no such address, or no thread.
    pub(crate) fn open(reach: Reach, secret: Secret) -> io::Result<Self> {
        let (listener, hosts) = match reach {
            Reach::At(address) => (TcpListener::bind((address, 0))?, vec![address]),
            Reach::ThisHost => (TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, vec![Ipv4Addr::LOCALHOST.into()]),
            Reach::Everywhere => {
                // Takes IPv4 too. A host without IPv6 refuses.
                let both = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0));
                let listener = both.or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
                let is_reached =
                    |address: &IpAddr| listener.local_addr().is_ok_and(|at| at.is_ipv6()) || address.is_ipv4();
                let mut hosts: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
                hosts.extend(network::outward(&network::addresses()?).into_iter().filter(is_reached));
                (listener, hosts)
            }
        };
        let port = listener.local_addr()?.port();
        let addresses = hosts.into_iter().map(|host| SocketAddr::new(host, port)).collect();
        let (sender, visitors) = channel();
        let keep = move || keep(&listener, &secret, &sender);
        std::thread::Builder::new().name("door".into()).spawn(keep)?;
        Ok(Self { addresses, visitors })
    }
}

/// Lets visitors in for ever.
fn keep(listener: &TcpListener, secret: &Secret, visitors: &Sender<Visitor>) {
    let inside = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, peer)) = listener.accept() else {
            std::thread::sleep(REST);
            continue;
        };
        if inside.load(Ordering::Relaxed) >= MAX_VISITORS {
            continue;
        }
        inside.fetch_add(1, Ordering::Relaxed);
        let (secret, visitors, counter) = (secret.clone(), visitors.clone(), Arc::clone(&inside));
        let receive = move || {
            receive(stream, peer, &secret, &visitors);
            counter.fetch_sub(1, Ordering::Relaxed);
        };
        if std::thread::Builder::new().name("visitor".into()).spawn(receive).is_err() {
            inside.fetch_sub(1, Ordering::Relaxed);
            std::thread::sleep(REST);
        }
    }
}

fn receive(stream: TcpStream, peer: SocketAddr, secret: &Secret, visitors: &Sender<Visitor>) {
    let deadline = Instant::now() + AUTH_TIME;
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let mut channel = match Authenticated::accept(stream, peer, secret, deadline) {
        Ok(stream) => Channel::new(stream),
        Err(error) => return tracing::info!(%error, "a stranger is shown out"),
    };
    let introduced = channel.receive::<Introduction>(deadline).and_then(|introduction| {
        let hello = (introduction.version == VERSION).then(|| channel.receive(deadline)).transpose()?;
        Ok((introduction, hello))
    });
    match introduced {
        Ok((introduction, hello)) => {
            if let Err(late) = visitors.send(Visitor { introduction, hello, channel }) {
                let line = "the machine is complete: it runs already, or has just ended".to_owned();
                show_out(late.0, line);
            }
        }
        Err(error) => tracing::warn!(%peer, %error, "a rank does not introduce itself"),
    }
}

/// Tells a rank that it is not one of the machine; it says so to its user.
pub(crate) fn show_out(mut visitor: Visitor, line: String) {
    let refused = ToMember::Refused { line, said: false };
    if let Err(error) = visitor.channel.send(&refused, Instant::now() + AUTH_TIME) {
        tracing::info!(%error, "a rank that is not needed is gone");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::wireup::channel::tests::soon;

    fn introduction(rank: u32) -> Introduction {
        Introduction { version: VERSION, rank, ranks: 2, host: "n1".into(), vincs: "0".into() }
    }

    fn enter(address: SocketAddr, secret: &Secret, rank: u32) -> Channel {
        let mut channel = Channel::new(Authenticated::connect(address, secret, soon()).unwrap());
        channel.send(&introduction(rank), soon()).unwrap();
        channel.send(&Hello::default(), soon()).unwrap();
        channel
    }

    #[test]
    fn a_rank_gets_in_and_strangers_do_not() {
        let secret = Secret::random().unwrap();
        let door = Door::open(Reach::ThisHost, secret.clone()).unwrap();
        let address = door.addresses[0];
        assert!(address.ip().is_loopback());
        let mut garbage = TcpStream::connect(address).unwrap();
        garbage.write_all(&[0xff; 4096]).unwrap();
        let _silent = TcpStream::connect(address).unwrap();
        assert!(Authenticated::connect(address, &Secret::random().unwrap(), soon()).is_err());
        let mut wordless = Channel::new(Authenticated::connect(address, &secret, soon()).unwrap());
        wordless.send(&[0xff_u8; 3], soon()).unwrap();
        let _rank = enter(address, &secret, 1);
        let visitor = door.visitors.recv().unwrap();
        assert_eq!((visitor.introduction, visitor.hello), (introduction(1), Some(Hello::default())));
        assert!(door.visitors.try_recv().is_err());
    }

    #[test]
    fn who_comes_late_is_told() {
        let secret = Secret::random().unwrap();
        let Door { addresses, visitors } = Door::open(Reach::ThisHost, secret.clone()).unwrap();
        drop(visitors);
        let answer = enter(addresses[0], &secret, 1).receive::<ToMember>(soon()).unwrap();
        assert!(matches!(answer, ToMember::Refused { line, said: false } if line.contains("complete")));
    }

    #[test]
    fn a_door_that_is_open_everywhere_is_found_at_loopback_too() {
        let secret = Secret::random().unwrap();
        let door = Door::open(Reach::Everywhere, secret.clone()).unwrap();
        assert_eq!(door.addresses[0].ip(), Ipv4Addr::LOCALHOST);
        let _rank = enter(door.addresses[0], &secret, 1);
        let visitor = door.visitors.recv().unwrap();
        assert_eq!(visitor.channel.peer().ip(), Ipv4Addr::LOCALHOST, "as IPv4, whatever the socket is");
    }
}
