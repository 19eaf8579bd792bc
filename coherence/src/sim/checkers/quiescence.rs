//! When every program has ended and no message is under way, no node is busy with anything, and none keeps memory for
//! what is finished.

use super::super::rank::{Site, ranks};
use super::{Checker, Violation};

/// Checks all nodes.
///
/// # Errors
/// [`Violation`] naming a rank and what it still has to do.
pub fn check(sites: &[Site]) -> Result<(), Violation> {
    for (rank, node) in ranks(sites).flat_map(|(rank, site)| site.nodes.iter().map(move |node| (rank, node))) {
        if let Some(first) = node.unfinished().first() {
            return Err(Violation::of_rank(Checker::Quiescence, rank, format!("has still {first}")));
        }
        if let Some(due) = node.poll_timeout() {
            return Err(Violation::of_rank(Checker::Quiescence, rank, format!("waits still, for {} us", due.0)));
        }
    }
    Ok(())
}
