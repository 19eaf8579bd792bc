//! When every program has ended and no message is under way, no node is busy with anything, and none keeps memory for
//! what is finished.

use super::super::rank::{Site, ranks};
use super::{Checker, Violation};

/// Checks all nodes.
///
/// # Errors
/// [`Violation`] naming a rank and what it still has to do.
pub fn check(sites: &[Site]) -> Result<(), Violation> {
    for (rank, site) in ranks(sites) {
        if let Some(first) = site.node.unfinished().first() {
            return Err(Violation::of_rank(Checker::Quiescence, rank, format!("has still {first}")));
        }
        if let Some(due) = site.node.poll_timeout() {
            return Err(Violation::of_rank(Checker::Quiescence, rank, format!("waits still, for {} us", due.0)));
        }
    }
    Ok(())
}
