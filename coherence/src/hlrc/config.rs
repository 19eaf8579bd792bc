//! What a node is told at its start.

use crate::home::HomeMap;
use crate::id::{MAX_RANKS, Rank};

use super::node::MIN_PAGES;

/// Most locks of a machine.
pub const MAX_LOCKS: u32 = 65536;

/// Most words of a rank's notice ring: 512 KiB.
pub const MAX_LOG_WORDS: u32 = 65536;

/// Most threads of a rank.
pub const MAX_THREADS: u16 = 4096;

/// Locks, unless told otherwise.
const LOCKS: u32 = 1024;
/// Words of the notice ring, unless told otherwise: 64 KiB.
const LOG_WORDS: u32 = 8192;
/// Turns of a rank with a lock in a row, after the first, from which on it keeps the lock, unless told otherwise.
const KEEP_AFTER: u32 = 1;
/// Pages with a twin at once, unless told otherwise: 64 MiB.
const WRITTEN_PAGES: u32 = 16384;

/// The configuration of a rank's node. But for `rank` and the two limits of its own memory it is the same on all ranks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// This rank.
    pub rank: Rank,
    /// The homes of the pages of relaxed memory.
    pub homes: HomeMap,
    /// How many threads each rank has: the team of every barrier.
    pub team: Vec<u16>,
    /// How many locks there are.
    pub locks: u32,
    /// Words of each rank's notice ring. A rank that is further behind than that drops its whole cache.
    pub log_words: u32,
    /// Whether a page that one rank alone writes has no twin. It takes a shadow of each page at its home.
    pub single_writer: bool,
    /// Whether all that each rank writes is known to the byte, for a [`Checker`](super::race::Checker): pages are written at no home in place and by nobody
    /// without a twin, and go home before a rank takes over what others have changed.
    pub check_races: bool,
    /// How often in a row this rank takes a lock again under which no other rank has changed anything meanwhile before it keeps it when it is given back. From
    /// then on the lock costs this rank nothing, and the next one that comes waits until what this rank has written is home. Where races are looked for no
    /// lock is kept, as an interval is to end where a thread ends it.
    pub keep_after: u32,
    /// Most pages of other homes that this rank keeps and has not written.
    pub cache_pages: Option<u32>,
    /// Most pages of other homes written and not yet brought home, so most twins; more are brought home at once.
    pub written_pages: u32,
}

/// Why a configuration cannot be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// Too many ranks, or none.
    #[error("{0} ranks; a machine has 1 to {MAX_RANKS}")]
    Ranks(usize),
    /// This rank is not one of them.
    #[error("rank {0} is not one of the {1} in the team")]
    Rank(u16, usize),
    /// A rank with too many threads or none.
    #[error("rank {0} with {1} threads; each has 1 to {MAX_THREADS}")]
    Threads(usize, u16),
    /// A page's home is no rank.
    #[error("rank {0} is the home of pages and not in the team")]
    Home(u16),
    /// Too many locks.
    #[error("{0} locks; there are at most {MAX_LOCKS}")]
    Locks(u32),
    /// A ring that is too long, or has no room.
    #[error("a notice ring of {0} words; it has 1 to {MAX_LOG_WORDS}")]
    Log(u32),
    /// Too few pages may be written.
    #[error("{0} written pages at a time; one instruction may need many: at least {MIN_PAGES}")]
    WrittenPages(u32),
    /// The cache is too small.
    #[error("a cache of {0} pages; one instruction may need many: at least {MIN_PAGES}")]
    CachePages(u32),
}

impl Config {
    /// One with the usual limits, for a team of so many threads on each rank.
    #[must_use]
    pub fn new(rank: Rank, homes: HomeMap, team: Vec<u16>) -> Self {
        Self {
            rank,
            homes,
            team,
            locks: LOCKS,
            log_words: LOG_WORDS,
            single_writer: true,
            check_races: false,
            keep_after: KEEP_AFTER,
            cache_pages: None,
            written_pages: WRITTEN_PAGES,
        }
    }

    /// Whether a page that one rank alone writes has no twin.
    pub(super) fn has_single_writers(&self) -> bool {
        self.single_writer && !self.check_races
    }

    /// How many ranks there are.
    pub(super) fn ranks(&self) -> u16 {
        u16::try_from(self.team.len()).unwrap_or(MAX_RANKS)
    }

    /// How many threads this rank has.
    pub(super) fn threads(&self) -> u16 {
        self.team.get(usize::from(self.rank.0)).copied().unwrap_or(0)
    }

    /// How many threads there are on all ranks.
    pub(super) fn members(&self) -> u32 {
        self.team.iter().map(|threads| u32::from(*threads)).sum()
    }

    /// # Errors
    /// [`ConfigError`] naming what does not fit.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let ranks = self.team.len();
        if !(1..=usize::from(MAX_RANKS)).contains(&ranks) {
            return Err(ConfigError::Ranks(ranks));
        }
        if usize::from(self.rank.0) >= ranks {
            return Err(ConfigError::Rank(self.rank.0, ranks));
        }
        if let Some((rank, threads)) = (0..).zip(&self.team).find(|(_, threads)| !(1..=MAX_THREADS).contains(threads)) {
            return Err(ConfigError::Threads(rank, *threads));
        }
        if let Some(home) = self.homes.ranks().find(|home| usize::from(home.0) >= ranks) {
            return Err(ConfigError::Home(home.0));
        }
        if self.locks > MAX_LOCKS {
            return Err(ConfigError::Locks(self.locks));
        }
        if !(1..=MAX_LOG_WORDS).contains(&self.log_words) {
            return Err(ConfigError::Log(self.log_words));
        }
        if self.written_pages == 0 {
            return Err(ConfigError::WrittenPages(0));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::new(Rank(1), HomeMap::new([(1, Rank(0))]).unwrap(), vec![1, 2])
    }

    #[test]
    fn limits_are_kept_at_their_edges() {
        let edge = Config {
            team: vec![MAX_THREADS; MAX_RANKS.into()],
            locks: MAX_LOCKS,
            log_words: MAX_LOG_WORDS,
            written_pages: 1,
            ..config()
        };
        assert_eq!(edge.check(), Ok(()));
        let ranks = usize::from(MAX_RANKS) + 1;
        let beyond = [
            (Config { team: vec![1; ranks], ..config() }, ConfigError::Ranks(ranks)),
            (Config { team: Vec::new(), ..config() }, ConfigError::Ranks(0)),
            (Config { rank: Rank(2), ..config() }, ConfigError::Rank(2, 2)),
            (Config { team: vec![1, 0], ..config() }, ConfigError::Threads(1, 0)),
            (Config { team: vec![MAX_THREADS + 1, 1], ..config() }, ConfigError::Threads(0, MAX_THREADS + 1)),
            (Config { homes: HomeMap::new([(1, Rank(2))]).unwrap(), ..config() }, ConfigError::Home(2)),
            (Config { locks: MAX_LOCKS + 1, ..config() }, ConfigError::Locks(MAX_LOCKS + 1)),
            (Config { log_words: 0, ..config() }, ConfigError::Log(0)),
            (Config { log_words: MAX_LOG_WORDS + 1, ..config() }, ConfigError::Log(MAX_LOG_WORDS + 1)),
            (Config { written_pages: 0, ..config() }, ConfigError::WrittenPages(0)),
        ];
        for (config, error) in beyond {
            assert_eq!(config.check(), Err(error));
        }
    }
}
