//! What a node wants done.

use serde::{Deserialize, Serialize};

use crate::id::{Access, Page, Rank, Run, Version};
use crate::message::Message;

/// Names a device's hold on pages; given by the driver, unique while it lasts.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct HoldId(pub u64);

/// Where the bytes of mapped pages come from.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Source {
    /// The body of the message being handled, its pages from this one on, counted from 0; or what the guarded read being handled has brought.
    Received {
        /// Index of the first page in the body.
        at: u16,
    },
    /// They are all zeros.
    Zero,
}

/// Where the bytes that go with a message come from.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Body {
    /// None go with it.
    None,
    /// This rank's own copies of the message's [`Message::data_pages`].
    Own,
    /// The body of the message being handled, from this page on.
    Received {
        /// Index of the first page in the body.
        at: u16,
    },
}

/// Something to do. The guest's view of a page is what its processors see of it on this rank.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Action {
    /// Send a message. The bytes of its body are read when this is executed.
    Send {
        /// To whom; never this rank itself.
        to: Rank,
        /// What.
        message: Message,
        /// With which bytes.
        body: Body,
    },
    /// Put pages that are not there into the guest's view with these bytes, to be read, or read and written, in one step, and wake who
    /// waits for them.
    Map {
        /// Which.
        run: Run,
        /// What for.
        access: Access,
        /// Their bytes.
        source: Source,
    },
    /// From now on pages that are there can only be read.
    Protect {
        /// Which.
        run: Run,
    },
    /// From now on pages that are there can be written too; wake who waits for that.
    Allow {
        /// Which.
        run: Run,
    },
    /// Take pages that are there out of the guest's view. Their bytes stay for the bodies of messages ([`Body::Own`])
    /// until [`Action::Unmap`] follows.
    Detach {
        /// Which.
        run: Run,
    },
    /// Take pages that are there out of the guest's view, bytes and all; of detached pages, drop the bytes.
    Unmap {
        /// Which.
        run: Run,
    },
    /// Wake who waits for these pages: they were there already, or are to try again.
    Wake {
        /// Which.
        run: Run,
    },
    /// Show this rank's own copy of a page in its window, where others may read it: the bytes, the directory word, and last the hash of both.
    Show {
        /// Which. Nobody may write it, and nothing is shown in its slot.
        page: Page,
        /// Its version.
        version: Version,
    },
    /// Show a page no more: clear the hash, then look who has marked the slot. The mark of whoever has seen the hash as
    /// it was has to be seen. [`super::Node::handle_collected`] is told.
    Hide {
        /// Which.
        page: Page,
    },
    /// Read a page in its home's window: put this rank's mark, and get the directory word, the hash and the bytes after that, in any
    /// order. [`super::Node::handle_guarded_read`] is told how it ended, also when it could not be begun.
    GuardedRead {
        /// The home, another rank.
        home: Rank,
        /// Which.
        page: Page,
    },
    /// Pages that rank 0 had ordered to move have their new home, and all ranks know or will before they hear anything else from it.
    HandedOver {
        /// Which.
        run: Run,
        /// The new home.
        to: Rank,
    },
    /// A device has all its pages.
    HoldReady {
        /// Which hold.
        id: HoldId,
    },
}
