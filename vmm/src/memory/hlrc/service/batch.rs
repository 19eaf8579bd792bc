//! Adjacent pages to which the same is done in turn, done by one system call or operation.

use vincs_coherence::hlrc::OpId;
use vincs_coherence::id::{MAX_RUN, Page, Rank, Run};

/// What is to be done to adjacent pages and has not been.
#[derive(Debug, Default)]
pub(super) enum Batch {
    /// Nothing.
    #[default]
    Empty,
    /// They are got from their home.
    Fetch(Run, Rank, Vec<OpId>),
    /// They are put into view.
    Map(Run),
    /// They can be written from now on.
    Allow(Run),
    /// They are dropped.
    Unmap(Run),
}

impl Batch {
    /// Adds a page to what is to be done if it is next to the others and the same is to be done to it; else gives it back, to be begun afresh.
    pub(super) fn add(&mut self, new: Self) -> Option<Self> {
        match (self, new) {
            (Self::Map(run), Self::Map(next))
            | (Self::Allow(run), Self::Allow(next))
            | (Self::Unmap(run), Self::Unmap(next))
                if joins(*run, next) =>
            {
                run.count += next.count;
                None
            }
            (Self::Fetch(run, home, ops), Self::Fetch(next, its_home, its_ops))
                if joins(*run, next) && *home == its_home =>
            {
                run.count += next.count;
                ops.extend(its_ops);
                None
            }
            (_, new) => Some(new),
        }
    }
}

fn joins(run: Run, next: Run) -> bool {
    run.end() == next.first
        && next.first != Page(u32::MAX)
        && u32::from(run.count) + u32::from(next.count) <= MAX_RUN.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(page: u32) -> Run {
        Run::one(Page(page))
    }

    #[test]
    fn adjacent_pages_are_taken_together_up_to_the_longest_run() {
        let mut batch = Batch::Map(one(7));
        assert!(batch.add(Batch::Map(one(8))).is_none());
        assert!(batch.add(Batch::Map(one(10))).is_some(), "not adjacent");
        assert!(batch.add(Batch::Allow(one(9))).is_some(), "something else");
        assert!(matches!(batch, Batch::Map(Run { first: Page(7), count: 2 })));
        let mut longest = Batch::Unmap(Run { first: Page(0), count: MAX_RUN - 1 });
        assert!(longest.add(Batch::Unmap(one(u32::from(MAX_RUN) - 1))).is_none());
        assert!(longest.add(Batch::Unmap(one(MAX_RUN.into()))).is_some());
    }

    #[test]
    fn pages_of_two_homes_are_got_apart() {
        let mut batch = Batch::Fetch(one(3), Rank(1), vec![OpId(0)]);
        assert!(batch.add(Batch::Fetch(one(4), Rank(1), vec![OpId(4)])).is_none());
        assert!(batch.add(Batch::Fetch(one(5), Rank(2), vec![OpId(5)])).is_some());
        assert!(matches!(batch, Batch::Fetch(_, _, ops) if ops == [OpId(0), OpId(4)]));
    }
}
