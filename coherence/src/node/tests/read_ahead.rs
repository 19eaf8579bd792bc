//! Reading in order, and not in order.

use super::machine::Machine;
use super::machine::short::*;
use crate::id::{Access, MAX_RUN, STRIPE_PAGES};
use crate::message::Message;
use crate::node::Action;
use Access::{Read, Write};

/// Two ranks, the pages of rank 0 written by it; rank 1 reads.
fn machine(pages: u32, read_ahead: u16) -> Machine {
    let mut machine = Machine::new(2, pages, |config| (config.read_ahead, config.first_touch) = (read_ahead, MAX_RUN));
    (0..pages).for_each(|page| machine.touch(0, page, Write));
    machine.log.clear();
    machine
}

/// The requests of rank 1 in what was done: first page, number, and whether it is a guess.
fn asked(machine: &mut Machine) -> Vec<Message> {
    let mut asked = Vec::new();
    for action in machine.took(1) {
        if let Action::Send { message: message @ Message::Acquire { .. }, .. } = action {
            asked.push(message);
        }
    }
    asked
}

#[test]
fn a_reader_in_order_gets_ever_more_pages_ahead() {
    let mut machine = machine(64, 16);
    let mut all = Vec::new();
    for page in 0..24 {
        machine.touch_and_run(1, page, Read);
        all.extend(asked(&mut machine));
    }
    let one = |page| acquire(page, 1, Read);
    let expected = [
        one(0),
        one(1),
        ahead(2, 2),
        one(4),
        ahead(5, 3),
        ahead(8, 1),
        one(9),
        ahead(10, 2),
        ahead(12, 4),
        ahead(16, 2),
        one(18),
    ];
    assert_eq!(all[..expected.len()], expected, "pieces of four, each up to a multiple of four");
}

#[test]
fn a_reader_that_catches_up_is_asked_for_further_while_its_pages_are_on_their_way() {
    let mut machine = machine(64, 8);
    (0..10).for_each(|page| machine.touch_and_run(1, page, Read));
    machine.touch(1, 18, Read);
    assert_eq!(machine.nodes[1].stats().ahead, 2 + 4 + 8 + 8);
    machine.log.clear();
    machine.touch(1, 21, Read);
    assert_eq!(asked(&mut machine), [ahead(27, 1), ahead(28, 2)], "the window goes on from where it has come to");
}

#[test]
fn reading_in_no_order_asks_for_nothing_more() {
    let mut machine = machine(64, 16);
    for page in [5, 3, 40, 17, 60, 8, 22, 1, 33, 50, 12, 28] {
        machine.touch_and_run(1, page, Read);
    }
    assert_eq!(asked(&mut machine).len(), 12);
    assert_eq!(machine.nodes[1].stats().ahead, 0);
}

#[test]
fn writing_in_order_asks_for_nothing_more() {
    let mut machine = machine(16, 16);
    (0..16).for_each(|page| machine.touch_and_run(1, page, Write));
    assert_eq!(machine.nodes[1].stats().ahead, 0);
}

#[test]
fn several_readers_in_order_are_told_apart() {
    let mut machine = machine(64, 4);
    for page in 0..3 {
        for start in [0, 20, 40] {
            machine.touch_and_run(1, start + page, Read);
        }
    }
    assert_eq!(machine.nodes[1].stats().ahead, 6, "two pages for each");
}

#[test]
fn what_others_own_is_refused_and_the_guessing_begins_anew() {
    let mut machine = Machine::new(3, 16, |config| config.read_ahead = 8);
    (0..2).for_each(|page| machine.touch_and_run(0, page, Write));
    (2..6).for_each(|page| machine.touch_and_run(2, page, Write));
    machine.log.clear();
    (0..2).for_each(|page| machine.touch_and_run(1, page, Read));
    assert_eq!(asked(&mut machine), [acquire(0, 1, Read), acquire(1, 1, Read), ahead(2, 2)]);
    assert_eq!(machine.nodes[1].stats().refused, 2);
    (2..6).for_each(|page| machine.touch_and_run(1, page, Read));
    assert!(!machine.has_waiters());
}

#[test]
fn guesses_stay_within_the_home_and_the_stripe() {
    let mut at_home_end = machine(8, 16);
    (5..8).for_each(|page| at_home_end.touch_and_run(1, page, Read));
    assert_eq!(at_home_end.nodes[1].stats().ahead, 1);

    let mut machine = Machine::new(2, 2 * STRIPE_PAGES, |config| config.read_ahead = 16);
    (STRIPE_PAGES - 8..STRIPE_PAGES).for_each(|page| machine.touch_and_run(1, page, Read));
    assert_eq!(machine.nodes[1].stats().ahead, 2 + 4 - 1, "the other stripe may be another node's");
    machine.log.clear();
    machine.touch_and_run(1, STRIPE_PAGES, Read);
    let asked = asked(&mut machine);
    let window = [ahead(STRIPE_PAGES + 1, 3), ahead(STRIPE_PAGES + 4, 4), ahead(STRIPE_PAGES + 8, 1)];
    assert_eq!(asked[0], acquire(STRIPE_PAGES, 1, Read));
    assert_eq!(asked[1..], window, "it goes on there, if it is not");
}

#[test]
fn no_read_ahead_is_none() {
    let mut machine = machine(16, 0);
    (0..16).for_each(|page| machine.touch_and_run(1, page, Read));
    assert_eq!(machine.nodes[1].stats().ahead, 0);
}

#[test]
fn guesses_do_not_go_beyond_the_limit_of_the_cache() {
    let mut machine = machine(64, 16);
    machine.nodes[1].config.cache_pages = Some(8);
    machine.nodes[1].hold = 1000;
    for page in 0..40 {
        let before = machine.nodes[1].stats().ahead;
        machine.touch(1, page, Read);
        let node = &machine.nodes[1];
        assert!(node.cache.used <= 8 || node.stats().ahead == before, "{} pages", node.cache.used);
        machine.deliver_all();
        machine.retry();
    }
    assert!(machine.nodes[1].stats().ahead > 0);
    machine.pass(1000);
    (40..64).for_each(|page| machine.touch_and_run(1, page, Read));
    assert_eq!(machine.nodes[1].cache.used, 8);
}
