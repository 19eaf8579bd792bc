//! Reading in windows, action by action. Rank 0 has pages 0 to 7, rank 1 pages 8 to 15, and so on; slots are four.

use super::machine::Machine;
use super::machine::short::*;
use crate::id::{Access, Page, Rank, RankSet, Tick, Version};
use crate::message::{Content, Message};
use crate::node::{Action, Body, Source, WindowConfig};
use Access::{Read, Write};

fn machine(ranks: u16, readers: u16) -> Machine {
    let window = Some(WindowConfig { slots: 4, readers, near: 1, wait: 0 });
    Machine::new(ranks, 8, |config| config.window = window)
}

fn shows(page: u32, version: u64) -> Action {
    Action::Show { page: Page(page), version: Version(version) }
}

/// Rank 0 has written page 3, and rank 1 reads it: it is shown, with a first look in vain.
fn shown() -> Machine {
    let mut machine = machine(4, 1);
    machine.touch_and_run(0, 3, Write);
    machine.log.clear();
    machine.touch_and_run(1, 3, Read);
    machine
}

#[test]
fn a_page_that_is_granted_to_be_read_is_shown_and_the_next_reader_asks_nobody() {
    let mut machine = shown();
    let log = machine.log.clone();
    let granted = send(1, grant(3, Read, &[(1, Content::Data)]), Body::Own);
    assert_eq!(machine.took(0), [Action::Protect { run: run(3, 1) }, granted, shows(3, 1)]);
    machine.log = log;
    let looks = Action::GuardedRead { home: Rank(0), page: Page(3) };
    assert_eq!(machine.took(1)[..2], [looks.clone(), send(0, acquire(3, 1, Read), Body::None)]);
    machine.touch_and_run(2, 3, Read);
    assert_eq!(machine.took(2), [looks, map(3, 1, Read, Source::Received { at: 0 })]);
    assert_eq!(machine.took(0), [], "the home has no part in it");
    let known = RankSet::one(Rank(0));
    assert!(machine.nodes[0].holders(Page(3)).is_some_and(|holders| holders != known && !holders.contains(Rank(2))));
    let stats = machine.nodes[2].stats();
    assert_eq!((stats.guarded_reads, stats.guarded_hits, stats.guarded_misses), (1, 1, 0));
}

#[test]
fn who_has_read_in_the_window_is_found_when_the_page_is_written() {
    let mut machine = shown();
    machine.touch_and_run(2, 3, Read);
    machine.log.clear();
    machine.touch(0, 3, Write);
    let invalidate = |to| send(to, Message::Invalidate { page: Page(3) }, Body::None);
    assert_eq!(machine.took(0), [Action::Hide { page: Page(3) }, invalidate(1), invalidate(2)]);
    machine.run();
    assert_eq!(machine.nodes[2].access(Page(3)), None);
}

#[test]
fn a_reader_in_the_window_upgrades_like_any_other() {
    let mut machine = shown();
    machine.touch_and_run(2, 3, Read);
    machine.log.clear();
    machine.touch_and_run(2, 3, Write);
    let log = machine.log.clone();
    let granted = send(2, grant(3, Write, &[(2, Content::Current)]), Body::None);
    assert!(machine.took(0).contains(&granted), "its copy is current");
    machine.log = log;
    assert!(machine.took(2).contains(&Action::Allow { run: run(3, 1) }));
}

#[test]
fn a_page_that_was_invalidated_while_it_was_read_is_asked_for_by_message() {
    let mut machine = shown();
    machine.touch(2, 3, Read);
    // Mark, word, bytes: only the reader has not been told.
    (0..3).for_each(|_| assert!(machine.read_on(0)));
    machine.touch(0, 3, Write);
    machine.deliver_all();
    assert_eq!(machine.nodes[0].access(Page(3)), Some(Write), "the reader has said that it has nothing");
    machine.took(2);
    assert!(machine.read_on(0));
    assert_eq!(machine.took(2), [send(0, acquire(3, 1, Read), Body::None)]);
    machine.run();
    assert!(!machine.has_waiters());
}

#[test]
fn a_page_takes_the_slot_of_another_once_its_readers_are_known() {
    let mut machine = shown();
    machine.touch_and_run(2, 3, Read);
    machine.touch_and_run(0, 7, Write);
    machine.log.clear();
    machine.touch_and_run(1, 7, Read);
    let hidden = machine.took(0).into_iter().filter(|action| !matches!(action, Action::Send { .. }));
    let expected = [Action::Protect { run: run(7, 1) }, Action::Hide { page: Page(3) }, shows(7, 1)];
    assert_eq!(hidden.collect::<Vec<_>>(), expected);
    assert!(machine.nodes[0].holders(Page(3)).is_some_and(|holders| holders.contains(Rank(2))));
}

#[test]
fn a_page_with_one_reader_is_not_shown_until_it_asks_again() {
    let mut machine = machine(3, 2);
    machine.touch_and_run(0, 3, Write);
    machine.touch_and_run(1, 3, Read);
    assert_eq!(machine.nodes[0].stats().shown, 0);
    machine.nodes[1].drop_copy(Page(3));
    machine.apply(1);
    machine.touch_and_run(1, 3, Read);
    assert_eq!(machine.nodes[0].stats().shown, 1);
}

fn near_machine(ranks: u16, near: u16) -> Machine {
    let window = Some(WindowConfig { slots: 4, readers: 2, near, wait: 0 });
    let mut machine = Machine::new(ranks, 8, |config| config.window = window);
    (0..4).for_each(|page| machine.touch_and_run(0, page, Write));
    machine.log.clear();
    machine
}

#[test]
fn pages_near_one_that_is_read_are_shown_after_it_was_granted_and_read_by_nobodys_leave() {
    let mut machine = near_machine(2, 4);
    machine.touch_and_run(1, 1, Read);
    let protects = |first, count| Action::Protect { run: run(first, count) };
    let granted = send(1, grant(1, Read, &[(1, Content::Data)]), Body::Own);
    let asked = [protects(1, 1), granted];
    let guessed = [protects(0, 1), protects(2, 2), shows(0, 1), shows(2, 1), shows(3, 1)];
    assert_eq!(machine.took(0), [&asked[..], &guessed].concat());
    machine.touch_and_run(1, 2, Read);
    assert_eq!(machine.took(0), [], "the home has no part in it");
    assert_eq!(machine.nodes[1].stats().guarded_hits, 1);
    // A reader that nobody asked is found all the same.
    machine.touch_and_run(0, 2, Write);
    assert_eq!((machine.nodes[1].access(Page(2)), machine.nodes[0].access(Page(2))), (None, Some(Write)));
    let invalidate = send(1, Message::Invalidate { page: Page(2) }, Body::None);
    assert_eq!(machine.took(0), [Action::Hide { page: Page(2) }, invalidate, Action::Allow { run: run(2, 1) }]);
}

#[test]
fn a_near_page_that_its_home_writes_again_costs_it_no_message_and_is_not_guessed_again() {
    let mut machine = near_machine(2, 4);
    machine.touch_and_run(1, 1, Read);
    machine.log.clear();
    machine.touch_and_run(0, 3, Write);
    assert_eq!(machine.took(0), [Action::Hide { page: Page(3) }, Action::Allow { run: run(3, 1) }]);
    machine.touch_and_run(0, 1, Write);
    machine.touch_and_run(1, 1, Read);
    assert!(machine.took(0).iter().all(|action| !matches!(action, Action::Show { page: Page(3), .. })));
}

#[test]
fn what_is_near_neither_drives_others_out_nor_goes_while_it_is_needed() {
    let mut machine = near_machine(2, 8);
    machine.touch_and_run(0, 6, Write);
    machine.touch_and_run(1, 1, Read);
    let shown = |machine: &Machine, page| machine.nodes[0].directory(Page(page)).is_some_and(|known| known.is_shown);
    assert_eq!([0, 2, 3, 6].map(|page| shown(&machine, page)), [true, true, true, false], "page 2 is in that slot");
    let mut held = near_machine(2, 4);
    held.hold(0, 1, &[(run(2, 1), Read)]);
    held.touch_and_run(1, 1, Read);
    assert_eq!([0, 2, 3].map(|page| shown(&held, page)), [true, false, true]);
}

#[test]
fn who_has_written_a_page_is_no_reader_of_it() {
    let mut machine = machine(3, 2);
    machine.touch_and_run(1, 3, Write);
    machine.touch_and_run(2, 3, Read);
    assert_eq!(machine.nodes[0].stats().shown, 0);
    machine.nodes[2].drop_copy(Page(3));
    machine.apply(2);
    machine.touch_and_run(2, 3, Read);
    assert_eq!(machine.nodes[0].stats().shown, 1, "it asks again");
}

#[test]
fn a_read_that_could_not_be_begun_is_no_look_in_vain() {
    let mut machine = machine(2, 1);
    machine.nodes[1].config.window = Some(WindowConfig { slots: 4, readers: 1, near: 1, wait: 3 });
    let node = &mut machine.nodes[1];
    // The first miss of a block goes by message.
    for page in [0, 1] {
        node.handle_fault(Tick(1), Page(page), Read);
    }
    let actions: Vec<_> = std::iter::from_fn(|| node.poll_action()).collect();
    assert!(actions.contains(&Action::GuardedRead { home: Rank(0), page: Page(1) }), "{actions:?}");
    node.handle_guarded_read(Tick(1), Page(1), None);
    assert_eq!(node.poll_action(), Some(send(0, acquire(1, 1, Read), Body::None)));
    assert_eq!((node.stats().guarded_reads, node.stats().guarded_misses), (0, 0));
    node.handle_fault(Tick(1), Page(2), Read);
    assert_eq!(node.poll_action(), Some(Action::GuardedRead { home: Rank(0), page: Page(2) }), "it looks again");
}
