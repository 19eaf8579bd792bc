//! The fault path: guest memory that is spread over ranks, as this rank's processors and devices see it.
//!
//! An [`Engine`] drives the strict coherence protocol ([`vincs_coherence::node::Node`]) over a transport. It needs no KVM: whoever
//! touches the guest mapping of its [`GuestRam`], a virtual processor or a thread of this process, runs into faults that
//! it answers. Devices hold pages through [`Engine::device_memory`].
//!
//! - One *service thread* for each shard of the pages owns the shard's protocol node, its userfaultfd and its transport. On the way
//!   of a fault there is one lock, for what is counted, which nobody else wants but who reads the statistics. The thread looks for
//!   work for a while, then sleeps.
//! - `view`: what the guest sees, and the system calls that change it; `uffd`, `frames`: what that stands on.
//! - `service`: the thread; `outgoing`: messages that wait; `mailbox`, `holds`: what devices want.
//! - `hand_over`: how rank 0 has pages get another home, and a rank that comes learns of that.
//! - `windows`: what this rank shows the others, to be read without its threads.
//! - `awaited`: what shards tell each other.
//! - `processors`: whether any of the rank's executes anything.
//! - `leaving`: giving all pages of others up; `vitals`: whose loss is the memory's.
//! - `stats`, `latency`, `hot`: what is counted; `calibrate`: the minimum hold time; `binding`: where the threads run; `caches`: how
//!   much each keeps.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use vincs_coherence::id::Tick;
use vincs_coherence::node::{Config, Node};
use vincs_coherence::transport::{MAX_BODY, Segment, Transport, WordSegment};

use super::{DeviceMemory, GuestRam};
use binding::Binding;
use frames::{Frames, Shard};
use mailbox::{Command, Mailbox};
use service::{Parts, Service, Shared};
use stats::Recorder;
use view::View;
use windows::Window;

mod awaited;
mod binding;
mod caches;
mod calibrate;
mod config;
mod frames;
mod hand_over;
mod holds;
mod hot;
mod latency;
mod leaving;
pub(super) mod mailbox;
mod outgoing;
mod processors;
mod service;
mod stats;
pub(super) mod uffd;
mod view;
mod vitals;
mod windows;
mod zero;

#[cfg(test)]
mod tests;

pub use calibrate::HOLD_LIMITS;
pub use config::{DEFAULT_READ_AHEAD, EngineConfig, EngineError, EngineEvent, EventSink, FaultSampler, MemorySettings};
pub use frames::FramesError;
pub use hand_over::MoveError;
pub(crate) use hand_over::Mover;
#[cfg(test)]
pub(crate) use hand_over::{Orders, WhenMoved};
pub(super) use holds::{Holds, Lease};
pub use hot::{HOT_PAGES, HotPage};
pub use latency::Latencies;
pub(crate) use leaving::Leaver;
pub use processors::Processors;
pub use stats::{Count, EngineCounters, EngineStats, HOTTEST, Traffic, Waits};
pub use view::ViewError;
pub use vitals::Vitals;
pub use windows::{window_slots, windows};

/// Guest memory at work. Dropping it stops it.
#[derive(Debug)]
pub struct Engine {
    threads: Vec<JoinHandle<()>>,
    mailboxes: Vec<Arc<Mailbox>>,
    counters: EngineCounters,
    frames: Arc<Frames>,
    holds: Arc<Holds>,
    processors: Arc<Processors>,
    hold: Duration,
}

impl Engine {
    /// Spreads guest memory that nobody has touched yet over the ranks of a machine. `transports`: the endpoint of each
    /// shard's channel; nothing else polls them.
    ///
    /// # Errors
    /// [`EngineError`] naming what does not fit or cannot be had.
    pub fn start(
        ram: &GuestRam,
        config: EngineConfig,
        transports: Vec<Arc<dyn Transport>>,
        events: EventSink,
    ) -> Result<Self, EngineError> {
        let memory = &config.memory;
        let frames = Arc::new(Frames::new(ram)?);
        if config.homes.pages() != frames.pages() {
            return Err(EngineError::Pages { homes: config.homes.pages(), pages: frames.pages() });
        }
        if transports.len() != usize::from(config.shards) || transports.is_empty() {
            return Err(EngineError::Transports { transports: transports.len(), shards: config.shards });
        }
        for capabilities in transports.iter().map(|transport| transport.capabilities()) {
            if capabilities.max_transfer < MAX_BODY {
                return Err(EngineError::Transfer { transport: capabilities.name, most: capabilities.max_transfer });
            }
        }
        if frames.in_use() {
            return Err(EngineError::InUse);
        }
        let fits = |window: &Arc<WordSegment>| {
            windows::config(window).is_some() && memory.windows.first().map(|first| first.len()) == Some(window.len())
        };
        let are_all = memory.windows.is_empty() || memory.windows.len() == usize::from(config.shards);
        if !are_all || !memory.windows.iter().all(fits) {
            return Err(EngineError::Windows { windows: memory.windows.len(), shards: config.shards });
        }
        let hold = match memory.hold {
            Some(hold) => hold,
            None => calibrate::hold(memory.spin)?,
        };
        let whole = Config {
            rank: config.rank,
            ranks: config.ranks,
            homes: config.homes,
            hold: Tick(u64::try_from(hold.as_micros()).unwrap_or(u64::MAX)),
            cache_pages: memory.cache_pages,
            read_ahead: memory.read_ahead,
            first_touch: memory.first_touch,
            companions: memory.companions,
            migratory: memory.migratory,
            window: memory.windows.first().and_then(|window| windows::config(window)),
        };
        whole.check()?;
        let part = |cache| caches::caches(&whole.homes, whole.rank, config.shards, cache);
        let parts = whole.cache_pages.map(part).unwrap_or_default();
        let shared = Shared::new(config.shards, events);
        let mut recorders = Vec::new();
        let mailboxes: Vec<_> = (0..config.shards)
            .map(|_| Mailbox::new().map(Arc::new))
            .collect::<Result<_, _>>()
            .map_err(EngineError::Thread)?;
        let processors = Arc::new(Processors::new(config.processors, mailboxes.clone()));
        let mut services = Vec::new();
        for ((index, transport), mailbox) in (0..config.shards).zip(transports).zip(&mailboxes) {
            let shard = Shard { index, count: config.shards };
            let recorder = Arc::new(Recorder::default());
            recorders.push(Arc::clone(&recorder));
            services.push(Parts {
                shard,
                node: Node::new(Config {
                    cache_pages: parts.get(usize::from(index)).copied(),
                    homes: whole.homes.clone().striped(index, config.shards),
                    ..whole.clone()
                })?,
                view: View::new(Arc::clone(&frames), shard)?,
                window: memory.windows.get(usize::from(index)).and_then(|of| Window::new(Arc::clone(of), whole.rank)),
                transport,
                mailbox: Arc::clone(mailbox),
                recorder,
                shared: shared.clone(),
                vitals: memory.vitals.clone(),
                processors: Arc::clone(&processors),
                sampling: memory.sample_every.zip(config.sampler.clone()),
                spin: memory.spin,
            });
        }
        let of_devices = Arc::new(Recorder::default());
        recorders.push(Arc::clone(&of_devices));
        let holds = Arc::new(Holds::new(Arc::clone(&frames), mailboxes.clone(), of_devices));
        let counters = EngineCounters(recorders);
        let mut engine = Self { threads: Vec::new(), mailboxes, counters, frames, holds, processors, hold };
        let binding = if memory.bind { choose_cores(services.len()) } else { None };
        for (index, parts) in services.into_iter().enumerate() {
            engine.threads.push(spawn(index, parts, binding.clone()).map_err(EngineError::Thread)?);
        }
        Ok(engine)
    }

    /// A window on the memory for a device.
    #[must_use]
    pub fn device_memory(&self) -> DeviceMemory {
        DeviceMemory::spread(Arc::clone(self.frames.alias()), Arc::clone(&self.holds))
    }

    /// Whom the processors tell when they sleep and wake. While all sleep, pages go to other ranks without waiting for the hold time.
    #[must_use]
    pub fn processors(&self) -> Arc<Processors> {
        Arc::clone(&self.processors)
    }

    /// What it has counted so far, all shards together.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.counters.stats()
    }

    /// Where that can be looked up by anyone, also when it has stopped.
    #[must_use]
    pub fn counters(&self) -> EngineCounters {
        self.counters.clone()
    }

    /// The minimum hold time it uses.
    #[must_use]
    pub fn hold(&self) -> Duration {
        self.hold
    }

    /// What has it give up all pages of others.
    pub(crate) fn leaver(&self) -> Leaver {
        Leaver::new(self.mailboxes.clone())
    }

    /// Ends its work. Threads that wait for pages go on, and see zeros where pages were not here: whoever runs guest code
    /// must have been told to stop before.
    pub fn stop(&mut self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.push(Command::Stop));
        for thread in self.threads.drain(..) {
            // A panic of the thread has ended the process already.
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Cores for the service threads, if there are enough.
fn choose_cores(threads: usize) -> Option<Arc<Binding>> {
    match Binding::choose(threads) {
        Ok(binding) => binding.map(Arc::new),
        Err(error) => {
            tracing::debug!(%error, "memory threads are not bound to cores");
            None
        }
    }
}

fn spawn(index: usize, parts: Parts, binding: Option<Arc<Binding>>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("memory-{index}")).spawn(move || {
        no_timer_slack();
        if let Some(Err(error)) = binding.map(|binding| binding.bind(index)) {
            tracing::debug!(%error, "memory thread {index} is not bound to its core");
        }
        Service::new(parts).run();
    })
}

/// Lets the thread's waits end when they are due: minimum hold times are about as long as the kernel's usual slack.
fn no_timer_slack() {
    const LEAST: libc::c_ulong = 1;
    // SAFETY: this sets a number of the calling thread and touches no memory.
    let set = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, LEAST) };
    if set != 0 {
        tracing::debug!("waits of a memory thread may end late: {}", io::Error::last_os_error());
    }
}
