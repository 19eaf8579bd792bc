//! Homes that move: rank 0 orders it, and is told when it is done.

use crate::id::{Rank, RankSet, Run};
use crate::node::MAX_HAND_OVERS;

use super::super::checkers::{Checker, Violation};
use super::leaving::Departure;
use super::{Checked, Event, Input, Machine};

/// How long rank 0 waits at most for pages that move already, for a rank that leaves, or for room for more, before it looks again; in microseconds.
const LOOKS_AGAIN: u64 = 30;

impl Machine<'_> {
    /// A hand-over is due.
    pub(super) fn orders(&mut self, at: usize) -> Checked {
        let Some(hand_over) = self.scenario.hand_overs.get(at) else { return Ok(()) };
        let (first, to) = (hand_over.run.first, hand_over.to);
        let coordinator = self.sites[0].node_of(first);
        // As many as have one home now.
        let is_one = |count: &u16| coordinator.home_of_run(Run { first, count: *count }).is_some();
        let Some(run) = (1..=hand_over.run.count).take_while(is_one).last().map(|count| Run { first, count }) else {
            return Ok(());
        };
        if coordinator.home(first) == Some(to) || self.crashed() {
            return Ok(());
        }
        let leaves = self.hosts.iter().any(|host| host.departure == Departure::GivesUp);
        let is_full = self.moving.len() >= MAX_HAND_OVERS;
        if leaves || is_full || self.moving.iter().any(|other| other.first < run.end() && run.first < other.end()) {
            let again = self.now + 1 + self.rng.below(LOOKS_AGAIN);
            self.schedule(again, Event::HandOver { at });
            return Ok(());
        }
        self.moving.push(run);
        self.hand_overs += 1;
        let mut members = RankSet::EMPTY;
        for (rank, _) in (0..).map(Rank).zip(&self.hosts).filter(|(_, host)| host.departure != Departure::Left) {
            members.insert(rank);
        }
        self.input(Rank(0), &Input::HandOver(run, to, members))
    }

    /// A node says that pages have their new home.
    pub(super) fn has_moved(&mut self, rank: Rank, run: Run) -> Checked {
        let ordered = self.moving.iter().position(|other| *other == run).filter(|_| rank == Rank(0));
        let Some(at) = ordered else {
            let what = format!("pages from {} on have moved, which was not ordered here", run.first.0);
            return Err(Violation::of_rank(Checker::Progress, rank, what));
        };
        self.moving.swap_remove(at);
        Ok(())
    }
}
