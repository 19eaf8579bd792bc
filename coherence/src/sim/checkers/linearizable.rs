//! Linearizability per location. An access of the simulation happens at one point, between its start and its end and in
//! one order with all others; so the history of a location is linearizable when every access that looks saw the last
//! write before it in that order.

use crate::id::{Page, Rank};

use super::super::guest::Performed;
use super::super::memory::{Words, ZEROS};
use super::{Checker, Violation};

/// The last value of every page.
#[derive(Clone, Debug)]
pub struct Truth {
    pages: Vec<Words>,
    /// Accesses checked.
    pub accesses: u64,
}

impl Truth {
    /// That of memory which nobody has written.
    #[must_use]
    pub fn new(pages: u32) -> Self {
        Self { pages: vec![ZEROS; pages as usize], accesses: 0 }
    }

    /// The last value of a page.
    #[must_use]
    pub fn last(&self, page: Page) -> Words {
        self.pages.get(page.0 as usize).copied().unwrap_or(ZEROS)
    }

    /// Takes an access into the history.
    ///
    /// # Errors
    /// [`Violation`] when it saw something else than the last write.
    pub fn check(&mut self, rank: Rank, performed: &Performed) -> Result<(), Violation> {
        self.accesses += 1;
        let touch = performed.touch;
        let page = self.pages.get_mut(touch.page.0 as usize);
        let Some(last) = page.and_then(|words| words.get_mut(touch.word)) else {
            return Err(Violation::of_page(Checker::Linearizable, touch.page, "there is no such word".to_owned()));
        };
        if let Some(saw) = performed.saw.filter(|saw| saw != last) {
            let what = format!("{:?} of word {} at rank {} saw {saw}, not {last}", touch.op, touch.word, rank.0);
            return Err(Violation::of_page(Checker::Linearizable, touch.page, what));
        }
        if let Some(wrote) = performed.wrote {
            *last = wrote;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::guest::{Op, Touch};
    use super::*;

    fn performed(word: usize, saw: Option<u64>, wrote: Option<u64>) -> Performed {
        Performed { touch: Touch { page: Page(1), word, op: Op::Read }, saw, wrote }
    }

    #[test]
    fn an_access_sees_the_last_write_and_nothing_else() {
        let mut truth = Truth::new(2);
        let mut check = |word, saw, wrote| {
            truth.check(Rank(3), &performed(word, saw, wrote)).map_err(|violation| violation.checker)
        };
        assert_eq!(check(0, Some(0), Some(5)), Ok(()));
        assert_eq!(check(0, None, Some(6)), Ok(()));
        // What was before the last write, what nobody has written, and what was lost.
        for stale in [5, 7, 0] {
            assert_eq!(check(0, Some(stale), Some(8)), Err(Checker::Linearizable), "{stale}");
        }
        // What is refused changes nothing; words are apart.
        assert_eq!(check(0, Some(6), None), Ok(()));
        assert_eq!(check(1, Some(0), None), Ok(()));
        assert_eq!(check(1 << 20, None, None), Err(Checker::Linearizable));
        assert_eq!((truth.accesses, truth.last(Page(1))[0]), (8, 6));
    }
}
