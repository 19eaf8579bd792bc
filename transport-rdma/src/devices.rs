//! The devices of this host: which can be used, by which addresses, and whether they have room for a machine.

use std::net::IpAddr;
use std::sync::Arc;

use vincs_coherence::id::MAX_RANKS;

use crate::choose::{Gid, Port, choose, usable_gids};
use crate::peer::{COMPLETIONS, DEPTHS, PAGE_BYTES, REGISTERED_BYTES};
use crate::verbs::VerbsError;
use crate::verbs::device::{self, Context, Limits, ProtectionDomain};
use crate::verbs::manager::places;
use crate::verbs::memory::{Access, Buffer};

/// A device that can be used, and by which of its addresses.
#[derive(Clone, Debug)]
pub struct Found {
    /// The device.
    pub context: Arc<Context>,
    /// What it can hold and do.
    pub limits: Limits,
    /// Its port.
    pub port: Port,
    /// The address of the port.
    pub gid: Gid,
}

/// What the devices of this host are good for.
#[derive(Debug, Default)]
pub struct Survey {
    /// How many there are.
    pub devices: usize,
    /// Each address of each port that can be used.
    pub usable: Vec<Found>,
    /// For each device or port that cannot be used why not.
    pub reasons: Vec<String>,
}

/// Devices that are open and lack nothing, with their ports.
type Opened = Vec<(Arc<Context>, Limits, Vec<Port>)>;

/// Opens what can be used as far as devices go, and says of the others why not.
fn open(devices: Vec<device::Device>) -> (Opened, Vec<String>) {
    let (mut opened, mut reasons) = (Vec::new(), Vec::new());
    for device in devices {
        let look = || {
            let context = device.open()?;
            let limits = context.limits()?;
            let ports = (1..=limits.ports).map(|port| context.port(port)).collect::<Result<Vec<_>, _>>()?;
            Ok::<_, VerbsError>((context, limits, ports))
        };
        match look() {
            Ok((context, limits, ports)) => match limits.lacks(context.is_iwarp()) {
                Some(lack) => reasons.push(format!("{} {lack}", context.name())),
                None => opened.push((context, limits, ports)),
            },
            Err(error) => reasons.push(error.to_string()),
        }
    }
    (opened, reasons)
}

/// Gives the ports of an iWARP device their IP addresses: the tables of such have none.
fn put(context: &Context, ports: &mut [Port], places: &[(IpAddr, String, u8)]) {
    for port in ports.iter_mut().filter(|_| context.is_iwarp()) {
        let here = places.iter().filter(|(_, device, number)| *device == port.device && *number == port.number);
        port.gids = here.map(|(address, ..)| Gid::iwarp(*address)).collect();
    }
}

/// Looks at all devices of this host. A kernel without verbs has none.
///
/// # Errors
/// The devices cannot be listed.
pub fn survey() -> Result<Survey, VerbsError> {
    let devices = device::list()?;
    let count = devices.len();
    let (mut opened, mut reasons) = open(devices);
    if opened.iter().any(|(context, ..)| context.is_iwarp()) {
        match places() {
            Ok(places) => opened.iter_mut().for_each(|(context, _, ports)| put(context, ports, &places)),
            Err(error) => {
                opened.retain(|(context, ..)| !context.is_iwarp());
                reasons.push(error.to_string());
            }
        }
    }
    let mut usable = Vec::new();
    for (context, limits, ports) in opened {
        for port in ports {
            match usable_gids(&port) {
                Ok(gids) => usable.extend(gids.into_iter().map(|gid| {
                    let (context, port) = (Arc::clone(&context), port.clone());
                    Found { context, limits, port, gid }
                })),
                Err(reason) => reasons.push(reason),
            }
        }
    }
    Ok(Survey { devices: count, usable, reasons })
}

/// The device for a rank that others know by an address, as [`choose`] has it.
///
/// # Errors
/// For each device of this host why it cannot be used; nothing if there is none.
pub fn find_device(address: IpAddr) -> Result<Found, Vec<String>> {
    let Survey { mut usable, reasons, .. } = survey().map_err(|error| vec![error.to_string()])?;
    match choose(usable.iter().map(|found| (&found.port, &found.gid)), address) {
        Ok(index) => Ok(usable.swap_remove(index)),
        Err(more) => Err([reasons, more].concat()),
    }
}

/// A device that cannot hold what so many ranks need.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{device} has {available} {what}, {needed} are needed for {ranks} ranks")]
pub struct TooSmall {
    /// Which.
    pub device: String,
    /// Of what it has too little.
    pub what: &'static str,
    /// How much it has.
    pub available: u32,
    /// How much is needed.
    pub needed: u32,
    /// For how many ranks.
    pub ranks: u16,
}

/// What a rank needs of its device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Needs {
    /// For so many ranks, this one included.
    pub ranks: u16,
    /// With so many channel classes.
    pub classes: usize,
    /// Bytes of the segments that it gives to be reached by others, all classes together.
    pub segment_bytes: usize,
}

impl Needs {
    /// Bytes that it registers, which are locked in memory; on iWARP a page of each class comes to them.
    #[must_use]
    pub fn bytes(self) -> usize {
        REGISTERED_BYTES.saturating_mul(self.peers()).saturating_add(self.segment_bytes.next_multiple_of(PAGE_BYTES))
    }

    /// Other ranks, once for each class.
    fn peers(self) -> usize {
        usize::from(self.ranks.saturating_sub(1)).saturating_mul(self.classes)
    }

    /// Of what it takes how much, and how much there is.
    fn shortage(self, limits: &Limits) -> Option<(&'static str, u32, u32)> {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        [
            ("queue pairs", limits.queue_pairs, number(self.peers())),
            ("completion queues", limits.completion_queues, number(self.classes)),
            ("entries of a completion queue", limits.completions, u32::from(self.ranks) * COMPLETIONS),
            ("work requests of a queue", limits.work_requests, DEPTHS.send.max(DEPTHS.receive)),
        ]
        .into_iter()
        .find(|(_, available, needed)| available < needed)
    }

    /// Whether the device has queues for all of it.
    ///
    /// # Errors
    /// [`TooSmall`].
    pub fn check(self, found: &Found) -> Result<(), TooSmall> {
        let too_small = |(what, available, needed)| {
            let device = found.port.device.clone();
            TooSmall { device, what, available, needed, ranks: self.ranks }
        };
        self.shortage(&found.limits).map_or(Ok(()), |shortage| Err(too_small(shortage)))
    }

    /// Whether as much memory can be registered with the device now: registers it, and lets it go again.
    ///
    /// # Errors
    /// [`VerbsError`]; where there is a limit on locked memory, it says how much is needed.
    pub fn try_registration(self, found: &Found) -> Result<(), VerbsError> {
        let domain = ProtectionDomain::new(&found.context)?;
        // From that page peers read signs of life.
        let more = if found.context.is_iwarp() { self.classes } else { 0 };
        let pages = self.bytes().div_ceil(PAGE_BYTES).max(1).saturating_add(more);
        Buffer::new(&domain, Access::Own, PAGE_BYTES, pages).map(drop)
    }
}

/// For how many ranks with so many channel classes a device has queues; 0 when not even for two.
#[must_use]
pub fn most_ranks(limits: &Limits, classes: usize) -> u16 {
    let fits = |ranks: &u16| Needs { ranks: *ranks, classes, segment_bytes: 0 }.shortage(limits).is_none();
    (2..=MAX_RANKS).take_while(fits).last().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            queue_pairs: u32::MAX,
            completion_queues: u32::MAX,
            work_requests: u32::MAX,
            completions: u32::MAX,
            reads_served: 1,
            reads_asked: 1,
            atomics: true,
            ports: 1,
        }
    }

    #[test]
    fn memory_is_for_each_other_rank_and_class() {
        let bytes = |ranks, classes, segment_bytes| Needs { ranks, classes, segment_bytes }.bytes();
        assert_eq!(bytes(2, 1, 0), REGISTERED_BYTES);
        assert_eq!(bytes(9, 3, 0), 24 * REGISTERED_BYTES);
        assert_eq!((bytes(1, 3, 0), bytes(0, 3, 0)), (0, 0));
        assert_eq!(bytes(2, 1, 4096), REGISTERED_BYTES + 4096);
        assert_eq!((bytes(1, 1, 1), bytes(1, 1, 4097)), (4096, 8192), "whole pages are locked");
    }

    #[test]
    fn each_queue_has_room_up_to_its_edge() {
        let (ranks, classes) = (9, 3);
        let needs = Needs { ranks, classes, segment_bytes: 0 };
        let entries = u32::from(ranks) * COMPLETIONS;
        let least = Limits {
            queue_pairs: 24,
            completion_queues: 3,
            work_requests: DEPTHS.send,
            completions: entries,
            ..limits()
        };
        assert_eq!(needs.shortage(&least), None);
        for (small, shortage) in [
            (Limits { queue_pairs: 23, ..least }, ("queue pairs", 23, 24)),
            (Limits { completion_queues: 2, ..least }, ("completion queues", 2, 3)),
            (Limits { completions: entries - 1, ..least }, ("entries of a completion queue", entries - 1, entries)),
            (
                Limits { work_requests: DEPTHS.send - 1, ..least },
                ("work requests of a queue", DEPTHS.send - 1, DEPTHS.send),
            ),
        ] {
            assert_eq!(needs.shortage(&small), Some(shortage));
        }
        assert_eq!(most_ranks(&least, classes), ranks);
        assert_eq!(most_ranks(&limits(), classes), MAX_RANKS);
        assert_eq!(most_ranks(&Limits { completion_queues: 2, ..least }, classes), 0);
        let Some((what, available, needed)) = needs.shortage(&Limits { queue_pairs: 23, ..least }) else {
            unreachable!()
        };
        let text = TooSmall { device: "a".into(), what, available, needed, ranks }.to_string();
        assert_eq!(text, "a has 23 queue pairs, 24 are needed for 9 ranks");
    }

    /// On this machine, whether its kernel has verbs or not.
    #[test]
    fn any_host_can_be_surveyed() {
        let survey = survey().unwrap();
        assert!(survey.devices > 0 || survey.usable.is_empty() && survey.reasons.is_empty());
    }
}
