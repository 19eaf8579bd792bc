//! Homes that move, step by step.

use super::machine::Machine;
use super::machine::short::*;
use crate::home::HomeMap;
use crate::id::{Access, Page, Rank, RankSet, Tick, Version};
use crate::message::{Content, Handed, HandedState, Message, Waiting};
use crate::node::{Action, Body, HandOverError, HomesError, Leave, MAX_HAND_OVER_PAGES, MAX_HAND_OVERS, Source};
use Access::{Read, Write};

fn freeze(first: u32, count: u16, to: u16, ranks: u16) -> Message {
    Message::Freeze { run: run(first, count), to: Rank(to), members: RankSet::below(ranks) }
}

fn frozen(first: u32, count: u16) -> Message {
    Message::Frozen { run: run(first, count) }
}

fn moved(first: u32, count: u16) -> Message {
    Message::Moved { run: run(first, count) }
}

fn entry(version: u64, state: HandedState, content: Content) -> Handed {
    Handed { version: Version(version), state, content }
}

fn entries(first: u32, pages: &[Handed]) -> Message {
    Message::Entries { first: Page(first), gone: RankSet::EMPTY, pages: pages.to_vec() }
}

/// Rank 0 hands its two pages to rank 1: the first is its own, the second is shared with rank 1.
#[test]
fn a_page_moves_in_four_steps_with_its_bytes() {
    let mut machine = Machine::new(3, 2, |_| {});
    machine.touch_and_run(0, 0, Write);
    machine.touch_and_run(0, 1, Write);
    machine.touch_and_run(1, 1, Read);
    machine.log.clear();
    machine.hand_over(run(0, 2), 1);
    let asked = [1, 2].map(|to| send(to, freeze(0, 2, 1, 3), Body::None));
    assert_eq!(machine.took(0), asked);
    assert!(machine.deliver(0, 1) && machine.deliver(0, 2));
    let told = [1, 2].map(|from| (Rank(from), send(0, frozen(0, 2), Body::None)));
    assert_eq!(std::mem::take(&mut machine.log), told);
    assert!(machine.deliver(1, 0));
    assert_eq!(machine.took(0), [], "rank 2 has not frozen them");
    assert!(machine.deliver(2, 0));
    let shared = entry(1, HandedState::Shared(RankSet::EMPTY), Content::Data);
    let handed = entries(0, &[entry(1, HandedState::Owned(Rank(1)), Content::Data), shared]);
    let left = [Action::Detach { run: run(0, 1) }, send(1, handed, Body::Own), Action::Unmap { run: run(0, 2) }];
    assert_eq!(machine.took(0), left);
    assert!(machine.deliver(0, 1));
    let tell = [0, 2].map(|to| send(to, moved(0, 2), Body::None));
    let come = [&[map(0, 1, Write, Source::Received { at: 0 })][..], &tell].concat();
    assert_eq!(machine.took(1), come, "it has the second already");
    assert!(machine.deliver(1, 0));
    assert_eq!(machine.took(0), [Action::HandedOver { run: run(0, 2), to: Rank(1) }]);
    machine.run();
    machine.touch_and_run(2, 0, Write);
    machine.touch_and_run(0, 1, Write);
    assert_eq!(machine.nodes[1].stats().homes_taken, 2);
}

/// What is asked for while a page moves is answered by the new home, in order.
#[test]
fn requests_wait_and_move_with_their_page() {
    let mut machine = Machine::new(3, 1, |_| {});
    machine.touch_and_run(0, 0, Write);
    // On its way while the page is being frozen.
    machine.touch(2, 0, Write);
    machine.hand_over(run(0, 1), 1);
    assert!(machine.deliver(2, 0) && machine.deliver(0, 1) && machine.deliver(0, 2));
    // After the page was frozen: at the new home, and at a rank that knows only the old one.
    machine.touch(1, 0, Write);
    machine.log.clear();
    machine.touch(0, 0, Read);
    assert_eq!(machine.took(0), [], "it has the page still");
    assert!(machine.deliver(1, 0) && machine.deliver(2, 0));
    let waits = Waiting { from: Rank(2), access: Write, have: Version::NONE };
    let requests = Message::Requests { page: Page(0), is_begun: false, requests: vec![waits] };
    assert_eq!(machine.took(0)[0], send(1, requests, Body::None));
    machine.touch(0, 0, Write);
    assert_eq!(machine.took(0), [], "it is a cacher and waits as all do");
    machine.run();
    assert!(!machine.has_waiters());
    assert!(machine.nodes.iter().all(|node| node.home(Page(0)) == Some(Rank(1))));
}

#[test]
fn limits_and_orders_that_cannot_be() {
    let pages = MAX_HAND_OVER_PAGES + 1;
    let mut machine = Machine::new(3, u32::from(pages), |_| {});
    let now = machine.now;
    let members = RankSet::below(3);
    let mut order = |rank: usize, run, to, members| machine.nodes[rank].handle_hand_over(now, run, Rank(to), members);
    assert_eq!(order(1, run(0, 1), 1, members), Err(HandOverError::Coordinator(1)));
    assert_eq!(order(0, run(0, pages), 1, members), Err(HandOverError::Pages { first: 0, count: pages }));
    assert_eq!(order(0, run(0, 0), 1, members), Err(HandOverError::Pages { first: 0, count: 0 }));
    let border = u32::from(pages) - 1;
    assert_eq!(order(0, run(border, 2), 1, members), Err(HandOverError::Pages { first: border, count: 2 }));
    assert_eq!(order(0, run(u32::MAX, 1), 1, members), Err(HandOverError::Pages { first: u32::MAX, count: 1 }));
    assert_eq!(order(0, run(0, 1), 0, members), Err(HandOverError::Same(0)));
    assert_eq!(order(0, run(0, 1), 3, members), Err(HandOverError::Member(3)));
    assert_eq!(order(0, run(0, 1), u16::MAX, members), Err(HandOverError::Member(u16::MAX)));
    assert_eq!(order(0, run(0, 1), 1, RankSet::below(4)), Err(HandOverError::Member(3)));
    assert_eq!(order(0, run(0, 1), 2, RankSet::below(2)), Err(HandOverError::Member(2)));
    assert_eq!(order(0, run(0, pages - 1), 1, members), Ok(()));
    assert_eq!(order(0, run(pages.into(), 1), 2, members), Ok(()), "of another home");
    assert_eq!(order(0, run(border - 1, 1), 2, members), Err(HandOverError::UnderWay(border - 1)));
    let more = (1..).take(MAX_HAND_OVERS - 2);
    for at in more {
        assert_eq!(order(0, run(u32::from(pages) + at, 1), 2, members), Ok(()));
    }
    assert_eq!(order(0, run(border, 1), 2, members), Err(HandOverError::TooMany));
}

#[test]
fn a_rank_that_has_left_is_not_asked() {
    let mut machine = Machine::new(3, 1, |_| {});
    let members = RankSet::below(2);
    machine.nodes[0].handle_hand_over(machine.now, run(0, 1), Rank(1), members).expect("a hand-over");
    let actions: Vec<Action> = std::iter::from_fn(|| machine.nodes[0].poll_action()).collect();
    let message = Message::Freeze { run: run(0, 1), to: Rank(1), members };
    assert_eq!(actions, [send(1, message, Body::None)]);
}

/// Each is refused and changes nothing.
#[test]
fn messages_that_do_not_belong_to_a_hand_over_are_refused() {
    let mut machine = Machine::new(3, 2, |_| {});
    machine.touch_and_run(0, 1, Write);
    machine.touch_and_run(2, 1, Write);
    let owned = |to| entry(1, HandedState::Owned(Rank(to)), Content::Current);
    let untouched = entry(0, HandedState::Untouched, Content::Current);
    let refuse = |machine: &Machine, to: usize, from: u16, message: &Message| {
        let mut node = machine.nodes[to].clone();
        let error = node.handle_message(machine.now, Rank(from), message).expect_err(&format!("{message:?}"));
        assert_eq!(error.from, Rank(from));
        assert!(node == machine.nodes[to] && node.poll_action().is_none(), "{message:?} changed something");
    };
    let order = |first, to, members| Message::HandOver { run: run(first, 1), to: Rank(to), members };
    let all = RankSet::below(3);
    // Before: only rank 0 orders, only homes freeze, nobody has been asked.
    refuse(&machine, 1, 2, &order(2, 0, all));
    for message in [order(2, 1, all), order(2, 0, RankSet::below(1)), order(2, 0, RankSet::below(4)), order(0, 2, all)]
    {
        refuse(&machine, 1, 0, &message);
    }
    refuse(&machine, 1, 2, &freeze(0, 1, 2, 3));
    refuse(&machine, 1, 0, &freeze(0, 1, 0, 3));
    refuse(&machine, 0, 1, &frozen(0, 2));
    refuse(&machine, 1, 0, &entries(0, &[untouched]));
    refuse(&machine, 1, 2, &moved(0, 2));
    machine.hand_over(run(0, 2), 1);
    assert!(machine.deliver(0, 1) && machine.deliver(0, 2));
    // At ranks that have frozen the pages.
    for message in [freeze(0, 1, 2, 3), freeze(0, 2, 1, 3), recall(1, crate::message::Keep::Nothing), moved(0, 2)] {
        refuse(&machine, 2, 0, &message);
    }
    refuse(&machine, 2, 0, &entries(0, &[untouched, owned(2)]));
    refuse(&machine, 2, 1, &moved(0, 1));
    let waits = |from| Waiting { from: Rank(from), access: Read, have: Version::NONE };
    for requests in [vec![], vec![waits(3)], vec![waits(2), waits(2)]] {
        refuse(&machine, 1, 0, &Message::Requests { page: Page(0), is_begun: false, requests });
    }
    let impossible = [
        vec![untouched],
        vec![untouched, owned(1)],
        vec![untouched, owned(3)],
        vec![untouched, entry(1, HandedState::Recalling(Rank(2)), Content::Current)],
        vec![untouched, entry(1, HandedState::Shared(RankSet::EMPTY), Content::Current)],
        vec![untouched, entry(1, HandedState::Shared(RankSet::below(4)), Content::Data)],
        vec![untouched, entry(1, HandedState::Invalidating(RankSet::one(Rank(1))), Content::Data)],
        vec![untouched, entry(0, HandedState::Owned(Rank(2)), Content::Current)],
        vec![entry(1, HandedState::Untouched, Content::Current), owned(2)],
        vec![entry(0, HandedState::Untouched, Content::Zero), owned(2)],
    ];
    impossible.iter().for_each(|pages| refuse(&machine, 1, 0, &entries(0, pages)));
    // At the home: once from each, and nothing else after that.
    assert!(machine.deliver(1, 0));
    refuse(&machine, 0, 1, &frozen(0, 2));
    refuse(&machine, 0, 2, &frozen(0, 1));
    refuse(&machine, 0, 1, &acquire(0, 1, Read));
    machine.run();
    machine.touch_and_run(2, 0, Read);
}

/// Ranks 0 and 1 are homes of two pages each, rank 2 of none.
fn with_a_guest() -> Machine {
    let homes = HomeMap::new([(2, Rank(0)), (2, Rank(1))]).expect("a home map");
    Machine::new(3, 2, |config| config.homes = homes.clone())
}

/// Has rank 2 go on with leaving.
fn leave(machine: &mut Machine) -> Leave {
    let now = machine.now;
    let progress = machine.nodes[2].handle_leave(now).expect("it is no home");
    machine.apply(2);
    progress
}

#[test]
fn a_rank_that_is_to_leave_waits_for_the_end_of_hand_overs() {
    let mut machine = with_a_guest();
    machine.touch_and_run(2, 0, Write);
    machine.hand_over(run(0, 1), 1);
    assert!(machine.deliver(0, 2), "it is asked to freeze the page");
    machine.log.clear();
    assert_eq!(leave(&mut machine), Leave::Waits);
    assert_eq!(machine.took(2), [], "it gives nothing up, and tells nobody");
    machine.run();
    while leave(&mut machine) != Leave::Left {
        machine.run();
    }
    assert!(machine.nodes[1].has_left(Rank(2)), "the home that the page has now lets it go");
}

#[test]
fn pages_do_not_begin_to_move_while_a_rank_leaves_nor_with_one_that_has_left() {
    let mut machine = with_a_guest();
    machine.touch_and_run(2, 0, Read);
    let (now, all) = (machine.now, RankSet::below(3));
    assert_eq!(leave(&mut machine), Leave::Waits, "it has given up what it has, and asks the homes");
    let error = machine.nodes[2].handle_message(now, Rank(0), &freeze(0, 1, 1, 3)).expect_err("while it leaves");
    assert!(error.what.contains("while a rank leaves"), "{error}");
    // At a home that freezes pages.
    let mut other = with_a_guest();
    other.hand_over(run(0, 1), 1);
    let error = other.nodes[0].handle_message(now, Rank(2), &Message::Leave).expect_err("while pages move");
    assert!(error.what.contains("page 0, which is to move"), "{error}");
    while leave(&mut machine) != Leave::Left {
        machine.run();
    }
    let order = machine.nodes[0].handle_hand_over(now, run(0, 1), Rank(1), all);
    assert_eq!(order, Err(HandOverError::Leaves(2)));
    let order = Message::HandOver { run: run(2, 1), to: Rank(0), members: all };
    assert!(machine.nodes[1].handle_message(now, Rank(0), &order).is_err());
    assert_eq!(machine.nodes[0].handle_hand_over(now, run(0, 1), Rank(1), RankSet::below(2)), Ok(()));
}

/// A rank that was no home when another left is told of it with its first page.
#[test]
fn a_new_home_knows_who_has_left() {
    let homes = HomeMap::new([(1, Rank(0))]).expect("a home map");
    let mut machine = Machine::new(3, 1, |config| config.homes = homes.clone());
    while leave(&mut machine) != Leave::Left {
        machine.run();
    }
    assert!(!machine.nodes[1].has_left(Rank(2)));
    let now = machine.now;
    machine.moving.push(run(0, 1));
    machine.nodes[0].handle_hand_over(now, run(0, 1), Rank(1), RankSet::below(2)).expect("a hand-over");
    machine.apply(0);
    let handed = entry(0, HandedState::Untouched, Content::Current);
    let gone = |ranks| Message::Entries { first: Page(0), gone: ranks, pages: vec![handed] };
    assert!(machine.deliver(0, 1));
    for ranks in [RankSet::one(Rank(3)), RankSet::one(Rank(1)), RankSet::one(Rank(0))] {
        assert!(machine.nodes[1].handle_message(now, Rank(0), &gone(ranks)).is_err(), "{ranks:?}");
    }
    machine.log.clear();
    assert!(machine.deliver(1, 0));
    assert_eq!(machine.took(0), [send(1, gone(RankSet::one(Rank(2))), Body::None)]);
    assert!(machine.deliver(0, 1) && machine.nodes[1].has_left(Rank(2)));
}

/// Two pages with a home each, of three ranks.
fn two_homes() -> HomeMap {
    HomeMap::new([(1, Rank(0)), (1, Rank(1))]).expect("a home map")
}

#[test]
fn a_rank_that_is_told_the_homes_is_as_one_that_has_always_known_them() {
    let mut homes = two_homes();
    homes.hand_over(run(1, 1), Rank(0));
    let node = |homes: &HomeMap| Machine::new(3, 1, |config| config.homes = homes.clone()).nodes.pop().expect("a node");
    let mut told = node(&two_homes());
    assert_ne!(told, node(&homes));
    assert_eq!(told.handle_homes(&homes), Ok(()));
    assert_eq!(told, node(&homes));
    let refused = |node: &mut crate::node::Node, segments: &[(u32, u16)]| {
        let segments = segments.iter().map(|(pages, home)| (*pages, Rank(*home)));
        node.handle_homes(&HomeMap::new(segments).expect("a home map"))
    };
    assert_eq!(refused(&mut told, &[(3, 0)]), Err(HomesError::Pages { told: 3, pages: 2 }));
    assert_eq!(refused(&mut told, &[(1, 0), (1, 2)]), Err(HomesError::Home(2)), "it has just come");
    assert_eq!(refused(&mut told, &[(1, 0), (1, 3)]), Err(HomesError::Home(3)));
    assert_eq!(told, node(&homes), "nothing has changed");
    told.handle_fault(Tick(1), Page(0), Read);
    assert_eq!(told.handle_homes(&homes), Err(HomesError::Late));
}

#[test]
fn who_has_frozen_the_last_pages_of_a_home_knows_that_it_may_have_left() {
    let mut machine = Machine::new(3, 1, |config| config.homes = two_homes());
    let both = RankSet::below(2);
    machine.hand_over(run(1, 1), 0);
    assert!(machine.deliver(0, 1));
    assert_eq!(machine.nodes[1].homes_to_be(), both, "it has not handed them over");
    assert_eq!(machine.nodes[2].homes_to_be(), both);
    assert!(machine.deliver(1, 2));
    assert_eq!((machine.nodes[2].homes(), machine.nodes[2].homes_to_be()), (both, RankSet::one(Rank(0))));
    machine.run();
    assert_eq!(machine.nodes[2].homes(), RankSet::one(Rank(0)));
}
