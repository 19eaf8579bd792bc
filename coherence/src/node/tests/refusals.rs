//! Messages that no correct rank sends: each is refused, and nothing has changed then.

use super::machine::Machine;
use super::machine::short::*;
use super::random::{random_machine, random_message};
use crate::id::{Access, MAX_RUN, Page, Rank, Version};
use crate::message::{Content, Keep, Message, Urgency};
use crate::node::Body;
use Access::{Read, Write};

/// Rank 0 is the home of 16 pages: 0 untouched, 1 its own, 2 shared with rank 1, 3 owned by rank 1, 4 on its way from rank 1 to rank
/// 2, 5 being taken from rank 1 for rank 2. Rank 1 waits for pages 6 (to read), 7 (to write) and 2 (to write).
fn machine() -> Machine {
    let mut machine = Machine::new(3, 16, |_| {});
    for page in [1, 2, 5] {
        machine.touch_and_run(0, page, Write);
    }
    machine.touch_and_run(1, 2, Read);
    machine.touch_and_run(1, 5, Read);
    machine.touch_and_run(1, 3, Write);
    machine.touch_and_run(1, 4, Write);
    machine.touch(2, 4, Write);
    machine.touch(2, 5, Write);
    (0..2).for_each(|_| assert!(machine.deliver(2, 0)));
    machine.touch(1, 6, Read);
    machine.touch(1, 7, Write);
    machine
}

fn refused(machine: &Machine, to: usize, from: u16, messages: &[Message]) {
    for message in messages {
        let mut node = machine.nodes[to].clone();
        let error = node.handle_message(machine.now, Rank(from), message).expect_err(&format!("{message:?}"));
        assert_eq!(error.from, Rank(from));
        assert!(node == machine.nodes[to] && node.poll_action().is_none(), "{message:?} changed something");
    }
}

fn acquire_having(first: u32, count: u16, access: Access, urgency: Urgency, have: &[u64]) -> Message {
    Message::Acquire { run: run(first, count), access, urgency, have: have.iter().copied().map(Version).collect() }
}

#[test]
fn strangers_are_refused() {
    let machine = machine();
    for from in [0, 3, u16::MAX] {
        refused(&machine, 0, from, &[acquire(1, 1, Read), Message::InvalidateAck { page: Page(5) }]);
    }
}

#[test]
fn requests_that_cannot_be_are_refused() {
    let machine = machine();
    refused(
        &machine,
        0,
        1,
        &[
            acquire(0, 0, Read),
            acquire(0, MAX_RUN + 1, Read),
            acquire(15, 2, Read),
            acquire(16, 1, Read),
            acquire(47, 2, Read),
            acquire(48, 1, Read),
            acquire(u32::MAX, 1, Read),
            acquire(0, 4, Read),
            acquire(3, 1, Write),
            acquire(4, 1, Read),
            acquire_having(0, 2, Read, Urgency::Demand, &[0]),
            acquire_having(0, 2, Read, Urgency::Demand, &[0, 0, 0]),
            acquire_having(0, 1, Write, Urgency::Ahead, &[]),
            acquire_having(2, 1, Write, Urgency::Demand, &[2]),
            acquire_having(2, 1, Write, Urgency::Demand, &[u64::MAX]),
        ],
    );
    refused(&machine, 0, 2, &[acquire(4, 1, Read), acquire(1, 5, Write), acquire(5, 1, Read)]);
}

#[test]
fn a_rank_asks_once_for_a_page_even_behind_others() {
    let mut machine = machine();
    machine.touch(1, 5, Write);
    while machine.deliver(1, 0) {}
    refused(&machine, 0, 1, &[acquire(5, 1, Read), ahead(5, 1)]);
}

#[test]
fn a_rank_that_claims_a_copy_it_was_never_given_gets_the_bytes() {
    let mut machine = machine();
    let claim = acquire_having(2, 1, Write, Urgency::Demand, &[1]);
    let ack = Message::InvalidateAck { page: Page(2) };
    let now = machine.now;
    let home = &mut machine.nodes[0];
    home.handle_message(now, Rank(2), &claim).expect("a request");
    home.handle_message(now, Rank(1), &ack).expect("an answer");
    let actions: Vec<_> = std::iter::from_fn(|| home.poll_action()).collect();
    assert!(actions.contains(&send(2, grant(2, Write, &[(2, Content::Data)]), Body::Own)), "{actions:?}");
}

#[test]
fn answers_that_nobody_asked_for_are_refused_by_the_home() {
    let machine = machine();
    let acks =
        |pages: &[u32]| pages.iter().map(|page| Message::InvalidateAck { page: Page(*page) }).collect::<Vec<_>>();
    refused(&machine, 0, 1, &acks(&[0, 1, 2, 3, 4, 16, 48, u32::MAX]));
    refused(&machine, 0, 2, &acks(&[5]));
    let backs = |pages: &[u32]| pages.iter().map(|page| write_back(*page, 1, Keep::Nothing)).collect::<Vec<_>>();
    refused(&machine, 0, 1, &backs(&[0, 1, 2, 5, 16, 48]));
    refused(&machine, 0, 2, &backs(&[3, 4, 5]));
    let current =
        Message::WriteBack { page: Page(3), version: Version(1), keep: Keep::Nothing, content: Content::Current };
    let wrong = [
        write_back(3, 2, Keep::Nothing),
        write_back(3, 0, Keep::Nothing),
        write_back(3, 1, Keep::Shared),
        write_back(4, 1, Keep::Shared),
        current,
    ];
    refused(&machine, 0, 1, &wrong);
}

#[test]
fn what_only_homes_say_is_refused_from_others() {
    let machine = machine();
    let said = [
        grant(6, Read, &[(1, Content::Data)]),
        Message::Refuse { run: run(6, 1) },
        Message::Invalidate { page: Page(2) },
        recall(3, Keep::Nothing),
    ];
    refused(&machine, 1, 2, &said);
    refused(&machine, 0, 1, &said);
}

#[test]
fn grants_that_cannot_be_are_refused() {
    let mut machine = machine();
    machine.touch(1, 2, Write);
    let data = (2, Content::Data);
    refused(
        &machine,
        1,
        0,
        &[
            grant(6, Read, &[]),
            grant(6, Read, &[data; 257]),
            grant(15, Read, &[data; 2]),
            grant(47, Read, &[data]),
            grant(48, Read, &[data]),
            grant(0, Read, &[data]),
            grant(3, Write, &[data]),
            grant(5, Write, &[data]),
            grant(6, Read, &[data; 2]),
            grant(6, Write, &[data; 3]),
            grant(6, Read, &[(0, Content::Data)]),
            grant(6, Read, &[(2, Content::Current)]),
            grant(7, Read, &[data]),
            grant(7, Write, &[(2, Content::Current)]),
            grant(2, Read, &[(2, Content::Current)]),
            grant(2, Write, &[data]),
            grant(2, Write, &[(2, Content::Zero)]),
            grant(2, Write, &[(1, Content::Current)]),
            grant(2, Write, &[(3, Content::Current)]),
        ],
    );
}

#[test]
fn a_grant_does_not_overtake_the_answer_to_an_invalidation() {
    let mut machine = machine();
    machine.nodes[1].hold = 1000;
    machine.touch(1, 2, Write);
    let (now, invalidate) = (machine.now, Message::Invalidate { page: Page(2) });
    machine.nodes[1].handle_message(now, Rank(0), &invalidate).expect("an invalidation");
    machine.apply(1);
    refused(&machine, 1, 0, &[grant(2, Write, &[(2, Content::Current)]), grant(2, Write, &[(2, Content::Data)])]);
}

#[test]
fn refusals_invalidations_and_recalls_that_cannot_be_are_refused() {
    let mut machine = machine();
    machine.nodes[1].hold = 1000;
    let now = machine.now;
    let pages = [0, 2, 3, 6, 7, 16, 48];
    let refusals: Vec<Message> = pages.iter().map(|page| Message::Refuse { run: run(*page, 1) }).collect();
    refused(&machine, 1, 0, &refusals);
    let impossible = [
        Message::Invalidate { page: Page(3) },
        Message::Invalidate { page: Page(16) },
        Message::Invalidate { page: Page(48) },
        recall(2, Keep::Nothing),
        recall(5, Keep::Shared),
        recall(48, Keep::Shared),
    ];
    refused(&machine, 1, 0, &impossible);
    // Once each, while they wait for the hold time.
    machine.touch(1, 2, Write);
    for message in [Message::Invalidate { page: Page(2) }, recall(3, Keep::Shared)] {
        machine.nodes[1].handle_message(now, Rank(0), &message).expect("the first");
        machine.apply(1);
        refused(&machine, 1, 0, &[message]);
    }
    refused(&machine, 1, 0, &[recall(2, Keep::Shared), recall(3, Keep::Nothing)]);
}

#[test]
fn any_message_in_any_state_is_handled_or_refused_without_a_trace() {
    let mut accepted = 0;
    for seed in 1..=40 {
        let (mut random, mut machine) = random_machine(seed);
        let mut holds = 0;
        for _ in 0..200 {
            super::random::step(&mut machine, &mut random, &mut holds);
            let to = random.rank(3);
            let (from, message) = (Rank(random.rank(4)), random_message(&mut random));
            let before = &machine.nodes[usize::from(to)];
            let mut node = before.clone();
            match node.handle_message(machine.now, from, &message) {
                Ok(()) => accepted += 1,
                Err(_) => assert!(node == *before && node.poll_action().is_none(), "{message:?}"),
            }
        }
    }
    assert!(accepted > 100, "only {accepted} were possible");
}

#[test]
fn a_rank_that_lies_all_the_time_breaks_nothing_here() {
    for seed in 1..=40 {
        let (mut random, mut machine) = random_machine(seed);
        let now = &mut machine.now;
        let node = &mut machine.nodes[0];
        for _ in 0..1000 {
            now.0 += random.below(10);
            match random.below(8) {
                0 => node.handle_fault(*now, Page(u32::try_from(random.below(14)).expect("a page")), random.access()),
                1 => node.handle_timeout(*now),
                _ => drop(node.handle_message(*now, Rank(random.rank(3)), &random_message(&mut random))),
            }
            while node.poll_action().is_some() {}
        }
    }
}
