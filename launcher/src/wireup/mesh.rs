//! The connections between the ranks once all know each other: the only place that names the transport.

use std::net::{IpAddr, SocketAddr};

use vincs_coherence::id::Rank;
use vincs_transport_tcp::endpoint::{TcpTransport, Timing};
use vincs_transport_tcp::fabric::{self, CONNECT_TIME, FabricConfig, MAX_CLASSES};
use vincs_transport_tcp::listener::Listener;

use crate::cli::cluster::MAX_SHARDS;
use crate::wireup::Keys;
use crate::wireup::message::Roster;

/// Channel classes besides one for each shard of the memory: that of control messages, which comes first.
const CONTROL_CLASSES: usize = 1;

const _: () = assert!(CONTROL_CLASSES + MAX_SHARDS as usize == MAX_CLASSES);

/// One endpoint per channel class: control, then the shards.
pub(crate) type Mesh = Vec<TcpTransport>;

/// An address at which this rank listens for the others.
#[derive(Debug)]
pub(crate) struct Listening(Listener);

impl Listening {
    /// Listens at this address of the host, at a port of the kernel's choice.
    ///
    /// # Errors
    /// Why not, with the address.
    pub(crate) fn bind(address: IpAddr) -> Result<Self, String> {
        Listener::bind(SocketAddr::new(address, 0)).map(Self).map_err(|error| error.to_string())
    }

    /// The address with its port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Connects with all ranks of the roster, which do the same.
    ///
    /// # Errors
    /// Which rank is not connected, and why.
    pub(crate) fn connect(self, rank: u32, roster: &Roster, keys: &Keys) -> Result<Mesh, String> {
        let classes = CONTROL_CLASSES + usize::try_from(roster.settings.shards).unwrap_or(usize::MAX);
        let config = FabricConfig {
            rank: Rank(u16::try_from(rank).map_err(|_| format!("{rank} is no rank"))?),
            addresses: roster.addresses.clone(),
            machine: keys.machine,
            secret: keys.secret.clone(),
            segments: (0..classes).map(|_| None).collect(),
            connect_time: CONNECT_TIME,
            timing: Timing::default(),
        };
        fabric::connect(&config, self.0).map_err(|error| error.to_string())
    }
}
