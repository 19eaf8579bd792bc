//! This host's network addresses, and which of them the user means.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// An address of one of this host's interfaces.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct InterfaceAddress {
    /// The interface's name.
    pub(crate) interface: String,
    pub(crate) address: IpAddr,
    /// How many of the address's first bits its network has.
    pub(crate) prefix: u8,
}

/// Why `--net-if` names nothing.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum NetIfError {
    #[error("--net-if {asked}: no interface, address or network of this host; it has {known}")]
    Unknown { asked: String, known: String },
    #[error("--net-if {0}: this host's interfaces cannot be listed: {1}")]
    Interfaces(String, io::ErrorKind),
}

/// The address that the user means by an interface's name, an address, or a network as in `10.1.0.0/16`. Of several, IPv4 comes first.
///
/// # Errors
/// [`NetIfError`] when this host has no such.
pub(crate) fn choose(asked: &str, all: &[InterfaceAddress]) -> Result<IpAddr, NetIfError> {
    let fits = |known: &&InterfaceAddress| {
        known.interface == asked
            || asked.parse().is_ok_and(|address: IpAddr| address == known.address)
            || network(asked).is_some_and(|network| network.contains(known.address))
    };
    let mut fitting: Vec<IpAddr> = all.iter().filter(fits).map(|known| known.address).collect();
    fitting.sort_by_key(|address| (is_link_local(*address), address.is_ipv6()));
    fitting.first().copied().ok_or_else(|| NetIfError::Unknown { asked: asked.to_owned(), known: list(all) })
}

/// The address that `--net-if` means on this host.
///
/// # Errors
/// [`NetIfError`] when there is none.
pub(crate) fn chosen(asked: &str) -> Result<IpAddr, NetIfError> {
    let all = addresses().map_err(|error| NetIfError::Interfaces(asked.to_owned(), error.kind()))?;
    choose(asked, &all)
}

/// Addresses at which other hosts may reach this one: no loopback ones, none that need to be told the interface.
pub(crate) fn outward(all: &[InterfaceAddress]) -> Vec<IpAddr> {
    let mut outward: Vec<IpAddr> = all
        .iter()
        .map(|known| known.address)
        .filter(|address| !address.is_loopback() && !is_link_local(*address))
        .collect();
    outward.sort_by_key(IpAddr::is_ipv6);
    outward
}

fn list(all: &[InterfaceAddress]) -> String {
    let words: Vec<String> = all.iter().map(|known| format!("{} {}", known.interface, known.address)).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// A network: its address as bits, how many of them count, and of how many there are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Network {
    address: u128,
    prefix: u32,
    bits: u32,
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        let (address, bits) = as_bits(address);
        let differing = 128 - (address ^ self.address).leading_zeros();
        bits == self.bits && differing <= self.bits - self.prefix
    }
}

fn as_bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), Ipv4Addr::BITS),
        IpAddr::V6(address) => (address.to_bits(), Ipv6Addr::BITS),
    }
}

fn network(text: &str) -> Option<Network> {
    let (address, prefix) = text.split_once('/')?;
    let (address, bits) = as_bits(address.parse().ok()?);
    let prefix: u32 = prefix.parse().ok().filter(|prefix| *prefix <= bits)?;
    Some(Network { address, prefix, bits })
}

/// Bytes of the answer taken at once: the kernel fills at most 32 KiB of a dump (netlink(7)).
const ANSWER: usize = 32 * 1024;

/// Most messages of the answer that are looked at, so that a kernel that never says done is no endless loop.
const MAX_MESSAGES: usize = 65_536;

/// netlink(7), rtnetlink(7): `struct nlmsghdr`, `struct ifaddrmsg`, and numbers of linux/netlink.h, rtnetlink.h, if_addr.h.
const HEADER: usize = 16;
const IFADDRMSG: usize = 8;
const ATTRIBUTE_HEADER: usize = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// All addresses of this host's interfaces, in the kernel's order.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn addresses() -> io::Result<Vec<InterfaceAddress>> {
    // Protocol 0 is NETLINK_ROUTE.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let mut request = vec![0; HEADER + IFADDRMSG];
    let length = u32::try_from(request.len()).unwrap_or_default();
    put(&mut request, 0, &length.to_ne_bytes());
    put(&mut request, 4, &RTM_GETADDR.to_ne_bytes());
    put(&mut request, 6, &(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut found = Vec::new();
    let mut answer = vec![0; ANSWER];
    for _ in 0..MAX_MESSAGES {
        let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
        if read_answer(answer.get(..length).unwrap_or_default(), &mut found)? {
            break;
        }
    }
    let named = found.into_iter().filter_map(|Found { index, address, prefix }| {
        let interface = rustix::net::netdevice::index_to_name_inlined(&socket, index).ok()?;
        Some(InterfaceAddress { interface: interface.as_str().to_owned(), address, prefix })
    });
    Ok(named.collect())
}

/// An address in the kernel's answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Found {
    /// Its interface's number.
    index: u32,
    address: IpAddr,
    prefix: u8,
}

/// Takes the addresses out of the kernel's answer; says whether it was the last.
fn read_answer(mut answer: &[u8], found: &mut Vec<Found>) -> io::Result<bool> {
    while let Some(length) = u32_at(answer, 0).and_then(|length| usize::try_from(length).ok()) {
        let Some(message) = answer.get(..length).filter(|message| message.len() >= HEADER) else { break };
        match u16_at(message, 4) {
            Some(NLMSG_DONE) => return Ok(true),
            Some(NLMSG_ERROR) => {
                let code = u32_at(message, HEADER).unwrap_or_default().cast_signed().saturating_neg();
                return Err(io::Error::from_raw_os_error(code));
            }
            Some(RTM_NEWADDR) => found.extend(address_of(message)),
            _ => {}
        }
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The address of an `RTM_NEWADDR` message. Of a point-to-point link, `IFA_LOCAL` is this host's.
fn address_of(message: &[u8]) -> Option<Found> {
    let prefix = *message.get(HEADER + 1)?;
    let index = u32_at(message, HEADER + 4)?;
    let mut attributes = message.get(HEADER + IFADDRMSG..)?;
    let (mut address, mut local) = (None, None);
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        let Some(value) = attributes.get(ATTRIBUTE_HEADER..length) else { break };
        match kind {
            IFA_ADDRESS => address = ip(value),
            IFA_LOCAL => local = ip(value),
            _ => {}
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Found { index, address: local.or(address)?, prefix })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(bytes.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(interface: &str, address: &str) -> InterfaceAddress {
        InterfaceAddress { interface: interface.to_owned(), address: address.parse().unwrap(), prefix: 8 }
    }

    fn host() -> Vec<InterfaceAddress> {
        vec![
            known("lo", "127.0.0.1"),
            known("lo", "::1"),
            known("ib0", "fe80::1"),
            known("ib0", "fd00::5"),
            known("ib0", "10.1.2.3"),
            known("eth0", "192.168.7.9"),
        ]
    }

    #[test]
    fn an_interface_an_address_or_a_network_is_meant() {
        let chosen = |asked| choose(asked, &host()).map(|address| address.to_string());
        assert_eq!(chosen("ib0").unwrap(), "10.1.2.3");
        assert_eq!(chosen("lo").unwrap(), "127.0.0.1");
        assert_eq!(chosen("fd00::5").unwrap(), "fd00::5");
        assert_eq!(chosen("192.168.0.0/16").unwrap(), "192.168.7.9");
        assert_eq!(chosen("fd00::/8").unwrap(), "fd00::5");
        assert_eq!(chosen("0.0.0.0/0").unwrap(), "127.0.0.1");
        assert_eq!(chosen("10.1.2.3/32").unwrap(), "10.1.2.3");
    }

    #[test]
    fn what_the_host_does_not_have_is_named_beside_what_it_has() {
        for asked in ["eth1", "10.1.2.4", "10.1.2.2/32", "192.168.7.9/33", "x/8", ""] {
            let message = choose(asked, &host()).unwrap_err().to_string();
            assert!(message.contains(&format!("--net-if {asked}:")) && message.contains("ib0 10.1.2.3"), "{message}");
        }
        assert!(choose("x", &[]).unwrap_err().to_string().ends_with("it has none"));
    }

    #[test]
    fn other_hosts_are_told_no_loopback_and_no_link_local_address() {
        let outward: Vec<String> = outward(&host()).iter().map(ToString::to_string).collect();
        assert_eq!(outward, ["10.1.2.3", "192.168.7.9", "fd00::5"]);
    }

    #[test]
    fn this_host_has_a_loopback_interface() {
        assert!(addresses().unwrap().contains(&known("lo", "127.0.0.1")));
    }

    #[test]
    fn an_answer_that_is_cut_gives_nothing_and_does_not_panic() {
        let mut message = vec![0; HEADER + IFADDRMSG];
        message[HEADER + 1] = 24;
        message.extend([8, 0, 2, 0, 10, 0, 0, 1]);
        let length = u32::try_from(message.len()).unwrap();
        put(&mut message, 0, &length.to_ne_bytes());
        put(&mut message, 4, &RTM_NEWADDR.to_ne_bytes());
        let read = |bytes: &[u8]| {
            let mut found = Vec::new();
            read_answer(bytes, &mut found).map(|_| found)
        };
        let expected = Found { index: 0, address: "10.0.0.1".parse().unwrap(), prefix: 24 };
        assert_eq!(read(&message).unwrap(), [expected]);
        for cut in 0..message.len() {
            assert!(read(&message[..cut]).unwrap().is_empty(), "{cut}");
        }
        message[0] = 0;
        assert!(read(&message).unwrap().is_empty(), "a length of nothing ends the answer");
    }
}
