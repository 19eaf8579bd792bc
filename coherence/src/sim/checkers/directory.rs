//! The directory of a page's home knows of every copy at another rank: the one that can be written as its owner's, the
//! others as its owner's or a sharer's. It may know of more, as copies to read are dropped silently.

use crate::home::HomeMap;
use crate::id::{Access, Page};

use super::super::rank::{Site, ranks};
use super::{Checker, Violation};

/// Checks a page.
///
/// # Errors
/// [`Violation`] naming the copy that its home does not know of.
pub fn check(sites: &[Site], homes: &HomeMap, page: Page) -> Result<(), Violation> {
    let home = homes.home(page);
    let site = home.and_then(|home| sites.get(usize::from(home.0)));
    let Some(known) = site.and_then(|site| site.node_of(page).directory(page)) else {
        return Err(Violation::of_page(Checker::Directory, page, "its home has no entry for it".to_owned()));
    };
    for (rank, site) in ranks(sites).filter(|(rank, _)| Some(*rank) != home) {
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
