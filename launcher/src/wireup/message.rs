//! What ranks and rank 0 say to each other, from their first word to the end of the machine.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use vincs_vmm::cluster::Features;

use crate::wireup::selection::{Choice, Probe};

/// Version of everything here but the [`Introduction`].
pub(crate) const VERSION: u32 = 5;

/// The rank, and the number of ranks, of one that joins a machine that runs: it knows neither.
pub(crate) const JOINS: u32 = u32::MAX;

/// The rank, and the number of ranks, of one that only orders the machine about: lines of `vincs ctl` follow on its connection, which have a
/// version of their own.
pub(crate) const CONTROLS: u32 = u32::MAX - 1;

/// A rank's first word. Its form never changes, so that every version can tell who came.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Introduction {
    /// [`VERSION`] of what follows.
    pub(crate) version: u32,
    pub(crate) rank: u32,
    /// How many ranks it thinks there are.
    pub(crate) ranks: u32,
    /// Its host's name.
    pub(crate) host: String,
    /// The version of its vincs.
    pub(crate) vincs: String,
}

impl Introduction {
    /// Whether it wants to join a machine that runs.
    pub(crate) fn joins(&self) -> bool {
        self.ranks == JOINS
    }

    /// Whether it wants to order the machine about.
    pub(crate) fn controls(&self) -> bool {
        self.ranks == CONTROLS
    }
}

/// What a rank is, as far as the machine depends on it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Hello {
    /// The protocols between ranks, with their versions.
    pub(crate) protocols: Vec<(String, u32)>,
    /// The command line.
    pub(crate) arguments: Vec<Argument>,
    /// What tells one boot of one host from all others.
    pub(crate) boot_id: String,
    /// What its host gives a virtual processor; nothing when it cannot.
    pub(crate) features: Option<Features>,
    /// The host's memory in bytes.
    pub(crate) memory: u64,
    /// Processors of the host that the rank may run on.
    pub(crate) processors: u32,
    /// How many of them others keep busy, in hundredths; 0 if that is not known.
    pub(crate) busy: u32,
    /// The address that `--net-if` means there.
    pub(crate) net_if: Option<IpAddr>,
    /// What it can do by RDMA; nothing if it has not looked.
    pub(crate) rdma: Option<Probe>,
    /// Why it cannot take part, if it cannot.
    pub(crate) problem: Option<String>,
}

/// One argument of the command line. All ranks have the same, but for those that are a rank's own.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Argument {
    /// As the user gives it: `--mem`, `CMD`.
    pub(crate) name: String,
    /// Its value, cut to what a message has room for.
    pub(crate) value: String,
    /// Digest of the whole value.
    pub(crate) digest: u64,
}

/// What the machine is, decided by rank 0.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Settings {
    /// Virtual processors.
    pub(crate) vcpus: u32,
    /// Bytes of guest memory.
    pub(crate) memory: u64,
    /// Bytes of relaxed memory, apart from that; 0 for none.
    pub(crate) relaxed: u64,
    /// Whether races on that are looked for.
    pub(crate) races: bool,
    /// Bytes of other ranks' memory that a rank keeps.
    pub(crate) cache: u64,
    /// Least time in microseconds that a rank keeps a page it was given; nothing to measure it at the start.
    pub(crate) hold_us: Option<u32>,
    /// Most pages of read-ahead.
    pub(crate) read_ahead: u16,
    /// Shards of the memory, each with a thread.
    pub(crate) shards: u32,
    /// Whether the instructions that run into faults are noted, for the statistics.
    pub(crate) sampled: bool,
    /// What connects the ranks.
    pub(crate) transport: Choice,
    /// Slots of the window that each shard of each rank has for pages that are read without its processor; 0 for no windows.
    pub(crate) window_slots: u32,
}

/// The machine's ranks.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Roster {
    /// Where each listens, by rank.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Each one's host, by rank.
    pub(crate) hosts: Vec<String>,
    /// The boot of each one's host, by rank: equal ones share a time stamp counter.
    pub(crate) boots: Vec<String>,
    /// Processors that each may use, by rank.
    pub(crate) processors: Vec<u32>,
    /// Memory of each one's host in bytes, by rank.
    pub(crate) memory: Vec<u64>,
    /// How many processors of each one's host others keep busy, in hundredths, by rank.
    pub(crate) busy: Vec<u32>,
    pub(crate) settings: Settings,
}

/// The place of a rank that joins.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Seat {
    /// Its number, higher than all others that are there.
    pub(crate) rank: u32,
    /// How many ranks have started the machine, rank 0 on.
    pub(crate) started: u32,
    /// All that are there, and where they listen.
    pub(crate) peers: Vec<(u16, SocketAddr)>,
    /// The hosts of all that are or were there, and its own.
    pub(crate) hosts: Vec<(u16, String)>,
    /// How many ranks are on its host, itself among them.
    pub(crate) ranks_here: u32,
    pub(crate) settings: Settings,
}

/// From rank 0.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum ToMember {
    /// There will be no machine with this rank.
    Refused {
        /// Why, in one line.
        line: String,
        /// Rank 0 has said so to the user.
        said: bool,
    },
    /// Listen for the other ranks there.
    Listen(IpAddr),
    /// Connect to all others.
    Roster(Box<Roster>),
    /// All are connected: the machine starts.
    Go,
    /// The machine has ended.
    Bye {
        /// The exit status of all ranks.
        status: u8,
    },
    /// Rank 0 is alive but not done: what the rank waits for comes later.
    Wait,
    /// Join with this seat: connect to all who are there.
    Seat(Box<Seat>),
    /// The rank takes part in the machine.
    Joined,
}

/// To rank 0, after the hello.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum ToCoordinator {
    /// The rank listens there.
    Listening(SocketAddr),
    /// The rank is connected to all others.
    Connected,
    /// The rank cannot go on: why, in words.
    Failed(String),
    /// The rank is not connected with another, which may know better why: what it noticed, in words that go on after its name.
    Missed(String),
    /// The rank is alive but not done: its answer comes later.
    Wait,
}
