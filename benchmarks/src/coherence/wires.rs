//! What connects the ranks of a cluster: TCP, or RDMA beside it.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Segment, Transport, WordSegment};
use vincs_coherence::window::MAX_SLOTS;
use vincs_transport_rdma::devices::find_device;
use vincs_transport_rdma::endpoint::RdmaTransport;
use vincs_transport_rdma::fabric::{FabricConfig, connect};
use vincs_transport_tcp::endpoint::TcpTransport;
use vincs_transport_tcp::fabric::CONNECT_TIME;
use vincs_vmm::memory::engine::windows;

use super::cluster::Failure;
use crate::rdma::costs::Used;

/// What connects ranks of one host.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub enum Wires {
    /// TCP over loopback.
    Tcp,
    /// RDMA.
    Rdma {
        /// An address of the device.
        address: IpAddr,
        /// Whether ranks have windows in which others read clean pages.
        windows: bool,
    },
}

/// What connects one rank with the others.
#[derive(Default)]
pub(super) struct Wired {
    pub(super) transports: Vec<Arc<dyn Transport>>,
    pub(super) windows: Vec<Arc<WordSegment>>,
    /// Those transports that are RDMA's, once more, as these count what they use up.
    rdma: Vec<Arc<RdmaTransport>>,
}

impl Wired {
    /// Connects a rank over what connects it by TCP, one channel class.
    pub(super) fn new(wires: Wires, rank: Rank, ranks: u16, tcp: Vec<TcpTransport>) -> Result<Self, Failure> {
        let Wires::Rdma { address, windows: has_windows } = wires else {
            let transports = tcp.into_iter().map(|end| Arc::new(end) as Arc<dyn Transport>).collect();
            return Ok(Self { transports, ..Self::default() });
        };
        let slots = NonZeroU32::new(MAX_SLOTS).ok_or("windows have no slots")?;
        let windows = if has_windows { windows(1, slots)? } else { Vec::new() };
        let segments = vec![windows.first().map(|window| Arc::clone(window) as Arc<dyn Segment>)];
        let config = FabricConfig { rank, ranks, segments, connect_time: CONNECT_TIME };
        let found = find_device(address).map_err(|reasons| reasons.join("; "))?;
        let lifelines = tcp.into_iter().map(|end| Box::new(end) as Box<dyn Transport>).collect();
        let rdma: Vec<_> = connect(&config, &found, lifelines)?.into_iter().map(Arc::new).collect();
        let transports = rdma.iter().map(|end| Arc::clone(end) as Arc<dyn Transport>).collect();
        Ok(Self { transports, windows, rdma })
    }

    /// What this process has used up by now; of TCP nothing but time is counted.
    pub(super) fn used(&self) -> Used {
        Used::now(self.rdma.iter().map(|end| end.counts()).sum())
    }
}
