//! Giving up all pages of other homes.

use std::sync::Arc;

use vincs_coherence::node::Leave;

use super::super::config::EngineEvent;
use super::super::leaving::Leaving;
use super::Service;

impl Service {
    /// The rank leaves: from now on pages are given up between whatever else there is to do.
    pub(super) fn begin_to_leave(&mut self, leaving: Arc<Leaving>) {
        let pages = self.node.pages_of_others();
        leaving.tell_pages(0, pages);
        self.leaving = Some((leaving, pages));
        if self.processors.all_sleep() && !self.shared.ended() {
            // Nothing may have been kept for them until now, so that nobody had to know that they sleep.
            let now = self.input_time();
            self.asleep = true;
            self.node.handle_sleep(now, true);
            self.act(&[]);
        }
    }

    /// Gives up some pages, if the rank leaves and nothing waits to be sent; says whether there are more to look at.
    pub(super) fn leave(&mut self) -> bool {
        if self.leaving.is_none() || self.outgoing.is_waiting() || self.shared.ended() {
            return false;
        }
        let now = self.input_time();
        let progress = match self.node.handle_leave(now) {
            Ok(progress) => progress,
            Err(error) => {
                self.shared.end(EngineEvent::Host(error.to_string()));
                return false;
            }
        };
        self.act(&[]);
        let pages = self.node.pages_of_others();
        if let Some((leaving, before)) = &mut self.leaving {
            leaving.tell_pages(*before, pages);
            *before = pages;
        }
        match progress {
            Leave::GoesOn => true,
            Leave::Waits => false,
            Leave::Left => {
                if let Some((leaving, _)) = self.leaving.take() {
                    // Who hears of it finds no home counted here that was handed over.
                    self.recorder.protocol(self.node.stats());
                    leaving.shard_is_done();
                }
                true
            }
        }
    }
}
