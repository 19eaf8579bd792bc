//! Devices that need pages all at once.

use super::machine::Machine;
use super::machine::short::*;
use crate::id::{Access, MAX_RUN, Page, Run, Tick};
use crate::message::Message;
use crate::node::{Action, Body, HoldError, HoldId, MAX_HOLD_PAGES, MAX_HOLDS};
use Access::{Read, Write};

fn is_ready(machine: &Machine, rank: u16, id: u64) -> bool {
    machine.holds[usize::from(rank)][&HoldId(id)].1
}

#[test]
fn a_long_hold_asks_in_few_messages_and_gets_few() {
    let pages = 2 * u32::from(MAX_RUN) + 44;
    let mut machine = Machine::new(2, 1024, |_| {});
    let count = u16::try_from(pages).expect("a run");
    machine.hold(1, 1, &[(run(10, count), Write)]);
    let asked = [(10, MAX_RUN), (266, MAX_RUN), (522, 44)];
    let asked = asked.map(|(first, count)| send(0, acquire(first, count, Write), Body::None));
    assert_eq!(machine.took(1), asked);
    machine.deliver_all();
    assert!(is_ready(&machine, 1, 1));
    assert_eq!(machine.took(0).len(), 3, "three grants");
}

#[test]
fn a_held_page_is_given_up_when_it_is_released_and_not_before() {
    let mut machine = Machine::new(2, 8, |_| {});
    machine.hold(0, 1, &[(run(0, 2), Write)]);
    machine.hold(1, 2, &[(run(8, 2), Read)]);
    machine.touch(1, 0, Read);
    machine.touch(0, 8, Write);
    machine.hold(0, 3, &[(run(9, 1), Write)]);
    machine.run();
    assert!(machine.has_waiters() && !is_ready(&machine, 0, 3));
    assert_eq!(machine.nodes[0].stats().device_waits, 1);
    assert_eq!(machine.nodes[1].stats().device_waits, 2);
    machine.release(1, 2);
    machine.release(0, 1);
    machine.run();
    assert!(!machine.has_waiters() && is_ready(&machine, 0, 3));
}

#[test]
fn pages_are_pinned_in_rising_order_so_that_two_ranks_do_not_wait_for_each_other() {
    let mut machine = Machine::new(2, 8, |_| {});
    let both = [(run(0, 1), Write), (run(8, 1), Write)];
    machine.touch_and_run(0, 0, Write);
    machine.touch_and_run(1, 8, Write);
    machine.touch_and_run(0, 8, Write);
    machine.touch_and_run(1, 0, Write);
    // Each has the other's page: rank 1 pins page 0 and wants page 8, rank 0 has page 8 and may not pin it yet.
    machine.hold(0, 1, &both);
    machine.hold(1, 2, &both);
    machine.run();
    assert!(is_ready(&machine, 1, 2) && !is_ready(&machine, 0, 1));
    machine.release(1, 2);
    machine.run();
    assert!(is_ready(&machine, 0, 1));
}

#[test]
fn a_page_that_is_about_to_go_is_not_pinned_again() {
    let mut machine = Machine::new(2, 8, |config| config.hold = Tick(10));
    machine.hold(1, 1, &[(run(0, 1), Write)]);
    machine.run();
    machine.touch(0, 0, Write);
    machine.run();
    machine.hold(1, 2, &[(run(0, 1), Read)]);
    assert!(!is_ready(&machine, 1, 2));
    machine.release(1, 1);
    machine.run();
    assert!(!machine.has_waiters(), "the processor of rank 0 had its turn");
    assert!(is_ready(&machine, 1, 2));
}

#[test]
fn devices_of_one_rank_share_pages() {
    let mut machine = Machine::new(2, 8, |_| {});
    machine.hold(1, 1, &[(run(0, 4), Write)]);
    machine.run();
    machine.hold(1, 2, &[(run(2, 2), Read), (run(0, 3), Write)]);
    assert!(is_ready(&machine, 1, 2));
    machine.touch(0, 2, Write);
    machine.run();
    machine.release(1, 1);
    machine.run();
    assert!(machine.has_waiters(), "one of them has it still");
    machine.release(1, 2);
    machine.run();
    assert!(!machine.has_waiters());
}

#[test]
fn a_hold_given_up_lets_go_of_what_it_has_pinned() {
    let mut machine = Machine::new(3, 8, |_| {});
    machine.hold(2, 1, &[(run(1, 1), Write)]);
    machine.run();
    machine.hold(1, 2, &[(run(0, 2), Write)]);
    machine.touch(0, 0, Write);
    machine.run();
    assert!(!is_ready(&machine, 1, 2) && machine.has_waiters());
    machine.release(1, 2);
    machine.run();
    assert!(!machine.has_waiters());
    assert_eq!(machine.nodes[1].access(Page(1)), None, "rank 2 still holds it");
}

#[test]
fn no_pages_are_ready_at_once() {
    let mut machine = Machine::new(1, 8, |_| {});
    machine.hold(0, 1, &[(run(3, 0), Read)]);
    assert_eq!(machine.took(0), [Action::HoldReady { id: HoldId(1) }]);
}

#[test]
fn holds_have_limits() {
    let pages = MAX_HOLD_PAGES + 8;
    let mut machine = Machine::new(1, pages, |config| config.first_touch = MAX_RUN);
    let now = machine.now;
    let node = &mut machine.nodes[0];
    let before = node.clone();
    let end = Run { first: Page(pages - 1), count: 1 };
    let long = [(run(0, 32768), Read), (run(32768, 32767), Read), (run(65535, 1), Read)];
    assert_eq!(node.handle_hold(now, HoldId(1), &[(run(pages - 1, 2), Read)]), Err(HoldError::NotRam(pages)));
    assert_eq!(node.handle_hold(now, HoldId(1), &[(run(u32::MAX, 2), Read)]), Err(HoldError::NotRam(u32::MAX)));
    let too_long = [&long[..], &[(end, Read)]].concat();
    assert_eq!(node.handle_hold(now, HoldId(1), &too_long), Err(HoldError::TooLong(MAX_HOLD_PAGES + 1)));
    assert_eq!(*node, before);
    assert_eq!(node.handle_hold(now, HoldId(1), &long), Ok(()));
    assert_eq!(node.handle_hold(now, HoldId(1), &[(end, Read)]), Err(HoldError::InUse(1)));
    let many = u64::try_from(MAX_HOLDS).expect("a number");
    (2..=many).for_each(|id| node.handle_hold(now, HoldId(id), &[(end, Write)]).expect("a hold"));
    assert_eq!(node.handle_hold(now, HoldId(many + 1), &[(end, Write)]), Err(HoldError::TooMany));
    node.handle_release(now, HoldId(many + 1));
    node.handle_release(now, HoldId(many));
    assert_eq!(node.handle_hold(now, HoldId(many + 1), &[(end, Write)]), Ok(()));
}

#[test]
fn a_guess_that_a_device_needs_is_asked_for_again_when_it_is_refused() {
    let mut machine = Machine::new(3, 8, |config| config.read_ahead = 4);
    machine.touch_and_run(2, 2, Write);
    (0..2).for_each(|page| machine.touch_and_run(0, page, Write));
    machine.touch_and_run(1, 0, Read);
    machine.touch(1, 1, Read);
    machine.log.clear();
    machine.hold(1, 1, &[(run(2, 1), Read)]);
    assert_eq!(machine.took(1), [], "it is on its way, perhaps");
    machine.run();
    let asked = send(0, acquire(2, 1, Read), Body::None);
    assert!(is_ready(&machine, 1, 1));
    assert!(machine.log.iter().any(|(_, action)| *action == asked));
    let refused = send(1, Message::Refuse { run: run(2, 1) }, Body::None);
    assert!(machine.log.iter().any(|(_, action)| *action == refused));
}
