//! What a node wants done.

use serde::{Deserialize, Serialize};

use crate::id::{Access, Rank, Run};
use crate::message::Message;

/// Names a device's hold on pages; given by the driver, unique while it lasts.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct HoldId(pub u64);

/// Where the bytes of mapped pages come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// The body of the message being handled: its pages from this one on, counted from 0.
    Received {
        /// Index of the first page in the body.
        at: u16,
    },
    /// They are all zeros.
    Zero,
}

/// Where the bytes that go with a message come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
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
#[derive(Clone, Debug, Eq, PartialEq)]
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
    /// A device has all its pages.
    HoldReady {
        /// Which hold.
        id: HoldId,
    },
}
