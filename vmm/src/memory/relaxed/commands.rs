//! What guest programs write into command pages ([`vincs_guest_commands`]), as relaxed memory is asked for it.

use vincs_coherence::hlrc::{LockId, MAX_LOCKS, ThreadId};
use vincs_guest_commands::{
    BEGIN, DONE, FAILED, GIVE_BACK, HEAR, HELD, LOCK, MEET, NO_COMMAND, NO_LOCK, NO_TEAM, NOT_HELD, SLOTS, TAKEN_OVER,
    TELL, UNLOCK, WORDS,
};

use crate::layout::PAGE_SIZE;
use crate::memory::hlrc::command::Ask;
use crate::memory::hlrc::meeting::{Attendance, MAX_MEMBERS, Meeting};
use crate::memory::hlrc::member::{Answer, SyncError};

/// Locks.
pub(super) const LOCKS: u32 = MAX_LOCKS;

const _: () = assert!(WORDS as u64 + MAX_MEMBERS as u64 * 8 == PAGE_SIZE);

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
            GIVE_BACK => Ask::GiveBack(lock()?),
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
            [(0, 0), (0, 8), (0, u32::MAX), (0, BEGIN), (509, LOCK), (510, LOCK), (u16::MAX - 1, TELL)]
        {
            assert_eq!(ask(slot, command, 0, 0), Err(NO_COMMAND), "{command} in slot {slot}");
        }
    }
}
