//! What guest programs write into command pages, and what they find there.
//!
//! The first 2 MiB of the device are for this; they are memory of each rank's own, at the same guest-physical addresses on all. The first page is a header, the last
//! one the doorbell, which has no memory behind it; each page between is a slot. All numbers are little-endian.
//!
//! | header | bytes | |
//! |---|---|---|
//! | magic | 0 to 7 | [`MAGIC`] |
//! | version | 8 to 11 | [`VERSION`] |
//! | ranks | 12 to 15 | of the machine |
//! | rank | 16 to 19 | whose memory this is |
//! | slots | 20 to 23 | for commands; the last is for [`BEGIN`] alone |
//! | locks | 24 to 27 | numbered from 0 |
//! | stripe | 28 to 31 | pages that follow each other with one home |

use vincs_coherence::hlrc::{LockId, MAX_LOCKS, ThreadId};

use crate::layout::PAGE_SIZE;
use crate::memory::hlrc::command::Ask;
use crate::memory::hlrc::meeting::{Attendance, MAX_MEMBERS, Meeting};
use crate::memory::hlrc::member::{Answer, SyncError};

/// The first word of the header.
pub const MAGIC: u64 = u64::from_le_bytes(*b"vincsrlx");
/// Version of what is described here.
pub const VERSION: u32 = 1;
/// Slots.
pub const SLOTS: u16 = 510;
/// Locks.
pub const LOCKS: u32 = MAX_LOCKS;

/// Where a slot has who uses it, which is the guest's own affair.
pub const OWNER: u64 = 0;
/// Where a slot has the number of the last command, which the guest counts.
pub const ASKED: u64 = 4;
/// Where a slot has the number of the last command that has been answered.
pub const ANSWERED: u64 = 8;
/// Where a slot has what came of it.
pub const RESULT: u64 = 12;
/// Where a slot has the command.
pub const COMMAND: u64 = 16;
/// Where a slot has the command's first number.
pub const FIRST: u64 = 24;
/// Where a slot has the command's second number.
pub const SECOND: u64 = 32;

/// Where a slot has the command's third number.
pub const THIRD: u64 = 40;
/// Where a slot has the words of all who met, in the order of members.
pub const WORDS: u64 = 1024;

const _: () = assert!(WORDS + MAX_MEMBERS as u64 * 8 == PAGE_SIZE);

/// Take the lock of the first number.
pub const LOCK: u32 = 1;
/// Give it back.
pub const UNLOCK: u32 = 2;
/// What this rank has written is seen by whoever hears after.
pub const TELL: u32 = 3;
/// See what has been told.
pub const HEAR: u32 = 4;
/// Meet as the team of the first number, with the third as this member's word. The second has, from its lowest 16 bits on, the number of its members, of those on
/// this rank, and this one's own.
pub const MEET: u32 = 5;
/// A program begins: all that earlier ones have is given up. In the last slot only.
pub const BEGIN: u32 = 6;

/// It is done.
pub const DONE: u32 = 0;
/// There is no such command, or none in this slot.
pub const NO_COMMAND: u32 = 1;
/// There is no such lock.
pub const NO_LOCK: u32 = 2;
/// The slot has the lock already.
pub const HELD: u32 = 3;
/// The slot does not have the lock.
pub const NOT_HELD: u32 = 4;
/// There is no such team, or its members do not agree.
pub const NO_TEAM: u32 = 5;
/// Another program has begun.
pub const TAKEN_OVER: u32 = 6;
/// A rank is lost, or this one cannot go on.
pub const FAILED: u32 = 7;

/// A command as a guest has written it; anything can be in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Words {
    pub(super) command: u32,
    pub(super) first: u64,
    pub(super) second: u64,
    pub(super) third: u64,
}

impl Words {
    /// What it asks for in a slot.
    ///
    /// # Errors
    /// What the guest finds as its result.
    pub(super) fn ask(self, slot: u16) -> Result<(ThreadId, Ask), u32> {
        let Self { command, first, second, third } = self;
        let lock = || u32::try_from(first).map(LockId).map_err(|_| NO_LOCK);
        let part = |which: u32| u32::try_from(second >> (16 * which) & 0xffff).unwrap_or(u32::MAX);
        let ask = match command {
            LOCK => Ask::Acquire(lock()?),
            UNLOCK => Ask::Release(lock()?),
            TELL => Ask::Tell,
            HEAR => Ask::Hear,
            MEET => {
                let meeting = Meeting { team: first, members: part(0), here: part(1) };
                Ask::Meet(Attendance { meeting, member: part(2), word: third })
            }
            BEGIN => Ask::Reset,
            _ => return Err(NO_COMMAND),
        };
        let is_last = slot + 1 == SLOTS;
        if slot >= SLOTS || is_last != matches!(ask, Ask::Reset) {
            return Err(NO_COMMAND);
        }
        Ok((ThreadId(slot), ask))
    }
}

/// What the guest finds as the result of a command.
pub(super) fn result(answer: Answer) -> u32 {
    use vincs_coherence::hlrc::node::AcquireError;
    match answer {
        Ok(_) => DONE,
        Err(SyncError::Acquire(AcquireError::NoLock { .. })) => NO_LOCK,
        Err(SyncError::Acquire(AcquireError::Held(_))) => HELD,
        Err(SyncError::Release(_)) => NOT_HELD,
        Err(SyncError::Meeting(_) | SyncError::Barrier(_)) => NO_TEAM,
        Err(SyncError::Reset) => TAKEN_OVER,
        Err(SyncError::Acquire(AcquireError::Thread(_)) | SyncError::Thread(_)) => NO_COMMAND,
        Err(SyncError::Failed(_) | SyncError::Ended) => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(slot: u16, command: u32, first: u64, second: u64) -> Result<String, u32> {
        Words { command, first, second, third: 11 }.ask(slot).map(|(thread, ask)| format!("{thread} {ask:?}"))
    }

    #[test]
    fn commands_are_what_they_say_and_garbage_is_an_error() {
        assert_eq!(ask(0, LOCK, 7, 9).unwrap(), "thread 0 Acquire(LockId(7))");
        assert_eq!(ask(508, UNLOCK, u32::MAX.into(), 0).unwrap(), "thread 508 Release(LockId(4294967295))");
        assert_eq!(
            ask(1, MEET, 9, 4 << 32 | 3 << 16 | 5).unwrap(),
            "thread 1 Meet(Attendance { meeting: Meeting { team: 9, members: 5, here: 3 }, member: 4, word: 11 })"
        );
        assert_eq!(ask(509, BEGIN, 0, 0).unwrap(), "thread 509 Reset");
        assert_eq!(ask(0, LOCK, 1 << 32, 0), Err(NO_LOCK));
        for (slot, command) in
            [(0, 0), (0, 7), (0, u32::MAX), (0, BEGIN), (509, LOCK), (510, LOCK), (u16::MAX - 1, TELL)]
        {
            assert_eq!(ask(slot, command, 0, 0), Err(NO_COMMAND), "{command} in slot {slot}");
        }
    }
}
