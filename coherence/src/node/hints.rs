//! Whether it pays to look into a home's window before a page is asked for by message.
//!
//! A look in vain costs a round trip. Pages near each other tend to be shared alike, so a rank remembers of blocks of pages
//! how it went last: after a hit the next miss looks again, after so many looks in vain it takes longer and longer.

use std::collections::BTreeMap;

use crate::id::Page;

/// Pages of a block.
pub(super) const HINT_PAGES: u32 = 16;

/// Most blocks remembered; one that comes in the place of another begins anew.
pub(super) const MAX_HINTS: u32 = 4096;

/// Misses of a block nothing is known of that go by message before the first look, if so many may: the first one has the home show what is near.
const FIRST_WAIT: u8 = 1;

/// Most misses that go by message between two looks.
pub(super) const MAX_WAIT: u8 = 63;

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Hint {
    block: u32,
    /// Misses by message after the last look in vain.
    wait: u8,
    /// Those that are left.
    left: u8,
}

/// How it went, by the block's place.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Hints(BTreeMap<u32, Hint>);

impl Hints {
    /// What is known of a page's block; at first, that so many misses go by message.
    fn of(&mut self, page: Page, wait: u8) -> &mut Hint {
        let block = page.0 / HINT_PAGES;
        let new = Hint { block, wait, left: wait };
        let hint = self.0.entry(block % MAX_HINTS).or_insert(new);
        if hint.block != block {
            *hint = new;
        }
        hint
    }

    /// A page is missing: whether to look for it. At most `most` misses in turn go by message.
    pub(super) fn tries(&mut self, page: Page, most: u8) -> bool {
        let hint = self.of(page, FIRST_WAIT.min(most));
        let tries = hint.left == 0;
        hint.left = hint.left.saturating_sub(1);
        tries
    }

    /// A look has brought the page.
    pub(super) fn hit(&mut self, page: Page) {
        let hint = self.of(page, 0);
        (hint.wait, hint.left) = (0, 0);
    }

    /// A look was in vain.
    pub(super) fn miss(&mut self, page: Page, most: u8) {
        let hint = self.of(page, 0);
        hint.wait = hint.wait.saturating_mul(2).saturating_add(1).min(most);
        hint.left = hint.wait;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Misses until the next look, itself included.
    fn until_look(hints: &mut Hints, page: Page) -> u32 {
        (1..1000).find(|_| hints.tries(page, MAX_WAIT)).expect("a look")
    }

    #[test]
    fn looks_in_vain_get_rarer_up_to_a_limit_and_a_hit_brings_them_back() {
        let mut hints = Hints::default();
        assert_eq!(until_look(&mut hints, Page(5)), 2);
        let mut after = Vec::new();
        for _ in 0..6 {
            hints.miss(Page(5), MAX_WAIT);
            after.push(until_look(&mut hints, Page(HINT_PAGES - 1)));
        }
        assert_eq!(after, [4, 8, 16, 32, 64, 64]);
        hints.hit(Page(0));
        assert_eq!([1, 2].map(|page| until_look(&mut hints, Page(page))), [1, 1]);
    }

    #[test]
    fn who_is_to_look_each_time_does() {
        let mut hints = Hints::default();
        for _ in 0..3 {
            assert!(hints.tries(Page(1), 0));
            hints.miss(Page(1), 0);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut hints = Hints::default();
        hints.hit(Page(0));
        (0..3 * MAX_HINTS).for_each(|block| hints.miss(Page(block * HINT_PAGES), MAX_WAIT));
        assert_eq!(hints.0.len(), MAX_HINTS as usize);
        assert_eq!(until_look(&mut hints, Page(0)), 2, "another block was in its place");
    }
}
