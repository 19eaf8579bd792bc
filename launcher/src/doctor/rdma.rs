//! RDMA devices: each by itself, usable or why not.

use std::collections::BTreeMap;

use vincs_transport_rdma::choose::{Gid, GidType};
use vincs_transport_rdma::devices::{Found, Needs, Survey, most_ranks, survey};

use crate::cluster::settings::window_bytes;
use crate::doctor::Finding;
use crate::input::machine_size::DEFAULT_MEMORY;
use crate::input::size::Bytes;
use crate::wireup::mesh::CONTROL_CLASSES;

/// What is tried: a machine of two ranks, with one shard of memory beside its control messages. Each more rank and class takes as much again.
const RANKS: u16 = 2;
const SHARDS: u16 = 1;

/// The same with the windows of a machine that nobody has said the memory of.
fn smallest() -> Needs {
    let segment_bytes = window_bytes(DEFAULT_MEMORY, RANKS.into(), SHARDS.into());
    Needs { ranks: RANKS, classes: CONTROL_CLASSES + usize::from(SHARDS), segment_bytes }
}

/// RDMA devices, one finding for each port.
pub(super) fn devices() -> Vec<Finding> {
    match survey() {
        Ok(survey) => findings(&survey, |found| smallest().try_registration(found).map_err(|error| error.to_string())),
        Err(error) => vec![Finding::warn(error, "machines of several hosts use TCP")],
    }
}

fn findings(survey: &Survey, try_registration: impl Fn(&Found) -> Result<(), String>) -> Vec<Finding> {
    if survey.devices == 0 {
        return vec![Finding::warn(
            "no devices",
            "machines of several hosts use TCP; for RDMA load the adapter's driver, or rdma_rxe or siw, and ib_uverbs",
        )];
    }
    let mut ports: BTreeMap<(&str, u8), Vec<&Found>> = BTreeMap::new();
    for found in &survey.usable {
        ports.entry((&found.port.device, found.port.number)).or_default().push(found);
    }
    let usable = ports.into_values().filter_map(|found| Some(port(&found, try_registration(found.first()?))));
    let unusable = survey.reasons.iter().map(|reason| Finding::warn(reason, "machines of several ranks do not use it"));
    usable.chain(unusable).collect()
}

/// A port by each of its addresses.
fn port(addresses: &[&Found], registered: Result<(), String>) -> Finding {
    let Some(Found { port, limits, .. }) = addresses.first() else { return Finding::ok("no address") };
    let addresses: Vec<String> = addresses.iter().map(|found| address(&found.gid)).collect();
    // Others without atomics are not usable.
    let atomics = if limits.atomics { "it has atomics" } else { "ranks do atomics for each other" };
    let named = format!("port {} of {} is active: {}; {atomics}", port.number, port.device, addresses.join(", "));
    let needs = smallest();
    let Needs { classes, segment_bytes, .. } = needs;
    let ranks = most_ranks(limits, classes);
    if ranks < RANKS {
        return Finding::warn(
            format_args!("{named}, but its queues have no room for {RANKS} ranks"),
            "machines of several ranks do not use it",
        );
    }
    let bytes = |bytes: usize| Bytes(u64::try_from(bytes).unwrap_or(u64::MAX));
    let (each, windows) = (bytes((needs.bytes() - segment_bytes) / classes), bytes(segment_bytes));
    let room = format!("{named} and queues for up to {ranks} ranks");
    match registered {
        Ok(()) => Finding::ok(format_args!(
            "{room}; locks {each} of memory for each other rank and channel class (one, and one for each shard), and {windows} \
             for windows of a machine of {RANKS} ranks with {}",
            Bytes(DEFAULT_MEMORY)
        )),
        Err(error) => {
            Finding::warn(format_args!("{room}, but: {error}"), "machines of several ranks use TCP until then")
        }
    }
}

fn address(gid: &Gid) -> String {
    match gid.kind {
        GidType::RoceV2 => format!("RoCE v2 at {}", gid.address()),
        GidType::RoceV1 => format!("RoCE v1 at {}", gid.address()),
        GidType::Iwarp => format!("iWARP at {}", gid.address()),
        GidType::InfiniBand => format!("InfiniBand, GID {}", std::net::Ipv6Addr::from(gid.raw)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_host_without_devices_is_told_in_a_plain_sentence() {
        let found = findings(&Survey::default(), |_| Ok(()));
        assert_eq!((found.len(), found[0].level), (1, Level::Warn));
        assert!(found[0].text.starts_with("no devices — machines of several hosts use TCP"), "{}", found[0].text);
    }

    #[test]
    fn a_device_that_cannot_be_used_has_a_line_of_its_own() {
        let reasons = ["port 1 of a is not active", "b has no atomic operations"].map(str::to_owned).to_vec();
        let found = findings(&Survey { devices: 2, usable: Vec::new(), reasons }, |_| Ok(()));
        assert!(found.iter().all(|finding| finding.level == Level::Warn));
        assert!(found[0].text.starts_with("port 1 of a is not active — "), "{}", found[0].text);
        assert_eq!(found.len(), 2);
    }

    /// On this host, whatever it has.
    #[test]
    fn nothing_about_rdma_is_a_failure() {
        assert!(devices().iter().all(|finding| finding.level != Level::Fail));
    }
}
