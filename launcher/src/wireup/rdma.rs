//! RDMA as the wire-up needs it: what this host's devices are good for, and the endpoints over those of TCP.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Segment, Transport};
use vincs_transport_rdma::choose::{Gid, GidType, Port};
use vincs_transport_rdma::devices::{Found, Needs, Survey, survey};
use vincs_transport_rdma::fabric::{ConnectError, FabricConfig, connect as connect_by_rdma};
use vincs_transport_tcp::endpoint::TcpTransport;
use vincs_transport_tcp::fabric::CONNECT_TIME;

use crate::wireup::mesh::MeshFault;
use crate::wireup::network::InterfaceAddress;
use crate::wireup::selection::{Fabric, Link, MAPPED_BITS, Offer, Probe};

/// Bits of a GID that name its subnet on InfiniBand (InfiniBand Architecture Specification, volume 1, section 4.1.1).
const SUBNET_BITS: u8 = 64;

/// What this host's devices are good for in a machine of so many ranks with at most so many channel classes and bytes of windows; each device
/// registers as much memory as that takes, and lets it go again.
pub(crate) fn probe(ranks: u16, classes: usize, window_bytes: usize, interfaces: &[InterfaceAddress]) -> Probe {
    match survey() {
        Ok(survey) => probe_of(survey, Needs { ranks, classes, segment_bytes: window_bytes }, interfaces),
        Err(error) => Probe { reasons: vec![error.to_string()], ..Probe::default() },
    }
}

fn probe_of(survey: Survey, needs: Needs, interfaces: &[InterfaceAddress]) -> Probe {
    let Survey { devices, usable, mut reasons } = survey;
    let mut rooms: BTreeMap<String, Result<(), String>> = BTreeMap::new();
    let mut offers = Vec::new();
    for found in usable {
        let device = found.port.device.clone();
        let room = rooms.entry(device.clone()).or_insert_with(|| room(&found, needs));
        match room.clone().and_then(|()| fabric_of(&found.gid, interfaces)) {
            Ok(fabric) => offers.push(Offer { device, port: found.port.number, fabric, gid: found.gid.raw }),
            Err(reason) if reasons.contains(&reason) => {}
            Err(reason) => reasons.push(reason),
        }
    }
    Probe { devices: u32::try_from(devices).unwrap_or(u32::MAX), offers, reasons }
}

/// Whether a device has queues and this process may lock memory for a machine.
fn room(found: &Found, needs: Needs) -> Result<(), String> {
    needs.check(found).map_err(|error| error.to_string())?;
    needs.try_registration(found).map_err(|error| error.to_string())
}

/// What is on the wire for an address.
fn link_of(kind: GidType) -> Link {
    match kind {
        GidType::InfiniBand => Link::InfiniBand,
        GidType::RoceV1 => Link::RoceV1,
        GidType::RoceV2 => Link::RoceV2,
        GidType::Iwarp => Link::Iwarp,
    }
}

/// The fabric of an address.
fn fabric_of(gid: &Gid, interfaces: &[InterfaceAddress]) -> Result<Fabric, String> {
    let link = link_of(gid.kind);
    if link == Link::InfiniBand {
        return Ok(Fabric::of(link, gid.raw, SUBNET_BITS));
    }
    let address = gid.address();
    // A device may be seen in a network namespace in which its address is not.
    let interface = interfaces.iter().find(|known| known.address == address).ok_or_else(|| {
        format!("an RDMA device has the address {address}, which no network interface of this host has")
    })?;
    let before = if matches!(address, IpAddr::V4(_)) { MAPPED_BITS } else { 0 };
    Ok(Fabric::of(link, gid.raw, before + interface.prefix))
}

/// Whether an offer means this port by this address, which a port may have for RoCE v1 and v2.
fn is_meant(offer: &Offer, port: &Port, gid: &Gid) -> bool {
    (&port.device, port.number) == (&offer.device, offer.port)
        && (link_of(gid.kind), gid.raw) == (offer.fabric.link, offer.gid)
}

/// Connects this rank with the others over their TCP connections, which stay as the lifelines, by what has been chosen for it. Others reach
/// these segments, one for each channel class or none.
///
/// # Errors
/// [`MeshFault`].
pub(crate) fn connect(
    rank: Rank,
    ranks: u16,
    offer: &Offer,
    lifelines: Vec<TcpTransport>,
    segments: Vec<Option<Arc<dyn Segment>>>,
) -> Result<Vec<Arc<dyn Transport>>, MeshFault> {
    let usable = survey().map_err(|error| MeshFault::Own(error.to_string()))?.usable;
    let found = usable.into_iter().find(|found| is_meant(offer, &found.port, &found.gid));
    let gone = || MeshFault::Own(format!("port {} of {} cannot be used any more", offer.port, offer.device));
    let found = found.ok_or_else(gone)?;
    let lengths: Vec<u64> = segments.iter().map(|own| own.as_ref().map_or(0, |own| own.len())).collect();
    let config = FabricConfig { rank, ranks, segments, connect_time: CONNECT_TIME };
    let lifelines = lifelines.into_iter().map(|end| Box::new(end) as Box<dyn Transport>).collect();
    let ends = connect_by_rdma(&config, &found, lifelines)?;
    for (end, own) in ends.iter().zip(lengths) {
        let other = |rank| Some((rank, end.segment_length(rank).filter(|theirs| *theirs != own)?));
        if let Some((rank, theirs)) = (0..ranks).map(Rank).find_map(other) {
            let line = format!(
                "rank {} has windows of {theirs} bytes, this rank of {own}: use the same vincs everywhere",
                rank.0
            );
            return Err(MeshFault::Peer(line));
        }
    }
    Ok(ends.into_iter().map(|end| Arc::new(end) as Arc<dyn Transport>).collect())
}

impl From<ConnectError> for MeshFault {
    fn from(error: ConnectError) -> Self {
        let line = error.to_string();
        match error {
            ConnectError::Config { .. } | ConnectError::TooSmall(_) | ConnectError::Verbs(_) | ConnectError::Io(_) => {
                Self::Own(line)
            }
            ConnectError::Peer { .. } | ConnectError::Lost { .. } | ConnectError::Missing { .. } => Self::Peer(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn interface(address: &str, prefix: u8) -> InterfaceAddress {
        InterfaceAddress { interface: "eth0".into(), address: address.parse().unwrap(), prefix }
    }

    #[test]
    fn the_fabric_is_the_network_of_the_interface_with_that_address() {
        let raw = Ipv4Addr::new(10, 1, 2, 3).to_ipv6_mapped().octets();
        let gid = |kind| Gid { index: 0, kind, raw };
        let interfaces = [interface("10.1.9.9", 8), interface("10.1.2.3", 16), interface("fd00::1", 64)];
        let fabric = |kind| fabric_of(&gid(kind), &interfaces).unwrap().to_string();
        assert_eq!(fabric(GidType::RoceV2), "RoCE v2 network 10.1.0.0/16");
        assert_eq!(fabric(GidType::RoceV1), "RoCE v1 network 10.1.0.0/16");
        assert_eq!(fabric(GidType::Iwarp), "iWARP network 10.1.0.0/16");
        assert!(fabric(GidType::InfiniBand).starts_with("InfiniBand subnet"));
        let six = Gid { raw: "fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets(), ..gid(GidType::RoceV2) };
        assert_eq!(fabric_of(&six, &interfaces).unwrap().to_string(), "RoCE v2 network fd00::/64");
        let error = fabric_of(&gid(GidType::RoceV2), &interfaces[2..]).unwrap_err();
        assert!(error.contains("10.1.2.3"), "{error}");
    }

    #[test]
    fn an_offer_means_its_port_by_its_address_and_kind() {
        use vincs_transport_rdma::choose::LinkLayer;

        let raw = Ipv4Addr::new(10, 1, 2, 3).to_ipv6_mapped().octets();
        let gids = [GidType::RoceV1, GidType::RoceV2].map(|kind| Gid { index: 0, kind, raw });
        let link_layer = LinkLayer::Ethernet;
        let port =
            Port { device: "a".into(), number: 1, active: true, link_layer, mtu: 3, lid: 0, gids: gids.to_vec() };
        for own in &gids {
            let fabric = fabric_of(own, &[interface("10.1.2.3", 16)]).unwrap();
            let offer = Offer { device: "a".into(), port: 1, fabric, gid: raw };
            for gid in &gids {
                assert_eq!(is_meant(&offer, &port, gid), gid == own, "{own:?}, {gid:?}");
            }
            assert!(!is_meant(&offer, &Port { number: 2, ..port.clone() }, own));
            assert!(!is_meant(&offer, &Port { device: "b".into(), ..port.clone() }, own));
            let other = Gid { raw: [0; 16], ..*own };
            assert!(!is_meant(&offer, &port, &other));
        }
    }

    #[test]
    fn what_the_survey_says_is_passed_on() {
        let survey = Survey { devices: 1, usable: Vec::new(), reasons: vec!["port 1 of a is not active".into()] };
        let probe = probe_of(survey, Needs { ranks: 2, classes: 2, segment_bytes: 0 }, &[]);
        assert_eq!((probe.devices, probe.offers.len()), (1, 0));
        assert_eq!(probe.reasons, ["port 1 of a is not active"]);
    }

    /// On this machine, whether it has devices or not.
    #[test]
    fn any_host_can_be_probed() {
        let probe = probe(2, 2, 4096, &[]);
        assert!(probe.devices > 0 || probe.offers.is_empty(), "{probe:?}");
    }
}
