//! What must be when nothing is left to happen.

use crate::hlrc::LockId;
use crate::id::Page;

use super::super::checks::Check;
use super::{Machine, Right, wrong};

impl Machine<'_> {
    /// Nothing is left to happen.
    pub(super) fn check_end(&self) -> Right {
        self.check_waits()?;
        self.check_rest()
    }

    /// Nobody waits for ever.
    pub(super) fn check_waits(&self) -> Right {
        for thread in &self.threads {
            let over = thread.ended || thread.at == thread.program.len();
            if !over && !self.sites[usize::from(thread.rank.0)].lost {
                let step = thread.program.get(thread.at);
                return wrong(
                    Check::Progress,
                    format!("rank {} {} waits for ever at {step:?}", thread.rank.0, thread.id),
                );
            }
        }
        Ok(())
    }

    /// All is over, and memory is what it should be.
    fn check_rest(&self) -> Right {
        if self.scenario.loss.is_some() {
            return Ok(());
        }
        if let Some(observer) = &self.observer {
            observer.check_end()?;
        }
        if let Some(site) = self.sites.iter().find(|site| !site.node.is_idle() || !site.flights.is_empty()) {
            return wrong(
                Check::Quiescence,
                format!("rank {} has something left to do: {:?}", site.node.at().0, site.node),
            );
        }
        for lock in (0..self.scenario.locks).map(LockId) {
            let Some(layout) = self.sites.first().map(|site| site.node.layout()) else { return Ok(()) };
            let (keeper, offset) = layout.lock(lock);
            if self.segments.word(keeper, offset) != 0 {
                return wrong(Check::Quiescence, format!("{lock} is not free at the end"));
            }
        }
        for page in (0..self.scenario.homes.pages()).map(Page).filter(|_| self.scenario.check_reads) {
            let (is, expected) = (self.segments.page(page), self.reference.page(page));
            if is != expected {
                return wrong(Check::Values, format!("page {} ends as {is:x?}, not {expected:x?}", page.0));
            }
        }
        Ok(())
    }
}
