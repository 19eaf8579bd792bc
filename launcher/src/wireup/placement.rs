//! At which address each rank listens for the others.

use std::net::{IpAddr, Ipv4Addr};

/// How a rank has come to rank 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Arrival {
    /// What its `--net-if` means on its host.
    pub(crate) net_if: Option<IpAddr>,
    /// Its own address on the connection to rank 0.
    pub(crate) from: IpAddr,
    /// Rank 0's address on that connection.
    pub(crate) to: IpAddr,
    /// Its host is rank 0's.
    pub(crate) same_host: bool,
}

/// The address of each rank, rank 0's first: what `--net-if` says; else loopback when all share a host; else the interface of the
/// route between the rank and rank 0. A rank that came over loopback to a rank 0 with others elsewhere takes rank 0's interface.
pub(crate) fn addresses(net_if: Option<IpAddr>, others: &[Arrival]) -> Vec<IpAddr> {
    let is_local = |other: &&Arrival| other.same_host && other.from.is_loopback();
    let outward = others.iter().find(|other| !is_local(other)).map(|other| other.to);
    let zero = net_if.or(outward).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let of = |other: &Arrival| other.net_if.unwrap_or(if is_local(&other) { zero } else { other.from });
    std::iter::once(zero).chain(others.iter().map(of)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(from: &str, to: &str, same_host: bool) -> Arrival {
        Arrival { net_if: None, from: from.parse().unwrap(), to: to.parse().unwrap(), same_host }
    }

    fn listed(net_if: Option<&str>, others: &[Arrival]) -> Vec<String> {
        addresses(net_if.map(|address| address.parse().unwrap()), others).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ranks_of_one_host_use_loopback() {
        let local = arrival("127.0.0.1", "127.0.0.1", true);
        assert_eq!(listed(None, &[local, local]), ["127.0.0.1"; 3]);
    }

    #[test]
    fn ranks_of_several_hosts_use_the_route_to_rank_0() {
        let local = arrival("127.0.0.1", "127.0.0.1", true);
        let remote = arrival("10.0.0.2", "10.0.0.1", false);
        assert_eq!(listed(None, &[local, remote]), ["10.0.0.1", "10.0.0.1", "10.0.0.2"]);
    }

    #[test]
    fn a_rank_in_a_network_namespace_of_its_own_is_not_reached_by_loopback() {
        let apart = arrival("10.9.0.2", "10.9.0.1", true);
        let local = arrival("127.0.0.1", "127.0.0.1", true);
        assert_eq!(listed(None, &[apart, local]), ["10.9.0.1", "10.9.0.2", "10.9.0.1"]);
    }

    #[test]
    fn the_users_choice_comes_first() {
        let remote = arrival("10.0.0.2", "10.0.0.1", false);
        let chosen = Arrival { net_if: Some("192.168.0.2".parse().unwrap()), ..remote };
        assert_eq!(listed(Some("192.168.0.1"), &[chosen]), ["192.168.0.1", "192.168.0.2"]);
    }
}
