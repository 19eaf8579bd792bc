//! A team on arrays: what each does alone, and what all do together.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking, in its helpers too")]

use std::collections::BTreeSet;
use std::sync::Mutex;

use vincs_guest::{LOCKS, LockError, Relaxed, Team};

fn relaxed() -> Relaxed {
    Relaxed::ordinary(64 << 20).unwrap()
}

#[test]
fn members_see_what_was_written_before_a_barrier() {
    const ROUNDS: usize = 50;
    let mut team = Team::on_all_processors().unwrap();
    let members = team.members() as usize;
    let words = relaxed().array::<u64>(members).unwrap();
    team.run(|member| {
        let own = member.number() as usize;
        for round in 1..=ROUNDS {
            words.set(own, round as u64);
            member.barrier();
            assert!((0..members).all(|other| words.get(other) == round as u64));
            member.barrier();
        }
    });
}

#[test]
fn locked_counts_are_exact_over_several_runs() {
    let mut team = Team::on_all_processors().unwrap();
    let count = relaxed().array::<u64>(1).unwrap();
    for _ in 0..3 {
        team.run(|member| {
            for _ in 0..500 {
                member.lock(LOCKS - 1).unwrap();
                count.set(0, count.get(0) + 1);
                member.unlock(LOCKS - 1).unwrap();
            }
        });
    }
    assert_eq!(count.get(0), 3 * 500 * u64::from(team.members()));
}

#[test]
fn misuse_of_locks_is_an_error() {
    let mut team = Team::new(1).unwrap();
    team.run(|member| {
        assert_eq!(member.unlock(0), Err(LockError::NotHeld(0)));
        assert_eq!(member.lock(LOCKS), Err(LockError::NoSuchLock(LOCKS)));
        assert_eq!(member.unlock(LOCKS), Err(LockError::NoSuchLock(LOCKS)));
        member.lock(0).unwrap();
        assert_eq!(member.lock(0), Err(LockError::Held(0)));
    });
    // A lock stays locked between runs.
    team.run(|member| assert_eq!(member.unlock(0), Ok(())));
}

#[test]
fn all_members_get_the_same_reduction_in_order() {
    let mut team = Team::on_all_processors().unwrap();
    let members = i64::from(team.members());
    let digits = (0..members).fold(0, |number, member| number * 10 + member + 1);
    for _ in 0..3 {
        team.run(|member| {
            let own = i64::from(member.number()) + 1;
            for round in 1..20 {
                assert_eq!(member.reduce(own * round, |a, b| a + b), round * members * (members + 1) / 2);
                // Not commutative: the order is that of the members.
                assert_eq!(member.reduce(own, |a, b| a * 10 + b), digits);
            }
        });
    }
}

#[test]
fn loops_reach_every_element_once_on_several_threads() {
    let mut team = Team::on_all_processors().unwrap();
    let relaxed = relaxed();
    let mut array = relaxed.array::<u32>(10_001).unwrap();
    let visits = relaxed.array::<u32>(10_001).unwrap();
    team.for_each(0..visits.len(), |index| visits.set(index, visits.get(index) + 1));
    let threads = Mutex::new(BTreeSet::new());
    team.for_each_part(array.as_mut_slice(), |first, part| {
        for (index, element) in (first..).zip(part) {
            *element += u32::try_from(index).unwrap();
        }
        threads.lock().unwrap().insert(std::thread::current().name().unwrap().to_owned());
    });
    assert!((0..10_001).all(|index| visits.get(index) == 1));
    assert!((0..).zip(array.as_mut_slice()).all(|(index, element)| index == *element));
    assert_eq!(threads.into_inner().unwrap().len(), team.members() as usize);
    team.for_each(5..5, |_| panic!("there is nothing to do"));
}
