//! Nodes side by side: their number, names, and the network that they have in common.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

/// Most nodes of a run. The two ends of a pair of sockets are the network between them; a third would need a switch.
pub const MAX_HOSTS: u32 = 2;

/// The networks that nodes side by side have in common, by the third byte of their addresses, in the order of the nodes' cards: that of the cluster
/// (10.0.3.0/24, `eth1`), and one for commands on other nodes (10.0.4.0/24, `eth2`), which still reach a node whose `eth1` is cut.
pub(crate) const NETWORKS: [u8; 2] = [3, 4];

/// A node's card on a network that it has in common with others.
#[derive(Debug)]
pub(crate) struct Card {
    /// What QEMU reads and writes frames on, a datagram each.
    pub(crate) socket: OwnedFd,
    /// Its hardware address, which no other card has.
    pub(crate) mac: String,
}

/// The host name of a node.
pub(crate) fn name(number: u32) -> String {
    format!("node{number}")
}

/// The name of a node's address on the network for commands, as node.sh writes it to /etc/hosts.
pub(crate) fn control_name(host: &str) -> String {
    format!("{host}-control")
}

/// The cards of each of so many nodes, one for each of [`NETWORKS`]; none for a node by itself.
pub(crate) fn cards(hosts: u32) -> io::Result<Vec<Vec<Card>>> {
    if hosts < 2 {
        return Ok(vec![Vec::new()]);
    }
    let mut cards = [Vec::new(), Vec::new()];
    for network in NETWORKS {
        let (one, other) = UnixDatagram::pair()?;
        for ((number, socket), cards) in (1..).zip([one, other]).zip(&mut cards) {
            cards.push(Card { socket: socket.into(), mac: format!("52:54:00:00:{network:02x}:{number:02x}") });
        }
    }
    Ok(cards.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_one_card_arrives_at_the_other_of_its_network() {
        let mut cards = cards(2).unwrap();
        let macs: std::collections::BTreeSet<String> = cards.iter().flatten().map(|card| card.mac.clone()).collect();
        assert_eq!(macs.len(), 2 * NETWORKS.len());
        let (mut other, mut one) = (cards.remove(1), cards.remove(0));
        // The longest frame of a network with jumbo frames.
        let frame = vec![7; 9018];
        UnixDatagram::from(one.remove(0).socket).send(&frame).unwrap();
        let mut got = vec![0; 1 << 16];
        let len = UnixDatagram::from(other.remove(0).socket).recv(&mut got).unwrap();
        assert_eq!(&got[..len], frame);
    }

    #[test]
    fn a_node_by_itself_has_no_common_network() {
        assert!(cards(1).unwrap()[..].iter().all(Vec::is_empty));
    }
}
