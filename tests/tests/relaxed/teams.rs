//! Threads that meet in teams that come and go, tell each other, and leave things behind for a program that begins.

use vincs_coherence::hlrc::node::ThreadError;
use vincs_vmm::memory::hlrc::SyncError;
use vincs_vmm::memory::hlrc::meeting::{Attendance, MAX_MEMBERS, Meeting, MeetingError};

use super::*;

/// Ranks with so many threads that synchronise in teams, and one more each, the last, to begin programs.
fn machine(threads: &[u16]) -> (Vec<u16>, Machine) {
    let team: Vec<u16> = threads.iter().map(|threads| threads + 1).collect();
    let machine = Machine::new(&team, |settings| settings.open = true);
    (team, machine)
}

fn attendance(team: u64, (members, here): (u32, u32), member: u32, word: u64) -> Attendance {
    Attendance { meeting: Meeting { team, members, here }, member, word }
}

#[test]
fn members_of_a_team_see_each_others_writes_and_words_while_others_do_not_take_part() {
    let (team, machine) = machine(&[2, 3, 1]);
    let views = machine.array(3 * PAGE);
    machine.run(&team, |member, rank, number| {
        // Two of the first rank and two of the second are a team; the third rank has no part in it.
        let Some(own) =
            [[0, 1, 9], [2, 3, 9]].get(rank).map(|of| of[usize::from(number.min(2))]).filter(|own| *own < 9)
        else {
            return;
        };
        for round in 1..40 {
            views[rank].write(own as usize * 200, round);
            let words = member.meet(attendance(7, (4, 2), own, round * 10 + u64::from(own))).unwrap();
            assert_eq!(words, (0..4).map(|other| round * 10 + other).collect::<Vec<_>>());
            for other in 0..4 {
                assert_eq!(views[rank].read(other * 200), round, "round {round}");
            }
            member.meet(attendance(7, (4, 2), own, 0)).unwrap();
        }
    });
}

#[test]
fn a_team_of_one_rank_asks_nobody() {
    let (team, machine) = machine(&[1, 2]);
    machine.run(&team, |member, rank, number| {
        if rank == 1 && number < 2 {
            for round in 0..10 {
                let words = member.meet(attendance(1, (2, 2), number.into(), round)).unwrap();
                assert_eq!(words, [round; 2]);
            }
        }
    });
    let traffic = machine.memories[1].statistics().unwrap().traffic;
    assert_eq!(traffic.requests(), 0, "{traffic:?}");
}

#[test]
fn who_hears_sees_what_was_told_before() {
    let (_, machine) = machine(&[1, 1, 1]);
    let views = machine.array(6 * PAGE);
    let turn = AtomicU64::new(0);
    thread::scope(|scope| {
        for rank in 0..3 {
            let (machine, views, turn) = (&machine, &views, &turn);
            scope.spawn(move || {
                let member = machine.memories[rank].join(0).unwrap();
                for round in (rank as u64..60).step_by(3) {
                    while turn.load(Ordering::Acquire) != round {
                        thread::yield_now();
                    }
                    member.hear().unwrap();
                    for page in 0..6 {
                        assert_eq!(views[rank].read(page * PAGE / 8), round, "page {page}");
                        views[rank].write(page * PAGE / 8, round + 1);
                    }
                    member.tell().unwrap();
                    turn.store(round + 1, Ordering::Release);
                }
            });
        }
    });
    machine.assert_quiet();
}

#[test]
fn teams_that_cannot_be_are_refused_and_nobody_else_is_harmed() {
    let (_, machine) = machine(&[2, 1]);
    let size = |members, here| SyncError::Meeting(MeetingError::Size { members, here, threads: 2 });
    let disagree = |team| Err(SyncError::Meeting(MeetingError::Disagree(team)));
    thread::scope(|scope| {
        let machine = &machine;
        scope.spawn(move || {
            let member = machine.memories[0].join(0).unwrap();
            for (members, here) in [(0, 0), (2, 0), (1, 2), (4, 3), (MAX_MEMBERS + 1, 1)] {
                assert_eq!(member.meet(attendance(1, (members, here), 0, 0)), Err(size(members, here)));
            }
            assert_eq!(member.meet(attendance(1, (2, 1), 2, 0)), disagree(1), "member 2 of 2");
            assert_eq!(member.meet(attendance(2, (3, 1), 0, 0)), disagree(2), "here it says three, there two");
            assert_eq!(member.meet(attendance(3, (2, 1), 0, 0)), disagree(3), "both are number 0");
            assert_eq!(
                member.meet(attendance(4, (MAX_MEMBERS, 1), 0, 5)),
                disagree(4),
                "here as many as can be, there two"
            );
            assert_eq!(member.meet(attendance(4, (1, 1), 0, 5)), Ok(vec![5]));
            assert_eq!(member.begin(), Err(SyncError::Thread(ThreadError::None(0))));
        });
        scope.spawn(move || {
            let member = machine.memories[1].join(0).unwrap();
            assert_eq!(member.meet(attendance(2, (2, 1), 1, 0)), disagree(2));
            assert_eq!(member.meet(attendance(3, (2, 1), 0, 0)), disagree(3));
            assert_eq!(member.meet(attendance(4, (2, 1), 0, 0)), disagree(4));
        });
        scope.spawn(move || {
            let last = machine.memories[0].join(2).unwrap();
            assert_eq!(last.tell(), Err(SyncError::Thread(ThreadError::None(2))), "it is for beginnings");
        });
    });
    machine.assert_quiet();
}

#[test]
fn a_program_that_begins_has_all_that_an_earlier_one_left() {
    let (_, machine) = machine(&[2, 1]);
    let views = machine.array(4 * PAGE);
    let held = std::sync::Barrier::new(4);
    thread::scope(|scope| {
        let (machine, views, held) = (&machine, &views, &held);
        scope.spawn(move || {
            let member = machine.memories[0].join(0).unwrap();
            member.acquire(LOCK).unwrap();
            member.acquire(LockId(5)).unwrap();
            (0..4).for_each(|page| views[0].write(page * PAGE / 8, 77));
            held.wait();
            // It goes on with other things, and has its locks no more.
            held.wait();
            let not_held = vincs_coherence::hlrc::node::ReleaseError::NotHeld(0);
            assert_eq!(member.release(LOCK), Err(SyncError::Release(not_held)));
        });
        scope.spawn(move || {
            let member = machine.memories[0].join(1).unwrap();
            held.wait();
            assert_eq!(member.meet(attendance(1, (3, 1), 0, 0)), Err(SyncError::Reset));
            held.wait();
        });
        scope.spawn(move || {
            let member = machine.memories[1].join(0).unwrap();
            held.wait();
            assert_eq!(member.acquire(LOCK), Err(SyncError::Reset));
            held.wait();
            assert_eq!(member.acquire(LOCK), Ok(false));
            assert_eq!(member.acquire(LockId(5)), Ok(false));
        });
        scope.spawn(move || {
            let last = machine.memories[1].join(1).unwrap();
            held.wait();
            // Until the others wait, as far as anybody can know.
            thread::sleep(Duration::from_millis(100));
            last.begin().unwrap();
            for page in 0..4 {
                assert_eq!(views[1].read(page * PAGE / 8), 77, "what was written and not brought home is there");
            }
            held.wait();
        });
    });
    machine.assert_quiet();
}
