//! What a simulation is about, and what has come of it.

use crate::hlrc::{Config, Stats};
use crate::home::HomeMap;
use crate::id::{Page, Rank};

use super::program::{Planted, Program};

/// What a simulation is about.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Homes of the pages.
    pub homes: HomeMap,
    /// Threads of each rank.
    pub team: Vec<u16>,
    /// What each runs, in the order of ranks and threads.
    pub programs: Vec<Program>,
    /// Locks.
    pub locks: u32,
    /// Words of a notice ring.
    pub log_words: u32,
    /// Whether pages written by one rank alone have no twin.
    pub single_writer: bool,
    /// Whether races are looked for.
    pub check_races: bool,
    /// Turns after which a lock is kept.
    pub keep_after: u32,
    /// Whether ranks lend locks that they keep.
    pub lends: bool,
    /// Those that the programs have.
    pub planted: Vec<Planted>,
    /// Most clean copies of a rank.
    pub cache_pages: Option<u32>,
    /// Most written pages of a rank.
    pub written_pages: u32,
    /// Longest delay of an operation's part, in microseconds.
    pub delay: u64,
    /// Whether pages that have been read at their homes take long to come, so that much happens meanwhile.
    pub late_pages: bool,
    /// Whether ranks have pages ready that nobody has asked for.
    pub hints: bool,
    /// A rank that is lost, and when.
    pub loss: Option<(Rank, u64)>,
    /// Whether reads are checked: programs with races have no value that a read must see.
    pub check_reads: bool,
}

impl Scenario {
    /// The configuration of a rank's node.
    #[must_use]
    pub fn config(&self, rank: Rank) -> Config {
        let mut config = Config::new(rank, self.homes.clone(), self.team.clone());
        config.locks = self.locks;
        config.log_words = self.log_words;
        config.single_writer = self.single_writer;
        config.check_races = self.check_races;
        config.keep_after = self.keep_after;
        config.cache_pages = self.cache_pages;
        config.written_pages = self.written_pages;
        config
    }

    /// Pages homed at a rank, which it writes in place.
    #[must_use]
    pub fn homed(&self, rank: Rank) -> Vec<Page> {
        if self.check_races {
            return Vec::new();
        }
        (0..self.homes.pages()).map(Page).filter(|page| self.homes.home(*page) == Some(rank)).collect()
    }
}

/// What has come of it.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    /// What each rank has counted.
    pub stats: Vec<Stats>,
    /// What each thread has read, in order.
    pub reads: Vec<Vec<u64>>,
    /// Locks that were recovered from threads that ended, as the next holder was told.
    pub told_abandoned: u64,
}
