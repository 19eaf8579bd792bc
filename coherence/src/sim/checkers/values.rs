//! Every copy that a guest can read has the last value written anywhere.

use crate::id::Page;

use super::super::memory::{View, Words};
use super::super::rank::{Site, ranks};
use super::{Checker, Violation};

/// Checks the copies of a page against its last value.
///
/// # Errors
/// [`Violation`] naming the rank with another value.
pub fn check(sites: &[Site], last: Words, page: Page) -> Result<(), Violation> {
    for (rank, site) in ranks(sites) {
        let readable = site.memory.copy(page).filter(|copy| copy.view >= View::Read);
        if let Some(copy) = readable.filter(|copy| copy.words != last) {
            let what = format!("rank {} has {:?}, the last value is {last:?}", rank.0, copy.words);
            return Err(Violation::of_page(Checker::Values, page, what));
        }
    }
    Ok(())
}
