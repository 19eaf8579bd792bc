//! The relaxed memory of a machine of several ranks: each has its own header and control part, and all share the rest.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;
use vincs_coherence::hlrc::Failure;
use vincs_coherence::id::{PAGE_BYTES, Rank};
use vincs_coherence::transport::Transport;
use vincs_guest_commands::{MAGIC, RACES_AT, SLOTS, VERSION};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress};

use super::commands::LOCKS;
use super::doorbell::{DOORBELL, Doorbell, Rings};
use super::info_block;
use super::lent::LentLocks;
use crate::layout::{RELAXED_CONTROL, RELAXED_HEADER};
use crate::memory::hlrc::{Array, ArrayError, Ending, Memory, Prepared, RaceReport, RaceSink, Settings};
use crate::memory::hlrc::{StartError, Statistics};
use crate::memory::ram::{RamError, memory_file};
use crate::vcpu::VcpuHandle;

/// Least pages that follow each other with one home: 64 KiB.
const MIN_STRIPE: u32 = 16;
/// Most stripes: each is a mapping of its own, of which a process has some 65000 (`vm.max_map_count`).
const MAX_STRIPES: u32 = 4096;

/// Takes lines about races. Called by the thread that serves: it must not block for long.
pub type RaceLines = fn(String);

/// This rank's share of relaxed memory before the machine is built: all that other ranks have to reach, and the channel to them.
#[derive(Clone, Debug)]
pub struct RelaxedShare {
    /// Its memory.
    pub prepared: Prepared,
    /// The channel, whose segment at this rank is [`Prepared::segment`].
    pub channel: Arc<dyn Transport>,
}

/// What a rank has done for relaxed memory.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RelaxedStats {
    /// Commands of guest programs.
    #[serde(flatten)]
    pub rings: Rings,
    /// Faults, traffic and synchronisation.
    #[serde(flatten)]
    pub memory: Statistics,
}

/// Why relaxed memory cannot be shared with other ranks.
#[derive(Debug, thiserror::Error)]
pub enum SpreadError {
    /// The rank's own part.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The driver.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The shared part.
    #[error(transparent)]
    Array(#[from] ArrayError),
}

/// Pages with one home that follow each other, in a machine with so many pages of relaxed memory.
fn stripe(pages: u32) -> u32 {
    pages.div_ceil(MAX_STRIPES).next_power_of_two().max(MIN_STRIPE)
}

/// Which pages are homed where, in the order of their addresses: home and number of pages.
fn stripes(pages: u32, ranks: u16) -> Vec<(Rank, u32)> {
    let stripe = stripe(pages);
    let homes = (0..ranks.max(1)).cycle().map(Rank);
    (0..pages).step_by(stripe as usize).zip(homes).map(|(first, home)| (home, stripe.min(pages - first))).collect()
}

/// Pages of relaxed memory that all ranks share, of so many bytes.
fn shared_pages(bytes: u64) -> u32 {
    u32::try_from(bytes.saturating_sub(RELAXED_CONTROL) / PAGE_BYTES as u64).unwrap_or(u32::MAX)
}

/// What is told of races in a guest's relaxed memory, with places as its programs have them.
fn of_device(report: &RaceReport) -> String {
    report.line(|place| ("the device".to_owned(), RELAXED_CONTROL + place.offset))
}

/// A rank's share of `bytes` of relaxed memory, with nothing in it. `races`: what is told of races, in lines, if they are looked for.
///
/// # Errors
/// [`StartError`] naming what does not fit or cannot be had.
pub fn prepare(rank: Rank, ranks: u16, bytes: u64, races: Option<RaceLines>) -> Result<Prepared, StartError> {
    let pages = shared_pages(bytes);
    // As many at each as the first has, which has most.
    let most = stripes(pages, ranks).iter().filter(|(home, _)| home.0 == 0).map(|(_, count)| count).sum();
    let settings = Settings {
        locks: LOCKS,
        // Which vCPU's thread it is that touches a page does not matter.
        open: true,
        races: races.map(|told| RaceSink::new(move |report| told(of_device(&report)))),
        ..Settings::new(rank, vec![SLOTS; ranks.into()], most)
    };
    Prepared::new(settings)
}

/// A rank's relaxed memory at work.
#[derive(Debug)]
pub(crate) struct SpreadMemory {
    memory: Memory,
    own: GuestRegionMmap,
    shared: Array,
    start: GuestAddress,
    doorbell: Arc<Doorbell>,
}

impl SpreadMemory {
    /// Starts it at `start` with `len` bytes, its header included. `vcpus`: all of the machine, and whether their place is here. `ended` is told when it cannot go
    /// on: which rank is to blame, and why.
    pub(crate) fn start(
        share: RelaxedShare,
        (rank, ranks): (Rank, u16),
        (start, len): (GuestAddress, u64),
        vcpus: Vec<(VcpuHandle, bool)>,
        ended: impl Fn(Rank, String) + Send + Sync + 'static,
    ) -> Result<Self, SpreadError> {
        let bytes = len.saturating_sub(RELAXED_HEADER);
        // The doorbell has no memory: touching it is an exit.
        let (own, alias) = own_part(start, DOORBELL, bytes)?;
        let pages = shared_pages(bytes);
        let words = [MAGIC, u64::from(VERSION) | u64::from(ranks) << 32, u64::from(rank.0) | u64::from(SLOTS) << 32];
        let more = [u64::from(LOCKS) | u64::from(stripe(pages)) << 32];
        for (at, word) in (RELAXED_HEADER..).step_by(8).zip(words.into_iter().chain(more)) {
            alias.store(word, MemoryRegionAddress(at), Ordering::Relaxed).map_err(|_| RamError::Relaxed(bytes))?;
        }
        let looks_for_races = u32::from(share.prepared.looks_for_races());
        let races_at = MemoryRegionAddress(RELAXED_HEADER + u64::from(RACES_AT));
        alias.store(looks_for_races, races_at, Ordering::Relaxed).map_err(|_| RamError::Relaxed(bytes))?;
        let ending = Arc::new(move |ending: Ending| {
            let text = ending.to_string();
            match ending {
                Ending::Failed { failure: Failure::Lost(lost) | Failure::Nonsense(lost), reason } => {
                    ended(lost, if reason.is_empty() { text } else { reason });
                }
                Ending::Failed { failure: Failure::Mismatch(_), .. } | Ending::Stranger(_) | Ending::Host(_) => {
                    ended(rank, text);
                }
            }
        });
        let alias = Arc::new(alias);
        let lender = LentLocks::new(Arc::clone(&alias));
        let memory = share.prepared.lending(Arc::new(lender)).start(share.channel, ending)?;
        let shared = memory.array_of(&stripes(pages, ranks))?;
        let doorbell = Doorbell::new(start.0, rank.0, alias, vcpus, memory.asker());
        Ok(Self { memory, own, shared, start, doorbell: Arc::new(doorbell) })
    }

    /// What KVM is to be given: guest-physical address, length and address in this process of each piece.
    pub(crate) fn pieces(&self) -> [(u64, u64, u64); 2] {
        let own = (self.start.0, self.own.len(), self.own.as_ptr() as u64);
        let shared = self.start.0 + RELAXED_HEADER + RELAXED_CONTROL;
        [own, (shared, self.shared.bytes() as u64, self.shared.start().as_ptr() as u64)]
    }

    pub(crate) fn doorbell(&self) -> Arc<Doorbell> {
        Arc::clone(&self.doorbell)
    }

    /// Nobody waits any more, for pages or commands.
    pub(crate) fn stop(&mut self) {
        self.memory.stop();
    }
}

/// The part that is a rank's own, of so many bytes, with the block that makes `relaxed` bytes a device; twice, for KVM and for vincs.
fn own_part(start: GuestAddress, len: u64, relaxed: u64) -> Result<(GuestRegionMmap, GuestRegionMmap), RamError> {
    let file = memory_file("vincs-relaxed-control", len)?;
    let mapping = || {
        let size = usize::try_from(len).map_err(|_| RamError::Relaxed(len))?;
        Ok::<_, RamError>(GuestRegionMmap::from_range(start, size, Some(FileOffset::from_arc(Arc::clone(&file), 0)))?)
    };
    let (guest, alias) = (mapping()?, mapping()?);
    let block = info_block::build(RELAXED_HEADER + relaxed);
    alias.write_slice(&block, MemoryRegionAddress(info_block::OFFSET)).map_err(|_| RamError::Relaxed(relaxed))?;
    Ok((guest, alias))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_go_round_and_all_pages_have_one() {
        assert_eq!(stripes(40, 2), [(Rank(0), 16), (Rank(1), 16), (Rank(0), 8)]);
        assert_eq!(stripes(16, 3), [(Rank(0), 16)]);
        assert_eq!(stripes(0, 2), []);
        let large = stripes(MAX_STRIPES * MIN_STRIPE + 1, 3);
        assert_eq!(large.iter().map(|(_, count)| count).sum::<u32>(), MAX_STRIPES * MIN_STRIPE + 1);
        assert!(large.len() <= MAX_STRIPES as usize && large[0].1 == 2 * MIN_STRIPE);
        assert!(stripes(u32::MAX, 64).len() <= MAX_STRIPES as usize);
    }

    #[test]
    fn the_control_part_is_not_shared() {
        assert_eq!(shared_pages(RELAXED_CONTROL), 0);
        assert_eq!(shared_pages(2 * RELAXED_CONTROL), 512);
        assert!(prepare(Rank(0), 2, RELAXED_CONTROL, None).is_err(), "there is nothing to share");
        assert!(prepare(Rank(1), 2, 2 * RELAXED_CONTROL, None).is_ok());
    }
}
