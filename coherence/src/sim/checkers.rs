//! What must hold after every step of the simulation. Each checker is a file; each rule is theirs alone.

pub mod agreement;
pub mod directory;
pub mod exclusive;
pub mod hold_time;
pub mod leaving;
pub mod linearizable;
pub mod marks;
pub mod pins;
pub mod progress;
pub mod quiescence;
pub mod values;
pub mod versions;

use std::fmt;

use crate::id::{Page, Rank};

/// Who found a violation.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Checker {
    /// [`exclusive`]: one writer, and no reader beside it.
    Exclusive,
    /// [`directory`]: the home knows of every copy.
    Directory,
    /// [`marks`]: the home finds every copy of a page in its window.
    Marks,
    /// [`values`]: every copy that can be read has the last value.
    Values,
    /// [`linearizable`]: every read and locked instruction saw the last write.
    Linearizable,
    /// [`hold_time`]: a page stays for the minimum hold time.
    HoldTime,
    /// [`pins`]: a device has its pages until it releases them.
    Pins,
    /// [`leaving`]: who has left is known to nobody.
    Leaving,
    /// [`versions`]: every grant to write makes a new version.
    Versions,
    /// [`agreement`]: the node's idea of what the guest may do is what the guest may do.
    Agreement,
    /// [`progress`]: faults and holds are answered, instructions end.
    Progress,
    /// [`quiescence`]: what is finished is forgotten.
    Quiescence,
    /// The memory of a rank, by an action that it cannot execute ([`super::memory::Memory::execute`]).
    Memory,
    /// A node, by a message that it does not accept ([`crate::node::ProtocolError`]).
    Protocol,
    /// The litmus tests: an outcome that x86-TSO forbids ([`super::litmus`]).
    Litmus,
}

/// A rule that was broken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// Who found it.
    pub checker: Checker,
    /// The page that it is about, if it is about one.
    pub page: Option<Page>,
    /// What is wrong.
    pub what: String,
}

impl Violation {
    /// One about a page.
    #[must_use]
    pub fn of_page(checker: Checker, page: Page, what: String) -> Self {
        Self { checker, page: Some(page), what }
    }

    /// One about a rank.
    #[must_use]
    pub fn of_rank(checker: Checker, rank: Rank, what: impl fmt::Display) -> Self {
        Self { checker, page: None, what: format!("rank {}: {what}", rank.0) }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: ", self.checker)?;
        if let Some(page) = self.page {
            write!(f, "page {}: ", page.0)?;
        }
        write!(f, "{}", self.what)
    }
}
