//! Actions on their way to the driver: adjacent pages are put together as they come.

use std::collections::VecDeque;

use super::action::{Action, Body, Source};
use crate::id::{Access, MAX_RUN, Page, Rank, Run, Version};
use crate::message::{Content, Granted, Message, Urgency};

/// What one input has led to. Two messages grow while an input is handled, a Grant and an Acquire; each leaves before any other
/// message to the same rank, so that what is said about one page is said in order, and at the end of the input.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Outbox {
    actions: VecDeque<Action>,
    grant: Option<Grant>,
    acquire: Option<Acquire>,
    /// What is to be done when the messages have left, as nobody waits for it: pages to be shown.
    later: Vec<Action>,
}

/// A growing [`Message::Grant`].
#[derive(Clone, Debug, Eq, PartialEq)]
struct Grant {
    to: Rank,
    first: Page,
    access: Access,
    pages: Vec<Granted>,
    /// Pages whose bytes are not needed here once it has left.
    unmap: Vec<Run>,
}

/// A growing [`Message::Acquire`].
#[derive(Clone, Debug, Eq, PartialEq)]
struct Acquire {
    to: Rank,
    run: Run,
    access: Access,
    urgency: Urgency,
    /// Empty as long as every page is without a copy.
    have: Vec<Version>,
}

/// Whether `run` took the adjacent `next` in.
fn extend(run: &mut Run, next: Run) -> bool {
    let count = run.count.saturating_add(next.count);
    let fits = run.end() == next.first && count <= MAX_RUN;
    if fits {
        run.count = count;
    }
    fits
}

/// Whether `last` took `next` in: the same thing to be done to adjacent pages.
fn merge(last: &mut Action, next: &Action) -> bool {
    match (last, next) {
        (Action::Protect { run }, Action::Protect { run: next })
        | (Action::Allow { run }, Action::Allow { run: next })
        | (Action::Detach { run }, Action::Detach { run: next })
        | (Action::Unmap { run }, Action::Unmap { run: next })
        | (Action::Wake { run }, Action::Wake { run: next }) => extend(run, *next),
        (
            Action::Map { run, access, source: Source::Zero },
            Action::Map { run: next, access: as_well, source: Source::Zero },
        ) => access == as_well && extend(run, *next),
        (
            Action::Map { run, access, source: Source::Received { at } },
            Action::Map { run: next, access: as_well, source: Source::Received { at: then } },
        ) => access == as_well && at.checked_add(run.count) == Some(*then) && extend(run, *next),
        _ => false,
    }
}

impl Outbox {
    /// The next action.
    pub(super) fn pop(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Something to do to pages of this rank.
    pub(super) fn push(&mut self, action: Action) {
        if !self.actions.back_mut().is_some_and(|last| merge(last, &action)) {
            self.actions.push_back(action);
        }
    }

    /// Something to do to pages that are to be shown, which nobody waits for.
    pub(super) fn push_later(&mut self, action: Action) {
        if !self.later.last_mut().is_some_and(|last| merge(last, &action)) {
            self.later.push(action);
        }
    }

    /// A page to be hidden, perhaps one that is to be shown before that.
    pub(super) fn hide(&mut self, page: Page) {
        self.flush_later();
        self.actions.push_back(Action::Hide { page });
    }

    /// A message that does not grow.
    pub(super) fn send(&mut self, to: Rank, message: Message, body: Body) {
        if self.grant.as_ref().is_some_and(|grant| grant.to == to) {
            self.flush_grant();
        }
        if self.acquire.as_ref().is_some_and(|acquire| acquire.to == to) {
            self.flush_acquire();
        }
        self.actions.push_back(Action::Send { to, message, body });
    }

    /// A page for another rank, with this rank's own bytes if it takes any. `unmap`: this rank's own copy, detached by now, goes
    /// after that.
    pub(super) fn grant(&mut self, to: Rank, page: Page, access: Access, granted: Granted, unmap: bool) {
        if let Some(grant) = &mut self.grant {
            let run = Run { first: grant.first, count: u16::try_from(grant.pages.len()).unwrap_or(MAX_RUN) };
            if (grant.to, grant.access, run.end()) != (to, access, page) || run.count >= MAX_RUN {
                self.flush_grant();
            }
        }
        let grant = self.grant.get_or_insert_with(|| Grant {
            to,
            first: page,
            access,
            pages: Vec::with_capacity(1),
            unmap: Vec::new(),
        });
        grant.pages.push(granted);
        if unmap && !grant.unmap.last_mut().is_some_and(|run| extend(run, Run::one(page))) {
            grant.unmap.push(Run::one(page));
        }
    }

    /// A page wanted of its home; `have` is the version of the copy that is here.
    pub(super) fn acquire(&mut self, to: Rank, page: Page, access: Access, urgency: Urgency, have: Version) {
        if let Some(acquire) = &mut self.acquire
            && ((acquire.to, acquire.access, acquire.urgency) != (to, access, urgency)
                || !extend(&mut acquire.run, Run::one(page)))
        {
            self.flush_acquire();
        }
        match &mut self.acquire {
            Some(acquire) if have == Version::NONE && acquire.have.is_empty() => {}
            Some(acquire) => {
                acquire.have.resize(usize::from(acquire.run.count) - 1, Version::NONE);
                acquire.have.push(have);
            }
            None => {
                let have = if have == Version::NONE { Vec::new() } else { vec![have] };
                self.acquire = Some(Acquire { to, run: Run::one(page), access, urgency, have });
            }
        }
    }

    /// Lets the growing messages go: an input has been handled.
    pub(super) fn flush(&mut self) {
        self.flush_acquire();
        self.flush_later();
    }

    /// A page stays in view for as long as it is in the window, so it can be shown after anything else but that it is hidden.
    fn flush_later(&mut self) {
        self.flush_grant();
        self.actions.extend(self.later.drain(..));
    }

    /// Lets the growing Acquire go: the next page asked for is to travel by itself.
    pub(super) fn flush_acquire(&mut self) {
        if let Some(Acquire { to, run, access, urgency, have }) = self.acquire.take() {
            let message = Message::Acquire { run, access, urgency, have };
            self.actions.push_back(Action::Send { to, message, body: Body::None });
        }
    }

    fn flush_grant(&mut self) {
        if let Some(Grant { to, first, access, pages, unmap }) = self.grant.take() {
            let data = pages.iter().any(|granted| granted.content == Content::Data);
            let message = Message::Grant { first, access, pages };
            self.actions.push_back(Action::Send { to, message, body: if data { Body::Own } else { Body::None } });
            for run in unmap {
                self.push(Action::Unmap { run });
            }
        }
    }
}
