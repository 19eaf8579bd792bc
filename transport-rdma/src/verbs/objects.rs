//! How many objects of the library an open device or a connection manager has, and whether all were destroyed in the right order.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the objects that were made of an open device, the device itself among them; or the identifiers of a connection manager's channel of events, and
/// the channel itself. Whoever wants to know how it ended keeps it for longer than them.
///
/// The kernel ends whatever is left once a device is closed, so nothing of a wrong order is to be seen from outside; but the call that destroys an
/// object fails while another one depends on it (EBUSY, e.g. ibv_dealloc_pd(3)). A channel of events can be destroyed before its identifiers without
/// an error: that is seen by those that are left.
#[derive(Debug, Default)]
pub struct Objects {
    live: AtomicUsize,
    refused: AtomicUsize,
}

impl Objects {
    /// How many there are.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }

    /// How many could not be destroyed when their turn came: a mistake in the order of drops.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Acquire)
    }

    /// An object was made.
    pub(super) fn made(&self) {
        self.live.fetch_add(1, Ordering::AcqRel);
    }

    /// This call was to destroy an object and returned this.
    pub(super) fn destroyed(&self, call: &'static str, code: i32) {
        if code == 0 {
            self.live.fetch_sub(1, Ordering::AcqRel);
        } else {
            self.refused.fetch_add(1, Ordering::AcqRel);
            tracing::error!(call, code, "an object of the verbs library is still in use");
        }
    }

    /// This call was to destroy what all the others were made of, and returned this. The library does that though some are left.
    pub(super) fn closed(&self, call: &'static str, code: i32) {
        self.destroyed(call, code);
        let left = self.live();
        if code == 0 && left > 0 {
            self.refused.fetch_add(left, Ordering::AcqRel);
            tracing::error!(call, left, "objects are left of what was closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_or_left_is_counted() {
        let objects = Objects::default();
        (0..3).for_each(|_| objects.made());
        objects.destroyed("ibv_destroy_qp", 0);
        assert_eq!((objects.live(), objects.refused()), (2, 0));
        objects.destroyed("ibv_dealloc_pd", 16);
        assert_eq!((objects.live(), objects.refused()), (2, 1));
        // The protection domain is left.
        objects.closed("ibv_close_device", 0);
        assert_eq!((objects.live(), objects.refused()), (1, 2));
    }
}
