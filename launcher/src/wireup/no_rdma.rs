//! What stands in for RDMA in a vincs that is built without it.

use std::sync::Arc;

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Segment, Transport};
use vincs_transport_tcp::endpoint::TcpTransport;

use crate::wireup::mesh::MeshFault;
use crate::wireup::network::InterfaceAddress;
use crate::wireup::selection::{Offer, Probe};

/// Why there is none.
const WITHOUT: &str = "this vincs is built without RDMA: build it with the feature rdma of vincs-launcher";

/// This vincs cannot look at devices.
pub(crate) fn probe(_ranks: u16, _classes: usize, _window_bytes: usize, _interfaces: &[InterfaceAddress]) -> Probe {
    Probe { reasons: vec![WITHOUT.to_owned()], ..Probe::default() }
}

/// No rank 0 asks for this, as this rank offers nothing.
///
/// # Errors
/// Always.
pub(crate) fn connect(
    _rank: Rank,
    _ranks: u16,
    _offer: &Offer,
    _lifelines: Vec<TcpTransport>,
    _segments: Vec<Option<Arc<dyn Segment>>>,
) -> Result<Vec<Arc<dyn Transport>>, MeshFault> {
    Err(MeshFault::Own(WITHOUT.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_offered_and_the_reason_told() {
        let probe = probe(2, 2, 4096, &[]);
        assert_eq!((probe.devices, probe.offers.len()), (0, 0));
        assert_eq!(probe.reasons, [WITHOUT]);
    }
}
