//! What the machine is, from what the user asks for and what the ranks' hosts are: rank 0 decides for all.

use vincs_coherence::window::SLOT_BYTES;
use vincs_vmm::memory::engine;

use crate::cli::RunArgs;
use crate::cli::cluster::ClusterArgs;
use crate::input::machine_size::{MachineSize, with_relaxed};
use crate::input::size::Bytes;
use crate::wireup::coordinator::Present;
use crate::wireup::difference::who;
use crate::wireup::message::Settings;
use crate::wireup::selection::Choice;

/// Least memory in bytes for copies of other ranks' pages in each shard: a device's longest transfer holds some hundred pages at once, and
/// each virtual processor needs several.
const MIN_CACHE: u64 = 8 << 20;

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Why the ranks' hosts do not hold the machine.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error(
        "{who}: --mem {}{}: {ranks} ranks on that host hold {} of it, and it has {}: ask for less, or use more hosts",
        Bytes(*.memory), with_relaxed(*.relaxed), Bytes(*.share), Bytes(*.host)
    )]
    Memory { who: String, memory: u64, relaxed: u64, ranks: u64, share: u64, host: u64 },
    #[error(
        "--cache {} is too small: with {shards} shards a rank needs at least {} for other ranks' pages",
        Bytes(*.asked), Bytes(*.least)
    )]
    Cache { asked: u64, shards: u32, least: u64 },
}

/// The machine's settings but for what connects the ranks. Each rank holds its share of the memory, and copies of the others'.
///
/// # Errors
/// [`SettingsError`], with what to change.
pub(crate) fn decide(args: &RunArgs, size: MachineSize, present: &[Present<'_>]) -> Result<Settings, SettingsError> {
    let cluster = &args.cluster;
    let ranks = u64::try_from(present.len()).unwrap_or(u64::MAX).max(1);
    // Relaxed memory is homed evenly too; what it takes besides for copies and shadows is only as much as is touched.
    let share = size.memory.saturating_add(size.relaxed).div_ceil(ranks);
    let mut cache = size.memory.saturating_sub(size.memory / ranks);
    let mut processors = u32::MAX;
    for Present { introduction, hello, .. } in present {
        let on_host = present.iter().filter(|other| other.hello.boot_id == hello.boot_id).count();
        let on_host = u64::try_from(on_host).unwrap_or(u64::MAX).max(1);
        let shares = share.saturating_mul(on_host);
        if shares > hello.memory {
            let (who, host) = (who(introduction), hello.memory);
            let MachineSize { memory, relaxed, .. } = size;
            return Err(SettingsError::Memory { who, memory, relaxed, ranks: on_host, share: shares, host });
        }
        cache = cache.min(hello.memory / 2 / on_host);
        processors = processors.min(hello.processors / u32::try_from(on_host).unwrap_or(u32::MAX));
    }
    let shards = shards(cluster, processors);
    let least = MIN_CACHE * u64::from(shards);
    if let Some(asked) = cluster.cache.filter(|asked| *asked < least) {
        return Err(SettingsError::Cache { asked, shards, least });
    }
    let cache = cluster.cache.unwrap_or(cache.max(least)) / PAGE * PAGE;
    Ok(Settings {
        vcpus: size.vcpus,
        memory: size.memory,
        relaxed: size.relaxed,
        races: false,
        cache,
        hold_us: cluster.hold_time,
        read_ahead: cluster.read_ahead,
        shards,
        sampled: args.stats.is_some(),
        transport: Choice::Tcp,
        window_slots: 0,
    })
}

/// Slots of each window of a machine that has windows. Where one-sided operations need the target's attention, it has none: there they are no
/// faster than messages.
pub(crate) fn window_slots(memory: u64, ranks: u32, shards: u32) -> u32 {
    engine::window_slots(memory / u64::from(ranks.max(1)), u16::try_from(shards).unwrap_or(u16::MAX)).get()
}

/// Bytes of all windows of a rank.
pub(crate) fn window_bytes(memory: u64, ranks: u32, shards: u32) -> usize {
    let slots = window_slots(memory, ranks, shards);
    slots.saturating_mul(shards) as usize * SLOT_BYTES
}

/// Shards of the memory, where each rank has at least so many processors for itself.
pub(crate) fn shards(cluster: &ClusterArgs, processors: u32) -> u32 {
    cluster.shards.unwrap_or(match processors {
        0..=4 => 1,
        5..=8 => 2,
        _ => 4,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use clap::Parser;

    use super::*;
    use crate::cli::Cli;
    use crate::wireup::message::{Hello, Introduction, VERSION};

    const GIB: u64 = 1 << 30;

    fn args(arguments: &[&str]) -> RunArgs {
        Cli::try_parse_from([&["vincs"], arguments].concat()).unwrap().run
    }

    fn size(memory: u64) -> MachineSize {
        MachineSize { vcpus: 8, numa_nodes: 4, memory, relaxed: 0 }
    }

    /// Ranks by host: each host's memory, processors and number of ranks.
    fn hosts(hosts: &[(u64, u32, usize)]) -> Vec<Hello> {
        let hello = |(host, &(memory, processors, ranks)): (usize, &(u64, u32, usize))| {
            vec![Hello { boot_id: host.to_string(), memory, processors, ..Hello::default() }; ranks]
        };
        hosts.iter().enumerate().flat_map(hello).collect()
    }

    fn decided(arguments: &[&str], memory: u64, ranks: &[Hello]) -> Result<Settings, SettingsError> {
        let introduce = |(rank, hello): (u32, &Hello)| {
            let host = format!("n{}", hello.boot_id);
            let introduction = Introduction { version: VERSION, rank, ranks: 4, host, vincs: "0".into() };
            (introduction, hello.clone())
        };
        let ranks: Vec<_> = (0..).zip(ranks).map(introduce).collect();
        let place = Ipv4Addr::LOCALHOST.into();
        let present: Vec<Present<'_>> =
            ranks.iter().map(|(introduction, hello)| Present { introduction, hello, place }).collect();
        decide(&args(arguments), size(memory), &present)
    }

    #[test]
    fn a_machine_may_have_more_memory_than_each_host() {
        let ranks = hosts(&[(GIB, 2, 1), (GIB, 2, 1), (GIB, 2, 1), (GIB, 2, 1)]);
        let settings = decided(&[], 4 * GIB, &ranks).unwrap();
        assert_eq!((settings.vcpus, settings.memory, settings.cache), (8, 4 * GIB, GIB / 2));
        let error = decided(&[], 4 * GIB + PAGE, &ranks).unwrap_err();
        let (who, memory, share) = ("rank 0 on n0".to_owned(), 4 * GIB + PAGE, GIB + PAGE / 4);
        assert_eq!(error, SettingsError::Memory { who, memory, relaxed: 0, ranks: 1, share, host: GIB });
        let small = hosts(&[(2 * GIB, 2, 1), (GIB, 2, 2)]);
        let message = decided(&[], 3 * GIB, &small).unwrap_err().to_string();
        assert!(message.starts_with("rank 1 on n1: --mem 3G: 2 ranks on that host hold 2G"), "{message}");
    }

    #[test]
    fn ranks_of_one_host_share_its_memory() {
        let ranks = hosts(&[(2 * GIB, 2, 2)]);
        assert_eq!(decided(&[], 2 * GIB, &ranks).unwrap().cache, GIB / 2);
        assert!(matches!(decided(&[], 3 * GIB, &ranks), Err(SettingsError::Memory { ranks: 2, .. })));
        assert_eq!(decided(&[], GIB / 2, &ranks).unwrap().cache, GIB / 4, "no more than there is elsewhere");
    }

    #[test]
    fn the_users_cache_is_taken_down_to_its_least() {
        let ranks = hosts(&[(2 * GIB, 2, 2)]);
        assert_eq!(decided(&["--cache", "8M"], GIB, &ranks).unwrap().cache, 8 << 20);
        for shards in [1, 3] {
            let least = u64::from(shards) << 23;
            let with =
                |cache: u64| decided(&["--cache", &cache.to_string(), "--shards", &shards.to_string()], GIB, &ranks);
            assert_eq!(with(least).unwrap().cache, least);
            assert_eq!(with(least - 1), Err(SettingsError::Cache { asked: least - 1, shards, least }));
        }
        let asked = SettingsError::Cache { asked: 1 << 23, shards: 2, least: 1 << 24 }.to_string();
        assert!(asked.ends_with("with 2 shards a rank needs at least 16M for other ranks' pages"), "{asked}");
    }

    #[test]
    fn shards_follow_the_fewest_processors_that_a_rank_has() {
        let shards = |processors, ranks| decided(&[], GIB, &hosts(&[(GIB, processors, ranks)])).unwrap().shards;
        assert_eq!([shards(4, 1), shards(5, 1), shards(8, 1), shards(9, 1), shards(9, 2)], [1, 2, 2, 4, 1]);
        let mixed = hosts(&[(GIB, 64, 1), (GIB, 6, 1)]);
        assert_eq!(decided(&[], GIB, &mixed).unwrap().shards, 2);
        assert_eq!(decided(&["--shards", "3"], GIB, &mixed).unwrap().shards, 3);
    }
}
