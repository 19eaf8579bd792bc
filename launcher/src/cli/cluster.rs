//! Options that matter when vincs is one of several ranks; a machine of one rank takes them too, and has no use for them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use vincs_vmm::cluster::Placement;
use vincs_vmm::memory::engine::DEFAULT_READ_AHEAD;

use crate::input::size::parse_size;

/// Seconds that all ranks may take to come to rank 0: a batch system starts them within moments of each other, a busy host later.
const DEFAULT_WIREUP_TIMEOUT_SECS: u64 = 60;

/// Most seconds of it: a day, as for a queue of jobs.
const MAX_WIREUP_TIMEOUT_SECS: u64 = 86_400;

/// Most shards: the channel classes of a transport that control messages leave (`wireup/mesh.rs`).
pub(crate) const MAX_SHARDS: u32 = 15;

/// How ranks are connected.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum TransportArg {
    /// RDMA where all ranks have it on one fabric, else TCP, and rank 0 says why.
    Auto,
    /// RDMA (InfiniBand, RoCE), or no machine.
    Rdma,
    /// TCP.
    Tcp,
}

/// How processors are dealt out when ranks come and leave.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum PlacementArg {
    /// Over all ranks, as evenly as they go.
    Spread,
    /// They stay while no rank has more of them than processors.
    Pack,
    /// They stay where they are.
    Manual,
}

/// Seconds within which a rank is to have left, if nothing else is said: what batch systems give a job between TERM and KILL at least.
const DEFAULT_GRACE_SECS: u64 = 30;

/// Most seconds of it: a day.
const MAX_GRACE_SECS: u64 = 86_400;

/// When virtual processors come together on rank 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum GatherArg {
    /// Where a host has more than two ranks for each processor: those that wait for pages for a quarter of the time, for a while.
    Auto,
    /// Each stays at its rank.
    Never,
}

/// What a rank that joins has no say in: rank 0 tells it the machine's settings.
const NOT_OF_JOINERS: [&str; 25] = [
    "command",
    "kernel",
    "initrd",
    "modules",
    "vcpus",
    "mem",
    "relaxed",
    "numa",
    "disks",
    "shares",
    "append",
    "console",
    "stats",
    "keep_initramfs",
    "boot_timeout",
    "placement",
    "gather",
    "transport",
    "cache",
    "hold_time",
    "read_ahead",
    "shards",
    "system_map",
    "rank",
    "ranks",
];

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Several ranks (mpirun -n N vincs ... -- CMD, srun vincs-rank ... -- CMD)")]
pub(crate) struct ClusterArgs {
    /// File by which ranks find rank 0 where MPI is of no use, and others that join later. Rank 0 writes it, for this user alone, and removes it at the end;
    /// all ranks have to see it [default: by MPI; for Slurm without MPI .vincs-JOB.STEP in the current directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) address_file: Option<PathBuf>,
    /// Join a machine that runs, as a further rank: by its address file, or by its rank 0's host and port and a copy of that file as
    /// --address-file. Takes no CMD. INT or TERM lets the rank leave
    #[arg(long, value_name = "FILE|HOST:PORT", conflicts_with_all = NOT_OF_JOINERS)]
    pub(crate) join: Option<String>,
    /// INT and TERM let each rank but rank 0 leave, as they do one that joins. Seconds within which it is to have left; when it has not, it
    /// says what is still there, and goes on. 86400 at most [default: 30, of ranks that join or that `vincs ctl remove` names]
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=MAX_GRACE_SECS))]
    grace: Option<u64>,
    /// How virtual processors are dealt out when ranks join and leave [default: spread]
    #[arg(long, value_name = "HOW", value_enum)]
    placement: Option<PlacementArg>,
    /// Network between the ranks: an interface, an address, or a network as in 10.1.0.0/16 [default: loopback when all ranks share
    /// a host, else the interface of the route to rank 0]
    #[arg(long, value_name = "IF|ADDRESS|CIDR")]
    pub(crate) net_if: Option<String>,
    /// How ranks are connected [default: auto]
    #[arg(long, value_name = "NAME", value_enum)]
    pub(crate) transport: Option<TransportArg>,
    /// Seconds that all ranks may take to come to rank 0, 86400 at most
    #[arg(long, value_name = "SECS", default_value_t = DEFAULT_WIREUP_TIMEOUT_SECS, value_parser = clap::value_parser!(u64).range(1..=MAX_WIREUP_TIMEOUT_SECS))]
    wireup_timeout: u64,
    /// Memory of other ranks that a rank keeps at most, in bytes, or with a suffix K, M, G, T; at least 8M for each shard [default: all of it, or half of the host's
    /// memory shared among its ranks when that is less]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_negative_numbers = true)]
    pub(crate) cache: Option<u64>,
    /// Microseconds that a rank keeps a page at least before another gets it, 1 or more [default: four times what a page fault takes
    /// there, 50 to 10000; 10000 for each of the ranks that share processors]
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) hold_time: Option<u32>,
    /// Most pages of 4 KiB that are fetched ahead of sequential reads; 0 for none
    #[arg(long, value_name = "PAGES", default_value_t = DEFAULT_READ_AHEAD)]
    pub(crate) read_ahead: u16,
    /// Shards of the memory, each with a thread and connections of its own [default: 1 on up to 4 processors, 2 on up to 8, else 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SHARDS)))]
    pub(crate) shards: Option<u32>,
    /// Whether virtual processors that wait for pages too much come to rank 0 for a while
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = GatherArg::Auto)]
    pub(crate) gather: GatherArg,
    /// The guest kernel's System.map, to name in --stats the functions that share the hottest pages
    #[arg(long, value_name = "FILE")]
    pub(crate) system_map: Option<PathBuf>,
    /// This rank, for ranks that are started by hand with --address-file
    #[arg(long, value_name = "R", hide_short_help = true)]
    pub(crate) rank: Option<u32>,
    /// Number of ranks, with --rank
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub(crate) ranks: Option<u32>,
}

impl ClusterArgs {
    /// How long all ranks may take to come.
    pub(crate) fn wireup_timeout(&self) -> Duration {
        Duration::from_secs(self.wireup_timeout)
    }

    /// Within which time a rank that leaves is to have left.
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(self.grace.unwrap_or(DEFAULT_GRACE_SECS))
    }

    /// Whether INT and TERM let a rank leave that has started the machine: launchers send them to all ranks, so only where that is asked for.
    pub(crate) fn leaves_on_term(&self) -> bool {
        self.grace.is_some()
    }

    /// How virtual processors are dealt out.
    pub(crate) fn placement(&self) -> Placement {
        match self.placement {
            None | Some(PlacementArg::Spread) => Placement::Spread,
            Some(PlacementArg::Pack) => Placement::Pack,
            Some(PlacementArg::Manual) => Placement::Manual,
        }
    }
}

/// How the ranks find each other when the command line cannot be read.
pub(crate) fn default_wireup_timeout() -> Duration {
    Duration::from_secs(DEFAULT_WIREUP_TIMEOUT_SECS)
}
