//! A slot: where a thread writes its commands.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use vincs_guest_commands::{
    ANSWERED, ASKED, COMMAND, DONE, FIRST, GIVE_BACK, OWNER, RESULT, SECOND, SLOTS, THIRD, WORDS,
};

use super::control::Control;

/// Slots that no member of a team has: threads of none have one for the time of a command.
const LOOSE: u16 = 32;
/// How often a thread looks for one when more threads than that want one at once.
const LOOK_TIME: Duration = Duration::from_micros(100);

/// A slot of the rank that the thread is on. The thread stays there as long as it has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot<'a> {
    control: &'a Control,
    number: u16,
}

impl<'a> Slot<'a> {
    /// One that nobody has, for a command or two: it is given back at once, and [`LOOSE`] of them are for nothing else, so one is free soon.
    pub(super) fn take_soon(control: &'a Control) -> Self {
        loop {
            if let Some(slot) = Self::take_of(control, 0..SLOTS - 1) {
                return slot;
            }
            std::thread::sleep(LOOK_TIME);
        }
    }

    /// One that nobody has, for as long as a team is there.
    pub(super) fn take_for_member(control: &'a Control) -> Option<Self> {
        Self::take_of(control, 0..SLOTS - 1 - LOOSE)
    }

    fn take_of(control: &'a Control, mut numbers: Range<u16>) -> Option<Self> {
        let take = |number: &u16| {
            let owner = control.word(Control::in_slot(*number, OWNER));
            owner.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        numbers.find(take).map(|number| Self { control, number })
    }

    /// The one for a program that begins.
    pub(super) fn last(control: &'a Control) -> Self {
        Self { control, number: SLOTS - 1 }
    }

    /// One that the calling thread has taken.
    pub(super) fn taken(control: &'a Control, number: u16) -> Self {
        Self { control, number }
    }

    /// Its number.
    pub(crate) fn number(self) -> u16 {
        self.number
    }

    fn at(self, offset: u16) -> usize {
        Control::in_slot(self.number, offset)
    }

    /// Has vincs do something, and waits until it is done: what came of it.
    pub(crate) fn command(self, command: u32, numbers: [u64; 3]) -> u32 {
        let control = self.control;
        control.word(self.at(COMMAND)).store(command, Ordering::Relaxed);
        for (at, number) in [FIRST, SECOND, THIRD].into_iter().zip(numbers) {
            control.long(self.at(at)).store(number, Ordering::Relaxed);
        }
        let asked = control.word(self.at(ANSWERED)).load(Ordering::Relaxed).wrapping_add(1);
        control.word(self.at(ASKED)).store(asked, Ordering::Release);
        while control.word(self.at(ANSWERED)).load(Ordering::Acquire) != asked {
            control.ring(self.number);
        }
        control.word(self.at(RESULT)).load(Ordering::Relaxed)
    }

    /// Takes a lock of this number, of all there are, that the rank lends; false if it has to be asked for.
    pub(crate) fn borrow_lock(self, lock: u32) -> bool {
        self.control.borrow_lock(lock)
    }

    /// Gives one back that was taken so: what came of it.
    pub(crate) fn return_lock(self, lock: u32) -> u32 {
        if self.control.return_lock(lock) { DONE } else { self.command(GIVE_BACK, [lock.into(), 0, 0]) }
    }

    /// The words of so many who have met by the last command.
    pub(crate) fn words(self, members: u32) -> Vec<u64> {
        let word = |index: usize| self.control.long(self.at(WORDS) + index * size_of::<u64>()).load(Ordering::Relaxed);
        (0..members as usize).map(word).collect()
    }

    /// Anybody may have it.
    pub(crate) fn give_back(self) {
        self.control.word(self.at(OWNER)).store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::CONTROL_BYTES;

    #[test]
    fn locks_are_borrowed_where_they_are_lent_and_nobody_has_them() {
        use vincs_guest_commands::{LENT_TAKEN, LENT_WANTED, lent, lent_at};
        let file = tempfile::tempfile().unwrap();
        file.set_len(CONTROL_BYTES as u64).unwrap();
        let control = Control::map(&file).unwrap();
        let (slot, entry) = (Slot::taken(&control, 0), control.long(lent_at(65)));
        assert!(!slot.borrow_lock(65), "nothing is lent");
        entry.store(lent(65), Ordering::Relaxed);
        assert!(!slot.borrow_lock(1), "that is another one");
        assert!(slot.borrow_lock(65) && !slot.borrow_lock(65));
        assert_eq!((slot.return_lock(65), entry.load(Ordering::Relaxed)), (DONE, lent(65)));
        assert!(slot.borrow_lock(65));
        entry.fetch_or(LENT_WANTED, Ordering::Relaxed);
        assert!(!control.return_lock(65) && entry.load(Ordering::Relaxed) == lent(65) | LENT_TAKEN | LENT_WANTED);
        entry.store(lent(65) | LENT_WANTED, Ordering::Relaxed);
        assert!(!slot.borrow_lock(65), "it is asked for");
    }

    #[test]
    fn members_leave_slots_to_others_and_are_told_when_there_is_none() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(CONTROL_BYTES as u64).unwrap();
        let control = Control::map(&file).unwrap();
        let members: Vec<Slot<'_>> = std::iter::from_fn(|| Slot::take_for_member(&control)).take(1000).collect();
        assert_eq!(members.len(), usize::from(SLOTS - 1 - LOOSE));
        let loose: Vec<u16> = (0..LOOSE).map(|_| Slot::take_soon(&control).number()).collect();
        assert_eq!(
            loose,
            (SLOTS - 1 - LOOSE..SLOTS - 1).collect::<Vec<_>>(),
            "all but the last, which is for beginnings"
        );
        let soon = std::thread::scope(|scope| {
            let waits = scope.spawn(|| Slot::take_soon(&control).number());
            std::thread::sleep(10 * LOOK_TIME);
            members[7].give_back();
            waits.join().unwrap()
        });
        assert_eq!(soon, 7);
        assert!(Slot::take_for_member(&control).is_none());
        Slot::taken(&control, loose[0]).give_back();
        assert!(Slot::take_for_member(&control).is_none(), "that one is no member's");
    }
}
