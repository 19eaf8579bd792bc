//! Members on several ranks: vincs does what they do together, and has relaxed memory coherent then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vincs_guest_commands::{DONE, HEAR, LOCK, MEET, NOT_HELD, TELL, UNLOCK};

use super::LOCKS;
use super::lock::LockError;
use crate::ranks::{Device, Ranks, Slot, eprint_line, fail};

/// A member without a slot.
const NONE: u16 = u16::MAX;

/// A team on several ranks.
#[derive(Debug)]
pub(super) struct OnRanks {
    device: Arc<Device>,
    team: u64,
    first_lock: u32,
    members: Vec<Seat>,
}

/// A member's.
#[derive(Debug)]
struct Seat {
    /// How many members are on its rank.
    here: u64,
    /// Its slot there.
    slot: AtomicU16,
    /// Locks that it has.
    held: Mutex<BTreeMap<u32, Source>>,
}

/// How a member has got a lock, and so how it gives it back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Source {
    /// By a command.
    Vincs,
    /// Its rank lends it.
    Rank,
}

impl Seat {
    fn held(&self) -> MutexGuard<'_, BTreeMap<u32, Source>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OnRanks {
    /// A team on these processors; nothing when there are too many teams, or a processor is new.
    pub(super) fn new(device: Arc<Device>, processors: &[usize]) -> Option<Self> {
        let ranks = device.ranks.as_ref()?;
        let places: Vec<u32> = processors.iter().map(|one| ranks.rank_of(*one)).collect::<Option<_>>()?;
        let here = |place: &u32| places.iter().filter(|other| *other == place).count() as u64;
        let seat = |place| Seat { here: here(place), slot: AtomicU16::new(NONE), held: Mutex::default() };
        let members = places.iter().map(seat).collect();
        let (team, first_lock) = ranks.new_team()?;
        Some(Self { device, team, first_lock, members })
    }

    fn ranks(&self) -> &Ranks {
        // It was there when the team was made.
        let Some(ranks) = &self.device.ranks else { unreachable!("a device keeps its ranks") };
        ranks
    }

    /// A member is on its processor; false when teams have all slots of its rank.
    pub(super) fn enter(&self, member: u32) -> bool {
        let (Some(seat), Some(slot)) = (self.members.get(member as usize), self.ranks().slot_of_member()) else {
            return false;
        };
        seat.slot.store(slot.number(), Ordering::Relaxed);
        true
    }

    /// It goes, if it was there.
    pub(super) fn leave(&self, member: u32) {
        let Some(seat) = self.members.get(member as usize) else { return };
        let taken = seat.slot.load(Ordering::Relaxed);
        if taken == NONE {
            return;
        }
        let held = std::mem::take(&mut *seat.held());
        for (number, from) in held {
            eprint_line(&left_held(member, number));
            // The machine may have ended meanwhile, and nobody waits for this one.
            let _ = self.give_back(member, number, from);
        }
        seat.slot.store(NONE, Ordering::Relaxed);
        self.ranks().taken(taken).give_back();
    }

    fn slot(&self, member: u32) -> Slot<'_> {
        let number = self.members.get(member as usize).map_or(NONE, |seat| seat.slot.load(Ordering::Relaxed));
        assert!(number != NONE, "member {member} has not entered");
        self.ranks().taken(number)
    }

    fn command(&self, member: u32, command: u32, numbers: [u64; 3]) {
        match self.slot(member).command(command, numbers) {
            DONE => {}
            result => fail(result),
        }
    }

    pub(super) fn gather(&self, member: u32, word: u64) -> Vec<u64> {
        let members = self.members.len() as u64;
        let here = self.members.get(member as usize).map_or(0, |seat| seat.here);
        self.command(member, MEET, [self.team, members | here << 16 | u64::from(member) << 32, word]);
        self.slot(member).words(u32::try_from(members).unwrap_or(0))
    }

    /// Without vincs where the member's rank lends the lock.
    pub(super) fn lock(&self, member: u32, number: u32) -> Result<(), LockError> {
        let seat = self.seat_for_lock(member, number)?;
        if seat.held().contains_key(&number) {
            return Err(LockError::Held(number));
        }
        let (slot, lock) = (self.slot(member), self.first_lock + number);
        let from = if slot.borrow_lock(lock) {
            Source::Rank
        } else {
            match slot.command(LOCK, [lock.into(), 0, 0]) {
                DONE => Source::Vincs,
                result => fail(result),
            }
        };
        seat.held().insert(number, from);
        Ok(())
    }

    pub(super) fn unlock(&self, member: u32, number: u32) -> Result<(), LockError> {
        let from = self.seat_for_lock(member, number)?.held().remove(&number);
        match self.give_back(member, number, from.ok_or(LockError::NotHeld(number))?) {
            DONE => Ok(()),
            NOT_HELD => Err(LockError::NotHeld(number)),
            result => fail(result),
        }
    }

    fn seat_for_lock(&self, member: u32, number: u32) -> Result<&Seat, LockError> {
        self.members.get(member as usize).filter(|_| number < LOCKS).ok_or(LockError::NoSuchLock(number))
    }

    fn give_back(&self, member: u32, number: u32, from: Source) -> u32 {
        let (slot, lock) = (self.slot(member), self.first_lock + number);
        match from {
            Source::Vincs => slot.command(UNLOCK, [lock.into(), 0, 0]),
            Source::Rank => slot.return_lock(lock),
        }
    }

    /// A member begins a run: it sees what who starts it has written.
    pub(super) fn begin(&self, member: u32) {
        self.command(member, HEAR, [0; 3]);
    }

    /// A member ends it.
    pub(super) fn end(&self, member: u32) {
        self.command(member, TELL, [0; 3]);
    }

    /// Who starts a run has written what members are to see.
    pub(super) fn tell(&self) {
        self.ranks().command(TELL);
    }

    /// Who waits for a run's end sees what members have written.
    pub(super) fn hear(&self) {
        self.ranks().command(HEAR);
    }
}

impl Drop for OnRanks {
    fn drop(&mut self) {
        self.ranks().end_team(self.first_lock);
    }
}

/// What is told of a lock that a team has at its end.
fn left_held(member: u32, lock: u32) -> String {
    format!("member {member} ends with its team and has lock {lock} still: it is given back; unlock it before")
}
