//! What the protocol wants done is done here, in its order.

use std::io::IoSlice;

use vincs_coherence::codec;
use vincs_coherence::id::{Access, PAGE_BYTES, Page, Rank, RankSet, Run};
use vincs_coherence::message::Message;
use vincs_coherence::node::{Action, Body, Source};
use vincs_coherence::transport::{OperationId, SendError};

use super::{Service, Untold};
use crate::memory::engine::config::EngineEvent;
use crate::memory::engine::view::{Bytes, View, ViewError};
use crate::memory::engine::zero::is_zero;

impl Service {
    /// Does what the protocol wants after an input; `received` is the body of the message that was the input, if one was.
    pub(super) fn act(&mut self, received: &[u8]) {
        self.act_on_input(received);
        while let Some(untold) = self.untold.pop() {
            let now = self.input_time();
            match untold {
                Untold::Collected(page, marks) => self.node.handle_collected(now, page, marks),
                Untold::NotRead(page) => self.node.handle_guarded_read(now, page, None),
            }
            self.act_on_input(&[]);
        }
    }

    fn act_on_input(&mut self, received: &[u8]) {
        // Before anybody is woken.
        self.tell_awaited();
        while let Some(action) = self.node.poll_action() {
            self.execute(action, received);
            // One input may want thousands of pages mapped for a device: seconds on a slow host, in which nobody polls.
            self.transport.sign_of_life();
        }
    }

    fn execute(&mut self, action: Action, received: &[u8]) {
        if self.shared.ended() {
            return;
        }
        match action {
            Action::Send { to, message, body } => self.send(to, message, body, received),
            Action::Map { run, access, source } => self.map(run, access, source, received),
            Action::Protect { run } => self.change(run, View::protect),
            Action::Detach { run } => self.change(run, View::detach),
            Action::Unmap { run } => self.change(run, View::unmap),
            Action::Allow { run } => self.wake_by(run, View::allow),
            Action::Wake { run } => self.wake_by(run, View::wake),
            Action::Show { page, version } => {
                if let (Some(window), Some(bytes)) = (&self.window, self.view.bytes(page)) {
                    window.show(page, version, bytes);
                }
            }
            Action::Hide { page } => {
                let marks = self.window.as_ref().map_or(RankSet::EMPTY, |window| window.hide(page));
                self.untold.push(Untold::Collected(page, marks));
            }
            Action::GuardedRead { home, page } => self.guarded_read(home, page),
            Action::HandedOver { run, to: _ } => {
                if let Some(done) = self.movers.remove(&run.first) {
                    done.tell(Ok(()));
                }
            }
            Action::HoldReady { id } => {
                if let Some(waiter) = self.waiters.remove(&id) {
                    waiter.answer(Ok(()));
                }
            }
        }
    }

    /// Reads a page in its home's window. What the transport does not take now is asked for by message: that can wait.
    fn guarded_read(&mut self, home: Rank, page: Page) {
        let id = OperationId(page.0.into());
        let begun = self.window.as_ref().map(|window| self.transport.guarded_read(id, home, window.guarded_read(page)));
        match begun {
            // The loss itself is told by the transport's next poll.
            Some(Ok(()) | Err(SendError::Lost(_))) => {}
            Some(Err(SendError::Full(_) | SendError::NoPeer(_) | SendError::Bounds(_))) | None => {
                self.untold.push(Untold::NotRead(page));
            }
        }
    }

    fn change(&mut self, run: Run, change: impl FnOnce(&mut View, Run) -> Result<(), ViewError>) {
        if let Err(error) = change(&mut self.view, run) {
            self.host_failed(&error);
        }
    }

    /// A change that wakes who waits for the pages.
    fn wake_by(&mut self, run: Run, change: impl FnOnce(&mut View, Run) -> Result<(), ViewError>) {
        self.change(run, change);
        self.recorder.woken(self.shared.elapsed(), run);
    }

    fn map(&mut self, run: Run, access: Access, source: Source, received: &[u8]) {
        let bytes = match source {
            Source::Zero => Bytes::Zero,
            Source::Received { at } => Bytes::Given(pages_from(received, at, run.count.into())),
        };
        self.wake_by(run, |view, run| view.map(run, access, bytes));
    }

    fn send(&mut self, to: Rank, mut message: Message, body: Body, received: &[u8]) {
        let mut pieces: Vec<IoSlice<'_>> = Vec::new();
        match body {
            Body::None => {}
            Body::Own => {
                let view = &self.view;
                message.leave_out_zeros(|page| view.bytes(page).is_some_and(is_zero));
                pieces = view.slices(&message.data_pages()).into_iter().map(IoSlice::new).collect();
            }
            Body::Received { at } => {
                pieces.push(IoSlice::new(pages_from(received, at, message.data_pages().len())));
            }
        }
        self.header.clear();
        codec::encode(&message, &mut self.header);
        let bytes = self.header.len() + pieces.iter().map(|piece| piece.len()).sum::<usize>();
        match self.outgoing.send(to, &self.header, &pieces) {
            Ok(held_up) => self.recorder.sent(&message, bytes, held_up),
            Err(error) => self.shared.end(EngineEvent::Host(error.to_string())),
        }
    }
}

/// Pages of a body, as far as it has them.
fn pages_from(body: &[u8], first: u16, count: usize) -> &[u8] {
    let start = usize::from(first) * PAGE_BYTES;
    body.get(start..start + count * PAGE_BYTES).unwrap_or_default()
}
