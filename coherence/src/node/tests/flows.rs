//! The main flows, action by action. Rank 0 has pages 0 to 7, rank 1 pages 8 to 15, and so on.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::machine::Machine;
use super::machine::short::*;
use crate::id::{Access, Page, Rank, RankSet, Tick};
use crate::message::{Content, Keep, Message};
use crate::node::{Action, Body, Node, Source};
use Access::{Read, Write};

fn machine(ranks: u16) -> Machine {
    Machine::new(ranks, 8, |_| {})
}

fn invalidate(page: u32) -> Message {
    Message::Invalidate { page: Page(page) }
}

#[test]
fn a_home_takes_the_untouched_block_around_its_first_touch() {
    let mut machine = Machine::new(2, 8, |config| config.first_touch = 4);
    machine.touch_and_run(1, 1, Write);
    machine.log.clear();
    machine.touch_and_run(0, 3, Read);
    assert_eq!(machine.took(0), [map(2, 2, Write, Source::Zero)], "page 1 is somebody else's");
    machine.touch_and_run(0, 4, Read);
    assert_eq!(machine.took(0), [map(4, 4, Write, Source::Zero)]);
    assert_eq!(machine.nodes[0].stats().first_touches, 2);
}

#[test]
fn a_first_touch_stays_within_the_home_segment() {
    let mut machine = Machine::new(2, 6, |config| config.first_touch = 4);
    machine.touch_and_run(0, 5, Read);
    assert_eq!(machine.took(0), [map(4, 2, Write, Source::Zero)]);
}

#[test]
fn who_touches_a_page_first_owns_it_and_no_bytes_move() {
    let mut machine = machine(2);
    machine.touch(1, 3, Read);
    assert_eq!(machine.took(1), [send(0, acquire(3, 1, Read), Body::None)]);
    machine.run();
    assert_eq!(machine.log[0].1, send(1, grant(3, Write, &[(1, Content::Zero)]), Body::None));
    assert_eq!(machine.took(1), [map(3, 1, Write, Source::Zero)]);
    machine.touch(1, 3, Write);
    assert_eq!(machine.took(1), [], "it may write already");
}

#[test]
fn a_page_that_another_rank_owns_is_recalled_through_the_home() {
    let mut machine = machine(3);
    machine.touch_and_run(1, 3, Write);
    machine.log.clear();
    machine.touch_and_run(2, 3, Read);
    let log = machine.log.clone();
    assert_eq!(
        machine.took(0),
        [
            send(1, recall(3, Keep::Shared), Body::None),
            map(3, 1, Read, Source::Received { at: 0 }),
            send(2, grant(3, Read, &[(1, Content::Data)]), Body::Received { at: 0 }),
        ]
    );
    machine.log = log;
    assert_eq!(
        machine.took(1),
        [Action::Protect { run: run(3, 1) }, send(0, write_back(3, 1, Keep::Shared), Body::Own)]
    );
    machine.touch_and_run(0, 3, Read);
    assert_eq!(machine.took(0), [], "the home has got a copy by the way");
}

#[test]
fn a_page_to_be_written_passes_through_the_home_and_leaves_nothing_behind() {
    let mut machine = machine(3);
    machine.touch_and_run(1, 3, Write);
    machine.log.clear();
    machine.touch_and_run(2, 3, Write);
    let log = machine.log.clone();
    assert_eq!(
        machine.took(0),
        [
            send(1, recall(3, Keep::Nothing), Body::None),
            send(2, grant(3, Write, &[(2, Content::Data)]), Body::Received { at: 0 }),
        ]
    );
    machine.log = log;
    assert_eq!(
        machine.took(1),
        [
            Action::Detach { run: run(3, 1) },
            send(0, write_back(3, 1, Keep::Nothing), Body::Own),
            Action::Unmap { run: run(3, 1) },
        ]
    );
}

#[test]
fn all_sharers_are_invalidated_at_the_same_time_and_then_the_page_is_granted() {
    let mut machine = machine(4);
    machine.touch_and_run(0, 3, Write);
    (1..4).for_each(|rank| machine.touch_and_run(rank, 3, Read));
    machine.log.clear();
    machine.touch(3, 9, Read);
    machine.run();
    machine.log.clear();
    // Rank 3 drops its copy, as if to make room: it needs the bytes again.
    machine.nodes[3].drop_copy(Page(3));
    machine.apply(3);
    machine.log.clear();
    machine.touch(3, 3, Write);
    machine.deliver(3, 0);
    assert_eq!(
        machine.took(0),
        [send(1, invalidate(3), Body::None), send(2, invalidate(3), Body::None)],
        "the requester is not among them"
    );
    machine.deliver(0, 1);
    assert_eq!(
        machine.took(1),
        [Action::Unmap { run: run(3, 1) }, send(0, Message::InvalidateAck { page: Page(3) }, Body::None)]
    );
    machine.deliver(0, 2);
    machine.deliver(2, 0);
    machine.log.clear();
    assert_eq!(machine.nodes[0].access(Page(3)), Some(Read), "it reads on until the last copy has gone");
    machine.deliver(1, 0);
    assert_eq!(
        machine.took(0),
        [
            Action::Detach { run: run(3, 1) },
            send(3, grant(3, Write, &[(2, Content::Data)]), Body::Own),
            Action::Unmap { run: run(3, 1) },
        ]
    );
    machine.run();
    assert!(!machine.has_waiters());
}

#[test]
fn an_upgrade_of_a_current_copy_moves_no_bytes() {
    let mut machine = machine(2);
    machine.touch_and_run(0, 3, Write);
    machine.touch_and_run(1, 3, Read);
    machine.log.clear();
    machine.touch(1, 3, Write);
    machine.deliver(1, 0);
    assert_eq!(
        machine.took(0),
        [Action::Unmap { run: run(3, 1) }, send(1, grant(3, Write, &[(2, Content::Current)]), Body::None)]
    );
    machine.run();
    assert_eq!(machine.took(1), [Action::Allow { run: run(3, 1) }]);
    assert_eq!(machine.nodes[1].stats().upgrade_faults, 1);
}

/// Rank 1 is to be granted page 3 to read, which ranks 0, its home, and 2 read and wrote in turn.
#[test]
fn a_page_that_migrates_is_given_to_be_written_to_who_asks_to_read_it() {
    let mut machine = Machine::new(3, 8, |config| config.migratory = true);
    machine.touch_and_run(2, 3, Write);
    for rank in [0, 2] {
        machine.touch_and_run(rank, 3, Read);
        machine.touch_and_run(rank, 3, Write);
    }
    machine.log.clear();
    machine.touch_and_run(1, 3, Read);
    let log = machine.log.clone();
    let granted = grant(3, Write, &[(4, Content::Data)]);
    assert_eq!(
        machine.took(0),
        [send(2, recall(3, Keep::Nothing), Body::None), send(1, granted, Body::Received { at: 0 })]
    );
    machine.log = log;
    assert_eq!(machine.took(1)[1..], [map(3, 1, Write, Source::Received { at: 0 })]);
    assert_eq!(machine.nodes[0].stats().migratory_grants, 1);
    machine.touch_and_run(1, 3, Write);
    assert_eq!(machine.nodes[1].stats().upgrade_faults, 0);
    machine.log.clear();
    machine.touch_and_run(0, 3, Read);
    assert_eq!(machine.nodes[0].access(Page(3)), Some(Write), "the home as well");
    machine.touch_and_run(2, 3, Read);
    assert_eq!([0, 2].map(|rank| machine.nodes[rank].access(Page(3))), [Some(Read); 2], "to see who writes");
    machine.touch_and_run(0, 3, Write);
    machine.touch_and_run(1, 3, Read);
    assert_eq!(machine.nodes[1].access(Page(3)), Some(Read), "its reader did not");
}

/// A guess is refused, so that whoever uses the page has it from who used it last.
#[test]
fn a_page_that_migrates_is_not_given_on_a_guess() {
    let mut machine = Machine::new(2, 8, |config| config.migratory = true);
    machine.touch_and_run(1, 3, Write);
    for rank in [0, 1, 0] {
        machine.touch_and_run(rank, 3, Read);
        machine.touch_and_run(rank, 3, Write);
    }
    machine.log.clear();
    let now = machine.now;
    machine.nodes[0].handle_message(now, Rank(1), &ahead(3, 1)).expect("a guess");
    machine.apply(0);
    assert_eq!(machine.took(0), [send(1, Message::Refuse { run: run(3, 1) }, Body::None)]);
}

#[test]
fn an_upgrade_that_comes_too_late_gets_the_new_bytes() {
    let mut machine = machine(3);
    machine.touch_and_run(0, 3, Write);
    machine.touch_and_run(1, 3, Read);
    machine.touch_and_run(2, 3, Read);
    machine.touch(1, 3, Write);
    machine.touch(2, 3, Write);
    machine.deliver(2, 0);
    machine.deliver(1, 0);
    machine.log.clear();
    machine.deliver_all();
    let grants: Vec<_> = machine.took(0).into_iter().filter(|action| format!("{action:?}").contains("Grant")).collect();
    assert_eq!(
        grants,
        [
            send(2, grant(3, Write, &[(2, Content::Current)]), Body::None),
            send(1, grant(3, Write, &[(3, Content::Data)]), Body::Received { at: 0 }),
        ],
        "in the order in which they asked"
    );
}

#[test]
fn a_home_that_wants_to_write_takes_the_copies_of_others_and_keeps_its_own_bytes() {
    let mut machine = machine(2);
    machine.touch_and_run(1, 3, Write);
    machine.touch_and_run(0, 3, Read);
    machine.log.clear();
    machine.touch_and_run(0, 3, Write);
    assert_eq!(machine.took(0), [send(1, invalidate(3), Body::None), Action::Allow { run: run(3, 1) }]);
    assert_eq!(machine.nodes[0].holders(Page(3)), Some(RankSet::one(Rank(0))));
}

#[test]
fn a_page_is_kept_for_its_hold_time_and_goes_when_that_is_over() {
    let mut machine = Machine::new(2, 8, |config| config.hold = Tick(50));
    machine.touch(1, 3, Write);
    machine.deliver_all();
    let came = machine.now;
    machine.pass(10);
    machine.touch(0, 3, Write);
    machine.deliver_all();
    assert_eq!(machine.nodes[1].poll_timeout(), Some(Tick(came.0 + 50)));
    machine.pass(39);
    machine.deliver_all();
    assert_eq!(machine.nodes[1].access(Page(3)), Some(Write), "one microsecond is left");
    machine.pass(1);
    machine.deliver_all();
    assert_eq!((machine.nodes[1].access(Page(3)), machine.nodes[0].access(Page(3))), (None, Some(Write)));
    assert_eq!(machine.nodes[1].stats().hold_waits, 1);
}

#[test]
fn a_home_holds_its_own_pages_as_long_while_others_are_invalidated() {
    let mut machine = Machine::new(3, 8, |config| config.hold = Tick(50));
    machine.touch_and_run(0, 3, Write);
    machine.touch_and_run(1, 3, Read);
    machine.pass(100);
    machine.touch_and_run(0, 3, Write);
    machine.pass(100);
    machine.touch_and_run(1, 3, Read);
    machine.pass(50);
    machine.touch(2, 3, Write);
    machine.deliver_all();
    assert_eq!(machine.nodes[2].access(Page(3)), Some(Write), "all hold times are over");
    machine.touch(0, 3, Read);
    machine.pass(50);
    machine.deliver_all();
    let came = machine.now;
    machine.touch(1, 3, Write);
    machine.deliver_all();
    assert_eq!(machine.nodes[2].access(Page(3)), None, "it has been invalidated at once");
    assert_eq!(machine.nodes[0].access(Page(3)), Some(Read));
    assert_eq!(machine.nodes[0].poll_timeout(), Some(Tick(came.0 + 50)));
    machine.pass(50);
    machine.deliver_all();
    assert_eq!((machine.nodes[0].access(Page(3)), machine.nodes[1].access(Page(3))), (None, Some(Write)));
}

#[test]
fn pages_that_nobody_waited_for_are_not_held() {
    let mut machine = Machine::new(2, 8, |config| (config.hold, config.first_touch) = (Tick(50), 8));
    machine.touch(0, 3, Write);
    machine.touch(1, 4, Write);
    machine.deliver_all();
    assert_eq!(machine.nodes[1].access(Page(4)), Some(Write), "a neighbour of the page that was touched");
    machine.touch(1, 3, Write);
    machine.deliver_all();
    assert_eq!(machine.nodes[1].access(Page(3)), None, "the page that was touched");
}

#[test]
fn faults_on_a_page_that_is_asked_for_join_and_late_ones_are_woken() {
    let mut machine = machine(2);
    machine.touch(1, 3, Read);
    machine.touch(1, 3, Write);
    assert_eq!(machine.took(1), [send(0, acquire(3, 1, Read), Body::None)]);
    machine.run();
    assert!(!machine.has_waiters());
    machine.log.clear();
    let now = machine.now;
    machine.nodes[1].handle_fault(now, Page(3), Read);
    machine.apply(1);
    assert_eq!(machine.took(1), [Action::Wake { run: run(3, 1) }]);
    let stats = machine.nodes[1].stats();
    assert_eq!((stats.read_faults, stats.joined_faults, stats.late_faults), (1, 1, 1));
}

#[test]
fn requests_wait_in_order_behind_the_one_under_way() {
    let mut machine = machine(4);
    machine.touch_and_run(1, 3, Write);
    machine.touch(0, 3, Read);
    machine.touch(2, 3, Read);
    machine.touch(3, 3, Write);
    machine.deliver(2, 0);
    machine.deliver(3, 0);
    assert_eq!(machine.nodes[0].stats().queued, 2, "its own request is under way");
    machine.log.clear();
    machine.deliver_all();
    let sent: Vec<_> = machine.took(0).into_iter().filter(|action| matches!(action, Action::Send { .. })).collect();
    assert_eq!(
        sent,
        [
            send(1, invalidate(3), Body::None),
            send(2, grant(3, Read, &[(1, Content::Data)]), Body::Own),
            send(2, invalidate(3), Body::None),
            send(3, grant(3, Write, &[(2, Content::Data)]), Body::Own),
        ]
    );
    machine.run();
    assert!(!machine.has_waiters());
}

#[test]
fn adjacent_pages_of_one_request_are_granted_in_one_message() {
    let mut machine = machine(2);
    (0..4).for_each(|page| machine.touch_and_run(0, page, Write));
    machine.touch_and_run(1, 1, Read);
    machine.log.clear();
    machine.hold(1, 7, &[(run(0, 6), Write)]);
    machine.deliver_all();
    let log = machine.log.clone();
    let granted = [2, 3, 2, 2, 1, 1].map(|version| (version, Content::Data));
    let mut granted = granted.to_vec();
    granted[1].1 = Content::Current;
    granted[4].1 = Content::Zero;
    granted[5].1 = Content::Zero;
    granted[1].0 = 2;
    assert_eq!(
        machine.took(0),
        [
            Action::Detach { run: run(0, 1) },
            Action::Unmap { run: run(1, 1) },
            Action::Detach { run: run(2, 2) },
            send(1, grant(0, Write, &granted), Body::Own),
            Action::Unmap { run: run(0, 1) },
            Action::Unmap { run: run(2, 2) },
        ]
    );
    machine.log = log;
    assert_eq!(machine.took(1).last(), Some(&Action::HoldReady { id: crate::node::HoldId(7) }));
}

#[test]
fn nodes_that_will_do_the_same_are_equal_whatever_they_have_counted() {
    let hash = |node: &Node| {
        let mut hasher = DefaultHasher::new();
        node.hash(&mut hasher);
        hasher.finish()
    };
    let mut machine = machine(2);
    machine.touch_and_run(1, 3, Write);
    let before = machine.nodes[1].clone();
    let now = machine.now;
    machine.nodes[1].handle_fault(now, Page(3), Read);
    machine.apply(1);
    assert_ne!(machine.nodes[1].stats(), before.stats());
    assert!(machine.nodes[1] == before && hash(&machine.nodes[1]) == hash(&before));
    machine.touch(1, 4, Read);
    assert!(machine.nodes[1] != before && hash(&machine.nodes[1]) != hash(&before));
}
