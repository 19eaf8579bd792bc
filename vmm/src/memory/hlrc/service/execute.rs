//! What the node wants done is done here, in its order.

use std::io;

use vincs_coherence::hlrc::diff::Diff;
use vincs_coherence::hlrc::{Action, Completion, Flush, LockId, OpId, Outcome, ThreadId};
use vincs_coherence::id::{Access, PAGE_BYTES, Page, Rank, Run};
use vincs_coherence::transport::{PutList, Segment as _};

use super::batch::Batch;
use super::teams::Doing;
use super::{Received, Service};
use crate::memory::engine::uffd::Faults;
use crate::memory::hlrc::maps::bytes_of;
use crate::memory::hlrc::member::SyncError;
use crate::memory::hlrc::operations::{Part, Request};

/// Twins kept for later ones: 4 MiB.
const SPARE_TWINS: usize = 1024;

impl Service {
    /// Does what the node wants after an input; `received`: pages that were the input, if any were.
    pub(super) fn act(&mut self, received: Received<'_>) {
        while let Some(action) = self.node.poll_action() {
            self.execute(action, received);
            // One input may want thousands of pages brought home, and meanwhile nobody polls.
            self.transport.sign_of_life();
        }
        self.end_batch(received);
        self.note_clock();
        match self.node.failure() {
            Some(failure) if !self.failed => self.tell_failure(failure),
            _ => {}
        }
    }

    fn execute(&mut self, action: Action, received: Received<'_>) {
        if self.ended && !matches!(action, Action::Wake { .. }) {
            return;
        }
        let adjacent = match action {
            Action::Fetch { op, page, home } => Batch::Fetch(Run::one(page), home, vec![op]),
            Action::Map { page } => Batch::Map(Run::one(page)),
            Action::Allow { page } => Batch::Allow(Run::one(page)),
            Action::Unmap { page } => {
                self.drop_twin(page);
                Batch::Unmap(Run::one(page))
            }
            alone @ (Action::Get { .. }
            | Action::Put { .. }
            | Action::CompareAndSwap { .. }
            | Action::FetchTwin { .. }
            | Action::Save { .. }
            | Action::Flush { .. }
            | Action::Store { .. }
            | Action::Twin { .. }
            | Action::Protect { .. }
            | Action::Lend { .. }
            | Action::Recall { .. }
            | Action::Wake { .. }) => {
                self.end_batch(received);
                return self.execute_alone(alone);
            }
        };
        if let Some(new) = self.batch.add(adjacent) {
            self.end_batch(received);
            self.batch = new;
        }
    }

    /// Does what was put off.
    fn end_batch(&mut self, received: Received<'_>) {
        match std::mem::take(&mut self.batch) {
            Batch::Empty => {}
            Batch::Fetch(run, home, ops) if home == self.settings.rank => self.fetched.push((run, ops)),
            Batch::Fetch(run, home, ops) => {
                if let Some((_, offset)) = self.node.layout().page(run.first) {
                    let len = usize::from(run.count) * PAGE_BYTES;
                    self.start(home, Part::Pages(run.first, ops), Request::Get { offset, len });
                }
            }
            Batch::Map(run) => self.map(run, received),
            Batch::Allow(run) => {
                self.change(run, "allow to write", Faults::allow_quietly);
                self.wake_all(run, Access::Write);
            }
            Batch::Unmap(run) => {
                if let Err(error) = self.copies.drop_pages(run) {
                    self.page_failed("drop", run.first, &error);
                }
            }
        }
    }

    fn map(&mut self, run: Run, received: Received<'_>) {
        for page in run.pages() {
            let place = self.places.pieces(Run::one(page)).next();
            let (Some(bytes), Some((address, _))) = (received.page(page), place) else {
                return self.page_failed("map", page, &io::ErrorKind::NotFound.into());
            };
            if let Err(error) = self.faults.copy_quietly(address, bytes) {
                return self.page_failed("map", page, &error);
            }
        }
        self.wake_all(run, Access::Read);
    }

    fn execute_alone(&mut self, action: Action) {
        match action {
            Action::Get { op, target, offset, words } if target == self.settings.rank => {
                let words = self.segment.read_words(offset, words).unwrap_or_default();
                self.done.push((op, Completion::Words(words)));
            }
            Action::Get { op, target, offset, words } => {
                self.start(target, Part::Words(op), Request::Get { offset, len: words as usize * 8 });
            }
            Action::Put { op, target, offset, words } if target == self.settings.rank => {
                self.store(offset, &words);
                self.done.push((op, Completion::Done));
            }
            Action::Put { op, target, offset, words } => {
                self.start(target, Part::Put(op), Request::Put { offset, bytes: bytes_of(&words) });
            }
            Action::CompareAndSwap { op, target, offset, expected, new } if target == self.settings.rank => {
                // What others exchange there is exchanged in this process too, as the transport says.
                match self.segment.words().compare_and_swap(offset, expected, new) {
                    Some(old) => self.done.push((op, Completion::Old(old))),
                    None => self.host_failed("a word of its own segment is not there"),
                }
            }
            Action::CompareAndSwap { op, target, offset, expected, new } => {
                self.start(target, Part::Swap(op), Request::Swap { offset, expected, new });
            }
            Action::FetchTwin { op, page, home } => {
                if let Some((_, offset)) = self.node.layout().shadow(page) {
                    self.start(home, Part::Twin(op, page), Request::Get { offset, len: PAGE_BYTES });
                }
            }
            Action::Save { op, page, home } => self.save(op, page, home),
            Action::Flush { op, home, pages } => self.flush(op, home, &pages),
            Action::Store { offset, words } => self.store(offset, &words),
            Action::Twin { page } => self.twin(page),
            Action::Protect { run } => self.change(run, "write-protect", Faults::protect),
            Action::Lend { lock } => {
                if let Some(lender) = &self.lender {
                    lender.lend(lock);
                }
            }
            Action::Recall { lock } => self.recall(lock),
            Action::Wake { thread, outcome } => self.wake(thread, outcome),
            // Done together with others.
            Action::Fetch { .. } | Action::Map { .. } | Action::Allow { .. } | Action::Unmap { .. } => {}
        }
    }

    fn recall(&mut self, lock: LockId) {
        let is_back = self.lender.as_ref().is_none_or(|lender| lender.recall(lock));
        // Else whoever has it gives it back by a command.
        if is_back && let Err(error) = self.node.handle_returned(lock) {
            self.host_failed(&error.to_string());
        }
    }

    /// Whoever has something of an earlier program's is no more.
    pub(super) fn have_locks_back(&mut self) {
        if let Some(lender) = &self.lender {
            lender.forget_all();
        }
        self.node.handle_let_go();
    }

    fn store(&mut self, offset: u64, words: &[u64]) {
        if !self.segment.write_words(offset, words) {
            self.host_failed("words of its own segment are not there");
        }
    }

    fn save(&mut self, op: OpId, page: Page, home: Rank) {
        let layout = self.node.layout();
        let (Some((_, from)), Some((_, to))) = (layout.page(page), layout.shadow(page)) else { return };
        if home != self.settings.rank {
            return self.start(home, Part::Save(op, page), Request::Get { offset: from, len: PAGE_BYTES });
        }
        // PAGE_BYTES of words, all there: a page of its own.
        let words = u32::try_from(PAGE_BYTES / 8).unwrap_or(0);
        if let Some(words) = self.segment.read_words(from, words) {
            self.store(to, &words);
        }
        self.done.push((op, Completion::Done));
    }

    fn twin(&mut self, page: Page) {
        let mut twin = self.spare_twins.pop().unwrap_or_else(|| Box::new([0; PAGE_BYTES]));
        match self.copies.page(page) {
            Some(bytes) => {
                twin.copy_from_slice(bytes);
                self.twins.insert(page, twin);
            }
            None => self.page_failed("copy", page, &io::ErrorKind::NotFound.into()),
        }
    }

    fn drop_twin(&mut self, page: Page) {
        if let Some(twin) = self.twins.remove(&page).filter(|_| self.spare_twins.len() < SPARE_TWINS) {
            self.spare_twins.push(twin);
        }
    }

    /// Brings pages home: all that has changed of all of them, in lists of puts where the transport has those.
    fn flush(&mut self, op: OpId, home: Rank, pages: &[(Page, Flush)]) {
        let (mut diff, mut list) = (Diff::default(), PutList::default());
        let mut noted = Vec::new();
        let copies = std::sync::Arc::clone(&self.copies);
        for (page, how) in pages {
            let (Some(bytes), Some((_, offset))) = (copies.page(*page), self.node.layout().page(*page)) else {
                return self.page_failed("bring home", *page, &io::ErrorKind::NotFound.into());
            };
            match how {
                Flush::Whole => self.put(op, home, &mut list, (offset, bytes)),
                Flush::Changed => {
                    let Some(twin) = self.twins.get(page) else {
                        return self.page_failed("compare", *page, &io::ErrorKind::NotFound.into());
                    };
                    diff.set(twin.as_slice(), bytes);
                    if self.races.is_some() {
                        noted.push((*page, diff.puts().map(|(run, _)| run).collect()));
                    }
                    for (run, bytes) in diff.puts() {
                        self.put(op, home, &mut list, (offset + u64::from(run.start), bytes));
                    }
                }
            }
            self.drop_twin(*page);
        }
        if !list.is_empty() {
            self.start(home, Part::Flush(op), Request::List(list));
        }
        self.note_changes(noted);
        // None of them may have changed, and those homed here are home at once.
        if !self.operations.is_flushing(op) {
            self.done.push((op, Completion::Done));
        }
    }

    fn put(&mut self, op: OpId, home: Rank, list: &mut PutList, (offset, bytes): (u64, &[u8])) {
        if home == self.settings.rank {
            if !self.segment.words().write(offset, bytes) {
                self.host_failed("bytes of its own segment are not there");
            }
            return;
        }
        if !self.lists {
            return self.start(home, Part::Flush(op), Request::Put { offset, bytes: bytes.to_vec() });
        }
        if !list.push(offset, bytes) {
            self.start(home, Part::Flush(op), Request::List(std::mem::take(list)));
            // A page has room in an empty list.
            let _ = list.push(offset, bytes);
        }
    }

    fn wake(&mut self, thread: ThreadId, outcome: Outcome) {
        match outcome {
            // Nobody waits for a page by name.
            Outcome::Access(..) => {}
            Outcome::Failed(failure) => self.answer(thread, Err(SyncError::Failed(failure))),
            Outcome::Published => self.published(thread),
            Outcome::Seen => self.seen(thread),
            Outcome::Acquired { .. } | Outcome::Released | Outcome::Passed(_) => {
                // What an earlier program asked for is nobody's.
                if self.doing(thread) == Some(Doing::Asks) {
                    self.answer(thread, Ok(outcome));
                }
                self.settle();
            }
        }
    }

    pub(super) fn change(
        &mut self,
        run: Run,
        what: &str,
        change: impl Fn(&Faults, usize, usize) -> Result<(), userfaultfd::Error>,
    ) {
        let failed = { self.places.pieces(run) }.find_map(|(address, len)| change(&self.faults, address, len).err());
        if let Some(error) = failed {
            self.page_failed(what, run.first, &io::Error::other(error));
        }
    }

    fn page_failed(&mut self, what: &str, page: Page, error: &io::Error) {
        self.host_failed(&format!("cannot {what} page {} of relaxed memory: {error}", page.0));
    }
}
