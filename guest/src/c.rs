//! The same for C: `include/vincs_guest.h`, which a test compares with this.
//!
//! Functions that can fail return a status, and leave what went wrong in words for [`vincs_error`]. Pointers that are given back to this library must
//! be those that it has given out, and not be given back twice; a null pointer is an error.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_void};
use std::ptr;
use std::sync::{Mutex, TryLockError};

use crate::{LockError, Member, OpenError, Relaxed, Team, TeamError};

/// How a call went.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// As asked.
    Ok = 0,
    /// A pointer is null, or a number is out of its range.
    Invalid = 1,
    /// The device of the relaxed memory cannot be opened or mapped.
    Open = 2,
    /// Another program uses the device.
    InUse = 3,
    /// Not so much relaxed memory is left.
    OutOfRelaxed = 4,
    /// More members than processors, or none.
    TeamSize = 5,
    /// Threads or processors cannot be had.
    Threads = 6,
    /// The team is running something already.
    Busy = 7,
    /// There is no lock of this number.
    NoSuchLock = 8,
    /// The member has the lock already.
    Held = 9,
    /// The member does not have the lock.
    NotHeld = 10,
}

/// A team, for calls that may come from anywhere.
#[derive(Debug)]
pub struct SharedTeam(Mutex<Team>);

/// What a member runs, with itself and the caller's pointer. An exception that leaves it ends the program.
pub type MemberBody = Option<extern "C-unwind" fn(member: *const Member, context: *mut c_void)>;

/// What is run for each number of a range, with the caller's pointer. An exception that leaves it ends the program.
pub type LoopBody = Option<extern "C-unwind" fn(index: usize, context: *mut c_void)>;

/// The caller's own pointer, on its way to all members.
struct Context(*mut c_void);

// SAFETY: it is the caller's function that uses it, on every member as its documentation says.
unsafe impl Sync for Context {}

impl Context {
    fn get(&self) -> *mut c_void {
        self.0
    }
}

thread_local! {
    /// What went wrong last on this thread.
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

fn failed(status: Status, error: &dyn std::fmt::Display) -> Status {
    // A zero byte would be in a path that no file can have.
    let text = CString::new(error.to_string()).unwrap_or_default();
    LAST_ERROR.with(|last| *last.borrow_mut() = text);
    status
}

fn null() -> Status {
    failed(Status::Invalid, &"a pointer is null")
}

/// What went wrong in this thread's last call that did not return `VINCS_STATUS_OK`, as one line. It is valid until the next such call.
#[unsafe(no_mangle)]
pub extern "C" fn vincs_error() -> *const c_char {
    LAST_ERROR.with(|last| last.borrow().as_ptr())
}

/// Opens the relaxed memory: the device that `VINCS_RELAXED` names, else ordinary memory.
///
/// # Safety
/// `relaxed` is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_relaxed_open(relaxed: *mut *mut Relaxed) -> Status {
    if relaxed.is_null() {
        return null();
    }
    let opened = match Relaxed::open() {
        Ok(opened) => opened,
        Err(error @ OpenError::InUse(_)) => return failed(Status::InUse, &error),
        Err(error) => return failed(Status::Open, &error),
    };
    // SAFETY: as the caller promises.
    unsafe { relaxed.write(Box::into_raw(Box::new(opened))) };
    Status::Ok
}

/// Gives the relaxed memory back, with all that was allocated in it. Null is nothing.
///
/// # Safety
/// `relaxed` is from [`vincs_relaxed_open`]; nothing of it is used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_relaxed_close(relaxed: *mut Relaxed) {
    if !relaxed.is_null() {
        // SAFETY: as the caller promises.
        drop(unsafe { Box::from_raw(relaxed) });
    }
}

/// Whether the relaxed memory is a device, and not ordinary memory.
///
/// # Safety
/// `relaxed` is null or from [`vincs_relaxed_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_relaxed_is_device(relaxed: *const Relaxed) -> bool {
    // SAFETY: as the caller promises.
    unsafe { relaxed.as_ref() }.is_some_and(Relaxed::is_device)
}

/// Bytes of the relaxed memory that are not allocated yet.
///
/// # Safety
/// `relaxed` is null or from [`vincs_relaxed_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_relaxed_left(relaxed: *const Relaxed) -> usize {
    // SAFETY: as the caller promises.
    unsafe { relaxed.as_ref() }.map_or(0, Relaxed::left)
}

/// Allocates zero bytes at the start of a page of their own. They are given back by [`vincs_relaxed_close`].
///
/// # Safety
/// `relaxed` is null or from [`vincs_relaxed_open`]; `start` is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_relaxed_allocate(
    relaxed: *const Relaxed,
    bytes: usize,
    start: *mut *mut c_void,
) -> Status {
    // SAFETY: as the caller promises.
    let Some(relaxed) = (unsafe { relaxed.as_ref() }).filter(|_| !start.is_null()) else { return null() };
    match relaxed.bytes(bytes) {
        Ok(piece) => {
            // SAFETY: as the caller promises.
            unsafe { start.write(piece.as_ptr().cast()) };
            Status::Ok
        }
        Err(error) => failed(Status::OutOfRelaxed, &error),
    }
}

/// What others have released before is seen by this thread from here on. For programs that synchronise in their own way, over ordinary
/// memory; a team's barriers, locks and reductions imply it.
///
/// # Safety
/// `relaxed` is null or from [`vincs_relaxed_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_acquire(relaxed: *const Relaxed) {
    // SAFETY: as the caller promises.
    if let Some(relaxed) = unsafe { relaxed.as_ref() } {
        relaxed.acquire();
    }
}

/// What this thread has written is seen by who acquires after. It comes before the thread tells others that it has written.
///
/// # Safety
/// As for [`vincs_acquire`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_release(relaxed: *const Relaxed) {
    // SAFETY: as the caller promises.
    if let Some(relaxed) = unsafe { relaxed.as_ref() } {
        relaxed.release();
    }
}

/// Starts a team of so many members, each on a processor of its own; with 0, one on each processor that the program may run on.
///
/// # Safety
/// `team` is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_team_start(members: u32, team: *mut *mut SharedTeam) -> Status {
    if team.is_null() {
        return null();
    }
    let started = if members == 0 { Team::on_all_processors() } else { Team::new(members) };
    let started = match started {
        Ok(started) => SharedTeam(Mutex::new(started)),
        Err(error @ TeamError::Size { .. }) => return failed(Status::TeamSize, &error),
        Err(error @ TeamError::Device(OpenError::InUse(_))) => return failed(Status::InUse, &error),
        Err(error @ TeamError::Device(_)) => return failed(Status::Open, &error),
        Err(error) => return failed(Status::Threads, &error),
    };
    // SAFETY: as the caller promises.
    unsafe { team.write(Box::into_raw(Box::new(started))) };
    Status::Ok
}

/// Ends a team. Null is nothing.
///
/// # Safety
/// `team` is from [`vincs_team_start`], runs nothing, and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_team_end(team: *mut SharedTeam) {
    if !team.is_null() {
        // SAFETY: as the caller promises.
        drop(unsafe { Box::from_raw(team) });
    }
}

/// Runs a function on every member, with the caller's pointer, and waits until all have returned.
///
/// # Safety
/// `team` is null or from [`vincs_team_start`]; `body` can use `context` on all members at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_team_run(team: *const SharedTeam, body: MemberBody, context: *mut c_void) -> Status {
    // SAFETY: as the caller promises.
    let (Some(team), Some(body)) = (unsafe { team.as_ref() }, body) else { return null() };
    let context = Context(context);
    with(team, |team| team.run(|member| body(ptr::from_ref(member), context.get())))
}

/// Runs a function for every number from `first` to before `end`, in parallel, with the caller's pointer: each member has an even part of them.
///
/// # Safety
/// `team` is null or from [`vincs_team_start`]; `body` can use `context` on all members at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_team_for_each(
    team: *const SharedTeam,
    first: usize,
    end: usize,
    body: LoopBody,
    context: *mut c_void,
) -> Status {
    // SAFETY: as the caller promises.
    let (Some(team), Some(body)) = (unsafe { team.as_ref() }, body) else { return null() };
    let context = Context(context);
    with(team, |team| team.for_each(first..end, |index| body(index, context.get())))
}

fn with(team: &SharedTeam, run: impl FnOnce(&mut Team)) -> Status {
    match team.0.try_lock() {
        Ok(mut team) => run(&mut team),
        // A run that panics ends the process.
        Err(TryLockError::Poisoned(error)) => run(&mut error.into_inner()),
        Err(TryLockError::WouldBlock) => return failed(Status::Busy, &"the team is running already: wait for its end"),
    }
    Status::Ok
}

/// The member's number, from 0.
///
/// # Safety
/// `member` is what the function of a run was called with, in that call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_member_number(member: *const Member) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { member.as_ref() }.map_or(0, Member::number)
}

/// Number of members of the member's team.
///
/// # Safety
/// As for [`vincs_member_number`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_member_count(member: *const Member) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { member.as_ref() }.map_or(0, Member::members)
}

/// The member's part of the numbers from `*first` to before `*end`, which it replaces: parts are contiguous, in the order of members.
///
/// # Safety
/// As for [`vincs_member_number`]; `first` and `end` are null or can be read and written, and are two numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_member_part(member: *const Member, first: *mut usize, end: *mut usize) -> Status {
    // SAFETY: as the caller promises.
    let member = unsafe { member.as_ref() };
    // SAFETY: as the caller promises.
    let first = unsafe { first.as_mut() };
    // SAFETY: as the caller promises.
    let end = unsafe { end.as_mut() };
    let (Some(member), Some(first), Some(end)) = (member, first, end) else { return null() };
    let part = member.part(*first..*end);
    (*first, *end) = (part.start, part.end);
    Status::Ok
}

/// Waits until all members are here. What each wrote before, all see after.
///
/// # Safety
/// As for [`vincs_member_number`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_barrier(member: *const Member) {
    // SAFETY: as the caller promises.
    if let Some(member) = unsafe { member.as_ref() } {
        member.barrier();
    }
}

/// Takes the lock of this number, 0 to 1023, when it is this member's turn.
///
/// # Safety
/// As for [`vincs_member_number`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_lock(member: *const Member, number: u32) -> Status {
    // SAFETY: as the caller promises.
    unsafe { member.as_ref() }.map_or_else(null, |member| locked(member.lock(number)))
}

/// Gives the lock of this number back.
///
/// # Safety
/// As for [`vincs_member_number`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_unlock(member: *const Member, number: u32) -> Status {
    // SAFETY: as the caller promises.
    unsafe { member.as_ref() }.map_or_else(null, |member| locked(member.unlock(number)))
}

fn locked(result: Result<(), LockError>) -> Status {
    match result {
        Ok(()) => Status::Ok,
        Err(error @ LockError::NoSuchLock(_)) => failed(Status::NoSuchLock, &error),
        Err(error @ LockError::Held(_)) => failed(Status::Held, &error),
        Err(error @ LockError::NotHeld(_)) => failed(Status::NotHeld, &error),
    }
}

/// The sum of all members' values, added in the order of members. All members call it; it is a barrier too.
///
/// # Safety
/// As for [`vincs_member_number`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_sum_double(member: *const Member, value: f64) -> f64 {
    // SAFETY: as the caller promises.
    unsafe { member.as_ref() }.map_or(value, |member| member.reduce(value, |a, b| a + b))
}

/// The largest of all members' values. All members call it; it is a barrier too.
///
/// # Safety
/// As for [`vincs_member_number`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_max_double(member: *const Member, value: f64) -> f64 {
    // SAFETY: as the caller promises.
    unsafe { member.as_ref() }.map_or(value, |member| member.reduce(value, f64::max))
}

/// The sum of all members' values modulo 2^64. All members call it; it is a barrier too.
///
/// # Safety
/// As for [`vincs_member_number`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_sum_int64(member: *const Member, value: i64) -> i64 {
    // SAFETY: as the caller promises.
    unsafe { member.as_ref() }.map_or(value, |member| member.reduce(value, i64::wrapping_add))
}

/// The largest of all members' values. All members call it; it is a barrier too.
///
/// # Safety
/// As for [`vincs_member_number`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vincs_max_int64(member: *const Member, value: i64) -> i64 {
    // SAFETY: as the caller promises.
    unsafe { member.as_ref() }.map_or(value, |member| member.reduce(value, i64::max))
}
