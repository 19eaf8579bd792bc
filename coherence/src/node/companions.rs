//! Pages that ranks take from each other together: whoever needs one of them needs the others next.
//!
//! A kernel's page tables, run queues and locks are such pages. Asked for one after the other, as a processor comes upon them, each costs a
//! round trip and the hold times of others, and the first is lost again before the last has come. So a rank remembers
//! the pages that it has lost to others and then wanted to write again, more than once: its *companions*. When a processor
//! asks for one of them, the rank asks for the others at the same time.
//!
//! Nobody sees whether a page that came along is used. So every [`PROBE_EVERY`]th time one of them, each in its turn, is left out; one
//! that nobody asks for by itself until the next time is on its way out.

use std::collections::VecDeque;

use super::Node;
use crate::id::{Access, Page, Tick};

/// Most companions that a configuration may ask for.
pub const MAX_COMPANIONS: u16 = 32;

/// Pages lost to others that are remembered.
const MAX_LOST: usize = 64;

/// A page is a companion from so many times on that it was lost and wanted again.
const ENOUGH: u8 = 2;

/// No page counts for more, so that none stays for long once it is not needed any more.
const MOST: u8 = 3;

/// One of so many times, a companion is left out.
pub(super) const PROBE_EVERY: u8 = 4;

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Candidate {
    page: Page,
    /// How often it was lost and wanted again; a companion if [`ENOUGH`].
    times: u8,
}

/// The companions of a rank, and those that may become it.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Companions {
    /// Pages lost to others, the last one at the end.
    lost: VecDeque<Page>,
    /// The one that was wanted last at the end.
    candidates: VecDeque<Candidate>,
    /// The one left out the last time, while nobody has asked for it.
    left_out: Option<Page>,
    /// Counts to [`PROBE_EVERY`].
    times: u8,
}

impl Companions {
    /// Another rank gets the page.
    pub(super) fn lost(&mut self, page: Page) {
        if self.lost.contains(&page) {
            return;
        }
        if self.lost.len() == MAX_LOST {
            self.lost.pop_front();
        }
        self.lost.push_back(page);
    }

    /// Whether a page is a companion.
    pub(super) fn contains(&self, page: Page) -> bool {
        self.candidates.iter().any(|candidate| candidate.page == page && candidate.times >= ENOUGH)
    }

    /// A processor asks for a page to write it; at most `most` are remembered. Says whether it is a companion.
    fn wanted(&mut self, page: Page, most: usize) -> bool {
        self.left_out.take_if(|left_out| *left_out == page);
        let Some(at) = self.lost.iter().position(|lost| *lost == page) else { return self.contains(page) };
        self.lost.remove(at);
        let known = self.candidates.iter().position(|candidate| candidate.page == page);
        let before = known.and_then(|at| self.candidates.remove(at)).map_or(0, |candidate| candidate.times);
        if self.candidates.len() >= most {
            self.candidates.pop_front();
        }
        let times = MOST.min(before + 1);
        self.candidates.push_back(Candidate { page, times });
        times >= ENOUGH
    }

    /// The pages to ask for along with this one.
    fn along_with(&mut self, page: Page) -> Vec<Page> {
        if let Some(left_out) = self.left_out.take() {
            self.forget_a_little(left_out);
        }
        self.times = (self.times + 1) % PROBE_EVERY;
        if self.times == 0 {
            self.left_out = self.next_to_leave_out(page);
        }
        let companions = self.candidates.iter().filter(|candidate| candidate.times >= ENOUGH);
        companions.map(|candidate| candidate.page).filter(|at| *at != page && Some(*at) != self.left_out).collect()
    }

    /// The companion that was asked for longest ago by itself; it is the last one then, so that each has its turn.
    fn next_to_leave_out(&mut self, but: Page) -> Option<Page> {
        let at = self.candidates.iter().position(|other| other.page != but && other.times >= ENOUGH)?;
        let candidate = self.candidates.remove(at)?;
        self.candidates.push_back(candidate);
        Some(candidate.page)
    }

    fn forget_a_little(&mut self, page: Page) {
        if let Some(candidate) = self.candidates.iter_mut().find(|candidate| candidate.page == page) {
            candidate.times -= 1;
        }
        self.candidates.retain(|candidate| candidate.times > 0);
    }
}

impl Node {
    /// What to ask for when a processor wants a page that it cannot have yet: companions are written sooner or later, so asking for a copy to
    /// read would only be the first of two requests.
    pub(super) fn access_to_ask_for(&self, page: Page, access: Access) -> Access {
        if self.companions.contains(page) { Access::Write } else { access }
    }

    /// Another rank gets the page.
    pub(super) fn lost_to_others(&mut self, page: Page) {
        if self.config.companions > 0 {
            self.companions.lost(page);
        }
    }

    /// A processor has asked for a page; its companions are asked for too.
    pub(super) fn ask_for_companions(&mut self, now: Tick, page: Page, access: Access) {
        let most = usize::from(self.config.companions);
        if most == 0 || access == Access::Read || !self.companions.wanted(page, most) {
            return;
        }
        for companion in self.companions.along_with(page) {
            if self.access(companion) != Some(Access::Write) && !self.is_asked_for(companion) {
                self.stats.companions += 1;
                self.want(now, companion, Access::Write);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST_PAGES: usize = 4;

    /// Companions that have lost and wanted these pages often enough.
    fn of(pages: &[u32]) -> Companions {
        let mut companions = Companions::default();
        for _ in 0..ENOUGH {
            for page in pages {
                companions.lost(Page(*page));
                companions.wanted(Page(*page), MOST_PAGES);
            }
        }
        companions
    }

    #[test]
    fn a_page_lost_and_wanted_again_twice_is_a_companion() {
        let mut companions = Companions::default();
        assert!(!companions.wanted(Page(1), MOST_PAGES), "it was not lost");
        companions.lost(Page(1));
        assert!(!companions.wanted(Page(1), MOST_PAGES), "only once");
        assert!(!companions.wanted(Page(1), MOST_PAGES), "it was not lost again");
        companions.lost(Page(1));
        assert!(companions.wanted(Page(1), MOST_PAGES) && companions.contains(Page(1)));
    }

    #[test]
    fn companions_come_along_and_each_is_left_out_in_its_turn() {
        let mut companions = of(&[1, 2, 3]);
        let mut left_out = Vec::new();
        for time in 1..=2 * PROBE_EVERY {
            let along = companions.along_with(Page(3));
            if time % PROBE_EVERY == 0 {
                left_out.extend([1, 2].into_iter().filter(|page| !along.contains(&Page(*page))));
                // It is needed, so a processor asks for it.
                companions.wanted(*left_out.last().map(|page| Page(*page)).iter().next().unwrap(), MOST_PAGES);
            } else {
                assert_eq!(along, along.iter().copied().filter(|page| *page != Page(3)).collect::<Vec<_>>());
                assert_eq!(along.len(), 2);
            }
        }
        assert_eq!(left_out, [1, 2]);
        assert!((1..=3).all(|page| companions.contains(Page(page))));
    }

    #[test]
    fn a_companion_that_nobody_needs_goes() {
        let mut companions = of(&[1, 2]);
        for _ in 0..2 * PROBE_EVERY {
            companions.along_with(Page(2));
        }
        assert!(!companions.contains(Page(1)) && companions.contains(Page(2)));
    }

    #[test]
    fn no_more_are_remembered_than_allowed() {
        let mut companions = of(&[1, 2, 3, 4]);
        for _ in 0..ENOUGH {
            companions.lost(Page(5));
            companions.wanted(Page(5), MOST_PAGES);
        }
        assert_eq!((1..=5).filter(|page| companions.contains(Page(*page))).collect::<Vec<_>>(), [2, 3, 4, 5]);
        (0..1000).for_each(|page| companions.lost(Page(page)));
        assert_eq!((companions.lost.len(), companions.lost.front()), (MAX_LOST, Some(&Page(936))));
    }
}
