//! What the parts of a machine take. The sources are in docs/cost-model.md.

use vincs_coherence::sim::timing::Costs;

/// A machine's parts. Times are in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// Which machine.
    pub name: &'static str,
    /// A fault that a thread of the same host answers at once.
    pub fault: u64,
    /// A service thread with one fault or message: the protocol, and the view of the page.
    pub service: u64,
    /// A short message one way, without switches.
    pub message: u64,
    /// What a page of 4 KiB adds to it.
    pub page: u64,
    /// Hashing a page and copying it: what showing it in a window takes, and what reading it there takes beyond the NIC's work.
    pub hash_and_copy: u64,
    /// A switch.
    pub switch: u64,
    /// Packets of a NIC per second.
    pub message_rate: u64,
    /// Bytes of a link per second.
    pub bandwidth: u64,
    /// Ranks whose threads run at the same time, beside the one that waits for them; all if each rank has a host.
    pub at_once: u64,
}

/// Ports of a switch.
const SWITCH_PORTS: u64 = 64;

/// ConnectX-7 on NDR InfiniBand.
pub const NDR: Inputs = Inputs {
    name: "InfiniBand NDR",
    fault: 6_900,
    service: 3_100,
    message: 830,
    page: 1_430,
    hash_and_copy: 800,
    switch: 330,
    message_rate: 330_000_000,
    bandwidth: 50_000_000_000,
    at_once: u64::MAX,
};

/// Loopback TCP between processes of a machine with two processors, on which docs/performance.md has measured.
pub const LOOPBACK: Inputs = Inputs {
    name: "TCP over loopback, 2 processors",
    fault: 6_900,
    service: 3_100,
    message: 5_800,
    page: 2_700,
    hash_and_copy: 800,
    switch: 0,
    message_rate: u64::MAX,
    bandwidth: 906_000_000,
    at_once: 1,
};

/// Switches between two ranks of the most distant ones, in a fat tree without oversubscription: each further level multiplies the ranks by half of a
/// switch's ports.
#[must_use]
pub fn switches(ranks: u64) -> u64 {
    let (mut reached, mut count) = (SWITCH_PORTS, 1);
    while reached < ranks {
        reached = reached.saturating_mul(SWITCH_PORTS / 2);
        count += 2;
    }
    count
}

impl Inputs {
    /// What things take between ranks of a machine of so many, in nanoseconds.
    #[must_use]
    pub fn costs(&self, ranks: u64) -> Costs {
        let message = self.message + self.switch * switches(ranks);
        Costs { fault: self.fault, service: self.service, message, page: self.page }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_of_switches_more_where_the_ports_are_used_up() {
        for (ranks, count) in [(1, 1), (64, 1), (65, 3), (2048, 3), (2049, 5), (65_536, 5), (u64::MAX, 25)] {
            assert_eq!(switches(ranks), count, "{ranks}");
        }
        assert_eq!(NDR.costs(64).message, 1_160);
        assert_eq!(NDR.costs(65).message, 1_820);
        assert_eq!(LOOPBACK.costs(8).message, LOOPBACK.message);
    }
}
