//! A rank that has left has no copy of a page, no home knows of one, and nothing is on its way to it or from it, then or later.

use crate::id::{Page, Rank};

use super::super::network::Network;
use super::super::rank::Site;
use super::{Checker, Violation};

/// Checks all pages when a rank has left.
///
/// # Errors
/// [`Violation`] naming what is left.
pub fn check(sites: &[Site], network: &Network, pages: u32, gone: Rank) -> Result<(), Violation> {
    for page in (0..pages).map(Page) {
        if sites.get(usize::from(gone.0)).is_some_and(|site| site.memory.copy(page).is_some()) {
            return Err(Violation::of_page(Checker::Leaving, page, format!("rank {} has left with a copy", gone.0)));
        }
        let mut known = sites.iter().filter_map(|site| site.node_of(page).directory(page));
        if let Some(known) = known.find(|known| known.owner == Some(gone) || known.holders.contains(gone)) {
            let what = format!("rank {} has left, and the home knows {known:?}", gone.0);
            return Err(Violation::of_page(Checker::Leaving, page, what));
        }
    }
    match network.busy_with(gone) {
        Some((from, to)) => Err(spoke(from, to, gone)),
        None => Ok(()),
    }
}

/// A message is under way between two ranks of which one has left.
#[must_use]
pub fn spoke(from: Rank, to: Rank, gone: Rank) -> Violation {
    let what = format!("a message to rank {}, and rank {} has left", to.0, gone.0);
    Violation::of_rank(Checker::Leaving, from, what)
}

/// A rank is to leave and does not.
#[must_use]
pub fn never(rank: Rank) -> Violation {
    Violation::of_rank(Checker::Leaving, rank, "has not left")
}
