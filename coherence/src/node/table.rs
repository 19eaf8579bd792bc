//! A table with one small entry per page of guest RAM, addressed by the page's number.

use crate::id::Page;

/// Pages whose entries are allocated together: 2 MiB of guest RAM, of which home segments are multiples, so that a rank has entries of one kind
/// only for nearly every page.
const BLOCK_PAGES: u32 = 512;

/// Most bytes of protocol state that a rank has for a page of guest RAM while nothing is under way with it.
pub(super) const MAX_PAGE_STATE: usize = 40;

/// Entries of a machine's pages. Memory is taken a block at a time, when the first entry of the block is set: a node that
/// never sees a block, because another shard or another rank has it, spends nothing on it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Table<T> {
    /// Number of pages.
    pages: u32,
    /// Entries by block; empty when all of them are as at the start.
    blocks: Vec<Vec<T>>,
}

impl<T: Copy + Default> Table<T> {
    /// A table for so many pages.
    pub(super) fn new(pages: u32) -> Self {
        Self { pages, blocks: vec![Vec::new(); pages.div_ceil(BLOCK_PAGES) as usize] }
    }

    /// The entry of a page; of a page that does not exist, one as at the start.
    pub(super) fn get(&self, page: Page) -> T {
        self.blocks
            .get((page.0 / BLOCK_PAGES) as usize)
            .and_then(|block| block.get((page.0 % BLOCK_PAGES) as usize))
            .copied()
            .unwrap_or_default()
    }

    /// Whether an entry has ever been set.
    pub(super) fn is_used(&self) -> bool {
        self.blocks.iter().any(|block| !block.is_empty())
    }

    /// The first page from this one on whose entry may not be as at the start.
    pub(super) fn used_from(&self, page: Page) -> Option<Page> {
        if page.0 >= self.pages {
            return None;
        }
        let first = page.0 / BLOCK_PAGES;
        let is_used = |number: &u32| self.blocks.get(*number as usize).is_some_and(|block| !block.is_empty());
        let block = (first..self.pages.div_ceil(BLOCK_PAGES)).find(is_used)?;
        Some(Page(page.0.max(block * BLOCK_PAGES)))
    }

    /// Replaces the entry of a page. A page that does not exist has none.
    pub(super) fn set(&mut self, page: Page, entry: T) {
        let first = page.0 - page.0 % BLOCK_PAGES;
        let len = self.pages.saturating_sub(first).min(BLOCK_PAGES) as usize;
        let Some(block) = self.blocks.get_mut((page.0 / BLOCK_PAGES) as usize) else { return };
        if block.is_empty() {
            block.resize(len, T::default());
        }
        if let Some(old) = block.get_mut((page.0 - first) as usize) {
            *old = entry;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_what_was_set_last_and_the_default_before() {
        let mut table = Table::<u8>::new(BLOCK_PAGES + 2);
        for (page, entry) in [(0, 1), (BLOCK_PAGES - 1, 2), (BLOCK_PAGES + 1, 3), (0, 4)] {
            table.set(Page(page), entry);
        }
        let entries = [0, 1, BLOCK_PAGES - 1, BLOCK_PAGES, BLOCK_PAGES + 1].map(|page| table.get(Page(page)));
        assert_eq!(entries, [4, 0, 2, 0, 3]);
    }

    #[test]
    fn pages_that_do_not_exist_have_no_entry() {
        let mut table = Table::<u8>::new(3);
        for page in [3, BLOCK_PAGES, u32::MAX] {
            table.set(Page(page), 7);
            assert_eq!(table.get(Page(page)), 0);
        }
    }

    #[test]
    fn used_blocks_are_found_and_others_passed_over() {
        let mut table = Table::<u8>::new(2 * BLOCK_PAGES + 3);
        assert_eq!(table.used_from(Page(0)), None);
        table.set(Page(BLOCK_PAGES + 1), 1);
        assert_eq!(table.used_from(Page(0)), Some(Page(BLOCK_PAGES)));
        assert_eq!(table.used_from(Page(BLOCK_PAGES + 2)), Some(Page(BLOCK_PAGES + 2)));
        assert_eq!(table.used_from(Page(2 * BLOCK_PAGES)), None);
        table.set(Page(2 * BLOCK_PAGES), 1);
        assert_eq!(table.used_from(Page(2 * BLOCK_PAGES + 2)), Some(Page(2 * BLOCK_PAGES + 2)));
        assert_eq!(table.used_from(Page(2 * BLOCK_PAGES + 3)), None);
    }

    #[test]
    fn a_block_costs_nothing_before_its_first_entry() {
        let mut table = Table::<u64>::new(4 * BLOCK_PAGES);
        table.set(Page(2 * BLOCK_PAGES), 1);
        let lens: Vec<usize> = table.blocks.iter().map(Vec::len).collect();
        assert_eq!(lens, [0, 0, BLOCK_PAGES as usize, 0]);
    }
}
