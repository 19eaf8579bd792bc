//! A cache with a limit, and what crosses an eviction. The limits here are smaller than a real machine's may be.

use super::machine::Machine;
use super::machine::short::*;
use crate::id::{Access, Page, Tick};
use crate::message::{Content, Keep, Message};
use crate::node::{Action, Body, Source};
use Access::{Read, Write};

fn machine(limit: u32, hold: u64) -> Machine {
    let mut machine = Machine::new(2, 16, |config| config.hold = Tick(hold));
    machine.nodes.iter_mut().for_each(|node| node.config.cache_pages = Some(limit));
    machine
}

#[test]
fn the_oldest_page_goes_when_the_cache_is_full() {
    let mut machine = machine(2, 0);
    (0..2).for_each(|page| machine.touch_and_run(1, page, Write));
    machine.log.clear();
    machine.touch(1, 2, Write);
    assert_eq!(
        machine.took(1),
        [
            Action::Detach { run: run(0, 1) },
            send(0, write_back(0, 1, Keep::Nothing), Body::Own),
            Action::Unmap { run: run(0, 1) },
            send(0, acquire(2, 1, Write), Body::None),
        ]
    );
    machine.run();
    assert_eq!(machine.took(0)[0], map(0, 1, Write, Source::Received { at: 0 }), "its home has it now");
    assert_eq!(machine.nodes[1].stats().evictions, 1);
}

#[test]
fn copies_to_read_go_without_a_word_and_are_invalidated_in_vain() {
    let mut machine = machine(1, 0);
    machine.touch_and_run(0, 0, Write);
    machine.touch_and_run(1, 0, Read);
    machine.log.clear();
    machine.touch(1, 1, Read);
    assert_eq!(machine.took(1), [Action::Unmap { run: run(0, 1) }, send(0, acquire(1, 1, Read), Body::None)]);
    machine.run();
    machine.log.clear();
    machine.touch_and_run(0, 0, Write);
    assert_eq!(machine.took(1), [send(0, Message::InvalidateAck { page: Page(0) }, Body::None)]);
}

#[test]
fn a_recall_that_crosses_an_eviction_is_answered_by_it() {
    let mut machine = machine(1, 0);
    machine.touch_and_run(1, 0, Write);
    machine.touch(0, 0, Read);
    machine.touch(1, 1, Read);
    machine.log.clear();
    machine.deliver(0, 1);
    assert_eq!(machine.took(1), [], "the recall finds nothing");
    machine.deliver(1, 0);
    assert_eq!(machine.took(0), [map(0, 1, Write, Source::Received { at: 0 })], "nobody else has a copy");
    machine.run();
    assert!(!machine.has_waiters());
}

#[test]
fn a_page_asked_for_again_right_after_its_eviction_comes_back() {
    let mut machine = machine(1, 0);
    machine.touch_and_run(1, 0, Write);
    machine.touch(0, 0, Read);
    machine.touch(1, 1, Read);
    machine.touch(1, 0, Write);
    machine.log.clear();
    machine.deliver_all();
    assert_eq!(machine.took(1).last(), Some(&map(0, 1, Write, Source::Received { at: 0 })));
    machine.run();
    assert!(!machine.has_waiters());
}

#[test]
fn pages_within_their_hold_time_or_on_their_way_or_held_are_not_evicted() {
    let mut machine = machine(1, 50);
    machine.touch(1, 0, Write);
    machine.touch(1, 1, Write);
    machine.deliver_all();
    machine.touch(1, 2, Write);
    machine.deliver_all();
    assert_eq!(machine.nodes[1].cache.used, 3, "all of them are too young");
    machine.pass(50);
    machine.hold(1, 1, &[(run(1, 1), Read)]);
    machine.touch(1, 3, Write);
    machine.deliver_all();
    let here = [0, 1, 2, 3].map(|page| machine.nodes[1].access(Page(page)).is_some());
    assert_eq!(here, [false, true, false, true], "all that may go does, down to the limit");
}

#[test]
fn the_list_of_pages_does_not_grow_with_the_pages_that_come_and_go() {
    let mut machine = machine(4, 0);
    for _ in 0..20 {
        machine.touch_and_run(1, 0, Write);
        machine.touch_and_run(0, 0, Write);
    }
    assert_eq!((machine.nodes[1].cache.order.len(), machine.nodes[1].cache.used), (1, 0));
}

#[test]
fn a_write_back_of_zeros_needs_no_bytes() {
    let mut machine = machine(1, 0);
    machine.touch_and_run(1, 0, Read);
    let now = machine.now;
    let message = Message::WriteBack {
        page: Page(0),
        version: crate::id::Version(1),
        keep: Keep::Nothing,
        content: Content::Zero,
    };
    machine.nodes[0].handle_message(now, crate::id::Rank(1), &message).expect("a write-back");
    assert_eq!(machine.nodes[0].poll_action(), Some(map(0, 1, Write, Source::Zero)));
}
