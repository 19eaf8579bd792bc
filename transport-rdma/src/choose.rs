//! Which device, port and address a rank uses: a function of what the devices say and of the address by which the other ranks know this one.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// What a port is connected to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LinkLayer {
    /// InfiniBand: ports have local identifiers, given by the subnet manager.
    InfiniBand,
    /// Ethernet (RoCE): ports have the addresses of their network interface.
    Ethernet,
    /// Neither.
    Other,
}

/// How packets to an address look.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum GidType {
    /// Within UDP over IP: through routers.
    RoceV2,
    /// Ethernet frames of their own type.
    RoceV1,
    /// InfiniBand's.
    InfiniBand,
    /// Within TCP.
    Iwarp,
}

impl fmt::Display for GidType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoceV2 => "RoCE v2",
            Self::RoceV1 => "RoCE v1",
            Self::InfiniBand => "InfiniBand",
            Self::Iwarp => "iWARP",
        })
    }
}

/// An address of a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Gid {
    /// Its place in the port's table.
    pub index: u8,
    /// Its type.
    pub kind: GidType,
    /// An IPv6 address, or an IPv4 one mapped into IPv6.
    pub raw: [u8; 16],
}

/// What a port says of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Port {
    /// Name of the device.
    pub device: String,
    /// Its number on the device, from 1 on.
    pub number: u8,
    /// Whether its link is up.
    pub active: bool,
    /// What it is connected to.
    pub link_layer: LinkLayer,
    /// Longest packet, as the verbs library counts: 1 is 256 bytes, and each more doubles that.
    pub mtu: u8,
    /// Its local identifier on InfiniBand, 0 elsewhere.
    pub lid: u16,
    /// Its addresses.
    pub gids: Vec<Gid>,
}

impl Gid {
    /// That of an iWARP port with an IP address.
    #[must_use]
    pub fn iwarp(address: IpAddr) -> Self {
        let raw = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        Self { index: 0, kind: GidType::Iwarp, raw }
    }

    /// The IP address that it is on Ethernet.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        let address = Ipv6Addr::from(self.raw);
        address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
    }
}

/// The addresses by which a port can be used, best first: RoCE v2 before v1, and on InfiniBand the port's own.
///
/// # Errors
/// The reason in words why there is none.
pub fn usable_gids(port: &Port) -> Result<Vec<Gid>, String> {
    let Port { device, number, .. } = port;
    if !port.active {
        return Err(format!("port {number} of {device} is not active: its link is down"));
    }
    match port.link_layer {
        LinkLayer::Ethernet => {
            let mut gids: Vec<Gid> =
                port.gids.iter().copied().filter(|gid| gid.kind != GidType::InfiniBand && is_routable(gid)).collect();
            gids.sort_by_key(|gid| gid.kind);
            if gids.is_empty() {
                return Err(format!("port {number} of {device} has no IP address: give its network interface one"));
            }
            Ok(gids)
        }
        LinkLayer::InfiniBand if port.lid == 0 => {
            Err(format!("port {number} of {device} has no LID: its subnet has no subnet manager"))
        }
        LinkLayer::InfiniBand => {
            let first = port.gids.iter().copied().find(|gid| gid.kind == GidType::InfiniBand);
            first.map(|gid| vec![gid]).ok_or_else(|| format!("port {number} of {device} has no GID"))
        }
        LinkLayer::Other => Err(format!("port {number} of {device} is neither on InfiniBand nor on Ethernet")),
    }
}

/// Whether others may know an address of Ethernet's: link-local ones mean nothing without the interface, and loopback ones nothing elsewhere.
fn is_routable(gid: &Gid) -> bool {
    match gid.address() {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local() && !address.is_unspecified(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local() && !address.is_unspecified(),
    }
}

/// Which of these ports, by which of its [usable](usable_gids) addresses, a rank takes that others know by an IP address: its index.
///
/// On Ethernet it is the one of that IP address, RoCE v2 before v1, wherever it is in the table: an index says nothing, as the kernel fills the
/// table in the order in which addresses come up. Then InfiniBand, where the IP address may be of another network. Last iWARP, which has no atomics.
///
/// # Errors
/// For each of them why it is not taken.
pub fn choose<'a>(usable: impl Iterator<Item = (&'a Port, &'a Gid)>, address: IpAddr) -> Result<usize, Vec<String>> {
    let is_its_own = |gid: &Gid| gid.kind == GidType::InfiniBand || gid.address() == address;
    let (taken, others): (Vec<_>, Vec<_>) = usable.enumerate().partition(|(_, (_, gid))| is_its_own(gid));
    let best = taken.into_iter().min_by_key(|(_, (_, gid))| gid.kind);
    best.map(|(index, _)| index).ok_or_else(|| {
        let other = |(_, (port, _)): (_, (&Port, _))| {
            format!("port {} of {} does not have the address {address}", port.number, port.device)
        };
        let mut reasons: Vec<String> = others.into_iter().map(other).collect();
        reasons.dedup();
        reasons
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 15));

    fn gid(index: u8, kind: GidType, address: IpAddr) -> Gid {
        let raw = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        Gid { index, kind, raw }
    }

    /// What is chosen of all that can be used of these ports.
    fn chosen(ports: &[Port], address: IpAddr) -> Result<(&str, Gid), Vec<String>> {
        let gids: Vec<_> = ports.iter().map(|port| usable_gids(port).unwrap_or_default()).collect();
        let usable: Vec<_> =
            ports.iter().zip(&gids).flat_map(|(port, gids)| gids.iter().map(move |gid| (port, gid))).collect();
        let index = choose(usable.iter().copied(), address)?;
        Ok((&usable[index].0.device, *usable[index].1))
    }

    fn port(device: &str, gids: Vec<Gid>) -> Port {
        let link_layer = LinkLayer::Ethernet;
        Port { device: device.into(), number: 1, active: true, link_layer, mtu: 3, lid: 0, gids }
    }

    #[test]
    fn the_address_decides_and_then_the_type_and_never_the_index() {
        let link_local: IpAddr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into();
        let gids = [
            gid(0, GidType::RoceV1, link_local),
            gid(1, GidType::RoceV2, link_local),
            gid(2, GidType::RoceV1, HERE),
            gid(3, GidType::RoceV2, HERE),
        ];
        let (forth, back) = (port("a", gids.to_vec()), port("a", gids.iter().rev().copied().collect()));
        for port in [forth, back] {
            assert_eq!(chosen(&[port], HERE), Ok(("a", gids[3])));
        }
        assert_eq!(chosen(&[port("a", gids[..3].to_vec())], HERE), Ok(("a", gids[2])));
        let other = port("b", vec![gid(0, GidType::RoceV2, Ipv4Addr::new(10, 0, 2, 16).into())]);
        assert_eq!(chosen(&[other.clone(), port("a", gids.to_vec())], HERE), Ok(("a", gids[3])));
        let reasons = chosen(&[other, port("a", gids.to_vec())], link_local).unwrap_err();
        assert_eq!(reasons, ["b", "a"].map(|device| format!("port 1 of {device} does not have the address fe80::1")));
        assert_eq!(chosen(&[], HERE), Err(Vec::new()));
    }

    #[test]
    fn each_reason_names_the_port() {
        let other = port("a", vec![gid(0, GidType::RoceV2, Ipv4Addr::LOCALHOST.into())]);
        let down = Port { active: false, device: "b".into(), ..other.clone() };
        let no_manager = Port { link_layer: LinkLayer::InfiniBand, device: "c".into(), ..other.clone() };
        let no_gid = Port { lid: 7, device: "d".into(), ..no_manager.clone() };
        let neither = Port { link_layer: LinkLayer::Other, device: "e".into(), ..other.clone() };
        for (port, word) in [
            (other, "a has no IP address"),
            (down, "b is not active"),
            (no_manager, "c has no LID"),
            (no_gid, "d has no GID"),
            (neither, "e is neither"),
        ] {
            let reason = usable_gids(&port).unwrap_err();
            assert!(reason.starts_with("port 1 of ") && reason.contains(word), "{reason}");
        }
    }

    #[test]
    fn addresses_that_others_can_know_are_usable_best_type_first() {
        let addresses = ["127.0.0.1", "169.254.0.1", "::1", "fe80::1", "::", "fd00::1"];
        let mut gids: Vec<Gid> =
            (0..).zip(addresses).map(|(index, text)| gid(index, GidType::RoceV2, text.parse().unwrap())).collect();
        gids.extend([gid(7, GidType::RoceV1, HERE), gid(8, GidType::RoceV2, HERE), gid(9, GidType::InfiniBand, HERE)]);
        let usable = usable_gids(&port("a", gids.clone())).unwrap();
        assert_eq!(usable, [gids[5], gids[7], gids[6]]);
        assert_eq!(usable[1].address(), HERE);
        let none = usable_gids(&port("a", gids[..5].to_vec())).unwrap_err();
        assert!(none.starts_with("port 1 of a has no IP address"), "{none}");
        let down = Port { active: false, ..port("a", gids) };
        assert!(usable_gids(&down).unwrap_err().contains("is not active"));
    }

    #[test]
    fn an_iwarp_port_is_taken_by_its_address_and_after_roce() {
        let iwarp = port("i", vec![Gid::iwarp(HERE)]);
        assert_eq!(usable_gids(&iwarp).unwrap()[0].address(), HERE);
        assert_eq!(chosen(std::slice::from_ref(&iwarp), HERE), Ok(("i", Gid::iwarp(HERE))));
        let both = [iwarp, port("r", vec![gid(3, GidType::RoceV1, HERE)])];
        assert_eq!(chosen(&both, HERE).unwrap().0, "r");
        let six: IpAddr = "fd00::1".parse().unwrap();
        assert_eq!(Gid::iwarp(six).address(), six);
    }

    #[test]
    fn a_port_with_the_address_goes_before_one_of_another_network() {
        let infiniband = Port {
            link_layer: LinkLayer::InfiniBand,
            lid: 7,
            ..port("ib", vec![gid(0, GidType::InfiniBand, Ipv6Addr::LOCALHOST.into())])
        };
        let ethernet = port("eth", vec![gid(5, GidType::RoceV1, HERE)]);
        let both = [infiniband.clone(), ethernet];
        assert_eq!(chosen(&both, HERE).unwrap().0, "eth");
        assert_eq!(chosen(&both[..1], HERE), Ok(("ib", infiniband.gids[0])));
    }
}
