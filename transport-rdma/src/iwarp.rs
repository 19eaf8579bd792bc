//! How queue pairs of iWARP devices are connected: the higher of two ranks asks the connection manager for it at a port that the lower one has
//! told on the lifeline, with a token that it has told nobody else.
//!
//! Who has asked sends first, as the other one may not (RFC 5044, section 7.1): a slot with nothing in it. When that has come, the other one says
//! on the lifeline that it can be sent to, and nobody sends to anybody who has not.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use vincs_coherence::id::Rank;

use crate::choose::{Gid, GidType};
use crate::devices::Found;
use crate::fabric::{Arriving, Class, ConnectError};
use crate::introduction::{Door, Introduction, TOKEN_BYTES};
use crate::verbs::VerbsError;
use crate::verbs::completion::Completion;
use crate::verbs::manager::{Event, Identifier, MAX_PRIVATE, Manager, News, Reads};
use crate::verbs::queue_pair::RemoteAddress;

const _: () = assert!(TOKEN_BYTES <= MAX_PRIVATE);

/// Time in which the way to an address is found; on iWARP there is nothing to find.
const ROUTE_TIME: Duration = Duration::from_secs(2);

/// A peer's connection on the way to being one.
#[derive(Debug)]
pub(crate) struct Link {
    /// What the peer has to bring if it is the one to ask.
    token: [u8; TOKEN_BYTES],
    connection: Option<Identifier>,
    established: bool,
    /// The first slot was sent, or has come.
    greeted: bool,
    /// The peer was told that it can send.
    welcomed: bool,
}

impl Link {
    pub(crate) fn new() -> io::Result<Self> {
        let mut token = [0; TOKEN_BYTES];
        getrandom(&mut token, GetRandomFlags::empty())?;
        Ok(Self { token, connection: None, established: false, greeted: false, welcomed: false })
    }

    /// Whether both ends may send.
    pub(crate) fn is_open(&self) -> bool {
        self.established && self.greeted
    }

    /// Whether the peer is to be told now that it can send; once.
    pub(crate) fn is_to_be_welcomed(&mut self) -> bool {
        self.is_open() && !std::mem::replace(&mut self.welcomed, true)
    }

    pub(crate) fn into_connection(self) -> Option<Identifier> {
        self.connection
    }
}

/// Where this rank is asked for connections, and asks for some.
#[derive(Debug)]
pub(crate) struct Doorway {
    rank: Rank,
    device: String,
    address: IpAddr,
    reads: Reads,
    manager: Arc<Manager>,
    listener: Identifier,
}

impl Doorway {
    /// At the address of the device that was found.
    pub(crate) fn open(found: &Found, rank: Rank, ranks: u16, classes: usize) -> Result<Self, ConnectError> {
        let manager = Manager::new()?;
        let listener = Identifier::new(&manager)?;
        let address = found.gid.address();
        listener.bind(SocketAddr::new(address, 0))?;
        let device = found.port.device.clone();
        is_by(&listener, &device, "rdma_bind_addr")?;
        listener.listen(u16::try_from(usize::from(ranks) * classes).unwrap_or(u16::MAX))?;
        let reads = Reads { served: found.limits.reads_served, asked: found.limits.reads_asked };
        Ok(Self { rank, device, address, reads, manager, listener })
    }

    /// Where and with what a peer asks for this connection.
    pub(crate) fn door(&self, link: &Link, pulse: RemoteAddress) -> Door {
        Door { port: self.listener.port(), token: link.token, pulse }
    }

    /// Readable when there is something to [attend](Self::attend) to, beside slots that were sent or have come.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.manager.fd()
    }

    /// Whether this rank is the one to ask.
    fn asks(&self, peer: Rank) -> bool {
        peer < self.rank
    }

    /// Begins to connect a peer that has introduced itself, if this rank is the one to ask.
    pub(crate) fn call(&self, peer: &mut Arriving, time: Duration) -> Result<(), ConnectError> {
        let Some(Introduction { remote, door: Some(door), .. }) = peer.introduction else { return Ok(()) };
        let Some(link) = peer.link.as_mut().filter(|_| self.asks(peer.rank)) else { return Ok(()) };
        let there = Gid { index: 0, kind: GidType::Iwarp, raw: remote.gid }.address();
        let connection = Identifier::new(&self.manager)?;
        connection.resolve_address(self.address, SocketAddr::new(there, door.port), time)?;
        link.connection = Some(connection);
        Ok(())
    }

    /// Goes on with all that has happened.
    pub(crate) fn attend(&self, classes: &mut [Class]) -> Result<(), ConnectError> {
        while let Some(Event { number, news }) = self.manager.next()? {
            if let News::Request { new, private, reads } = news {
                self.answer(classes, new, &private, reads)?;
                continue;
            }
            let peers = classes.iter_mut().flat_map(|class| class.peers.iter_mut().flatten());
            let is_meant = |peer: &&mut Arriving| {
                let connection = peer.link.as_ref().and_then(|link| link.connection.as_ref());
                connection.is_some_and(|connection| connection.number() == number)
            };
            for peer in peers.filter(is_meant) {
                self.hear(peer, &news)?;
            }
        }
        classes.iter_mut().try_for_each(|class| self.greet(class))
    }

    /// Takes a request of a peer whose token it brings; anybody else is sent away.
    fn answer(
        &self,
        classes: &mut [Class],
        new: Identifier,
        private: &[u8],
        theirs: Reads,
    ) -> Result<(), ConnectError> {
        let mut peers = classes.iter_mut().flat_map(|class| class.peers.iter_mut().flatten());
        let is_meant = |peer: &&mut Arriving| {
            let awaited = peer.link.as_ref().filter(|link| link.connection.is_none() && !self.asks(peer.rank));
            awaited.is_some_and(|link| private.get(..TOKEN_BYTES) == Some(&link.token))
        };
        let Some(peer) = peers.find(is_meant) else {
            tracing::debug!(device = self.device, "a request for a connection that nobody is to make");
            // It is gone with the identifier at the latest.
            let _: Result<(), VerbsError> = new.reject();
            return Ok(());
        };
        let both = |ours: u8, theirs: u8| ours.min(theirs.max(1));
        let reads =
            Reads { served: both(self.reads.served, theirs.served), asked: both(self.reads.asked, theirs.asked) };
        new.accept(peer.end.queue_pair.number(), reads)?;
        if let Some(link) = &mut peer.link {
            link.connection = Some(new);
        }
        Ok(())
    }

    /// Goes on with one peer.
    fn hear(&self, peer: &mut Arriving, news: &News) -> Result<(), ConnectError> {
        let Some(link) = &mut peer.link else { return Ok(()) };
        let Some(connection) = &link.connection else { return Ok(()) };
        match news {
            News::Address => {
                is_by(connection, &self.device, "rdma_resolve_addr")?;
                connection.resolve_route(ROUTE_TIME)?;
            }
            News::Route => {
                let Some(Introduction { reads_served, door: Some(door), .. }) = peer.introduction else {
                    return Ok(());
                };
                let reads = Reads { asked: self.reads.asked.min(reads_served), ..self.reads };
                connection.connect(peer.end.queue_pair.number(), reads, &door.token)?;
            }
            News::Established => {
                link.established = true;
                if self.asks(peer.rank) {
                    peer.end.greet()?;
                }
            }
            News::Failed(words) => {
                let what = format!("cannot be connected by {}: {words}", self.device);
                return Err(ConnectError::Peer { rank: peer.rank, what });
            }
            News::Request { .. } | News::Other => {}
        }
        Ok(())
    }

    /// Takes first slots that were sent, or have come. Whatever else has ended is of peers that know this rank to be ready.
    fn greet(&self, class: &mut Class) -> Result<(), ConnectError> {
        let mut ended = Vec::new();
        while class.completions.poll(&mut ended)? {}
        for completion in ended {
            let is_meant = |peer: &&mut Arriving| {
                let awaited = peer.link.as_ref().is_some_and(|link| !link.greeted);
                awaited
                    && peer.end.queue_pair.number() == completion.queue_pair()
                    && completion.is_receive() != self.asks(peer.rank)
            };
            match class.peers.iter_mut().flatten().find(is_meant) {
                Some(peer) => self.greeted(peer, &completion)?,
                None => class.ended.push(completion),
            }
        }
        Ok(())
    }

    fn greeted(&self, peer: &mut Arriving, completion: &Completion) -> Result<(), ConnectError> {
        let fault = |what| ConnectError::Peer { rank: peer.rank, what };
        if let Some(failure) = completion.failure() {
            return Err(fault(format!("cannot be connected by {}: {failure}", self.device)));
        }
        if self.asks(peer.rank) {
            peer.end.greeted(completion);
        } else {
            peer.end.hear(completion)?.map_err(|wrong| fault(wrong.to_string()))?;
        }
        if let Some(link) = &mut peer.link {
            link.greeted = true;
        }
        Ok(())
    }
}

/// That the connection manager uses this device: of several on one network interface it knows one.
fn is_by(identifier: &Identifier, device: &str, call: &'static str) -> Result<(), ConnectError> {
    match identifier.device() {
        Some((name, _)) if name == device => Ok(()),
        other => {
            let other = other.map_or("none".to_owned(), |(name, _)| name);
            Err(VerbsError::elsewhere(call, device, &other).into())
        }
    }
}
