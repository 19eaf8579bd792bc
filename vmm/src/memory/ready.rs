//! How a service thread of memory waits for something to do.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::engine::mailbox::{Mailbox, Refuse};

/// Where something may have to be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) faults: bool,
    pub(super) transport: bool,
}

impl Ready {
    /// There may be something everywhere.
    pub(super) const EVERYWHERE: Self = Self { faults: true, transport: true };

    /// Looks everywhere at once again. Whoever waits for this processor goes first: it may well be the thread that was just woken.
    pub(super) fn at_once(worked: bool) -> Self {
        if !worked {
            std::thread::yield_now();
        }
        Self::EVERYWHERE
    }

    /// Waits for something to do, `limit` at most. Of faults only what goes wrong with them is looked for unless they are `taken`.
    pub(super) fn within<C: Refuse>(
        limit: Duration,
        faults: BorrowedFd<'_>,
        taken: bool,
        transport: BorrowedFd<'_>,
        mailbox: &Mailbox<C>,
    ) -> Self {
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut fds = [
            PollFd::from_borrowed_fd(faults, if taken { PollFlags::IN } else { PollFlags::empty() }),
            PollFd::from_borrowed_fd(transport, PollFlags::IN),
            PollFd::from_borrowed_fd(mailbox.fd(), PollFlags::IN),
        ];
        // It fails only when a signal arrives; then there is nothing to do, or it is found by the next poll.
        let found = poll(&mut fds, Some(&limit)).unwrap_or(0);
        let [faults, transport, rung] = fds.map(|fd| !fd.revents().is_empty());
        mailbox.awake(rung);
        // A transport may have to say something though nothing has arrived.
        Self { faults, transport: transport || found == 0 }
    }
}
