//! What must hold after every event. Each check is a function.

use std::fmt;

use crate::hlrc::node::Node;
use crate::hlrc::writer::Writer;
use crate::id::{Access, Page, Rank};

use super::memory::{Memory, Segments};

/// Who found a violation.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Check {
    /// A read saw what it would have in a sequential run; so does the memory at the end.
    Values,
    /// A lock has one holder.
    Exclusion,
    /// Nobody passes a barrier before all have come, and a reduction has its result.
    Barrier,
    /// [`agreement`]: threads may do what the node thinks they may.
    Agreement,
    /// [`twins`]: a page has a twin when somebody else may write it, and only then.
    Twins,
    /// [`alone`]: one rank at most takes itself for the only writer of a page, and the writer word has it.
    Alone,
    /// [`clocks`]: clocks go on, and nobody has seen more of a rank than there is.
    Clocks,
    /// [`bounds`]: no rank keeps more than it may.
    Bounds,
    /// [`queues`]: whoever waits for a lock does not try again and again.
    Queues,
    /// Waits end.
    Progress,
    /// What is finished is forgotten.
    Quiescence,
    /// Races are reported, and nothing else is.
    Races,
    /// An action that a rank's memory cannot execute.
    Memory,
    /// A node that fails or refuses without a reason.
    Protocol,
    /// A litmus test: an outcome that is not promised to be impossible ([`super::litmus`]).
    Litmus,
}

/// A rule that was broken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// Who found it.
    pub check: Check,
    /// What is wrong.
    pub what: String,
}

impl Violation {
    /// One with its words.
    #[must_use]
    pub fn new(check: Check, what: impl Into<String>) -> Self {
        Self { check, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.check, self.what)
    }
}

/// A rank's node with its memory.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// The node.
    pub node: &'a Node,
    /// The memory.
    pub memory: &'a Memory,
}

/// Threads may do with a page what the node thinks they may.
///
/// # Errors
/// [`Violation`].
pub fn agreement(pair: Pair<'_>, page: Page) -> Result<(), Violation> {
    let (thinks, may) = (pair.node.view(page).access, pair.memory.access(page));
    if thinks == may {
        return Ok(());
    }
    let rank = pair.node.at().0;
    Err(Violation::new(Check::Agreement, format!("rank {rank} has {may:?} of page {}, and thinks {thinks:?}", page.0)))
}

/// A page of another home, or of any where no home writes in place, that can be written has a twin unless this rank is alone; one that is clean has none.
///
/// # Errors
/// [`Violation`].
pub fn twins(pair: Pair<'_>, home: Option<Rank>, page: Page) -> Result<(), Violation> {
    let (view, has) = (pair.node.view(page), pair.memory.has_twin(page));
    let at_home = home == Some(pair.node.at());
    let needs = view.access == Some(Access::Write) && !at_home && !view.alone;
    let may = needs || view.flushing;
    if (has || !needs) && (may || !has) {
        return Ok(());
    }
    let what = if has { "has a twin of" } else { "has no twin of" };
    Err(Violation::new(Check::Twins, format!("rank {} {what} page {}: {view:?}", pair.node.at().0, page.0)))
}

/// One rank at most takes itself for the only writer of a page, and if the word says that somebody is, it is that one.
///
/// # Errors
/// [`Violation`].
pub fn alone(pairs: &[Pair<'_>], segments: &Segments, page: Page) -> Result<(), Violation> {
    let ranks: Vec<Rank> = pairs.iter().filter(|pair| pair.node.view(page).alone).map(|pair| pair.node.at()).collect();
    let word = pairs.first().and_then(|pair| pair.node.layout().writer(page));
    let word = word.map_or(0, |(home, offset)| segments.word(home, offset));
    let writer = Writer::decode(word, u16::try_from(pairs.len()).unwrap_or(u16::MAX));
    let fits = match (ranks.as_slice(), writer) {
        (_, None) | ([_, _, ..], _) => false,
        ([], _) | ([_], Some(Writer::Many)) => true,
        ([rank], Some(Writer::One(first) | Writer::Putting(first) | Writer::Saving { first, .. })) => *rank == first,
        ([_], Some(Writer::Nobody)) => false,
    };
    if fits {
        return Ok(());
    }
    Err(Violation::new(Check::Alone, format!("page {}: {ranks:?} are alone, the word says {writer:?}", page.0)))
}

/// Nobody has seen more of a rank than there is.
///
/// # Errors
/// [`Violation`].
pub fn clocks(pairs: &[Pair<'_>]) -> Result<(), Violation> {
    for pair in pairs {
        let at = pair.node.at();
        let written = pair.node.clock().of(at);
        if let Some(ahead) = pairs.iter().find(|other| other.node.clock().of(at) > written) {
            let what = format!("rank {} has seen more of rank {} than there is", ahead.node.at().0, at.0);
            return Err(Violation::new(Check::Clocks, what));
        }
    }
    Ok(())
}

/// A rank keeps no more twins and clean copies than it may. A page that has just come may be one too many.
///
/// # Errors
/// [`Violation`].
pub fn bounds(pair: Pair<'_>, cache_pages: Option<u32>, written_pages: u32) -> Result<(), Violation> {
    let (mapped, away) = pair.node.kept();
    let clean = mapped.saturating_sub(away);
    let twins = pair.memory.twins();
    // Pages that are about to be written or on their way home are passed over when room is made.
    let spare = 1 + written_pages as usize;
    let fits = away <= written_pages as usize
        && twins <= written_pages as usize
        && cache_pages.is_none_or(|most| clean <= most as usize + spare);
    if fits {
        return Ok(());
    }
    let what = format!("rank {} keeps {clean} clean pages, {away} written ones and {twins} twins", pair.node.at().0);
    Err(Violation::new(Check::Bounds, what))
}

/// A lock word is exchanged in vain only when another rank has come or gone meanwhile.
///
/// # Errors
/// [`Violation`].
pub fn queues(pairs: &[Pair<'_>]) -> Result<(), Violation> {
    let sum = |of: fn(&crate::hlrc::Stats) -> u64| pairs.iter().map(|pair| of(&pair.node.stats())).sum::<u64>();
    let swaps = sum(|stats| stats.lock_swaps);
    // Whoever has taken a lock was in its queue once, and a few of each rank may be on their way into one. The word changes when somebody comes and
    // when somebody goes, each of which every other rank may find out by an exchange in vain.
    let turns = sum(|stats| stats.locks_free + stats.locks_handed) + 4 * pairs.len() as u64;
    let most = 2 * turns * pairs.len() as u64;
    if swaps <= most {
        return Ok(());
    }
    Err(Violation::new(Check::Queues, format!("{swaps} exchanges of lock words for {turns} turns")))
}
