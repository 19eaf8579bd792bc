//! Relaxed memory of processes: drives home-based lazy release consistency ([`vincs_coherence::hlrc`]) over a transport.
//!
//! Each rank has one [`Memory`]. It needs no KVM: the threads that join it touch arrays as any other memory, and run into faults that one
//! thread of the rank's answers, which also does their synchronisation and owns the protocol's node and the transport. docs/relaxed-memory.md tells
//! what programs may rely on.
//!
//! - [`member`]: what threads do; `command`: how they ask for it; [`meeting`]: how some of them meet, and what ranks say to each other for that.
//! - [`races`]: what is told of writes that are not synchronised; `lender`: who lends locks to threads.
//! - `service`: the thread that serves; `operations`: what it has under way at other ranks.
//! - `maps`: the memory; `places`: which page is where; `streams`: who goes through it page by page.

use std::fmt::Debug;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;
use vincs_coherence::hlrc::{Config, ConfigError, Failure, MAX_THREADS, Node, Stats, ThreadId};
use vincs_coherence::home::{HomeMap, HomeMapError};
use vincs_coherence::id::{PAGE_BYTES, Page, Rank};
use vincs_coherence::transport::{MAX_BODY, Segment, Transport};

use super::engine::ViewError;
use super::engine::mailbox::{Mailbox, Waiter, locked};
use super::engine::uffd::Faults;
use command::{Asker, Command};
use lender::Lender;
use maps::{Copies, Mapping, OwnSegment};
use operations::Operations;
use places::Span;
use races::Place;
use service::{Parts, Service};

pub(in crate::memory) mod command;
pub(in crate::memory) mod lender;
mod maps;
pub mod meeting;
pub mod member;
mod operations;
mod places;
pub mod races;
mod service;
mod streams;

pub use member::{Member, SyncError};
pub use operations::Traffic;
pub use races::{RaceReport, RaceSink};

/// Pages had ready for who reads page by page, unless told otherwise: as in strict memory.
pub const READ_AHEAD: u16 = 32;
/// How long looking for work pays off, unless told otherwise: a round trip to another rank and back.
const SPIN: Duration = Duration::from_micros(50);

/// What a rank's relaxed memory is like. But for `rank`, and for what is a rank's own affair (`cache_pages`, `read_ahead`, `spin`), it is the
/// same on all ranks.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This rank.
    pub rank: Rank,
    /// How many threads each rank has.
    pub team: Vec<u16>,
    /// How many pages are homed at each rank: the room for arrays there. It costs addresses, and memory only where it is touched.
    pub pages: u32,
    /// How many locks there are.
    pub locks: u32,
    /// Whether a page that one rank alone writes has no twin.
    pub single_writer: bool,
    /// Most pages of other homes that this rank keeps and has not written.
    pub cache_pages: Option<u32>,
    /// Most pages that are had ready for who reads page by page.
    pub read_ahead: u16,
    /// How long the thread that serves looks for work before it sleeps.
    pub spin: Duration,
    /// Whether threads that have not joined may touch arrays. Those that run a virtual machine do.
    pub open: bool,
    /// Who is told of races, if they are looked for: on all ranks or on none. More moves then, as no rank writes in place or without a twin.
    pub races: Option<RaceSink>,
}

impl Settings {
    /// The usual ones.
    #[must_use]
    pub fn new(rank: Rank, team: Vec<u16>, pages: u32) -> Self {
        Self {
            rank,
            team,
            pages,
            locks: 64,
            single_writer: true,
            cache_pages: None,
            read_ahead: READ_AHEAD,
            spin: SPIN,
            open: false,
            races: None,
        }
    }
}

/// Why there is no relaxed memory.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings do not fit the protocol.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There are no pages, or too many.
    #[error("{pages} pages of relaxed memory at each of {ranks} ranks: {cause}")]
    Pages {
        /// Pages at each rank.
        pages: u32,
        /// Ranks.
        ranks: usize,
        /// Why.
        cause: HomeMapError,
    },
    /// The host refuses memory.
    #[error(
        "cannot create relaxed memory with a segment of {bytes} bytes: {source}; give it fewer pages, or raise the limit on file size (ulimit -f) or address space (ulimit -v)"
    )]
    Memory {
        /// Bytes of the segment.
        bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The transport's words are not this process's.
    #[error(
        "the transport {0} exchanges words by its NIC, and offers that for other ranks' segments only, not for a rank's own: relaxed memory needs --transport tcp"
    )]
    ByNic(&'static str),
    /// The transport carries too little.
    #[error("the transport {transport} carries {most} bytes at once; relaxed memory needs {MAX_BODY}")]
    Transfer {
        /// Its name.
        transport: &'static str,
        /// Longest transfer in bytes.
        most: usize,
    },
    /// The host does not let us handle faults.
    #[error(transparent)]
    Faults(#[from] ViewError),
    /// The thread that serves cannot be started.
    #[error("cannot start a thread for relaxed memory: {0}")]
    Thread(io::Error),
}

/// Why there is no array.
#[derive(Debug, thiserror::Error)]
pub enum ArrayError {
    /// Not one number of pages for each rank.
    #[error("an array with parts for {given} ranks; there are {ranks}")]
    Ranks {
        /// How many parts.
        given: usize,
        /// How many ranks.
        ranks: usize,
    },
    /// There is no room.
    #[error("no room for {wanted} pages more at rank {rank}, which has {pages}")]
    NoRoom {
        /// Pages that are wanted.
        wanted: u32,
        /// Where.
        rank: u16,
        /// Pages homed there.
        pages: u32,
    },
    /// The host refuses addresses, or to tell of their faults.
    #[error("cannot map an array: {0}")]
    Map(io::Error),
    /// The memory was stopped.
    #[error("relaxed memory is not served any more")]
    Ended,
}

/// Why a thread is not one of the team.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum JoinError {
    /// The rank has no such thread.
    #[error("thread {thread} of a rank with {threads}")]
    None {
        /// The thread.
        thread: u16,
        /// How many there are.
        threads: u16,
    },
    /// Another one is, or was.
    #[error("thread {0} has joined already")]
    Taken(u16),
    /// The calling thread is one already.
    #[error("the thread that joins as thread {thread} is thread {before} already")]
    Twice {
        /// As which it joins.
        thread: u16,
        /// As which it has joined.
        before: u16,
    },
    /// The memory was stopped.
    #[error("relaxed memory is not served any more")]
    Ended,
}

/// What ends a rank's relaxed memory. Told at most once. Threads that wait for a lock or at a barrier get an error; threads that wait for a page go on
/// waiting until the memory is stopped, as there is no other way to tell them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ending {
    /// The protocol cannot go on.
    Failed {
        /// Why.
        failure: Failure,
        /// The transport's words for it, if it was lost.
        reason: String,
    },
    /// A thread that has not joined, by its Linux id, has touched an array.
    Stranger(i32),
    /// This host does not do what is needed.
    Host(String),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed { failure, reason } if reason.is_empty() => write!(f, "{failure}"),
            Self::Failed { failure, reason } => write!(f, "{failure} ({reason})"),
            Self::Stranger(thread) => {
                write!(f, "thread {thread} of this process touches relaxed memory and has not joined it")
            }
            Self::Host(what) => write!(f, "this host cannot serve relaxed memory: {what}"),
        }
    }
}

/// Who is told of it. Called by the thread that serves: it must not block.
pub type EndingSink = Arc<dyn Fn(Ending) + Send + Sync>;

/// What a rank has counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Statistics {
    /// By the protocol.
    pub protocol: Stats,
    /// Of other ranks' segments.
    pub traffic: Traffic,
    /// Faults of threads.
    pub faults: u64,
    /// Time that threads have spent at locks, barriers and reductions, added up, in nanoseconds; of a guest's that of its commands.
    pub synchronising: u64,
}

/// Relaxed memory before there are connections: other ranks reach its [`Self::segment`] by them. Clones are the same memory, of which one is started.
#[derive(Clone, Debug)]
pub struct Prepared {
    settings: Settings,
    node: Node,
    segment: Arc<OwnSegment>,
    copies: Arc<Copies>,
    lender: Option<Arc<dyn Lender>>,
}

impl Prepared {
    /// Makes the memory, all zero.
    ///
    /// # Errors
    /// [`StartError`] naming what does not fit or cannot be had.
    pub fn new(settings: Settings) -> Result<Self, StartError> {
        let ranks = settings.team.len();
        let pages = |cause| StartError::Pages { pages: settings.pages, ranks, cause };
        let homes = (0..).map(Rank).take(ranks.min(usize::from(u16::MAX))).map(|rank| (settings.pages, rank));
        let homes = HomeMap::new(homes).map_err(pages)?;
        let all = homes.pages();
        let mut config = Config::new(settings.rank, homes, settings.team.clone());
        config.locks = settings.locks;
        config.single_writer = settings.single_writer;
        config.check_races = settings.races.is_some();
        config.cache_pages = settings.cache_pages;
        let node = Node::new(config)?;
        let bytes = node.layout().bytes(settings.rank);
        let memory = |source| StartError::Memory { bytes, source };
        let segment = Arc::new(OwnSegment::new(bytes).map_err(memory)?);
        let copies = Arc::new(Copies::new(all).map_err(memory)?);
        Ok(Self { settings, node, segment, copies, lender: None })
    }

    /// What other ranks reach by one-sided operations.
    #[must_use]
    pub fn segment(&self) -> Arc<dyn Segment> {
        Arc::clone(self.segment.words()) as Arc<dyn Segment>
    }

    /// Whether races are looked for in it.
    #[must_use]
    pub fn looks_for_races(&self) -> bool {
        self.settings.races.is_some()
    }

    /// The same whose threads are lent the locks that this rank keeps.
    pub(in crate::memory) fn lending(self, lender: Arc<dyn Lender>) -> Self {
        Self { lender: Some(lender), ..self }
    }

    /// Sets it to work over a transport, which nobody else polls and whose segment at this rank is [`Self::segment`].
    ///
    /// # Errors
    /// [`StartError`] naming what does not fit or cannot be had.
    pub fn start(self, transport: Arc<dyn Transport>, ending: EndingSink) -> Result<Memory, StartError> {
        let Self { settings, node, segment, copies, lender } = self;
        let capabilities = transport.capabilities();
        if capabilities.one_sided_by_nic {
            return Err(StartError::ByNic(capabilities.name));
        }
        if capabilities.max_transfer < MAX_BODY {
            return Err(StartError::Transfer { transport: capabilities.name, most: capabilities.max_transfer });
        }
        let mailbox = Arc::new(Mailbox::new().map_err(StartError::Thread)?);
        let faults = Faults::new().map_err(ViewError::Open)?;
        let synchronising = Arc::new(AtomicU64::new(0));
        let parts = Parts {
            settings: settings.clone(),
            node,
            faults,
            segment: Arc::clone(&segment),
            copies: Arc::clone(&copies),
            operations: Operations::new(Arc::clone(&transport)),
            transport,
            mailbox: Arc::clone(&mailbox),
            ending,
            lender,
        };
        let service = std::thread::Builder::new().name("relaxed-memory".into());
        let service = service.spawn(move || Service::new(parts).run()).map_err(StartError::Thread)?;
        let used = Mutex::new(vec![0; settings.team.len()]);
        let maps = Arc::new(Maps { segment, copies, arrays: Mutex::default() });
        Ok(Memory { settings, mailbox, service: Some(service), maps, used, synchronising })
    }
}

/// What has to be there as long as somebody has an address in it.
#[derive(Debug)]
struct Maps {
    segment: Arc<OwnSegment>,
    copies: Arc<Copies>,
    arrays: Mutex<Vec<Mapping>>,
}

/// A rank's relaxed memory at work. Dropping it stops it; the other ranks lose this one, unless all have left.
#[derive(Debug)]
pub struct Memory {
    settings: Settings,
    mailbox: Arc<Mailbox<Command>>,
    service: Option<JoinHandle<()>>,
    maps: Arc<Maps>,
    /// Pages that arrays have taken at each rank.
    used: Mutex<Vec<u32>>,
    synchronising: Arc<AtomicU64>,
}

impl Memory {
    /// An array with so many pages at each rank: those homed at rank 0 first, then those homed at rank 1, and so on; zero at first. All ranks ask for the same
    /// arrays in the same order. It lives as long as the memory.
    ///
    /// # Errors
    /// [`ArrayError`] naming what does not fit or cannot be had.
    pub fn array(&self, parts: &[u32]) -> Result<Array, ArrayError> {
        let ranks = self.settings.team.len();
        if parts.len() != ranks {
            return Err(ArrayError::Ranks { given: parts.len(), ranks });
        }
        let parts: Vec<(Rank, u32)> = (0..).map(Rank).zip(parts.iter().copied()).collect();
        self.array_of(&parts)
    }

    /// An array of parts, each so many pages at a rank.
    ///
    /// # Errors
    /// [`ArrayError`] naming what does not fit or cannot be had.
    pub fn array_of(&self, parts: &[(Rank, u32)]) -> Result<Array, ArrayError> {
        let Settings { rank, pages, team, races, .. } = &self.settings;
        let mut used = locked(&self.used);
        let mut after = used.clone();
        let mut placed = Vec::new();
        for (home, wanted) in parts {
            let Some(next) = after.get_mut(usize::from(home.0)) else {
                return Err(ArrayError::Ranks { given: usize::from(home.0) + 1, ranks: team.len() });
            };
            let end = next.checked_add(*wanted).filter(|end| end <= pages);
            let no_room = ArrayError::NoRoom { wanted: *wanted, rank: home.0, pages: *pages };
            placed.push((*home, *next, *wanted));
            *next = end.ok_or(no_room)?;
        }
        // Whatever fails here from now on, the other ranks have taken these pages.
        *used = after;
        let bytes = parts.iter().map(|(_, pages)| *pages as usize * PAGE_BYTES).sum();
        let mapping = Mapping::reserve(usize::max(bytes, PAGE_BYTES)).map_err(ArrayError::Map)?;
        let mut arrays = locked(&self.maps.arrays);
        let array = u32::try_from(arrays.len()).unwrap_or(u32::MAX);
        let (mut at, mut spans) = (0, Vec::new());
        for (home, own, count) in placed.into_iter().filter(|(_, _, count)| *count > 0) {
            // It fits: all pages of all ranks can be numbered.
            let first = Page(u32::from(home.0) * pages + own);
            // Where races are looked for nothing is written in place.
            let here = home == *rank && races.is_none();
            let place = Place { array, offset: at as u64 };
            let span = Span { first, count, address: mapping.address() + at, here, place };
            let (file, offset) = if span.here {
                // The first of a segment are its rank's own pages, in order.
                (self.maps.segment.file(), u64::from(own) * PAGE_BYTES as u64)
            } else {
                (self.maps.copies.file(), Copies::offset(first))
            };
            mapping.place(at, file, offset, span.len()).map_err(ArrayError::Map)?;
            at += span.len();
            spans.push(span);
        }
        let array = Array { start: mapping.address(), bytes, _maps: Arc::clone(&self.maps) };
        // Before anybody is told of its faults: these addresses are in use from now on.
        arrays.push(mapping);
        drop(arrays);
        let waiter = Arc::new(Waiter::default());
        self.mailbox.push(Command::Add(spans, Arc::clone(&waiter)));
        waiter.wait()?;
        Ok(array)
    }

    /// An array of at least so many bytes, whose pages are homed in as many adjacent blocks as there are ranks, as even as can be.
    ///
    /// # Errors
    /// [`ArrayError`] naming what does not fit or cannot be had.
    pub fn array_in_blocks(&self, bytes: usize) -> Result<Array, ArrayError> {
        let no_room = ArrayError::NoRoom { wanted: u32::MAX, rank: self.settings.rank.0, pages: self.settings.pages };
        let pages = u32::try_from(bytes.div_ceil(PAGE_BYTES)).map_err(|_| no_room)?;
        self.array(&blocks(pages, self.settings.team.len()))
    }

    /// Asks for threads that wait in ways of their own.
    pub(in crate::memory) fn asker(&self) -> Asker {
        Asker(Arc::clone(&self.mailbox))
    }

    /// Makes the calling thread one of this rank's, by its number.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn join(&self, thread: u16) -> Result<Member, JoinError> {
        let threads = self.settings.team.get(usize::from(self.settings.rank.0)).copied().unwrap_or(0);
        if thread >= threads.min(MAX_THREADS) {
            return Err(JoinError::None { thread, threads });
        }
        let waiter = Arc::new(Waiter::default());
        let linux = rustix::thread::gettid().as_raw_nonzero().get();
        self.mailbox.push(Command::Join(ThreadId(thread), linux, Arc::clone(&waiter)));
        waiter.wait()?;
        Ok(Member::new(ThreadId(thread), Arc::clone(&self.mailbox), Arc::clone(&self.synchronising)))
    }

    /// What has been counted so far; nothing once the memory was stopped.
    #[must_use]
    pub fn statistics(&self) -> Option<Statistics> {
        let synchronising = self.synchronising.load(Ordering::Relaxed);
        self.asker().statistics().map(|statistics| Statistics { synchronising, ..statistics })
    }

    /// Waits until all ranks have called this, or are lost: until then this rank serves the others. Nobody touches an array from here on. For the end of a program;
    /// without it a rank that ends first is lost to the others.
    pub fn leave(&self) {
        let waiter = Arc::new(Waiter::default());
        self.mailbox.push(Command::Leave(Arc::clone(&waiter)));
        waiter.wait();
    }

    /// Ends its work. Threads that wait for pages go on, and see zeros where pages were not here.
    pub fn stop(&mut self) {
        self.mailbox.push(Command::Stop);
        if let Some(service) = self.service.take() {
            // A panic of the thread has ended the process already.
            let _ = service.join();
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.stop();
    }
}

/// So many pages in adjacent blocks, as even as can be.
fn blocks(pages: u32, ranks: usize) -> Vec<u32> {
    let ranks = u32::try_from(ranks).unwrap_or(u32::MAX).max(1);
    (0..ranks).map(|rank| pages / ranks + u32::from(rank < pages % ranks)).collect()
}

/// Memory that all ranks share, at addresses of this process. Its bytes are changed by other ranks where this one synchronises.
#[derive(Clone, Debug)]
pub struct Array {
    start: usize,
    bytes: usize,
    /// Keeps the addresses.
    _maps: Arc<Maps>,
}

impl Array {
    /// Its first byte, on a whole page.
    #[must_use]
    pub fn start(&self) -> NonNull<u8> {
        NonNull::new(self.start as *mut u8).unwrap_or(NonNull::dangling())
    }

    /// How long it is, in whole pages.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
