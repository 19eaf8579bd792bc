//! Memory that is spread over ranks whose clean pages the NIC alone reads: over verbs, while nothing runs at their home.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use vincs_coherence::home::HomeMap;
use vincs_coherence::id::{PAGE_BYTES, Rank};
use vincs_coherence::node::Stats;
use vincs_coherence::transport::{Segment, Transport, WordSegment};
use vincs_transport_rdma::endpoint::RdmaTransport;
use vincs_vmm::memory::GuestRam;
use vincs_vmm::memory::engine::{Engine, EngineConfig, MemorySettings, windows};
use vm_memory::{Bytes, GuestAddress};

use super::super::connected;
use super::in_a_node::LONG;
use super::{NODE, over_tcp};

/// Pages of the home that are written there and read elsewhere.
const PAGES: u32 = 48;

/// Those of them that are asked for by message: the home shows the others of their blocks of 16.
const ASKED: [u32; 3] = [5, 16, 47];

/// Longer than a page stays at least where it was written.
const REST: Duration = Duration::from_millis(50);

/// A rank's memory at work. Its NIC serves others as long as `end` is there.
struct Memory {
    engine: Engine,
    ram: GuestRam,
    _end: Arc<RdmaTransport>,
}

impl Memory {
    fn start(rank: Rank, end: RdmaTransport, windows: Vec<Arc<WordSegment>>) -> Self {
        let ram = GuestRam::new(&[(GuestAddress(0), 128 * PAGE_BYTES)]).unwrap();
        let memory =
            MemorySettings { read_ahead: 0, first_touch: 1, companions: 0, windows, ..MemorySettings::default() };
        let homes = HomeMap::new([(64, Rank(0)), (64, Rank(1))]).unwrap();
        let config = EngineConfig { rank, ranks: 2, homes, shards: 1, memory, processors: 1, sampler: None };
        let end = Arc::new(end);
        // At the end one of the two goes first.
        let events = Arc::new(|_| ());
        let transports = vec![Arc::clone(&end) as Arc<dyn Transport>];
        Self { engine: Engine::start(&ram, config, transports, events).unwrap(), ram, _end: end }
    }

    fn word(page: u32) -> GuestAddress {
        GuestAddress(u64::from(page) * PAGE_BYTES as u64 + 40)
    }

    fn write(&self, page: u32) {
        self.ram.guest_mapping().store(u64::from(page) + 7, Self::word(page), Ordering::SeqCst).unwrap();
    }

    fn is_right(&self, page: u32) -> bool {
        self.ram.guest_mapping().load::<u64>(Self::word(page), Ordering::SeqCst).unwrap() == u64::from(page) + 7
    }
}

#[test]
#[ignore = "needs the device of a testbed node; rdma::clean_pages_are_read_in_windows runs it there"]
fn clean_pages_are_read_while_the_threads_of_their_home_stand_still() {
    let slots = NonZeroU32::new(64).unwrap();
    let own: Vec<_> = (0..2).map(|_| windows(1, slots).unwrap()).collect();
    let mut ranks = connected(NODE, vec![vec![None]; 2], move |rank, ends| {
        let own = &own[usize::from(rank.0)];
        let segment = Arc::clone(&own[0]) as Arc<dyn Segment>;
        let end = over_tcp(rank, 2, vec![Some(segment)], ends).pop().unwrap();
        Memory::start(rank, end, own.clone())
    });
    let reader = ranks.pop().unwrap();
    let mut home = ranks.pop().unwrap();
    (0..PAGES).for_each(|page| home.write(page));
    thread::sleep(home.engine.hold() + REST);
    assert!(ASKED.iter().all(|page| reader.is_right(*page)));
    let shown = u64::from(PAGES) - ASKED.len() as u64;
    // What is counted is told late.
    let wait = |engine: &Engine, has_come: fn(&Stats) -> u64| {
        let started = Instant::now();
        while has_come(&engine.stats().protocol) < shown {
            assert!(started.elapsed() < LONG, "{:?}", engine.stats().protocol);
            thread::sleep(Duration::from_millis(1));
        }
    };
    wait(&home.engine, |stats| stats.shown);
    // From here on nobody serves a message there.
    home.engine.stop();
    let wrong: Vec<u32> = (0..PAGES).filter(|page| !reader.is_right(*page)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    wait(&reader.engine, |stats| stats.guarded_hits);
    let stats = reader.engine.stats();
    let counted = (stats.protocol.guarded_hits, stats.protocol.guarded_misses, stats.received.grant.messages);
    assert_eq!(counted, (shown, 0, ASKED.len() as u64), "{:?}", stats.protocol);
}
