//! A page stays in the view, with what it may be used for, for the minimum hold time after it came or was allowed to be
//! written, if a processor waited for it and until all of the rank sleep. A page that came as a guess may go at once.

use std::collections::BTreeMap;

use crate::id::{Access, Page, Rank, Run, Tick};
use crate::node::Action;

use super::{Checker, Violation};

/// When pages came, on each rank's own clock.
#[derive(Clone, Debug)]
pub struct HoldTimes {
    hold: u64,
    granted: BTreeMap<(Rank, Page), Tick>,
}

impl HoldTimes {
    /// For nodes with this hold time in microseconds.
    #[must_use]
    pub fn new(hold: Tick) -> Self {
        Self { hold: hold.0, granted: BTreeMap::new() }
    }

    /// The rank's processors sleep: what came until now is kept no longer.
    pub fn end(&mut self, rank: Rank) {
        self.granted.retain(|(of, _), _| *of != rank);
    }

    /// Takes note of an action that a rank executes at this time of its own; `wanted` says whether a processor there
    /// waits for a page with this access or less, and the node knows. A copy to read is of no use to one that waits to write.
    ///
    /// # Errors
    /// [`Violation`] when it takes away what was not there for long enough.
    pub fn check(
        &mut self,
        rank: Rank,
        now: Tick,
        action: &Action,
        wanted: impl Fn(Page, Access) -> bool,
    ) -> Result<(), Violation> {
        match action {
            Action::Map { run, access, .. } => self.came(rank, now, *run, |page| wanted(page, *access)),
            Action::Allow { run } => self.came(rank, now, *run, |page| wanted(page, Access::Write)),
            Action::Protect { run } | Action::Detach { run } => {
                for page in run.pages() {
                    self.lost(rank, now, page)?;
                }
            }
            Action::Unmap { run } => {
                for page in run.pages() {
                    self.lost(rank, now, page)?;
                    self.granted.remove(&(rank, page));
                }
            }
            Action::Send { .. }
            | Action::Wake { .. }
            | Action::HoldReady { .. }
            | Action::HandedOver { .. }
            | Action::Show { .. }
            | Action::Hide { .. }
            | Action::GuardedRead { .. } => {}
        }
        Ok(())
    }

    fn came(&mut self, rank: Rank, now: Tick, run: Run, wanted: impl Fn(Page) -> bool) {
        self.granted.extend(run.pages().filter(|page| wanted(*page)).map(|page| ((rank, page), now)));
    }

    fn lost(&self, rank: Rank, now: Tick, page: Page) -> Result<(), Violation> {
        let Some(granted) = self.granted.get(&(rank, page)) else { return Ok(()) };
        let had = now.0.saturating_sub(granted.0);
        if had >= self.hold {
            return Ok(());
        }
        let what = format!("rank {} had it for {had} us, the hold time is {} us", rank.0, self.hold);
        Err(Violation::of_page(Checker::HoldTime, page, what))
    }
}
