//! What guest programs write into command pages, and what they find there: the one place that both the library and vincs have it from.
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
//! | races | 32 to 35 | 1 where they are looked for, else 0 |
//! | lent locks | [`LENT`] on | an entry for all locks of one number modulo [`LENT_LOCKS`] |
//!
//! A rank that uses a lock alone lends it to its threads: an entry has the lock's number plus one from bit 8 on, [`LENT_TAKEN`] while a thread has it, and [`LENT_WANTED`]
//! when vincs wants it back. A thread takes it by exchanging [`lent`] for that with the first bit, and gives it back by the reverse. Where that fails, it
//! does so by a command, as for any other lock; a lock that was lent, by [`GIVE_BACK`].

use std::error::Error;
use std::ffi::OsString;
use std::fmt;

/// The first word of the header.
pub const MAGIC: u64 = u64::from_le_bytes(*b"vincsrlx");
/// Version of what is described here.
pub const VERSION: u32 = 1;
/// Where the header has the version.
pub const VERSION_AT: u16 = 8;
/// Where the header has the number of ranks.
pub const RANKS_AT: u16 = 12;
/// Where the header has whether races are looked for.
pub const RACES_AT: u16 = 32;
/// Where the header has lent locks.
pub const LENT: u16 = 2048;
/// How many entries that are.
pub const LENT_LOCKS: u16 = 64;
/// Bytes from one to the next.
pub const LENT_STRIDE: u16 = 32;
/// In an entry: a thread has the lock.
pub const LENT_TAKEN: u64 = 1;
/// In an entry: it is wanted back.
pub const LENT_WANTED: u64 = 2;
/// Slots.
pub const SLOTS: u16 = 510;

const _: () = assert!(LENT + LENT_LOCKS * LENT_STRIDE <= 4096 && LENT > RACES_AT);

/// Where a slot has who uses it, which is the guest's own affair.
pub const OWNER: u16 = 0;
/// Where a slot has the number of the last command, which the guest counts.
pub const ASKED: u16 = 4;
/// Where a slot has the number of the last command that has been answered.
pub const ANSWERED: u16 = 8;
/// Where a slot has what came of it.
pub const RESULT: u16 = 12;
/// Where a slot has the command.
pub const COMMAND: u16 = 16;
/// Where a slot has the command's first number.
pub const FIRST: u16 = 24;
/// Where a slot has the command's second number.
pub const SECOND: u16 = 32;
/// Where a slot has the command's third number.
pub const THIRD: u16 = 40;
/// Where a slot has the words of all who met, in the order of members.
pub const WORDS: u16 = 1024;

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
/// Give back the lock of the first number, which was lent and is wanted.
pub const GIVE_BACK: u32 = 7;

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

/// The entry of a lock that is lent and that no thread has.
#[must_use]
pub const fn lent(lock: u32) -> u64 {
    (lock as u64 + 1) << 8
}

/// Where the header has the entry for a lock.
#[must_use]
pub const fn lent_at(lock: u32) -> usize {
    LENT as usize + lock as usize % LENT_LOCKS as usize * LENT_STRIDE as usize
}

/// Environment variable by which races on relaxed memory are looked for: 1 does, 0 does not, as does none or an empty one.
pub const RACE_CHECK_VARIABLE: &str = "VINCS_RACE_CHECK";

/// The variable says something else.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WrongRaceCheck(pub OsString);

impl fmt::Display for WrongRaceCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{RACE_CHECK_VARIABLE}={:?} is neither 1, which looks for races on relaxed memory, nor 0, which does not",
            self.0
        )
    }
}

impl Error for WrongRaceCheck {}

/// Whether races are to be looked for, by the variable's value.
///
/// # Errors
/// [`WrongRaceCheck`].
pub fn race_check(value: Option<OsString>) -> Result<bool, WrongRaceCheck> {
    match value.as_ref().map(|value| value.as_encoded_bytes()) {
        None | Some(b"" | b"0") => Ok(false),
        Some(b"1") => Ok(true),
        Some(_) => Err(WrongRaceCheck(value.unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_0_or_1_and_nothing_else() {
        let read = |value: &str| race_check(Some(value.into()));
        assert_eq!([race_check(None), read(""), read("0"), read("1")], [Ok(false), Ok(false), Ok(false), Ok(true)]);
        for wrong in ["2", "01", "yes", "true", " 1", "1\n"] {
            let line = read(wrong).unwrap_err().to_string();
            assert!(
                line.starts_with("VINCS_RACE_CHECK=\"") && line.contains(" 1, ") && line.lines().count() == 1,
                "{line}"
            );
        }
    }
}
