//! Every behaviour of small machines, by a model checker: the same [`Node`] and the same simulated memory as in the simulator,
//! but every order of events instead of random ones.
//!
//! What is abstracted: a rank has one processor, which uses a page in the same step in which it gets it (the simulator has
//! processors that come too late); time does not pass, but a hold time may end whenever something waits for that.

mod machine;

use std::io::Write;
use std::process::Command;

use machine::{Bounds, Machine, RIGHT};
use stateright::{Checker, Model};
use vincs_coherence::id::{Page, Rank, Run, Tick};

/// Three ranks: two are the homes of a page each, the third has none. No hold time, so that pages are given up at once.
fn bounds() -> Bounds {
    Bounds {
        pages: vec![1, 1, 0],
        accesses: vec![0, 0, 0],
        devices: Vec::new(),
        hold: Tick(0),
        cache_pages: None,
        read_ahead: 0,
        first_touch: 1,
        migratory: false,
        slots: None,
        near: 1,
        hand_overs: Vec::new(),
        leave: Vec::new(),
    }
}

/// Explores everything; says how much that is, past the test harness, which shows what is printed only when a test fails.
#[expect(clippy::panic, reason = "the tests are calls of this")]
fn exhaust(name: &str, bounds: Bounds) {
    let started = std::time::Instant::now();
    let checker = Machine::new(bounds).checker().threads(2).spawn_dfs().join();
    let (states, steps) = (checker.unique_state_count(), checker.state_count());
    let (depth, time) = (checker.max_depth(), started.elapsed());
    let explored = format!("Model of {name}: {states} states, {steps} steps, {depth} deep, {time:.1?}\n");
    // That nobody sees it is no reason to fail.
    let _ = std::io::stderr().write_all(explored.as_bytes());
    if let Some(path) = checker.discovery(RIGHT) {
        let problem = path.last_state().problem().unwrap_or_default().to_owned();
        let steps: Vec<String> = path.into_actions().iter().map(|step| format!("{step:?}")).collect();
        panic!("{name}: {problem} after\n{}", steps.join("\n"));
    }
    assert!(checker.is_done(), "{name}: not all states were visited");
}

#[test]
fn three_ranks_read_and_write_two_pages() {
    exhaust("3, 2 and 3 accesses", Bounds { accesses: vec![3, 2, 3], ..bounds() });
}

#[test]
fn three_ranks_read_and_write_two_pages_that_they_hold_for_some_time() {
    exhaust("2 accesses of each rank, with hold times", Bounds { accesses: vec![2, 2, 2], hold: Tick(1), ..bounds() });
}

/// The rank without pages has room for one.
#[test]
fn pages_are_evicted() {
    let bounds = Bounds { accesses: vec![2, 1, 3], cache_pages: Some(1), ..bounds() };
    exhaust("2, 1 and 3 accesses, with evictions", bounds.clone());
    let bounds = Bounds { accesses: vec![1, 1, 3], hold: Tick(1), ..bounds };
    exhaust("1, 1 and 3 accesses, with evictions and hold times", bounds);
}

/// Each device wants all pages at once.
#[test]
fn devices_and_processors_share_two_pages() {
    let bounds = Bounds { accesses: vec![1, 1, 1], devices: vec![Rank(0), Rank(2)], ..bounds() };
    exhaust("1 access of each rank and 2 devices", bounds.clone());
    let devices = vec![Rank(0), Rank(1), Rank(2)];
    let bounds = Bounds { accesses: vec![0, 0, 1], devices, hold: Tick(1), ..bounds };
    exhaust("1 access and 3 devices, with hold times", bounds);
}

/// The rank without pages leaves at any moment between its accesses, with what it has then.
#[test]
fn a_rank_leaves_while_others_use_what_it_has() {
    let bounds = Bounds { accesses: vec![2, 1, 2], leave: vec![Rank(2)], ..bounds() };
    exhaust("2, 1 and 2 accesses, and a rank that leaves", bounds.clone());
    let bounds = Bounds { cache_pages: Some(1), hold: Tick(1), accesses: vec![1, 1, 2], ..bounds };
    exhaust("1, 1 and 2 accesses, with evictions and hold times, and a rank that leaves", bounds);
}

/// Two ranks without pages leave, with windows in which they have read.
#[test]
fn ranks_leave_that_have_read_in_windows() {
    let leave = vec![Rank(1), Rank(2)];
    let bounds = Bounds { pages: vec![1, 0, 0], slots: Some(1), accesses: vec![1, 2, 1], leave, ..bounds() };
    exhaust("a window, 1, 2 and 1 accesses, and two ranks that leave", bounds);
}

/// The home sees two ranks read and write in turn, and then gives the page to be written to who reads.
#[test]
fn a_page_migrates() {
    let bounds = Bounds { pages: vec![1, 0], migratory: true, ..bounds() };
    exhaust("a page that migrates, 2 ranks, 6 and 7 accesses", Bounds { accesses: vec![6, 7], ..bounds.clone() });
    let bounds = Bounds { pages: vec![1, 0, 0], ..bounds };
    exhaust("a page that migrates, 3, 3 and 3 accesses", Bounds { accesses: vec![3, 3, 3], ..bounds.clone() });
    let bounds = Bounds { accesses: vec![2, 2, 3], hold: Tick(1), ..bounds };
    exhaust("a page that migrates, 2, 2 and 3 accesses, with hold times", bounds);
}

/// Two pages are too few for a reader in order: two ranks and four pages.
#[test]
fn pages_are_asked_for_ahead() {
    let bounds = Bounds { pages: vec![4, 0], accesses: vec![2, 3], read_ahead: 2, first_touch: 2, ..bounds() };
    exhaust("2 ranks, 4 pages, 2 and 3 accesses, with read-ahead", bounds);
}

/// The home's driver and the readers' NICs are interleaved step by step.
#[test]
fn pages_are_read_in_windows_while_others_write_them() {
    let bounds = Bounds { pages: vec![1, 0, 0], slots: Some(1), ..bounds() };
    exhaust("a window, 1, 3 and 3 accesses", Bounds { accesses: vec![1, 3, 3], ..bounds });
}

/// Two pages share a slot, and ranks have room for one.
#[test]
fn pages_take_turns_in_a_window() {
    let bounds = Bounds { pages: vec![2, 0, 0], accesses: vec![0, 3, 3], slots: Some(1), ..bounds() };
    exhaust("a window for 2 pages, 3 and 3 accesses", bounds.clone());
    let bounds = Bounds { pages: vec![2, 0], accesses: vec![2, 5], cache_pages: Some(1), ..bounds };
    exhaust("a window for 2 pages, 2 ranks, 2 and 5 accesses, with evictions", bounds);
}

/// A home shows what is near a page that is read.
#[test]
fn pages_near_one_that_is_read_are_shown() {
    let bounds = Bounds { pages: vec![2, 0], accesses: vec![3, 4], slots: Some(2), near: 2, ..bounds() };
    exhaust("a window, 2 pages near each other, 2 ranks, 3 and 4 accesses", bounds.clone());
    let bounds = Bounds { pages: vec![2, 0, 0], accesses: vec![1, 2, 2], ..bounds };
    exhaust("a window, 2 pages near each other, 1, 2 and 2 accesses", bounds);
}

/// Page 0, or the only one, gets these homes one after the other, whenever rank 0 says so.
fn one_page_to(ranks: &[u16]) -> Vec<(Run, Rank)> {
    ranks.iter().map(|rank| (Run::one(Page(0)), Rank(*rank))).collect()
}

#[test]
fn a_page_moves_to_another_home_while_three_ranks_use_it() {
    let bounds = Bounds { pages: vec![1, 0, 0], hand_overs: one_page_to(&[1]), ..bounds() };
    exhaust("a hand-over of 1 page, 1, 2 and 2 accesses", Bounds { accesses: vec![1, 2, 2], ..bounds.clone() });
    let bounds = Bounds { accesses: vec![1, 1, 1], hold: Tick(1), ..bounds };
    exhaust("a hand-over of 1 page, 1 access of each rank, with hold times", bounds.clone());
    let hand_overs = vec![(Run { first: Page(0), count: 2 }, Rank(2))];
    let bounds = Bounds { pages: vec![2, 0, 0], hold: Tick(0), hand_overs, ..bounds };
    exhaust("a hand-over of 2 pages, 1 access of each rank", bounds);
}

#[test]
fn a_page_moves_to_and_fro() {
    let bounds = Bounds { pages: vec![1, 0, 0], hand_overs: one_page_to(&[1, 0, 2]), ..bounds() };
    exhaust("3 hand-overs of 1 page, 1 access of each rank", Bounds { accesses: vec![1, 1, 1], ..bounds });
}

/// Two pages move by themselves: to each other's home, and at the same time.
#[test]
fn two_pages_move_at_the_same_time() {
    let hand_overs = vec![(Run::one(Page(0)), Rank(1)), (Run::one(Page(1)), Rank(0))];
    let bounds = Bounds { pages: vec![1, 1], accesses: vec![2, 2], hand_overs, ..bounds() };
    exhaust("2 hand-overs at once, 2 ranks, 2 accesses of each", bounds);
}

/// Devices keep what they have and wait for the rest.
#[test]
fn pages_that_devices_hold_move() {
    let hand_overs = vec![(Run { first: Page(0), count: 2 }, Rank(1))];
    let bounds = Bounds { pages: vec![2, 0], devices: vec![Rank(0), Rank(1)], hand_overs, ..bounds() };
    let bounds = Bounds { accesses: vec![1, 1], hold: Tick(1), ..bounds };
    exhaust("a hand-over of 2 pages, 2 ranks, 1 access of each and 2 devices, with hold times", bounds);
}

#[test]
fn a_page_leaves_the_window_for_another_home() {
    let bounds = Bounds { pages: vec![1, 0, 0], slots: Some(1), hand_overs: one_page_to(&[1]), ..bounds() };
    exhaust("a hand-over of a page in a window, 1, 1 and 2 accesses", Bounds { accesses: vec![1, 1, 2], ..bounds });
}

#[test]
fn pages_are_evicted_while_they_move() {
    let hand_overs = one_page_to(&[1]);
    let bounds = Bounds { pages: vec![2, 0], accesses: vec![2, 3], cache_pages: Some(1), hand_overs, ..bounds() };
    exhaust("a hand-over, 2 pages, 2 ranks, 2 and 3 accesses, with evictions", bounds);
}

/// A rank without pages leaves before or after a hand-over.
#[test]
fn a_rank_leaves_and_a_page_moves() {
    let bounds = Bounds { pages: vec![1, 0, 0], hand_overs: one_page_to(&[1]), leave: vec![Rank(2)], ..bounds() };
    let bounds = Bounds { accesses: vec![1, 1, 2], ..bounds };
    exhaust("a hand-over of 1 page, 1, 1 and 2 accesses, and a rank that leaves", bounds.clone());
    let bounds = Bounds { slots: Some(1), accesses: vec![1, 0, 1], hand_overs: one_page_to(&[1, 0]), ..bounds };
    exhaust("2 hand-overs of a page in a window, 1, 0 and 1 accesses, and a rank that leaves", bounds);
}

#[test]
fn what_is_explored_is_told_though_all_is_well() {
    let again = Command::new(std::env::current_exe().unwrap()).args(["--exact", "pages_are_asked_for_ahead"]).output();
    let told = String::from_utf8(again.unwrap().stderr).unwrap();
    assert!(told.starts_with("Model of 2 ranks") && told.contains(" states, "), "{told}");
}
