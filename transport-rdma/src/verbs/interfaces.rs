//! Addresses as the C library has them: those of this host's network interfaces, and those that go to the connection manager.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ptr;

use super::VerbsError;

/// The list that getifaddrs(3) makes.
#[derive(Debug)]
struct List(*mut libc::ifaddrs);

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the list of getifaddrs, freed here only.
        unsafe { libc::freeifaddrs(self.0) }
    }
}

/// The addresses of this host's network interfaces by which others can know it: no loopback and link-local ones.
///
/// # Errors
/// The kernel does not tell.
pub(super) fn interface_addresses() -> Result<Vec<IpAddr>, VerbsError> {
    let mut first = ptr::null_mut();
    // SAFETY: the argument is where the list goes.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(VerbsError::last("getifaddrs", "this host"));
    }
    let list = List(first);
    let (mut next, mut found) = (list.0, Vec::new());
    while !next.is_null() {
        // SAFETY: an entry of the list, which is there until it is dropped.
        let entry = unsafe { next.read() };
        found.extend(address_of(entry.ifa_addr).filter(is_routable));
        next = entry.ifa_next;
    }
    Ok(found)
}

/// The IP address of an entry; nothing if it has none, or one of another family.
fn address_of(raw: *const libc::sockaddr) -> Option<IpAddr> {
    if raw.is_null() {
        return None;
    }
    // SAFETY: an address of the list, which begins with its family.
    match i32::from(unsafe { raw.read() }.sa_family) {
        libc::AF_INET => {
            // SAFETY: an address of this family is of this kind; the list need not align it.
            let address = unsafe { raw.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { raw.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// Whether others may know an address.
fn is_routable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local() && !address.is_unspecified(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local() && !address.is_unspecified(),
    }
}

/// A number of the C library's that is a family.
fn family(number: i32) -> libc::sa_family_t {
    libc::sa_family_t::try_from(number).unwrap_or_default()
}

/// Does something with an address as the C library has it.
pub(super) fn with_raw<T>(address: SocketAddr, act: impl FnOnce(*mut libc::sockaddr) -> T) -> T {
    match address {
        SocketAddr::V4(address) => {
            let mut raw = libc::sockaddr_in {
                sin_family: family(libc::AF_INET),
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            act((&raw mut raw).cast())
        }
        SocketAddr::V6(address) => {
            let mut raw = libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: address.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: 0,
            };
            act((&raw mut raw).cast())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_their_way_to_the_c_library() {
        for text in ["10.0.2.15:4711", "[fd00::1:2]:80"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(with_raw(address, |raw| address_of(raw)), Some(address.ip()));
        }
        assert_eq!(address_of(ptr::null()), None);
    }

    #[test]
    fn only_addresses_that_others_can_know_are_listed() {
        assert!(interface_addresses().unwrap().iter().all(is_routable));
        for text in ["127.0.0.1", "169.254.1.1", "0.0.0.0", "::1", "fe80::1", "::"] {
            assert!(!is_routable(&text.parse().unwrap()), "{text}");
        }
    }
}
