//! Rank 0 against ranks that join, leave and lose each other, and such a rank against rank 0. Ranks 0 and 1 have started the machine.

use vincs_coherence::id::{RankSet, Run};
use vincs_coherence::node::HandOverError;

use super::*;
use crate::cluster::RemoveError;
use crate::memory::engine::{MoveError, WhenMoved};

const STARTED: u16 = 2;
const SEATS: u16 = 5;

/// Rank 0, and the bare ends of all.
fn first() -> (Rig, Vec<Arc<End>>) {
    let ends = Hub::ends(SEATS);
    (Rig::of_machine(0, &ends, STARTED), ends)
}

/// Rank 2, which joins.
fn joiner() -> (Rig, Vec<Arc<End>>) {
    let ends = Hub::ends(SEATS);
    (Rig::of_machine(2, &ends, STARTED), ends)
}

/// What rank 0 answers to an order.
fn ask<T>(rig: &Rig, note: impl FnOnce(Sender<T>) -> Note) -> T {
    let (sender, answer) = channel();
    rig.notes.tell(note(sender));
    answer.recv_timeout(LONG).unwrap()
}

fn states(rig: &Rig) -> Vec<MemberState> {
    ask(rig, Note::Members).into_iter().map(|(_, state)| state).collect()
}

/// A rank gets a seat; what becomes of it comes later.
fn seated(rig: &Rig) -> (Rank, Receiver<Joined>) {
    let rank = ask(rig, Note::Reserve).unwrap();
    let (done, joined) = channel();
    rig.notes.tell(Note::Admit(rank, Share::default(), done));
    // There is no order between notes and messages: what is said next is to come later.
    states(rig);
    (rank, joined)
}

/// These have met a rank, which is ready.
fn met_by_others(ends: &[Arc<End>], rank: Rank, others: &[u16]) {
    others.iter().for_each(|other| say(&ends[usize::from(*other)], 0, &Control::Met { rank }, &[]));
    say(&ends[usize::from(rank.0)], 0, &Control::Ready, &[]);
}

/// The next rank, which has joined; these others are there.
fn joined(rig: &Rig, ends: &[Arc<End>], others: &[u16]) -> Rank {
    let (rank, joined) = seated(rig);
    met_by_others(ends, rank, others);
    rig.notes.tell(Note::Met(rank));
    knows_homes(ends, rank);
    assert_eq!(joined.recv_timeout(LONG), Ok(Ok(())));
    rank
}

/// A rank that joins is told where the homes are, and knows it.
fn knows_homes(ends: &[Arc<End>], rank: Rank) {
    let end = &ends[usize::from(rank.0)];
    wait_for(end, |message| matches!(message, Control::Homes { .. }).then_some(()));
    say(end, 0, &Control::HomesKnown, &[]);
}

/// The next hand-overs that are ordered, so many at least.
fn ordered(rig: &Rig, count: usize) -> Vec<(Run, Rank, RankSet, WhenMoved)> {
    let (mut orders, until) = (Vec::new(), Instant::now() + LONG);
    while orders.len() < count {
        assert!(Instant::now() < until, "{orders:?}");
        orders.extend(rig.orders.take());
        thread::sleep(Duration::from_millis(1));
    }
    orders
}

/// All vCPUs are spread by the placement, and have come.
fn spread(rig: &Rig, ends: &[Arc<End>]) {
    rig.notes.tell(Note::Spread(vec![Rank(0); SEATS.into()]));
    let until = Instant::now() + LONG;
    loop {
        let moving = ask(rig, Note::Places);
        let moving: Vec<_> = (0..).zip(moving).filter_map(|(vcpu, owner)| Some((vcpu, owner.to?))).collect();
        if moving.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "{moving:?}");
        for (vcpu, to) in moving {
            say(&ends[usize::from(to.0)], 0, &Control::Arrived { vcpu }, &[]);
        }
        states(rig);
        thread::sleep(SHORT);
    }
}

fn gone(ends: &[Arc<End>], rank: Rank) {
    let wanted = Control::Gone { rank };
    wait_for(&ends[usize::from(rank.0)], |message| (*message == wanted).then_some(()));
}

#[test]
fn a_rank_that_has_nothing_goes_when_it_loses_one_that_is_needed() {
    let (rig, ends) = first();
    let two = joined(&rig, &ends, &[1]);
    say(&ends[2], 0, &Control::lost(Rank(1), "closed"), &[]);
    gone(&ends, two);
    rig.no_event();
    assert_eq!(states(&rig)[1..], [MemberState::Running, MemberState::Left]);

    let three = joined(&rig, &ends, &[1]);
    rig.notes.tell(Note::Move(3, three, channel().0));
    wait_for(&ends[1], |message| matches!(message, Control::Move { vcpu: 3, .. }).then_some(()));
    say(&ends[3], 0, &Control::lost(Rank(1), "closed"), &[]);
    assert_eq!(rig.lost(), (1, "closed".into()), "a processor goes there: both are needed");
    rig.stop();
}

#[test]
fn of_two_that_have_nothing_the_one_that_is_lost_goes() {
    let (rig, ends) = first();
    let two = joined(&rig, &ends, &[1]);
    let three = joined(&rig, &ends, &[1, 2]);
    say(&ends[usize::from(two.0)], 0, &Control::lost(three, "closed"), &[]);
    gone(&ends, three);
    // That it is gone is known: whoever misses it late has not heard so yet.
    say(&ends[1], 0, &Control::lost(three, "closed"), &[]);
    rig.no_event();
    assert_eq!(states(&rig)[2..], [MemberState::Running, MemberState::Left]);
    rig.stop();
}

#[test]
fn a_rank_that_joins_does_not_when_it_loses_one_that_is_there() {
    let (rig, ends) = first();
    let (_, not_joined) = seated(&rig);
    say(&ends[2], 0, &Control::lost(Rank(1), "closed"), &[]);
    let line = not_joined.recv_timeout(LONG).unwrap().unwrap_err();
    assert_eq!(line, "it has lost rank 1: closed");
    // What it has said before it knows that changes nothing.
    met_by_others(&ends, Rank(2), &[1]);
    rig.no_event();

    let three = joined(&rig, &ends, &[1]);
    say(&ends[3], 0, &Control::lost(three, "no more"), &[]);
    gone(&ends, three);
    // Rank 4 is told of rank 3 among those that it connects with, which has left by the time it does.
    let (four, four_joined) = seated(&rig);
    say(&ends[4], 0, &Control::lost(three, "closed"), &[]);
    met_by_others(&ends, four, &[1]);
    rig.notes.tell(Note::Met(four));
    knows_homes(&ends, four);
    assert_eq!(four_joined.recv_timeout(LONG), Ok(Ok(())));
    rig.no_event();
    rig.stop();
}

#[test]
fn who_gives_a_rank_up_hears_whether_it_has_come() {
    let (rig, ends) = first();
    let (rank, not_joined) = seated(&rig);
    assert!(!ask(&rig, |answer| Note::Abandon(rank, answer)));
    assert!(not_joined.recv_timeout(LONG).unwrap().is_err());
    assert!(!ask(&rig, |answer| Note::Abandon(rank, answer)), "it is gone");
    let rank = joined(&rig, &ends, &[1]);
    assert!(ask(&rig, |answer| Note::Abandon(rank, answer)));
    assert_eq!(states(&rig)[2..], [MemberState::Left, MemberState::Running]);
    rig.stop();
}

#[test]
fn a_rank_comes_and_goes_only_while_no_processor_is_on_its_way() {
    let (rig, ends) = first();
    rig.notes.tell(Note::Move(3, Rank(1), channel().0));
    wait_for(&ends[1], |message| matches!(message, Control::Move { vcpu: 3, .. }).then_some(()));
    let (rank, has_joined) = seated(&rig);
    met_by_others(&ends, rank, &[1]);
    rig.notes.tell(Note::Met(rank));
    assert_eq!(has_joined.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout));
    // An order that comes now waits, too: else there would always be one under way.
    rig.notes.tell(Note::Move(4, Rank(1), channel().0));
    say(&ends[1], 0, &Control::Arrived { vcpu: 3 }, &[]);
    knows_homes(&ends, rank);
    assert_eq!(has_joined.recv_timeout(LONG), Ok(Ok(())));
    let (mut order, until) = (Vec::new(), Instant::now() + LONG);
    while order.len() < 2 && Instant::now() < until {
        let heard = heard(&ends[1]).into_iter().map(|(_, message)| matches!(message, Control::Come { .. }));
        order.extend(heard.map(|comes| if comes { "come" } else { "move" }));
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(order, ["come", "move"]);
    rig.stop();
}

#[test]
fn before_it_takes_part_a_rank_ends_with_a_founder_and_tells_rank_0_of_others() {
    let (rig, ends) = joiner();
    // Rank 3 may just have left.
    ends[3].lose(Rank(2), "closed");
    let expected = Control::lost(Rank(3), "closed");
    wait_for(&ends[0], |message| (*message == expected).then_some(()));
    rig.no_event();
    rig.notes.tell(Note::Lost(Rank(1), "closed".into()));
    let expected = Control::lost(Rank(1), "closed");
    wait_for(&ends[0], |message| (*message == expected).then_some(()));
    assert_eq!(rig.lost(), (1, "closed".into()));
    rig.stop();
}

#[test]
fn a_rank_knows_whether_it_has_left_or_was_dropped() {
    for (is_asked, event) in [(true, ClusterEvent::Left), (false, ClusterEvent::Dropped)] {
        let (rig, ends) = joiner();
        let places = vec![Rank(0); SEATS.into()];
        say(&ends[0], 2, &Control::Come { rank: Rank(2), ranks: vec![Rank(0), Rank(1), Rank(2)], places }, &[]);
        if is_asked {
            say(&ends[0], 2, &Control::Drain, &[]);
            say(&ends[0], 2, &Control::Parted, &[]);
            say(&ends[1], 2, &Control::Parted, &[]);
            wait_for(&ends[0], |message| (*message == Control::Drained).then_some(()));
        }
        say(&ends[0], 2, &Control::Gone { rank: Rank(2) }, &[]);
        assert_eq!(rig.event(), event);
        rig.stop();
    }
}

#[test]
fn a_rank_that_started_the_machine_hands_its_homes_over_and_nothing_else_goes_on_meanwhile() {
    let (rig, ends) = first();
    let two = joined(&rig, &ends, &[1]);
    rig.notes.tell(Note::Move(1, two, channel().0));
    wait_for(&ends[2], |message| matches!(message, Control::Move { vcpu: 1, .. }).then_some(()));
    say(&ends[2], 0, &Control::Arrived { vcpu: 1 }, &[]);
    assert_eq!(ask(&rig, |done| Note::Remove(Rank(0), done)), Err(RemoveError::First));
    let (done, has_left) = channel();
    rig.notes.tell(Note::Remove(Rank(1), done));
    wait_for(&ends[1], |message| (*message == Control::ToLeave).then_some(()));

    // Rank 0 has its share already.
    let mut orders = ordered(&rig, 2);
    let all = RankSet::below(3);
    let moved: Vec<_> = orders.iter().map(|(run, to, members, _)| (run.first.0, run.count, *to, *members)).collect();
    assert_eq!(moved, [(HOMED, 128, two, all), (HOMED + 128, 128, two, all)]);
    assert_eq!(ask(&rig, Note::Homes), [(Rank(0), HOMED), (Rank(1), HOMED), (two, 0)]);
    // One that comes is told of the homes when all have moved that are on their way.
    let (three, three_joined) = seated(&rig);
    met_by_others(&ends, three, &[1, 2]);
    rig.notes.tell(Note::Met(three));
    orders.remove(0).3.tell(Ok(()));
    thread::sleep(SHORT);
    assert_eq!(ask(&rig, Note::Homes), [(Rank(0), HOMED), (Rank(1), 128), (two, 128)]);
    let is_early = |message: &Control| matches!(message, Control::Homes { .. } | Control::Drain);
    assert!(![1, 3].into_iter().any(|end: usize| heard(&ends[end]).iter().any(|(_, message)| is_early(message))));
    orders.remove(0).3.tell(Ok(()));
    wait_for(&ends[1], |message| (*message == Control::Drain).then_some(()));
    knows_homes(&ends, three);
    assert_eq!(three_joined.recv_timeout(LONG), Ok(Ok(())));
    say(&ends[1], 0, &Control::Drained, &[]);
    gone(&ends, Rank(1));
    assert_eq!(has_left.recv_timeout(LONG), Ok(Ok(())));
    assert!(rig.orders.take().is_empty(), "the processors are not at their ranks yet: rank 3 gets nothing");
    // Rank 2 is needed: it is a home.
    ends[2].lose(Rank(0), "closed");
    assert_eq!(rig.lost(), (2, "closed".into()));
    rig.stop();
}

#[test]
fn a_rank_that_has_joined_gets_its_share_bit_by_bit_until_it_is_to_leave() {
    let (rig, ends) = first();
    let two = joined(&rig, &ends, &[1]);
    spread(&rig, &ends);
    // Two pieces would be more than its share.
    let (run, to, _, done) = ordered(&rig, 1).remove(0);
    assert_eq!((run.first.0, run.count, to), (HOMED - 128, 128, two), "the end of rank 0's");
    let refused = HandOverError::UnderWay(run.first.0);
    let start = Instant::now();
    done.tell(Err(MoveError::Unfit(refused)));
    let (again, to, _, done) = ordered(&rig, 1).remove(0);
    assert!(start.elapsed() >= Duration::from_secs(1), "not at once");
    assert_eq!((again, to), (run, two));
    done.tell(Ok(()));
    thread::sleep(SHORT);
    assert!(rig.orders.take().is_empty());

    // All of it goes back.
    say(&ends[2], 0, &Control::Leave, &[]);
    wait_for(&ends[2], |message| (*message == Control::ToLeave).then_some(()));
    let places = ask(&rig, Note::Places);
    let here = (0..).zip(places).find(|(_, owner)| owner.at == two).unwrap();
    assert!(here.1.to.is_some() && rig.orders.take().is_empty(), "its processors first");
    rig.stop();
}

#[test]
fn a_rank_that_has_nothing_is_missed_while_homes_move() {
    let (rig, ends) = first();
    let two = joined(&rig, &ends, &[1]);
    let three = joined(&rig, &ends, &[1, 2]);
    rig.notes.tell(Note::Move(1, two, channel().0));
    wait_for(&ends[2], |message| matches!(message, Control::Move { vcpu: 1, .. }).then_some(()));
    say(&ends[2], 0, &Control::Arrived { vcpu: 1 }, &[]);
    rig.notes.tell(Note::Remove(Rank(1), channel().0));
    let orders = ordered(&rig, 2);
    assert!(orders.iter().all(|(.., members, _)| members.contains(three)));
    ends[3].lose(Rank(0), "closed");
    assert_eq!(rig.lost(), (3, "closed".into()), "the pages wait for its word");
    rig.stop();
}
