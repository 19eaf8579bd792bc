//! Ranks that are killed or stopped while their machine runs: of those that are left one says a line, whichever went together.

use std::sync::{Mutex, PoisonError};

use super::*;

/// So many ranks whose machine runs; nothing where there can be none.
fn running(place: &Place, ranks: &str) -> Option<Vec<Rank>> {
    if !place.has_machine() {
        return None;
    }
    fs::write(place.path("kernel"), kernel(&SAYS_R_AND_STAYS)).unwrap();
    let start = |rank: u32| place.rank_of(ranks, &rank.to_string(), "a", PATIENT, &GOOD);
    let mut ranks: Vec<_> = (0..ranks.parse().unwrap()).map(start).collect();
    let mut said = [0; 1];
    ranks[0].0.as_mut().unwrap().stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(said, *b"r");
    for rank in &mut ranks {
        let start = Instant::now();
        while !has_control_thread(rank) {
            assert!(!rank.has_ended() && start.elapsed() < LONG, "the rank does not take part");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Some(ranks)
}

/// Whether a rank is as far as to answer the others.
fn has_control_thread(rank: &Rank) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", rank.0.as_ref().unwrap().id())).unwrap();
    let name = |task: std::io::Result<fs::DirEntry>| fs::read_to_string(task.ok()?.path().join("comm")).ok();
    tasks.filter_map(name).any(|name| name == "control\n")
}

/// Of so many ranks, the first ones get this signal at once: the lowest that is left says which is lost, the others nothing. A rank that is stopped by it
/// ends, too, when it goes on.
fn lost(ranks: &str, first: usize, by: Signal) {
    // One after the other: the ranks of all at once would leave each other too little of the host's processors for the time that is looked at.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Place::new();
    let Some(mut ranks) = running(&place, ranks) else { return };
    let mut left = ranks.split_off(first);
    let start = Instant::now();
    ranks.iter().for_each(|rank| signal(rank, by));
    let speaker = left.remove(0);
    speaker.ends_with(RANK_LOST, &["is lost", &host(), &format!("said by rank {first} on")]);
    for silent in left {
        let output = silent.end();
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(RANK_LOST), ""));
    }
    assert!(start.elapsed() < END_TIME, "after {:?}", start.elapsed());
    if by == Signal::STOP {
        ranks.iter().for_each(|rank| signal(rank, Signal::CONT));
        for late in ranks {
            assert_eq!(late.end().status.code(), Some(RANK_LOST));
        }
    }
}

#[test]
fn without_rank_0_rank_1_speaks() {
    lost("4", 1, Signal::KILL);
}

#[test]
fn without_ranks_0_and_1_rank_2_speaks() {
    lost("4", 2, Signal::KILL);
}

#[test]
fn the_last_rank_of_all_speaks() {
    lost("3", 2, Signal::KILL);
}

#[test]
fn of_ranks_that_hang_one_speaks_for_all() {
    lost("4", 1, Signal::STOP);
    lost("4", 2, Signal::STOP);
}
