//! What a node believes that its rank may do with a page is what the guest's processors there can do.

use crate::id::Page;

use super::super::rank::{Site, ranks};
use super::{Checker, Violation};

/// Checks a page, between the inputs of nodes.
///
/// # Errors
/// [`Violation`] naming the rank that is wrong.
pub fn check(sites: &[Site], page: Page) -> Result<(), Violation> {
    for (rank, site) in ranks(sites) {
        let believed = site.node_of(page).access(page);
        let real = site.memory.access(page);
        if believed != real {
            let what = format!("the node of rank {} believes in {believed:?}, its guest has {real:?}", rank.0);
            return Err(Violation::of_page(Checker::Agreement, page, what));
        }
    }
    Ok(())
}
