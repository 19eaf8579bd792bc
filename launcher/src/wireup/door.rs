//! Where ranks come to rank 0. Whoever cannot prove to belong to the machine is shown out and changes nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use vincs_transport_tcp::auth::AUTH_TIME;
use vincs_transport_tcp::listener::{self, Arrival, Listener};
use vincs_transport_tcp::secret::Secret;

use crate::ctl::Desk;
use crate::wireup::channel::Channel;
use crate::wireup::message::{Hello, Introduction, ToMember, VERSION};
use crate::wireup::network;

/// A rank at the door.
#[derive(Debug)]
pub(crate) struct Visitor {
    pub(crate) introduction: Introduction,
    /// Nothing when it speaks another version: then it is not asked.
    pub(crate) hello: Option<Hello>,
    pub(crate) channel: Channel,
}

/// Rank 0's door. Once [`Door::visitors`] is dropped, whoever comes is told that it is late, as long as [`Door::open`] is kept.
#[derive(Debug)]
pub(crate) struct Door {
    /// Where it is, best address first.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Who comes.
    pub(crate) visitors: Receiver<Visitor>,
    /// Closes it when it is dropped.
    pub(crate) open: OpenDoor,
}

/// What keeps rank 0's door open.
pub(crate) type OpenDoor = listener::Door;

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
    /// Opens it at a port of the kernel's choice. Who comes to order the machine about is brought to the desk.
    ///
    /// # Errors
    /// When there is no such address, or no thread.
    pub(crate) fn open(reach: Reach, secret: &Secret, desk: Desk) -> io::Result<Self> {
        let (listener, hosts) = match reach {
            Reach::At(address) => (bind(address)?, vec![address]),
            Reach::ThisHost => (bind(Ipv4Addr::LOCALHOST.into())?, vec![Ipv4Addr::LOCALHOST.into()]),
            Reach::Everywhere => {
                // Takes IPv4 too. A host without IPv6 refuses.
                let both = bind(Ipv6Addr::UNSPECIFIED.into());
                let listener = both.or_else(|_| bind(Ipv4Addr::UNSPECIFIED.into()))?;
                let is_reached = |address: &IpAddr| listener.address().is_ipv6() || address.is_ipv4();
                let mut hosts: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
                hosts.extend(network::outward(&network::addresses()?).into_iter().filter(is_reached));
                (listener, hosts)
            }
        };
        let port = listener.address().port();
        let addresses = hosts.into_iter().map(|host| SocketAddr::new(host, port)).collect();
        let (sender, visitors) = channel();
        let open = listener.open(secret, move |arrival| receive(arrival, &sender, &desk))?;
        Ok(Self { addresses, visitors, open })
    }
}

fn bind(address: IpAddr) -> io::Result<Listener> {
    Listener::bind(SocketAddr::new(address, 0)).map_err(|error| error.cause)
}

/// Hears what somebody is who belongs to the machine.
fn receive(arrival: Arrival, visitors: &Sender<Visitor>, desk: &Desk) {
    let mut channel = match arrival {
        Ok(stream) => Channel::new(stream),
        Err(error) => return tracing::info!(%error, "a stranger is shown out"),
    };
    let (peer, deadline) = (channel.peer(), Instant::now() + AUTH_TIME);
    let introduced = channel.receive::<Introduction>(deadline);
    if introduced.as_ref().is_ok_and(Introduction::controls) {
        return match channel.into_stream() {
            Ok(stream) => desk.receive(stream),
            Err(error) => tracing::warn!(%peer, %error, "a connection cannot be used"),
        };
    }
    let introduced = introduced.and_then(|introduction| {
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
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use vincs_transport_tcp::auth::Authenticated;
    use vincs_transport_tcp::listener::MAX_PENDING;

    use super::*;
    use crate::wireup::channel::tests::soon;
    use crate::wireup::message::CONTROLS;

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
        let door = Door::open(Reach::ThisHost, &secret, Desk::default()).unwrap();
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
    fn silent_strangers_keep_no_rank_out() {
        let secret = Secret::random().unwrap();
        let door = Door::open(Reach::ThisHost, &secret, Desk::default()).unwrap();
        let start = Instant::now();
        let _strangers: Vec<_> = (0..2 * MAX_PENDING).map(|_| TcpStream::connect(door.addresses[0]).unwrap()).collect();
        let _rank = enter(door.addresses[0], &secret, 1);
        assert_eq!(door.visitors.recv().unwrap().introduction, introduction(1));
        assert!(start.elapsed() < AUTH_TIME, "the strangers had to time out first");
    }

    #[test]
    fn who_comes_late_is_told() {
        let secret = Secret::random().unwrap();
        let Door { addresses, visitors, open: _open } = Door::open(Reach::ThisHost, &secret, Desk::default()).unwrap();
        drop(visitors);
        let answer = enter(addresses[0], &secret, 1).receive::<ToMember>(soon()).unwrap();
        assert!(matches!(answer, ToMember::Refused { line, said: false } if line.contains("complete")));
    }

    #[test]
    fn who_orders_the_machine_about_is_no_rank() {
        let secret = Secret::random().unwrap();
        let door = Door::open(Reach::ThisHost, &secret, Desk::default()).unwrap();
        let mut orders = Channel::new(Authenticated::connect(door.addresses[0], &secret, soon()).unwrap());
        // Whatever version the rest of its wire-up has.
        let who = Introduction { version: VERSION + 1, rank: CONTROLS, ..introduction(CONTROLS) };
        orders.send(&Introduction { ranks: CONTROLS, ..who }, soon()).unwrap();
        let mut answer = String::new();
        orders.into_stream().unwrap().read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("{\"refused\":") && answer.ends_with('\n'), "{answer}");
        assert!(door.visitors.try_recv().is_err());
    }

    #[test]
    fn a_door_that_is_open_everywhere_is_found_at_loopback_too() {
        let secret = Secret::random().unwrap();
        let door = Door::open(Reach::Everywhere, &secret, Desk::default()).unwrap();
        assert_eq!(door.addresses[0].ip(), Ipv4Addr::LOCALHOST);
        let _rank = enter(door.addresses[0], &secret, 1);
        let visitor = door.visitors.recv().unwrap();
        assert_eq!(visitor.channel.peer().ip(), Ipv4Addr::LOCALHOST, "as IPv4, whatever the socket is");
    }
}
