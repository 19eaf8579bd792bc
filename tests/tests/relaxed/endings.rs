//! What programs must not do, and what is left when a rank is lost.

use vincs_coherence::hlrc::node::{AcquireError, ReleaseError};
use vincs_coherence::hlrc::{ConfigError, Failure};
use vincs_vmm::memory::hlrc::{ArrayError, JoinError, StartError, SyncError};

use super::*;

/// The error of a wait that a loss has ended.
fn lost(rank: u16) -> SyncError {
    SyncError::Failed(Failure::Lost(Rank(rank)))
}

#[test]
fn a_lost_rank_ends_all_waits_with_an_error_that_names_it() {
    let mut machine = Machine::new(&[1, 1, 1], |_| {});
    let (third, waits) = (machine.memories.pop().unwrap(), std::sync::Barrier::new(3));
    thread::scope(|scope| {
        let (machine, waits) = (&machine, &waits);
        scope.spawn(move || {
            let member = third.join(0).unwrap();
            member.acquire(LOCK).unwrap();
            waits.wait();
            // Until the others wait, as far as anybody can know.
            thread::sleep(Duration::from_millis(100));
            drop(third);
        });
        scope.spawn(|| {
            let member = machine.memories[0].join(0).unwrap();
            waits.wait();
            assert_eq!(member.barrier(), Err(lost(2)));
            assert_eq!(member.barrier(), Err(lost(2)), "and each later one");
            machine.memories[0].leave();
        });
        scope.spawn(|| {
            let member = machine.memories[1].join(0).unwrap();
            waits.wait();
            assert_eq!(member.acquire(LOCK), Err(lost(2)));
            // Nobody waits for it at the end either.
            machine.memories[1].leave();
        });
    });
    for rank in [0, 1] {
        let ending = machine.ending(rank);
        assert!(
            matches!(&ending, Ending::Failed { failure: Failure::Lost(Rank(2)), reason } if !reason.is_empty()),
            "{ending:?}"
        );
        assert!(ending.to_string().contains("rank 2 is lost"), "{ending}");
    }
}

#[test]
fn a_release_that_fails_half_way_says_so_and_loses_nothing() {
    let mut machine = Machine::new(&[1, 1, 1], |_| {});
    let views = machine.array(3 * PAGE);
    let first = machine.memories.remove(0);
    let member = first.join(0).unwrap();
    member.acquire(LOCK).unwrap();
    let words = [1, PAGE / 8, PAGE / 4];
    for at in words {
        views[0].write(at, 100 + at as u64);
    }
    // It is home of the second page.
    drop(machine.memories.remove(0));
    assert_eq!(member.release(LOCK), Err(lost(1)));
    assert_eq!(member.acquire(LockId(1)), Err(lost(1)));
    for at in words {
        assert_eq!(views[0].read(at), 100 + at as u64, "what was written is still there");
    }
}

#[test]
fn a_thread_that_ends_leaves_its_lock_to_the_next_who_is_told() {
    let machine = Machine::new(&[2, 1], |_| {});
    thread::scope(|scope| {
        let memory = &machine.memories[0];
        let died = scope.spawn(|| memory.join(0).unwrap().acquire(LOCK).unwrap());
        assert!(!died.join().unwrap());
        let member = machine.memories[1].join(0).unwrap();
        assert_eq!(member.acquire(LOCK), Ok(true));
        member.release(LOCK).unwrap();
        assert_eq!(member.acquire(LOCK), Ok(false), "once");
    });
    machine.assert_quiet();
}

#[test]
fn mistakes_are_errors_at_once_and_change_nothing() {
    let machine = Machine::new(&[1, 1], |settings| settings.locks = 2);
    let member = machine.memories[0].join(0).unwrap();
    assert_eq!(member.release(LOCK), Err(SyncError::Release(ReleaseError::NotHeld(0))));
    let beyond = SyncError::Acquire(AcquireError::NoLock { lock: 2, locks: 2 });
    assert_eq!(member.acquire(LockId(2)), Err(beyond));
    assert_eq!(member.acquire(LockId(1)), Ok(false));
    assert_eq!(member.acquire(LockId(1)), Err(SyncError::Acquire(AcquireError::Held(1))));
    assert_eq!(machine.memories[0].join(0).unwrap_err(), JoinError::Twice { thread: 0, before: 0 });
    let taken = thread::scope(|scope| scope.spawn(|| machine.memories[0].join(0).unwrap_err()).join().unwrap());
    assert_eq!(taken, JoinError::Taken(0));
    assert_eq!(machine.memories[0].join(1).unwrap_err(), JoinError::None { thread: 1, threads: 1 });
    let array = |parts: &[u32]| machine.memories[0].array(parts).unwrap_err();
    assert!(matches!(array(&[1]), ArrayError::Ranks { given: 1, ranks: 2 }));
    assert!(matches!(array(&[0, 1025]), ArrayError::NoRoom { wanted: 1025, rank: 1, pages: 1024 }));
    assert!(machine.memories[0].array(&[1, 1024]).is_ok());
    assert!(matches!(array(&[0, 1]), ArrayError::NoRoom { wanted: 1, rank: 1, .. }));
    machine.assert_quiet();
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let settings = |team: &[u16], pages| Settings::new(Rank(0), team.to_vec(), pages);
    let refused = |settings| Prepared::new(settings).unwrap_err();
    assert!(matches!(refused(settings(&[1; 2], 0)), StartError::Pages { pages: 0, ranks: 2, .. }));
    assert!(matches!(refused(settings(&[1; 65], 1)), StartError::Pages { ranks: 65, .. }));
    assert!(matches!(refused(settings(&[1; 2], u32::MAX)), StartError::Pages { .. }));
    assert!(matches!(refused(settings(&[1, 0], 1)), StartError::Config(ConfigError::Threads(1, 0))));
    let small = Settings { cache_pages: Some(255), ..settings(&[1], 1) };
    assert!(matches!(refused(small), StartError::Config(ConfigError::CachePages(255))));
}

#[test]
fn a_thread_that_has_not_joined_must_not_touch_an_array() {
    let mut machine = Machine::new(&[1, 1], |_| {});
    let views = machine.array(2 * PAGE);
    let mut memory = machine.memories.remove(0);
    thread::scope(|scope| {
        let stranger = scope.spawn(|| views[0].read(PAGE / 8));
        assert!(matches!(machine.ending(0), Ending::Stranger(_)));
        // It goes on, and sees nothing.
        memory.stop();
        assert_eq!(stranger.join().unwrap(), 0);
    });
    assert!(memory.statistics().is_none());
    assert_eq!(memory.join(0).unwrap_err(), JoinError::Ended);
}
