//! What programs must not do, what happens when threads end, and what synchronisation costs.

use super::machine::{Machine, config};
use crate::hlrc::action::{Action, Completion, Failure, OpId, Outcome};
use crate::hlrc::clock::{Clock, Position};
use crate::hlrc::layout::{HERE, record};
use crate::hlrc::node::{
    AcquireError, BarrierError, CompletionError, FaultError, KEPT_LOCKS, LOCAL_TURNS, MIN_PAGES, Node, Reduction,
    ReleaseError, ThreadError,
};
use crate::hlrc::{ConfigError, LockId, ThreadId};
use crate::id::{Access, Page, Rank};

const FIRST: ThreadId = ThreadId(0);
const SECOND: ThreadId = ThreadId(1);
const LOCK: LockId = LockId(0);

fn acquire(machine: &mut Machine, rank: u16, lock: LockId) {
    machine.node(rank).handle_acquire(FIRST, lock).unwrap();
    machine.settle();
}

fn release(machine: &mut Machine, rank: u16, lock: LockId) {
    machine.node(rank).handle_release(FIRST, lock).unwrap();
    machine.settle();
}

fn meet(machine: &mut Machine, ranks: u16) {
    for rank in 0..ranks {
        machine.node(rank).handle_barrier(FIRST, ranks.into(), None).unwrap();
    }
    machine.settle();
}

#[test]
fn only_the_holder_releases() {
    let mut machine = Machine::new(&[2, 1], 1, |_| {});
    acquire(&mut machine, 0, LOCK);
    assert_eq!(machine.node(0).handle_release(SECOND, LOCK), Err(ReleaseError::NotHeld(0)));
    assert_eq!(machine.node(1).handle_release(FIRST, LOCK), Err(ReleaseError::NotHeld(0)));
    assert_eq!(machine.node(0).handle_release(FIRST, LockId(1)), Err(ReleaseError::NotHeld(1)));
    release(&mut machine, 0, LOCK);
    assert_eq!(machine.node(0).handle_release(FIRST, LOCK), Err(ReleaseError::NotHeld(0)));
}

#[test]
fn a_lock_beyond_those_there_are_is_refused() {
    let mut machine = Machine::new(&[1], 1, |_| {});
    let error = AcquireError::NoLock { lock: 2, locks: 2 };
    assert_eq!(machine.node(0).handle_acquire(FIRST, LockId(2)), Err(error));
    assert_eq!(machine.node(0).handle_acquire(FIRST, LockId(1)), Ok(()));
}

#[test]
fn nobody_waits_for_a_lock_that_is_their_own() {
    let mut machine = Machine::new(&[1], 1, |_| {});
    acquire(&mut machine, 0, LOCK);
    assert_eq!(machine.node(0).handle_acquire(FIRST, LOCK), Err(AcquireError::Held(0)));
}

#[test]
fn a_barrier_has_the_whole_team_and_one_kind() {
    let mut machine = Machine::new(&[2, 1], 1, |_| {});
    let team = BarrierError::Team { given: 2, team: 3 };
    assert_eq!(machine.node(0).handle_barrier(FIRST, 2, None), Err(team));
    assert_eq!(machine.node(0).handle_barrier(FIRST, 3, None), Ok(()));
    let other = machine.node(0).handle_barrier(SECOND, 3, Some((Reduction::Sum, 1)));
    assert_eq!(other, Err(BarrierError::Other));
}

#[test]
fn ranks_at_different_barriers_are_told() {
    let mut machine = Machine::new(&[1, 1], 1, |_| {});
    machine.node(0).handle_barrier(FIRST, 2, None).unwrap();
    machine.node(1).handle_barrier(FIRST, 2, Some((Reduction::Sum, 1))).unwrap();
    machine.settle();
    for (rank, other) in [(0, 1), (1, 0)] {
        assert!(machine.woken.contains(&(rank, FIRST, Outcome::Failed(Failure::Mismatch(Rank(other))))));
    }
}

#[test]
fn a_thread_does_one_thing_at_a_time() {
    let mut machine = Machine::new(&[2, 1], 1, |_| {});
    assert_eq!(machine.node(0).handle_acquire(ThreadId(2), LOCK), Err(ThreadError::None(2).into()));
    machine.node(0).handle_acquire(FIRST, LOCK).unwrap();
    assert_eq!(machine.node(0).handle_fault(FIRST, Page(0), Access::Read), Err(ThreadError::Busy(0).into()));
    machine.node(0).handle_thread_end(SECOND).unwrap();
    assert_eq!(machine.node(0).handle_barrier(SECOND, 3, None), Err(ThreadError::Ended(1).into()));
    assert_eq!(machine.node(0).handle_thread_end(SECOND), Err(ThreadError::Ended(1)));
}

#[test]
fn a_page_beyond_relaxed_memory_is_refused() {
    let mut machine = Machine::new(&[1], 3, |_| {});
    assert_eq!(machine.node(0).handle_fault(FIRST, Page(3), Access::Read), Err(FaultError::NoPage(3)));
}

#[test]
fn a_driver_that_makes_things_up_is_told() {
    let mut machine = Machine::new(&[1, 1], 1, |_| {});
    machine.node(1).handle_fault(FIRST, Page(0), Access::Read).unwrap();
    let node = machine.node(1);
    assert_eq!(node.handle_completion(OpId(7), Completion::Done), Err(CompletionError::Unknown(7)));
    assert_eq!(node.handle_completion(OpId(0), Completion::Old(1)), Err(CompletionError::Kind(0)));
}

#[test]
fn an_instruction_has_room() {
    let mut small = config(0, vec![1], 1);
    small.written_pages = MIN_PAGES - 1;
    assert_eq!(Node::new(small.clone()).err(), Some(ConfigError::WrittenPages(MIN_PAGES - 1)));
    small.written_pages = MIN_PAGES;
    small.cache_pages = Some(MIN_PAGES - 1);
    assert_eq!(Node::new(small.clone()).err(), Some(ConfigError::CachePages(MIN_PAGES - 1)));
    small.cache_pages = Some(MIN_PAGES);
    assert!(Node::new(small).is_ok());
}

/// The last thread of a rank ends with a lock: the next holder finds what was released last, and is told.
#[test]
fn a_lock_is_recovered_with_the_data_as_last_released() {
    for single_writer in [false, true] {
        let mut machine = Machine::new(&[1, 1], 1, |config| config.single_writer = single_writer);
        acquire(&mut machine, 1, LOCK);
        machine.write(1, Page(0), 1);
        release(&mut machine, 1, LOCK);
        acquire(&mut machine, 1, LOCK);
        machine.write(1, Page(0), 2);
        machine.woken.clear();
        machine.node(0).handle_acquire(FIRST, LOCK).unwrap();
        machine.settle();
        assert_eq!(machine.woken, []);
        let ended = machine.node(1).handle_thread_end(FIRST).unwrap();
        assert_eq!((ended.locks, ended.discarded), (vec![LOCK], vec![Page(0)]));
        machine.settle();
        assert_eq!(machine.woken, [(0, FIRST, Outcome::Acquired { abandoned: true })]);
        assert_eq!(machine.read(0, Page(0)), 1);
        release(&mut machine, 0, LOCK);
        acquire(&mut machine, 0, LOCK);
        assert_eq!(machine.woken.last(), Some(&(0, FIRST, Outcome::Acquired { abandoned: false })), "told once");
    }
}

/// What was written before a lock that stays was given back is not lost with what a thread wrote under another one.
#[test]
fn a_kept_lock_keeps_what_was_written_before_it_was_given_back() {
    const KEPT: LockId = LockId(1);
    let mut machine = Machine::new(&[1, 1], 1, |_| {});
    for value in 1..=3 {
        acquire(&mut machine, 1, KEPT);
        machine.write(1, Page(0), value);
        release(&mut machine, 1, KEPT);
    }
    assert!(machine.node(1).keeps(KEPT));
    acquire(&mut machine, 1, LOCK);
    let ended = machine.node(1).handle_thread_end(FIRST).unwrap();
    assert_eq!((ended.locks, ended.discarded), (vec![LOCK], vec![]));
    machine.settle();
    acquire(&mut machine, 0, KEPT);
    assert_eq!(machine.woken.last(), Some(&(0, FIRST, Outcome::Acquired { abandoned: false })));
    assert_eq!(machine.read(0, Page(0)), 3);
}

/// The first turn and the second are others' business, too; then the lock stays, until another rank comes.
#[test]
fn a_lock_that_one_rank_uses_costs_nothing_from_the_third_turn_on() {
    let mut machine = Machine::new(&[1, 1], 1, |_| {});
    let swaps = |machine: &mut Machine| machine.node(1).stats().lock_swaps;
    for turn in 1..=10 {
        let before = swaps(&mut machine);
        acquire(&mut machine, 1, LOCK);
        machine.write(1, Page(0), turn);
        release(&mut machine, 1, LOCK);
        assert_eq!(swaps(&mut machine) - before, [2, 1, 0][usize::from(turn - 1).min(2)], "turn {turn}");
    }
    assert_eq!(machine.node(1).stats().intervals, 1, "what the first turn wrote is home");
    acquire(&mut machine, 0, LOCK);
    assert_eq!((machine.read(0, Page(0)), machine.node(1).keeps(LOCK)), (10, false));
    // Nothing is changed here, so nobody can tell that it was away.
    release(&mut machine, 0, LOCK);
    let before = swaps(&mut machine);
    acquire(&mut machine, 1, LOCK);
    release(&mut machine, 1, LOCK);
    assert_eq!(swaps(&mut machine) - before, 2, "it was handed over since");
}

#[test]
fn no_lock_stays_where_races_are_looked_for() {
    let mut machine = Machine::new(&[1, 1], 1, |config| (config.check_races, config.keep_after) = (true, 0));
    acquire(&mut machine, 1, LOCK);
    release(&mut machine, 1, LOCK);
    assert!(!machine.node(1).keeps(LOCK));
}

#[test]
fn a_rank_keeps_so_many_locks_and_gives_up_those_that_were_given_back_first() {
    let most = u32::try_from(KEPT_LOCKS).unwrap();
    let mut machine = Machine::new(&[1, 1], 1, |config| config.locks = most + 2);
    for lock in (0..most + 2).map(LockId) {
        for _ in 0..2 {
            acquire(&mut machine, 1, lock);
            release(&mut machine, 1, lock);
        }
    }
    let kept: Vec<u32> = (0..most + 2).filter(|lock| machine.node(1).keeps(LockId(*lock))).collect();
    assert_eq!(kept, (2..most + 2).collect::<Vec<_>>());
    machine.node(1).handle_let_go();
    machine.settle();
    for lock in (0..most + 2).map(LockId) {
        assert!(!machine.node(1).keeps(lock));
        assert_eq!(machine.node(1).handle_returned(lock), Err(ReleaseError::NotHeld(lock.0)));
        acquire(&mut machine, 0, lock);
    }
    assert_eq!(machine.node(0).stats().locks_free, u64::from(most) + 2);
}

/// The lock comes for nobody and goes on, or for whoever wants it by then.
#[test]
fn a_thread_that_does_not_want_a_lock_any_more_is_not_told_of_it() {
    for again in [false, true] {
        let mut machine = Machine::new(&[1, 1, 1], 1, |_| {});
        acquire(&mut machine, 1, LOCK);
        acquire(&mut machine, 0, LOCK);
        acquire(&mut machine, 2, LOCK);
        machine.woken.clear();
        machine.node(0).handle_withdraw(FIRST);
        machine.settle();
        assert!(!machine.node(0).waits(FIRST));
        if again {
            acquire(&mut machine, 0, LOCK);
        }
        assert_eq!(machine.woken, []);
        release(&mut machine, 1, LOCK);
        let acquired = Outcome::Acquired { abandoned: false };
        let next = if again { 0 } else { 2 };
        assert_eq!(machine.woken, [(1, FIRST, Outcome::Released), (next, FIRST, acquired)]);
        // It has it: this is for threads that wait.
        machine.node(next).handle_withdraw(FIRST);
        assert_eq!(machine.node(next).locks_of(FIRST), [LOCK]);
        release(&mut machine, next, LOCK);
        acquire(&mut machine, 1, LOCK);
        assert_eq!(machine.node(1).locks_of(FIRST).is_empty(), again, "after rank 0 it is rank 2's turn");
    }
}

/// Nobody waits for the lock when its holder ends: whoever comes later is told.
#[test]
fn an_abandoned_lock_says_so_though_nobody_waited() {
    let mut machine = Machine::new(&[1, 1], 1, |_| {});
    acquire(&mut machine, 1, LOCK);
    machine.node(1).handle_thread_end(FIRST).unwrap();
    machine.settle();
    acquire(&mut machine, 0, LOCK);
    assert_eq!(machine.woken.last(), Some(&(0, FIRST, Outcome::Acquired { abandoned: true })));
}

/// Other threads of the rank live: their changes cannot be told from those of the one that ended, and stay.
#[test]
fn changes_of_threads_that_live_are_kept() {
    let mut machine = Machine::new(&[1, 2], 1, |_| {});
    acquire(&mut machine, 1, LOCK);
    machine.write(1, Page(0), 2);
    let ended = machine.node(1).handle_thread_end(FIRST).unwrap();
    assert_eq!((ended.locks, ended.discarded), (vec![LOCK], Vec::new()));
    machine.settle();
    acquire(&mut machine, 0, LOCK);
    assert_eq!(machine.woken.last(), Some(&(0, FIRST, Outcome::Acquired { abandoned: true })));
    assert_eq!(machine.read(0, Page(0)), 2);
}

#[test]
fn threads_of_one_rank_take_turns_but_not_for_ever() {
    let mut machine = Machine::new(&[2, 1], 1, |_| {});
    acquire(&mut machine, 0, LOCK);
    acquire(&mut machine, 1, LOCK);
    let mut threads = [FIRST, SECOND];
    let mut turns = 0;
    while machine.woken.iter().all(|(rank, _, _)| *rank == 0) {
        machine.node(0).handle_acquire(threads[1], LOCK).unwrap();
        machine.node(0).handle_release(threads[0], LOCK).unwrap();
        machine.settle();
        threads.reverse();
        turns += 1;
    }
    assert_eq!(turns, LOCAL_TURNS + 1);
}

/// Synchronisation costs what has changed, not what is cached.
#[test]
fn a_barrier_without_changes_touches_no_page() {
    let mut machine = Machine::new(&[1, 1], 200, |_| {});
    (0..200).for_each(|page| assert_eq!(machine.read(1, Page(page)), 0));
    machine.done.clear();
    meet(&mut machine, 2);
    let idle = machine.done.len();
    assert!(
        machine
            .done
            .iter()
            .all(|(_, action)| { matches!(action, Action::Put { .. } | Action::Store { .. } | Action::Wake { .. }) })
    );
    machine.write(0, Page(7), 1);
    machine.done.clear();
    meet(&mut machine, 2);
    let unmapped: Vec<_> = machine.done.iter().filter(|(_, action)| matches!(action, Action::Unmap { .. })).collect();
    assert_eq!(unmapped, [&(1, Action::Unmap { page: Page(7) })]);
    assert!(machine.done.len() <= idle + 4, "one page costs a few actions");
    assert_eq!(machine.nodes[1].kept().0, 199);
}

/// All pages go home with one operation for each home, however many they are.
#[test]
fn the_pages_of_a_home_go_together() {
    let mut machine = Machine::new(&[1, 1], 100, |_| {});
    (0..100).for_each(|page| machine.write(1, Page(page), 1));
    machine.done.clear();
    meet(&mut machine, 2);
    let flushes = machine.done.iter().filter(|(_, action)| matches!(action, Action::Flush { .. })).count();
    let stored: Vec<_> =
        machine.done.iter().filter(|(rank, action)| *rank == 1 && matches!(action, Action::Store { .. })).collect();
    assert_eq!(flushes, 1);
    assert!(
        stored.iter().any(|(_, action)| matches!(action, Action::Store { words, .. } if words.len() == 1)),
        "one notice"
    );
}

/// A first fetch is one get.
#[test]
fn a_first_fetch_is_one_operation() {
    let mut machine = Machine::new(&[1, 1], 2, |_| {});
    assert_eq!(machine.read(1, Page(1)), 0);
    assert_eq!(machine.done[0], (1, Action::Fetch { op: OpId(0), page: Page(1), home: Rank(0) }));
    let wake = Action::Wake { thread: FIRST, outcome: Outcome::Access(Page(1), Access::Read) };
    assert_eq!(machine.done[1..], [(1, Action::Map { page: Page(1) }), (1, wake)]);
}

/// What a node keeps does not grow with time.
#[test]
fn nothing_is_kept_of_what_is_over() {
    let mut machine = Machine::new(&[1, 1], 2, |config| config.log_words = 4);
    let mut sizes = Vec::new();
    for round in 0..2000_u32 {
        let rank = u16::from(round % 2 == 1);
        acquire(&mut machine, rank, LOCK);
        let value = machine.read(rank, Page(0));
        machine.write(rank, Page(0), value.wrapping_add(1));
        release(&mut machine, rank, LOCK);
        machine.done.clear();
        machine.woken.clear();
        if round % 1000 == 999 {
            assert!(machine.nodes.iter().all(Node::is_idle));
            // Clocks go on; their digits may be more.
            sizes.push(format!("{:?}", machine.nodes[0].copies).len());
        }
    }
    assert_eq!(sizes[0], sizes[1]);
    assert_eq!(machine.read(0, Page(0)), u8::try_from(2000 % 256).unwrap());
}

#[test]
fn what_makes_no_sense_in_a_segment_ends_it() {
    // A lock word that names no rank.
    let mut machine = Machine::new(&[1, 1], 1, |_| {});
    let (keeper, offset) = machine.nodes[0].layout().lock(LOCK);
    machine.segments.set_word(keeper, offset, 99);
    acquire(&mut machine, 1, LOCK);
    assert_eq!(machine.woken, [(1, FIRST, Outcome::Failed(Failure::Nonsense(Rank(0))))]);
    // Whoever asks later is told, too.
    machine.node(1).handle_fault(FIRST, Page(0), Access::Read).unwrap();
    machine.settle();
    assert_eq!(machine.woken.len(), 2);

    // A writer word that nobody writes.
    let mut machine = Machine::new(&[1, 1], 1, |_| {});
    let (home, offset) = machine.nodes[0].layout().writer(Page(0)).unwrap();
    machine.segments.set_word(home, offset, 77);
    machine.node(1).handle_fault(FIRST, Page(0), Access::Write).unwrap();
    machine.settle();
    assert_eq!(machine.woken, [(1, FIRST, Outcome::Failed(Failure::Nonsense(Rank(0))))]);

    // A notice about pages that there are not.
    let mut machine = Machine::new(&[1, 1], 1, |_| {});
    let layout = machine.nodes[0].layout().clone();
    let clock = Clock::from_positions(vec![Position(1), Position(0)]);
    let (keeper, at) = layout.lock_record(LOCK);
    for (offset, word) in (at..).step_by(8).zip(record(0, &clock)) {
        machine.segments.set_word(keeper, offset, word);
    }
    let notice = crate::hlrc::notice::encode(crate::id::Run::one(Page(1)), Position(0), layout.log_words());
    machine.segments.set_word(Rank(0), layout.notice(Rank(0), Position(0)), notice);
    acquire(&mut machine, 1, LOCK);
    assert_eq!(machine.woken, [(1, FIRST, Outcome::Failed(Failure::Nonsense(Rank(0))))]);

    // A record with half of its words is none yet; one with an unknown header never is.
    let mut machine = Machine::new(&[1, 1], 1, |_| {});
    machine.segments.set_word(keeper, at, HERE | 2);
    acquire(&mut machine, 1, LOCK);
    assert_eq!(machine.woken, [(1, FIRST, Outcome::Failed(Failure::Nonsense(keeper)))]);
}

#[test]
fn a_lost_rank_ends_all_waits_and_all_later_ones() {
    let mut machine = Machine::new(&[1, 1], 1, |_| {});
    machine.node(0).handle_barrier(FIRST, 2, None).unwrap();
    machine.settle();
    machine.node(0).handle_lost(Rank(1));
    machine.node(0).handle_lost(Rank(0));
    machine.settle();
    machine.node(0).handle_acquire(FIRST, LOCK).unwrap();
    machine.settle();
    let failed = (0, FIRST, Outcome::Failed(Failure::Lost(Rank(1))));
    assert_eq!(machine.woken, [failed, failed]);
    assert!(machine.nodes[0].watches().is_empty());
}

#[test]
fn a_thread_gives_up_all_its_locks_at_once_and_with_one_interval() {
    const LOCKS: u32 = 20;
    let mut machine = Machine::new(&[2, 1], 2, |config| config.locks = LOCKS);
    (0..LOCKS - 1).for_each(|lock| acquire(&mut machine, 0, LockId(lock)));
    machine.node(0).handle_acquire(SECOND, LockId(LOCKS - 1)).unwrap();
    machine.settle();
    assert_eq!(machine.node(0).holders(), [FIRST, SECOND].into());
    machine.write(0, Page(1), 7);
    for (rank, thread, lock) in [(1, FIRST, 0), (0, SECOND, 1)] {
        machine.node(rank).handle_acquire(thread, LockId(lock)).unwrap();
    }
    machine.settle();
    assert_eq!(machine.node(0).handle_give_up(SECOND), Err(ThreadError::Busy(1)));
    machine.woken.clear();
    machine.node(0).handle_give_up(FIRST).unwrap();
    machine.settle();
    let acquired = Outcome::Acquired { abandoned: false };
    machine.woken.sort_by_key(|(rank, thread, _)| (*rank, *thread));
    assert_eq!(machine.woken, [(0, FIRST, Outcome::Released), (0, SECOND, acquired), (1, FIRST, acquired)]);
    assert_eq!(machine.read(1, Page(1)), 7);
    assert_eq!((machine.node(0).stats().intervals, machine.node(0).locks_of(FIRST).len()), (1, 0));
    assert_eq!(machine.node(0).locks_of(SECOND), [LockId(1), LockId(LOCKS - 1)]);
    machine.node(0).handle_give_up(FIRST).unwrap();
    machine.settle();
    assert_eq!(machine.woken.last(), Some(&(0, FIRST, Outcome::Released)), "one that has none");
}

#[test]
fn where_races_are_looked_for_nothing_is_written_in_place_or_alone() {
    let mut machine = Machine::new(&[1, 1], 2, |config| config.check_races = true);
    machine.memories = (0..2).map(|rank| crate::hlrc::sim::memory::Memory::new(Rank(rank), Vec::new())).collect();
    for round in 1..4 {
        for rank in [0, 1] {
            machine.write(rank, Page(rank.into()), round);
        }
        meet(&mut machine, 2);
        for rank in [0, 1] {
            assert_eq!([0, 1].map(|page| machine.read(rank, Page(page))), [round; 2]);
        }
        meet(&mut machine, 2);
    }
    for rank in [0, 1] {
        let stats = machine.node(rank).stats();
        assert_eq!((stats.twins, stats.diffs), (3, 3));
        assert_eq!((stats.writes_alone, stats.writes_in_place, stats.whole_pages), (0, 0, 0));
    }
}

#[test]
fn where_races_are_looked_for_writes_go_home_before_a_rank_sees_more() {
    for (check_races, early) in [(false, 0), (true, 1)] {
        let mut machine = Machine::new(&[1, 1], 2, |config| config.check_races = check_races);
        if check_races {
            machine.memories =
                (0..2).map(|rank| crate::hlrc::sim::memory::Memory::new(Rank(rank), Vec::new())).collect();
        }
        acquire(&mut machine, 0, LOCK);
        machine.write(0, Page(0), 1);
        release(&mut machine, 0, LOCK);
        machine.write(1, Page(1), 2);
        acquire(&mut machine, 1, LOCK);
        assert_eq!(machine.node(1).stats().early_flushes, early);
        machine.write(1, Page(1), 3);
        release(&mut machine, 1, LOCK);
        // It has seen nothing new.
        machine.write(1, Page(1), 4);
        acquire(&mut machine, 1, LOCK);
        assert_eq!(machine.node(1).stats().early_flushes, early);
    }
}
