//! The device of a machine of several ranks: what members on different ranks do together is done by vincs.
//!
//! The control part of the device is memory of each rank's own. A thread writes a command into a slot there and the slot's number to the doorbell, and waits
//! until the slot says that it is done. What is where is told in docs/relaxed.md. A thread stays on its processor as long as it uses a
//! slot: elsewhere it would find another rank's.

mod control;
mod places;
mod slot;

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{FlockOperation, flock};
use vincs_guest_commands::{BEGIN, DONE, FAILED, HELD, NO_COMMAND, NO_LOCK, NO_TEAM, NOT_HELD, TAKEN_OVER};

use crate::memory::{CONTROL_BYTES, OpenError, PAGE, RELAXED_VARIABLE, size_of_device};
use crate::sync::LOCKS;
use control::Control;
use places::Places;
pub(crate) use slot::Slot;

/// Most teams at a time: each has its own locks.
pub(crate) const TEAMS: u32 = 64;

/// The device as this process has it. The lock of its file says that no other process has.
#[derive(Debug)]
pub(crate) struct Device {
    path: PathBuf,
    pub(crate) file: File,
    /// Of a machine of several ranks.
    pub(crate) ranks: Option<Ranks>,
    /// Its memory has been given out to a [`crate::Relaxed`].
    pub(crate) taken: AtomicBool,
}

/// The device that this process has open: its memory and its teams have the same.
static CURRENT: Mutex<Weak<Device>> = Mutex::new(Weak::new());

impl Device {
    /// The device of this path, which this process may have already.
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>, OpenError> {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = current.upgrade().filter(|device| device.path == path) {
            return Ok(device);
        }
        let device = Arc::new(Self::open_anew(path)?);
        *current = Arc::downgrade(&device);
        Ok(device)
    }

    fn open_anew(path: &Path) -> Result<Self, OpenError> {
        let failed = |source: io::Error| OpenError::Device { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::InUse(path.to_owned())),
            locked => locked.map_err(|error| failed(error.into()))?,
        }
        let bytes = size_of_device(&file).map_err(failed)? / PAGE * PAGE;
        if bytes <= CONTROL_BYTES {
            return Err(OpenError::TooSmall { path: path.to_owned(), bytes });
        }
        let control = Control::map(&file)?;
        let ranks = if control.has_ranks() { Some(Ranks::begin(control)?) } else { None };
        Ok(Self { path: path.to_owned(), file, ranks, taken: AtomicBool::new(false) })
    }

    /// The device of a machine of several ranks, for a team; nothing where there is none, or one of a single rank.
    ///
    /// # Errors
    /// [`OpenError`] where there are several ranks, and this program cannot have it: its team would know nothing of them when the program has it later.
    pub(crate) fn for_team() -> Result<Option<Arc<Self>>, OpenError> {
        if let Some(device) = CURRENT.lock().unwrap_or_else(PoisonError::into_inner).upgrade() {
            return Ok(device.ranks.is_some().then_some(device));
        }
        let Some(path) = std::env::var_os(RELAXED_VARIABLE).filter(|path| !path.is_empty()) else { return Ok(None) };
        Self::for_team_at(Path::new(&path))
    }

    fn for_team_at(path: &Path) -> Result<Option<Arc<Self>>, OpenError> {
        match Self::open(path) {
            Ok(device) => Ok(device.ranks.is_some().then_some(device)),
            Err(error) if is_of_ranks(path) => Err(error),
            // Memory of one rank is coherent, and what is not there nobody has.
            Err(_) => Ok(None),
        }
    }
}

/// Whether a device, which another program may have, is of several ranks.
fn is_of_ranks(path: &Path) -> bool {
    let file = OpenOptions::new().read(true).write(true).open(path);
    let large = file.ok().filter(|file| size_of_device(file).is_ok_and(|bytes| bytes > CONTROL_BYTES));
    large.and_then(|file| Control::map(&file).ok()).is_some_and(|control| control.has_ranks())
}

/// What a program has of the ranks of its machine.
#[derive(Debug)]
pub(crate) struct Ranks {
    control: Control,
    places: Places,
    teams: Names,
}

/// What teams are told apart by.
#[derive(Debug, Default)]
struct Names {
    /// Locks that teams have, a bit for each team.
    locks: AtomicU64,
    /// Teams so far.
    teams: AtomicU64,
}

const _: () = assert!(TEAMS <= u64::BITS);

impl Names {
    /// A name for a team that no other has, and the first of its locks; nothing when there are too many teams.
    fn new_team(&self) -> Option<(u64, u32)> {
        let mut free = None;
        let taken = self.locks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            free = (0..TEAMS).find(|team| used & 1 << team == 0);
            free.map(|team| used | 1 << team)
        });
        let team = free.filter(|_| taken.is_ok())?;
        Some((self.teams.fetch_add(1, Ordering::Relaxed), team * LOCKS))
    }

    fn end_team(&self, first_lock: u32) {
        self.locks.fetch_and(!(1 << (first_lock / LOCKS)), Ordering::Relaxed);
    }
}

impl Ranks {
    /// Waits until all processors are where they stay, and has all ranks give up what an earlier program had.
    fn begin(control: Control) -> Result<Self, OpenError> {
        let places = Places::find(&control)?;
        let ranks = Self { control, places, teams: Names::default() };
        let begun = places::here(|| ranks.slot_to_begin().command(BEGIN, [0; 3])).map_err(OpenError::Processor)?;
        if begun != DONE {
            return Err(OpenError::Refused(begun));
        }
        for processor in ranks.places.one_of_each() {
            places::at(processor, || ranks.control.free_all()).map_err(OpenError::Processor)?;
        }
        ranks.places.stay_on_rank().map_err(OpenError::Processor)?;
        Ok(ranks)
    }

    fn slot_to_begin(&self) -> Slot<'_> {
        Slot::last(&self.control)
    }

    /// Whether the machine looks for races.
    pub(crate) fn looks_for_races(&self) -> bool {
        self.control.looks_for_races()
    }

    /// The processors that the program began with, in order.
    pub(crate) fn processors(&self) -> Vec<usize> {
        self.places.all()
    }

    /// The same, with the rank of each.
    pub(crate) fn places(&self) -> Vec<(usize, u32)> {
        self.places.with_ranks()
    }

    /// The rank of a processor.
    pub(crate) fn rank_of(&self, processor: usize) -> Option<u32> {
        self.places.rank_of(processor)
    }

    /// A slot for a member of a team, whose thread stays on its processor as long as it has it. Nothing when teams have all of this rank's.
    pub(crate) fn slot_of_member(&self) -> Option<Slot<'_>> {
        Slot::take_for_member(&self.control)
    }

    /// The slot of this number, which the calling thread has taken.
    pub(crate) fn taken(&self, number: u16) -> Slot<'_> {
        Slot::taken(&self.control, number)
    }

    /// Does a command for a thread that is on no processor of its own.
    pub(crate) fn command(&self, command: u32) {
        let result = places::here(|| {
            let slot = Slot::take_soon(&self.control);
            let result = slot.command(command, [0; 3]);
            slot.give_back();
            result
        });
        match result {
            Ok(DONE) => {}
            Ok(result) => fail(result),
            Err(error) => {
                eprint_line(&format!("a thread cannot stay on its processor: {error}"));
                std::process::abort()
            }
        }
    }

    /// A name for a team that no other has, and the first of its locks; nothing when there are too many teams.
    pub(crate) fn new_team(&self) -> Option<(u64, u32)> {
        self.teams.new_team()
    }

    /// A team with these locks is no more.
    pub(crate) fn end_team(&self, first_lock: u32) {
        self.teams.end_team(first_lock);
    }
}

/// A result in words.
#[must_use]
pub(crate) fn reason(result: u32) -> &'static str {
    match result {
        NO_COMMAND => "there is no such command",
        NO_LOCK => "there is no such lock",
        HELD => "the lock is the thread's already",
        NOT_HELD => "the lock is not the thread's",
        NO_TEAM => "the members of a team do not agree how many they are",
        TAKEN_OVER => "another program has taken it over",
        FAILED => "a rank is lost, or cannot go on",
        _ => "vincs says what this library does not know; use the library of its version",
    }
}

/// What members do together has failed, and there is nobody to tell: the others would wait for ever.
pub(crate) fn fail(result: u32) -> ! {
    eprint_line(&format!("relaxed memory: {}", reason(result)));
    std::process::abort()
}

/// A line for the user.
pub(crate) fn eprint_line(line: &str) {
    use std::io::Write as _;
    // Nobody is there to be told when this fails.
    let _ = writeln!(io::stderr(), "vincs-guest: {line}");
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use vincs_guest_commands::{MAGIC, RANKS_AT, VERSION, VERSION_AT};

    use super::*;

    #[test]
    fn a_team_is_not_made_beside_a_program_that_has_the_ranks() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let is_there = || Device::for_team_at(file.path()).map(|device| device.is_some());
        file.as_file().set_len(CONTROL_BYTES as u64).unwrap();
        assert!(!is_there().unwrap(), "too small to be one");
        file.as_file().set_len((CONTROL_BYTES + PAGE) as u64).unwrap();
        assert!(!is_there().unwrap(), "of one rank");
        let other = File::open(file.path()).unwrap();
        flock(&other, FlockOperation::LockExclusive).unwrap();
        assert!(!is_there().unwrap(), "of one rank, and in use");
        let words = [
            (0, MAGIC.to_le_bytes().to_vec()),
            (VERSION_AT, VERSION.to_le_bytes().to_vec()),
            (RANKS_AT, vec![2, 0, 0, 0]),
        ];
        for (at, bytes) in words {
            file.as_file().write_all_at(&bytes, at.into()).unwrap();
        }
        let line = is_there().unwrap_err().to_string();
        assert!(line.contains("in use by another program"), "{line}");
        assert!(Device::for_team_at(Path::new("/dev/no-such-dax")).unwrap().is_none());
    }

    #[test]
    fn there_are_as_many_teams_as_there_are_locks_for_and_one_that_ends_makes_room() {
        let names = Names::default();
        let teams: Vec<(u64, u32)> = std::iter::from_fn(|| names.new_team()).take(100).collect();
        assert_eq!(teams, (0..TEAMS).map(|team| (team.into(), team * LOCKS)).collect::<Vec<_>>());
        assert_eq!(names.new_team(), None);
        names.end_team(5 * LOCKS);
        assert_eq!(names.new_team(), Some((TEAMS.into(), 5 * LOCKS)), "a new name, with locks that are free");
        assert_eq!(names.new_team(), None);
    }
}
