//! Who has read a page in its home's window is found when the home takes it out of there: every copy of a page in the window
//! is one that the home knows of, or its rank has marked the slot.

use crate::id::{Access, Page};

use super::super::rank::{Site, ranks};
use super::{Checker, Violation};

/// Checks a page.
///
/// # Errors
/// [`Violation`] naming the copy that nobody will find.
pub fn check(sites: &[Site], page: Page) -> Result<(), Violation> {
    let home = ranks(sites).find_map(|(rank, site)| Some((rank, site, site.node_of(page).directory(page)?)));
    let Some((home, site, known)) = home.filter(|(_, _, known)| known.is_shown) else { return Ok(()) };
    let marks = site.slot_of(page).marks;
    for (rank, site) in ranks(sites).filter(|(rank, _)| *rank != home) {
        let may_read = site.memory.access(page) == Some(Access::Read);
        if may_read && !known.holders.contains(rank) && !marks.contains(rank) {
            let what =
                format!("rank {} has a copy of a page in the window and no mark, its home knows {known:?}", rank.0);
            return Err(Violation::of_page(Checker::Marks, page, what));
        }
    }
    Ok(())
}
