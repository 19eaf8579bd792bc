//! What a node has counted.

use serde::{Deserialize, Serialize};

/// Counters of a node since its start; each only grows.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Stats {
    /// Faults to read a page that was not here.
    pub read_faults: u64,
    /// Faults to write a page that was not here.
    pub write_faults: u64,
    /// Faults to write a page of which a copy to read was here.
    pub upgrade_faults: u64,
    /// Faults on pages that were asked for already.
    pub joined_faults: u64,
    /// Faults on pages that had come in the meantime.
    pub late_faults: u64,
    /// First touches of pages homed here, in blocks.
    pub first_touches: u64,
    /// Copies given up because another rank wants to write.
    pub invalidations: u64,
    /// Pages given back because another rank wants them.
    pub recalls: u64,
    /// Times that giving up a page waited for the end of its minimum hold time.
    pub hold_waits: u64,
    /// Times that giving up a page waited for a device.
    pub device_waits: u64,
    /// Pages given up to keep the cache within its limit.
    pub evictions: u64,
    /// Pages asked for ahead, granted and refused.
    pub ahead: u64,
    /// Pages asked for ahead that were refused.
    pub refused: u64,
    /// Pages asked for because others were wanted that go with them.
    pub companions: u64,
    /// Times that a page homed here was given to be written to who asked to read it, as it migrates.
    pub migratory_grants: u64,
    /// Grants without bytes: to owners of a current copy, and of zero pages.
    pub dataless_grants: u64,
    /// Reads of pages in their homes' windows.
    pub guarded_reads: u64,
    /// Those that brought the page.
    pub guarded_hits: u64,
    /// Those that did not, so that the page was asked for by message.
    pub guarded_misses: u64,
    /// Times that a page homed here was put into the window.
    pub shown: u64,
    /// Times that one was taken out of it.
    pub hidden: u64,
    /// Pages whose home this rank was and is not any more.
    pub homes_given: u64,
    /// Pages whose home this rank has become.
    pub homes_taken: u64,
    /// Requests that waited at this home behind another on the same page.
    pub queued: u64,
}
