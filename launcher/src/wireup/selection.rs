//! Which transport connects the ranks: from what each says of its RDMA devices, and what the user asks for. Rank 0 decides for all.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::cli::cluster::TransportArg;

/// What a rank without devices says.
const NO_DEVICE: &str = "it has no RDMA device: load its adapter's driver and ib_uverbs";

/// What is on the wire, best first.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) enum Link {
    /// UDP over IP.
    RoceV2,
    /// Ethernet frames of their own type.
    RoceV1,
    InfiniBand,
    /// TCP. It has no atomics.
    Iwarp,
}

/// What ports have to have in common to reach each other.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Fabric {
    pub(crate) link: Link,
    /// The first bits of a GID, the rest zero: the IP network on Ethernet, the subnet's prefix on InfiniBand.
    pub(crate) network: [u8; 16],
    /// How many of them count.
    pub(crate) bits: u8,
}

/// Bits of a GID before an IPv4 address that is mapped into it (RFC 4291, section 2.5.5.2).
pub(crate) const MAPPED_BITS: u8 = 96;

/// Who has no RDMA sees no GIDs.
#[cfg(any(feature = "rdma", test))]
impl Fabric {
    /// The one of a GID, of which so many bits count.
    pub(crate) fn of(link: Link, gid: [u8; 16], bits: u8) -> Self {
        let mask = u128::MAX.checked_shl(u128::BITS - u32::from(bits).min(u128::BITS)).unwrap_or(0);
        Self { link, network: (u128::from_be_bytes(gid) & mask).to_be_bytes(), bits }
    }
}

impl fmt::Display for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = Ipv6Addr::from(self.network);
        let name = match self.link {
            Link::InfiniBand => return write!(f, "InfiniBand subnet {network}/{}", self.bits),
            Link::RoceV1 => "RoCE v1",
            Link::RoceV2 => "RoCE v2",
            Link::Iwarp => "iWARP",
        };
        match network.to_ipv4_mapped() {
            Some(mapped) => write!(f, "{name} network {mapped}/{}", self.bits.saturating_sub(MAPPED_BITS)),
            None => write!(f, "{name} network {network}/{}", self.bits),
        }
    }
}

/// A port that a rank can use, by one of its addresses.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Offer {
    /// Name of the device.
    pub(crate) device: String,
    /// Number of the port, from 1 on.
    pub(crate) port: u8,
    pub(crate) fabric: Fabric,
    pub(crate) gid: [u8; 16],
}

impl Offer {
    /// Its IP address on Ethernet.
    fn address(&self) -> Option<IpAddr> {
        let gid = Ipv6Addr::from(self.gid);
        let address = gid.to_ipv4_mapped().map_or(IpAddr::V6(gid), IpAddr::V4);
        (self.fabric.link != Link::InfiniBand).then_some(address)
    }
}

/// What a rank says of RDMA on its host.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Probe {
    /// Devices of the host.
    pub(crate) devices: u32,
    /// What it can use, with room for all ranks and memory that can be locked.
    pub(crate) offers: Vec<Offer>,
    /// Why it cannot use the rest, in words that name the device.
    pub(crate) reasons: Vec<String>,
}

/// What connects the ranks.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Choice {
    #[default]
    Tcp,
    /// RDMA, with what each rank uses, by rank.
    Rdma(Vec<Offer>),
}

/// A rank, as far as this depends on it.
#[derive(Clone, Debug)]
pub(crate) struct Candidate<'a> {
    /// As messages name it.
    pub(crate) who: String,
    /// Nothing if it has not looked.
    pub(crate) probe: Option<&'a Probe>,
    /// The address that `--net-if` means on its host.
    pub(crate) net_if: Option<IpAddr>,
    /// The address at which it listens.
    pub(crate) place: IpAddr,
}

/// The user wants what is not to be had.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("--transport rdma: {0}; --transport tcp does without")]
pub(crate) struct NoRdma(String);

/// What connects these ranks, and what is worth a word about it.
///
/// # Errors
/// [`NoRdma`] names the rank that cannot be connected so, and why.
pub(crate) fn decide(asked: Option<TransportArg>, ranks: &[Candidate<'_>]) -> Result<(Choice, Option<String>), NoRdma> {
    if asked == Some(TransportArg::Tcp) {
        return Ok((Choice::Tcp, None));
    }
    match common(ranks) {
        Ok(offers) => Ok((Choice::Rdma(offers), None)),
        Err(why) if asked == Some(TransportArg::Rdma) => Err(NoRdma(why)),
        Err(why) => {
            let has_device = ranks.iter().filter_map(|rank| rank.probe).any(|probe| probe.devices > 0);
            let is_worth_a_word = has_device || asked.is_some();
            Ok((Choice::Tcp, is_worth_a_word.then(|| format!("the ranks are connected by TCP, not by RDMA: {why}"))))
        }
    }
}

/// What each rank uses of the best fabric that all have in common: the one of the addresses at which they listen, then by its kind, then
/// as rank 0 has them.
fn common(ranks: &[Candidate<'_>]) -> Result<Vec<Offer>, String> {
    let offers: Vec<Vec<&Offer>> = ranks.iter().map(usable).collect::<Result<_, _>>()?;
    let Some(zero) = offers.first() else { return Err("there are no ranks".to_owned()) };
    let mut best: Option<((bool, Link), Vec<&Offer>)> = None;
    for Offer { fabric, .. } in zero {
        let each = ranks.iter().zip(&offers).map(|(rank, offers)| best_on(*fabric, rank, offers));
        let Some(chosen) = each.collect::<Option<Vec<_>>>() else { continue };
        let elsewhere = ranks.iter().zip(&chosen).any(|(rank, offer)| offer.address() != Some(rank.place));
        let order = (elsewhere, fabric.link);
        if best.as_ref().is_none_or(|(known, _)| order < *known) {
            best = Some((order, chosen));
        }
    }
    match best {
        Some((_, chosen)) => Ok(chosen.into_iter().cloned().collect()),
        None => Err(nothing_in_common(ranks, &offers)),
    }
}

/// What a rank can use.
fn usable<'a>(rank: &Candidate<'a>) -> Result<Vec<&'a Offer>, String> {
    let Candidate { who, probe, net_if, .. } = rank;
    let Some(probe) = probe else { return Err(format!("{who} has not looked for RDMA devices")) };
    let is_meant = |offer: &&Offer| net_if.is_none() || offer.address().is_none_or(|address| *net_if == Some(address));
    let (meant, others): (Vec<_>, Vec<_>) = probe.offers.iter().partition(is_meant);
    if !meant.is_empty() {
        return Ok(meant);
    }
    let other =
        |offer: &&Offer| format!("port {} of {} does not have the address of --net-if", offer.port, offer.device);
    let mut reasons: Vec<String> = probe.reasons.iter().cloned().chain(others.iter().map(other)).collect();
    reasons.dedup();
    if reasons.is_empty() {
        reasons.push(NO_DEVICE.to_owned());
    }
    Err(format!("{who}: {}", reasons.join("; ")))
}

/// Of what a rank can use on a fabric the one with the address at which it listens, else the first.
fn best_on<'a>(fabric: Fabric, rank: &Candidate<'_>, offers: &[&'a Offer]) -> Option<&'a Offer> {
    let on_it = || offers.iter().filter(|offer| offer.fabric == fabric);
    on_it().find(|offer| offer.address() == Some(rank.place)).or_else(|| on_it().next()).copied()
}

/// In words that name rank 0 and the first rank that has nothing in common with it; all may have, but not the same.
fn nothing_in_common(ranks: &[Candidate<'_>], offers: &[Vec<&Offer>]) -> String {
    let list = |offers: &[&Offer]| {
        let mut fabrics: Vec<String> =
            offers.iter().map(|offer| format!("{} on {}", offer.device, offer.fabric)).collect();
        fabrics.dedup();
        fabrics.join(", ")
    };
    let (Some(zero), Some(theirs)) = (ranks.first(), offers.first()) else { return String::new() };
    let is_apart = |own: &&Vec<&Offer>| !own.iter().any(|own| theirs.iter().any(|offer| offer.fabric == own.fabric));
    let apart = offers.iter().position(|own| is_apart(&own)).and_then(|at| ranks.get(at).zip(offers.get(at)));
    match apart {
        Some((rank, own)) => {
            format!("{} has {}, {} has {}: no fabric is common to both", rank.who, list(own), zero.who, list(theirs))
        }
        None => format!("no fabric of {} ({}) is common to all ranks", zero.who, list(theirs)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// What a device has by this address of a network with a prefix of 24 bits.
    fn roce(device: &str, address: &str) -> Offer {
        let IpAddr::V4(address) = ip(address) else { unreachable!() };
        let gid = address.to_ipv6_mapped().octets();
        Offer { device: device.into(), port: 1, fabric: Fabric::of(Link::RoceV2, gid, MAPPED_BITS + 24), gid }
    }

    fn infiniband(device: &str, subnet: u8) -> Offer {
        let gid = [0xfe, 0x80, 0, 0, 0, 0, 0, subnet, 0, 0, 0, 0, 0, 0, 0, 9];
        Offer { device: device.into(), port: 1, fabric: Fabric::of(Link::InfiniBand, gid, 64), gid }
    }

    fn probe(offers: &[Offer]) -> Probe {
        Probe { devices: u32::try_from(offers.len()).unwrap(), offers: offers.to_vec(), reasons: Vec::new() }
    }

    /// Ranks that listen at 10.0.0.1 and on, without `--net-if`.
    fn candidates(probes: &[Probe]) -> Vec<Candidate<'_>> {
        let candidate = |(rank, probe)| Candidate {
            who: format!("rank {rank} on n{rank}"),
            probe: Some(probe),
            net_if: None,
            place: ip(&format!("10.0.0.{}", rank + 1)),
        };
        (0_u32..).zip(probes).map(candidate).collect()
    }

    /// The devices that are chosen.
    fn devices(probes: &[Probe]) -> Vec<String> {
        match decide(None, &candidates(probes)).unwrap() {
            (Choice::Rdma(offers), None) => offers.into_iter().map(|offer| offer.device).collect(),
            other => unreachable!("{other:?}"),
        }
    }

    /// The word about TCP, if there is one.
    fn note(asked: Option<TransportArg>, probes: &[Probe]) -> Option<String> {
        let (choice, note) = decide(asked, &candidates(probes)).unwrap();
        assert_eq!(choice, Choice::Tcp);
        note
    }

    fn refusal(probes: &[Probe]) -> String {
        decide(Some(TransportArg::Rdma), &candidates(probes)).unwrap_err().to_string()
    }

    #[test]
    fn rdma_is_taken_when_all_have_it_on_one_fabric() {
        let probes = [probe(&[roce("a", "10.0.0.1")]), probe(&[roce("b", "10.0.0.2")])];
        assert_eq!(devices(&probes), ["a", "b"]);
        let rdma = decide(Some(TransportArg::Rdma), &candidates(&probes)).unwrap();
        assert_eq!(rdma, (Choice::Rdma(vec![roce("a", "10.0.0.1"), roce("b", "10.0.0.2")]), None));
        let auto = decide(Some(TransportArg::Auto), &candidates(&probes)).unwrap();
        assert_eq!(auto, rdma);
        assert_eq!(devices(&[probe(&[infiniband("a", 0)]), probe(&[infiniband("b", 0)])]), ["a", "b"]);
    }

    #[test]
    fn tcp_is_tcp_whatever_there_is() {
        let probes = [probe(&[roce("a", "10.0.0.1")]), probe(&[roce("b", "10.0.0.2")])];
        assert_eq!(note(Some(TransportArg::Tcp), &probes), None);
        let mut unseen = candidates(&probes);
        unseen.iter_mut().for_each(|rank| rank.probe = None);
        assert_eq!(decide(Some(TransportArg::Tcp), &unseen), Ok((Choice::Tcp, None)));
        let error = decide(Some(TransportArg::Rdma), &unseen).unwrap_err();
        assert!(error.to_string().contains("rank 0 on n0 has not looked"), "{error}");
    }

    #[test]
    fn a_rank_without_a_device_is_named_and_auto_falls_back() {
        let probes = [probe(&[roce("a", "10.0.0.1")]), Probe::default()];
        let said = note(None, &probes).unwrap();
        assert!(
            said.starts_with("the ranks are connected by TCP, not by RDMA: rank 1 on n1: it has no RDMA"),
            "{said}"
        );
        let refused = refusal(&probes);
        assert!(refused.starts_with("--transport rdma: rank 1 on n1: it has no RDMA device"), "{refused}");
        assert!(refused.ends_with("--transport tcp does without"), "{refused}");
        let turned = [Probe::default(), probe(&[roce("a", "10.0.0.2")])];
        assert!(note(None, &turned).unwrap().contains("rank 0 on n0: "), "any rank's device is worth a word");
    }

    #[test]
    fn nothing_is_said_where_nobody_has_a_device_unless_the_user_asked() {
        let probes = [Probe::default(), Probe::default()];
        assert_eq!(note(None, &probes), None);
        let without = Probe { reasons: vec!["this vincs has none".into()], ..Probe::default() };
        assert_eq!(note(None, &[without.clone(), without.clone()]), None);
        assert!(note(Some(TransportArg::Auto), &probes).unwrap().contains("rank 0 on n0"));
        assert!(refusal(&[without.clone(), without]).contains("rank 0 on n0: this vincs has none; --transport tcp"));
    }

    #[test]
    fn each_reason_why_a_device_cannot_be_used_is_told() {
        let down = Probe { devices: 2, offers: Vec::new(), reasons: vec!["b is down".into(), "c is old".into()] };
        let said = note(None, &[probe(&[roce("a", "10.0.0.1")]), down]).unwrap();
        assert!(said.ends_with("rank 1 on n1: b is down; c is old"), "{said}");
    }

    #[test]
    fn ranks_without_a_common_fabric_are_both_named() {
        let refused = refusal(&[
            probe(&[roce("a", "10.0.0.1")]),
            probe(&[roce("b", "10.0.0.2")]),
            probe(&[roce("c", "10.0.1.3"), infiniband("d", 0)]),
        ]);
        let words = "rank 2 on n2 has c on RoCE v2 network 10.0.1.0/24, d on InfiniBand subnet fe80::/64, \
                     rank 0 on n0 has a on RoCE v2 network 10.0.0.0/24: no fabric is common";
        assert!(refused.contains(words), "{refused}");
        assert!(note(None, &[probe(&[infiniband("a", 0)]), probe(&[infiniband("b", 1)])]).is_some());
        let in_pairs = refusal(&[
            probe(&[roce("a", "10.0.0.1"), roce("b", "10.0.1.1")]),
            probe(&[roce("c", "10.0.0.2")]),
            probe(&[roce("d", "10.0.1.3")]),
        ]);
        assert!(in_pairs.contains("no fabric of rank 0 on n0 (a on"), "{in_pairs}");
        let v1 = |offer: Offer| Offer { fabric: Fabric { link: Link::RoceV1, ..offer.fabric }, ..offer };
        assert!(note(None, &[probe(&[v1(roce("a", "10.0.0.1"))]), probe(&[roce("b", "10.0.0.2")])]).is_some());
    }

    #[test]
    fn the_fabric_of_the_addresses_goes_before_others_and_ethernet_before_infiniband() {
        let both = |ib: &str, far: &str, near: &str, rank: u32| {
            probe(&[infiniband(ib, 0), roce(far, &format!("10.0.1.{rank}")), roce(near, &format!("10.0.0.{rank}"))])
        };
        assert_eq!(devices(&[both("i", "f", "n", 1), both("j", "g", "o", 2)]), ["n", "o"]);
        // Rank 1's address is none of a device's: by kind then, and as rank 0 has them.
        let elsewhere = [both("i", "f", "n", 1), both("j", "g", "o", 3)];
        assert_eq!(devices(&elsewhere), ["f", "g"]);
        let last = [both("i", "f", "n", 1), probe(&[infiniband("j", 0)])];
        assert_eq!(devices(&last), ["i", "j"]);
        let two = probe(&[roce("x", "10.0.0.9"), roce("y", "10.0.0.2")]);
        assert_eq!(devices(&[probe(&[roce("a", "10.0.0.1")]), two]), ["a", "y"], "its own address");
    }

    #[test]
    fn iwarp_is_a_fabric_of_its_own_and_the_last_to_be_taken() {
        let iwarp = |offer: Offer| Offer { fabric: Fabric { link: Link::Iwarp, ..offer.fabric }, ..offer };
        let both = |roce_device: &str, iwarp_device: &str, address: &str| {
            probe(&[iwarp(roce(iwarp_device, address)), roce(roce_device, address)])
        };
        assert_eq!(devices(&[both("a", "i", "10.0.0.1"), both("b", "j", "10.0.0.2")]), ["a", "b"]);
        let only = probe(&[iwarp(roce("j", "10.0.0.2"))]);
        assert_eq!(devices(&[both("a", "i", "10.0.0.1"), only.clone()]), ["i", "j"]);
        let refused = refusal(&[probe(&[roce("a", "10.0.0.1")]), only]);
        assert!(refused.contains("j on iWARP network 10.0.0.0/24"), "{refused}");
    }

    #[test]
    fn ranks_of_one_host_that_listen_on_loopback_use_its_device() {
        let probes = [probe(&[roce("a", "10.0.2.15")]), probe(&[roce("a", "10.0.2.15")])];
        let mut ranks = candidates(&probes);
        ranks.iter_mut().for_each(|rank| rank.place = ip("127.0.0.1"));
        assert!(matches!(decide(None, &ranks), Ok((Choice::Rdma(offers), None)) if offers.len() == 2));
    }

    #[test]
    fn net_if_means_an_address_on_ethernet_and_leaves_infiniband_alone() {
        let probes = [probe(&[roce("a", "10.0.0.1")]), probe(&[roce("b", "10.0.0.2")])];
        let mut ranks = candidates(&probes);
        ranks[1].net_if = Some(ip("10.0.0.2"));
        assert!(matches!(decide(None, &ranks), Ok((Choice::Rdma(_), None))));
        ranks[1].net_if = Some(ip("10.9.0.2"));
        let (choice, note) = decide(None, &ranks).unwrap();
        assert_eq!(choice, Choice::Tcp);
        let note = note.unwrap();
        assert!(note.ends_with("rank 1 on n1: port 1 of b does not have the address of --net-if"), "{note}");
        let probes = [probe(&[infiniband("a", 0)]), probe(&[infiniband("b", 0)])];
        let mut ranks = candidates(&probes);
        ranks[1].net_if = Some(ip("10.9.0.2"));
        assert!(matches!(decide(None, &ranks), Ok((Choice::Rdma(_), None))));
    }

    #[test]
    fn a_fabric_is_the_first_bits_of_an_address() {
        let gid = [0xff; 16];
        assert_eq!(Fabric::of(Link::InfiniBand, gid, 0).network, [0; 16]);
        assert_eq!(Fabric::of(Link::InfiniBand, gid, 128).network, gid);
        assert_eq!(Fabric::of(Link::InfiniBand, gid, 255).network, gid);
        let odd = Fabric::of(Link::RoceV1, gid, 9);
        assert_eq!((odd.network[0], odd.network[1], odd.network[2]), (0xff, 0x80, 0));
        assert_eq!(odd.to_string(), "RoCE v1 network ff80::/9");
    }

    #[test]
    fn what_a_rank_says_survives_its_way() {
        let said = Probe {
            devices: 2,
            offers: vec![roce("mlx5_0", "10.0.0.1"), infiniband("ib0", 3)],
            reasons: vec!["port 2 of mlx5_0 is not active".into()],
        };
        let bytes = postcard::to_allocvec(&said).unwrap();
        assert_eq!(postcard::take_from_bytes::<Probe>(&bytes).unwrap(), (said.clone(), &[][..]));
        for cut in 0..bytes.len() {
            assert!(postcard::from_bytes::<Probe>(&bytes[..cut]).is_err(), "{cut}");
        }
        for choice in [Choice::Tcp, Choice::Rdma(said.offers)] {
            let bytes = postcard::to_allocvec(&choice).unwrap();
            assert_eq!(postcard::from_bytes::<Choice>(&bytes).unwrap(), choice);
        }
    }
}
