//! The directory of a page's home knows of every copy at another rank: the one that can be written as its owner's, the
//! others as its owner's or a sharer's. It may know of more, as copies to read are dropped silently. One rank is the page's home, or none while its
//! entry is on the way from one to another, and all others have frozen it or have left.

use crate::id::{Access, Page};

use super::super::rank::{Site, ranks};
use super::{Checker, Violation};

/// Checks a page.
///
/// # Errors
/// [`Violation`] naming the copy that its home does not know of.
pub fn check(sites: &[Site], page: Page) -> Result<(), Violation> {
    let mut homes = ranks(sites).filter_map(|(rank, site)| Some((rank, site.node_of(page).directory(page)?)));
    let Some((home, known)) = homes.next() else {
        let goes_on = ranks(sites).find(|(_, site)| {
            let node = site.node_of(page);
            !node.is_frozen(page) && !node.is_out()
        });
        return goes_on.map_or(Ok(()), |(rank, _)| {
            let what = format!("it has no home, and rank {} goes on as if it had", rank.0);
            Err(Violation::of_page(Checker::Directory, page, what))
        });
    };
    if let Some((other, _)) = homes.next() {
        let what = format!("it has its home at rank {} and at rank {}", home.0, other.0);
        return Err(Violation::of_page(Checker::Directory, page, what));
    }
    for (rank, site) in ranks(sites).filter(|(rank, _)| *rank != home) {
        if site.memory.copy(page).is_none() {
            continue;
        }
        let access = site.memory.access(page);
        // Others may have read it in the window: see the checker of marks.
        if known.is_shown && access == Some(Access::Read) {
            continue;
        }
        let covered = known.owner == Some(rank) || (access != Some(Access::Write) && known.holders.contains(rank));
        if !covered {
            let what = format!("rank {} has a copy ({access:?}), its home knows {known:?}", rank.0);
            return Err(Violation::of_page(Checker::Directory, page, what));
        }
    }
    Ok(())
}
