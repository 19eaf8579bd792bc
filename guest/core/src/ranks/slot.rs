//! A slot: where a thread writes its commands.

use std::sync::atomic::Ordering;

use vincs_guest_commands::{ANSWERED, ASKED, COMMAND, FIRST, OWNER, RESULT, SECOND, SLOTS, THIRD, WORDS};

use super::control::Control;

/// A slot of the rank that the thread is on. The thread stays there as long as it has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot<'a> {
    control: &'a Control,
    number: u16,
}

impl<'a> Slot<'a> {
    /// One that nobody has. There are more than a machine has processors, so one is free soon.
    pub(super) fn take(control: &'a Control) -> Self {
        loop {
            let take = |number: &u16| {
                let owner = control.word(Control::in_slot(*number, OWNER));
                owner.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
            };
            if let Some(number) = (0..SLOTS - 1).find(take) {
                return Self { control, number };
            }
            std::thread::yield_now();
        }
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
