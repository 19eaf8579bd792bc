//! A device has all its pages, for what it wants them for, from the moment it is told so until it releases them.

use std::collections::BTreeMap;

use crate::id::{Access, Page, Rank, Run};
use crate::node::HoldId;

use super::super::rank::Site;
use super::{Checker, Violation};

/// Holds that are there.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    /// Per rank, what every page is at least held for, by hold.
    held: BTreeMap<(Rank, Page), BTreeMap<HoldId, Access>>,
}

impl Pins {
    /// A device was told that it has its pages.
    pub fn ready(&mut self, rank: Rank, id: HoldId, runs: &[(Run, Access)]) {
        for (run, access) in runs {
            for page in run.pages() {
                let most = self.held.entry((rank, page)).or_default().entry(id).or_insert(*access);
                *most = (*most).max(*access);
            }
        }
    }

    /// A device releases its pages.
    pub fn released(&mut self, rank: Rank, id: HoldId) {
        self.held.retain(|(holder, _), holds| {
            if *holder == rank {
                holds.remove(&id);
            }
            !holds.is_empty()
        });
    }

    /// Checks a page.
    ///
    /// # Errors
    /// [`Violation`] naming the hold that has lost it.
    pub fn check(&self, sites: &[Site], page: Page) -> Result<(), Violation> {
        for (rank, site) in super::super::rank::ranks(sites) {
            let Some(holds) = self.held.get(&(rank, page)) else { continue };
            if let Some((id, access)) = holds.iter().find(|(_, access)| !site.memory.permits(page, **access)) {
                let what = format!("rank {} does not have it for {access:?} in hold {}", rank.0, id.0);
                return Err(Violation::of_page(Checker::Pins, page, what));
            }
        }
        Ok(())
    }
}
