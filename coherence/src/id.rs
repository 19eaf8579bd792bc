//! Names of things: ranks, pages, versions, points in time.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Size of a guest page, the unit of coherence, in bytes.
pub const PAGE_BYTES: usize = 4096;

/// Most ranks of a machine: a set of ranks is one word.
pub const MAX_RANKS: u16 = 64;

/// Most pages in one [`Run`] of a message: 1 MiB, what one large disk read touches.
pub const MAX_RUN: u16 = 256;

/// Pages of one stripe, 64 MiB: the smallest share of a rank's pages that a node of its own may have, when a rank runs several. Neither
/// read-ahead nor a first touch goes from one stripe to the next.
pub const STRIPE_PAGES: u32 = 16384;

/// A process of the machine, numbered from 0. Rank 0 has the devices.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "u16")]
pub struct Rank(pub u16);

/// A number that is no rank's.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("rank {0}: ranks have numbers below {MAX_RANKS}")]
pub struct NoRank(pub u16);

/// What others say is a rank.
impl TryFrom<u16> for Rank {
    type Error = NoRank;

    fn try_from(number: u16) -> Result<Self, NoRank> {
        if number < MAX_RANKS { Ok(Self(number)) } else { Err(NoRank(number)) }
    }
}

/// A page of guest RAM by its place in the RAM file: the guest's frame number without the hole for devices.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Page(pub u32);

/// How often the right to write a page has been granted: two copies of one version are equal.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Version(pub u64);

impl Version {
    /// No copy at all. Real versions start at 1.
    pub const NONE: Self = Self(0);

    /// The version after this one; the last of all, which none ever gets to by counting, stays.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A point in time in microseconds since some start of the rank's own.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tick(pub u64);

/// What a copy of a page is good for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Access {
    /// Reading; others may have such a copy too.
    Read,
    /// Reading and writing; nobody else has a copy.
    Write,
}

/// Adjacent pages, at least one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Run {
    /// The first.
    pub first: Page,
    /// How many.
    pub count: u16,
}

impl Run {
    /// A run of one page.
    #[must_use]
    pub fn one(page: Page) -> Self {
        Self { first: page, count: 1 }
    }

    /// Its pages in order.
    pub fn pages(self) -> impl ExactSizeIterator<Item = Page> + Clone {
        (0..self.count).map(move |index| Page(self.first.0.saturating_add(index.into())))
    }

    /// The page after its last.
    #[must_use]
    pub fn end(self) -> Page {
        Page(self.first.0.saturating_add(self.count.into()))
    }

    /// Whether the page is one of them.
    #[must_use]
    pub fn contains(self, page: Page) -> bool {
        (self.first..self.end()).contains(&page)
    }
}

/// A set of ranks.
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
pub struct RankSet(u64);

const _: () = assert!(MAX_RANKS as u32 == u64::BITS);

impl RankSet {
    /// Nobody.
    pub const EMPTY: Self = Self(0);

    /// It as a number: one bit a rank, rank 0 the lowest.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// What was made a number of.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The ranks below this one.
    #[must_use]
    pub fn below(ranks: u16) -> Self {
        (0..ranks.min(MAX_RANKS)).map(Rank).collect()
    }

    /// Whether all of these are in it.
    #[must_use]
    pub fn contains_all(self, others: Self) -> bool {
        others.0 & !self.0 == 0
    }

    /// One rank.
    #[must_use]
    pub fn one(rank: Rank) -> Self {
        Self(1 << rank.0)
    }

    /// Adds a rank; says whether it is new.
    pub fn insert(&mut self, rank: Rank) -> bool {
        let new = !self.contains(rank);
        self.0 |= 1 << rank.0;
        new
    }

    /// Takes a rank out; says whether it was in.
    pub fn remove(&mut self, rank: Rank) -> bool {
        let was = self.contains(rank);
        self.0 &= !(1 << rank.0);
        was
    }

    /// Whether a rank is in it.
    #[must_use]
    pub fn contains(self, rank: Rank) -> bool {
        self.0 & (1 << rank.0) != 0
    }

    /// Whether nobody is in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many are in it.
    #[must_use]
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Its ranks in order.
    pub fn iter(self) -> impl Iterator<Item = Rank> {
        (0..MAX_RANKS).map(Rank).filter(move |rank| self.contains(*rank))
    }
}

impl FromIterator<Rank> for RankSet {
    fn from_iter<I: IntoIterator<Item = Rank>>(ranks: I) -> Self {
        ranks.into_iter().fold(Self::EMPTY, |mut set, rank| {
            set.insert(rank);
            set
        })
    }
}

impl fmt::Debug for RankSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|rank| rank.0)).finish()
    }
}
