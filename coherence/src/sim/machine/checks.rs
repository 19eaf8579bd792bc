//! Which checkers look at a page when.

use crate::id::Page;

use super::super::checkers::{agreement, directory, exclusive, marks, values};
use super::{Checked, Machine};

impl Machine<'_> {
    /// After every action and access.
    pub(super) fn check_page(&self, page: Page) -> Checked {
        exclusive::check(&self.sites, page)?;
        values::check(&self.sites, self.truth.last(page), page)?;
        self.pins.check(&self.sites, page)
    }

    /// When a node's actions have been done.
    pub(super) fn check_between_inputs(&self, page: Page) -> Checked {
        directory::check(&self.sites, page)?;
        marks::check(&self.sites, page)?;
        agreement::check(&self.sites, page)
    }

    /// All of it.
    pub(super) fn check_all(&self) -> Checked {
        for page in (0..self.scenario.homes.pages()).map(Page) {
            self.check_page(page)?;
            self.check_between_inputs(page)?;
        }
        Ok(())
    }
}
