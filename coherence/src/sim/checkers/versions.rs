//! Two copies of one version are equal: every grant to write makes a new version, larger than all before, and every other
//! message names the version that its bytes are of.

use std::collections::BTreeMap;

use crate::id::{Access, Page, Rank, Version};
use crate::message::Message;

use super::{Checker, Violation};

/// The versions that have been granted.
#[derive(Clone, Debug, Default)]
pub struct Versions {
    latest: BTreeMap<Page, Version>,
}

impl Versions {
    /// Takes note of a message that leaves a rank.
    ///
    /// # Errors
    /// [`Violation`] when it names a version that it cannot be about.
    pub fn check(&mut self, from: Rank, message: &Message) -> Result<(), Violation> {
        match message {
            Message::Grant { first, access, pages } => {
                for (page, granted) in (first.0..).map(Page).zip(pages) {
                    self.granted(page, *access, granted.version)?;
                }
                Ok(())
            }
            Message::WriteBack { page, version, .. } => {
                let latest = self.latest(*page);
                if *version == latest {
                    return Ok(());
                }
                let what = format!("rank {} gives back {version:?}, the latest is {latest:?}", from.0);
                Err(Violation::of_page(Checker::Versions, *page, what))
            }
            Message::Acquire { run, have, .. } => {
                for (page, have) in run.pages().zip(have) {
                    if *have > self.latest(page) {
                        let what = format!("rank {} has {have:?}, which was never granted", from.0);
                        return Err(Violation::of_page(Checker::Versions, page, what));
                    }
                }
                Ok(())
            }
            // A page that moves has a version that the old home has granted, to itself if to nobody else.
            Message::Entries { first, pages, .. } => {
                for (page, handed) in (first.0..).map(Page).zip(pages) {
                    let latest = self.latest(page);
                    if handed.version < latest {
                        let what = format!("rank {} hands it over in {:?}, after {latest:?}", from.0, handed.version);
                        return Err(Violation::of_page(Checker::Versions, page, what));
                    }
                    self.latest.insert(page, handed.version);
                }
                Ok(())
            }
            Message::Refuse { .. }
            | Message::HandOver { .. }
            | Message::Freeze { .. }
            | Message::Frozen { .. }
            | Message::Requests { .. }
            | Message::Moved { .. }
            | Message::Invalidate { .. }
            | Message::InvalidateAck { .. }
            | Message::Recall { .. }
            | Message::Leave
            | Message::LeaveAck => Ok(()),
        }
    }

    /// Takes note of a page that its home shows in this version, for others to read.
    ///
    /// # Errors
    /// [`Violation`] when it cannot have that version.
    pub fn shown(&mut self, page: Page, version: Version) -> Result<(), Violation> {
        self.granted(page, Access::Read, version)
    }

    fn granted(&mut self, page: Page, access: Access, version: Version) -> Result<(), Violation> {
        let latest = self.latest(page);
        // A home counts grants to itself too, which no message tells.
        let right = match access {
            Access::Write => version > latest,
            Access::Read => version >= latest && version > Version::NONE,
        };
        if !right {
            let what = format!("{access:?} granted with {version:?} after {latest:?}");
            return Err(Violation::of_page(Checker::Versions, page, what));
        }
        self.latest.insert(page, version);
        Ok(())
    }

    fn latest(&self, page: Page) -> Version {
        self.latest.get(&page).copied().unwrap_or_default()
    }
}
