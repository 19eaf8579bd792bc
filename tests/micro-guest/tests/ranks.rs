//! The micro-guest on machines of two and four ranks, on this machine's own KVM.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking, in its helpers too")]

mod common;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use common::{LIMIT, turn};
use vincs_coherence::node::Stats as Protocol;
use vincs_micro_guest::{Litmus, Order, Program, Ranks, Report, Session, Shape};
use vincs_vmm::cluster::MemberState;
use vincs_vmm::machine::{MachineStats, Running, StopReason};
use vincs_vmm::memory::engine::{HOLD_LIMITS, MemorySettings};

const RANKS: [u16; 2] = [2, 4];
const MILLION: u64 = 1_000_000;

/// A vCPU on each rank.
fn start(program: Program, ranks: u16) -> Session {
    Session::start_on(program, ranks.into(), &Ranks::new(ranks)).unwrap()
}

/// Stops a self-check that still runs: it has found nothing wrong, and all that it checks has happened.
fn stop_and_check(session: Session) {
    assert!(!session.has_ended());
    session.ask_to_stop();
    let Report::SelfCheck { windows, timer_interrupts, processor_interrupts } = session.wait(LIMIT).unwrap() else {
        panic!("a report of another program")
    };
    assert!(windows >= 16 && timer_interrupts > 0 && processor_interrupts > 0, "{windows} windows");
}

#[test]
fn an_interrupt_goes_round_all_ranks() {
    let Some(_turn) = turn("IPI ping-pong over ranks") else { return };
    for ranks in RANKS {
        let session = start(Program::IpiPingPong { rounds: 100 }, ranks);
        let Report::IpiPingPong(hops) = session.wait(LIMIT).unwrap() else { panic!("a report of another program") };
        assert_eq!(hops.count, 100 * u64::from(ranks));
        println!("{ranks} ranks: {} to {} ticks a hop, median {}", hops.min, hops.max, hops.median);
    }
}

/// What each vCPU of a memory walk has found in the end.
fn checksums(session: Session) -> Vec<u64> {
    let Report::MemoryWalk { checksums } = session.wait(LIMIT).unwrap() else { panic!("a report of another program") };
    checksums
}

#[test]
fn memory_that_is_spread_holds_what_was_written() {
    let Some(_turn) = turn("memory walk over ranks") else { return };
    for ranks in RANKS {
        let session = start(Program::MemoryWalk { megabytes: 2, steps: 200_000, seed: 42 }, ranks);
        let mut checksums = checksums(session);
        checksums.dedup();
        assert_eq!(checksums.len(), usize::from(ranks), "no two vCPUs walk the same way");
    }
}

#[test]
fn processors_of_all_ranks_keep_their_state() {
    let Some(_turn) = turn("self-check over ranks") else { return };
    for ranks in RANKS {
        let session = start(Program::SelfCheck { rounds: 20_000, period: 5_000_000 }, ranks);
        std::thread::sleep(Duration::from_millis(500));
        stop_and_check(session);
    }
}

#[test]
fn processors_go_on_where_they_are_moved_to() {
    let Some(_turn) = turn("moving over ranks") else { return };
    for ranks in RANKS {
        let program = Program::SelfCheck { rounds: 20_000, period: 5_000_000 };
        let session = Session::start_gathered(program, ranks.into(), &Ranks::new(ranks)).unwrap();
        let entries = |machine: &Running| -> Vec<_> {
            machine.stats().vcpus.iter().map(|vcpu| (vcpu.vcpu, vcpu.counters.entries)).collect()
        };
        std::thread::sleep(Duration::from_millis(500));
        assert!(session.machines().skip(1).flat_map(entries).all(|(_, entries)| entries == 0), "all are on rank 0");
        session.spread();
        let mut machines = session.machines();
        let left_behind = entries(machines.next().unwrap());
        std::thread::sleep(Duration::from_millis(500));
        assert!(!session.has_ended());
        session.ask_to_stop();
        let Report::SelfCheck { windows, .. } = session.wait_here(LIMIT).unwrap() else {
            panic!("a report of another program")
        };
        assert!(windows >= 16, "{windows} windows");
        let at_the_end = entries(session.machines().next().unwrap());
        assert_eq!(left_behind[1..], at_the_end[1..], "rank 0 has not run those that left it");
        assert!(left_behind.iter().all(|(_, entries)| *entries > 0), "{left_behind:?}");
        let there: Vec<_> = session.machines().skip(1).flat_map(entries).collect();
        assert!(there.len() == usize::from(ranks) - 1 && there.iter().all(|(_, entries)| *entries > 0), "{there:?}");
    }
}

/// Runs a test of memory order so often; what came out, and what the protocol has counted on all ranks. With windows these have so many slots.
fn litmus(test: Litmus, iterations: u64, ranks: u16, window_slots: Option<NonZeroU32>) -> ([u64; 16], Vec<Protocol>) {
    let seed = u64::from(ranks) << 8 | test.number() as u64;
    let program = |patience| Program::Litmus { test, iterations, patience, seed };
    let session = if ranks == 1 {
        Session::start(program(u64::MAX), 2).unwrap()
    } else {
        // As short as is allowed, so that pages change hands often.
        let memory = MemorySettings { hold: Some(*HOLD_LIMITS.start()), ..MemorySettings::default() };
        Session::start_on(program(2000), ranks.into(), &Ranks { memory, window_slots, ..Ranks::new(ranks) }).unwrap()
    };
    let Report::Litmus { outcomes } = session.wait_here(LIMIT).unwrap() else { panic!("a report of another program") };
    assert!(outcomes.iter().sum::<u64>() >= iterations);
    let memory = |stats: MachineStats| stats.ranks.map(|ranks| ranks.memory.protocol);
    let counted = session.machines().filter_map(|machine| memory(machine.stats())).collect();
    (outcomes, counted)
}

/// Whether the outcomes show ranks at work at the same time: of two, one that needs it. Of four readers and writers the only such outcome is too rare; that
/// they take the words from each other in the middle of a batch shows in outcomes that are neither all old nor all new.
fn were_at_once(test: Litmus, outcomes: &[u64; 16]) -> bool {
    let seen = (0..16_u16).zip(outcomes).filter(|(_, count)| **count > 0).map(|(outcome, _)| 1 << outcome).sum::<u16>();
    if test.processors() == 2 { seen & test.interleaved() != 0 } else { (seen & !(1 | 1 << 15)).count_ones() >= 3 }
}

/// How often ranks took pages from each other.
fn lost(counted: &[Protocol]) -> u64 {
    counted.iter().map(|protocol| protocol.invalidations + protocol.recalls).sum()
}

#[test]
fn what_x86_forbids_is_never_seen_across_ranks() {
    let Some(_turn) = turn("litmus tests over ranks") else { return };
    let started = Instant::now();
    for test in Litmus::ALL {
        let ranks = u16::try_from(test.processors()).unwrap();
        let (outcomes, counted) = litmus(test, MILLION, ranks, None);
        let lost = lost(&counted);
        println!("{test:?} on {ranks} ranks: {outcomes:?}, {lost} pages lost to others, {:?}", started.elapsed());
        assert!(lost > 1000, "pages have changed hands");
        assert!(were_at_once(test, &outcomes), "{test:?}: no two ranks were at work at the same time: {outcomes:?}");
    }
}

/// Pages that ranks read in each other's windows are as fresh as others.
#[test]
fn what_x86_forbids_is_never_seen_in_windows() {
    let Some(_turn) = turn("litmus tests over ranks with windows") else { return };
    let started = Instant::now();
    let (mut all_hits, mut all_misses) = (0, 0);
    for test in Litmus::ALL {
        let ranks = u16::try_from(test.processors()).unwrap();
        let (outcomes, counted) = litmus(test, MILLION / 4, ranks, NonZeroU32::new(64));
        let (hits, misses): (Vec<u64>, Vec<u64>) =
            counted.iter().map(|protocol| (protocol.guarded_hits, protocol.guarded_misses)).unzip();
        println!(
            "{test:?} on {ranks} ranks: {outcomes:?}, {} pages lost to others, {hits:?} hits, {misses:?} misses, {:?}",
            lost(&counted),
            started.elapsed()
        );
        all_hits += hits.iter().sum::<u64>();
        all_misses += misses.iter().sum::<u64>();
    }
    assert!(all_hits > 0, "{all_hits} hits, {all_misses} misses");
}

#[test]
fn the_harness_sees_stores_that_are_buffered() {
    let Some(_turn) = turn("litmus tests on one rank") else { return };
    let buffering = Litmus { shape: Shape::StoreBuffering, order: Order::Plain };
    // On a busy host the two processors may hardly ever run at the same time: then again.
    let seen = (0..10).map(|_| litmus(buffering, MILLION, 1, None).0).find(|outcomes| outcomes[0b00] > 0);
    println!("{buffering:?}: {seen:?}");
    assert!(seen.is_some(), "this processor reorders a store and a younger load");
    let fenced = Litmus { order: Order::Fenced, ..buffering };
    println!("{fenced:?}: {:?}", litmus(fenced, MILLION, 1, None).0);
}

/// Two ranks to which others may join.
fn open_ranks() -> Ranks {
    Ranks { seats: 16, ..Ranks::new(2) }
}

fn entries(machine: &Running) -> u64 {
    machine.stats().vcpus.iter().map(|vcpu| vcpu.counters.entries).sum()
}

/// Waits until no vCPU is on its way.
fn rest(session: &Session) {
    let until = Instant::now() + LIMIT;
    while session.controller().unwrap().places().iter().any(|place| place.moving_to.is_some()) {
        assert!(Instant::now() < until, "a vCPU does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn processors_keep_their_state_while_ranks_join_and_leave() {
    let Some(_turn) = turn("joining and leaving under the self-check") else { return };
    let program = Program::SelfCheck { rounds: 20_000, period: 5_000_000 };
    let mut session = Session::start_on(program, 4, &open_ranks()).unwrap();
    for round in 0..4 {
        let first = session.join().unwrap();
        let second = session.join().unwrap();
        rest(&session);
        std::thread::sleep(Duration::from_millis(300));
        assert!(!session.has_ended());
        // In either order.
        let order = if round % 2 == 0 { [first, second] } else { [second, first] };
        for rank in order {
            let machine = session.leave(rank, LIMIT).unwrap();
            assert!(entries(&machine) > 0, "it has run a vCPU");
            let stats = machine.stats().ranks.unwrap().memory;
            assert!(stats.sent.leave.messages > 0 && stats.received.leave.messages > 0, "{stats:?}");
            // Memory's counters follow what it does.
            let until = Instant::now() + LIMIT;
            while machine.remains() != (Vec::new(), 0) {
                assert!(Instant::now() < until, "{:?} is left there", machine.remains());
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    stop_and_check(session);
}

#[test]
fn memory_holds_what_was_written_while_ranks_join_and_leave() {
    let Some(_turn) = turn("joining and leaving under a memory walk") else { return };
    let program = Program::MemoryWalk { megabytes: 2, steps: 600_000, seed: 42 };
    let expected = checksums(Session::start_on(program, 4, &Ranks::new(2)).unwrap());
    let mut session = Session::start_on(program, 4, &Ranks { shards: 2, ..open_ranks() }).unwrap();
    let mut times = 0;
    while !session.has_ended() && times < 5 {
        let rank = session.join().unwrap();
        rest(&session);
        drop(session.leave(rank, LIMIT).unwrap());
        times += 1;
    }
    assert!(times > 0);
    assert_eq!(checksums(session), expected, "after {times} ranks");
}

/// Of how many pages a rank is the home.
fn homes(session: &Session, rank: u16) -> u32 {
    session.controller().unwrap().homes().get(&rank).copied().unwrap_or(0)
}

/// Waits until a rank that has joined is the home of its share, but for less than a hand-over.
fn has_its_share(session: &Session, rank: u16) {
    let until = Instant::now() + LIMIT;
    let (all, ranks) = (session.controller().unwrap().homes(), session.machines().count());
    let share = all.values().sum::<u32>() / u32::try_from(ranks).unwrap();
    while homes(session, rank) + 128 < share {
        assert!(Instant::now() < until, "{} of {share} pages", homes(session, rank));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The rank that has started the machine, and is the home of half of it, leaves; so do those that have come for it in the end.
#[test]
fn a_rank_that_started_the_machine_leaves_and_what_it_was_the_home_of_is_kept() {
    let Some(_turn) = turn("a founder leaves under the self-check") else { return };
    let program = Program::SelfCheck { rounds: 20_000, period: 5_000_000 };
    let mut session = Session::start_on(program, 4, &Ranks { shards: 2, ..open_ranks() }).unwrap();
    let rank = session.join().unwrap();
    has_its_share(&session, rank);
    for rank in [1, rank] {
        let homed = homes(&session, rank);
        let machine = session.leave(rank, LIMIT).unwrap();
        assert!(homed > 0 && entries(&machine) > 0, "it was a home of {homed} pages, and has run a vCPU");
        assert_eq!((homes(&session, rank), machine.remains()), (0, (Vec::new(), 0)), "nothing is left there");
        let protocol = machine.stats().ranks.unwrap().memory.protocol;
        assert!(protocol.homes_given >= homed.into(), "{protocol:?}");
        drop(machine);
        std::thread::sleep(Duration::from_millis(200));
        assert!(!session.has_ended());
    }
    assert_eq!(session.machines().count(), 1, "rank 0 has it all");
    let rank = session.join().unwrap();
    has_its_share(&session, rank);
    stop_and_check(session);
}

#[test]
fn memory_holds_what_was_written_while_founders_leave() {
    let Some(_turn) = turn("founders leave under a memory walk") else { return };
    let program = Program::MemoryWalk { megabytes: 2, steps: 600_000, seed: 42 };
    let expected = checksums(Session::start_on(program, 4, &Ranks::new(4)).unwrap());
    let mut session = Session::start_on(program, 4, &Ranks { seats: 16, ..Ranks::new(4) }).unwrap();
    let mut left = 0;
    for rank in [2, 1, 3] {
        if !session.has_ended() {
            drop(session.leave(rank, LIMIT).unwrap());
            left += 1;
        }
        if left == 1 {
            session.join().unwrap();
        }
    }
    assert!(left > 0);
    assert_eq!(checksums(session), expected, "after {left} ranks");
}

/// Of two ranks that are lost in the middle of a hand-over, the old home and a new one, each ends the machine with its name.
#[test]
fn a_rank_that_is_lost_while_homes_move_ends_the_machine() {
    let Some(_turn) = turn("ranks lost while homes move") else { return };
    for lost in [1, 2] {
        let program = Program::SelfCheck { rounds: 20_000, period: 5_000_000 };
        let mut session = Session::start_on(program, 4, &Ranks { seats: 16, ..Ranks::new(4) }).unwrap();
        let controller = session.controller().unwrap();
        let all = homes(&session, 1);
        let leaves = std::thread::spawn(move || controller.remove(1, Duration::from_secs(5)));
        let until = Instant::now() + LIMIT;
        while homes(&session, 1) == all {
            assert!(Instant::now() < until, "it hands nothing over");
            std::thread::yield_now();
        }
        let left = homes(&session, 1);
        session.lose(lost);
        for machine in session.machines() {
            // It may have had time to hand all over, and to leave before it was gone.
            let reason = machine.wait(Some(LIMIT));
            let is_so = matches!(reason, Some(StopReason::RankLost { rank, .. }) if rank == lost);
            assert!(is_so || reason == Some(StopReason::Left), "{reason:?}, with {left} of {all} pages left");
        }
        assert!(leaves.join().unwrap().is_err());
    }
}

#[test]
fn a_rank_that_has_joined_and_goes_without_a_word_ends_the_machine_only_if_it_had_a_processor() {
    let Some(_turn) = turn("joined ranks that are lost") else { return };
    let program = Program::SelfCheck { rounds: 20_000, period: 5_000_000 };
    // Not spread yet, nobody gets a vCPU.
    let mut session = Session::start_gathered(program, 2, &open_ranks()).unwrap();
    let rank = session.join().unwrap();
    session.lose(rank);
    let until = Instant::now() + LIMIT;
    let is_gone = |session: &Session| {
        let members = session.controller().unwrap().members();
        members.iter().any(|(other, state)| (*other, *state) == (rank, MemberState::Left))
    };
    while !is_gone(&session) {
        assert!(Instant::now() < until, "its loss is not noticed");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(session.machines().all(|machine| machine.wait(Some(Duration::from_millis(500))).is_none()), "all go on");
    let next = session.join().unwrap();
    session.spread();
    let controller = session.controller().unwrap();
    controller.migrate(1, next, LIMIT).unwrap();
    session.lose(next);
    for machine in session.machines() {
        let reason = machine.wait(Some(LIMIT));
        assert!(matches!(reason, Some(StopReason::RankLost { rank, .. }) if rank == next), "{reason:?}");
    }
}

#[test]
fn the_end_reaches_every_rank_with_its_status() {
    let Some(_turn) = turn("the end over ranks") else { return };
    let session = start(Program::SelfCheck { rounds: 20_000, period: 5_000_000 }, 4);
    let mut machines = session.machines();
    assert!(machines.next().unwrap().end_cluster(77), "all know");
    for machine in machines {
        assert_eq!(machine.wait(Some(LIMIT)), Some(StopReason::Ended { status: 77 }));
    }
}

#[test]
fn a_rank_that_goes_without_a_word_ends_the_machine_on_all_others() {
    let Some(_turn) = turn("a lost rank") else { return };
    let mut session = start(Program::SelfCheck { rounds: 20_000, period: 5_000_000 }, 4);
    std::thread::sleep(Duration::from_millis(100));
    let lost_at = Instant::now();
    session.lose(2);
    for (rank, machine) in session.machines().enumerate() {
        let Some(StopReason::RankLost { rank: lost, reason }) = machine.wait(Some(LIMIT)) else {
            panic!("rank {rank} stopped for another reason")
        };
        assert_eq!(lost, 2, "as rank {rank} has it: {reason}");
    }
    assert!(lost_at.elapsed() < Duration::from_secs(10), "{:?}", lost_at.elapsed());
    drop(session);
    assert!(lost_at.elapsed() < Duration::from_secs(20), "its threads have ended, those that wait for pages too");
}

#[test]
fn faults_are_noted_with_the_instruction_that_ran_into_them() {
    let Some(_turn) = turn("sampled faults") else { return };
    let memory = MemorySettings { sample_every: NonZeroU32::new(1), ..MemorySettings::default() };
    let test = Litmus { shape: Shape::StoreBuffering, order: Order::Plain };
    let program = Program::Litmus { test, iterations: 100_000, patience: 2000, seed: 1 };
    let session = Session::start_on(program, 2, &Ranks { memory, ..Ranks::new(2) }).unwrap();
    session.wait_here(LIMIT).unwrap();
    for machine in session.machines() {
        let stats = machine.stats().ranks.unwrap();
        assert!(stats.sampled_faults.iter().map(|fault| fault.samples).sum::<u64>() > 10, "{stats:?}");
        // The pages that change hands are in the region above 16 MiB, the code that uses them is below.
        let (region, code) = (16 << 20 >> 12, 2 << 20..16 << 20);
        let of_test = stats.sampled_faults.iter().filter(|fault| fault.page >= region);
        let places: Vec<u64> = of_test.map(|fault| fault.instruction_pointer).collect();
        assert!(!places.is_empty() && places.iter().all(|place| code.contains(place)), "{places:x?}");
    }
}
