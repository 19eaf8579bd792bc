//! Homes that move: rank 0 orders it, and is told when it is done.

use crate::id::{Page, Rank, Run};
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
        let leaves = self.gives_up();
        let is_full = self.moving.len() >= MAX_HAND_OVERS;
        if leaves || is_full || self.moving.iter().any(|other| other.first < run.end() && run.first < other.end()) {
            let again = self.now + 1 + self.rng.below(LOOKS_AGAIN);
            self.schedule(again, Event::HandOver { at });
            return Ok(());
        }
        self.order_hand_over(run, to)
    }

    /// Rank 0 has pages move that may.
    fn order_hand_over(&mut self, run: Run, to: Rank) -> Checked {
        self.moving.push(run);
        self.hand_overs += 1;
        let present = (0..).map(Rank).zip(&self.hosts).filter(|(_, host)| host.departure != Departure::Left);
        let members = present.map(|(rank, _)| rank).collect();
        self.input(Rank(0), &Input::HandOver(run, to, members))
    }

    /// Rank 0 has all pages of a rank that leaves move to another, some at a time. Whether none is left, or moves.
    pub(super) fn order_hand_overs_of(&mut self, rank: Rank, to: Rank) -> Checked<bool> {
        let pages = (0..self.scenario.homes.pages()).map(Page);
        let mut left: Vec<Page> = pages.filter(|page| self.sites[0].node_of(*page).home(*page) == Some(rank)).collect();
        if left.is_empty() {
            return Ok(self.moving.is_empty());
        }
        left.retain(|page| self.moving.iter().all(|run| !run.contains(*page)));
        while let Some(first) = left.first().copied() {
            if self.moving.len() >= MAX_HAND_OVERS || self.gives_up() {
                return Ok(false);
            }
            // Pages side by side move together, where one node has them.
            let longest = if self.scenario.nodes > 1 { 1 } else { 1 + self.rng.below_u16(4) };
            let are_left = |count: &u16| left.contains(&Page(first.0 + u32::from(*count) - 1));
            let count = (1..=longest).take_while(are_left).last().unwrap_or(1);
            left.retain(|page| !Run { first, count }.contains(*page));
            self.order_hand_over(Run { first, count }, to)?;
        }
        Ok(false)
    }

    /// Whether some rank gives up what it has, while which no home moves.
    fn gives_up(&self) -> bool {
        self.hosts.iter().any(|host| host.departure == Departure::GivesUp)
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
