//! Pages that migrate: each rank in its turn reads such a page and then writes it, so a copy to read is only the first of two requests.
//!
//! A home sees the pattern: a page that one rank owned is read by another, and that one, alone, asks to write it next. From the second time in
//! a row on the home gives the page to be written to whoever asks to read it, as long as one rank alone has it (Cox and Fowler, "Adaptive cache
//! coherency for detecting migratory shared data", 1993; Stenström, Brorsson and Sandberg, in the same year). [`Companions`] are the cacher's side
//! of the same, for the few pages that are needed together.
//!
//! Nobody sees whether a page that was given so is written. So every [`PROBE_EVERY`]th time a copy to read is given again: if its reader does not write
//! it before anybody else asks, the page does not migrate any more.
//!
//! [`Companions`]: super::companions::Companions

use super::Node;
use super::companions::PROBE_EVERY;
use super::directory::{DirectoryEntry, Request};
use crate::id::{Access, Rank};

/// A page migrates from so many times on that its reader has written it next.
const ENOUGH: u8 = 2;

/// What a home has seen of a page.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Migration {
    /// The only one who has read it since it had an owner.
    reader: Option<u8>,
    /// How often in a row it was written by its reader; beyond [`ENOUGH`] also how often it was given to be written since it was seen to be.
    times: u8,
}

impl Migration {
    /// Whether a reader is expected to write.
    pub(super) fn is_expected(self) -> bool {
        self.times >= ENOUGH
    }

    /// A page that one rank alone has is given to be written, as is expected; or to be read, when it is time to see whether it is still right. Says which.
    fn given(&mut self) -> Access {
        if !self.is_expected() {
            return Access::Read;
        }
        self.times = (self.times + 1).min(ENOUGH + PROBE_EVERY - 1);
        if self.times == ENOUGH + PROBE_EVERY - 1 { Access::Read } else { Access::Write }
    }

    /// Somebody gets a copy to read: the first one since the page had an owner, or one more.
    pub(super) fn read_by(&mut self, reader: Rank, is_first: bool) {
        let reader = u8::try_from(reader.0).ok();
        self.reader = if is_first || self.reader == reader { reader } else { None };
    }

    /// Somebody is to write a page that can be read.
    fn written_by(&mut self, writer: Rank) {
        let was_reader = self.reader.take().is_some_and(|reader| u16::from(reader) == writer.0);
        self.times = if was_reader { ENOUGH.min(self.times.saturating_add(1)) } else { 0 };
    }
}

impl Node {
    /// What a request is answered with that is for a page which another rank, or the home, alone has.
    pub(super) fn foresee(&mut self, entry: &mut DirectoryEntry, request: Request) -> Request {
        if !self.config.migratory || request.access == Access::Write {
            return request;
        }
        let access = entry.migration.given();
        self.stats.migratory_grants += u64::from(access == Access::Write);
        Request { access, ..request }
    }

    /// A copy of a page to read is given: the first one since it had an owner, or one more.
    pub(super) fn note_read(&self, entry: &mut DirectoryEntry, reader: Rank, is_first: bool) {
        if self.config.migratory {
            entry.migration.read_by(reader, is_first);
        }
    }

    /// Somebody is to write a page that can be read.
    pub(super) fn note_write(&self, entry: &mut DirectoryEntry, writer: Rank) {
        if self.config.migratory {
            entry.migration.written_by(writer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ranks in turn read and write, until the page migrates.
    fn migrating() -> Migration {
        let mut page = Migration::default();
        for rank in [0, 1] {
            assert!(!page.is_expected());
            assert_eq!(page.given(), Access::Read);
            page.read_by(Rank(rank), true);
            page.written_by(Rank(rank));
        }
        page
    }

    #[test]
    fn a_page_that_its_readers_write_is_given_to_be_written_but_for_one_time_in_four() {
        let mut page = migrating();
        for _ in 0..3 {
            assert_eq!([0; 2].map(|_| page.given()), [Access::Write; 2]);
            assert_eq!(page.given(), Access::Read, "to see whether it is right");
            page.read_by(Rank(2), true);
            page.written_by(Rank(2));
        }
        assert!(page.is_expected());
    }

    #[test]
    fn a_reader_that_does_not_write_ends_it() {
        for (others, writer) in [(vec![], 3), (vec![3], 2), (vec![3], 3)] {
            let mut page = migrating();
            while page.given() == Access::Write {}
            page.read_by(Rank(2), true);
            others.iter().for_each(|other| page.read_by(Rank(*other), false));
            page.written_by(Rank(writer));
            assert!(!page.is_expected(), "readers 2 and {others:?}, written by {writer}");
            assert_eq!(page.times, 0);
        }
    }

    #[test]
    fn while_nobody_writes_copies_to_read_are_given() {
        let mut page = migrating();
        while page.given() == Access::Write {}
        assert_eq!([0; 9].map(|_| page.given()), [Access::Read; 9]);
    }

    #[test]
    fn a_rank_that_reads_again_is_one_reader() {
        let mut page = Migration::default();
        page.read_by(Rank(1), true);
        page.read_by(Rank(1), false);
        page.written_by(Rank(1));
        assert_eq!(page.times, 1);
    }
}
