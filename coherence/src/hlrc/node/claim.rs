//! Who writes a page, by its writer word: asked for before the first write, and again whenever a page goes home that somebody may write alone.
//!
//! Whoever writes a page alone needs no twin, as all of it goes home. The second writer ends that: before its own changes go into the home's
//! copy it saves that copy as the page's shadow. The shadow is what the first writer had when it last put the page, so it is its twin. From then on all
//! writers make their own. All the while nobody waits for another rank's processor, only for its puts that are under way.

use crate::hlrc::action::{Action, Failure, Flush};
use crate::hlrc::writer::Writer;
use crate::id::{Page, Rank};

use super::pages::Coming;
use super::{Node, Pending};

/// What this rank knows of the writers of a page.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(super) enum Claim {
    /// Nothing.
    #[default]
    Unknown,
    /// It was the only one when it got its copy or later, and has kept that copy.
    Alone,
    /// Another one was alone.
    Other(Rank),
    /// There are several, and will be.
    Many,
}

/// An exchange of a page's writer word: if it was `expected`, it is the next one now.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Claiming {
    pub(super) page: Page,
    pub(super) expected: Writer,
}

impl Node {
    /// Asks for the right to write a page, which has to be in view: what it was when this rank got to be alone is in its copy then.
    pub(super) fn claim(&mut self, page: Page) {
        self.copy(page).coming = Some(Coming::Claim { stale: false });
        self.swap_writer(Pending::Claim, page, Writer::Nobody);
    }

    /// Replaces the writer word by what follows `expected` for this rank.
    fn swap_writer(&mut self, pending: fn(Claiming) -> Pending, page: Page, expected: Writer) {
        let Some(place) = self.layout.writer(page) else { return };
        let me = self.rank();
        let new = match expected {
            // A home writes in place, which no other rank may put all of the page over.
            Writer::Nobody if self.is_home(page) => Writer::Many,
            Writer::Nobody => Writer::One(me),
            Writer::One(first) if first == me => Writer::Putting(me),
            Writer::One(first) => Writer::Saving { first, second: me },
            Writer::Putting(first) => Writer::One(first),
            Writer::Saving { .. } | Writer::Many => Writer::Many,
        };
        self.swap(pending(Claiming { page, expected }), place, expected.encode(), new.encode());
    }

    /// What the word was; nothing when that makes no sense.
    fn writer(&mut self, page: Page, old: u64) -> Option<Writer> {
        let writer = Writer::decode(old, self.config.ranks());
        if writer.is_none() {
            self.nonsense_about(page);
        }
        writer
    }

    fn nonsense_about(&mut self, page: Page) {
        let home = self.config.homes.home(page).unwrap_or(self.rank());
        self.fail(Failure::Nonsense(home));
    }

    /// The writer word is known before a page is written.
    pub(super) fn claimed(&mut self, Claiming { page, expected }: Claiming, old: u64) {
        let Some(old) = self.writer(page, old) else { return };
        let me = self.rank();
        let claim = match old {
            Writer::Many => Claim::Many,
            _ if self.is_home(page) => match self.claimed_at_home(page, expected, old) {
                Some(claim) => claim,
                None => return,
            },
            Writer::Nobody => Claim::Alone,
            // What this rank has put last may be known to be done here before the word is.
            Writer::One(first) | Writer::Putting(first) if first == me => Claim::Alone,
            Writer::One(first) | Writer::Putting(first) | Writer::Saving { first, .. } => Claim::Other(first),
        };
        let copy = self.copy(page);
        let stale = copy.coming.take() == Some(Coming::Claim { stale: true });
        copy.claim = if stale && claim == Claim::Alone { Claim::Unknown } else { claim };
        self.go_on_with(page);
    }

    /// The same at the home, which has to leave a shadow for whoever was alone before it writes in place.
    fn claimed_at_home(&mut self, page: Page, expected: Writer, old: Writer) -> Option<Claim> {
        let me = self.rank();
        match old {
            Writer::Nobody | Writer::Many => Some(Claim::Many),
            Writer::Saving { second, .. } if second == me && old == expected => Some(Claim::Many),
            Writer::One(first) if old == expected && first != me => {
                self.save(Claiming { page, expected: Writer::Saving { first, second: me } });
                None
            }
            Writer::One(first) | Writer::Putting(first) | Writer::Saving { first, .. } if first != me => {
                self.swap_writer(Pending::Claim, page, Writer::One(first));
                None
            }
            Writer::One(_) | Writer::Putting(_) | Writer::Saving { .. } => {
                self.nonsense_about(page);
                None
            }
        }
    }

    fn save(&mut self, claiming: Claiming) {
        let Some(home) = self.config.homes.home(claiming.page) else { return };
        self.stats.shadows_left += 1;
        let op = self.begin(Pending::Save(claiming));
        self.do_next(Action::Save { op, page: claiming.page, home });
    }

    /// The shadow is there.
    pub(super) fn saved(&mut self, Claiming { page, expected }: Claiming) {
        let pending = if self.is_home(page) { Pending::Claim } else { Pending::Turn };
        self.swap_writer(pending, page, expected);
    }

    /// A page that can only be read now is to go home: how depends on who writes it.
    pub(super) fn take_turn(&mut self, page: Page) {
        let expected = match self.copy(page).claim {
            Claim::Alone => Writer::One(self.rank()),
            Claim::Other(first) => Writer::One(first),
            Claim::Unknown | Claim::Many => return self.ready(page, Flush::Changed),
        };
        self.swap_writer(Pending::Turn, page, expected);
    }

    /// The writer word is known before a page goes home.
    pub(super) fn turned(&mut self, Claiming { page, expected }: Claiming, old: u64) {
        let Some(old) = self.writer(page, old) else { return };
        let me = self.rank();
        match old {
            Writer::Many => self.is_shared(page),
            Writer::One(first) if old == expected && first == me => self.ready(page, Flush::Whole),
            Writer::One(first) if old == expected => {
                self.save(Claiming { page, expected: Writer::Saving { first, second: me } });
            }
            Writer::Saving { .. } if old == expected => self.is_shared(page),
            // Another rank is at it, or this one's last word is on its way: it is over in a moment.
            Writer::Putting(_) | Writer::Saving { .. } => self.swap_writer(Pending::Turn, page, expected),
            Writer::Nobody | Writer::One(_) => self.nonsense_about(page),
        }
    }

    /// A page that is about to go home has several writers.
    fn is_shared(&mut self, page: Page) {
        let copy = self.copy(page);
        let was = std::mem::replace(&mut copy.claim, Claim::Many);
        if was != Claim::Alone {
            return self.ready(page, Flush::Changed);
        }
        copy.twin = true;
        let Some(home) = self.config.homes.home(page) else { return };
        self.stats.shadows_got += 1;
        let op = self.begin(Pending::Shadow(page));
        self.do_next(Action::FetchTwin { op, page, home });
    }

    pub(super) fn shadow_got(&mut self, page: Page) {
        self.ready(page, Flush::Changed);
    }

    /// A whole page is home: others may end that now.
    pub(super) fn end_turn(&mut self, page: Page) {
        self.swap_writer(|_| Pending::Free, page, Writer::Putting(self.rank()));
    }
}
