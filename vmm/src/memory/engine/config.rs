//! What an engine is told, and what it tells.

use std::fmt::Debug;
use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use vincs_coherence::home::HomeMap;
use vincs_coherence::id::{Access, Page, Rank};
use vincs_coherence::node::ConfigError;
use vincs_coherence::transport::{MAX_BODY, WordSegment};
use vincs_coherence::window::MAX_SLOTS;

use super::frames::FramesError;
use super::view::ViewError;
use super::vitals::Vitals;

/// An engine's place and settings.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// This rank.
    pub rank: Rank,
    /// Most ranks there may be. Not all need to be there: some may come later, those without homes.
    pub ranks: u16,
    /// The homes of all pages.
    pub homes: HomeMap,
    /// Number of shards, the same on all ranks: threads that serve faults and messages, each for its own pages.
    pub shards: u16,
    /// How memory is spread.
    pub memory: MemorySettings,
    /// Processors that touch the memory, all awake at the start: see [`super::Engine::processors`]. At least one.
    pub processors: u32,
    /// Who looks at faulting threads, at one of [`MemorySettings::sample_every`] faults of each shard; if anybody.
    pub sampler: Option<Arc<dyn FaultSampler>>,
}

/// How memory is spread over ranks. The cache and the times may differ between ranks.
#[derive(Clone, Debug)]
pub struct MemorySettings {
    /// How long this rank keeps a page it got, whoever wants it. None: four times a fault on this host, which is measured at
    /// the start, within [`super::HOLD_LIMITS`].
    pub hold: Option<Duration>,
    /// Most pages of other homes that this rank keeps, all shards together; None is no limit.
    pub cache_pages: Option<u32>,
    /// Most pages asked for ahead of a sequential reader; 0 turns it off.
    pub read_ahead: u16,
    /// Pages of its own that a home takes at once when one of them is first touched, a power of two.
    pub first_touch: u16,
    /// Most pages that are asked for together, once ranks have taken them from each other together; 0 turns it off.
    pub companions: u16,
    /// Whether pages of its own that each rank reads and then writes are given to be written at once.
    pub migratory: bool,
    /// How long a thread that serves faults looks for work before it sleeps. Zero where there is only one processor to run on.
    pub spin: Duration,
    /// Whether threads that serve faults are bound to cores, where there are enough: not when several ranks share a host's processors
    /// and may all use the same ones.
    pub bind: bool,
    /// At one of so many faults the instruction is noted that ran into it, for the statistics; it costs the vCPU an exit.
    /// None: at no fault.
    pub sample_every: Option<NonZeroU32>,
    /// This rank's windows, one for each shard: the segments that the shards' channels were given ([`super::windows()`]). All ranks have
    /// windows with the same number of slots, or none has.
    pub windows: Vec<Arc<WordSegment>>,
    /// Whose loss ends the engine's work.
    pub vitals: Vitals,
}

/// Pages asked for ahead of a sequential reader unless the user says otherwise: 128 KiB, Linux's own read-ahead, which hides a
/// round trip on any network without filling small caches.
pub const DEFAULT_READ_AHEAD: u16 = 32;
/// Pages taken at a first touch: 64 KiB, of which a kernel that has touched one will touch more.
const FIRST_TOUCH: u16 = 16;
/// Pages asked for together: a kernel's page tables, run queues and locks that each processor needs for whatever it does.
const COMPANIONS: u16 = 32;
/// How long looking for work pays off: a round trip to another rank and back.
const SPIN: Duration = Duration::from_micros(50);

impl Default for MemorySettings {
    /// Fit for this host: a thread that looks for work only helps where another processor has the vCPU.
    fn default() -> Self {
        let alone = thread::available_parallelism().is_ok_and(|processors| processors.get() == 1);
        Self {
            hold: None,
            cache_pages: None,
            read_ahead: DEFAULT_READ_AHEAD,
            first_touch: FIRST_TOUCH,
            companions: COMPANIONS,
            migratory: true,
            spin: if alone { Duration::ZERO } else { SPIN },
            bind: false,
            sample_every: None,
            windows: Vec::new(),
            vitals: Vitals::default(),
        }
    }
}

/// Looks at threads that have run into a fault, before they go on.
pub trait FaultSampler: Send + Sync + Debug {
    /// A thread, by its Linux id, waits for this page. Called by a service thread: it must not block, nor touch guest memory.
    fn sample(&self, thread: i32, page: Page, access: Access);
}

/// What ends an engine's work. Told at most once; then nothing is granted any more, and threads that wait for pages go
/// on waiting until the engine is stopped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EngineEvent {
    /// A rank is lost, and pages with it.
    RankLost {
        /// Which.
        rank: Rank,
        /// Why, in words.
        reason: String,
    },
    /// A rank sent what it had no right to send.
    Protocol {
        /// Which.
        rank: Rank,
        /// What, in words that go on after "it sent".
        what: String,
    },
    /// This host does not do what the engine needs.
    Host(String),
}

/// Who is told of events. Called by a service thread: it must not block.
pub type EventSink = Arc<dyn Fn(EngineEvent) + Send + Sync>;

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The settings do not fit the protocol.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Not one transport for each shard.
    #[error("{transports} channels for {shards} shards of memory; give each shard one")]
    Transports {
        /// Number of transports.
        transports: usize,
        /// Number of shards.
        shards: u16,
    },
    /// Windows that are none, or not one for each shard.
    #[error(
        "{windows} windows for {shards} shards of memory; give each shard one with 1 to {MAX_SLOTS} slots, or none has any"
    )]
    Windows {
        /// Number of windows.
        windows: usize,
        /// Number of shards.
        shards: u16,
    },
    /// A transport that does not carry the longest message.
    #[error("the transport {transport} carries {most} bytes at once; the longest message about pages has {MAX_BODY}")]
    Transfer {
        /// Its name.
        transport: &'static str,
        /// Longest body that it carries, in bytes.
        most: usize,
    },
    /// The homes are not those of this memory.
    #[error("homes of {homes} pages for a memory of {pages}")]
    Pages {
        /// Pages that have a home.
        homes: u32,
        /// Pages of guest RAM.
        pages: u32,
    },
    /// Guest RAM is of the wrong kind.
    #[error(transparent)]
    Frames(#[from] FramesError),
    /// The host does not let us handle faults.
    #[error(transparent)]
    View(#[from] ViewError),
    /// Something was loaded already.
    #[error("guest memory is in use before it is spread over ranks")]
    InUse,
    /// A thread or what wakes it cannot be had.
    #[error("cannot start a thread for guest memory: {0}")]
    Thread(io::Error),
}
