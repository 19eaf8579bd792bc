//! Members on several ranks: vincs does what they do together, and has relaxed memory coherent then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use vincs_guest_commands::{DONE, HEAR, HELD, LOCK, MEET, NOT_HELD, TELL, UNLOCK};

use super::LOCKS;
use super::lock::LockError;
use crate::ranks::{Device, Ranks, Slot, fail};

/// A member without a slot.
const NONE: u16 = u16::MAX;

/// A team on several ranks.
#[derive(Debug)]
pub(super) struct OnRanks {
    device: Arc<Device>,
    team: u64,
    first_lock: u32,
    /// For each member how many there are on its rank, and which slot it has there.
    members: Vec<(u64, AtomicU16)>,
}

impl OnRanks {
    /// A team on these processors; nothing when there are too many teams, or a processor is new.
    pub(super) fn new(device: Arc<Device>, processors: &[usize]) -> Option<Self> {
        let ranks = device.ranks.as_ref()?;
        let places: Vec<u32> = processors.iter().map(|one| ranks.rank_of(*one)).collect::<Option<_>>()?;
        let here = |place: &u32| places.iter().filter(|other| *other == place).count() as u64;
        let members = places.iter().map(|place| (here(place), AtomicU16::new(NONE))).collect();
        let (team, first_lock) = ranks.new_team()?;
        Some(Self { device, team, first_lock, members })
    }

    fn ranks(&self) -> &Ranks {
        // It was there when the team was made.
        let Some(ranks) = &self.device.ranks else { unreachable!("a device keeps its ranks") };
        ranks
    }

    /// A member is on its processor.
    pub(super) fn enter(&self, member: u32) {
        if let Some((_, slot)) = self.members.get(member as usize) {
            slot.store(self.ranks().slot().number(), Ordering::Relaxed);
        }
    }

    /// It goes, if it was there.
    pub(super) fn leave(&self, member: u32) {
        let taken = self.members.get(member as usize).map_or(NONE, |(_, slot)| slot.swap(NONE, Ordering::Relaxed));
        if taken != NONE {
            self.ranks().taken(taken).give_back();
        }
    }

    fn slot(&self, member: u32) -> Slot<'_> {
        let number = self.members.get(member as usize).map_or(NONE, |(_, slot)| slot.load(Ordering::Relaxed));
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
        let here = self.members.get(member as usize).map_or(0, |(here, _)| *here);
        self.command(member, MEET, [self.team, members | here << 16 | u64::from(member) << 32, word]);
        self.slot(member).words(u32::try_from(members).unwrap_or(0))
    }

    pub(super) fn lock(&self, member: u32, number: u32) -> Result<(), LockError> {
        self.change(member, LOCK, number)
    }

    pub(super) fn unlock(&self, member: u32, number: u32) -> Result<(), LockError> {
        self.change(member, UNLOCK, number)
    }

    fn change(&self, member: u32, command: u32, number: u32) -> Result<(), LockError> {
        if number >= LOCKS {
            return Err(LockError::NoSuchLock(number));
        }
        match self.slot(member).command(command, [u64::from(self.first_lock + number), 0, 0]) {
            DONE => Ok(()),
            HELD => Err(LockError::Held(number)),
            NOT_HELD => Err(LockError::NotHeld(number)),
            result => fail(result),
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
