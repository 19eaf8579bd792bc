//! The memory of one simulated rank: copies of pages, each with what the guest may do with it.

use std::collections::BTreeMap;

use crate::id::{Access, Page, Rank, Run, Version};
use crate::message::Message;
use crate::node::{Action, Body, HoldId, Source};

/// Words of a simulated page: enough that two processors use one page without meaning the same place.
pub const WORDS: usize = 2;

/// The bytes of a simulated page.
pub type Words = [u64; WORDS];

/// A page that nobody has written.
pub const ZEROS: Words = [0; WORDS];

/// What the guest's processors may do with a copy.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum View {
    /// Nothing: the copy is detached, its bytes wait for a message.
    Detached,
    /// Read it.
    Read,
    /// Read and write it.
    Write,
}

/// A copy of a page.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PageCopy {
    /// Who may use it.
    pub view: View,
    /// Its bytes.
    pub words: Words,
}

/// What follows from an action for the world outside of the memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Nothing.
    None,
    /// A message leaves.
    Sent {
        /// To whom.
        to: Rank,
        /// What.
        message: Message,
        /// The bytes of its [`Message::data_pages`].
        body: Vec<Words>,
    },
    /// Processors that wait for these pages go on.
    Woken(Run),
    /// A device has its pages.
    Ready(HoldId),
    /// Pages have their new home.
    Moved(Run),
    /// A page is shown in the window.
    Shows {
        /// Which.
        page: Page,
        /// Its version.
        version: Version,
        /// Its bytes.
        words: Words,
    },
    /// A page is hidden there.
    Hides(Page),
    /// A page is read in its home's window.
    Reads {
        /// The home.
        home: Rank,
        /// Which.
        page: Page,
    },
}

/// All copies of one rank. A page without an entry is a hole.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Memory {
    copies: BTreeMap<Page, PageCopy>,
}

impl Memory {
    /// The copy of a page, in view or not.
    #[must_use]
    pub fn copy(&self, page: Page) -> Option<PageCopy> {
        self.copies.get(&page).copied()
    }

    /// What the guest may do with a page.
    #[must_use]
    pub fn access(&self, page: Page) -> Option<Access> {
        match self.copy(page)?.view {
            View::Detached => None,
            View::Read => Some(Access::Read),
            View::Write => Some(Access::Write),
        }
    }

    /// Whether the guest may do this.
    #[must_use]
    pub fn permits(&self, page: Page, access: Access) -> bool {
        self.access(page).is_some_and(|has| has >= access)
    }

    /// A word of a page in view.
    #[must_use]
    pub fn read(&self, page: Page, word: usize) -> Option<u64> {
        self.copy(page).filter(|copy| copy.view >= View::Read)?.words.get(word).copied()
    }

    /// Writes a word; false when the view does not permit it.
    pub fn write(&mut self, page: Page, word: usize, value: u64) -> bool {
        let writable = self.copies.get_mut(&page).filter(|copy| copy.view == View::Write);
        let Some(place) = writable.and_then(|copy| copy.words.get_mut(word)) else { return false };
        *place = value;
        true
    }

    /// Executes an action while `received` is the body of the message being handled.
    ///
    /// # Errors
    /// What is wrong with the action: it maps what is there, takes away what is not, sends bytes that are not there or
    /// that the guest may still change.
    pub fn execute(&mut self, action: &Action, received: &[Words]) -> Result<Effect, String> {
        match action {
            Action::Send { to, message, body } => {
                let body = self.body(message, *body, received)?;
                Ok(Effect::Sent { to: *to, message: message.clone(), body })
            }
            Action::Map { run, access, source } => {
                self.map(*run, *access, *source, received)?;
                Ok(Effect::Woken(*run))
            }
            Action::Protect { run } => {
                self.change(*run, |copy| match copy.view {
                    View::Detached => Err("protects a detached page"),
                    View::Read | View::Write => {
                        copy.view = View::Read;
                        Ok(())
                    }
                })?;
                Ok(Effect::None)
            }
            Action::Allow { run } => {
                self.change(*run, |copy| match copy.view {
                    View::Detached => Err("allows to write a detached page"),
                    View::Read | View::Write => {
                        copy.view = View::Write;
                        Ok(())
                    }
                })?;
                Ok(Effect::Woken(*run))
            }
            Action::Detach { run } => {
                self.change(*run, |copy| match copy.view {
                    View::Detached => Err("detaches a page twice"),
                    View::Read | View::Write => {
                        copy.view = View::Detached;
                        Ok(())
                    }
                })?;
                Ok(Effect::None)
            }
            Action::Unmap { run } => {
                self.change(*run, |_| Ok(()))?;
                for page in run.pages() {
                    self.copies.remove(&page);
                }
                Ok(Effect::None)
            }
            Action::Wake { run } => Ok(Effect::Woken(*run)),
            Action::HoldReady { id } => Ok(Effect::Ready(*id)),
            Action::HandedOver { run, .. } => Ok(Effect::Moved(*run)),
            Action::Show { page, version } => match self.copy(*page) {
                Some(PageCopy { view: View::Read, words }) => {
                    Ok(Effect::Shows { page: *page, version: *version, words })
                }
                other => Err(format!("shows page {}, of which there is {other:?}", page.0)),
            },
            Action::Hide { page } => Ok(Effect::Hides(*page)),
            Action::GuardedRead { home, page } => Ok(Effect::Reads { home: *home, page: *page }),
        }
    }

    fn map(&mut self, run: Run, access: Access, source: Source, received: &[Words]) -> Result<(), String> {
        let view = match access {
            Access::Read => View::Read,
            Access::Write => View::Write,
        };
        for (index, page) in run.pages().enumerate() {
            let words = match source {
                Source::Zero => ZEROS,
                Source::Received { at } => *received
                    .get(usize::from(at) + index)
                    .ok_or_else(|| format!("maps page {} from beyond the body", page.0))?,
            };
            if self.copies.insert(page, PageCopy { view, words }).is_some() {
                return Err(format!("maps page {}, which is there", page.0));
            }
        }
        Ok(())
    }

    fn change(
        &mut self,
        run: Run,
        mut change: impl FnMut(&mut PageCopy) -> Result<(), &'static str>,
    ) -> Result<(), String> {
        for page in run.pages() {
            let copy = self.copies.get_mut(&page).ok_or_else(|| format!("page {} is not there", page.0))?;
            change(copy).map_err(|what| format!("{what}, page {}", page.0))?;
        }
        Ok(())
    }

    fn body(&self, message: &Message, body: Body, received: &[Words]) -> Result<Vec<Words>, String> {
        let pages = message.data_pages();
        match body {
            Body::None if pages.is_empty() => Ok(Vec::new()),
            Body::None => Err(format!("sends {message:?} without its bytes")),
            Body::Own => pages
                .into_iter()
                .map(|page| match self.copy(page) {
                    Some(PageCopy { view: View::Detached | View::Read, words }) => Ok(words),
                    Some(PageCopy { view: View::Write, .. }) => {
                        Err(format!("sends page {} while the guest may write it", page.0))
                    }
                    None => Err(format!("sends page {}, which is not there", page.0)),
                })
                .collect(),
            Body::Received { at } => {
                let from = usize::from(at);
                let bytes = received.get(from..from + pages.len());
                Ok(bytes.ok_or_else(|| format!("sends {message:?} from beyond the body"))?.to_vec())
            }
        }
    }
}

/// Leaves zero pages out of a message as a driver may, body and all.
pub fn leave_out_zeros(message: &mut Message, body: &mut Vec<Words>) {
    let zero: Vec<Page> = message
        .data_pages()
        .into_iter()
        .zip(&*body)
        .filter(|(_, words)| **words == ZEROS)
        .map(|(page, _)| page)
        .collect();
    message.leave_out_zeros(|page| zero.contains(&page));
    body.retain(|words| *words != ZEROS);
}
