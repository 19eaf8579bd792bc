//! Homes that move, as one shard has to do with them, and ranks that are lost or gone.

use std::sync::Arc;

use vincs_coherence::id::{Rank, RankSet, Run};
use vincs_coherence::message::Message;

use super::super::config::EngineEvent;
use super::super::hand_over::{MoveError, ToldHomes, WhenMoved};
use super::Service;

impl Service {
    /// Rank 0 has pages get another home.
    pub(super) fn hand_over(&mut self, run: Run, to: Rank, members: RankSet, done: WhenMoved) {
        if self.shared.ended() {
            return done.tell(Err(MoveError::Ended));
        }
        let now = self.input_time();
        match self.node.handle_hand_over(now, run, to, members) {
            Ok(()) => {
                self.movers.insert(run.first, done);
                self.act(&[]);
            }
            Err(error) => done.tell(Err(error.into())),
        }
    }

    /// This rank has just come, and is told where the homes are.
    pub(super) fn take_homes(&mut self, told: &Arc<ToldHomes>) {
        told.shard_knows(self.node.handle_homes(told.homes()));
    }

    /// A rank that is to be a home is one whose loss is the memory's, from before it is: no home moves before this rank has answered.
    pub(super) fn note_new_home(&self, message: &Message) {
        if let Message::HandOver { to, .. } | Message::Freeze { to, .. } = message {
            self.vitals.insert(*to);
        }
    }

    /// A rank is lost, or has left.
    pub(super) fn lost(&mut self, rank: Rank, reason: String) {
        if self.may_go(rank) {
            return;
        }
        if self.may_have_left(rank) {
            self.missing.push((rank, reason));
            return;
        }
        self.shared.end(EngineEvent::RankLost { rank, reason });
    }

    /// After a message: what is known of missing ranks may be more now.
    pub(super) fn look_for_missing(&mut self) {
        for (rank, reason) in std::mem::take(&mut self.missing) {
            self.lost(rank, reason);
        }
    }

    /// Whether a rank's loss is none of this memory's: it has no pages, or nothing of what passes between the two is about pages, as
    /// neither is a home and pages go by way of their homes. The control channel sees to the rest: it knows who leaves.
    fn may_go(&self, rank: Rank) -> bool {
        let homes = self.node.homes();
        let has_page_traffic = homes.contains(rank) || homes.contains(self.node.rank());
        !has_page_traffic || !self.vitals.contains(rank) || self.node.has_left(rank)
    }

    /// Whether a rank that is lost may have left, which only the new home of its pages knows for certain by now: its word is on the way
    /// here, on another channel. Until it has come nobody here gets these pages; if the rank has died, the control channel says so.
    fn may_have_left(&self, rank: Rank) -> bool {
        let is_home = self.node.homes().contains(self.node.rank());
        !self.node.homes_to_be().contains(rank) && (!is_home || self.node.has_left(rank))
    }
}
