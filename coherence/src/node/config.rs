//! What a node is told at its start.

use super::companions::MAX_COMPANIONS;
use super::hints::MAX_WAIT;
use crate::home::HomeMap;
use crate::id::{MAX_RANKS, MAX_RUN, Rank, Tick};
use crate::window::{Layout, MAX_SLOTS};

/// A node's place and limits.
#[derive(Clone, Debug)]
pub struct Config {
    /// This rank.
    pub rank: Rank,
    /// Number of ranks.
    pub ranks: u16,
    /// The homes of all pages.
    pub homes: HomeMap,
    /// How long a rank keeps a page after it got it, whoever wants it: long enough that an instruction which needs several
    /// pages gets to use them all. In microseconds.
    pub hold: Tick,
    /// Most pages of other homes that this rank keeps; None is no limit. Pages that may not go yet, because a device has them or for their
    /// hold time, may go beyond.
    pub cache_pages: Option<u32>,
    /// Most pages asked for ahead of a sequential reader; 0 turns it off.
    pub read_ahead: u16,
    /// How many pages of its own, untouched by anybody, a home takes at the first touch of one of them: an aligned block
    /// of so many, a power of two.
    pub first_touch: u16,
    /// Most pages that are asked for together, once ranks have taken them from each other together; 0 turns it off.
    pub companions: u16,
    /// Whether pages homed here that each rank reads and then writes are given to be written at once.
    pub migratory: bool,
    /// Windows in which homes show clean pages: all ranks have one for this node's pages, or none has.
    pub window: Option<WindowConfig>,
}

/// How windows are used.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct WindowConfig {
    /// Slots of each window, 1 to [`MAX_SLOTS`]; the same at all ranks.
    pub slots: u32,
    /// A home shows a page once so many other ranks may have a copy to read, or one asks again for what it had. At least 1.
    pub readers: u16,
    /// When another rank asks to read a page, those of the aligned block of so many around it that the home alone has are shown as well: a power of
    /// two, at most [`MAX_RUN`]; 1 for none.
    pub near: u16,
    /// Most misses in a block of pages that go by message between two looks into a window in vain; 0 looks each time. At most 63.
    pub wait: u8,
}

/// Smallest cache in pages: what one instruction of the guest can need at once, with its page tables, many times over.
pub const MIN_CACHE_PAGES: u32 = 256;

/// Why a configuration is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// The number of ranks.
    #[error("{0} ranks: a machine has 1 to {MAX_RANKS}")]
    Ranks(u16),
    /// This rank is not one of them.
    #[error("rank {rank} of a machine with {ranks} ranks")]
    Rank {
        /// This rank.
        rank: u16,
        /// Number of ranks.
        ranks: u16,
    },
    /// A home is not one of them.
    #[error("pages have their home at rank {0}, which the machine does not have")]
    Home(u16),
    /// The cache is too small to work with.
    #[error("a cache of {0} pages is too small; give at least {MIN_CACHE_PAGES}")]
    Cache(u32),
    /// Too many companions.
    #[error("{0} pages that are asked for together; give at most {MAX_COMPANIONS}")]
    Companions(u16),
    /// Windows that cannot be.
    #[error(
        "windows of {slots} slots for pages with {readers} readers and {near} near them, after {wait} misses; give 1 to {MAX_SLOTS} slots, at least 1 reader, a power of two up to {MAX_RUN} near it, and at most {MAX_WAIT} misses"
    )]
    Window {
        /// Slots.
        slots: u32,
        /// Readers.
        readers: u16,
        /// Pages near.
        near: u16,
        /// Misses.
        wait: u8,
    },
    /// Read-ahead or first touch out of bounds.
    #[error("{what} of {pages} pages; give at most {MAX_RUN}, and a power of two for the first touch")]
    Pages {
        /// Which setting.
        what: &'static str,
        /// Its value.
        pages: u16,
    },
}

impl Config {
    /// Of a rank that has every page alone and when it is needed: no hold time, no limit, no guess and no window.
    #[must_use]
    pub fn plain(rank: Rank, ranks: u16, homes: HomeMap) -> Self {
        let (hold, cache_pages, window) = (Tick(0), None, None);
        let (read_ahead, first_touch, companions, migratory) = (0, 1, 0, false);
        Self { rank, ranks, homes, hold, cache_pages, read_ahead, first_touch, companions, migratory, window }
    }

    /// Whether a node can be made of it.
    ///
    /// # Errors
    /// [`ConfigError`] naming what does not fit.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(1..=MAX_RANKS).contains(&self.ranks) {
            return Err(ConfigError::Ranks(self.ranks));
        }
        if self.rank.0 >= self.ranks {
            return Err(ConfigError::Rank { rank: self.rank.0, ranks: self.ranks });
        }
        if let Some(home) = self.homes.ranks().find(|home| home.0 >= self.ranks) {
            return Err(ConfigError::Home(home.0));
        }
        if let Some(pages) = self.cache_pages.filter(|pages| *pages < MIN_CACHE_PAGES) {
            return Err(ConfigError::Cache(pages));
        }
        if self.read_ahead > MAX_RUN {
            return Err(ConfigError::Pages { what: "read-ahead", pages: self.read_ahead });
        }
        if self.companions > MAX_COMPANIONS {
            return Err(ConfigError::Companions(self.companions));
        }
        if let Some(WindowConfig { slots, readers, near, wait }) = self.window
            && (Layout::new(slots).is_none()
                || readers == 0
                || near > MAX_RUN
                || !near.is_power_of_two()
                || wait > MAX_WAIT)
        {
            return Err(ConfigError::Window { slots, readers, near, wait });
        }
        if self.first_touch > MAX_RUN || !self.first_touch.is_power_of_two() {
            return Err(ConfigError::Pages { what: "a first touch", pages: self.first_touch });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let homes = HomeMap::new([(8, Rank(0)), (8, Rank(1))]).expect("a home map");
        Config::plain(Rank(1), 2, homes)
    }

    #[test]
    fn limits_are_part_of_what_may_be() {
        let homes = HomeMap::new([(1, Rank(MAX_RANKS - 1))]).expect("a home map");
        let (ranks, rank) = (MAX_RANKS, Rank(MAX_RANKS - 1));
        let cache_pages = Some(MIN_CACHE_PAGES);
        let most = Config {
            rank,
            ranks,
            homes,
            cache_pages,
            read_ahead: MAX_RUN,
            first_touch: MAX_RUN,
            companions: MAX_COMPANIONS,
            window: Some(WindowConfig { slots: MAX_SLOTS, readers: MAX_RANKS, near: MAX_RUN, wait: MAX_WAIT }),
            ..config()
        };
        assert_eq!(most.check(), Ok(()));
        assert_eq!(config().check(), Ok(()));
    }

    #[test]
    fn beyond_the_limits_the_error_names_what() {
        let refused = |change: fn(&mut Config)| {
            let mut config = config();
            change(&mut config);
            config.check().expect_err("an error").to_string()
        };
        assert_eq!(refused(|config| config.ranks = 0), "0 ranks: a machine has 1 to 64");
        assert_eq!(refused(|config| config.ranks = 65), "65 ranks: a machine has 1 to 64");
        assert_eq!(refused(|config| config.rank = Rank(2)), "rank 2 of a machine with 2 ranks");
        let one_rank = |config: &mut Config| (config.ranks, config.rank) = (1, Rank(0));
        assert_eq!(refused(one_rank), "pages have their home at rank 1, which the machine does not have");
        let small = |config: &mut Config| config.cache_pages = Some(MIN_CACHE_PAGES - 1);
        assert_eq!(refused(small), "a cache of 255 pages is too small; give at least 256");
        assert!(refused(|config| config.read_ahead = MAX_RUN + 1).starts_with("read-ahead of 257 pages"));
        let window = |slots, readers, near, wait| {
            let window = Some(WindowConfig { slots, readers, near, wait });
            Config { window, ..config() }.check().map_err(|error| error.to_string().starts_with("windows of"))
        };
        assert_eq!(window(1, 1, 1, 0), Ok(()));
        assert_eq!([window(0, 1, 1, 0), window(MAX_SLOTS + 1, 1, 1, 0)], [Err(true), Err(true)]);
        assert_eq!([window(1, 0, 1, 0), window(1, 1, 1, MAX_WAIT + 1)], [Err(true), Err(true)]);
        assert_eq!([0, 3, 2 * MAX_RUN].map(|near| window(1, 1, near, 0)), [Err(true); 3]);
        assert!(refused(|config| config.first_touch = 0).starts_with("a first touch of 0 pages"));
        assert!(refused(|config| config.first_touch = 3).starts_with("a first touch of 3 pages"));
        assert!(refused(|config| config.first_touch = 512).starts_with("a first touch of 512 pages"));
    }
}
